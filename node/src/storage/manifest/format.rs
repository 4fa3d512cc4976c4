//! The bytes of a manifest's header and edits; the tables are in the [parent](super).

use bytes::{BufMut, BytesMut};

use super::edit::Change;
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder};

pub(in crate::storage) const HEADER_BYTES: usize = 40;
pub(in crate::storage) const EDIT_HEADER_BYTES: usize = 32;
pub(in crate::storage) const MANIFEST_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"\xffSTARMAN";
pub(in crate::storage) const EDIT_MAGIC: [u8; 4] = [0xff, 0xed, 0x17, 0x81];

/// What a manifest says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Header {
    pub(in crate::storage) number: u64,
    pub(in crate::storage) folder: NodeId,
    pub(in crate::storage) life: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum NoHeader {
    /// Torn, damaged, or something else.
    Unreadable,
    /// A valid header of another version.
    Version(u32),
}

impl Header {
    pub(in crate::storage) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(MAGIC);
        out.put_u32(MANIFEST_VERSION);
        out.put_u32(0);
        out.put_u64(self.number);
        out.put_u64(self.folder.0);
        out.put_u64(self.life);
        let header = &mut out[start..];
        assert_eq!(header.len(), HEADER_BYTES, "the table in the module says otherwise");
        let crc = header_checksum(header);
        header[12..16].copy_from_slice(&crc.to_be_bytes());
    }

    pub(in crate::storage) fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return Err(NoHeader::Unreadable) };
        if bytes[..8] != MAGIC[..] || header_checksum(bytes) != u32_at(bytes, 12) {
            return Err(NoHeader::Unreadable);
        }
        if u32_at(bytes, 8) != MANIFEST_VERSION {
            return Err(NoHeader::Version(u32_at(bytes, 8)));
        }
        Ok(Self {
            number: u64_at(bytes, 16),
            folder: NodeId(u64_at(bytes, 24)),
            life: u64_at(bytes, 32),
        })
    }
}

fn header_checksum(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..]);
    crc.finalize()
}

/// Appends the edit of `changes`.
pub(in crate::storage) fn encode_edit(
    number: u64,
    life: u64,
    changes: &[Change],
    out: &mut BytesMut,
) {
    let start = out.len();
    out.put_slice(&EDIT_MAGIC);
    out.put_u32(0);
    out.put_u32(0);
    out.put_u32(u32::try_from(changes.len()).expect("far fewer than 2^32 tables"));
    out.put_u64(number);
    out.put_u64(life);
    for change in changes {
        change.encode(out);
    }
    let edit = &mut out[start..];
    let body = u32::try_from(edit.len() - EDIT_HEADER_BYTES).expect("an edit is below 4 GiB");
    edit[8..12].copy_from_slice(&body.to_be_bytes());
    let crc = crc32fast::hash(&edit[8..]);
    edit[4..8].copy_from_slice(&crc.to_be_bytes());
}

/// An edit whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(in crate::storage) struct Edit<'a> {
    pub(in crate::storage) number: u64,
    pub(in crate::storage) life: u64,
    count: u32,
    body: &'a [u8],
}

impl<'a> Edit<'a> {
    /// The edit at the front of `bytes`; `None` when there is none.
    pub(in crate::storage) fn at_front(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..EDIT_HEADER_BYTES)?;
        if header[..4] != EDIT_MAGIC {
            return None;
        }
        let end = EDIT_HEADER_BYTES.checked_add(u32_at(header, 8) as usize)?;
        let edit = bytes.get(..end)?;
        (crc32fast::hash(&edit[8..]) == u32_at(header, 4)).then(|| Self {
            number: u64_at(header, 16),
            life: u64_at(header, 24),
            count: u32_at(header, 12),
            body: &edit[EDIT_HEADER_BYTES..],
        })
    }

    /// Bytes of the whole edit.
    pub(in crate::storage) fn total_bytes(&self) -> usize {
        EDIT_HEADER_BYTES + self.body.len()
    }

    /// Gives each change to `apply`, in order.
    ///
    /// # Errors
    /// [`DecodeError`]: written by another release, or by a bug.
    pub(in crate::storage) fn changes(
        &self,
        mut apply: impl FnMut(&Change) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut from = Decoder::new(self.body);
        for _ in 0..self.count {
            apply(&Change::decode(&mut from)?)?;
        }
        from.finish()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(field)
}
