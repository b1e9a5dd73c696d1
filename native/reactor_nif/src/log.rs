//! `tracing` events on their way to Elixir's Logger.
//!
//! Events arise on loops, contexts and schedulers; one thread sends them on,
//! because only a thread of our own may build messages freely. The queue is
//! bounded: when it is full, events are counted instead, and the count is told.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam::channel::{bounded, Receiver, Sender};
use once_cell::sync::OnceCell;
use rustler::{Encoder, Env, LocalPid, Term};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::Registry;

use crate::mail::Mail;

mod atoms {
    rustler::atoms! {
        log = "$reactor_log",
        error,
        warning,
        info,
        debug,
    }
}

const QUEUE: usize = 1024;

static SENDER: OnceCell<Sender<Record>> = OnceCell::new();
static TARGET: Mutex<Option<LocalPid>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);
/// The finest level that is wanted: 1 error … 4 debug.
static FINEST: AtomicUsize = AtomicUsize::new(3);

struct Record {
    level: Level,
    target: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Flag(bool),
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
    SENDER
        .get_or_try_init(|| {
            let (sender, receiver) = bounded(QUEUE);
            thread::Builder::new()
                .name("reactor-log".into())
                .spawn(move || pass_on(&receiver))?;
            // Another library in this VM may have set one; then its events are not ours to move.
            let _ = tracing::subscriber::set_global_default(Registry::default().with(Bridge));
            Ok(sender)
        })
        .map(drop)
}

fn pass_on(receiver: &Receiver<Record>) {
    let mut mail = Mail::new();
    while let Ok(record) = receiver.recv() {
        let target = *TARGET.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = target else {
            continue;
        };
        mail.send(&pid, |env| record.encode(env));
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let record = Record {
                level: Level::WARN,
                target: module_path!().into(),
                message: format!("{lost} log events were dropped: they came too fast"),
                fields: Vec::new(),
            };
            mail.send(&pid, |env| record.encode(env));
        }
        mail.clear();
    }
}

struct Bridge;

impl<S: Subscriber> Layer<S> for Bridge {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // Asked for every event: the level can change while we run.
        rank(*metadata.level()) <= FINEST.load(Ordering::Relaxed)
    }

    fn register_callsite(
        &self,
        _: &'static tracing::Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        let full = match SENDER.get() {
            Some(sender) => sender.try_send(record).is_err(),
            None => false,
        };
        if full {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn rank(level: Level) -> usize {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        _ => 4,
    }
}

impl Record {
    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), Value::Text(text)));
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail; a Debug that does leaves what it wrote.
        let _ = write!(text, "{value:?}");
        self.text(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), Value::Signed(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), Value::Unsigned(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Flag(value)));
    }
}

impl Encoder for Record {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let level = match rank(self.level) {
            1 => atoms::error(),
            2 => atoms::warning(),
            3 => atoms::info(),
            _ => atoms::debug(),
        };
        let fields: Vec<(Term<'a>, Term<'a>)> = self
            .fields
            .iter()
            .map(|(name, value)| (name.encode(env), value.encode(env)))
            .collect();
        let fields = Term::map_from_pairs(env, &fields).unwrap_or_else(|_| Term::map_new(env));
        (atoms::log(), level, &self.target, &self.message, fields).encode(env)
    }
}

impl Encoder for Value {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::Text(text) => text.encode(env),
            Value::Signed(number) => number.encode(env),
            Value::Unsigned(number) => number.encode(env),
            Value::Flag(flag) => flag.encode(env),
        }
    }
}
