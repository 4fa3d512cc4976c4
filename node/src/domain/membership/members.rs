//! The other members in the order of their hashes: two arrays side by side.
//!
//! Each datagram asks for a hundred members, each beat walks over all, and members come seldom and never go. So a
//! sorted array serves better than a tree: a walk runs through memory in one direction, and since hashes lie
//! evenly, the place of one follows from its value but for a few steps (interpolation search; Perl, Itai and Avni,
//! CACM 21(7), 1978). 1,000 nodes in one simulation spent a third of their time on cache misses of a tree.
//!
//! Invariant: `hashes` ascends without doubles, and `entries` has one entry for each, in the same order.

use std::ops::{Bound, RangeBounds};
use std::{iter, slice};

use super::suspicion::Entry;

/// So many places around the likely one are looked at first: four times the usual distance among 1,000.
const NEAR: usize = 64;

/// Members with their hashes.
type Iter<'a> = iter::Zip<iter::Copied<slice::Iter<'a, u64>>, slice::Iter<'a, Entry>>;

/// What is known of the others.
#[derive(Default)]
pub(super) struct Members {
    hashes: Vec<u64>,
    entries: Vec<Entry>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(super) fn get(&self, hash: u64) -> Option<&Entry> {
        self.find(hash).ok().map(|at| &self.entries[at])
    }

    pub(super) fn get_mut(&mut self, hash: u64) -> Option<&mut Entry> {
        self.find(hash).ok().map(|at| &mut self.entries[at])
    }

    /// Puts a member in its place, or another entry in its stead.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        match self.find(hash) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => {
                self.hashes.insert(at, hash);
                self.entries.insert(at, entry);
            }
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        self.range(..)
    }

    /// Those whose hashes lie in `range`, in order.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> Iter<'_> {
        let from = match range.start_bound() {
            Bound::Unbounded => 0,
            Bound::Included(&hash) => self.find(hash).unwrap_or_else(|at| at),
            Bound::Excluded(&hash) => self.find(hash).map_or_else(|at| at, |at| at + 1),
        };
        let until = match range.end_bound() {
            Bound::Unbounded => self.len(),
            Bound::Included(&hash) => self.find(hash).map_or_else(|at| at, |at| at + 1),
            Bound::Excluded(&hash) => self.find(hash).unwrap_or_else(|at| at),
        };
        let until = until.max(from);
        self.hashes[from..until].iter().copied().zip(&self.entries[from..until])
    }

    /// The place of `hash`, or where it belongs.
    fn find(&self, hash: u64) -> Result<usize, usize> {
        let all = self.hashes.len();
        let likely = ((u128::from(hash) * all as u128) >> 64) as usize;
        let (from, until) = (likely.saturating_sub(NEAR), (likely + NEAR).min(all));
        let near = &self.hashes[from..until];
        // Only a place between two others is sure.
        let inside = (from == 0 || near.first().is_some_and(|first| *first <= hash))
            && (until == all || near.last().is_some_and(|last| *last >= hash));
        if inside {
            return near.binary_search(&hash).map(|at| from + at).map_err(|at| from + at);
        }
        self.hashes.binary_search(&hash)
    }
}
