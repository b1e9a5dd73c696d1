//! Embedded CPython: the interpreter, contexts, and the protocols they drive.

pub mod buffer;
mod calls;
mod client_info;
pub mod context;
pub mod datagram;
pub mod doctor;
mod flow;
pub mod interpreter;
pub mod isolation;
pub mod job;
pub mod metadata;
pub mod module;
mod names;
mod outgoing;
pub mod protocol;
pub mod proxy;
mod reports;
mod term;
mod thread;
pub mod turn;
mod venv;
mod watch;
pub mod watchdog;
