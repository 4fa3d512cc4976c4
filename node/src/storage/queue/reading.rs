//! Reads of the shared state: what memory answers at once, and the view for the rest.

use std::ops::Bound;
use std::sync::Arc;

use super::Shared;
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::storage::version::View;

/// What a look at memory found.
#[derive(Debug)]
pub(in crate::storage) enum Near {
    /// The object, and whether the key is in doubt.
    Found(Arc<Object>, bool),
    /// Not in the memtable: look further.
    Beneath(Arc<View>),
}

/// Entries of the memtable, in order, and what lies beneath it at the same moment.
#[derive(Debug)]
pub(in crate::storage) struct Step {
    pub(in crate::storage) entries: Vec<(Key, Arc<Object>)>,
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

    /// The last `count` entries of the memtable between the bounds, in order; `more`: there may be others before them. `None`
    /// once the engine is closed.
    pub(in crate::storage) fn step_back(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        count: usize,
    ) -> Option<Step> {
        let state = self.state();
        if state.closing {
            return None;
        }
        let (entries, more) = state.memtable.last(range, count);
        Some(Step { entries, view: state.view.clone(), more })
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
