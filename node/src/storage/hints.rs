//! Hints in memory: what this node keeps for members that could not take it themselves.
//!
//! One merged object for each owner and key, however many writes it stands for. The log holds each
//! change of it, in the same batches as the data, so one sync covers both. Source: DeCandia et al.,
//! "Dynamo" (2007), 4.6.
//!
//! Invariants: the weight is the sum over all hints; the index by age names each hint exactly once;
//! an owner without hints has no entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::domain::key::{Key, Token};
use crate::domain::object::Object;

/// The owner that stands for the copy of the data in this folder itself: while a key is in doubt, what this node mints
/// of it is kept as a hint too, since nothing in the copy tells it from leftovers. Such hints are nobody else's: they are not
/// counted among the [owners](super::Engine::hint_owners), and have no age. No member has an empty name.
pub const ITSELF: &str = "";

/// What a hint takes beside its names', key's and object's bytes: two tree slots, allocation headers,
/// the vectors' and strings' own words. Measured roughly, as for the memtable.
const HINT_OVERHEAD_BYTES: usize = 288;

/// An object kept for an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The key.
    pub key: Key,
    /// Everything that the owner is to merge.
    pub object: Arc<Object>,
    /// When it last grew, in Unix milliseconds of this machine's clock: its age counts from here, so
    /// a write that was acked stays for the whole age that is allowed.
    pub since_ms: u64,
}

/// How much is kept for an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintStats {
    /// The member's name.
    pub owner: Arc<str>,
    /// Hints.
    pub count: u64,
    /// What they weigh in memory, in bytes.
    pub bytes: u64,
    /// When the one that is oldest was stored or last grew, in Unix milliseconds.
    pub oldest_ms: u64,
}

/// All hints, with a running weight.
#[derive(Debug, Default)]
pub(super) struct Hints {
    owners: BTreeMap<Arc<str>, Owned>,
    count: u64,
    bytes: u64,
}

/// The hints of one owner.
#[derive(Debug, Default)]
struct Owned {
    by_key: BTreeMap<Key, Held>,
    by_age: BTreeSet<(u64, Key)>,
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    object: Arc<Object>,
    since_ms: u64,
    /// The batch of the log that holds it.
    batch: u64,
}

/// A hint and its owner: where a walk over all of them stands.
pub(super) type Position = (Arc<str>, Key);

impl Hints {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What all of them weigh, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The object kept for `owner` under `key`.
    pub(super) fn get(&self, owner: &str, key: &Key) -> Option<Hint> {
        let held = self.owners.get(owner)?.by_key.get(key)?;
        Some(Hint { key: key.clone(), object: held.object.clone(), since_ms: held.since_ms })
    }

    /// True when a key with a token from `first` to `last` is hinted.
    pub(super) fn holds(&self, first: Token, last: Token) -> bool {
        let from = Key::lowest(first);
        self.owners.values().any(|owned| {
            let next = owned.by_key.range(&from..).next();
            next.is_some_and(|(key, _)| key.token() <= last)
        })
    }

    /// What weighs on the limit that a hint for `owner` meets: all for other members, or all for this copy [`ITSELF`]. Members that are
    /// away for long leave room for what damage may bring to light here, whose only copy that may be.
    pub(super) fn bytes_beside(&self, owner: &str) -> u64 {
        let itself = self.owners.get(ITSELF).map_or(0, |owned| owned.bytes);
        if owner == ITSELF { itself } else { self.bytes - itself }
    }

    /// [`bytes_beside`](Self::bytes_beside), with `object` for `owner` under `key`.
    pub(super) fn bytes_with(&self, owner: &str, key: &Key, object: &Object) -> u64 {
        let held = self.owners.get(owner).and_then(|owned| owned.by_key.get(key));
        let replaced = held.map_or(0, |held| weight(owner, key, &held.object));
        self.bytes_beside(owner) - replaced + weight(owner, key, object)
    }

    /// Keeps `object` in the place of what was kept for `owner` under `key`; batch `batch` of the log
    /// holds it.
    pub(super) fn insert(
        &mut self,
        owner: &str,
        key: &Key,
        object: Arc<Object>,
        since_ms: u64,
        batch: u64,
    ) {
        let added = weight(owner, key, &object);
        let owned = match self.owners.get_mut(owner) {
            Some(owned) => owned,
            None => self.owners.entry(owner.into()).or_default(),
        };
        let replaced = match owned.by_key.insert(key.clone(), Held { object, since_ms, batch }) {
            Some(old) => {
                owned.by_age.remove(&(old.since_ms, key.clone()));
                weight(owner, key, &old.object)
            }
            None => {
                self.count += 1;
                0
            }
        };
        owned.by_age.insert((since_ms, key.clone()));
        owned.bytes = owned.bytes + added - replaced;
        self.bytes = self.bytes + added - replaced;
    }

    /// Forgets the hint if it is still the one with `digest`; true when it was.
    pub(super) fn remove(&mut self, owner: &str, key: &Key, digest: u64) -> bool {
        let Some(owned) = self.owners.get_mut(owner) else { return false };
        let Some(held) = owned.by_key.get(key).filter(|held| held.object.digest() == digest) else {
            return false;
        };
        let weight = weight(owner, key, &held.object);
        let was_indexed = owned.by_age.remove(&(held.since_ms, key.clone()));
        assert!(was_indexed, "the hint of {key} for {owner} was not in the index");
        owned.by_key.remove(key);
        owned.bytes -= weight;
        self.bytes -= weight;
        self.count -= 1;
        if owned.by_key.is_empty() {
            assert_eq!(owned.bytes, 0, "{owner} has no hints, but they weigh something");
            self.owners.remove(owner);
        }
        true
    }

    /// Hints of `owner` behind `after` in key order, until they weigh `limit_bytes`; one at least, if
    /// there is one, and `count_max` at most.
    pub(super) fn page(
        &self,
        owner: &str,
        after: Option<&Key>,
        limit_bytes: u64,
        count_max: usize,
    ) -> Vec<Hint> {
        let Some(owned) = self.owners.get(owner) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        let mut bytes = 0;
        for (key, held) in owned.by_key.range::<Key, _>((from, Bound::Unbounded)).take(count_max) {
            let Held { object, since_ms, .. } = held;
            bytes += weight(owner, key, object);
            page.push(Hint { key: key.clone(), object: object.clone(), since_ms: *since_ms });
            if bytes >= limit_bytes {
                break;
            }
        }
        page
    }

    /// What is kept under `key` for anybody, merged.
    pub(super) fn merged(&self, key: &Key) -> Option<Arc<Object>> {
        let mut found = self.owners.values().filter_map(|owned| owned.by_key.get(key));
        let mut merged = found.next()?.object.clone();
        for held in found {
            if held.object != merged {
                Arc::make_mut(&mut merged).merge(&held.object);
            }
        }
        Some(merged)
    }

    /// Up to `count_max` hints for other members that are older than `older_than_ms`; `None`: of all hints.
    pub(super) fn stale(
        &self,
        older_than_ms: Option<u64>,
        count_max: usize,
    ) -> Vec<(Arc<str>, Hint)> {
        let ages = |owner: &str| older_than_ms.is_none() || owner != ITSELF;
        let aged =
            self.owners.iter().filter(|(owner, _)| ages(owner)).flat_map(|(owner, owned)| {
                let is_old = move |since: u64| older_than_ms.is_none_or(|oldest| since < oldest);
                let old = owned.by_age.iter().take_while(move |(since, _)| is_old(*since));
                old.filter_map(move |(_, key)| {
                    self.get(owner, key).map(|hint| (owner.clone(), hint))
                })
            });
        aged.take(count_max).collect()
    }

    /// Some of the hints behind `after`, in the order of owners and keys, `count_max` at most, each with
    /// the batch of the log that holds it.
    pub(super) fn walk(&self, after: Option<&Position>, count_max: usize) -> Vec<(Position, u64)> {
        let from = after.map_or(Bound::Unbounded, |(owner, _)| Bound::Included(owner.clone()));
        let behind = |owner: &Arc<str>| match after {
            Some((last, key)) if last == owner => Bound::Excluded(key),
            Some(_) | None => Bound::Unbounded,
        };
        let owners = self.owners.range((from, Bound::Unbounded));
        let all = owners.flat_map(|(owner, owned)| {
            let held = owned.by_key.range::<Key, _>((behind(owner), Bound::Unbounded));
            held.map(|(key, held)| ((owner.clone(), key.clone()), held.batch))
        });
        all.take(count_max).collect()
    }

    /// Batch `batch` of the log holds the hint as well.
    pub(super) fn carried(&mut self, (owner, key): &Position, batch: u64) {
        let held = self.owners.get_mut(owner).and_then(|owned| owned.by_key.get_mut(key));
        if let Some(held) = held {
            held.batch = batch;
        }
    }

    /// How much is kept for each owner, by name.
    pub(super) fn stats(&self) -> Vec<HintStats> {
        let of = |(owner, owned): (&Arc<str>, &Owned)| HintStats {
            owner: owner.clone(),
            count: owned.by_key.len() as u64,
            bytes: owned.bytes,
            oldest_ms: owned.by_age.first().map_or(0, |(since, _)| *since),
        };
        self.owners.iter().map(of).collect()
    }
}

fn weight(owner: &str, key: &Key, object: &Object) -> u64 {
    (owner.len() + key.size_bytes() + object.size_bytes() + HINT_OVERHEAD_BYTES) as u64
}
