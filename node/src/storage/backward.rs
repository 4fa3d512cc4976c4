//! Scans from the last key to the first, as forward scans of short windows.
//!
//! Files are read forward, so a page is cut from the end: a window is as long as the last block or two of the table that
//! has the most to say there, or a stretch of the memtable, whichever is shorter. It is read forward and turned round; the
//! next window ends where it began.
//!
//! ```text
//! table 1     …  ┃a b c┃d e f┃g h│            windows are cut where a source has a block to itself before
//! table 2     ┃a           f           h│     the end; every other source has no more than that there
//! window                    └───────┘ end
//! ```

use std::ops::Bound;
use std::sync::Arc;

use super::Engine;
use super::error::ReadError;
use super::version::View;
use crate::domain::key::Key;
use crate::domain::object::Object;

/// Entries of a memtable in a window.
const MEMORY_WINDOW: usize = 256;
/// What is read of a window at a time.
const STEP_BYTES: usize = 256 << 10;

impl Engine {
    /// [`scan`](Self::scan), from the last entry to the first: the next page ends before (`Bound::Excluded`) the last entry
    /// of this one.
    ///
    /// # Errors
    /// As it.
    pub async fn scan_back(
        &self,
        from: Bound<Key>,
        to: Bound<Key>,
        limit_bytes: usize,
    ) -> Result<Vec<(Key, Arc<Object>)>, ReadError> {
        let (mut page, mut left, mut to) = (Vec::new(), limit_bytes.max(1), to);
        while left > 0 {
            let begin = self.window(&from, &to)?;
            let mut window = Vec::new();
            let mut low = begin.clone().map_or_else(|| from.clone(), Bound::Included);
            loop {
                let step = self.scan(low, to.clone(), STEP_BYTES).await?;
                let Some((last, _)) = step.last() else { break };
                low = Bound::Excluded(last.clone());
                window.extend(step);
            }
            for (key, object) in window.into_iter().rev() {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(key.size_bytes() + object.size_bytes());
                page.push((key, object));
            }
            // A window may hold nothing: what was there is damaged.
            let Some(begin) = begin else { break };
            to = Bound::Excluded(begin);
        }
        Ok(page)
    }

    /// Where the last window before `to` begins; `None`: at `from`.
    fn window(&self, from: &Bound<Key>, to: &Bound<Key>) -> Result<Option<Key>, ReadError> {
        let range = (from.as_ref(), to.as_ref());
        let memory = self.shared.begin_of_last(range, MEMORY_WINDOW);
        let (memory, view) = memory.ok_or(ReadError::Closed)?;
        let begin = memory.into_iter().chain(beneath(&view, from, to)).max();
        Ok(begin.filter(|begin| match from {
            Bound::Included(from) | Bound::Excluded(from) => begin > from,
            Bound::Unbounded => true,
        }))
    }
}

/// Where windows of what lies beneath the memtable would begin.
fn beneath(view: &View, from: &Bound<Key>, to: &Bound<Key>) -> Vec<Key> {
    let mut begins = Vec::new();
    for sealed in &view.sealed {
        begins.extend(sealed.memtable.begin_of_last((from.as_ref(), to.as_ref()), MEMORY_WINDOW));
    }
    let levels = view.version.levels.iter();
    // Tables of the first level overlap; in the others the last one before the end is enough.
    let tables = levels.enumerate().flat_map(|(level, tables)| {
        let starts_before = |first: &Key| match to {
            Bound::Included(to) => first <= to,
            Bound::Excluded(to) => first < to,
            Bound::Unbounded => true,
        };
        let before = tables.iter().rev().filter(move |live| starts_before(&live.meta.first));
        before.take(if level == 0 { usize::MAX } else { 1 })
    });
    begins.extend(tables.map(|live| {
        let begin = live.file.table.begin_of_last(to.as_ref());
        begin.unwrap_or_else(|| live.meta.first.clone())
    }));
    begins
}
