//! The index of a table: for each block where it ends, and the lowest place in key order that it may hold.
//!
//! A separator is a token and a tail, as the [parent](super) describes. Almost always the tail is
//! empty, because tokens differ; then a block costs 16 bytes and a search compares integers alone.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use bytes::{BufMut, Bytes};

use super::Properties;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::{Key, Token};

/// Blocks by key order. Separators ascend strictly; blocks follow each other from offset 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    tokens: Vec<Token>,
    /// The offset behind each block.
    ends: Vec<u64>,
    /// Tails that are not empty, by block.
    tails: BTreeMap<usize, Box<[u8]>>,
}

impl Index {
    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// What it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        16 * self.len() + self.tails.values().map(|tail| 48 + tail.len()).sum::<usize>()
    }

    /// Adds the block that starts with `first` and whose predecessor ends with `last`.
    pub(super) fn push(&mut self, last: Option<&Key>, first: &Key, stored_bytes: usize) {
        let tail = match last {
            Some(last) if last.token() == first.token() => {
                let same = last.raw().iter().zip(first.raw()).take_while(|(a, b)| a == b).count();
                &first.raw()[..=same]
            }
            Some(_) | None => &[],
        };
        self.add(first.token(), tail, stored_bytes as u64);
    }

    fn add(&mut self, token: Token, tail: &[u8], stored_bytes: u64) {
        if !tail.is_empty() {
            self.tails.insert(self.len(), tail.into());
        }
        self.tokens.push(token);
        let start = self.ends.last().copied().unwrap_or(0);
        self.ends.push(start + stored_bytes);
    }

    fn tail(&self, block: usize) -> &[u8] {
        self.tails.get(&block).map_or(&[], |tail| tail)
    }

    /// Where in the file the block is.
    pub(super) fn place(&self, block: usize) -> Range<u64> {
        let start = block.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[block]
    }

    /// The only block that may hold the key with this token and raw form; `None`: it is below all.
    pub(super) fn find(&self, token: Token, raw: &[u8]) -> Option<usize> {
        let end = self.tokens.partition_point(|t| *t <= token);
        if self.tails.is_empty() || end == 0 || self.tokens[end - 1] < token {
            return end.checked_sub(1);
        }
        // Several blocks may start with this token, and then their tails tell.
        let (mut low, mut high) = (self.tokens.partition_point(|t| *t < token), end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.tail(middle) <= raw { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    /// A key at which a block begins so that there is a whole one between it and `end`; `None`: there is none, so
    /// the table's first block or two are all that it has before `end`.
    pub(super) fn begin_before(&self, end: Option<&Key>) -> Option<Key> {
        let reaching = match end {
            Some(end) => self.find(end.token(), end.raw())?,
            None => self.len().checked_sub(1)?,
        };
        let block = reaching.checked_sub(1)?;
        let tail = Bytes::copy_from_slice(self.tail(block));
        Some(Key::bound(self.tokens[block], tail))
    }

    /// The tokens that the block may hold; `last` is the highest of the table.
    pub(super) fn tokens(&self, block: usize, last: Token) -> RangeInclusive<Token> {
        let end = match self.tokens.get(block + 1) {
            None => last,
            Some(next) if self.tails.contains_key(&(block + 1)) => *next,
            // A block without a tail starts above the last token of the one before.
            Some(next) => Token(next.0.saturating_sub(1)),
        };
        self.tokens[block]..=end
    }

    /// The blocks that may hold any of these tokens.
    pub(super) fn blocks(&self, tokens: RangeInclusive<Token>) -> Range<usize> {
        let end = self.tokens.partition_point(|t| t <= tokens.end());
        let start = self.tokens.partition_point(|t| t < tokens.start());
        // The block before may end within the range.
        start.saturating_sub(1).min(end)..end
    }

    /// True when it may be the index of a table with these properties.
    pub(super) fn fits(&self, properties: &Properties) -> bool {
        let first = self.tokens.first() == Some(&properties.first.token());
        let last = self.tokens.last().is_some_and(|token| *token <= properties.last.token());
        first && last && self.len() as u64 == properties.blocks
    }

    /// Appends the section of the file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for block in 0..self.len() {
            let place = self.place(block);
            out.put_varint(place.end - place.start);
            out.put_u64(self.tokens[block].0);
            out.put_block(self.tail(block));
        }
    }

    /// Reads a section, for blocks that end at `blocks_end`.
    pub(super) fn decode(section: &[u8], blocks_end: u64) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(section);
        let mut index = Self::default();
        while from.remaining() > 0 {
            let stored_bytes = from.varint("block length")?;
            let token = Token(from.u64("token")?);
            let tail = from.block("tail")?;
            let end = index.ends.last().copied().unwrap_or(0).checked_add(stored_bytes);
            if stored_bytes == 0 || end.is_none_or(|end| end > blocks_end) {
                return Err(DecodeError::Invalid("block length"));
            }
            let ascends = match index.len().checked_sub(1) {
                None => tail.is_empty(),
                Some(last) => (index.tokens[last], index.tail(last)) < (token, tail),
            };
            // An empty tail says that the block before has other tokens only.
            if !ascends || (tail.is_empty() && index.tokens.last() == Some(&token)) {
                return Err(DecodeError::Invalid("separator"));
            }
            index.add(token, tail, stored_bytes);
        }
        let whole = index.ends.last() == Some(&blocks_end);
        if whole { Ok(index) } else { Err(DecodeError::Invalid("block length")) }
    }
}
