//! Messages from our threads to processes.

use std::ptr;

use rustler::sys::{enif_send, ErlNifEnv};
use rustler::{Env, LocalPid, OwnedEnv, Term};

/// How many messages are built before their terms are freed.
const BATCH: usize = 16;

/// Where one thread builds its messages.
///
/// A message is copied to its receiver, onto that process's own heap when it is not running.
/// Handing the environment over instead would save the copy, but what the receiver frees then
/// was allocated by a thread of ours: the emulator returns such memory through one of its own
/// threads, which costs more than the copy, and it piles up while the receiver is not collected.
pub struct Mail {
    env: OwnedEnv,
    built: usize,
    /// The environment of the process on whose thread we are, if it is a scheduler's.
    caller: Option<*mut ErlNifEnv>,
}

// SAFETY: `caller` is set only between `begin_for` and `end_for`, on one thread.
unsafe impl Send for Mail {}

impl Mail {
    /// An empty one, for a thread that the emulator does not manage, until `begin_for`.
    pub fn new() -> Self {
        Mail {
            env: OwnedEnv::new(),
            built: 0,
            caller: None,
        }
    }

    /// Sends what `build` makes: false if it goes nowhere. A receiver that is dead gets nothing: its monitors tell.
    pub fn send<F>(&mut self, to: &LocalPid, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        self.send_if(to, |env| Some(build(env)))
    }

    /// Likewise, if it makes anything.
    pub fn send_if<F>(&mut self, to: &LocalPid, build: F) -> bool
    where
        F: for<'a> FnOnce(Env<'a>) -> Option<Term<'a>>,
    {
        let sent = self.env.run(|env| {
            let Some(message) = build(env) else {
                return false;
            };
            let caller = self.caller.unwrap_or(ptr::null_mut());
            // SAFETY: `caller` is the environment of the NIF that runs on this thread, or null on a
            // thread of ours; the message is copied, so it stays ours to free.
            unsafe { enif_send(caller, to.as_c_arg(), ptr::null_mut(), message.as_c_arg()) != 0 }
        });
        self.built += 1;
        if self.built >= BATCH {
            self.clear();
        }
        sent
    }

    /// Runs something that has to know whose thread this is.
    pub fn with_caller<T>(&self, run: impl FnOnce(Option<Env>) -> T) -> T {
        match self.caller {
            Some(caller) => {
                let lifetime = ();
                // SAFETY: as above; it is not kept beyond this call.
                run(Some(unsafe { Env::new(&lifetime, caller) }))
            }
            None => run(None),
        }
    }

    /// True while that process lives.
    pub fn is_alive(&self, pid: &LocalPid) -> bool {
        self.env.run(|env| pid.is_alive(env))
    }

    /// From now on it is used on the thread of a scheduler, in a NIF that `env` called.
    pub fn begin_for(&mut self, env: Env) {
        self.caller = Some(env.as_c_arg());
    }

    /// From now on it is used on a thread of ours again.
    pub fn end_for(&mut self) {
        self.caller = None;
    }

    /// Frees the terms of the messages that were sent; to be called when there is a pause.
    pub fn clear(&mut self) {
        if self.built > 0 {
            self.built = 0;
            self.env.clear();
        }
    }
}
