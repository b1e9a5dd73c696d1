//! Embedded CPython: the interpreter, contexts, and the protocols they drive.

pub mod buffer;
mod calls;
mod client_info;
pub mod context;
pub mod datagram;
mod flow;
pub mod interpreter;
pub mod module;
mod names;
pub mod protocol;
pub mod proxy;
mod reports;
pub mod turn;
