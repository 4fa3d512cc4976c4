//! What the manifest knows, and how it changes; the bytes of a change are in the table of the
//! [parent](super).

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::{Key, Token};
use crate::storage::doubt::{Doubts, TokenRange};

/// Levels of tables: 0 to 6. Level 0 takes what is flushed; the last level takes what nothing else
/// lies below.
pub(in crate::storage) const LEVELS: usize = 7;

const ADD: u8 = 1;
const REMOVE: u8 = 2;
const NEXT_TABLE: u8 = 3;
const LOG: u8 = 4;
const DOUBT: u8 = 5;
const TRUST: u8 = 6;

/// What the manifest says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct TableMeta {
    pub(in crate::storage) id: u64,
    /// 0 to [`LEVELS`] − 1.
    pub(in crate::storage) level: u8,
    /// Its lowest key.
    pub(in crate::storage) first: Key,
    /// Its highest key.
    pub(in crate::storage) last: Key,
    /// Of its file.
    pub(in crate::storage) bytes: u64,
    pub(in crate::storage) entries: u64,
    /// The log's batches whose records it holds, from and through.
    pub(in crate::storage) batches: (u64, u64),
}

impl TableMeta {
    /// The tokens of its keys.
    pub(in crate::storage) fn tokens(&self) -> TokenRange {
        TokenRange::of_keys(&self.first, &self.last)
    }
}

/// One change. Several become one edit, which a crash leaves whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Change {
    /// The table counts from here on. Its file and the file's name are durable.
    Add(TableMeta),
    /// The table counts no more; its file may go.
    Remove(u64),
    /// Tables below this number were made or tried: none of the numbers is used again.
    NextTable(u64),
    /// Puts of batches through `flushed_through` are in tables, and the log starts at segment `start`
    /// (0: wherever its first segment is).
    Log { start: u64, flushed_through: u64 },
    /// These tokens cannot be vouched for.
    Doubt(TokenRange),
    /// These tokens can be again.
    Trust(TokenRange),
}

/// All that the edits so far amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct State {
    pub(in crate::storage) tables: BTreeMap<u64, TableMeta>,
    /// Higher than the number of any table that ever was in the set.
    pub(in crate::storage) next_table: u64,
    pub(in crate::storage) log_start: u64,
    pub(in crate::storage) flushed_through: u64,
    pub(in crate::storage) doubts: Doubts,
}

impl State {
    /// Makes one change, or says why it cannot be.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`]: no release ever wrote this change after those before it.
    pub(in crate::storage) fn apply(&mut self, change: &Change) -> Result<(), DecodeError> {
        let invalid = |what| Err(DecodeError::Invalid(what));
        match change {
            Change::Add(table) => {
                if table.first > table.last || usize::from(table.level) >= LEVELS {
                    return invalid("table");
                }
                if self.tables.contains_key(&table.id) {
                    return invalid("table that is there already");
                }
                self.tables.insert(table.id, table.clone());
                self.next_table = self.next_table.max(table.id + 1);
            }
            Change::Remove(id) => {
                if self.tables.remove(id).is_none() {
                    return invalid("removal of no table");
                }
            }
            Change::NextTable(next) => self.next_table = self.next_table.max(*next),
            Change::Log { start, flushed_through } => {
                if *start < self.log_start || *flushed_through < self.flushed_through {
                    return invalid("log that grows at its start");
                }
                self.log_start = *start;
                self.flushed_through = *flushed_through;
            }
            Change::Doubt(range) => self.doubts.add(*range),
            Change::Trust(range) => self.doubts.remove(*range),
        }
        Ok(())
    }

    /// The tables of each level; level 0 newest first, the others by key.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when two tables of a level other than 0 overlap.
    pub(in crate::storage) fn levels(&self) -> Result<Vec<Vec<TableMeta>>, DecodeError> {
        let mut levels = vec![Vec::new(); LEVELS];
        for table in self.tables.values() {
            levels[usize::from(table.level)].push(table.clone());
        }
        levels[0].reverse();
        for level in &mut levels[1..] {
            level.sort_by(|a, b| a.first.cmp(&b.first));
            if level.windows(2).any(|pair| pair[0].last >= pair[1].first) {
                return Err(DecodeError::Invalid("level with two tables for one key"));
            }
        }
        Ok(levels)
    }

    /// The changes that make an empty state into this one.
    pub(in crate::storage) fn changes(&self) -> Vec<Change> {
        let (start, flushed_through) = (self.log_start, self.flushed_through);
        let head = [Change::NextTable(self.next_table), Change::Log { start, flushed_through }];
        let tables = self.tables.values().cloned().map(Change::Add);
        let doubts = self.doubts.ranges().iter().copied().map(Change::Doubt);
        head.into_iter().chain(tables).chain(doubts).collect()
    }
}

impl Change {
    pub(in crate::storage) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Add(table) => {
                out.put_u8(ADD);
                out.put_varint(table.id);
                out.put_u8(table.level);
                table.first.encode(out);
                table.last.encode(out);
                out.put_varint(table.bytes);
                out.put_varint(table.entries);
                out.put_varint(table.batches.0);
                out.put_varint(table.batches.1);
            }
            Self::Remove(id) => {
                out.put_u8(REMOVE);
                out.put_varint(*id);
            }
            Self::NextTable(next) => {
                out.put_u8(NEXT_TABLE);
                out.put_varint(*next);
            }
            Self::Log { start, flushed_through } => {
                out.put_u8(LOG);
                out.put_varint(*start);
                out.put_varint(*flushed_through);
            }
            Self::Doubt(range) => encode_range(DOUBT, *range, out),
            Self::Trust(range) => encode_range(TRUST, *range, out),
        }
    }

    /// Takes a change off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no change that this release knows.
    pub(in crate::storage) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("kind of change")? {
            ADD => Self::Add(TableMeta {
                id: counter(from, "table number")?,
                level: from.u8("level")?,
                first: Key::decode(from)?,
                last: Key::decode(from)?,
                bytes: counter(from, "table bytes")?,
                entries: counter(from, "table entries")?,
                batches: (counter(from, "batch")?, counter(from, "batch")?),
            }),
            REMOVE => Self::Remove(counter(from, "table number")?),
            NEXT_TABLE => Self::NextTable(counter(from, "table number")?),
            LOG => Self::Log {
                start: counter(from, "segment")?,
                flushed_through: counter(from, "batch")?,
            },
            DOUBT => Self::Doubt(decode_range(from)?),
            TRUST => Self::Trust(decode_range(from)?),
            _ => return Err(DecodeError::Invalid("kind of change")),
        })
    }
}

/// A number that was counted up from 1 or is a size: far below 2^62, so that sums cannot overflow.
fn counter(from: &mut Decoder<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let value = from.varint(what)?;
    if value < 1 << 62 { Ok(value) } else { Err(DecodeError::Invalid(what)) }
}

fn encode_range(kind: u8, range: TokenRange, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u64(range.first.0);
    out.put_u64(range.last.0);
}

fn decode_range(from: &mut Decoder<'_>) -> Result<TokenRange, DecodeError> {
    let range = TokenRange { first: Token(from.u64("token")?), last: Token(from.u64("token")?) };
    if range.first <= range.last { Ok(range) } else { Err(DecodeError::Invalid("token range")) }
}
