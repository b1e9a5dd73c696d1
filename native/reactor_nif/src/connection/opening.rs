//! How a connection comes to be: out of a socket that was accepted, dialed or handed over.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use socket2::Socket;

use crate::address::Address;
use crate::command::LoopHandle;
use crate::connection::{Active, Connection, Greeting, Phase, Settings, State, Traffic, NO_TOKEN};
use crate::counters;
use crate::deadline::Watch;
use crate::error::Reason;
use crate::fds;
use crate::group::Slot;
use crate::queue::Queue;

/// What a connection is made of.
pub struct Parts {
    /// Open and non-blocking; the connection is its owner from now on.
    pub socket: Socket,
    /// Where it is in its life. What is connected and has a greeting ahead is in that.
    pub phase: Phase,
    /// What comes before the owner may speak.
    pub greeting: Option<Box<Greeting>>,
    /// What it starts with.
    pub settings: Settings,
    /// Its place among those of its listener.
    pub slot: Option<Slot>,
    /// Who is at the other end, if that is known.
    pub peer: Option<Address>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that no connection has.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl<O> Connection<O> {
    /// Takes ownership of a non-blocking socket.
    pub fn new(parts: Parts, owner: O, home: Arc<LoopHandle>) -> Arc<Self> {
        Self::numbered(next_id(), parts, owner, home)
    }

    /// Likewise, of one that has a number already.
    pub fn numbered(id: u64, parts: Parts, owner: O, home: Arc<LoopHandle>) -> Arc<Self> {
        counters::FDS_OPENED.add();
        fds::own(parts.socket.as_raw_fd());
        let greeting = parts.greeting.as_ref();
        let secure = greeting.is_some_and(|greeting| greeting.handshake.is_some());
        Self::make(parts, owner, home, id, Instant::now(), secure)
    }

    pub(super) fn make(
        parts: Parts,
        owner: O,
        home: Arc<LoopHandle>,
        id: u64,
        born: Instant,
        secure: bool,
    ) -> Arc<Self> {
        counters::CONNECTIONS_MADE.add();
        let phase = match (parts.phase, &parts.greeting) {
            (Phase::Open, Some(_)) => Phase::Greeting,
            (phase, _) => phase,
        };
        let open = matches!(phase, Phase::Open | Phase::Greeting);
        let deadline = parts.greeting.as_ref().and_then(|greeting| {
            let deadline = greeting.deadline(born);
            deadline.filter(|_| phase == Phase::Greeting)
        });
        let watch = parts.settings.deadlines.any().then(|| {
            let mut watch = Box::new(Watch::new(born, false));
            watch.wants(parts.settings.active != Active::Off, born);
            watch
        });
        Arc::new(Connection {
            id,
            born,
            peer: parts.peer,
            secure,
            home,
            token: AtomicUsize::new(NO_TOKEN),
            kicked: AtomicBool::new(false),
            group: parts.slot.as_ref().map(|slot| Arc::clone(slot.group())),
            state: Mutex::new(State {
                owner,
                phase,
                settings: parts.settings,
                // Data often arrives with the connection, so the first read is tried.
                readable: open,
                writable: open,
                wanted: None,
                ended: false,
                deadline,
                traffic: Traffic::default(),
                cause: None,
                awaited: false,
                opened: false,
                withdrawn: false,
                condemned: None,
                failed: false,
                greeting: parts.greeting,
                header: None,
                tls: None,
                handed: None,
                overture: 0,
                socket: Some(parts.socket),
                slot: parts.slot,
                timer: None,
                check_at: watch.is_some().then_some(born),
                watch,
                born,
                filing: false,
                room: 0,
                hangup: false,
                broken: None,
                shut_write: false,
                inbox: Queue::default(),
                outbox: Queue::default(),
                congested: false,
            }),
        })
    }
}

impl<O> State<O> {
    /// The outcome of a connection attempt, once the poll said writable.
    pub fn finish_connect(&mut self) -> Result<(), Reason> {
        let error = self.socket()?.take_error().map_err(Reason::from)?;
        if let Some(error) = error {
            return Err(error.into());
        }
        self.phase = match &self.greeting {
            None => Phase::Open,
            Some(greeting) => {
                self.deadline = greeting.deadline(Instant::now());
                Phase::Greeting
            }
        };
        self.readable = true;
        Ok(())
    }
}
