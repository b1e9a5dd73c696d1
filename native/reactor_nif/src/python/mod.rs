//! Embedded CPython: the interpreter, contexts, and the protocols they drive.

pub mod buffer;
pub mod context;
pub mod interpreter;
pub mod module;
pub mod protocol;
