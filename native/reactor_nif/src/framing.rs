//! Packet framings: where one message ends and the next begins.
//!
//! The formats are those of `inet:setopts/2`'s `packet`: `line` ends in a
//! newline, which stays part of the packet; `1`, `2` and `4` are a big-endian
//! length of so many bytes, which does not.

use crate::error::Reason;

/// The most that a framed packet may ever have, when no `packet_size` says less.
pub const MAX_PACKET: usize = 64 * 1024 * 1024;

/// How a stream is cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Not at all.
    Raw,
    /// By newlines.
    Line,
    /// By a length of 1, 2 or 4 bytes.
    Length(u8),
}

/// Where the next packet lies in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// `body` is the packet, and `total` bytes are used up by it.
    Whole {
        /// Offset of the first byte of the packet.
        from: usize,
        /// How many bytes of the buffer it takes, header included.
        total: usize,
    },
    /// Not all of it has arrived.
    Partial,
}

impl Framing {
    /// Finds the packet at the start of `buffer`; `limit` bounds its body, in bytes. Of a line, the
    /// first `searched` bytes are known to have no end.
    pub fn find(self, buffer: &[u8], searched: usize, limit: usize) -> Result<Frame, Reason> {
        match self {
            Framing::Raw if buffer.is_empty() => Ok(Frame::Partial),
            Framing::Raw => Ok(Frame::Whole {
                from: 0,
                total: buffer.len(),
            }),
            Framing::Line => match buffer[searched..].iter().position(|byte| *byte == b'\n') {
                Some(at) if searched + at < limit => Ok(Frame::Whole {
                    from: 0,
                    total: searched + at + 1,
                }),
                None if buffer.len() < limit => Ok(Frame::Partial),
                _ => Err(Reason::MessageSize),
            },
            Framing::Length(width) => {
                let width = usize::from(width);
                if buffer.len() < width {
                    return Ok(Frame::Partial);
                }
                let body = buffer[..width]
                    .iter()
                    .fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
                if body > limit {
                    Err(Reason::MessageSize)
                } else if buffer.len() < width + body {
                    Ok(Frame::Partial)
                } else {
                    Ok(Frame::Whole {
                        from: width,
                        total: width + body,
                    })
                }
            }
        }
    }

    /// The header that goes in front of a packet of `len` bytes: its bytes, of which the first
    /// `usize` count.
    pub fn header(self, len: usize) -> Result<([u8; 4], usize), Reason> {
        let Framing::Length(width) = self else {
            return Ok(([0; 4], 0));
        };
        let width = usize::from(width);
        if len as u64 >= 1u64 << (8 * width) {
            return Err(Reason::MessageSize);
        }
        let mut bytes = [0; 4];
        bytes[..width].copy_from_slice(&(len as u32).to_be_bytes()[4 - width..]);
        Ok((bytes, width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    #[test]
    fn a_length_is_big_endian_and_not_part_of_the_packet() {
        for width in [1u8, 2, 4] {
            let framing = Framing::Length(width);
            let (header, used) = framing.header(5).unwrap();
            let mut wire = header[..used].to_vec();
            wire.extend_from_slice(b"helloX");
            for cut in 0..wire.len() - 1 {
                assert_eq!(
                    framing.find(&wire[..cut], 0, LIMIT).unwrap(),
                    Frame::Partial
                );
            }
            let from = usize::from(width);
            let total = from + 5;
            assert_eq!(
                framing.find(&wire, 0, LIMIT).unwrap(),
                Frame::Whole { from, total }
            );
        }
    }

    #[test]
    fn a_packet_larger_than_the_limit_is_refused_before_it_has_arrived() {
        let framing = Framing::Length(4);
        assert_eq!(
            framing.find(&[255, 255, 255, 255], 0, LIMIT),
            Err(Reason::MessageSize)
        );
        assert_eq!(
            Framing::Line.find(&[b'a'; 100], 0, LIMIT),
            Err(Reason::MessageSize)
        );
        assert_eq!(
            Framing::Line.find(&[b'a'; 99], 0, LIMIT),
            Ok(Frame::Partial)
        );
    }

    #[test]
    fn a_packet_longer_than_its_header_can_say_cannot_be_sent() {
        assert!(Framing::Length(1).header(255).is_ok());
        assert_eq!(Framing::Length(1).header(256), Err(Reason::MessageSize));
        assert_eq!(Framing::Length(2).header(65_536), Err(Reason::MessageSize));
        assert!(Framing::Length(4).header(65_536).is_ok());
    }

    #[test]
    fn a_line_keeps_its_newline_and_leaves_the_next_one() {
        let frame = Framing::Line.find(b"one\ntwo\n", 0, LIMIT).unwrap();
        assert_eq!(frame, Frame::Whole { from: 0, total: 4 });
    }

    #[test]
    fn a_line_that_grows_is_searched_from_where_the_search_ended() {
        assert_eq!(Framing::Line.find(b"abc", 0, LIMIT), Ok(Frame::Partial));
        let frame = Framing::Line.find(b"abcd\ne", 3, LIMIT).unwrap();
        assert_eq!(frame, Frame::Whole { from: 0, total: 5 });
    }
}
