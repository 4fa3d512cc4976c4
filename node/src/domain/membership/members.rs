//! The other members, in arrays side by side: their hashes in order, and what is known of each.
//!
//! Each datagram asks for a hundred members, each beat walks over all, and members come seldom and never go. So a
//! sorted array serves better than a tree: a walk runs through memory in one direction, and since hashes lie
//! evenly, the place of one follows from its value but for a few steps (interpolation search; Perl, Itai and Avni,
//! CACM 21(7), 1978). 1,000 nodes in one simulation spent a third of their time on cache misses of a tree.
//!
//! Invariant: `hashes` ascends without doubles; `slots` says for each of them which entry is its own. Entries stay
//! where they were put, in the order in which they came.

use std::ops::{Bound, RangeBounds};
use std::slice;

use super::suspicion::Entry;

/// So many places around the likely one are looked at first: four times the usual distance among 1,000.
const NEAR: usize = 64;

/// Where an entry lies. It never moves.
pub(super) type Slot = u32;

/// What is known of the others.
#[derive(Default)]
pub(super) struct Members {
    hashes: Vec<u64>,
    slots: Vec<Slot>,
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
        self.find(hash).ok().map(|at| &self.entries[self.slots[at] as usize])
    }

    pub(super) fn get_mut(&mut self, hash: u64) -> Option<&mut Entry> {
        let slot = self.slot(hash)?;
        self.entries.get_mut(slot as usize)
    }

    /// Puts a member in its place, or another entry in its stead.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        match self.find(hash) {
            Ok(at) => self.entries[self.slots[at] as usize] = entry,
            Err(at) => {
                self.hashes.insert(at, hash);
                self.slots.insert(at, self.entries.len() as Slot);
                self.entries.push(entry);
            }
        }
    }

    /// All, in the order in which they came.
    pub(super) fn values(&self) -> slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    pub(super) fn values_mut(&mut self) -> slice::IterMut<'_, Entry> {
        self.entries.iter_mut()
    }

    /// All with their slots, in the order in which they came.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        (0..).zip(&self.entries)
    }

    /// Where the entry of a member lies.
    pub(super) fn slot(&self, hash: u64) -> Option<Slot> {
        self.find(hash).ok().map(|at| self.slots[at])
    }

    /// The entry that lies in `slot`.
    pub(super) fn at(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }

    /// Those whose hashes lie in `range`, in order.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> Range<'_> {
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
        let (hashes, slots) = (&self.hashes[from..until], &self.slots[from..until]);
        Range { hashes: hashes.iter(), slots: slots.iter(), entries: &self.entries }
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

/// Members with their hashes, in the order of these.
pub(super) struct Range<'a> {
    hashes: slice::Iter<'a, u64>,
    slots: slice::Iter<'a, Slot>,
    entries: &'a [Entry],
}

impl<'a> Iterator for Range<'a> {
    type Item = (u64, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        Some((*self.hashes.next()?, &self.entries[*self.slots.next()? as usize]))
    }
}
