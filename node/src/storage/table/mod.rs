//! SSTables: immutable files of objects in key order.
//!
//! ```text
//! get(key) ──► filter (memory) ──► index (memory) ──► block (cache, or one read) ──► object
//!                 └─ no: nothing is read
//! ```
//!
//! A [`TableWriter`] makes a table from entries in key order; [`Table::open`] opens it for ever after:
//! a table never changes, and is never renamed. Which tables count is for the manifest to say.
//!
//! # File
//!
//! A table is a file `table-<10 digits>.sst`, numbered from 1; a number is never used twice in a
//! folder. Integers of fixed length are big-endian, varints and length-prefixed bytes are those of
//! [`domain::codec`](crate::domain::codec). The sections follow each other without gaps:
//!
//! ```text
//! block │ block │ … │ filter │ index │ properties │ footer
//! ```
//!
//! **Block.** Some [4 KiB](BLOCK_BYTES) of entries, or one entry that is larger:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of the folder's id, the table's id and the block's offset (8 bytes each), then of all bytes from 4 on |
//! | 4 | 1 | 0: the payload is stored as it is; 1: it is one LZ4 block |
//! | 5 | 4 | length of the payload as stored |
//! | 9 | 4 | length of the payload once unpacked |
//! | 13 | … | payload |
//!
//! The checksum covers where the block belongs: right bytes in the wrong place, or of another file,
//! are damage too. LZ4 is used where it saves at least an eighth.
//!
//! The payload keeps keys apart from objects, so that a search walks over few bytes:
//!
//! | bytes | what |
//! |---|---|
//! | … | the entries' heads, each: token (8), shared (varint), rest (varint), object's length (varint), the rest of the name |
//! | … | the entries' objects, as `domain` encodes them, in the same order, without gaps |
//! | 8 each | restarts: offset of every 16th head (4), offset of its object (4), both from the payload's start |
//! | 4 | number of entries; at least 1 |
//!
//! A name is the key's `bucket 0x00 name`. Its first `shared` bytes are those of the name at the restart
//! before it; a restart shares nothing. Tokens are not compressed: they are random, and a search
//! compares little else.
//!
//! **Filter.** A Bloom filter over all keys:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | probes a key; 0: no filter |
//! | n | bits; their number is 8 n, bit i is bit i mod 8 of byte i / 8 |
//!
//! A key's bits are h1 + i h2 modulo the number of bits, for i = 0, 1, … below the number of
//! probes (Kirsch & Mitzenmacher 2006), with
//! h1 = fmix64(token ^ crc32(name) * `9e3779b97f4a7c15`) and h2 = fmix64(h1 + `9e3779b97f4a7c15`) | 1, where fmix64
//! is the finaliser of murmur3 and sums and products are modulo 2^64.
//!
//! **Index.** An entry for each block, in order: length of the block in the file (varint); token (8);
//! length-prefixed tail. Token and tail are a separator: no key of an earlier block is as high as it, and no
//! key of this block or a later one is below it. The tail is empty unless the block starts with the
//! token that the one before ends with; then it is as much of the name as tells them apart.
//!
//! **Properties.** Varints: number of entries, of blocks, bytes of all blocks unpacked, first and last batch of the
//! log whose writes the table holds; then the first and the last key, each: token (8), length-prefixed name.
//!
//! **Footer.** The last 72 bytes:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | offset of the filter: where the blocks end |
//! | 8 | 8 | offset of the index |
//! | 16 | 8 | offset of the properties; they end where the footer starts |
//! | 24 | 4 | CRC-32 of the filter |
//! | 28 | 4 | CRC-32 of the index |
//! | 32 | 4 | CRC-32 of the properties |
//! | 36 | 4 | zero |
//! | 40 | 8 | the table's id, as in its name |
//! | 48 | 8 | the folder's id, see [`identity`](super::identity) |
//! | 56 | 4 | CRC-32 of bytes 0 to 55 and 60 to 71 |
//! | 60 | 4 | format version, 1 |
//! | 64 | 8 | magic `ff` `STARSST` |
//!
//! Its length and the place of magic, version and checksum are the same in every version.
//!
//! # Rules
//!
//! - A table counts once [`TableWriter::finish`] returned and the folder was synced. Until then it is an orphan.
//! - Whatever the bytes of a file are, reading it gives what was written, or a [`TableError`] that
//!   says which tokens are in doubt; never another value, never a panic. A damaged block puts its own
//!   keys in doubt and no others; damage of index, properties or footer the whole table. A damaged
//!   filter puts nothing in doubt: the table is read without it.
//! - In memory an open table costs its filter (10 to 20 bits a key) and 16 bytes a block, and beyond that
//!   the separators' tails, which are empty but where one `{tag}` fills more than a block. 2,000,000
//!   keys of 1,000 bytes: 2.5 MB and 2.5 MB.
//!
//! What this module does not do: decide what is written to a table or which of two entries is the
//! newer one; remove files; sync folders.

mod block;
mod cache;
pub(in crate::storage) mod check;
mod cursor;
mod error;
mod filter;
mod footer;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod reader;
mod writer;

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::domain::causality::NodeId;
use crate::domain::key::Key;

pub use cache::{BlockCache, CacheStats};
pub use cursor::{Cursor, Entry};
pub use error::{ALL_TOKENS, TableError};
pub use reader::{Table, Target};
pub use writer::TableWriter;

/// A block is closed once its entries have so many bytes: what a point read unpacks. Measured with 500,000 pairs of
/// 1,000 bytes beside fjall in one run (`tests/engine_bench --block-bytes`), gets that the cache misses: 0.59 times
/// fjall's with 16 KiB, 0.77 with 8, 1.44 with 4. In return the tables are 7 % larger than with 16 KiB, and the index
/// takes 16 bytes of memory a block: 4 MiB for each GiB of pairs.
pub const BLOCK_BYTES: usize = 4 << 10;

/// A table's number in its folder: from 1, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

/// Where a table belongs. Its file is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The folder's id, which never changes.
    pub folder: NodeId,
    /// The table.
    pub table: TableId,
}

/// What a new table is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Where it belongs.
    pub origin: Origin,
    /// At most so many entries will be added. It sizes the filter; up to twice too many costs nothing
    /// but memory while the table is written.
    pub entries_max: u64,
    /// The batches of the log whose writes it holds.
    pub batches: RangeInclusive<u64>,
    /// A block is closed once it has so many bytes: [`BLOCK_BYTES`], or fewer in tests.
    pub block_bytes: usize,
}

/// What a table says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Number of entries; at least 1.
    pub entries: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of all blocks, unpacked.
    pub raw_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The batches of the log whose writes it holds.
    pub batches: RangeInclusive<u64>,
    /// Its lowest key.
    pub first: Key,
    /// Its highest key.
    pub last: Key,
}

/// The path of a table in `folder`.
pub fn table_path(folder: &Path, id: TableId) -> PathBuf {
    folder.join(format!("table-{:010}.sst", id.0))
}

/// The table that a file called `name` is; `None` when it is none.
pub fn table_number(name: &str) -> Option<TableId> {
    let digits = name.strip_prefix("table-")?.strip_suffix(".sst")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = if plain { digits.parse().ok()? } else { return None };
    (number > 0 && number < u64::MAX / 2).then_some(TableId(number))
}
