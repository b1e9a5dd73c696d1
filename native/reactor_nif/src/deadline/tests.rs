//! Which deadline passes when.

use super::*;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[test]
fn the_first_byte_has_its_own_deadline_and_only_while_we_want_it() {
    let start = Instant::now();
    let deadlines = Deadlines {
        first_byte: 100,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    assert_eq!(watch.check(&deadlines, at(start, 500)), Ok(at(start, 600)));
    watch.wants(true, at(start, 550));
    assert_eq!(watch.check(&deadlines, at(start, 600)), Ok(at(start, 650)));
    assert_eq!(
        watch.check(&deadlines, at(start, 650)),
        Err(Cause::FirstByte)
    );
    watch.received(1, at(start, 649));
    assert!(watch.check(&deadlines, at(start, 5_000)).is_ok());
}

#[test]
fn idle_counts_from_the_last_byte_either_way_or_from_when_we_began_to_wait() {
    let start = Instant::now();
    let deadlines = Deadlines {
        idle: 100,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    watch.wants(true, start);
    watch.received(1, at(start, 50));
    assert_eq!(watch.check(&deadlines, at(start, 100)), Ok(at(start, 150)));
    // At work on it: the peer has time.
    watch.wants(false, at(start, 60));
    assert!(watch.check(&deadlines, at(start, 1_000)).is_ok());
    watch.sent(1, at(start, 1_000));
    watch.wants(true, at(start, 1_001));
    assert_eq!(
        watch.check(&deadlines, at(start, 1_100)),
        Ok(at(start, 1_101))
    );
    assert_eq!(watch.check(&deadlines, at(start, 1_101)), Err(Cause::Idle));
}

#[test]
fn an_owner_that_asks_again_and_again_has_waited_all_the_time() {
    let start = Instant::now();
    let deadlines = Deadlines {
        idle: 100,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    for i in 0..3 {
        watch.wants(true, at(start, 1_000 * i));
        assert!(watch.check(&deadlines, at(start, 1_000 * i)).is_ok());
        watch.wants(false, at(start, 1_000 * i + 30));
    }
    watch.wants(true, at(start, 3_000));
    assert_eq!(
        watch.check(&deadlines, at(start, 3_009)),
        Ok(at(start, 3_010))
    );
    assert_eq!(watch.check(&deadlines, at(start, 3_010)), Err(Cause::Idle));
    // An answer begins a new wait.
    watch.sent(1, at(start, 3_010));
    assert!(watch.check(&deadlines, at(start, 3_050)).is_ok());
}

#[test]
fn a_peer_that_takes_something_now_and_then_is_not_stalled() {
    let start = Instant::now();
    let deadlines = Deadlines {
        stall: 100,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    watch.queued(true, start);
    watch.sent(1, at(start, 90));
    assert_eq!(watch.check(&deadlines, at(start, 100)), Ok(at(start, 190)));
    watch.queued(false, at(start, 95));
    assert!(watch.check(&deadlines, at(start, 1_000)).is_ok());
    watch.queued(true, at(start, 2_000));
    assert_eq!(watch.check(&deadlines, at(start, 2_100)), Err(Cause::Stall));
}

#[test]
fn a_life_ends_whatever_moves() {
    let start = Instant::now();
    let deadlines = Deadlines {
        life: 100,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, true);
    watch.received(1_000, at(start, 99));
    assert_eq!(watch.check(&deadlines, at(start, 99)), Ok(at(start, 100)));
    assert_eq!(watch.check(&deadlines, at(start, 100)), Err(Cause::Life));
}

#[test]
fn the_rate_counts_only_the_time_that_we_waited() {
    let start = Instant::now();
    let deadlines = Deadlines {
        rate_bytes: 10,
        rate_time: 1_000,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    watch.wants(true, start);
    watch.received(4, at(start, 400));
    // Ten seconds of our own work are not the peer's.
    watch.wants(false, at(start, 400));
    watch.wants(true, at(start, 10_400));
    assert_eq!(
        watch.check(&deadlines, at(start, 10_500)),
        Ok(at(start, 11_000))
    );
    watch.received(6, at(start, 10_900));
    assert_eq!(
        watch.check(&deadlines, at(start, 11_000)),
        Ok(at(start, 12_000))
    );
    watch.received(9, at(start, 11_500));
    assert_eq!(watch.check(&deadlines, at(start, 12_000)), Err(Cause::Rate));
}

#[test]
fn what_is_queued_has_a_rate_of_its_own() {
    let start = Instant::now();
    let deadlines = Deadlines {
        rate_bytes: 10,
        rate_time: 1_000,
        ..Deadlines::default()
    };
    let mut watch = Watch::new(start, false);
    watch.wants(true, start);
    watch.queued(true, start);
    watch.received(1_000_000, at(start, 500));
    watch.sent(9, at(start, 500));
    assert_eq!(watch.check(&deadlines, at(start, 1_000)), Err(Cause::Rate));
}
