//! The mailbox of an owner in active mode. A loop cannot look into it, so `Reactor.Runtime` is asked
//! to: whether it grows, and whether the owner is done with what it was sent.

use std::sync::Arc;

use rustler::Encoder;

use crate::connection::{Active, State};
use crate::owner::{kick, Conn, LoopIo, Owner};
use crate::runtime;

mod atoms {
    rustler::atoms! {
        pressure = "$reactor_pressure",
        is_quiet = "$reactor_is_quiet",
    }
}

/// So many messages, or bytes in them, may be sent to an owner in `active: true` before it is looked
/// at whether it takes them.
const MOST_UNSEEN: usize = 1024;
const MOST_UNSEEN_BYTES: usize = 1024 * 1024;

/// What is known of it.
pub struct Mailbox {
    /// What was sent since somebody last looked.
    messages: usize,
    bytes: usize,
    /// Somebody looks whether it grows: nothing is sent until that is known.
    watched: bool,
    /// How many messages it was sent, less what it sent itself: if there are more, an answer may be due.
    owes: i64,
    quiet: Quiet,
}

/// Whether the owner is done with what it was sent: asked for when its server goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quiet {
    Unknown,
    Asked,
    /// It waits for messages and has none.
    Yes,
    /// And it waits in the loop of a behaviour, so it is in the middle of nothing.
    Surely,
}

impl Mailbox {
    /// Of an owner that was sent nothing yet.
    pub fn new() -> Self {
        Mailbox {
            messages: 0,
            bytes: 0,
            watched: false,
            owes: 0,
            quiet: Quiet::Unknown,
        }
    }

    /// True while nothing may be sent.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// A message was sent that was not asked for.
    pub fn sent(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
        self.owes += 1;
        if self.quiet != Quiet::Asked {
            self.quiet = Quiet::Unknown;
        }
    }

    /// Something was sent by the owner.
    pub fn answered(&mut self) {
        self.owes -= 1;
    }

    /// True when it is time that somebody looks: nothing is to be sent then until [`Mailbox::relieved`].
    pub fn is_due(&mut self) -> bool {
        let due = self.messages >= MOST_UNSEEN || self.bytes >= MOST_UNSEEN_BYTES;
        if due {
            self.messages = 0;
            self.bytes = 0;
            self.watched = true;
        }
        due
    }

    /// Somebody has looked: true if that was waited for.
    pub fn relieved(&mut self) -> bool {
        std::mem::replace(&mut self.watched, false)
    }

    /// True when nothing of what it was sent can be under way.
    pub fn is_done(&self) -> bool {
        self.quiet == Quiet::Surely && self.owes <= 0
    }
}

/// Has somebody look whether messages pile up, if it is time for that.
pub fn watch(state: &mut State<Owner>, io: &mut LoopIo) {
    let Owner::Process(owner) = &mut state.owner else {
        return;
    };
    let Some(runtime) = runtime::report_to() else {
        return;
    };
    if !owner.mailbox.is_due() {
        return;
    }
    io.mail.send(&runtime, |env| {
        (atoms::pressure(), owner.pid, &owner.handle).encode(env)
    });
}

/// True when the owner has done what it was sent, as far as can be known. One in active mode has if it
/// waits for messages and has none.
pub fn is_done(state: &mut State<Owner>, io: &mut LoopIo) -> bool {
    if state.settings.active == Active::Off {
        return true;
    }
    let Owner::Process(owner) = &mut state.owner else {
        return true;
    };
    let runtime = match (owner.mailbox.quiet, runtime::report_to()) {
        (Quiet::Yes | Quiet::Surely, _) | (_, None) => return true,
        (Quiet::Asked, _) => return false,
        (Quiet::Unknown, Some(runtime)) => runtime,
    };
    owner.mailbox.quiet = Quiet::Asked;
    io.mail.send(&runtime, |env| {
        (atoms::is_quiet(), owner.pid, &owner.handle, 1).encode(env)
    });
    false
}

/// The answer to [`watch`]: the mailbox is short. Or there is nobody any more to look.
pub fn relieve(conn: &Arc<Conn>) {
    let mut state = conn.lock();
    if let Owner::Process(owner) = &mut state.owner {
        let mailbox = &mut owner.mailbox;
        let asked = mailbox.quiet == Quiet::Asked;
        let look = mailbox.relieved() || asked;
        if asked {
            mailbox.quiet = Quiet::Unknown;
        }
        drop(state);
        if look {
            kick(conn);
        }
    }
}

/// The answer to [`is_done`]: it is, perhaps surely.
pub fn done(conn: &Arc<Conn>, surely: bool) {
    let mut state = conn.lock();
    if let Owner::Process(owner) = &mut state.owner {
        if owner.mailbox.quiet == Quiet::Asked {
            owner.mailbox.quiet = if surely { Quiet::Surely } else { Quiet::Yes };
            // What has come meanwhile is for it.
            state.readable = true;
            drop(state);
            kick(conn);
        }
    }
}
