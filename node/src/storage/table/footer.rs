//! The end of a table: footer and properties. The bytes are in the [parent](super).

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::{Origin, Properties, TableId};
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::{Key, Token};

pub(super) const FOOTER_BYTES: usize = 72;
pub(super) const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"\xffSTARSST";

/// Where the sections are, and what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) filter_at: u64,
    pub(super) index_at: u64,
    pub(super) properties_at: u64,
    pub(super) filter_crc: u32,
    pub(super) index_crc: u32,
    pub(super) properties_crc: u32,
    pub(super) origin: Origin,
}

/// Why bytes are no footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoFooter {
    /// Damaged, or something else.
    Unreadable(&'static str),
    /// A valid footer of another version.
    Version(u32),
}

impl Footer {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64(self.filter_at);
        out.put_u64(self.index_at);
        out.put_u64(self.properties_at);
        out.put_u32(self.filter_crc);
        out.put_u32(self.index_crc);
        out.put_u32(self.properties_crc);
        out.put_u32(0);
        out.put_u64(self.origin.table.0);
        out.put_u64(self.origin.folder.0);
        out.put_u32(0);
        out.put_u32(VERSION);
        out.put_slice(MAGIC);
        let footer = &mut out[start..];
        assert_eq!(footer.len(), FOOTER_BYTES, "the table in the module says otherwise");
        let crc = checksum(footer);
        footer[56..60].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads the footer of a file of `file_bytes` bytes. Its sections lie in that file, in order.
    pub(super) fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self, NoFooter> {
        let Some(bytes) = bytes.first_chunk::<FOOTER_BYTES>() else {
            return Err(NoFooter::Unreadable("it is too short to be a table"));
        };
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if bytes[64..] != MAGIC[..] {
            return Err(NoFooter::Unreadable("it does not end as a table does"));
        }
        if checksum(bytes) != u32_at(56) {
            return Err(NoFooter::Unreadable("the checksum of its footer does not match"));
        }
        if u32_at(60) != VERSION {
            return Err(NoFooter::Version(u32_at(60)));
        }
        let footer = Self {
            filter_at: u64_at(0),
            index_at: u64_at(8),
            properties_at: u64_at(16),
            filter_crc: u32_at(24),
            index_crc: u32_at(28),
            properties_crc: u32_at(32),
            origin: Origin { table: TableId(u64_at(40)), folder: NodeId(u64_at(48)) },
        };
        let ends = [0, footer.filter_at, footer.index_at, footer.properties_at];
        let end = file_bytes.checked_sub(FOOTER_BYTES as u64);
        let in_order = ends.is_sorted() && end.is_some_and(|end| footer.properties_at <= end);
        let plain = in_order && u32_at(36) == 0;
        if plain { Ok(footer) } else { Err(NoFooter::Unreadable("its footer is not valid")) }
    }

    /// The places of filter, index and properties, counted from the filter's start.
    pub(super) fn sections(&self, meta_bytes: usize) -> [Range<usize>; 3] {
        let index = (self.index_at - self.filter_at) as usize;
        let properties = (self.properties_at - self.filter_at) as usize;
        [0..index, index..properties, properties..meta_bytes]
    }
}

fn checksum(footer: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&footer[..56]);
    crc.update(&footer[60..]);
    crc.finalize()
}

impl Properties {
    /// Appends the section of the file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.entries);
        out.put_varint(self.blocks);
        out.put_varint(self.raw_bytes);
        out.put_varint(*self.batches.start());
        out.put_varint(*self.batches.end());
        for key in [&self.first, &self.last] {
            out.put_u64(key.token().0);
            out.put_block(key.raw());
        }
    }

    /// Reads the section of a file of `file_bytes` bytes.
    pub(super) fn decode(section: &[u8], file_bytes: u64) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(section);
        let entries = from.varint("entries")?;
        let blocks = from.varint("blocks")?;
        let raw_bytes = from.varint("bytes")?;
        let batches = from.varint("batch")?..=from.varint("batch")?;
        let (first, last) = (decode_key(&mut from)?, decode_key(&mut from)?);
        from.finish()?;
        if blocks == 0 || blocks > entries || first > last || batches.is_empty() {
            return Err(DecodeError::Invalid("properties"));
        }
        Ok(Self { entries, blocks, raw_bytes, file_bytes, batches, first, last })
    }
}

fn decode_key(from: &mut Decoder<'_>) -> Result<Key, DecodeError> {
    let token = Token(from.u64("token")?);
    Key::from_raw(token, Bytes::copy_from_slice(from.block("key")?))
}
