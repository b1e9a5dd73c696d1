//! The program of a Python context that has a process for itself: see `portal.rs` for the other end.
//!
//! It is the native side of Reactor, with Python, linked with as much of an emulator as that asks for. Its
//! standard input is a control socket; when that is closed, it ends, whatever Python is doing.

mod absent;
mod emulator;
mod format;
mod heap;
mod names;

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{dup, dup2_stdin};
use once_cell::sync::OnceCell;
use rustler::codegen_runtime::ErlNifEntry;

use heap::{atom, look, Heap, Node, Term, Word};

/// The places of whoever logs, of those who have made calls, of any process of the VM's, of
/// whoever sends to other nodes, of whoever knows names, and of whoever has questions answered.
const LOG: u8 = 3;
const CALLERS: u8 = 4;
const ANYBODY: u8 = 5;
const RELAY: u8 = 6;
const NAMES: u8 = 7;
const QUESTIONS: u8 = 8;
/// The most bytes that a frame may have.
const LONGEST: usize = 256 * 1024 * 1024;

/// What is written to the control socket is written in one piece.
static CONTROL: OnceCell<Mutex<UnixStream>> = OnceCell::new();

extern "C" {
    fn reactor_nif_nif_init() -> *const ErlNifEntry;
}

fn main() -> ExitCode {
    match serve() {
        // At once: Python may be busy, and nobody is there to be told what it does.
        // SAFETY: ends the process without its exit handlers.
        Ok(()) => unsafe { libc::_exit(0) },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let control = take_over().map_err(|error| {
        format!("this is started by Reactor, with a socket as its standard input: {error}")
    })?;
    let writes = control.try_clone().map_err(|error| error.to_string())?;
    // It is set once.
    let _ = CONTROL.set(Mutex::new(UnixStream::from(writes)));
    load()?;
    reactor_nif::child::run(control, names::answer)
}

/// Takes the control socket out of Python's sight, and what else it was not given to have.
fn take_over() -> io::Result<OwnedFd> {
    die_with_parent();
    crash_as_usual();
    close_others();
    let control = dup(io::stdin())?;
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&control, flags)?;
    dup2_stdin(File::open("/dev/null")?)?;
    // Of a terminal, a pipe or a file there is none.
    nix::sys::socket::getpeername::<nix::sys::socket::UnixAddr>(control.as_raw_fd())?;
    Ok(control)
}

/// Python's own reports of a crash, and the kernel's, are better than one of a stack that overflowed.
fn crash_as_usual() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: sets back what was set for this thread's stack.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// The thread that started this process ends with the VM, however that ends. Elsewhere than on Linux the end
/// of the control socket says so.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: asks the kernel for a signal.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
}

/// Closes what the VM had open and did not mean to give away.
fn close_others() {
    // Not by its name, which older C libraries lack.
    #[cfg(target_os = "linux")]
    // SAFETY: nothing but the standard streams is open that anybody here knows of.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0;
    #[cfg(not(target_os = "linux"))]
    let closed = false;
    if closed {
        return;
    }
    // Not every kernel has that, nor every sandbox.
    let open = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let open = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let open: Vec<libc::c_int> = open.filter(|fd| *fd > 2).collect();
    for fd in open {
        // SAFETY: as above. That of the directory is closed already.
        unsafe { libc::close(fd) };
    }
}

/// As an emulator does it.
fn load() -> Result<(), String> {
    // SAFETY: the entry is static; loading is what it is for.
    unsafe {
        let entry = &*reactor_nif_nif_init();
        let env = emulator::enif_alloc_env();
        let mut data: *mut c_void = ptr::null_mut();
        let info = std::mem::transmute::<Word, rustler::sys::ErlNifTerm>(heap::NIL);
        match entry.load.map(|load| load(env, &mut data, info)) {
            Some(0) => Ok(()),
            _ => Err("the native side could not be loaded".into()),
        }
    }
}

/// Writes a message to whoever has that place at the other end. False if it is dropped.
///
/// # Safety
/// The environment of the message is there.
unsafe fn send(place: i64, message: Word) -> bool {
    let Ok(place) = u8::try_from(place) else {
        return false;
    };
    let mut sent = true;
    // SAFETY: the caller's promise.
    unsafe {
        let mut frame = frame(place, message);
        if frame.len() > LONGEST {
            let mut heap = Heap::default();
            match too_long(&mut heap, message) {
                Some(instead) if place == CALLERS => {
                    frame = self::frame(place, instead);
                    write(&mut frame);
                }
                // Whoever asks says so.
                _ if place == QUESTIONS => sent = false,
                // The VM logs it.
                _ => {
                    sent = false;
                    eprintln!("a message from this process is dropped: it is longer than 256 MiB");
                }
            }
        } else {
            write(&mut frame);
        }
    }
    match place {
        LOG => reactor_nif::child::log_taken(),
        RELAY => reactor_nif::child::relayed(),
        _ => {}
    }
    sent
}

unsafe fn frame(place: u8, message: Word) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, place, format::VERSION];
    // SAFETY: the promise of `send`.
    unsafe { format::write(message, &mut frame) };
    frame
}

fn write(frame: &mut [u8]) {
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    let Some(control) = CONTROL.get() else {
        return;
    };
    let mut control = control.lock().unwrap_or_else(PoisonError::into_inner);
    if control.write_all(frame).is_err() {
        // SAFETY: ends the process: the VM is gone.
        unsafe { libc::_exit(0) };
    }
}

/// What is sent instead of an answer that is too long: `{number, _}`.
unsafe fn too_long(heap: &mut Heap, message: Word) -> Option<Word> {
    // SAFETY: the promise of `send`.
    let Term::Node(Node::Tuple(parts)) = (unsafe { look(message) }) else {
        return None;
    };
    let [number, _] = parts[..] else {
        return None;
    };
    let text = "what is returned is longer than 256 MiB";
    let mut texts = |text: &str| heap.add(Node::Binary(text.as_bytes().to_vec()));
    let pairs = vec![
        (atom("type"), texts("ValueError")),
        (atom("message"), texts(text)),
        (atom("traceback"), texts(&format!("ValueError: {text}\n"))),
    ];
    let error = heap.add(Node::Map(pairs));
    let error = heap.add(Node::Tuple(vec![atom("error"), error]));
    Some(heap.add(Node::Tuple(vec![number, error])))
}
