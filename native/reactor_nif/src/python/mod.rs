//! Embedded CPython: the interpreter, contexts, and the protocols they drive.

pub mod ask;
pub mod buffer;
mod calls;
mod client_info;
pub mod context;
pub mod datagram;
pub mod desk;
pub mod doctor;
mod flow;
pub mod inbox;
pub mod interpreter;
pub mod isolation;
pub mod job;
pub mod metadata;
pub mod module;
mod names;
pub mod protocol;
pub mod proxy;
pub mod question;
mod reports;
pub mod send;
mod term;
mod thread;
pub mod turn;
mod venv;
mod watch;
pub mod watchdog;
