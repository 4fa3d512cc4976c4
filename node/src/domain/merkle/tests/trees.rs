//! What a tree promises whatever its keys are.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::replica::{key, rebuilt, section, write};
use crate::domain::key::{Key, Token};
use crate::domain::merkle::tree::{BITS_MIN, LEAF_KEYS, LEVEL_MAX, Tree, bits_for};
use crate::domain::merkle::{Section, digest};
use crate::domain::object::Object;

proptest! {
    #[test]
    fn any_order_of_the_same_changes_is_the_same_tree(
        writes in prop::collection::vec((0..40u32, 1..4u64), 1..60),
        order in any::<prop::sample::Index>(),
        bits in 0..=LEVEL_MAX,
    ) {
        // Each write changes what is there; then the changes alone are applied in another order.
        let mut data: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        let mut changes = Vec::new();
        for (counter, (number, node)) in writes.into_iter().enumerate() {
            let key = key(number);
            let old = data.get(&key).cloned();
            let new = Arc::new(write(old.as_deref(), node, counter as u64 + 1, "v"));
            changes.push((
                section().node_of(key.token(), bits),
                old.map(|old| digest(&key, &old)),
                digest(&key, &new),
            ));
            data.insert(key, new);
        }
        let mut tree = Tree::new(bits);
        changes.iter().for_each(|(leaf, old, new)| tree.change(*leaf, *old, Some(*new)));
        prop_assert_eq!(&tree, &rebuilt(data.iter(), bits));
        let turn = order.index(changes.len());
        changes.rotate_left(turn);
        changes.reverse();
        let mut other = Tree::new(bits);
        changes.iter().for_each(|(leaf, old, new)| other.change(*leaf, *old, Some(*new)));
        prop_assert_eq!(other.children(0, 0, bits), tree.children(0, 0, bits));
        prop_assert_eq!(other.root(), tree.root());
    }

    #[test]
    fn a_deep_tree_folds_to_the_shallow_one(numbers in prop::collection::btree_set(0..500u32, 0..80)) {
        let data: BTreeMap<Key, Arc<Object>> =
            numbers.iter().map(|n| (key(*n), Arc::new(write(None, 1, u64::from(*n) + 1, "v")))).collect();
        let (deep, flat) = (rebuilt(data.iter(), LEVEL_MAX), rebuilt(data.iter(), 4));
        prop_assert_eq!(deep.children(0, 0, 4), flat.children(0, 0, 4));
        prop_assert_eq!(deep.children(2, 3, 4), flat.children(2, 3, 4));
        prop_assert_eq!(deep.root(), flat.root());
    }

    #[test]
    fn a_node_is_its_arc_of_tokens(token: u64, level in 0..=LEVEL_MAX, partition in 0..64u64) {
        let width = u64::MAX >> 6;
        for section in [section(), Section::new(Token(partition << 58), Token(partition << 58 | width))] {
            let (first, last) = section.tokens();
            let token = Token(first.0 | (token & (last.0 - first.0)));
            let node = section.node_of(token, level);
            let (from, to) = section.tokens_of(level, node, node);
            prop_assert!(from <= token && token <= to && first <= from && to <= last);
            prop_assert_eq!(section.node_of(from, level), node);
            prop_assert_eq!(section.node_of(to, level), node);
            let whole = section.tokens_of(level, 0, (1 << level) - 1);
            prop_assert_eq!(whole, section.tokens());
        }
    }
}

#[test]
fn a_digest_binds_the_object_to_its_key() {
    let (a, b) = (write(None, 1, 1, "v"), write(None, 1, 2, "v"));
    assert_eq!(digest(&key(1), &a), digest(&key(1), &a.clone()));
    assert_ne!(digest(&key(1), &a), digest(&key(1), &b));
    assert_ne!(digest(&key(1), &a), digest(&key(2), &a));
    // Two keys that swap their objects do not cancel out.
    let swapped = digest(&key(1), &b) ^ digest(&key(2), &a);
    assert_ne!(digest(&key(1), &a) ^ digest(&key(2), &b), swapped);
}

#[test]
fn depth_follows_the_keys() {
    let table = [(0, 0), (64, 0), (65, 4), (1_024, 4), (1_025, 7), (8_193, 11), (131_073, 14)];
    for (keys, bits) in table {
        assert_eq!(bits_for(keys), bits, "{keys} keys");
    }
    assert_eq!(bits_for(u64::MAX), LEVEL_MAX);
    let mut tree = Tree::for_keys(0);
    assert_eq!((tree.bits(), tree.depth()), (BITS_MIN, 0));
    for n in 0..=LEAF_KEYS {
        assert_eq!((tree.depth(), tree.is_too_small()), (0, false));
        tree.change(0, None, Some(n + 1));
    }
    assert_eq!((tree.bits(), tree.depth()), (BITS_MIN, 4), "few more keys need no other tree");
    let mut tree = Tree::new(0);
    for n in 0..LEAF_KEYS {
        tree.change(0, None, Some(n + 1));
    }
    assert_eq!(tree.keys(), LEAF_KEYS);
    assert_eq!(tree.children(0, 0, 1), None, "it is not so deep");
    assert_eq!(tree.children(0, 1, 0), None, "it has no such node");
}
