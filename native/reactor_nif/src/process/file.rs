//! A file that is sent past the write queue: by the kernel, or through TLS in parts that are sealed here.
//!
//! No lock is held while the disk is read.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, MutexGuard};

use rustler::LocalPid;

use crate::connection::State;
use crate::error::Reason;
use crate::file;
use crate::owner::{kick, Conn, Owner};
use crate::process::calls::wait_to_send;
use crate::process::{is_protocols, Answer};
use crate::tls::CHUNK;

/// The most of a file that one call sends through TLS, in bytes.
const FILE_PART: usize = 1024 * 1024;

/// `file`: what the kernel takes now of `count` bytes of a file from `offset` on, or fewer at its
/// end. Reads from the disk: not for normal schedulers. No lock is held meanwhile.
pub fn send_file(
    conn: &Arc<Conn>,
    pid: LocalPid,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> Result<Answer<usize>, Reason> {
    let mut state = conn.lock();
    if is_protocols(&state) {
        return Err(Reason::Closed);
    }
    if state.tls().is_some() {
        return send_file_secure(conn, state, pid, file, offset, count);
    }
    let Some((socket, room)) = state.begin_file()? else {
        wait_to_send(&mut state, pid)?;
        state.awaiting_room(true);
        return Ok(Answer::Wait);
    };
    drop(state);
    let (sent, error) = file::send(socket.as_fd(), file, offset, count);
    drop(socket);
    let mut state = conn.lock();
    let full = matches!(&error, Some(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    let others = state.end_file(sent, full, room);
    let answer = match error {
        Some(error) if sent == 0 && !full => Err(Reason::from(error)),
        Some(_) if sent == 0 && !state.writable => {
            wait_to_send(&mut state, pid)?;
            state.awaiting_room(true);
            Ok(Answer::Wait)
        }
        // There was no room, and now there is.
        Some(_) if sent == 0 => Ok(Answer::Again),
        _ => Ok(Answer::Done(sent)),
    };
    // Whoever came meanwhile waits for this to be over.
    let waits = matches!(&state.owner, Owner::Process(owner) if !owner.senders.is_empty());
    let look = others || (waits && state.has_room());
    drop(state);
    if look {
        kick(conn);
    }
    answer
}

/// Likewise through TLS, which the kernel does not speak: read here, and sealed.
fn send_file_secure<'a>(
    conn: &'a Arc<Conn>,
    mut state: MutexGuard<'a, State<Owner>>,
    pid: LocalPid,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> Result<Answer<usize>, Reason> {
    let mut part = vec![0; count.min(CHUNK)];
    let mut sent = 0;
    while sent < count.min(FILE_PART) {
        if !state.may_send_file()? {
            if sent > 0 {
                break;
            }
            wait_to_send(&mut state, pid)?;
            state.awaiting_room(true);
            return Ok(Answer::Wait);
        }
        drop(state);
        let wish = part.len().min(count - sent);
        let n = file::read(file, offset + sent as u64, &mut part[..wish]).map_err(Reason::from)?;
        state = conn.lock();
        if n == 0 {
            break;
        }
        // Whoever came meanwhile is before it. What the kernel does not take is queued.
        state.write(&[], &part[..n])?;
        sent += n;
    }
    let look = state.may_flush();
    drop(state);
    if look {
        kick(conn);
    }
    Ok(Answer::Done(sent))
}
