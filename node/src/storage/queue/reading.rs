//! Reads of the shared state: what memory answers at once, and the view for the rest.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use crate::domain::key::Key;
use crate::storage::version::View;

/// What a look at memory found.
#[derive(Debug)]
pub(in crate::storage) enum Near {
    /// The object, encoded, and whether the key is in doubt.
    Found(Bytes, bool),
    /// Not in the memtable: look further.
    Beneath(Arc<View>),
}

/// Entries of the memtable, in order and encoded, and what lies beneath it at the same moment.
#[derive(Debug)]
pub(in crate::storage) struct Step {
    pub(in crate::storage) entries: Vec<(Key, Bytes)>,
    pub(in crate::storage) view: Arc<View>,
    /// The memtable may hold more behind the last entry.
    pub(in crate::storage) more: bool,
}

impl Shared {
    /// Looks for `key`; `None` once the engine is closed.
    pub(in crate::storage) fn look(&self, key: &Key) -> Option<Near> {
        let state = self.state();
        if state.closing {
            return None;
        }
        Some(match state.memtable.get(key) {
            Some(object) => Near::Found(object, state.view.doubts.contains(key.token())),
            None => Near::Beneath(state.view.clone()),
        })
    }

    /// Where the last `count` entries of the memtable between the bounds begin (`None`: there are fewer), and what lies beneath
    /// it; `None` once the engine is closed.
    pub(in crate::storage) fn begin_of_last(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        count: usize,
    ) -> Option<(Option<Key>, Arc<View>)> {
        let state = self.state();
        let begin = || (state.memtable.begin_of_last(range, count), state.view.clone());
        (!state.closing).then(begin)
    }

    /// Up to `count` entries of the memtable between the bounds, of about `budget` bytes; `None` once
    /// the engine is closed.
    pub(in crate::storage) fn step(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        count: usize,
        budget: u64,
    ) -> Option<Step> {
        let state = self.state();
        if state.closing {
            return None;
        }
        let mut entries = Vec::new();
        let left = state.memtable.page(range, count, budget.max(1), &mut entries);
        let more = left == 0 || entries.len() == count;
        Some(Step { entries, view: state.view.clone(), more })
    }
}
