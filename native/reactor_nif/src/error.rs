//! Why an operation or a connection ended, in the words of the field.

use std::io;

/// Every way in which the native side refuses or ends something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// End of stream, or a socket that is no longer open.
    #[error("closed")]
    Closed,
    /// The deadline of the operation passed.
    #[error("timeout")]
    Timeout,
    /// A packet is larger than `packet_size`, or than its header can say.
    #[error("message too long")]
    MessageSize,
    /// The call does not fit the state the socket is in.
    #[error("invalid argument")]
    Invalid,
    /// Another process is already doing this on the same socket.
    #[error("already in progress")]
    Already,
    /// Only the owner may do this.
    #[error("not owner")]
    NotOwner,
    /// What came is no TLS, or was tampered with; or the peer said so of what we sent.
    #[error("TLS alert")]
    Tls,
    /// What the operating system said.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Reason::Errno(code),
            None if error.kind() == io::ErrorKind::TimedOut => Reason::Timeout,
            None => Reason::Invalid,
        }
    }
}

impl Reason {
    /// The reason as a peer of `gen_tcp` expects it: a reset or a broken pipe
    /// is the end of the stream unless somebody asks for the difference.
    pub fn folded(self) -> Reason {
        match self {
            Reason::Errno(libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN) => Reason::Closed,
            other => other,
        }
    }

    /// The atom's name, as `:inet.posix/0` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Closed => "closed",
            Reason::Timeout => "timeout",
            Reason::MessageSize => "emsgsize",
            Reason::Invalid => "einval",
            Reason::Already => "ealready",
            Reason::NotOwner => "not_owner",
            Reason::Tls => "tls_alert",
            Reason::Errno(code) => errno_name(code),
        }
    }
}

/// Why a connection is over: what happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its owner closed it, or was done.
    Local,
    /// The peer ended the stream.
    Remote,
    /// It broke: a reset, a broken pipe, a network that is gone.
    Reset,
    /// Nothing came at first.
    FirstByte,
    /// Nothing came for too long.
    Idle,
    /// The peer took nothing of what was sent.
    Stall,
    /// It was open for too long.
    Life,
    /// The peer was too slow.
    Rate,
    /// Its server was drained, and it was idle.
    Drained,
    /// Its server was drained, and it was not done in time.
    Cut,
    /// Its Python protocol raised.
    Exception,
    /// A callback of it took too long.
    CallbackTimeout,
    /// The process that owned it ended.
    OwnerDown,
    /// The operating system's process that its Python protocol was in ended.
    ContextDied,
    /// Both sides did not agree on how to speak TLS.
    Handshake,
    /// They took too long to.
    HandshakeTimeout,
    /// A trusted peer sent no PROXY header, or one that is not right.
    Proxy,
    /// It took too long to.
    ProxyTimeout,
    /// What came was no TLS, or was tampered with; or the peer said so.
    Tls,
    /// The peer ended the stream without saying in TLS that it would.
    Truncated,
}

const CAUSES: [Cause; 20] = [
    Cause::Local,
    Cause::Remote,
    Cause::Reset,
    Cause::FirstByte,
    Cause::Idle,
    Cause::Stall,
    Cause::Life,
    Cause::Rate,
    Cause::Drained,
    Cause::Cut,
    Cause::Exception,
    Cause::CallbackTimeout,
    Cause::OwnerDown,
    Cause::ContextDied,
    Cause::Handshake,
    Cause::HandshakeTimeout,
    Cause::Proxy,
    Cause::ProxyTimeout,
    Cause::Tls,
    Cause::Truncated,
];

impl Cause {
    /// The one of that name; another process says so.
    pub fn named(name: &str) -> Cause {
        let known = CAUSES.into_iter().find(|cause| cause.name() == name);
        known.unwrap_or(Cause::Reset)
    }

    /// The atom's name.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Local => "local",
            Cause::Remote => "remote",
            Cause::Reset => "reset",
            Cause::FirstByte => "first_byte_timeout",
            Cause::Idle => "idle_timeout",
            Cause::Stall => "stall_timeout",
            Cause::Life => "max_lifetime",
            Cause::Rate => "min_rate",
            Cause::Drained => "drained",
            Cause::Cut => "cut",
            Cause::Exception => "exception",
            Cause::CallbackTimeout => "callback_timeout",
            Cause::OwnerDown => "owner_down",
            Cause::ContextDied => "context_died",
            Cause::Handshake => "handshake",
            Cause::HandshakeTimeout => "handshake_timeout",
            Cause::Proxy => "proxy",
            Cause::ProxyTimeout => "proxy_timeout",
            Cause::Tls => "tls_alert",
            Cause::Truncated => "truncated",
        }
    }

    /// What its users are told: that it took too long, or that it is closed.
    pub fn reason(self) -> Reason {
        match self {
            Cause::FirstByte | Cause::Idle | Cause::Stall | Cause::Life | Cause::Rate => {
                Reason::Timeout
            }
            _ => Reason::Closed,
        }
    }
}

fn errno_name(code: i32) -> &'static str {
    match code {
        libc::EACCES => "eacces",
        libc::EADDRINUSE => "eaddrinuse",
        libc::EADDRNOTAVAIL => "eaddrnotavail",
        libc::EAFNOSUPPORT => "eafnosupport",
        libc::EAGAIN => "eagain",
        libc::EALREADY => "ealready",
        libc::EBADF => "ebadf",
        libc::ECONNABORTED => "econnaborted",
        libc::ECONNREFUSED => "econnrefused",
        libc::ECONNRESET => "econnreset",
        libc::ENOENT => "enoent",
        libc::ENOTDIR => "enotdir",
        libc::EISDIR => "eisdir",
        libc::ELOOP => "eloop",
        libc::ENAMETOOLONG => "enametoolong",
        libc::ENOSPC => "enospc",
        libc::EOVERFLOW => "eoverflow",
        libc::EDESTADDRREQ => "edestaddrreq",
        libc::EHOSTDOWN => "ehostdown",
        libc::EHOSTUNREACH => "ehostunreach",
        libc::EINPROGRESS => "einprogress",
        libc::EINTR => "eintr",
        libc::EINVAL => "einval",
        libc::EIO => "eio",
        libc::EISCONN => "eisconn",
        libc::EMFILE => "emfile",
        libc::EMSGSIZE => "emsgsize",
        libc::ENETDOWN => "enetdown",
        libc::ENETRESET => "enetreset",
        libc::ENETUNREACH => "enetunreach",
        libc::ENFILE => "enfile",
        libc::ENOBUFS => "enobufs",
        libc::ENOMEM => "enomem",
        libc::ENOPROTOOPT => "enoprotoopt",
        libc::ENOTCONN => "enotconn",
        libc::ENOTSOCK => "enotsock",
        libc::EOPNOTSUPP => "eopnotsupp",
        libc::EPERM => "eperm",
        libc::EPIPE => "epipe",
        libc::EPROTO => "eproto",
        libc::EPROTONOSUPPORT => "eprotonosupport",
        libc::ETIMEDOUT => "etimedout",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_the_end_of_the_stream_for_those_who_do_not_ask() {
        assert_eq!(Reason::Errno(libc::ECONNRESET).folded(), Reason::Closed);
        assert_eq!(Reason::Errno(libc::EPIPE).folded(), Reason::Closed);
        assert_eq!(
            Reason::Errno(libc::EHOSTUNREACH).folded(),
            Reason::Errno(libc::EHOSTUNREACH)
        );
    }

    #[test]
    fn every_cause_is_found_by_its_name() {
        for cause in CAUSES {
            assert_eq!(Cause::named(cause.name()), cause);
        }
    }

    #[test]
    fn an_os_error_keeps_its_name() {
        let error = io::Error::from_raw_os_error(libc::EADDRINUSE);
        assert_eq!(Reason::from(error).name(), "eaddrinuse");
    }
}
