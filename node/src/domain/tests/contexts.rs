//! Causal contexts against a plain set of dots.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::domain::causality::{Actor, CausalContext, Dot, NodeId, encode_dot};
use crate::domain::codec::Decoder;

const NODES: std::ops::Range<u64> = 0..2;
const EPOCHS: std::ops::Range<u64> = 0..2;
/// Counters that leave gaps and close them, and those at the end of the range.
const COUNTERS: [u64; 9] = [1, 2, 3, 4, 5, 6, 7, u64::MAX - 1, u64::MAX];

fn actors() -> impl Iterator<Item = Actor> {
    let of_node = |node| EPOCHS.map(move |epoch| Actor { node: NodeId(node), epoch });
    NODES.flat_map(of_node)
}

fn all_dots() -> Vec<Dot> {
    let of_actor = |actor| COUNTERS.map(|counter| Dot { actor, counter });
    actors().flat_map(of_actor).collect()
}

/// A context, built from random parts in a random order, and the set that it stands for.
fn sets() -> impl Strategy<Value = (CausalContext, BTreeSet<Dot>)> {
    let some = prop::collection::vec(prop::sample::select(all_dots()), 0..12);
    prop::collection::vec(some, 0..4).prop_map(|parts| {
        let mut context = CausalContext::new();
        for (at, part) in parts.iter().enumerate() {
            // In turn dot by dot and as a whole: both ways must lead to the same set.
            if at % 2 == 0 {
                part.iter().for_each(|dot| context.add(*dot));
            } else {
                context.join(&part.iter().copied().collect());
            }
        }
        (context, parts.into_iter().flatten().collect())
    })
}

fn encoded(context: &CausalContext) -> Vec<u8> {
    let mut bytes = Vec::new();
    context.encode(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_context_is_the_set_of_its_dots((context, model) in sets()) {
        prop_assert_eq!(context.is_empty(), model.is_empty());
        for dot in all_dots() {
            prop_assert_eq!(context.contains(dot), model.contains(&dot), "{:?} in {:?}", dot, context);
        }
        for actor in actors() {
            let has = |counter: &u64| model.contains(&Dot { actor, counter: *counter });
            prop_assert_eq!(context.counter(actor), (1..=7).take_while(has).count() as u64);
            let highest = COUNTERS.into_iter().rfind(has).unwrap_or(0);
            prop_assert_eq!(context.highest(actor), highest);
        }
        for node in NODES.map(NodeId) {
            let latest = model.iter().map(|dot| dot.actor).filter(|actor| actor.node == node).max();
            prop_assert_eq!(context.latest_actor_of(node), latest);
        }
        let rebuilt: CausalContext = model.iter().rev().copied().collect();
        prop_assert_eq!(&rebuilt, &context);
        prop_assert!(context.len() <= model.len());
    }

    #[test]
    fn covering_and_joining_are_those_of_sets((a, set_a) in sets(), (b, set_b) in sets()) {
        prop_assert_eq!(a.covers(&b), set_a.is_superset(&set_b));
        for actor in actors() {
            let covers = set_b.iter().filter(|dot| dot.actor == actor).all(|dot| set_a.contains(dot));
            prop_assert_eq!(a.covers_actor(&b, actor), covers);
        }
        prop_assert_eq!(a == b, set_a == set_b);
        prop_assert_eq!(encoded(&a) == encoded(&b), set_a == set_b);
        let mut joined = a.clone();
        joined.join(&b);
        let both: CausalContext = set_a.union(&set_b).copied().collect();
        prop_assert_eq!(joined, both);
    }

    #[test]
    fn a_context_has_one_encoding((context, _) in sets(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encoded(&context);
        prop_assert_eq!(CausalContext::decode(&mut Decoder::new(&bytes)), Ok(context));
        let changed = at.index(bytes.len());
        bytes[changed] = byte;
        let mut from = Decoder::new(&bytes);
        if let Ok(other) = CausalContext::decode(&mut from) {
            let taken = bytes.len() - from.remaining();
            prop_assert_eq!(&encoded(&other)[..], &bytes[..taken]);
        }
    }
}

/// A vector at the end of the range, as only bytes from outside hold it.
#[test]
fn the_last_counter_of_all_does_not_overflow() {
    let actor = Actor { node: NodeId(1), epoch: 1 };
    let mut bytes = vec![1];
    encode_dot(Dot { actor, counter: u64::MAX }, &mut bytes);
    bytes.push(0);
    let full = CausalContext::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(full.counter(actor), u64::MAX);
    let above: CausalContext = [Dot { actor, counter: 5 }].into_iter().collect();
    for (mut one, other) in [(full.clone(), &above), (above.clone(), &full)] {
        one.join(other);
        assert_eq!(one, full);
    }
}
