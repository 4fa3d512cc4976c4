//! Frames: how bytes of a connection are cut into messages, and how damage is noticed.
//!
//! ```text
//!  0        4      5        6     7      8         12
//! +--------+------+--------+-----+------+---------+----------
//! | crc32  | 0x5a | version| kind| zero | length  | payload …
//! +--------+------+--------+-----+------+---------+----------
//!             crc32 (IEEE) covers everything behind it; integers are big-endian
//! ```
//!
//! The header's layout is the same in every version of the protocol, so that two nodes of different
//! versions can still tell each other so.
//!
//! Invariants: a frame that is handed out had the right magic byte, version, kind and checksum, and
//! its payload is no longer than the reader's limit. The reader's buffer grows with the bytes that
//! have come, never with the length that a header claims.
//!
//! What it does not do: resynchronise. After one bad frame the connection is worth nothing.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::runtime::task;

/// The version of the protocol that this node speaks; goes into every frame.
pub const VERSION: u8 = 1;
/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 12;
/// The longest payload that any frame may have, in bytes: 16 MiB. Room for fifteen siblings of the
/// largest size that can be configured.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Tells our frames from other protocols that happen to knock.
const MAGIC: u8 = 0x5a;
/// One read asks for this many bytes at first; doubled while reads fill the room they got …
const WINDOW_BYTES_MIN: usize = 8 << 10;
/// … up to here. More would let one connection keep its task busy for long.
const WINDOW_BYTES_MAX: usize = 64 << 10;
/// An empty buffer of more than this gives its memory back.
const KEEP_BYTES_MAX: usize = 128 << 10;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First frame of whoever connects: its [`Introduction`](super::handshake::Introduction). A lost
    /// one costs the connection.
    Hello,
    /// The answer to a hello: the introduction of who was called. Requests may follow.
    Welcome,
    /// The answer to a hello that is not welcome, and the last frame of the connection: a
    /// [`HandshakeRefusal`](super::handshake::HandshakeRefusal).
    Refused,
    /// A [`Request`](super::message::Request), from the side that connected.
    Request,
    /// A [`Reply`](super::message::Reply), from the side that was called, in any order.
    Reply,
    /// From the side that was called: it is about to stop and takes no new requests here. No payload.
    Goodbye,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Kind::Hello => 1,
            Kind::Welcome => 2,
            Kind::Refused => 3,
            Kind::Request => 4,
            Kind::Reply => 5,
            Kind::Goodbye => 6,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Refused,
            4 => Kind::Request,
            5 => Kind::Reply,
            6 => Kind::Goodbye,
            _ => return None,
        })
    }
}

/// Why bytes are no frame. The connection that they came on must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes belong to another protocol.
    #[error("bytes are not of this protocol: check which port the other side calls")]
    Magic,
    /// The frame is of another version of the protocol.
    #[error("frame is of protocol version {0}, this node speaks {VERSION}")]
    Version(u8),
    /// The kind, or a byte that must be zero, is unknown in this version.
    #[error("frame is of unknown kind {0:#06x}")]
    Kind(u16),
    /// The header announces more than the limit.
    #[error("frame of {bytes} bytes is over the limit of {max}")]
    Oversized {
        /// What the header claims, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The checksum is wrong: bytes were damaged on the way.
    #[error("frame is damaged: its checksum is wrong")]
    Checksum,
}

/// Appends one frame to `out`; `payload` writes its content right behind the header.
///
/// # Errors
/// [`FrameError::Oversized`]; `out` is then as it was.
pub fn encode(
    kind: Kind,
    payload_bytes_max: usize,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, MAGIC, VERSION, kind.code(), 0, 0, 0, 0, 0]);
    payload(out);
    let bytes = out.len() - start - HEADER_BYTES;
    let max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    if bytes > max {
        out.truncate(start);
        return Err(FrameError::Oversized { bytes, max });
    }
    // The limit is far below 4 GiB, so the cast keeps every bit.
    out[start + 8..start + HEADER_BYTES].copy_from_slice(&(bytes as u32).to_be_bytes());
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// One whole frame, borrowed from the buffer that it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The content.
    pub payload: &'a [u8],
}

/// Gathers the bytes of a connection and hands out whole frames.
#[derive(Debug)]
pub struct FrameReader {
    buf: Vec<u8>,
    /// Bytes at the front of `buf` that were handed out.
    start: usize,
    payload_bytes_max: usize,
    window: usize,
    /// The last read filled the room it got: there is more to come.
    full: bool,
}

impl FrameReader {
    /// An empty reader that refuses payloads over `payload_bytes_max`.
    pub fn new(payload_bytes_max: usize) -> Self {
        let payload_bytes_max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
        Self { buf: Vec::new(), start: 0, payload_bytes_max, window: WINDOW_BYTES_MIN, full: false }
    }

    /// Changes the limit for frames not yet handed out: small during the handshake, large after.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`]: close the connection. What is wrong with a header is said before the payload
    /// has come.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some((kind, length)) = self.header()? else { return Ok(None) };
        let end = self.start + HEADER_BYTES + length;
        if self.buf.len() < end {
            return Ok(None);
        }
        let frame = &self.buf[self.start..end];
        let (checksum, covered) = frame.split_at(4);
        if crc32fast::hash(covered).to_be_bytes() != checksum {
            return Err(FrameError::Checksum);
        }
        self.start = end;
        Ok(Some(Frame { kind, payload: &frame[HEADER_BYTES..] }))
    }

    /// Kind and payload length of the frame at the front, once its header has come.
    fn header(&self) -> Result<Option<(Kind, usize)>, FrameError> {
        let Some(header) = self.buf[self.start..].first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [_, _, _, _, magic, version, kind, zero, l0, l1, l2, l3] = *header;
        if magic != MAGIC {
            return Err(FrameError::Magic);
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let unknown = FrameError::Kind(u16::from_be_bytes([kind, zero]));
        let kind = Kind::from_code(kind).filter(|_| zero == 0).ok_or(unknown)?;
        let bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if bytes > self.payload_bytes_max {
            return Err(FrameError::Oversized { bytes, max: self.payload_bytes_max });
        }
        Ok(Some((kind, bytes)))
    }

    /// Reads once: whatever has come, as much as fits. Returns the number of bytes; 0 when the other
    /// side has finished. Call it when [`next_frame`](Self::next_frame) has nothing left.
    ///
    /// # Errors
    /// The stream's.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.full {
            // A stream that is faster than its reader would never let the writer, or another
            // connection, have its turn.
            task::yield_now().await;
        }
        self.make_room();
        let room = self.buf.capacity() - self.buf.len();
        let read = from.read_buf(&mut self.buf).await?;
        self.full = read == room;
        if self.full {
            self.window = (self.window * 2).min(WINDOW_BYTES_MAX);
        }
        Ok(read)
    }

    /// Room for one read: a window, or the rest of a long frame, but never more than what has come of
    /// it already. So a peer makes us allocate in proportion to what it has sent.
    fn make_room(&mut self) {
        self.buf.drain(..self.start);
        self.start = 0;
        if self.buf.is_empty() && self.buf.capacity() > KEEP_BYTES_MAX {
            self.buf = Vec::new();
        }
        let announced = self.header().ok().flatten().map_or(0, |(_, n)| n + HEADER_BYTES);
        let missing = announced.saturating_sub(self.buf.len());
        let want = self.window.max(missing.min(self.buf.len()));
        if self.buf.capacity() - self.buf.len() < want {
            self.buf.reserve_exact(want);
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.make_room();
        self.buf.extend_from_slice(bytes);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(kind, PAYLOAD_BYTES_MAX, &mut out, |out| out.extend_from_slice(payload)).unwrap();
        out
    }

    #[test]
    fn a_frame_is_checksum_magic_version_kind_zero_length_payload() {
        let kinds =
            [Kind::Hello, Kind::Welcome, Kind::Refused, Kind::Request, Kind::Reply, Kind::Goodbye];
        let lines = kinds.map(|kind| format!("{} {kind:?}", hex(&frame(kind, b"abc"))));
        // crc32, magic 5a, version 01, kind, zero, length 3, "abc"
        insta::assert_snapshot!(lines.join("\n"), @r#"
        d1 ff 7c 0f 5a 01 01 00 00 00 00 03 61 62 63 Hello
        e8 72 40 ca 5a 01 02 00 00 00 00 03 61 62 63 Welcome
        ff 09 54 89 5a 01 03 00 00 00 00 03 61 62 63 Refused
        9b 68 39 40 5a 01 04 00 00 00 00 03 61 62 63 Request
        8c 13 2d 03 5a 01 05 00 00 00 00 03 61 62 63 Reply
        b5 9e 11 c6 5a 01 06 00 00 00 00 03 61 62 63 Goodbye
        "#);
        let empty = hex(&frame(Kind::Goodbye, b""));
        insta::assert_snapshot!(empty, @"d1 ea d8 ce 5a 01 06 00 00 00 00 00");
    }

    #[test]
    fn bad_headers_are_told_apart_before_the_payload_has_come() {
        let good = frame(Kind::Request, b"payload");
        let with = |at: usize, byte: u8| {
            let mut bytes = good[..HEADER_BYTES].to_vec();
            bytes[at] = byte;
            let mut reader = FrameReader::new(1024);
            reader.push(&bytes);
            reader.next_frame().map(|frame| frame.is_some())
        };
        assert_eq!(with(4, b'G'), Err(FrameError::Magic));
        assert_eq!(with(5, 9), Err(FrameError::Version(9)));
        assert_eq!(with(6, 77), Err(FrameError::Kind(77 << 8)));
        assert_eq!(with(7, 1), Err(FrameError::Kind(0x0401)));
        assert_eq!(with(10, 4), Err(FrameError::Oversized { bytes: 1031, max: 1024 }));
        assert_eq!(with(0, good[0]), Ok(false), "the payload is still missing");
    }

    #[test]
    fn an_oversized_frame_is_not_written() {
        let mut out = b"before".to_vec();
        let refused = encode(Kind::Reply, 4, &mut out, |out| out.extend_from_slice(b"12345"));
        assert_eq!(refused, Err(FrameError::Oversized { bytes: 5, max: 4 }));
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut header = frame(Kind::Request, b"");
        header[8..12].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32).to_be_bytes());
        let mut reader = FrameReader::new(PAYLOAD_BYTES_MAX);
        reader.push(&header);
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(&[0; 100]);
        assert!(reader.capacity() <= 2 * WINDOW_BYTES_MIN, "{}", reader.capacity());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
            cuts in prop::collection::vec(1usize..200, 1..200),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(Kind::Reply, p)).collect();
            let mut reader = FrameReader::new(1024);
            let (mut rest, mut out, mut cut) = (bytes.as_slice(), Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                reader.push(head);
                rest = tail;
                while let Some(frame) = reader.next_frame().unwrap() {
                    out.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(out, payloads);
        }

        #[test]
        fn one_flipped_bit_never_passes(payload: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = frame(Kind::Request, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut reader = FrameReader::new(PAYLOAD_BYTES_MAX);
            reader.push(&bytes);
            // An error, or (a longer length) a frame whose end never comes.
            prop_assert!(!matches!(reader.next_frame(), Ok(Some(_))));
        }
    }
}
