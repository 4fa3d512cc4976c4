//! The keys that this node may have to have forgotten: those in partitions of which it is the first home replica, whose object will be
//! spent at some time.
//!
//! They are told of by writes and by the scans that build trees, so nobody has to look for them; a partition without any costs
//! nothing. There are [`KEYS_MAX`] at the most. What does not fit is remembered as a partition that has more: it is
//! scanned again once its own candidates are used up.
//!
//! This is a hint where to look, no more: whether an object is spent, and held by all, is asked of the data.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::Key;
use crate::domain::object::Object;

/// Keys that are remembered: some 100 bytes each, and the key's own.
pub const KEYS_MAX: usize = 32_768;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// By partition and key: from when on the object is spent, in Unix milliseconds.
    spent_at_ms: BTreeMap<(u32, Key), u64>,
    /// Partitions with more than fitted in.
    more: BTreeSet<u32>,
}

impl Candidates {
    /// What is under `key` of `partition` now.
    pub fn note(&mut self, partition: u32, key: &Key, object: &Object) {
        let Some(at) = object.spent_at_ms() else { return self.remove(partition, key) };
        let place = (partition, key.clone());
        if self.spent_at_ms.len() < KEYS_MAX {
            self.spent_at_ms.insert(place, at);
        } else if let Some(known) = self.spent_at_ms.get_mut(&place) {
            *known = at;
        } else {
            self.more.insert(partition);
        }
    }

    /// Nothing is to be forgotten under `key` any more.
    pub fn remove(&mut self, partition: u32, key: &Key) {
        if !self.spent_at_ms.is_empty() {
            self.spent_at_ms.remove(&(partition, key.clone()));
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.spent_at_ms.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.spent_at_ms.is_empty()
    }

    /// Up to `count` keys that are spent at `now_ms`, from behind `after` on and around.
    pub fn due(&self, now_ms: u64, after: Option<&(u32, Key)>, count: usize) -> Vec<(u32, Key)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let behind = self.spent_at_ms.range::<(u32, Key), _>((from, std::ops::Bound::Unbounded));
        let before = self
            .spent_at_ms
            .iter()
            .take_while(|(place, _)| after.is_some_and(|after| *place <= after));
        let spent = behind.chain(before).filter(|(_, at)| **at <= now_ms);
        spent.take(count).map(|(place, _)| place.clone()).collect()
    }

    /// A partition that has more than fitted in, and none left of what did; it is no longer remembered as such.
    pub fn take_more(&mut self) -> Option<u32> {
        let used_up = |partition: &u32| {
            let key = Key::lowest(crate::domain::key::Token(0));
            let next = self.spent_at_ms.range((*partition, key)..).next();
            next.is_none_or(|((next, _), _)| next != partition)
        };
        let partition = self.more.iter().copied().find(|partition| used_up(partition))?;
        self.more.remove(&partition);
        Some(partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
    use crate::domain::object::{Content, Sibling};

    fn object(siblings: &[(bool, Option<u64>)]) -> Object {
        let mut object = Object::new();
        for (counter, &(value, expires_at_ms)) in siblings.iter().enumerate() {
            let dot =
                Dot { actor: Actor { node: NodeId(1), epoch: 1 }, counter: counter as u64 + 1 };
            let content =
                if value { Content::Value(b"1".as_slice().into()) } else { Content::Tombstone };
            let new = Sibling { dot, content, written_at_ms: 0, expires_at_ms };
            object.write(&CausalContext::new(), new);
        }
        object
    }

    fn key(n: usize) -> Key {
        Key::new("b", &format!("k{n}")).unwrap()
    }

    #[test]
    fn an_object_is_spent_once_nothing_of_it_is_seen() {
        for (siblings, spent) in [
            (vec![(false, None)], Some(0)),
            (vec![(true, None)], None),
            (vec![(true, Some(9))], Some(9)),
            (vec![(true, Some(9)), (false, None), (true, Some(12))], Some(12)),
            (vec![(false, None), (true, None)], None),
        ] {
            assert_eq!(object(&siblings).spent_at_ms(), spent, "{siblings:?}");
        }
    }

    #[test]
    fn a_key_is_due_when_it_is_spent_and_in_turn() {
        let mut candidates = Candidates::default();
        candidates.note(1, &key(1), &object(&[(false, None)]));
        candidates.note(2, &key(2), &object(&[(true, Some(50))]));
        candidates.note(2, &key(3), &object(&[(false, None)]));
        candidates.note(2, &key(4), &object(&[(true, None)]));
        assert_eq!((candidates.len(), candidates.due(49, None, 9).len()), (3, 2));
        let due = candidates.due(50, None, 9);
        assert_eq!(due.len(), 3);
        let turned = candidates.due(50, Some(&due[0]), 9);
        assert_eq!(turned, [&due[1..], &due[..1]].concat(), "the others first, then around");
        // Written again, and removed.
        candidates.note(1, &key(1), &object(&[(true, None)]));
        candidates.remove(2, &key(3));
        assert_eq!(candidates.due(50, None, 9), [(2, key(2))]);
    }

    #[test]
    fn what_does_not_fit_is_looked_for_again() {
        let (mut candidates, gone) = (Candidates::default(), object(&[(false, None)]));
        for n in 0..KEYS_MAX {
            candidates.note(1, &key(n), &gone);
        }
        candidates.note(1, &key(KEYS_MAX), &gone);
        candidates.note(7, &key(KEYS_MAX + 1), &gone);
        assert_eq!(candidates.len(), KEYS_MAX);
        assert_eq!((candidates.take_more(), candidates.take_more()), (Some(7), None));
        for n in 0..KEYS_MAX {
            candidates.remove(1, &key(n));
        }
        assert_eq!((candidates.take_more(), candidates.take_more()), (Some(1), None));
    }
}
