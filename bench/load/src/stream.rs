//! A connection to the server, plain or TLS: the same to whoever reads and writes.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use crate::crew::Crew;
use crate::tls::{self, Agreed, Scratch, TlsStream};

/// A connection.
pub enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS on it.
    Secure(Box<TlsStream>),
}

/// Makes the streams of one thread, as the command line wants them.
pub struct Streams<'a> {
    crew: &'a Crew<'a>,
    scratch: Scratch,
}

impl<'a> Streams<'a> {
    /// Nothing made yet.
    pub fn new(crew: &'a Crew<'a>) -> Self {
        Self {
            crew,
            scratch: tls::scratch(),
        }
    }

    /// A stream on a socket, which need not be connected yet.
    ///
    /// # Errors
    /// None that would be the server's fault.
    pub fn on(&self, socket: TcpStream) -> io::Result<Stream> {
        Ok(match &self.crew.secure {
            None => Stream::Plain(socket),
            Some(secure) => {
                let scratch = Scratch::clone(&self.scratch);
                Stream::Secure(Box::new(TlsStream::new(socket, secure, scratch)?))
            }
        })
    }
}

impl Stream {
    /// The socket, to be registered.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Secure(stream) => stream.socket(),
        }
    }

    /// Whether what was written may still have to be sent, by `flush`, when the socket has room.
    pub fn keeps_back(&self) -> bool {
        matches!(self, Stream::Secure(_))
    }

    /// Whether a TLS handshake is not over.
    pub fn is_greeting(&self) -> bool {
        matches!(self, Stream::Secure(stream) if stream.is_greeting())
    }

    /// Goes on with the TLS handshake; true when none is left to be done.
    ///
    /// # Errors
    /// Whatever the handshake failed of.
    pub fn greet(&mut self) -> io::Result<bool> {
        match self {
            Stream::Plain(_) => Ok(true),
            Stream::Secure(stream) => stream.greet(),
        }
    }

    /// What was agreed on in a TLS handshake that is over.
    pub fn agreed(&self) -> Option<Agreed> {
        match self {
            Stream::Plain(_) => None,
            Stream::Secure(stream) => stream.agreed(),
        }
    }

    /// Says that nothing more will be sent, where that is not said by closing.
    ///
    /// # Errors
    /// The socket's.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Secure(stream) => stream.say_goodbye(),
        }
    }

    /// Ends the stream in this direction.
    ///
    /// # Errors
    /// The socket's.
    pub fn half_close(&mut self) -> io::Result<()> {
        self.say_goodbye()?;
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Secure(stream) => stream.write(bytes),
        }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Secure(stream) => stream.flush(),
        }
    }
}
