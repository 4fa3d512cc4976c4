//! The cases that everybody who builds such a store meets, as tables and short stories.

use bytes::Bytes;

use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
use crate::domain::object::{Content, Object, Sibling};

fn dot(node: u64, counter: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter }
}

/// The version vector of pairs (node, counter).
fn vector(pairs: &[(u64, u64)]) -> CausalContext {
    let dots = |&(node, last)| (1..=last).map(move |counter| dot(node, counter));
    pairs.iter().flat_map(dots).collect()
}

#[derive(PartialEq, Debug)]
enum Order {
    Equal,
    Before,
    After,
    Conflict,
}

fn compare(one: &CausalContext, other: &CausalContext) -> Order {
    match (one.covers(other), other.covers(one)) {
        (true, true) => Order::Equal,
        (false, true) => Order::Before,
        (true, false) => Order::After,
        (false, false) => Order::Conflict,
    }
}

const X: u64 = 1;
const Y: u64 = 2;
const Z: u64 = 3;

#[test]
fn version_vectors_order_or_conflict() {
    // D1 to D5 are of Dynamo (2007), figure 3.
    let d1 = vector(&[(X, 1)]);
    let d2 = vector(&[(X, 2)]);
    let d3 = vector(&[(X, 2), (Y, 1)]);
    let d4 = vector(&[(X, 2), (Z, 1)]);
    let d5 = vector(&[(X, 3), (Y, 1), (Z, 1)]);
    let rows = [
        (&d1, &d1, Order::Equal),
        (&d1, &d2, Order::Before),
        (&d2, &d3, Order::Before),
        (&d2, &d4, Order::Before),
        (&d3, &d4, Order::Conflict),
        (&d5, &d3, Order::After),
        (&d5, &d4, Order::After),
        (&vector(&[(0, 1), (1, 1)]), &vector(&[(0, 1), (1, 2)]), Order::Before),
        (&vector(&[(0, 1), (1, 2)]), &vector(&[(0, 2), (1, 1)]), Order::Conflict),
        (&vector(&[]), &d1, Order::Before),
    ];
    for (one, other, order) in rows {
        assert_eq!(compare(one, other), order, "{one:?} and {other:?}");
    }
}

#[test]
fn a_gap_is_no_version_vector() {
    // Whoever has seen the second write alone has not seen the first.
    let second: CausalContext = [dot(X, 2)].into_iter().collect();
    assert_eq!(compare(&second, &vector(&[(X, 1)])), Order::Conflict);
    assert_eq!(compare(&second, &vector(&[(X, 2)])), Order::Before);
}

fn write(
    object: &mut Object,
    seen: &CausalContext,
    dot: Dot,
    value: &'static str,
) -> CausalContext {
    let content = Content::Value(Bytes::from_static(value.as_bytes()));
    object.write(seen, Sibling { dot, content, written_at_ms: 0, expires_at_ms: None })
}

fn values(object: &Object) -> Vec<String> {
    let text = |sibling: &Sibling| match &sibling.content {
        Content::Value(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Content::Tombstone => "deleted".into(),
    };
    object.siblings().iter().map(text).collect()
}

/// The story of Dynamo's figure 3 on three replicas.
#[test]
fn a_conflict_stays_until_somebody_settles_it() {
    let mut x = Object::new();
    let d1 = write(&mut x, &CausalContext::new(), dot(X, 1), "D1");
    let d2 = write(&mut x, &d1, dot(X, 2), "D2");
    assert_eq!(values(&x), ["D2"]);

    let (mut y, mut z) = (x.clone(), x.clone());
    write(&mut y, &d2, dot(Y, 1), "D3");
    write(&mut z, &d2, dot(Z, 1), "D4");
    assert!(x.merge(&y));
    assert!(x.merge(&z));
    assert!(!x.merge(&y));
    assert_eq!(values(&x), ["D3", "D4"]);

    let both = x.context().clone();
    write(&mut x, &both, dot(X, 3), "D5");
    assert_eq!(values(&x), ["D5"]);
    for other in [&mut y, &mut z] {
        assert!(other.merge(&x));
        assert_eq!(*other, x);
    }
    assert_eq!(*x.context(), vector(&[(X, 3), (Y, 1), (Z, 1)]));
}

/// Two clients that each go on from their own last answer, through one coordinator. Under plain
/// version vectors this made one sibling more at each turn (Riak's "sibling explosion").
#[test]
fn interleaved_writers_keep_one_sibling_each() {
    let mut object = Object::new();
    let mut contexts = [CausalContext::new(), CausalContext::new()];
    for turn in 1..=20 {
        let client = turn as usize % 2;
        contexts[client] = write(&mut object, &contexts[client], dot(X, turn), "v");
        assert!(object.siblings().len() <= 2, "turn {turn}: {object:?}");
    }
}

/// Why contexts are exact: a blind writer's second write must not wipe out what it never saw.
#[test]
fn a_blind_writer_replaces_its_own_write_alone() {
    let mut object = Object::new();
    write(&mut object, &CausalContext::new(), dot(X, 1), "unseen");
    let blind = write(&mut object, &CausalContext::new(), dot(X, 2), "blind");
    write(&mut object, &blind, dot(X, 3), "blind again");
    assert_eq!(values(&object), ["unseen", "blind again"]);
}

/// A delete and a write that did not see it: both are kept, and the write is still read.
#[test]
fn a_delete_beats_only_what_it_saw() {
    let mut here = Object::new();
    let seen = write(&mut here, &CausalContext::new(), dot(X, 1), "first");
    let mut there = here.clone();
    write(&mut there, &seen, dot(Y, 1), "second");
    let tombstone = Sibling {
        dot: dot(X, 2),
        content: Content::Tombstone,
        written_at_ms: 0,
        expires_at_ms: None,
    };
    here.write(&seen, tombstone);
    assert_eq!(values(&here), ["deleted"]);
    here.merge(&there);
    assert_eq!(values(&here), ["deleted", "second"]);
    // The stale copy from before the delete changes nothing: no resurrection.
    let mut stale = Object::new();
    write(&mut stale, &CausalContext::new(), dot(X, 1), "first");
    assert!(!here.merge(&stale));
}

/// A forged context that names a write, but not what that write had seen. No honest context does;
/// replicas still have to agree, or they would exchange the key for ever.
#[test]
fn replicas_agree_under_a_context_with_holes() {
    let mut here = Object::new();
    let first = write(&mut here, &CausalContext::new(), dot(X, 1), "first");
    let mut there = here.clone();
    write(&mut there, &first, dot(Y, 1), "second");
    let forged: CausalContext = [dot(Y, 1)].into_iter().collect();
    write(&mut here, &forged, dot(X, 2), "third");
    assert_eq!(values(&here), ["first", "third"]);

    let before = here.clone();
    assert!(here.merge(&there));
    assert!(there.merge(&before));
    assert_eq!(here, there);
    assert_eq!(values(&here), ["third"]);
}

#[test]
#[should_panic(expected = "minted twice")]
fn a_dot_is_used_once() {
    let mut object = Object::new();
    write(&mut object, &CausalContext::new(), dot(X, 1), "one");
    write(&mut object, &CausalContext::new(), dot(X, 1), "other");
}
