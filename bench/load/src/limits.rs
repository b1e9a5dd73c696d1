//! The process's limit of open files.

use std::io;

/// Descriptors that are not connections: standard streams, epoll instances, and some to spare.
const OTHERS: u64 = 64;

/// Makes room for `connections` open sockets, raising the soft limit, and the hard one if allowed.
///
/// # Errors
/// One line that says how many there are and how many it takes.
pub fn raise_open_files(connections: usize) -> Result<(), String> {
    let wanted = connections as u64 + OTHERS;
    let limit = get().map_err(|error| format!("cannot read the open files limit: {error}"))?;
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    let raised = libc::rlimit {
        rlim_cur: wanted,
        rlim_max: limit.rlim_max.max(wanted),
    };
    set(&raised).map_err(|error| {
        format!(
            "{connections} connections take {wanted} open files, the limit is {}: {error}",
            limit.rlim_max
        )
    })
}

fn get() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live, writable rlimit for the length of the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a live rlimit, which the call only reads.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
