//! Memtables that are full, and what follows from them: writers that wait for room, the keeper's chores,
//! and the views that come after each other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Segment, Shared, State};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::{event, time};
use crate::storage::Options;
use crate::storage::doubt::{Doubts, TokenRange};
use crate::storage::error::WriteError;
use crate::storage::manifest::edit::Change;
use crate::storage::version::{Sealed, Version, View};

/// Memtables that wait to become tables, at most, besides those of a start.
const SEALED_MAX: usize = 2;

/// A memtable is sealed once so many times what it may hold was logged since the last one was.
const LOG_SHARE: u64 = 2;

/// While there are so many tables in level 0, none is added: compaction must catch up first.
pub(in crate::storage) const LEVEL0_MAX: usize = 24;

/// What the manifest is to hear of doubt, and who waits for it.
#[derive(Debug)]
pub(in crate::storage) struct DoubtChange {
    pub(in crate::storage) change: Change,
    pub(in crate::storage) done: Option<oneshot::Sender<()>>,
}

/// What the keeper does next.
#[derive(Debug)]
pub(in crate::storage) enum Chore {
    /// Write these to the manifest.
    Doubts(Vec<DoubtChange>),
    /// Remove the files that nobody reads any more.
    Bury,
    /// Make this memtable, the oldest, a table.
    Flush(Arc<Sealed>),
    /// The end was asked for.
    End,
}

impl State {
    /// Makes sure that `object` fits into the memtable: seals it if it is full, or if it keeps a log alive
    /// that is [much longer](LOG_SHARE): few keys that are overwritten again and again fill no memtable.
    /// True when it was sealed.
    ///
    /// # Errors
    /// [`WriteError::Overloaded`]: nothing changed.
    pub(super) fn make_room(
        &mut self,
        key: &Key,
        object: &Object,
        options: &Options,
    ) -> Result<bool, WriteError> {
        let (now, then) = (self.memtable.bytes(), self.memtable.bytes_with(key, object));
        let limit = options.memtable_bytes;
        if self.memtable.len() == 0 {
            return Ok(false);
        }
        if then <= limit {
            return Ok(self.shorten_log(options));
        }
        if self.view.sealed.len() < SEALED_MAX {
            self.seal();
            return Ok(true);
        }
        // Those who had waited for room come in one rush: they get a quarter more, and the last one
        // of them what it needs.
        if now <= limit + limit / 4 {
            return Ok(false);
        }
        Err(WriteError::Overloaded { bytes: now + self.view.sealed_bytes() })
    }

    /// Seals the memtable, be it empty, if it keeps a log alive that is [much longer](LOG_SHARE): a node that takes nothing
    /// but hints writes no table, and its log would never lose its front. True when it was sealed.
    pub(super) fn shorten_log(&mut self, options: &Options) -> bool {
        let long = self.logged_bytes > options.memtable_bytes.saturating_mul(LOG_SHARE);
        let seals = long && self.view.sealed.is_empty();
        if seals {
            self.seal();
        }
        seals
    }

    /// Puts an empty memtable in the place of this one, which waits to become a table. All puts of
    /// batches up to here are in it or in tables, and none of a later batch.
    fn seal(&mut self) {
        if self.open.records > 0 {
            self.close_batch();
        }
        let batches = (self.memtable_from, self.open.number - 1);
        let memtable = std::mem::take(&mut self.memtable);
        event::note("memtable_sealed", memtable.len() as u64, memtable.bytes());
        self.memtable_from = self.open.number;
        self.logged_bytes = 0;
        let mut view = View::clone(&self.view);
        view.sealed.insert(0, Arc::new(Sealed { memtable, batches }));
        self.view = Arc::new(view);
    }

    fn is_crowded(&self, options: &Options) -> bool {
        let memtables =
            self.memtable.bytes() >= options.memtable_bytes && self.view.sealed.len() >= SEALED_MAX;
        memtables || self.log_is_behind(options)
    }

    /// True when half of what may wait for the log waits, and the log is written: who comes now waits for
    /// it, and the other half is for those who come in one rush. While it is stalled a put says so at once.
    pub(super) fn log_is_behind(&self, options: &Options) -> bool {
        self.stats.stalled.is_none() && self.pending_bytes > options.pending_bytes_max / 2
    }
}

impl Shared {
    /// Completes when there is room for writes, or the engine is closed: a [`put`](Self::put) that comes
    /// then is hardly ever refused for want of [memory](WriteError::Overloaded), or of a
    /// [log](WriteError::PendingFull) that keeps up.
    pub(in crate::storage) async fn room(&self) {
        loop {
            let rung = self.room.notified();
            {
                let state = self.state();
                if state.closing || !state.is_crowded(&self.options) {
                    return;
                }
            }
            rung.await;
        }
    }

    /// What lies beneath a memtable that is empty at this moment; `None`: it cannot be sealed yet, or
    /// the engine is closed.
    pub(in crate::storage) fn seal_now(&self) -> Option<Arc<View>> {
        let mut state = self.state();
        if state.closing {
            return None;
        }
        if state.memtable.len() > 0 {
            if state.view.sealed.len() >= SEALED_MAX {
                return None;
            }
            state.seal();
            self.graveyard.bell.notify_one();
            // A batch may have been closed.
            self.work.notify_one();
        }
        Some(state.view.clone())
    }

    /// Waits until something may have changed for [`seal_now`](Self::seal_now).
    pub(in crate::storage) async fn sealed_less(&self) {
        let rung = self.room.notified();
        let full = {
            let state = self.state();
            !state.closing && state.view.sealed.len() >= SEALED_MAX
        };
        if full {
            rung.await;
        }
    }

    /// The keeper's next chore, when there is one.
    pub(in crate::storage) async fn next_chore(&self) -> Chore {
        loop {
            {
                let mut state = self.state();
                if !state.doubt_changes.is_empty() {
                    return Chore::Doubts(std::mem::take(&mut state.doubt_changes));
                }
                if state.closing {
                    return Chore::End;
                }
                if !self.graveyard.is_empty() {
                    return Chore::Bury;
                }
                let level0 = state.view.version.levels.first().map_or(0, Vec::len);
                if let Some(oldest) = state.view.sealed.last()
                    && level0 < LEVEL0_MAX
                {
                    return Chore::Flush(oldest.clone());
                }
            }
            self.graveyard.bell.notified().await;
        }
    }

    /// Completes once the log proves that batch `through` was durable.
    ///
    /// # Errors
    /// [`WriteError::Closed`].
    pub(in crate::storage) async fn proven(&self, through: u64) -> Result<(), WriteError> {
        {
            let mut state = self.state();
            if state.open.number == through + 1 && state.open.records == 0 {
                // Nothing else comes: an empty batch says it.
                state.close_batch();
                drop(state);
                self.work.notify_one();
            }
        }
        // A batch declares the one before it durable.
        self.synced(through + 1).await
    }

    /// The present view.
    pub(in crate::storage) fn view(&self) -> Arc<View> {
        self.state().view.clone()
    }

    /// Puts `version` in its place, without the memtable that it holds now, if any.
    pub(in crate::storage) fn install(&self, version: Version, flushed: Option<&Arc<Sealed>>) {
        let version = Arc::new(version);
        let mut state = self.state();
        let mut view = View::clone(&state.view);
        view.version = version;
        if let Some(flushed) = flushed {
            let before = view.sealed.len();
            view.sealed.retain(|sealed| !Arc::ptr_eq(sealed, flushed));
            assert_eq!(view.sealed.len() + 1, before, "the flushed memtable was not there");
        }
        let old = std::mem::replace(&mut state.view, Arc::new(view));
        drop(state);
        // Outside of the lock: it may be the last holder of a memtable.
        drop(old);
        self.room.notify_waiters();
        self.graveyard.bell.notify_one();
        self.compaction.notify_one();
    }

    /// Takes note that these ranges are in doubt. What was so before, and those that were not: the manifest hears of them by
    /// [`end_salvage`](Self::end_salvage), which is to follow. `None`: all were.
    pub(in crate::storage) fn doubt(
        &self,
        ranges: &[TokenRange],
    ) -> Option<(Arc<Doubts>, Vec<TokenRange>)> {
        if ranges.is_empty() {
            return None;
        }
        let mut state = self.state();
        // Those that were in doubt before count again: what is lost now may have been minted since. Counted
        // under the lock, so that whoever sees the count sees the doubt too.
        self.damages.fetch_add(1, Ordering::AcqRel);
        let before = state.view.doubts.clone();
        let (mut doubts, mut new) = (Doubts::clone(&before), Vec::new());
        for range in ranges {
            // What is about to leave the set must not leave it with this in it.
            if !doubts.covers(*range) || state.trusting > 0 {
                event::note("range_doubted", range.first.0, range.last.0);
                doubts.add(*range);
                new.push(*range);
            }
        }
        state.set_doubts(doubts);
        state.salvaging.extend(&new);
        drop(state);
        self.compaction.notify_one();
        (!new.is_empty()).then_some((before, new))
    }

    /// What was written since the damage is kept: the manifest may hear that these ranges are in doubt.
    pub(in crate::storage) fn end_salvage(&self, ranges: &[TokenRange]) {
        let mut state = self.state();
        for range in ranges {
            if let Some(at) = state.salvaging.iter().position(|salvaging| salvaging == range) {
                state.salvaging.swap_remove(at);
            }
            state.doubt_changes.push(DoubtChange { change: Change::Doubt(*range), done: None });
        }
        drop(state);
        self.graveyard.bell.notify_one();
        self.salvage_done.notify_waiters();
    }

    /// Completes when no salvage is under way.
    pub(in crate::storage) async fn salvaged(&self) {
        loop {
            let done = self.salvage_done.notified();
            if self.state().salvaging.is_empty() {
                return;
            }
            done.await;
        }
    }

    /// Asks the keeper to take `range` out of doubt; the receiver hears when that is durable. `None`: there is more
    /// damage than `damages`.
    pub(in crate::storage) fn trust(
        &self,
        range: TokenRange,
        damages: u64,
    ) -> Option<oneshot::Receiver<()>> {
        let (done, receiver) = oneshot::channel();
        let change = DoubtChange { change: Change::Trust(range), done: Some(done) };
        let mut state = self.state();
        if self.damages() != damages {
            return None;
        }
        if !state.closing {
            state.doubt_changes.push(change);
            state.trusting += 1;
        }
        drop(state);
        self.graveyard.bell.notify_one();
        Some(receiver)
    }

    /// Puts everything in doubt at once; the receiver hears when that is durable.
    pub(in crate::storage) fn doubt_all(&self) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let all = TokenRange::ALL;
        let mut state = self.state();
        self.damages.fetch_add(1, Ordering::AcqRel);
        if !state.closing {
            event::note("range_doubted", all.first.0, all.last.0);
            let mut doubts = Doubts::clone(&state.view.doubts);
            doubts.add(all);
            state.set_doubts(doubts);
            state.doubt_changes.push(DoubtChange { change: Change::Doubt(all), done: Some(done) });
        }
        drop(state);
        self.graveyard.bell.notify_one();
        receiver
    }

    /// The manifest says that these are the doubts, and has heard of `trusted` changes that take some out: they are,
    /// with those that it has not heard of yet.
    pub(in crate::storage) fn doubts_durable(&self, mut doubts: Doubts, trusted: usize) {
        let mut state = self.state();
        state.trusting -= trusted;
        for pending in &state.doubt_changes {
            if let Change::Doubt(range) = pending.change {
                doubts.add(range);
            }
        }
        state.salvaging.iter().for_each(|range| doubts.add(*range));
        if state.view.doubts.ranges().iter().any(|range| !doubts.covers(*range)) {
            // Before anybody reads that it is so.
            self.trusts.fetch_add(1, Ordering::AcqRel);
        }
        state.set_doubts(doubts);
    }

    /// The log's segments that hold nothing behind batch `through`, and the first one that does.
    pub(in crate::storage) fn releasable(&self, through: u64) -> Option<(Vec<Segment>, Segment)> {
        let state = self.state();
        // What comes before a segment holds batches below its first one.
        let at = state.segments.iter().rposition(|segment| segment.first_batch <= through + 1)?;
        let before = state.segments.range(..at).copied().collect();
        Some((before, state.segments[at]))
    }

    /// The log starts at segment `number` now.
    pub(in crate::storage) fn released(&self, number: u64) {
        self.state().segments.retain(|segment| segment.number >= number);
    }

    /// Counts a table that was written.
    pub(in crate::storage) fn count_flush(&self, bytes: u64) {
        let mut state = self.state();
        state.stats.flushes += 1;
        state.stats.flushed_bytes += bytes;
        state.stats.tables_stalled = None;
    }

    /// Counts bytes that a compaction wrote, and the compaction once it is finished.
    pub(in crate::storage) fn count_compaction(&self, bytes: u64, finished: bool) {
        let mut state = self.state();
        state.stats.compacted_bytes += bytes;
        state.stats.compactions += u64::from(finished);
        state.stats.tables_stalled = None;
    }

    /// Says whether tables are being merged.
    pub(in crate::storage) fn compacting(&self, compacting: bool) {
        self.state().stats.compacting = compacting;
    }

    /// A flush, a compaction or an edit failed and is tried again.
    pub(in crate::storage) fn count_table_failure(&self, reason: String) {
        let mut state = self.state();
        state.stats.table_failures += 1;
        state.stats.tables_stalled = Some(reason.into());
    }

    pub(in crate::storage) fn count_unsalvaged(&self) {
        self.state().stats.unsalvaged += 1;
    }

    /// What all hints weigh in memory, in bytes.
    pub(in crate::storage) fn hint_bytes(&self) -> u64 {
        self.state().hints.bytes()
    }

    /// True when the log does not take writes at the moment, or much waits for it.
    pub(in crate::storage) fn is_log_busy(&self) -> bool {
        let state = self.state();
        state.stats.stalled.is_some() || state.pending_bytes > self.options.pending_bytes_max / 4
    }

    /// Takes no more into the open batch; returns the last one that holds something.
    pub(in crate::storage) fn close_open_batch(&self) -> u64 {
        let mut state = self.state();
        if state.open.records > 0 {
            state.close_batch();
        }
        let last = state.open.number - 1;
        drop(state);
        self.work.notify_one();
        last
    }

    /// Waits `pause`, or until the end is asked for.
    pub(in crate::storage) async fn rest(&self, pause: Duration) {
        let deadline = time::now() + pause;
        loop {
            let rung = self.room.notified();
            if self.is_closing() || time::timeout_at(deadline, rung).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a change that compaction may want to hear of.
    pub(in crate::storage) async fn compaction_rung(&self) {
        self.compaction.notified().await;
    }

    /// How long the last sync took, and how many there were.
    pub(in crate::storage) fn syncs(&self) -> (Duration, u64) {
        let state = self.state();
        (state.stats.last_sync, state.stats.batches)
    }
}

impl State {
    fn set_doubts(&mut self, doubts: Doubts) {
        if *self.view.doubts != doubts {
            let mut view = View::clone(&self.view);
            view.doubts = Arc::new(doubts);
            self.view = Arc::new(view);
        }
    }
}
