//! What the engine's callers and its writer task share: the memtable, the hints, the batches that wait
//! for the disk, and who waits for them.
//!
//! One short lock covers memtable, hints and queue, so that the log has the order that reads saw. It is
//! never held across an await, nor while a checksum is computed. Waiters watch the number of the
//! last durable batch; those of neighbouring batches wait on different bells, so finishing one
//! batch wakes its own waiters alone.
//!
//! Most records are awaited: somebody wants to know when they are durable, so the writer does not
//! tarry. The end of a hint is not, nor what healing brings: it rides with the next batch that somebody waits for, or goes by
//! itself once there is enough of it or after a tenth of a second, so that replaying hints costs others no sync.
//!
//! Invariants: batches are numbered without gaps, taken in order, and one is with the writer at
//! most. `pending_bytes` is what is accepted and not yet durable.

mod hinting;
mod reading;
mod sealing;
mod writing;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;

pub(super) use self::reading::{Near, Step};
pub(super) use self::sealing::{Chore, DoubtChange};
pub(super) use self::writing::{Next, WriteHere, Written};
use super::doubt::TokenRange;
use super::error::WriteError;
use super::hints::{Hints, ITSELF};
use super::log::format::{BATCH_HEADER_BYTES, Batch};
use super::log::record::{RECORD_OVERHEAD_BYTES, Record};
pub(super) use super::log::replay::Segment;
use super::memtable::Memtable;
use super::stats::Stats;
use super::version::{Graveyard, View};
use super::{Options, SyncPolicy};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::time::{self, Instant};

/// Waiters of batch n wait on bell n modulo this.
const BELLS: usize = 8;

/// A write that goes to the disk as soon as somebody waits for it. Dropping it is fine: the write goes on.
#[derive(Debug, Clone)]
#[must_use = "a write is not durable before its ticket says so"]
pub struct Ticket {
    shared: Arc<Shared>,
    batch: u64,
}

impl Ticket {
    /// Completes when a client may be told that the write is stored, under the engine's policy: with
    /// [`SyncPolicy::Always`] once it is [durable](Self::durable), with [`SyncPolicy::Interval`] at once.
    ///
    /// # Errors
    /// [`WriteError::Closed`]: the engine was closed first, and the write may be lost.
    pub async fn ackable(self) -> Result<(), WriteError> {
        match self.shared.options.sync {
            SyncPolicy::Interval { .. } => Ok(()),
            SyncPolicy::Always => self.durable().await,
        }
    }

    /// [`ackable`](Self::ackable), for a task that has nothing else to do meanwhile: if nobody writes the log at
    /// the moment, this task does, and goes on two hops between threads sooner. Futures that share
    /// the task wait as long.
    ///
    /// # Errors
    /// As of [`ackable`](Self::ackable).
    pub async fn ackable_here(self) -> Result<(), WriteError> {
        if self.shared.options.sync == SyncPolicy::Always {
            self.shared.write_here(self.batch);
        }
        self.ackable().await
    }

    /// Completes when the write is on disk and synced, whatever the policy. Who forgets another copy
    /// for the sake of this one waits for this: the other was acked long ago, and no policy allows to
    /// lose it. While the disk fails it waits, as long as the caller does.
    ///
    /// # Errors
    /// [`WriteError::Closed`]: the engine was closed first, and the write may be lost.
    pub async fn durable(self) -> Result<(), WriteError> {
        self.shared.synced(self.batch).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nobody may have waited for it.
        self.shared.ring_for(self.batch);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    state: Mutex<State>,
    /// The last durable batch.
    durable: AtomicU64,
    failures: AtomicU64,
    damages: AtomicU64,
    trusts: AtomicU64,
    /// The writer is gone: nothing more becomes durable.
    written: AtomicBool,
    /// The folder may belong to somebody else.
    ended: AtomicBool,
    bells: [Notify; BELLS],
    /// Rung for the writer: a batch was filled or grew to its target, somebody waits for it, or the end was asked for.
    work: Notify,
    /// The last batch that it was rung for because somebody waits.
    rung: AtomicU64,
    /// Writes the log in the task that waits for it.
    pen: OnceLock<Box<dyn WriteHere>>,
    /// Files to remove. Its bell is rung for the keeper as well when a memtable was sealed, something
    /// is in doubt, or the end was asked for.
    graveyard: Arc<Graveyard>,
    /// Rung for compaction: there are other tables, or the end was asked for.
    compaction: Notify,
    /// Rung when a salvage ends.
    salvage_done: Notify,
    /// Rung for those who wait for [room](Self::room).
    room: Notify,
    end: Notify,
}

#[derive(Debug)]
struct State {
    memtable: Memtable,
    /// The first batch whose puts may be in the memtable.
    memtable_from: u64,
    /// Bytes of log since then.
    logged_bytes: u64,
    hints: Hints,
    /// What lies beneath the memtable.
    view: Arc<View>,
    /// Segments of the log, oldest first.
    segments: VecDeque<Segment>,
    /// What the manifest must hear of doubt.
    doubt_changes: Vec<DoubtChange>,
    /// In doubt, and the manifest is to hear of it once what was written since is [kept](super::salvage).
    salvaging: Vec<TokenRange>,
    /// Of what it hears now or must hear, so many take something out of doubt.
    trusting: usize,
    /// Takes records; its number is the highest.
    open: Batch,
    /// So many of its records are awaited by somebody.
    awaited: u32,
    /// There are puts in it that nobody awaited when they came.
    quiet_puts: bool,
    /// So many were in the last batch that held any.
    awaited_before: u32,
    /// When its first record came.
    opened_at: Instant,
    /// Full batches, oldest first.
    full: VecDeque<Batch>,
    /// Bytes of `open`, of `full` and of the batch that the writer has.
    pending_bytes: usize,
    /// The writer wants to hear when so many of the open batch's records are awaited.
    target: u32,
    spare: BytesMut,
    closing: bool,
    stats: Stats,
}

/// What an engine starts with.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) memtable: Memtable,
    /// The first batch whose puts may be in the memtable.
    pub(super) memtable_from: u64,
    pub(super) hints: Hints,
    pub(super) view: View,
    pub(super) segments: VecDeque<Segment>,
    pub(super) graveyard: Arc<Graveyard>,
}

impl Shared {
    /// Starts behind batch `durable`, with what was found.
    pub(super) fn new(options: Options, durable: u64, contents: Contents) -> Self {
        let state = State {
            memtable: contents.memtable,
            memtable_from: contents.memtable_from,
            logged_bytes: contents.segments.iter().map(|segment| segment.bytes).sum(),
            hints: contents.hints,
            view: Arc::new(contents.view),
            segments: contents.segments,
            doubt_changes: Vec::new(),
            salvaging: Vec::new(),
            trusting: 0,
            awaited: 0,
            quiet_puts: false,
            awaited_before: 0,
            open: Batch::new(durable + 1, BytesMut::new()),
            opened_at: Instant::default(),
            full: VecDeque::new(),
            pending_bytes: 0,
            target: 0,
            spare: BytesMut::new(),
            closing: false,
            stats: Stats::default(),
        };
        Self {
            options,
            state: Mutex::new(state),
            durable: AtomicU64::new(durable),
            failures: AtomicU64::new(0),
            damages: AtomicU64::new(0),
            trusts: AtomicU64::new(0),
            written: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            bells: Default::default(),
            work: Notify::new(),
            rung: AtomicU64::new(durable),
            pen: OnceLock::new(),
            graveyard: contents.graveyard,
            compaction: Notify::new(),
            salvage_done: Notify::new(),
            room: Notify::new(),
            end: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic anywhere ends the process; what its destructors see is as good as it gets.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a write, or changes nothing. `awaited`: somebody waits until it is durable.
    pub(super) fn put(
        self: &Arc<Self>,
        key: &Key,
        object: &Object,
        awaited: bool,
    ) -> Result<Ticket, WriteError> {
        let mut state = self.state();
        let bytes_max = record_bytes_max(key, object);
        state.admit(&[bytes_max], &self.options)?;
        if state.make_room(key, object, &self.options)? {
            self.graveyard.bell.notify_one();
        }
        let ring = state.put(key, object, awaited, &self.options);
        Ok(self.pushed(state, ring))
    }

    /// Lets the lock go and tells the writer what it must know; the ticket of the open batch.
    fn pushed(self: &Arc<Self>, state: MutexGuard<'_, State>, ring: bool) -> Ticket {
        let batch = state.open.number;
        drop(state);
        if ring {
            self.work.notify_one();
        }
        Ticket { shared: self.clone(), batch }
    }

    /// A ticket for all puts that were accepted so far.
    pub(super) fn barrier(self: &Arc<Self>) -> Ticket {
        let mut state = self.state();
        let batch = if state.quiet_puts { state.open.number } else { state.awaited_through() };
        // Now somebody waits for them.
        state.awaited += u32::from(state.quiet_puts && state.awaited == 0);
        drop(state);
        Ticket { shared: self.clone(), batch }
    }

    /// Bytes that were accepted and are not durable yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.state().pending_bytes
    }

    /// Completes once all that was accepted so far is synced, under either policy, awaited by somebody or not.
    ///
    /// # Errors
    /// [`WriteError::Closed`].
    pub(super) async fn all_synced(&self) -> Result<(), WriteError> {
        let last = {
            let state = self.state();
            state.open.number - u64::from(state.open.records == 0)
        };
        self.synced(last).await
    }

    /// Completes once `batch` is durable, or never will be.
    async fn synced(&self, batch: u64) -> Result<(), WriteError> {
        let bell = &self.bells[batch as usize % BELLS];
        loop {
            // Made before the check, so that a bell between the check and the await is heard.
            let rung = bell.notified();
            let written = self.written.load(Ordering::Acquire);
            if self.durable.load(Ordering::Acquire) >= batch {
                return Ok(());
            }
            if written {
                return Err(WriteError::Closed);
            }
            self.ring_for(batch);
            rung.await;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let (mut stats, view) = {
            let state = self.state();
            let stats = Stats {
                keys: state.memtable.len() as u64,
                memtable_bytes: state.memtable.bytes(),
                hints: state.hints.count(),
                hint_bytes: state.hints.bytes(),
                own_hint_bytes: state.hints.bytes_beside(ITSELF),
                log_bytes: state.segments.iter().map(|segment| segment.bytes).sum(),
                segments: state.segments.len() as u64,
                failures: self.failures(),
                pending_bytes: state.pending_bytes as u64,
                ..state.stats.clone()
            };
            (stats, state.view.clone())
        };
        stats.sealed = view.sealed.len() as u64;
        stats.memtable_bytes += view.sealed_bytes();
        stats.keys += view.sealed.iter().map(|sealed| sealed.memtable.len() as u64).sum::<u64>();
        stats.tables_level0 = view.version.levels.first().map_or(0, |level| level.len() as u64);
        for live in view.version.tables() {
            stats.tables += 1;
            stats.table_bytes += live.meta.bytes;
            stats.keys += live.meta.entries;
        }
        stats.doubtful_ranges = view.doubts.ranges().len() as u64;
        stats
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    pub(super) fn damages(&self) -> u64 {
        self.damages.load(Ordering::Acquire)
    }

    pub(super) fn trusts(&self) -> u64 {
        self.trusts.load(Ordering::Acquire)
    }

    /// Asks the writer to finish. Nothing is accepted from here on.
    pub(super) fn begin_close(&self) {
        self.state().closing = true;
        self.work.notify_one();
        self.graveyard.bell.notify_one();
        self.compaction.notify_one();
        self.room.notify_waiters();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Completes when the writer is gone.
    ///
    /// # Errors
    /// [`WriteError::Stalled`] when it left something behind.
    pub(super) async fn closed(&self) -> Result<(), WriteError> {
        loop {
            let rung = self.end.notified();
            if self.ended.load(Ordering::Acquire) {
                break;
            }
            rung.await;
        }
        match self.state().stats.stalled.clone() {
            Some(reason) => Err(WriteError::Stalled { reason }),
            None => Ok(()),
        }
    }
}

impl State {
    /// Appends a put to the open batch and to the memtable. True when the writer must hear of it.
    fn put(&mut self, key: &Key, object: &Object, awaited: bool, options: &Options) -> bool {
        let encoded = self.memtable.insert(key, object);
        let push = |out: &mut BytesMut| Record::encode_put(key, &encoded, out);
        let ring = self.push(record_bytes_max(key, object), awaited, options, push);
        self.quiet_puts |= !awaited;
        ring
    }

    /// Says why records of up to so many bytes each are refused together, if they are.
    fn admit(&self, records: &[usize], options: &Options) -> Result<(), WriteError> {
        if self.closing {
            return Err(WriteError::Closed);
        }
        if let Some(reason) = &self.stats.stalled {
            return Err(WriteError::Stalled { reason: reason.clone() });
        }
        let limit = options.batch_bytes_max - BATCH_HEADER_BYTES;
        if let Some(&bytes) = records.iter().find(|bytes| **bytes > limit) {
            return Err(WriteError::TooLarge { bytes, limit });
        }
        let bytes: usize = records.iter().sum();
        let (pending, limit) = (self.pending_bytes, options.pending_bytes_max);
        if pending + bytes > limit {
            return Err(WriteError::PendingFull { pending, limit });
        }
        Ok(())
    }

    /// Appends the record that `encode` writes, of up to `bytes_max`, to the open batch, or to a new
    /// one where it does not fit. True when the writer must hear of it.
    fn push(
        &mut self,
        bytes_max: usize,
        awaited: bool,
        options: &Options,
        encode: impl FnOnce(&mut BytesMut),
    ) -> bool {
        let used = self.open.buffer.len();
        let filled = self.open.records > 0 && used + bytes_max > options.batch_bytes_max;
        if filled {
            self.close_batch();
        }
        if self.open.records == 0 && (!awaited || options.sync != SyncPolicy::Always) {
            self.opened_at = time::now();
        }
        let (before, was_due) = (self.open.buffer.len(), self.is_quiet_and_large());
        self.open.push(encode);
        let bytes = self.open.buffer.len() - before;
        self.pending_bytes += bytes;
        self.logged_bytes += bytes as u64;
        self.awaited += u32::from(awaited);
        // Who waits for it rings once more.
        let timed = !awaited || options.sync != SyncPolicy::Always;
        let due = !was_due && self.is_quiet_and_large();
        filled || due || timed && self.open.records == 1 || awaited && self.awaited == self.target
    }

    /// The last batch that holds what somebody may wait for: the open one, else the one before,
    /// which is full, being written, or durable.
    fn awaited_through(&self) -> u64 {
        self.open.number - u64::from(self.awaited == 0)
    }

    fn close_batch(&mut self) {
        let batch = self.take_open();
        self.full.push_back(batch);
    }
}

/// Bytes that a record of these takes, at most.
fn record_bytes_max(key: &Key, object: &Object) -> usize {
    RECORD_OVERHEAD_BYTES + key.size_bytes() + object.size_bytes()
}
