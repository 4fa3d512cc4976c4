//! The bytes of segment headers and batches; the tables are in the [parent](super).

use bytes::{BufMut, Bytes, BytesMut};

use super::record::Record;
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder};

pub(in crate::storage) const SEGMENT_HEADER_BYTES: usize = 72;
pub(in crate::storage) const BATCH_HEADER_BYTES: usize = 44;
pub(in crate::storage) const SEGMENT_VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"\xffSTARLOG";
pub(in crate::storage) const BATCH_MAGIC: [u8; 4] = [0xff, 0xba, 0x7c, 0x81];

/// A place in the log: a segment and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Place {
    /// Number of the segment; 0: before the log starts.
    pub(in crate::storage) segment: u64,
    pub(in crate::storage) offset: u64,
}

impl Place {
    pub(in crate::storage) const START: Self = Self { segment: 0, offset: 0 };
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct SegmentHeader {
    pub(in crate::storage) number: u64,
    /// The id under which the folder was made: all its segments bear it.
    pub(in crate::storage) folder: NodeId,
    pub(in crate::storage) life: u64,
    /// Where the log before it ends.
    pub(in crate::storage) follows: Place,
    pub(in crate::storage) first_batch: u64,
    pub(in crate::storage) born_through: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum NoHeader {
    /// Torn, damaged, or something else.
    Unreadable,
    /// A valid header of another version.
    Version(u32),
}

impl SegmentHeader {
    pub(in crate::storage) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32(SEGMENT_VERSION);
        out.put_u32(0);
        out.put_u64(self.number);
        out.put_u64(self.folder.0);
        out.put_u64(self.life);
        out.put_u64(self.follows.segment);
        out.put_u64(self.follows.offset);
        out.put_u64(self.first_batch);
        out.put_u64(self.born_through);
        let header = &mut out[start..];
        assert_eq!(header.len(), SEGMENT_HEADER_BYTES, "the table in the module says otherwise");
        let crc = header_checksum(header);
        header[12..16].copy_from_slice(&crc.to_be_bytes());
    }

    pub(in crate::storage) fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return Err(NoHeader::Unreadable);
        };
        if bytes[..8] != SEGMENT_MAGIC[..] || header_checksum(bytes) != u32_at(bytes, 12) {
            return Err(NoHeader::Unreadable);
        }
        if u32_at(bytes, 8) != SEGMENT_VERSION {
            return Err(NoHeader::Version(u32_at(bytes, 8)));
        }
        let header = Self {
            number: u64_at(bytes, 16),
            folder: NodeId(u64_at(bytes, 24)),
            life: u64_at(bytes, 32),
            follows: Place { segment: u64_at(bytes, 40), offset: u64_at(bytes, 48) },
            first_batch: u64_at(bytes, 56),
            born_through: u64_at(bytes, 64),
        };
        // Numbers are far below 2^63 in every header ever written; sums below can't overflow.
        let sane = header.first_batch > 0
            && header.born_through < u64::MAX / 2
            && header.first_batch <= header.born_through + 1
            && header.follows.segment < header.number;
        if sane { Ok(header) } else { Err(NoHeader::Unreadable) }
    }
}

fn header_checksum(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..]);
    crc.finalize()
}

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct BatchHeader {
    crc: u32,
    pub(in crate::storage) body_bytes: u32,
    pub(in crate::storage) records: u32,
    pub(in crate::storage) number: u64,
    pub(in crate::storage) durable_through: u64,
    pub(in crate::storage) life: u64,
    pub(in crate::storage) at_birth: bool,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; `None` when that is no header. Its checksum is not
    /// checked yet: see [`matches`](Self::matches).
    pub(in crate::storage) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let at_birth = u32_at(bytes, 40);
        (bytes[..4] == BATCH_MAGIC && at_birth <= 1).then(|| Self {
            crc: u32_at(bytes, 4),
            body_bytes: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            number: u64_at(bytes, 16),
            durable_through: u64_at(bytes, 24),
            life: u64_at(bytes, 32),
            at_birth: at_birth == 1,
        })
    }

    /// Bytes of the whole batch.
    pub(in crate::storage) fn total_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes as usize
    }

    /// True when `batch`, header and records, is what was written.
    pub(in crate::storage) fn matches(&self, batch: &[u8]) -> bool {
        batch.len() == self.total_bytes() && crc32fast::hash(&batch[8..]) == self.crc
    }
}

/// Where and when a batch is written.
#[derive(Clone, Copy, Debug)]
pub(in crate::storage) struct Stamp {
    pub(in crate::storage) life: u64,
    pub(in crate::storage) durable_through: u64,
    pub(in crate::storage) at_birth: bool,
}

/// Records under one number, in a buffer that starts with room for the header.
#[derive(Debug)]
pub(in crate::storage) struct Batch {
    pub(in crate::storage) number: u64,
    pub(in crate::storage) records: u32,
    pub(in crate::storage) buffer: BytesMut,
}

impl Batch {
    /// An empty batch in the memory of `buffer`.
    pub(in crate::storage) fn new(number: u64, mut buffer: BytesMut) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        Self { number, records: 0, buffer }
    }

    /// Appends the one record that `encode` writes.
    pub(in crate::storage) fn push(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.buffer);
        self.records += 1;
    }

    /// Fills in the header. The batch can be stamped again for another place.
    pub(in crate::storage) fn stamp(&mut self, stamp: Stamp) {
        assert!(stamp.durable_through < self.number, "{} declares itself: {stamp:?}", self.number);
        let body = self.buffer.len() - BATCH_HEADER_BYTES;
        let body = u32::try_from(body).expect("a batch is bounded far below 4 GiB");
        let mut header = &mut self.buffer[..BATCH_HEADER_BYTES];
        header.put_slice(&BATCH_MAGIC);
        header.put_u32(0);
        header.put_u32(body);
        header.put_u32(self.records);
        header.put_u64(self.number);
        header.put_u64(stamp.durable_through);
        header.put_u64(stamp.life);
        header.put_u32(u32::from(stamp.at_birth));
        let crc = crc32fast::hash(&self.buffer[8..]);
        self.buffer[4..8].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Takes the records of a batch apart: each with the batch's number.
///
/// # Errors
/// [`DecodeError`]: the checksum was right, so this was written by another release, or by a bug.
pub(in crate::storage) fn decode_records(
    header: &BatchHeader,
    batch: &Bytes,
    apply: &mut impl FnMut(u64, Record),
) -> Result<(), DecodeError> {
    let mut from = Decoder::new(&batch[BATCH_HEADER_BYTES..]);
    for _ in 0..header.records {
        apply(header.number, Record::decode(&mut from)?);
    }
    from.finish()
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
