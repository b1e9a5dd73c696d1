//! The control socket between a VM and a Python process of its own: frames, some with a descriptor.
//!
//! A frame is its length in four bytes, then its bytes. A descriptor travels with the first bytes of its
//! frame; descriptors come out in the order in which they were put in. Both ends know which frames have one.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags};

/// The most bytes that a frame may have.
pub const LONGEST: usize = 256 * 1024 * 1024;
/// How much is read at once, in bytes.
const READ: usize = 64 * 1024;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Something.
    Some,
    /// Nothing is there now.
    Blocked,
    /// The other end is closed.
    Closed,
}

/// What has come.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    /// The other end may send descriptors.
    takes_fds: bool,
    /// `None` for one that there was no room for here.
    fds: VecDeque<Option<OwnedFd>>,
}

impl Inbox {
    /// An empty one; descriptors that come are kept for [`Inbox::fd`]. Another one takes none: the kernel closes
    /// what is sent there.
    pub fn with_fds() -> Self {
        Inbox {
            takes_fds: true,
            ..Inbox::default()
        }
    }

    /// Reads once.
    pub fn fill(&mut self, socket: BorrowedFd) -> io::Result<Filled> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let before = self.bytes.len();
        self.bytes.resize(before + READ, 0);
        let received = self.receive(socket, before);
        let count = *received.as_ref().unwrap_or(&0);
        self.bytes.truncate(before + count);
        match received {
            Ok(0) => Ok(Filled::Closed),
            Ok(_) => Ok(Filled::Some),
            Err(Errno::EAGAIN) => Ok(Filled::Blocked),
            Err(Errno::EINTR) => Ok(Filled::Some),
            Err(Errno::ECONNRESET) => Ok(Filled::Closed),
            Err(errno) => Err(errno.into()),
        }
    }

    fn receive(&mut self, socket: BorrowedFd, at: usize) -> Result<usize, Errno> {
        let mut room = nix::cmsg_space!([RawFd; 1]);
        let mut into = [IoSliceMut::new(&mut self.bytes[at..])];
        #[cfg(target_os = "linux")]
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        // Elsewhere the only programs that are started meanwhile close what is not theirs.
        #[cfg(not(target_os = "linux"))]
        let flags = MsgFlags::empty();
        let room = self.takes_fds.then_some(room.as_mut_slice());
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, room, flags)?;
        if !self.takes_fds {
            return Ok(message.bytes);
        }
        // Without a free number the kernel keeps the descriptor to itself, and says so.
        let mut lost = message.flags.contains(MsgFlags::MSG_CTRUNC);
        if let Ok(attached) = message.cmsgs() {
            for attachment in attached {
                if let ControlMessageOwned::ScmRights(fds) = attachment {
                    for fd in fds {
                        lost = false;
                        // SAFETY: the kernel has just given us this fd; nobody else knows it.
                        self.fds
                            .push_back(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
            }
        }
        if lost {
            self.fds.push_back(None);
        }
        Ok(message.bytes)
    }

    /// The next whole frame. An error for one that is too long.
    pub fn frame(&mut self) -> io::Result<Option<&[u8]>> {
        let waiting = &self.bytes[self.start..];
        let Some(head) = waiting.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > LONGEST {
            let text = format!("a frame of {length} bytes on a control socket");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let end = self.start + 4 + length;
        if self.bytes.len() < end {
            self.bytes.reserve(end - self.bytes.len());
            return Ok(None);
        }
        let from = std::mem::replace(&mut self.start, end) + 4;
        Ok(Some(&self.bytes[from..end]))
    }

    /// The descriptor of the frame that was just taken, which has one; `None` if it was lost.
    pub fn fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front().flatten()
    }
}

/// What a frame has besides its bytes: a descriptor, which is closed when it was sent.
pub trait Attachment: AsFd + Send {}

impl<T: AsFd + Send> Attachment for T {}

/// One that is to be sent: with its length in front.
struct Frame {
    bytes: Vec<u8>,
    attachment: Option<Box<dyn Attachment>>,
}

/// What is to be sent.
#[derive(Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    /// So much of the first one was.
    sent: usize,
    /// How many bytes all of them have.
    waiting: usize,
}

impl Outbox {
    /// How many bytes wait to be sent.
    pub fn waiting(&self) -> usize {
        self.waiting - self.sent
    }

    /// Puts a frame behind the others. False for one that is too long.
    pub fn push(&mut self, frame: &[u8], attachment: Option<Box<dyn Attachment>>) -> bool {
        if frame.len() > LONGEST {
            return false;
        }
        let length = frame.len() as u32;
        let bytes = [&length.to_be_bytes(), frame].concat();
        self.waiting += bytes.len();
        self.frames.push_back(Frame { bytes, attachment });
        true
    }

    /// True when nothing waits.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Sends as much as there is room for; waits for that if the socket blocks.
    pub fn flush(&mut self, socket: BorrowedFd) -> io::Result<()> {
        while let Some(Frame { bytes, attachment }) = self.frames.front() {
            match send(
                socket,
                &bytes[self.sent..],
                attachment.as_deref(),
                self.sent,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::EINTR) => {}
                // Too many descriptors are on their way, all in all: it is tried again.
                Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            if self.sent == bytes.len() {
                self.waiting -= self.sent;
                self.sent = 0;
                self.frames.pop_front();
            }
        }
        Ok(())
    }
}

fn send(
    socket: BorrowedFd,
    bytes: &[u8],
    attachment: Option<&dyn Attachment>,
    sent: usize,
) -> Result<usize, Errno> {
    let fd = attachment.map(|attachment| [attachment.as_fd().as_raw_fd()]);
    let rights;
    let control = match &fd {
        Some(fd) if sent == 0 => {
            rights = [ControlMessage::ScmRights(fd)];
            &rights[..]
        }
        _ => &[],
    };
    let from = [IoSlice::new(bytes)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &from,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    fn frames(inbox: &mut Inbox, socket: &UnixStream, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            assert_eq!(inbox.fill(socket.as_fd()).unwrap(), Filled::Some);
            while let Some(frame) = inbox.frame().unwrap() {
                all.push(frame.to_vec());
            }
        }
        all
    }

    fn file(text: &str) -> File {
        let path = std::env::temp_dir().join(format!("control-{}-{text}", std::process::id()));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn frames_come_as_they_were_sent_and_each_descriptor_with_its_own() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        assert!(outbox.push(b"one", Some(Box::new(file("first")))));
        assert!(outbox.push(b"", None));
        assert!(outbox.push(b"two", Some(Box::new(file("second")))));
        outbox.flush(here.as_fd()).unwrap();
        assert!(outbox.is_empty());
        let mut inbox = Inbox::with_fds();
        let came = frames(&mut inbox, &there, 3);
        assert_eq!(came, [&b"one"[..], b"", b"two"]);
        for expected in ["first", "second"] {
            let mut text = String::new();
            let mut file = File::from(inbox.fd().unwrap());
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
        assert!(inbox.fd().is_none());
        drop(here);
        assert_eq!(inbox.fill(there.as_fd()).unwrap(), Filled::Closed);
    }

    #[test]
    fn what_there_is_no_room_for_waits() {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let large = vec![7; 4 * 1024 * 1024];
        assert!(outbox.push(&large, None));
        assert!(outbox.push(b"end", Some(Box::new(file("end")))));
        assert_eq!(outbox.waiting(), large.len() + 4 + 7);
        outbox.flush(here.as_fd()).unwrap();
        assert!(!outbox.is_empty());
        assert!((8..large.len() + 4 + 7).contains(&outbox.waiting()));
        let sends = std::thread::spawn(move || {
            here.set_nonblocking(false).unwrap();
            outbox.flush(here.as_fd()).unwrap();
            assert_eq!(outbox.waiting(), 0);
        });
        let mut inbox = Inbox::with_fds();
        let came = frames(&mut inbox, &there, 2);
        assert!(came[0] == large && came[1] == b"end");
        assert!(inbox.fd().is_some());
        sends.join().unwrap();
    }

    #[test]
    fn who_takes_no_descriptors_keeps_none_open() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reads, writes) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        assert!(outbox.push(b"one", Some(Box::new(writes))));
        outbox.flush(here.as_fd()).unwrap();
        let mut inbox = Inbox::default();
        assert_eq!(frames(&mut inbox, &there, 1), [b"one"]);
        assert!(inbox.fd().is_none());
        reads.set_nonblocking(true).unwrap();
        assert_eq!(reads.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_length_that_lies_is_an_error() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&[255; 8]).unwrap();
        let mut inbox = Inbox::default();
        inbox.fill(there.as_fd()).unwrap();
        assert!(inbox.frame().is_err());
    }
}
