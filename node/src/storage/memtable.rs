//! The objects in memory, in key order, and what they weigh.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::domain::key::Key;
use crate::domain::object::Object;

/// What an entry takes beside its key's and object's bytes: tree slot, allocation headers, the
/// vectors' and strings' own words. Measured roughly; budgets need no more.
const ENTRY_OVERHEAD_BYTES: usize = 192;

/// An ordered map with a running weight. The weight is the sum over its entries, always.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    map: BTreeMap<Key, Arc<Object>>,
    bytes: u64,
}

impl Memtable {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// What all entries weigh, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.map.get(key).cloned()
    }

    /// What the table would weigh with `object` under `key`.
    pub(super) fn bytes_with(&self, key: &Key, object: &Object) -> u64 {
        let replaced = self.map.get(key).map_or(0, |old| weight(key, old));
        self.bytes - replaced + weight(key, object)
    }

    /// Puts `object` in the place of what was there.
    pub(super) fn insert(&mut self, key: &Key, object: Arc<Object>) {
        self.bytes += weight(key, &object);
        match self.map.get_mut(key) {
            Some(old) => {
                self.bytes -= weight(key, old);
                *old = object;
            }
            None => {
                self.map.insert(key.clone(), object);
            }
        }
    }

    /// Drops its first entries, `count` at the most; false: there was none left.
    pub(super) fn drop_first(&mut self, count: usize) -> bool {
        let first = std::iter::from_fn(|| self.map.pop_first()).take(count);
        let dropped: u64 = first.map(|(key, object)| weight(&key, &object)).sum();
        self.bytes -= dropped;
        dropped > 0
    }

    /// The last `count` entries between the bounds, in order, and whether they are as many as that.
    pub(super) fn last(
        &self,
        (from, to): (Bound<&Key>, Bound<&Key>),
        count: usize,
    ) -> (Vec<(Key, Arc<Object>)>, bool) {
        if is_empty_range(from, to) {
            return (Vec::new(), false);
        }
        let last = self.map.range::<Key, _>((from, to)).rev().take(count);
        let mut last: Vec<_> = last.map(|(key, object)| (key.clone(), object.clone())).collect();
        last.reverse();
        let full = last.len() == count;
        (last, full)
    }

    /// Appends entries between the bounds to `page`, in order, until it has taken `budget` bytes of
    /// weight or `count` entries; the entry that crosses the budget is still taken. Returns what is
    /// left of the budget; 0 when it is used up.
    pub(super) fn page(
        &self,
        (from, to): (Bound<&Key>, Bound<&Key>),
        count: usize,
        mut budget: u64,
        page: &mut Vec<(Key, Arc<Object>)>,
    ) -> u64 {
        if is_empty_range(from, to) {
            return budget;
        }
        for (key, object) in self.map.range::<Key, _>((from, to)).take(count) {
            page.push((key.clone(), object.clone()));
            budget = budget.saturating_sub(weight(key, object));
            if budget == 0 {
                break;
            }
        }
        budget
    }
}

fn weight(key: &Key, object: &Object) -> u64 {
    (key.size_bytes() + object.size_bytes() + ENTRY_OVERHEAD_BYTES) as u64
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
