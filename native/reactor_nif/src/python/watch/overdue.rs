//! What the watchdog finds when it looks at a context: calls that take too long, that nobody waits for any
//! more, or that cannot be interrupted.

use std::sync::atomic::Ordering;

use rustler::{Encoder, Env, Term};

use crate::mail::Mail;
use crate::python::inbox::Cut;
use crate::python::watch::{Callback, Watch, NEVER};

mod atoms {
    rustler::atoms! {
        context = "$reactor_context",
        stuck,
        given_up,
        callback,
        connection,
        duration_ms,
        nil,
    }
}

/// What the clock may be behind, in ns: no call is interrupted before its time.
const TICK: u64 = 10_000_000;
/// What each call of a context that is to end gets, in ns.
const LAST_CALLS: u64 = 100_000_000;
/// How soon calls that nobody waits for are looked at again, in ns.
const CUTS: u64 = 50_000_000;
/// A call that goes on for so long after it was interrupted is stuck, in ns.
const STUCK: u64 = 500_000_000;

/// What the watchdog is to do about a context.
pub enum Look {
    /// Nothing before then; `None`: before it is told something.
    At(Option<u64>),
    /// Interrupt this call, then look again.
    Interrupt(u64),
    /// This call runs tasks: interrupt the one that is running if nobody waits for it, then look again.
    InterruptTask(u64),
}

impl Watch {
    /// What there is to do at that time.
    pub fn look(&self, now: u64) -> Look {
        if self.orphaned.swap(false, Ordering::AcqRel) {
            self.inbox.close();
        }
        let cuts = self.inbox.cuts();
        let cut = self.look_at_cuts(now, cuts);
        match (cut, self.look_at_time(now)) {
            (Look::Interrupt(number), _) | (_, Look::Interrupt(number)) => Look::Interrupt(number),
            (Look::InterruptTask(number), _) | (_, Look::InterruptTask(number)) => {
                Look::InterruptTask(number)
            }
            (Look::At(Some(one)), Look::At(Some(other))) => Look::At(Some(one.min(other))),
            (Look::At(one), Look::At(other)) => Look::At(one.or(other)),
        }
    }

    /// Calls that nobody waits for any more.
    fn look_at_cuts(&self, now: u64, cuts: Vec<Cut>) -> Look {
        if cuts.is_empty() || self.over.load(Ordering::Acquire) {
            return Look::At(None);
        }
        let number = self.number.load(Ordering::Acquire);
        for cut in cuts {
            if cut.job.is_parked() {
                // A task that waits is cancelled by the context's thread, if that comes to it.
                let runs = number != 0 && self.what() == Callback::Task;
                if runs
                    && now >= cut.at.saturating_add(LAST_CALLS)
                    && self.cut.swap(number, Ordering::AcqRel) != number
                {
                    return Look::InterruptTask(number);
                }
                continue;
            }
            if cut.job.number() != number || number == 0 {
                self.inbox
                    .withdraw(|frame| frame.number == cut.job.number());
                continue;
            }
            if self.cut.swap(number, Ordering::AcqRel) != number {
                return Look::Interrupt(number);
            }
            if now >= cut.at.saturating_add(self.patience) {
                self.give_up(Callback::Call);
            }
            if !cut.reported && now >= cut.at.saturating_add(STUCK) {
                self.inbox.was_reported(&cut.job);
                let since = self.since.load(Ordering::Relaxed);
                self.report_stuck(Callback::Call, now.saturating_sub(since) / 1_000_000);
            }
        }
        Look::At(Some(now.saturating_add(CUTS)))
    }

    /// The innermost call, which may take too long.
    fn look_at_time(&self, now: u64) -> Look {
        let number = self.number.load(Ordering::Acquire);
        let since = self.since.load(Ordering::Relaxed);
        let hurry = self.hurry.load(Ordering::Relaxed);
        let what = self.what();
        if self.over.load(Ordering::Acquire) {
            return Look::At(None);
        }
        // Those that wait while another call runs within them: that is ended first.
        self.inbox.withdraw(|frame| {
            let due = due(frame.what, frame.since, self.limit, hurry);
            frame.number != number && due.is_some_and(|due| due <= now)
        });
        if number == 0 {
            return Look::At(due(Callback::DataReceived, now, self.limit, hurry));
        }
        let Some(due) = due(what, since, self.limit, hurry) else {
            // Other calls have a limit.
            return Look::At((self.limit != NEVER).then(|| now.saturating_add(self.limit)));
        };
        if now < due {
            return Look::At(Some(due));
        }
        if self.hunted.swap(number, Ordering::Relaxed) != number {
            return Look::Interrupt(number);
        }
        if now >= due.saturating_add(self.patience) {
            self.give_up(what);
        }
        if now < due.saturating_add(STUCK) {
            return Look::At(Some(due.saturating_add(STUCK.min(self.patience))));
        }
        if self.stuck.swap(number, Ordering::Relaxed) != number {
            self.report_stuck(what, now.saturating_sub(since) / 1_000_000);
        }
        Look::At(Some(now.saturating_add(self.limit.min(STUCK))))
    }

    fn report_stuck(&self, what: Callback, ms: u64) {
        let connection = self.connection.load(Ordering::Relaxed);
        tracing::warn!(
            context = %self.name,
            connection,
            "{} has not returned for {ms} ms, and cannot be interrupted: it waits outside of Python. \
             Its context serves nobody else",
            what.name()
        );
        let mut mail = Mail::new();
        let handle = &self.handle;
        mail.send(&self.pid, |env: Env| {
            let connection: Term = match connection {
                0 => atoms::nil().encode(env),
                id => id.encode(env),
            };
            let map = rustler::term_map!(env, {
                atoms::callback() => what.name(),
                atoms::connection() => connection,
                atoms::duration_ms() => ms,
            });
            (atoms::context(), handle, (atoms::stuck(), map)).encode(env)
        });
        mail.clear();
    }

    /// True once another context is started in the place of this one.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Has the context's process end: somebody starts another one in its place.
    fn give_up(&self, what: Callback) {
        if self.given_up.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::error!(
            context = %self.name,
            "{} does not come back: the context is given up, and its thread ends when it does",
            what.name()
        );
        let mut mail = Mail::new();
        let handle = &self.handle;
        mail.send(&self.pid, |env: Env| {
            (atoms::context(), handle, (atoms::given_up(), what.name())).encode(env)
        });
        mail.clear();
    }
}

/// When a call that began then is overdue.
fn due(what: Callback, since: u64, limit: u64, hurry: u64) -> Option<u64> {
    let limit = if matches!(what, Callback::Import | Callback::Call) {
        NEVER
    } else {
        limit.saturating_add(TICK)
    };
    let last = if hurry == NEVER {
        NEVER
    } else {
        hurry.max(since.saturating_add(LAST_CALLS))
    };
    let due = since.saturating_add(limit).min(last);
    (due != NEVER).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_call_is_due_when_its_time_is_over() {
        let limit = 100 * MS;
        assert_eq!(
            due(Callback::DataReceived, 5, limit, NEVER),
            Some(5 + limit + TICK)
        );
        assert_eq!(due(Callback::DataReceived, 5, NEVER, NEVER), None);
    }

    #[test]
    fn an_import_takes_its_time_unless_its_context_is_to_end() {
        assert_eq!(due(Callback::Import, 5, 100 * MS, NEVER), None);
        let hurry = 1_000 * MS;
        assert_eq!(due(Callback::Import, 5, 100 * MS, hurry), Some(hurry));
    }

    #[test]
    fn what_begins_when_the_context_is_to_end_gets_a_little_time() {
        let hurry = 1_000 * MS;
        let since = 2_000 * MS;
        let last = Some(since + LAST_CALLS);
        assert_eq!(due(Callback::ConnectionLost, since, NEVER, hurry), last);
        let sooner = Some(since + MS + TICK);
        assert_eq!(due(Callback::ConnectionLost, since, MS, hurry), sooner);
    }
}
