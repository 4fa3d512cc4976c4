//! The newest objects, encoded, in key order.
//!
//! Entries lie behind each other in chunks, and the tree holds where: so the memory that a memtable takes is what
//! it weighs, and it goes chunk by chunk when the memtable goes. With objects as reads return them, five allocations of different sizes
//! each that are freed in another order, twice the weight was resident, and half as much again stayed with the allocator.
//! What is overwritten keeps its place until then, and its weight.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use crate::domain::key::Key;
use crate::domain::object::Object;

/// What an entry takes beside its bytes: the slot in a tree whose nodes are two thirds full.
const ENTRY_OVERHEAD_BYTES: usize = 144;
/// The first chunk; each next one is an eighth of what is there already, up to the largest.
const CHUNK_BYTES_MIN: usize = 1 << 10;
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Of the largest chunk: what is larger gets memory of its own, so that the rest of a chunk is no great loss.
const ENTRY_SHARE: usize = 4;

/// An ordered map with a running weight, which never falls while entries are put.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    map: BTreeMap<Key, Bytes>,
    bytes: u64,
    chunks: Chunks,
}

/// Memory for entries.
#[derive(Debug, Default)]
struct Chunks {
    /// The rest of the last one.
    rest: BytesMut,
    /// Bytes of all of them.
    bytes: usize,
}

impl Chunks {
    /// Keeps what `write` appends, `bytes_max` at the most.
    fn keep(&mut self, bytes_max: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.rest.capacity() < bytes_max {
            if bytes_max > CHUNK_BYTES_MAX / ENTRY_SHARE {
                let mut own = BytesMut::with_capacity(bytes_max);
                write(&mut own);
                return own.freeze();
            }
            let bytes = (self.bytes / 8).clamp(CHUNK_BYTES_MIN.max(bytes_max), CHUNK_BYTES_MAX);
            self.bytes += bytes;
            self.rest = BytesMut::with_capacity(bytes);
        }
        write(&mut self.rest);
        self.rest.split().freeze()
    }
}

impl Memtable {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// What it weighs in memory, in bytes, what was overwritten included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The object under `key`, encoded.
    pub(super) fn get(&self, key: &Key) -> Option<Bytes> {
        self.map.get(key).cloned()
    }

    /// What it would weigh with `object` under `key`, at most.
    pub(super) fn bytes_with(&self, key: &Key, object: &Object) -> u64 {
        self.bytes + (ENTRY_OVERHEAD_BYTES + key.raw().len() + object.size_bytes()) as u64
    }

    /// Puts `object` in the place of what was there, and returns its encoding.
    pub(super) fn insert(&mut self, key: &Key, object: &Object) -> Bytes {
        let (raw, bytes_max) = (key.raw(), object.size_bytes());
        let encoded = match self.map.get_mut(key) {
            Some(old) => {
                *old = self.chunks.keep(bytes_max, |out| object.encode(out));
                old.clone()
            }
            None => {
                let mut entry = self.chunks.keep(raw.len() + bytes_max, |out| {
                    out.extend_from_slice(raw);
                    object.encode(out);
                });
                let raw = entry.split_to(raw.len());
                self.bytes += (raw.len() + ENTRY_OVERHEAD_BYTES) as u64;
                self.map.insert(key.with_raw(raw), entry.clone());
                entry
            }
        };
        self.bytes += encoded.len() as u64;
        encoded
    }

    /// Drops its first entries, `count` at the most; false: there was none left.
    pub(super) fn drop_first(&mut self, count: usize) -> bool {
        std::iter::from_fn(|| self.map.pop_first()).take(count).count() > 0
    }

    /// The first key of the last `count` entries between the bounds; `None`: there are not so many.
    pub(super) fn begin_of_last(
        &self,
        (from, to): (Bound<&Key>, Bound<&Key>),
        count: usize,
    ) -> Option<Key> {
        if is_empty_range(from, to) {
            return None;
        }
        let mut last = self.map.range::<Key, _>((from, to)).rev();
        last.nth(count.checked_sub(1)?).map(|(key, _)| key.detached())
    }

    /// Appends entries between the bounds to `page`, encoded, in order, until it has taken `budget` bytes or
    /// `count` entries; the entry that crosses the budget is still taken. Returns what is
    /// left of the budget; 0 when it is used up.
    pub(super) fn page(
        &self,
        (from, to): (Bound<&Key>, Bound<&Key>),
        count: usize,
        mut budget: u64,
        page: &mut Vec<(Key, Bytes)>,
    ) -> u64 {
        if is_empty_range(from, to) {
            return budget;
        }
        for (key, object) in self.map.range::<Key, _>((from, to)).take(count) {
            // Who keeps a key must not keep the chunk.
            page.push((key.detached(), object.clone()));
            budget = budget.saturating_sub((key.raw().len() + object.len()) as u64);
            if budget == 0 {
                break;
            }
        }
        budget
    }
}

/// True for bounds between which no key can lie; `BTreeMap::range` would panic on some of them.
fn is_empty_range(from: Bound<&Key>, to: Bound<&Key>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
    use crate::domain::object::{Content, Sibling};

    fn key(n: u32) -> Key {
        Key::new("b", &format!("key-{n}")).unwrap()
    }

    fn object(counter: u64, bytes: usize) -> Object {
        let dot = Dot { actor: Actor { node: NodeId(7), epoch: 1 }, counter };
        let content = Content::Value(vec![counter as u8; bytes].into());
        let mut object = Object::new();
        let new = Sibling { dot, content, written_at_ms: 5, expires_at_ms: None };
        object.write(&CausalContext::new(), new);
        object
    }

    /// Values from none to larger than a chunk, each third put over an older one.
    #[test]
    fn what_is_put_last_is_found_and_memory_is_little_more_than_weight() {
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        let (mut table, mut model) = (Memtable::default(), BTreeMap::new());
        let mut own = 0;
        for counter in 1..=3000 {
            let key = key(dice.random_range(0..2000));
            let large = dice.random_ratio(1, 200);
            let bytes =
                if large { dice.random_range(0..300_000) } else { 1 << dice.random_range(0..14) };
            let object = object(counter, bytes);
            let at_most = table.bytes_with(&key, &object);
            let chunks = table.chunks.bytes;
            assert_eq!(table.insert(&key, &object), object.to_bytes());
            if bytes > CHUNK_BYTES_MAX / ENTRY_SHARE && table.chunks.bytes == chunks {
                own += bytes;
            }
            assert!(table.bytes() <= at_most, "{} > {at_most}", table.bytes());
            model.insert(key, object);
        }
        let (memory, weight) = (table.chunks.bytes + own, table.bytes() as usize);
        assert!(memory <= weight * 4 / 3 + CHUNK_BYTES_MIN, "{memory} for {weight}");
        assert!(weight <= memory * 4 / 3, "{memory} for {weight}");
        for (key, object) in &model {
            assert_eq!(table.get(key), Some(object.to_bytes().into()));
        }
        let mut page = Vec::new();
        table.page((Bound::Unbounded, Bound::Unbounded), usize::MAX, u64::MAX, &mut page);
        assert!(page.iter().map(|(key, _)| key).eq(model.keys()));
        assert_eq!(
            table.begin_of_last((Bound::Unbounded, Bound::Unbounded), 1).as_ref(),
            model.keys().last()
        );
        assert_eq!(
            table.begin_of_last((Bound::Unbounded, Bound::Unbounded), model.len() + 1),
            None
        );
        while table.drop_first(64) {}
        assert_eq!(table.len(), 0);
    }
}
