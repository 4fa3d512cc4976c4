//! What the engine's callers and its writer task share: the memtable, the hints, the batches that wait
//! for the disk, and who waits for them.
//!
//! One short lock covers memtable, hints and queue, so that the log has the order that reads saw. It is
//! never held across an await, nor while a checksum is computed. Waiters watch the number of the
//! last durable batch; those of neighbouring batches wait on different bells, so finishing one
//! batch wakes its own waiters alone.
//!
//! Most records are awaited: somebody wants to know when they are durable, so the writer does not
//! tarry. The end of a hint is not: it rides with the next batch that somebody waits for, or goes by
//! itself after [`RIDE_MAX`], so that replaying hints costs others no sync.
//!
//! Invariants: batches are numbered without gaps, taken in order, and one is with the writer at
//! most. `pending_bytes` is what is accepted and not yet durable.

mod hinting;
mod reading;
mod sealing;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;

pub(super) use self::reading::{Near, Step};
pub(super) use self::sealing::{Chore, DoubtChange};
use super::error::WriteError;
use super::hints::Hints;
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

/// From so many records in the batch before, the next one waits for company.
const COMPANY_MIN: u32 = 8;

/// A batch's buffer is used again for the next batch but one unless it grew past this.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// So long a record that nobody waits for waits for one that somebody does.
const RIDE_MAX: Duration = Duration::from_millis(100);

/// A write on its way to the disk. Dropping it is fine: the write goes on.
#[derive(Debug, Clone)]
#[must_use = "a write is not durable before its ticket says so"]
pub struct Ticket {
    shared: Arc<Shared>,
    batch: u64,
}

impl Ticket {
    /// Completes when the write is durable under the engine's policy: with
    /// [`SyncPolicy::Always`] once its batch was synced, with [`SyncPolicy::Interval`] at once.
    /// While the disk fails it waits, as long as the caller does.
    ///
    /// # Errors
    /// [`WriteError::Closed`]: the engine was closed first, and the write may be lost.
    pub async fn durable(self) -> Result<(), WriteError> {
        match self.shared.options.sync {
            SyncPolicy::Interval { .. } => Ok(()),
            SyncPolicy::Always => self.shared.synced(self.batch).await,
        }
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
    /// The writer is gone: nothing more becomes durable.
    written: AtomicBool,
    /// The folder may belong to somebody else.
    ended: AtomicBool,
    bells: [Notify; BELLS],
    /// Rung for the writer: a batch was begun, filled or grew to its target, or the end was asked for.
    work: Notify,
    /// Files to remove. Its bell is rung for the keeper as well when a memtable was sealed, something
    /// is in doubt, or the end was asked for.
    graveyard: Arc<Graveyard>,
    /// Rung for compaction: there are other tables, or the end was asked for.
    compaction: Notify,
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
    /// Of what it hears now or must hear, so many take something out of doubt.
    trusting: usize,
    /// Takes records; its number is the highest.
    open: Batch,
    /// So many of its records are awaited by somebody.
    awaited: u32,
    /// So many were in the batch before.
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

/// What the writer does next.
enum Next {
    Write(Batch),
    WaitUntil(Instant),
    Wait,
    End,
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
            trusting: 0,
            awaited: 0,
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
            written: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            bells: Default::default(),
            work: Notify::new(),
            graveyard: contents.graveyard,
            compaction: Notify::new(),
            room: Notify::new(),
            end: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic anywhere ends the process; what its destructors see is as good as it gets.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a write, or changes nothing.
    pub(super) fn put(
        self: &Arc<Self>,
        key: &Key,
        object: Arc<Object>,
    ) -> Result<Ticket, WriteError> {
        let mut state = self.state();
        let bytes_max = record_bytes_max(key, &object);
        state.admit(bytes_max, &self.options)?;
        if state.make_room(key, &object, &self.options)? {
            self.graveyard.bell.notify_one();
        }
        let push = |out: &mut BytesMut| Record::encode_put(key, &object, out);
        let ring = state.push(bytes_max, true, &self.options, push);
        state.memtable.insert(key, object);
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

    /// A ticket for all that was accepted so far.
    pub(super) fn barrier(self: &Arc<Self>) -> Ticket {
        let state = self.state();
        Ticket { shared: self.clone(), batch: state.awaited_through() }
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

/// The writer task's side.
impl Shared {
    /// The next batch to write, when it is time to; `None`: all is written and the end was asked
    /// for.
    pub(super) async fn next_batch(&self) -> Option<Batch> {
        let mut gather_until = None;
        loop {
            let next = self.state().next(&self.options, &mut gather_until);
            match next {
                Next::Write(batch) => return Some(batch),
                Next::End => return None,
                Next::Wait => self.work.notified().await,
                // Whichever comes first, the next round finds out.
                Next::WaitUntil(deadline) => tokio::select! {
                    biased;
                    () = self.work.notified() => {}
                    () = time::sleep_until(deadline) => {}
                },
            }
        }
    }

    /// `batch` is durable: wakes its waiters.
    pub(super) fn batch_durable(&self, batch: Batch, written: &Written) {
        let number = batch.number;
        let mut state = self.state();
        let body = batch.buffer.len() - BATCH_HEADER_BYTES;
        assert!(state.pending_bytes >= body, "batch {number} was not pending");
        state.pending_bytes -= body;
        state.stats.stalled = None;
        state.stats.batches += 1;
        state.stats.syncs += 1;
        state.stats.records += u64::from(batch.records);
        state.stats.last_sync = written.took;
        match state.segments.back_mut() {
            Some(segment) if segment.number == written.segment => segment.bytes += written.bytes,
            Some(_) | None => state.segments.push_back(Segment {
                number: written.segment,
                first_batch: number,
                bytes: written.bytes,
            }),
        }
        if batch.buffer.capacity() <= SPARE_BYTES_MAX {
            state.spare = batch.buffer;
        }
        drop(state);
        let before = self.durable.swap(number, Ordering::AcqRel);
        assert_eq!(before + 1, number, "batches become durable in order");
        self.bells[number as usize % BELLS].notify_waiters();
    }

    /// A write or sync failed: refuses writes until a batch is durable again. True when it was not
    /// stalled before.
    pub(super) fn stall(&self, reason: String) -> bool {
        self.failures.fetch_add(1, Ordering::AcqRel);
        let mut state = self.state();
        state.stats.syncs += 1;
        state.stats.stalled.replace(reason.into()).is_none()
    }

    /// Waits `pause`, or until the end is asked for.
    pub(super) async fn pause(&self, pause: Duration) {
        let deadline = time::now() + pause;
        while !self.is_closing() {
            if time::timeout_at(deadline, self.work.notified()).await.is_err() {
                return;
            }
        }
    }

    /// The writer is gone.
    pub(super) fn writer_gone(&self) {
        self.written.store(true, Ordering::Release);
        for bell in &self.bells {
            bell.notify_waiters();
        }
    }

    /// All tasks are gone, and the folder is free.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_waiters();
    }
}

/// What making a batch durable took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) took: Duration,
    /// The segment that holds it.
    pub(super) segment: u64,
    /// By how much the segment grew.
    pub(super) bytes: u64,
}

impl State {
    /// Says why a record of up to `bytes` is refused, if it is.
    fn admit(&self, bytes: usize, options: &Options) -> Result<(), WriteError> {
        if self.closing {
            return Err(WriteError::Closed);
        }
        if let Some(reason) = &self.stats.stalled {
            return Err(WriteError::Stalled { reason: reason.clone() });
        }
        let limit = options.batch_bytes_max - BATCH_HEADER_BYTES;
        if bytes > limit {
            return Err(WriteError::TooLarge { bytes, limit });
        }
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
        let before = self.open.buffer.len();
        self.open.push(encode);
        let bytes = self.open.buffer.len() - before;
        self.pending_bytes += bytes;
        self.logged_bytes += bytes as u64;
        self.awaited += u32::from(awaited);
        let reached = awaited && (self.awaited == 1 || self.awaited == self.target);
        filled || self.open.records == 1 || reached
    }

    /// The last batch that holds what somebody may wait for: the open one, else the one before,
    /// which is full, being written, or durable.
    fn awaited_through(&self) -> u64 {
        self.open.number - u64::from(self.awaited == 0)
    }

    fn next(&mut self, options: &Options, gather_until: &mut Option<Instant>) -> Next {
        let last = self.awaited_before;
        if let Some(batch) = self.full.pop_front() {
            return Next::Write(batch);
        }
        if self.open.records == 0 {
            return if self.closing { Next::End } else { Next::Wait };
        }
        let deadline = match options.sync {
            _ if self.closing => None,
            _ if self.awaited == 0 => Some(self.opened_at + RIDE_MAX),
            SyncPolicy::Interval { every } => Some(self.opened_at + every),
            SyncPolicy::Always if last < COMPANY_MIN || options.gather.is_zero() => None,
            // Not all of them: the slowest would hold up the others.
            SyncPolicy::Always if self.awaited >= last - last / 4 => None,
            SyncPolicy::Always => {
                self.target = last - last / 4;
                Some(*gather_until.get_or_insert_with(|| time::now() + options.gather))
            }
        };
        if let Some(deadline) = deadline
            && time::now() < deadline
        {
            return Next::WaitUntil(deadline);
        }
        self.target = 0;
        Next::Write(self.take_open())
    }

    fn take_open(&mut self) -> Batch {
        let next = Batch::new(self.open.number + 1, std::mem::take(&mut self.spare));
        self.awaited_before = std::mem::take(&mut self.awaited);
        std::mem::replace(&mut self.open, next)
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
