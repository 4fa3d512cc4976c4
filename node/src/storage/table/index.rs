//! The index of a table: for each block where it ends, and the lowest place in key order that it may hold.
//!
//! A separator is a token and a tail, as the [parent](super) describes. Almost always the tail is
//! empty, because tokens differ; then a block costs 16 bytes and a search compares integers alone. Tokens are
//! hashes, so a search begins where the token would stand if all were equally far apart: it meets two or three lines of memory
//! in place of the dozen of a binary search (interpolation search: Peterson, "Addressing for Random-Access Storage", 1957).

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use bytes::{BufMut, Bytes};

use super::Properties;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::{Key, Token};

/// A block's separator, and the offset behind the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    token: Token,
    end: u64,
}

/// Blocks by key order. Separators ascend strictly; blocks follow each other from offset 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    blocks: Vec<Entry>,
    /// Tails that are not empty, by block.
    tails: BTreeMap<usize, Box<[u8]>>,
}

impl Index {
    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
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
        self.blocks.push(Entry { token, end: self.end() + stored_bytes });
    }

    /// The offset behind the last block.
    fn end(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.end)
    }

    /// How many blocks start at this token or below.
    fn through(&self, token: Token) -> usize {
        let (Some(first), Some(last)) = (self.blocks.first(), self.blocks.last()) else { return 0 };
        // Blocks for each token, were they all equally far apart.
        let density = (self.len() - 1) as f64 / (last.token.0 - first.token.0).max(1) as f64;
        let far = |from: Token| (token.0.saturating_sub(from.0) as f64 * density) as usize;
        let back = |from: Token| (from.0.saturating_sub(token.0) as f64 * density) as usize;
        let mut guess = far(first.token).min(self.len() - 1);
        let met = self.blocks[guess].token;
        guess = guess.saturating_add(far(met)).saturating_sub(back(met)).min(self.len() - 1);
        // From there outwards in steps that double, which is cheap where the guess is close and never dear.
        let below = |at: usize| self.blocks[at].token <= token;
        let (mut low, mut high, mut step) = (guess, guess, 2);
        while low > 0 && !below(low) {
            (high, low) = (low, low.saturating_sub(step));
            step *= 2;
        }
        while high < self.len() && below(high) {
            (low, high) = (high, (high + step).min(self.len()));
            step *= 2;
        }
        low + self.blocks[low..high].partition_point(|block| block.token <= token)
    }

    fn tail(&self, block: usize) -> &[u8] {
        self.tails.get(&block).map_or(&[], |tail| tail)
    }

    /// Where in the file the block is.
    pub(super) fn place(&self, block: usize) -> Range<u64> {
        let start = block.checked_sub(1).map_or(0, |before| self.blocks[before].end);
        start..self.blocks[block].end
    }

    /// The only block that may hold the key with this token and raw form; `None`: it is below all.
    pub(super) fn find(&self, token: Token, raw: &[u8]) -> Option<usize> {
        let end = self.through(token);
        if self.tails.is_empty() || end == 0 || self.blocks[end - 1].token < token {
            return end.checked_sub(1);
        }
        // Several blocks may start with this token, and then their tails tell.
        let (mut low, mut high) = (self.blocks.partition_point(|block| block.token < token), end);
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
        Some(Key::bound(self.blocks[block].token, tail))
    }

    /// The tokens that the block may hold; `last` is the highest of the table.
    pub(super) fn tokens(&self, block: usize, last: Token) -> RangeInclusive<Token> {
        let end = match self.blocks.get(block + 1) {
            None => last,
            Some(next) if self.tails.contains_key(&(block + 1)) => next.token,
            // A block without a tail starts above the last token of the one before.
            Some(next) => Token(next.token.0.saturating_sub(1)),
        };
        self.blocks[block].token..=end
    }

    /// The blocks that may hold any of these tokens.
    pub(super) fn blocks(&self, tokens: RangeInclusive<Token>) -> Range<usize> {
        let end = self.through(*tokens.end());
        let start = self.blocks.partition_point(|block| block.token < *tokens.start());
        // The block before may end within the range.
        start.saturating_sub(1).min(end)..end
    }

    /// True when it may be the index of a table with these properties.
    pub(super) fn fits(&self, properties: &Properties) -> bool {
        let first = self.blocks.first().map(|block| block.token) == Some(properties.first.token());
        let last = self.blocks.last().is_some_and(|block| block.token <= properties.last.token());
        first && last && self.len() as u64 == properties.blocks
    }

    /// Appends the section of the file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for block in 0..self.len() {
            let place = self.place(block);
            out.put_varint(place.end - place.start);
            out.put_u64(self.blocks[block].token.0);
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
            let end = index.end().checked_add(stored_bytes);
            if stored_bytes == 0 || end.is_none_or(|end| end > blocks_end) {
                return Err(DecodeError::Invalid("block length"));
            }
            let ascends = match index.len().checked_sub(1) {
                None => tail.is_empty(),
                Some(last) => (index.blocks[last].token, index.tail(last)) < (token, tail),
            };
            // An empty tail says that the block before has other tokens only.
            let repeated = index.blocks.last().is_some_and(|block| block.token == token);
            if !ascends || (tail.is_empty() && repeated) {
                return Err(DecodeError::Invalid("separator"));
            }
            index.add(token, tail, stored_bytes);
        }
        let whole = index.len() > 0 && index.end() == blocks_end;
        if whole { Ok(index) } else { Err(DecodeError::Invalid("block length")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tokens as hashes give them, and such as would lead a guess astray: close together, far apart, at the ends.
    fn token() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..50u64,
            (0..50u64).prop_map(|n| u64::MAX - n),
            (0..64u32).prop_map(|n| 1 << n),
        ]
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_walk_finds(
            tokens in prop_oneof![
                prop::collection::btree_set(token(), 0..4),
                prop::collection::btree_set(token(), 0..200),
            ],
            asked in prop::collection::vec(token(), 50),
        ) {
            let mut index = Index::default();
            tokens.iter().for_each(|token| index.add(Token(*token), &[], 7));
            for asked in asked.iter().chain(&tokens) {
                let walked = tokens.iter().take_while(|token| *token <= asked).count();
                prop_assert_eq!(index.through(Token(*asked)), walked, "{} in {:?}", asked, tokens);
            }
        }
    }
}
