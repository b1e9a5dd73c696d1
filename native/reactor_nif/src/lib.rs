//! Reactor's native side: event loops that own sockets, and an embedded
//! Python whose protocols they drive. See docs/architecture.md.

#[cfg(test)]
#[macro_use]
#[path = "bin/reactor_python/absent.rs"]
mod absent;
mod address;
mod arrival;
mod cell;
pub mod child;
mod command;
mod connection;
mod control;
mod counters;
mod datagram;
mod deadline;
mod error;
mod event_loop;
mod fds;
mod file;
mod framing;
mod group;
mod handoff;
mod lend;
mod listener;
mod log;
mod mail;
mod nif;
#[cfg(test)]
mod no_emulator;
mod owner;
mod pool;
mod portal;
mod process;
mod proxy;
mod python;
mod queue;
mod rate;
mod report;
mod runtime;
mod timer;
mod tls;

/// `info` is an empty `MapSet`.
fn load(_env: rustler::Env, info: rustler::Term) -> bool {
    python::interpreter::pin_library();
    python::term::learn_mapset(info);
    true
}

rustler::init!("Elixir.Reactor.Native", load = load);
