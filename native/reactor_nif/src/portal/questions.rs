//! What a Python process asks: processes here answer it, as they do for Python in the VM, and the answers go back.

use std::sync::Arc;

use rustler::{Atom, Encoder, LocalPid, Term};

use crate::portal::receiving::list;
use crate::portal::Portal;
use crate::python::ask::{self, MOST_THREADS};
use crate::python::inbox::DEEPEST;
use crate::python::question::{Answer, Question};

mod atoms {
    rustler::atoms! {
        answered,
        cancel,
        give_up,
        ok,
        refused,
    }
}

/// So many may be without an answer: as many as its threads ask at most.
const MOST: usize = DEEPEST + MOST_THREADS;

impl Portal {
    /// `{number, asked}`
    pub(super) fn take_question(&mut self, message: Term) -> Option<()> {
        let (number, asked): (u64, Term) = message.decode().ok()?;
        if let Ok(name) = asked.decode::<String>() {
            let known = ask::is_known(&name);
            self.tell(|env| (atoms::answered(), number, (atoms::ok(), known)).encode(env));
            return Some(());
        }
        if let Ok(what) = asked.decode::<Atom>() {
            // It may be answered already.
            if what == atoms::cancel() {
                if let Some(question) = self.questions.get(&number) {
                    question.cancel(&mut self.mail);
                }
            } else if what == atoms::give_up() {
                self.give_up_question(number);
            } else {
                return None;
            }
            return Some(());
        }
        let (name, arguments, callers, nests): (String, Term, Term, bool) = asked.decode().ok()?;
        // Who was somewhere else when this VM had another name cannot be known again.
        let callers = list::<Term>(callers)?.into_iter();
        let callers: Vec<LocalPid> = callers.filter_map(|pid| pid.decode().ok()).collect();
        self.give_up_question(number);
        if self.questions.len() >= MOST {
            self.refuse_question(
                number,
                &format!("{MOST} questions wait for answers already"),
            );
            return Some(());
        }
        let calls = Arc::clone(&self.waiting);
        match Question::passed_on(number, calls, nests, name, arguments, callers, self.number) {
            Some(question) => {
                question.send(&mut self.mail);
                self.questions.insert(number, question);
            }
            None => {
                self.tell(|env| {
                    (atoms::answered(), number, Answer::Nobody.encode(env)).encode(env)
                });
            }
        }
        Some(())
    }

    /// Tells the process what its questions came to.
    pub(super) fn pass_answers(&mut self) {
        if !self.takes_calls() {
            return;
        }
        for number in self.waiting.take_answered() {
            let Some(question) = self.questions.remove(&number) else {
                continue;
            };
            let Some(answer) = question.take_answer() else {
                continue;
            };
            let told = self.tell(|env| (atoms::answered(), number, answer.encode(env)).encode(env));
            if !told {
                let why = "what the function returns is longer than 256 MiB, which is as much as goes into a process";
                self.refuse_question(number, why);
            }
        }
    }

    /// There is no answer, for this reason.
    pub(super) fn refuse_question(&mut self, number: u64, why: &str) {
        self.tell(|env| (atoms::refused(), number, why).encode(env));
    }

    fn give_up_question(&mut self, number: u64) {
        if let Some(question) = self.questions.remove(&number) {
            question.give_up(&mut self.mail);
            self.waiting.question_was_given_up(number);
        }
    }

    /// Nobody waits for any of them any more.
    pub(super) fn give_up_questions(&mut self) {
        let numbers: Vec<u64> = self.questions.keys().copied().collect();
        for number in numbers {
            self.give_up_question(number);
        }
    }
}
