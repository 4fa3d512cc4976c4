//! Laws that hold over all histories.

use proptest::prelude::*;
use proptest::sample::Index;

use super::history::{History, steps};
use crate::domain::object::Object;

fn merged(one: &Object, other: &Object) -> Object {
    let mut result = one.clone();
    result.merge(other);
    result
}

proptest! {
    /// The promises to clients are checked at every step; see `history`.
    #[test]
    fn replicas_hold_what_was_written_and_not_covered(steps in steps()) {
        History::run(&steps).settle();
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent(
        steps in steps(), picks: [(Index, Index, Index); 8],
    ) {
        let objects = History::run(&steps).objects;
        for (a, b, c) in picks {
            let (a, b, c) = (a.get(&objects), b.get(&objects), c.get(&objects));
            prop_assert_eq!(merged(a, b), merged(b, a));
            prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
            prop_assert_eq!(&merged(a, a), a);
            let both = merged(a, b);
            prop_assert_eq!(&merged(&both, a), &both);
            prop_assert!(both.context().covers(a.context()));
        }
    }

    #[test]
    fn equal_objects_have_equal_bytes_and_come_back(steps in steps(), pick: Index) {
        let objects = History::run(&steps).objects;
        let one = pick.get(&objects);
        for other in &objects {
            let bytes = other.to_bytes();
            prop_assert!(bytes.len() <= other.size_bytes(), "{} of {}", bytes.len(), other.size_bytes());
            prop_assert!(Object::from_bytes(&bytes).is_ok_and(|back| back == *other));
            prop_assert_eq!(one == other, one.to_bytes() == bytes);
        }
    }

    #[test]
    fn damaged_objects_are_refused_or_are_others(
        steps in steps(), pick: Index, at: Index, byte: u8, cut: Index,
    ) {
        let objects = History::run(&steps).objects;
        let bytes = pick.get(&objects).to_bytes();
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] = byte;
        for damaged in [&damaged[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(object) = Object::from_bytes(damaged) {
                prop_assert_eq!(object.to_bytes(), damaged);
                // Whatever came in, using it does not panic either.
                for other in &objects {
                    let mut other = other.clone();
                    other.merge(&object);
                }
            }
        }
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>) {
        let mut formed = vec![1];
        formed.extend_from_slice(&bytes);
        for bytes in [bytes, formed] {
            if let Ok(object) = Object::from_bytes(&bytes) {
                prop_assert_eq!(&object.to_bytes(), &bytes);
            }
        }
    }
}
