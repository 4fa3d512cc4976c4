//! A consistent picture of all keys at one moment, for as long as somebody holds it.
//!
//! It costs a memtable that is sealed early, and the files and memory that it names: they go when the
//! last holder does. So it is for work that ends: a transfer, a rebuild, a listing, a copy.

use std::ops::Bound;
use std::sync::Arc;

use super::error::ReadError;
use super::merge::Merge;
use super::queue::Shared;
use super::version::View;
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::task;

/// Entries that are merged between two looks at the rest of the world.
const STEP: usize = 64;

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) shared: Arc<Shared>,
    pub(super) view: Arc<View>,
}

impl Snapshot {
    /// A page of the entries between two keys, in order: until they weigh `limit_bytes`, and one at
    /// least. The next page starts behind (`Bound::Excluded`) the last key; an empty page is the end.
    /// What a damaged file held is left out; see [`Engine::doubts`](super::Engine::doubts) after the scan.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub async fn scan(
        &self,
        from: Bound<Key>,
        to: Bound<Key>,
        limit_bytes: usize,
    ) -> Result<Vec<(Key, Arc<Object>)>, ReadError> {
        let mut page = Page { entries: Vec::new(), left: limit_bytes.max(1) };
        let mut merge = Merge::of_view(&self.view, Vec::new(), &from, to);
        page.fill(&self.shared, &mut merge).await?;
        Ok(page.entries)
    }

    /// The files of the tables that it is made of.
    pub fn table_numbers(&self) -> Vec<u64> {
        self.view.version.tables().map(|live| live.meta.id).collect()
    }
}

/// A page that is being filled.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<(Key, Arc<Object>)>,
    /// Bytes that it still takes; 0: it is full.
    pub(super) left: usize,
}

impl Page {
    /// Takes from `merge` until it is full, or `merge` ends.
    pub(super) async fn fill(
        &mut self,
        shared: &Arc<Shared>,
        merge: &mut Merge,
    ) -> Result<(), ReadError> {
        let filled = self.fill_from(merge).await;
        shared.damaged(&merge.damage);
        filled
    }

    async fn fill_from(&mut self, merge: &mut Merge) -> Result<(), ReadError> {
        let mut passed = 0usize;
        while self.left > 0 {
            let Some((key, encoded)) = merge.next().await.map_err(|e| ReadError::disk(&e))? else {
                return Ok(());
            };
            // Bytes with a right checksum that are no object were written by another release.
            let Ok(object) = Object::from_bytes(&encoded) else { continue };
            if object.is_empty() {
                // The key was removed.
                passed += 1;
                if passed.is_multiple_of(STEP) {
                    task::yield_now().await;
                }
                continue;
            }
            self.left = self.left.saturating_sub(key.size_bytes() + object.size_bytes());
            self.entries.push((key, Arc::new(object)));
            if self.entries.len().is_multiple_of(STEP) {
                task::yield_now().await;
            }
        }
        Ok(())
    }
}
