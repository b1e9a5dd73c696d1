//! Limits, whichever threads ask for them, and episodes of trouble.

use super::*;
use crate::connection::Active;
use crate::framing::Framing;

fn group(limits: Limits) -> Arc<Group> {
    let settings = Settings {
        framing: Framing::Raw,
        packet_size: 0,
        active: Active::Off,
        high_watermark: 1,
        low_watermark: 1,
        deadlines: Default::default(),
        send_timeout: 0,
        send_timeout_close: false,
    };
    Group::new(&limits, settings, None)
}

const NONE: Limits = Limits {
    connections: UNLIMITED,
    reject: false,
    per_ip: UNLIMITED,
    rate: 0,
};

fn slot(group: &Arc<Group>) -> Option<Slot> {
    match group.admit() {
        Admission::Free(slot) => Some(slot),
        _ => None,
    }
}

#[test]
fn many_threads_together_get_exactly_as_many_slots_as_there_are() {
    let group = group(Limits {
        connections: 10,
        ..NONE
    });
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let group = Arc::clone(&group);
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    let taken: Vec<_> = (0..5).filter_map(|_| slot(&group)).collect();
                    assert!(group.live() <= 10);
                    drop(taken);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(group.live(), 0);
    let all: Vec<_> = (0..20).filter_map(|_| slot(&group)).collect();
    assert_eq!(all.len(), 10);
}

#[test]
fn an_address_has_its_own_limit_and_is_forgotten_with_its_last_connection() {
    let group = group(Limits { per_ip: 2, ..NONE });
    let one = IpAddr::from([127, 0, 0, 1]);
    let other = IpAddr::from([127, 0, 0, 2]);
    let mut slots: Vec<_> = (0..3).filter_map(|_| slot(&group)).collect();
    assert!(slots[0].from(one));
    assert!(slots[1].from(one));
    assert!(!slots[2].from(one));
    assert!(slots[2].from(other));
    slots.remove(0);
    let mut next = slot(&group).unwrap();
    assert!(next.from(one));
    drop(next);
    slots.clear();
    assert!(lock(&group.members).by_ip.is_empty());
}

#[test]
fn a_limit_that_is_lowered_lets_nobody_in_until_enough_have_gone() {
    let group = group(Limits {
        connections: 3,
        ..NONE
    });
    let mut slots: Vec<_> = (0..3).filter_map(|_| slot(&group)).collect();
    group.limit(&Limits {
        connections: 1,
        ..NONE
    });
    slots.pop();
    assert!(slot(&group).is_none());
    slots.clear();
    assert!(slot(&group).is_some());
}

#[test]
fn trouble_that_goes_on_is_one_episode() {
    let mut episode = Episode::default();
    let start = Instant::now();
    assert!(episode.note(start));
    assert!(!episode.note(start + CALM));
    assert!(!episode.note(start + CALM * 2));
    assert!(episode.note(start + CALM * 3 + Duration::from_millis(1)));
}
