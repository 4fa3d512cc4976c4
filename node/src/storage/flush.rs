//! The keeper: makes tables of sealed memtables, shortens the log, and writes down what is in doubt.
//!
//! ```text
//! memtable sealed ──► table written, synced ──► log proves its batches ──► manifest: table added,
//!                                                                          puts through batch b in tables
//!                        hints carried ◄── log's first segments hold nothing else ◄──┘
//!                              └──► manifest: log starts at segment s ──► segments removed
//! ```
//!
//! Only what the log proves to be durable counts as flushed: replay leaves out the puts of such
//! batches, and their numbers must never come again. A batch is proven when a later one is durable.
//!
//! Whatever fails is tried again, with longer and longer pauses. Nothing is lost meanwhile: the
//! memtable stays in memory and its batches in the log. Writers wait once memory is full.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::log::append::Device;
use super::log::segment_path;
use super::manifest::edit::Change;
use super::queue::{Chore, DoubtChange, Segment};
use super::store::{Closing, Edit, RETRY_MAX, RETRY_MIN, Store, remove};
use super::table::{Origin, Properties, Spec, TableError, TableWriter};
use super::version::{Live, Sealed};
use crate::runtime::{event, task};

/// Entries that are written between two looks at the rest of the world.
const STEP: usize = 64;

/// Does the chores until the end is asked for.
pub(super) async fn run<D: Device>(store: &Store<D>) {
    loop {
        let done = match store.shared.next_chore().await {
            Chore::End => break,
            Chore::Bury => {
                store.bury().await;
                continue;
            }
            Chore::Doubts(changes) => write_doubts(store, changes).await,
            Chore::Flush(sealed) => {
                let done = match flush(store, &sealed).await {
                    Ok(()) => release(store).await,
                    Err(Closing) => Err(Closing),
                };
                free(sealed).await;
                done
            }
        };
        if done.is_err() {
            break;
        }
    }
    store.bury().await;
}

async fn write_doubts<D: Device>(
    store: &Store<D>,
    changes: Vec<DoubtChange>,
) -> Result<(), Closing> {
    let edit: Vec<Change> = changes.iter().map(|change| change.change.clone()).collect();
    let doubts = store.note(&edit).await?;
    let trusted = edit.iter().filter(|change| matches!(change, Change::Trust(_))).count();
    store.shared.doubts_durable(doubts, trusted);
    for change in changes {
        if let Some(done) = change.done {
            // Whoever asked may have gone.
            let _gone = done.send(());
        }
    }
    Ok(())
}

/// Makes a table of `sealed`, however long that takes. One that is empty says no more than that the log may go.
async fn flush<D: Device>(store: &Store<D>, sealed: &Arc<Sealed>) -> Result<(), Closing> {
    let mut added = Vec::new();
    if sealed.memtable.len() > 0 {
        added.push(make_table(store, sealed).await?);
    }
    let through = sealed.batches.1;
    store.shared.proven(through).await.map_err(|_closed| Closing)?;
    let (start, _) = store.log_start().await;
    let (tables, bytes) = (added.len(), added.iter().map(|live| live.meta.bytes).sum());
    event::note("memtable_flushed", sealed.memtable.len() as u64, bytes);
    let changes = vec![Change::Log { start, flushed_through: through }];
    store.install(Edit { added, changes, flushed: Some(sealed), ..Edit::default() }).await?;
    if tables > 0 {
        store.shared.count_flush(bytes);
    }
    Ok(())
}

/// Frees a memtable in steps, unless somebody still reads it: a full one at once would hold up its thread for milliseconds.
async fn free(sealed: Arc<Sealed>) {
    let Some(Sealed { mut memtable, .. }) = Arc::into_inner(sealed) else { return };
    while memtable.drop_first(STEP) {
        task::yield_now().await;
    }
}

async fn make_table<D: Device>(store: &Store<D>, sealed: &Sealed) -> Result<Live, Closing> {
    let mut pause = RETRY_MIN;
    loop {
        let origin = store.next_table().await;
        let error = match write(store, origin, sealed).await {
            Ok(Some(live)) => return Ok(live),
            Ok(None) => {
                store.discard(origin).await;
                return Err(Closing);
            }
            Err(error) => error,
        };
        store.discard(origin).await;
        tracing::warn!(%error, "a memtable cannot be written to a table; retrying");
        event::note("flush_failed", 0, origin.table.0);
        store.shared.count_table_failure(error.to_string());
        if store.shared.is_closing() {
            return Err(Closing);
        }
        store.shared.rest(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Writes `sealed` to a table of level 0 and opens it; `None`: the end was asked for.
async fn write<D: Device>(
    store: &Store<D>,
    origin: Origin,
    sealed: &Sealed,
) -> Result<Option<Live>, TableError> {
    let spec = Spec {
        origin,
        entries_max: sealed.memtable.len() as u64,
        batches: sealed.batches.0..=sealed.batches.1,
        block_bytes: store.shared.options.block_bytes,
    };
    let mut writer = TableWriter::create(&store.path(origin), spec).await?;
    let mut from = Bound::Unbounded;
    loop {
        let mut page = Vec::with_capacity(STEP);
        sealed.memtable.page((from.as_ref(), Bound::Unbounded), STEP, u64::MAX, &mut page);
        let Some((last, _)) = page.last() else { break };
        from = Bound::Excluded(last.clone());
        for (key, object) in &page {
            writer.add_encoded(key, object).await?;
        }
        if store.shared.is_closing() {
            return Ok(None);
        }
        task::yield_now().await;
    }
    let properties: Properties = writer.finish().await?;
    store.adopt(origin, 0, properties).await.map(Some)
}

/// Takes the segments off the log's front that nothing needs any more.
async fn release<D: Device>(store: &Store<D>) -> Result<(), Closing> {
    let (_, through) = store.log_start().await;
    let Some((mut released, mut first)) = store.shared.releasable(through) else { return Ok(()) };
    let (oldest, newest) = hinting_batches(store).await;
    if oldest < first.first_batch && is_log_long(store, &released) {
        carry_hints(store, first.first_batch).await?;
    } else {
        // Up to the segment with the oldest hint.
        while let Some(segment) = released.pop_if(|_| oldest < first.first_batch) {
            first = segment;
        }
        if !released.is_empty() && newest > 0 {
            // A hint that was put again may be durable as it was before alone, in what goes now.
            store.shared.close_open_batch();
            store.shared.proven(newest).await.map_err(|_closed| Closing)?;
        }
    }
    if released.is_empty() {
        return Ok(());
    }
    store.note(&[Change::Log { start: first.number, flushed_through: through }]).await?;
    store.shared.released(first.number);
    event::note("log_released", released.len() as u64, first.number);
    for segment in released {
        remove(&segment_path(store.folder(), segment.number)).await;
    }
    Ok(())
}

/// The lowest and the highest batch that holds a hint as it is now; (`u64::MAX`, 0): there is none.
async fn hinting_batches<D: Device>(store: &Store<D>) -> (u64, u64) {
    let (mut oldest, mut newest, mut after) = (u64::MAX, 0, None);
    loop {
        let (some, next) = store.shared.hinting_batches(after.as_ref());
        (oldest, newest) = (oldest.min(some.0), newest.max(some.1));
        if next.is_none() {
            return (oldest, newest);
        }
        after = next;
        task::yield_now().await;
    }
}

/// True when the log's front is worth logging its hints again: when it is twice as long as all hints
/// together, so that half of it or more is freed, and carrying costs no more than was written.
fn is_log_long<D: Device>(store: &Store<D>, front: &[Segment]) -> bool {
    let front: u64 = front.iter().map(|segment| segment.bytes).sum();
    front >= 2 * store.shared.hint_bytes()
}

/// Logs the hints again that only batches below `below` hold, and waits until that is proven.
async fn carry_hints<D: Device>(store: &Store<D>, below: u64) -> Result<(), Closing> {
    let shared = &store.shared;
    let mut after = None;
    loop {
        while shared.is_log_busy() {
            if shared.is_closing() {
                return Err(Closing);
            }
            shared.rest(Duration::from_millis(20)).await;
        }
        match shared.carry_hints(after.as_ref(), below) {
            Ok(None) => break,
            Ok(next) => after = next,
            // Refused in the middle of a step: those before it stay carried, the rest comes again.
            Err(_) if shared.is_closing() => return Err(Closing),
            Err(_) => shared.rest(Duration::from_millis(20)).await,
        }
        task::yield_now().await;
    }
    event::note("hints_carried", 0, below);
    shared.proven(shared.close_open_batch()).await.map_err(|_closed| Closing)
}
