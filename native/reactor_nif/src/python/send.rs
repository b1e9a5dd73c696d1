//! `_reactor.send` and `_reactor.whereis`: messages to processes, and their names.
//!
//! A message to a process of this node is put into its mailbox at once. One to another node may have to wait
//! for the connection, so a process of the VM sends it: in order, and a bounded number at a time.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyLookupError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use rustler::sys::{enif_send, enif_thread_type, enif_whereis_pid};
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::python::term::{from_python, to_python, Conversion};

mod atoms {
    rustler::atoms! { relay = "$reactor_relay" }
}

/// So many messages to other nodes may wait.
const MOST_RELAYED: usize = 10_000;
static RELAYED: AtomicUsize = AtomicUsize::new(0);
/// The process that sends them.
static RELAY: Mutex<Option<LocalPid>> = Mutex::new(None);

/// From now on that process sends messages to other nodes; what the one before had is lost.
pub fn relayed_by(pid: LocalPid) {
    *RELAY.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    RELAYED.store(0, Ordering::Relaxed);
}

/// One of them was sent.
pub fn was_relayed() {
    let _ = RELAYED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
}

/// Raises on a thread of the emulator's, which runs Python only to look at packages: it has no place for
/// messages of others.
pub fn refuse_emulator() -> PyResult<()> {
    // SAFETY: only asks what thread this is.
    match unsafe { enif_thread_type() } {
        0 => Ok(()),
        _ => Err(PyRuntimeError::new_err(
            "this is no place to talk to processes: Reactor.Python.Doctor imports packages only to look at them",
        )),
    }
}

/// `send(to, term)`.
pub fn send<'py>(py: Python<'py>, args: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    refuse_emulator()?;
    OwnedEnv::new().run(|env| {
        let to = receiver(env, &args[0])?;
        let message = from_python(env, &args[1], &Conversion::default())?;
        match to.decode::<LocalPid>() {
            Ok(pid) => deliver(&pid, message),
            Err(_) => relay(env, to, message)?,
        }
        Ok(py.None().into_bound(py))
    })
}

/// Copies a message into a mailbox. Who is dead gets nothing, as ever.
fn deliver(pid: &LocalPid, message: Term) {
    // SAFETY: on a thread that the emulator does not manage (`refuse_emulator`), so there is no caller; the
    // message is copied.
    unsafe {
        enif_send(
            ptr::null_mut(),
            pid.as_c_arg(),
            ptr::null_mut(),
            message.as_c_arg(),
        );
    }
}

fn relay<'a>(env: Env<'a>, to: Term<'a>, message: Term<'a>) -> PyResult<()> {
    let relay = *RELAY.lock().unwrap_or_else(PoisonError::into_inner);
    let relay = relay.ok_or_else(|| {
        PyRuntimeError::new_err(
            "the application :reactor does not run: nobody sends to other nodes",
        )
    })?;
    if RELAYED.fetch_add(1, Ordering::Relaxed) >= MOST_RELAYED {
        was_relayed();
        return Err(PyRuntimeError::new_err(format!(
            "{MOST_RELAYED} messages to other nodes wait to be sent already"
        )));
    }
    deliver(&relay, (atoms::relay(), to, message).encode(env));
    Ok(())
}

/// Sends on what Python in another process has to say to another node: `{"$reactor_relay", to, message}`.
pub fn pass(message: Term) -> PyResult<()> {
    let (_, to, message): (Atom, Term, Term) = message
        .decode()
        .map_err(|_| PyValueError::new_err("not a message to be relayed"))?;
    relay(message.get_env(), to, message)
}

/// A pid as a term.
fn receiver<'a>(env: Env<'a>, to: &Bound<'_, PyAny>) -> PyResult<Term<'a>> {
    if let Ok(name) = to.cast::<PyString>() {
        let name = name.to_str()?;
        return match registered(env, name) {
            Some(pid) => Ok(pid.encode(env)),
            None => Err(PyLookupError::new_err(format!(
                "no process is registered as {name:?}"
            ))),
        };
    }
    match from_python(env, to, &Conversion::default())? {
        pid if pid.is_pid() => Ok(pid),
        _ => Err(PyTypeError::new_err(
            "a message is sent to an erlang.Pid, or to a name",
        )),
    }
}

/// Who has that name, in Erlang's spelling; or in Elixir's, without the prefix that all aliases have.
pub fn registered(env: Env, name: &str) -> Option<LocalPid> {
    let alias = name.starts_with(|first: char| first.is_ascii_uppercase());
    let names = [
        Some(name.to_owned()),
        alias.then(|| format!("Elixir.{name}")),
    ];
    names.into_iter().flatten().find_map(|name| {
        // A name that is no atom yet is nobody's.
        let atom = Atom::existing_from_str(env, &name).ok()?;
        let mut pid = MaybeUninit::uninit();
        // SAFETY: on a thread that the emulator does not manage, so there is no caller; fills `pid` if it says so.
        unsafe {
            let term = atom.to_term(env).as_c_arg();
            let found = enif_whereis_pid(ptr::null_mut(), term, pid.as_mut_ptr()) != 0;
            found.then(|| LocalPid::from_c_arg(pid.assume_init()))
        }
    })
}

/// `whereis(name)`.
pub fn whereis<'py>(py: Python<'py>, args: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    refuse_emulator()?;
    let name = args[0]
        .cast::<PyString>()
        .map_err(|_| PyTypeError::new_err("a name is a str"))?;
    let name = name.to_str()?;
    OwnedEnv::new().run(|env| match registered(env, name) {
        Some(pid) => to_python(py, pid.encode(env), &Conversion::default()),
        None => Ok(py.None().into_bound(py)),
    })
}
