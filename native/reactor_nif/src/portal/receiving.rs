//! What comes from a Python process: what it tells the context's process and whoever watches connections, its
//! answers to calls, its log, what it asks, and messages for others.

use std::os::fd::AsFd;

use rustler::{Atom, Decoder, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::connection::Traffic;
use crate::control::Filled;
use crate::error::Cause;
use crate::log;
use crate::owner::Owner;
use crate::portal::{
    Interpreter, News, Portal, Sent, ANYBODY, CALLERS, CONTEXT, LOG, NAMES, QUESTIONS, RELAY,
    WATCHER,
};
use crate::python::context::{encode_error, Reporter};
use crate::python::interpreter::PythonError;
use crate::python::send;
use crate::report;

mod atoms {
    rustler::atoms! {
        awake,
        closed,
        died,
        error,
        exception,
        factory_set,
        failed,
        interpreter,
        load,
        loaded,
        named,
        opened,
        ready,
        returned,
        stopped,
        traffic,
    }
}

/// How many frames are taken in one turn.
const FRAMES: usize = 256;

impl Portal {
    /// Sends what there is room for, and takes what has come. `None` when the process has ended.
    pub fn turn(&mut self, reporter: &mut Reporter, news: &mut Vec<News>) -> Option<()> {
        self.pass_answers();
        self.pass_calls();
        // Asked before what it had to say is read.
        let ended = self.process.has_ended();
        self.stirred = self.process.log_output(&self.name);
        // A socket that is closed is found out by reading.
        let _ = self.outbox.flush(self.socket.as_fd());
        for _ in 0..FRAMES {
            match self.inbox.frame() {
                Ok(Some(frame)) => {
                    let frame = frame.to_vec();
                    self.take(&frame, reporter, news);
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    self.why = Some(error.to_string());
                    return None;
                }
            }
            match self.inbox.fill(self.socket.as_fd()) {
                Ok(Filled::Some) => {}
                Ok(Filled::Blocked) => return (!ended).then_some(()),
                Ok(Filled::Closed) => return None,
                Err(error) => {
                    self.why = Some(error.to_string());
                    return None;
                }
            }
        }
        self.stirred = true;
        Some(())
    }

    fn take(&mut self, frame: &[u8], reporter: &mut Reporter, news: &mut Vec<News>) {
        let Some((place, message)) = frame.split_first() else {
            return;
        };
        let env = std::mem::replace(&mut self.env, OwnedEnv::new());
        env.run(|env| {
            let Some((message, _)) = env.binary_to_term(message) else {
                return self.unreadable(*place, message);
            };
            let taken = match *place {
                CONTEXT => self.take_news(message, reporter, news),
                WATCHER => self.take_report(message, news),
                LOG => log::relay(message).ok(),
                CALLERS => self.take_answer(message),
                ANYBODY => self.deliver(message),
                RELAY => send::pass(message).ok(),
                NAMES => self.look_up(message),
                QUESTIONS => self.take_question(message),
                _ => None,
            };
            if taken.is_none() {
                tracing::error!(
                    context = self.name,
                    "a bug: a message from a Python process was not understood"
                );
            }
        });
        self.env = env;
        self.env.clear();
    }

    /// It names atoms that this VM does not have, which are not made for it.
    fn unreadable(&mut self, place: u8, message: &[u8]) {
        const TEXT: &str =
            "it has an atom in it that this VM does not have, or an integer that is too large";
        match number_in(message) {
            Some(number) if place == QUESTIONS => {
                let why = format!("an argument has no counterpart outside Python: {TEXT}");
                self.refuse_question(number, &why);
            }
            Some(number) if place == CALLERS => {
                let error = PythonError {
                    kind: "ValueError".into(),
                    message: format!("what is returned has no counterpart: {TEXT}"),
                    traceback: String::new(),
                };
                self.answer(number, |env| {
                    (atoms::error(), encode_error(env, &error)).encode(env)
                });
            }
            _ => tracing::warn!(
                context = self.name,
                "a message from a Python process is dropped: {TEXT}"
            ),
        }
    }

    /// `{number, answer}`
    fn take_answer(&mut self, message: Term) -> Option<()> {
        let (number, answer): (u64, Term) = message.decode().ok()?;
        self.answer(number, |env| answer.in_env(env));
        Some(())
    }

    fn answer<F>(&mut self, number: u64, build: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        // It may have been given up.
        let Some(job) = self.calls.remove(&number) else {
            return;
        };
        job.answer(&self.waiting, &mut self.mail, |env| Some(build(env)));
        self.mail.clear();
    }

    /// `{number, name}`
    fn look_up(&mut self, message: Term) -> Option<()> {
        let (number, name): (u64, String) = message.decode().ok()?;
        let found = send::registered(message.get_env(), &name);
        self.tell(|env| (atoms::named(), number, found).encode(env));
        Some(())
    }

    /// `{pid, message}`
    fn deliver(&mut self, message: Term) -> Option<()> {
        let (pid, message): (LocalPid, Term) = message.decode().ok()?;
        self.mail.send(&pid, |env| message.in_env(env));
        self.mail.clear();
        Some(())
    }

    /// `{"$reactor_context", nil, news}`
    fn take_news(
        &mut self,
        message: Term,
        reporter: &mut Reporter,
        news: &mut Vec<News>,
    ) -> Option<()> {
        let (_, _, told): (Atom, Term, Term) = message.decode().ok()?;
        let kind: Atom = match told.decode() {
            Ok(kind) => kind,
            Err(_) => rustler::types::tuple::get_tuple(told)
                .ok()?
                .first()?
                .decode()
                .ok()?,
        };
        if kind == atoms::ready() {
            // It is ready here when it is known what it is.
            self.tell(|env| atoms::interpreter().encode(env));
            return Some(());
        }
        if kind == atoms::interpreter() {
            let (_, version, executable, libpython): (Atom, String, String, String) =
                told.decode().ok()?;
            reporter.found(Interpreter {
                version,
                executable,
                libpython,
                pid: self.pid(),
            });
            reporter.tell(|env| atoms::ready().encode(env));
            return Some(());
        }
        if kind == atoms::traffic() {
            let (_, reference, all): (Atom, Term, Term) = told.decode().ok()?;
            for (id, received, sent) in list::<(u64, u64, u64)>(all)? {
                if let Some(known) = self.sent.get(&id) {
                    let traffic = &mut known.conn.lock().traffic;
                    (traffic.received, traffic.sent) = (received, sent);
                }
            }
            reporter.tell(|env| (atoms::traffic(), reference.in_env(env)).encode(env));
            return Some(());
        }
        if kind == atoms::returned() {
            let (_, ids): (Atom, Term) = told.decode().ok()?;
            for id in list::<u64>(ids)? {
                self.take_back(id, news);
            }
            return Some(());
        }
        if kind == atoms::awake() {
            self.hears();
        } else if kind == atoms::factory_set() {
            self.intake.knows_factory();
        } else if kind == atoms::loaded() {
            news.push(News::Serve(self.loading.pop_front()?));
        } else if kind == atoms::stopped() {
            self.stopped = true;
        } else if kind == atoms::died() {
            let (_, why): (Atom, String) = told.decode().ok()?;
            self.why = Some(why);
        } else {
            if kind == atoms::failed() {
                self.loading.pop_front();
            }
            reporter.tell(|env| told.in_env(env));
        }
        Some(())
    }

    /// `{"$reactor_report", [event]}`
    fn take_report(&mut self, message: Term, news: &mut Vec<News>) -> Option<()> {
        let (_, events): (Atom, Term) = message.decode().ok()?;
        for event in list::<Term>(events)? {
            let parts = rustler::types::tuple::get_tuple(event).ok()?;
            let kind: Atom = parts.first()?.decode().ok()?;
            if kind == atoms::load() && report::is_load(event) {
                news.push(News::Load(event.to_binary().to_vec()));
                continue;
            }
            let id: u64 = parts.get(1)?.decode().ok()?;
            if kind == atoms::opened() {
                self.hears();
                self.taken_up(id);
            } else if kind == atoms::closed() {
                let [_, _, _, cause, received, sent, _] = parts[..] else {
                    return None;
                };
                let traffic = Traffic {
                    received: received.decode().ok()?,
                    sent: sent.decode().ok()?,
                    ..Traffic::default()
                };
                let cause = cause.atom_to_string().ok()?;
                self.taken_up(id);
                self.close(id, Cause::named(&cause), traffic, news);
            } else if kind == atoms::exception() {
                if let Some(group) = self.sent.get(&id).and_then(|sent| sent.conn.group()) {
                    report::pass_exception(group, event)?;
                }
            }
        }
        Some(())
    }

    fn taken_up(&mut self, id: u64) {
        let Some(sent) = self.sent.get_mut(&id) else {
            return;
        };
        if sent.on_its_way.take().is_some() {
            self.on_their_way -= 1;
            if let Owner::Protocol(owner) = &mut sent.conn.lock().owner {
                owner.taken_up();
            }
        }
    }

    pub(super) fn close(&mut self, id: u64, cause: Cause, traffic: Traffic, news: &mut Vec<News>) {
        if let Some(Sent { conn, .. }) = self.sent.remove(&id) {
            let mut state = conn.lock();
            state.traffic = traffic;
            state.cause = Some(cause);
            state.close_fd();
            drop(state);
            news.push(News::Look(conn));
        }
    }
}

/// What is in a proper list. To decode another one panics.
pub(super) fn list<'a, T: Decoder<'a>>(term: Term<'a>) -> Option<Vec<T>> {
    term.list_length().ok()?;
    term.decode().ok()
}

/// The number in front of an answer, or a question, that cannot be read as a whole: `{number, _}`.
fn number_in(message: &[u8]) -> Option<u64> {
    match message {
        [131, 104, 2, 97, number, ..] => Some((*number).into()),
        [131, 104, 2, 98, number @ ..] => {
            Some(u32::from_be_bytes(*number.first_chunk::<4>()?).into())
        }
        [131, 104, 2, 110, 8, 0, number @ ..] => {
            Some(u64::from_le_bytes(*number.first_chunk::<8>()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_answer_is_found_without_reading_the_rest() {
        assert_eq!(number_in(&[131, 104, 2, 97, 7, 255]), Some(7));
        assert_eq!(number_in(&[131, 104, 2, 98, 0, 0, 1, 0, 9]), Some(256));
        let large = [131, 104, 2, 110, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(number_in(&large), Some(1 << 32));
        assert_eq!(number_in(&[131, 104, 3, 97, 7]), None);
        assert_eq!(number_in(&[131, 104, 2, 98, 0]), None);
    }
}
