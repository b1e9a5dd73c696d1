//! Questions of a process that Python has for itself: the VM has them answered, and says what they came to.
//!
//! What goes there is `{number, asked}`: `{name, arguments, callers, nests}`, or a name to be told whether a function has
//! it, or what is to become of a question that is there already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustler::{Atom, Encoder, Env, LocalPid, Term};

use crate::mail::Mail;
use crate::python::question::{
    answerer, next_number, put_answerer, Answer, Answerer, Asker, Event, Question,
};

mod atoms {
    rustler::atoms! {
        cancel,
        give_up,
    }
}

/// The VM says at once whether there is a function. One that does not is about to end, and this process with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those that wait for an answer of the VM's, by number.
static OPEN: Mutex<BTreeMap<u64, Weak<Question>>> = Mutex::new(BTreeMap::new());

fn open() -> MutexGuard<'static, BTreeMap<u64, Weak<Question>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the VM has questions answered; this is the place for them there.
pub fn answered_there(place: LocalPid) {
    put_answerer(0, Answerer::There(place));
}

/// What a question came to. It may have been given up.
pub fn answered(number: u64, answer: Term) {
    settle(number, || Answer::kept(answer));
}

/// There is no answer, for this reason.
pub fn refused(number: u64, why: String) {
    settle(number, || Answer::Refused(why));
}

fn settle(number: u64, answer: impl FnOnce() -> Answer) {
    let question = open().remove(&number);
    if let Some(question) = question.and_then(|question| question.upgrade()) {
        question.answer(answer());
    }
}

impl Question {
    /// Whether a function has that name; none if this process knows that by itself.
    pub fn whether(name: &str) -> Option<Arc<Self>> {
        let answerer = answerer(0).filter(|answerer| matches!(answerer, Answerer::There(_)))?;
        Some(Question::make(
            next_number(),
            Asker::Here,
            false,
            name.to_owned(),
            None,
            Vec::new(),
            answerer,
        ))
    }

    /// Asks that, and waits.
    pub fn is_so(self: &Arc<Self>) -> bool {
        let mut mail = Mail::new();
        self.send(&mut mail);
        let event = self.wait(Instant::now().checked_add(PATIENCE));
        open().remove(&self.number);
        match event {
            Event::Answered(Answer::Term(env, saved)) => env.run(|env| {
                let said: Result<(Atom, bool), _> = saved.load(env).decode();
                said.is_ok_and(|(_, known)| known)
            }),
            _ => false,
        }
    }

    pub(super) fn send_there(self: &Arc<Self>, place: &LocalPid, mail: &mut Mail) {
        open().insert(self.number, Arc::downgrade(self));
        let sent = self.tell(place, mail, |env| {
            let arguments = self.arguments.lock();
            let arguments = arguments.unwrap_or_else(PoisonError::into_inner).take();
            match arguments {
                Some((own, saved)) => {
                    let arguments = own.run(|own| saved.load(own).in_env(env));
                    (&self.name, arguments, &self.callers, self.nests).encode(env)
                }
                None => self.name.encode(env),
            }
        });
        if !sent {
            let why =
                "the arguments are longer than 256 MiB, which is as much as goes out of a process";
            refused(self.number, why.into());
        }
    }

    pub(super) fn give_up_there(&self, place: &LocalPid, mail: &mut Mail) {
        open().remove(&self.number);
        self.tell(place, mail, |env| atoms::give_up().encode(env));
    }

    pub(super) fn cancel_there(&self, place: &LocalPid, mail: &mut Mail) {
        self.tell(place, mail, |env| atoms::cancel().encode(env));
    }

    /// False for what is too long.
    fn tell<F>(&self, place: &LocalPid, mail: &mut Mail, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let sent = mail.send(place, |env| (self.number, build(env)).encode(env));
        mail.clear();
        sent
    }
}
