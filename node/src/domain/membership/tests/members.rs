//! The sorted array says what a tree would say.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::net::info;
use crate::domain::membership::members::Members;
use crate::domain::membership::suspicion::Entry;
use crate::domain::membership::wire::{Record, Stamp};
use crate::runtime::time::Instant;

fn entry(born: u64) -> Entry {
    Entry::new(Record { info: info(1, 1, 1), stamp: Stamp::default(), born }, Instant::default())
}

/// Hashes that lie evenly, in a heap at either end, and close to each other.
fn hash() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..300_u64,
        (u64::MAX - 300)..=u64::MAX,
        (1 << 40)..(1 << 40) + 300_u64
    ]
}

proptest! {
    #[test]
    fn a_sorted_array_says_what_a_tree_would(
        inserted in prop::collection::vec(hash(), 0..400),
        asked in prop::collection::vec((hash(), hash()), 1..20),
    ) {
        let (mut members, mut tree) = (Members::default(), BTreeMap::new());
        for (born, hash) in inserted.iter().enumerate() {
            members.insert(*hash, entry(born as u64));
            tree.insert(*hash, born as u64);
        }
        prop_assert_eq!(members.len(), tree.len());
        prop_assert_eq!(members.is_empty(), tree.is_empty());
        for hash in tree.keys().copied().chain(asked.iter().map(|(from, _)| *from)) {
            prop_assert_eq!(members.get(hash).map(|e| e.record.born), tree.get(&hash).copied());
        }
        for (from, until) in asked {
            let (from, until) = (from.min(until), from.max(until));
            let some = |found: Vec<(u64, &Entry)>| -> Vec<(u64, u64)> {
                found.into_iter().map(|(hash, entry)| (hash, entry.record.born)).collect()
            };
            let told = |found: Vec<(&u64, &u64)>| -> Vec<(u64, u64)> {
                found.into_iter().map(|(hash, born)| (*hash, *born)).collect()
            };
            prop_assert_eq!(some(members.range(from..until).collect()), told(tree.range(from..until).collect()));
            prop_assert_eq!(some(members.range(from..=until).collect()), told(tree.range(from..=until).collect()));
            prop_assert_eq!(some(members.range(..=until).collect()), told(tree.range(..=until).collect()));
            prop_assert_eq!(some(members.range(from..).collect()), told(tree.range(from..).collect()));
        }
        prop_assert_eq!(members.slots().count(), tree.len());
        for (slot, entry) in members.slots() {
            prop_assert_eq!(members.at(slot).record.born, entry.record.born);
        }
        prop_assert_eq!(members.range(..).map(|(hash, _)| hash).collect::<Vec<_>>(), tree.into_keys().collect::<Vec<_>>());
    }
}
