//! The model store's object: plain sets of write numbers, no compression, nothing to get wrong.

use std::collections::BTreeMap;

use crate::history::ValueId;
use crate::oracle::bits::Bits;

/// What a replica of the model holds for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    /// Every write it has heard of.
    pub(super) known: Bits,
    /// Those that nothing known superseded; `None` is a tombstone.
    pub(super) live: BTreeMap<usize, Option<ValueId>>,
}

impl Object {
    /// Adds the write `dot`, whose client had seen `seen`.
    pub(super) fn write(&mut self, seen: &Bits, dot: usize, content: Option<ValueId>) {
        self.live.retain(|dot, _| !seen.contains(*dot));
        self.known.add(seen);
        self.known.insert(dot);
        self.live.insert(dot, content);
    }

    /// Learns what `other` knows.
    pub(super) fn merge(&mut self, other: &Object) {
        self.live.retain(|dot, _| !other.known.contains(*dot) || other.live.contains_key(dot));
        for (dot, content) in &other.live {
            if !self.known.contains(*dot) {
                self.live.insert(*dot, *content);
            }
        }
        self.known.add(&other.known);
    }

    /// True when it has never heard of a write.
    pub(super) fn is_empty(&self) -> bool {
        self.known == Bits::default()
    }

    /// The live values, equal ones as often as they are there, and whether a tombstone lives.
    pub(super) fn shown(&self) -> (Vec<ValueId>, bool) {
        let mut values: Vec<ValueId> = self.live.values().copied().flatten().collect();
        values.sort_unstable();
        (values, self.live.values().any(Option::is_none))
    }
}
