//! `tracing` events on their way to Elixir's Logger.
//!
//! Events arise on loops, contexts and schedulers; one thread sends them on,
//! because only a thread of our own may build messages freely. The queue is
//! bounded: when it is full, events are counted instead, and the count is told. What was sent and is not
//! taken yet counts too, so no mailbox grows either. Python may fill half of it.

mod record;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, Sender};
use once_cell::sync::OnceCell;
use rustler::{Atom, Encoder, Env, LocalPid, MapIterator, NifResult, Term, TermType};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::Registry;

use crate::mail::Mail;

use record::Record;

pub use record::{Severity, Value};

mod atoms {
    rustler::atoms! {
        critical,
        error,
        warning,
        info,
    }
}

const QUEUE: usize = 1024;
/// So many may be on their way to a process that has not taken them.
const UNTAKEN: usize = 256;

/// So many new names of fields are taken from other processes, each of so many bytes: in the VM they become atoms,
/// which are never freed.
const NEW_NAMES: usize = 128;
const LONGEST_NAME: usize = 64;
/// So many were.
static TAKEN_NAMES: AtomicUsize = AtomicUsize::new(0);

/// How many were dropped.
const DROPPED: &str = "dropped";

static SENDER: OnceCell<Sender<Item>> = OnceCell::new();
/// The thread that sends them.
static PASSER: OnceCell<Thread> = OnceCell::new();
/// How many were sent and not taken.
static SENT: AtomicUsize = AtomicUsize::new(0);
static TARGET: Mutex<Option<LocalPid>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);
/// The finest level that is wanted: 1 error … 4 debug.
static FINEST: AtomicUsize = AtomicUsize::new(3);

/// What is in the queue.
enum Item {
    Record(Record),
    /// Somebody waits until all that came before it has been sent.
    Mark(Sender<()>),
}

/// Whether something of this severity is logged.
pub fn wants(severity: Severity) -> bool {
    severity.rank() <= FINEST.load(Ordering::Relaxed)
}

/// Logs something of somebody else's, as long as half of the queue is free.
pub fn pass(target: &str, severity: Severity, message: String, fields: Vec<(&'static str, Value)>) {
    let Some(sender) = SENDER.get() else {
        return;
    };
    let fields = fields.into_iter();
    let record = Record {
        severity,
        target: target.to_owned(),
        message,
        fields: fields.map(|(name, value)| (name.into(), value)).collect(),
    };
    queue_if_half_free(sender, record);
}

fn queue_if_half_free(sender: &Sender<Item>, record: Record) {
    if sender.len() >= QUEUE / 2 || sender.try_send(Item::Record(record)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Logs what another process has logged, likewise.
pub fn relay(record: Term) -> NifResult<()> {
    let (_, level, target, message, fields): (Atom, Atom, String, String, MapIterator) =
        record.decode()?;
    let severity = match level {
        level if level == atoms::critical() => Severity::Critical,
        level if level == atoms::error() => Severity::Error,
        level if level == atoms::warning() => Severity::Warning,
        level if level == atoms::info() => Severity::Info,
        _ => Severity::Debug,
    };
    let fields = fields.map(|(name, value)| Ok((name.decode::<String>()?, value)));
    let fields: Vec<(String, Term)> = fields.collect::<NifResult<_>>()?;
    let env = record.get_env();
    let fields = fields.into_iter();
    let fields = fields.filter(|(name, _)| takes(env, name));
    let fields = fields.map(|(name, value)| {
        let value = match value.get_type() {
            TermType::Integer => match value.decode() {
                Ok(number) => Value::Unsigned(number),
                Err(_) => Value::Signed(value.decode()?),
            },
            TermType::Atom => Value::Flag(value.decode()?),
            _ => Value::Text(value.decode()?),
        };
        Ok((name.into(), value))
    });
    let fields: Vec<(Cow<str>, Value)> = fields.collect::<NifResult<_>>()?;
    if let [(name, Value::Unsigned(lost))] = &fields[..] {
        if name == DROPPED {
            // They are told together with those that are dropped here.
            LOST.fetch_add(*lost, Ordering::Relaxed);
            return Ok(());
        }
    }
    if let (true, Some(sender)) = (wants(severity), SENDER.get()) {
        let record = Record {
            severity,
            target,
            message,
            fields,
        };
        queue_if_half_free(sender, record);
    }
    Ok(())
}

/// False for the name of a field that is one too many.
fn takes(env: Env, name: &str) -> bool {
    if name.len() > LONGEST_NAME {
        return false;
    }
    if Atom::existing_from_str(env, name).is_ok() {
        return true;
    }
    let room = |taken| (taken < NEW_NAMES).then_some(taken + 1);
    let taken = TAKEN_NAMES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
    taken.is_ok() && Atom::from_str(env, name).is_ok()
}

/// The finest level that is wanted, as [`forward_to`] takes it.
pub fn finest() -> &'static str {
    match FINEST.load(Ordering::Relaxed) {
        1 => "error",
        2 => "warning",
        3 => "info",
        _ => "debug",
    }
}

/// Waits until what has been logged by now has been sent, for so long.
pub fn settle(patience: Duration) {
    let Some(sender) = SENDER.get() else {
        return;
    };
    let deadline = Instant::now() + patience;
    let (mark, passed) = bounded(1);
    if sender.send_deadline(Item::Mark(mark), deadline).is_ok() {
        // Whether it came in time is all the same now.
        let _ = passed.recv_deadline(deadline);
    }
}

/// Whoever gets them has taken one.
pub fn taken() {
    let sent = SENT.fetch_update(Ordering::AcqRel, Ordering::Acquire, |sent| {
        Some(sent.saturating_sub(1))
    });
    if sent.is_ok_and(|before| before >= UNTAKEN) {
        wake();
    }
}

fn wake() {
    if let Some(passer) = PASSER.get() {
        passer.unpark();
    }
}

/// Sends events of at least this level to that process from now on.
pub fn forward_to(pid: LocalPid, level: &str) -> std::io::Result<()> {
    *TARGET.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    let finest = match level {
        "error" => 1,
        "warning" => 2,
        "info" => 3,
        _ => 4,
    };
    FINEST.store(finest, Ordering::Relaxed);
    // What another process has not taken it never will.
    SENT.store(0, Ordering::Release);
    wake();
    SENDER
        .get_or_try_init(|| {
            let (sender, receiver) = bounded(QUEUE);
            let passer = thread::Builder::new()
                .name("reactor-log".into())
                .spawn(move || pass_on(&receiver))?;
            let _ = PASSER.set(passer.thread().clone());
            // Another library in this VM may have set one; then its events are not ours to move.
            let _ = tracing::subscriber::set_global_default(Registry::default().with(Bridge));
            Ok(sender)
        })
        .map(drop)
}

fn pass_on(receiver: &Receiver<Item>) {
    let mut mail = Mail::new();
    while let Ok(item) = receiver.recv() {
        let record = match item {
            Item::Record(record) => record,
            Item::Mark(passed) => {
                // Who waited for it may have given up.
                let _ = passed.try_send(());
                continue;
            }
        };
        // It is woken when there is room, or another process that has it.
        while SENT.load(Ordering::Acquire) >= UNTAKEN {
            mail.clear();
            thread::park();
        }
        let target = *TARGET.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = target else {
            continue;
        };
        SENT.fetch_add(1, Ordering::AcqRel);
        mail.send(&pid, |env| record.encode(env));
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let record = Record {
                severity: Severity::Warning,
                target: module_path!().into(),
                message: format!("{lost} log events were dropped: they came too fast"),
                fields: vec![(DROPPED.into(), Value::Unsigned(lost))],
            };
            SENT.fetch_add(1, Ordering::AcqRel);
            mail.send(&pid, |env| record.encode(env));
        }
        mail.clear();
    }
}

struct Bridge;

impl<S: Subscriber> Layer<S> for Bridge {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // Asked for every event: the level can change while we run.
        wants(Severity::from(*metadata.level()))
    }

    fn register_callsite(
        &self,
        _: &'static tracing::Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record {
            severity: Severity::from(*event.metadata().level()),
            target: event.metadata().target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        let full = match SENDER.get() {
            Some(sender) => sender.try_send(Item::Record(record)).is_err(),
            None => false,
        };
        if full {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}
