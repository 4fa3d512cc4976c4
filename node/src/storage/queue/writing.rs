//! The writer's side of the shared state: which batch is next, and when; and what came of it.
//!
//! A writer that is alone never waits. Once the batch before held much, the next one gathers company for a moment, but not
//! until the last of those has come back: the slowest would hold up the others.
//!
//! What nobody waits for, such as what healing brings, waits for those who do, but only until there is enough of it for a write of its
//! own: as one large write it would hold up every sync behind it on the disk, those of other nodes as well.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{BELLS, Segment, Shared, State};
use crate::runtime::time::{self, Instant};
use crate::storage::log::format::{BATCH_HEADER_BYTES, Batch};
use crate::storage::{Options, SyncPolicy};

/// From so many records in the batch before, the next one waits for company.
const COMPANY_MIN: u32 = 8;

/// A batch's buffer is used again for the next batch but one unless it grew past this.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// So long a record that nobody waits for waits for one that somebody does.
const RIDE_MAX: Duration = Duration::from_millis(100);

/// So many bytes that nobody waits for are written at once, however fast they come: a write of 1 MiB holds up a disk of 1 GB/s for 1 ms.
const QUIET_BYTES: usize = 64 << 10;

/// What the writer does next.
#[derive(Debug)]
pub(in crate::storage) enum Next {
    Write(Batch),
    WaitUntil(Instant),
    Wait,
    End,
}

/// Writes a batch in the task that waits for it, see [`Ticket::ackable_here`](super::Ticket::ackable_here).
pub(in crate::storage) trait WriteHere: fmt::Debug + Send + Sync {
    /// Writes `batch` if it is the next one and nobody writes. Otherwise others do.
    fn write_here(&self, shared: &Arc<Shared>, batch: u64);
}

/// The writer's side.
impl Shared {
    /// The next batch to write, when it is time to. Who asks holds the log.
    pub(in crate::storage) fn next(&self, gather_until: &mut Option<Instant>) -> Next {
        self.state().next(&self.options, gather_until)
    }

    /// Waits for what may change the answer of [`next`](Self::next).
    pub(in crate::storage) async fn work(&self, until: Option<Instant>) {
        match until {
            None => self.work.notified().await,
            // Whichever comes first, the next round finds out.
            Some(deadline) => tokio::select! {
                biased;
                () = self.work.notified() => {}
                () = time::sleep_until(deadline) => {}
            },
        }
    }

    /// Somebody waits for `batch`: the writer hears of the first one.
    pub(super) fn ring_for(&self, batch: u64) {
        let durable = self.durable.load(Ordering::Acquire) >= batch;
        if !durable && self.rung.fetch_max(batch, Ordering::AcqRel) < batch {
            self.work.notify_one();
        }
    }

    /// `pen` writes for those who wait here, too.
    pub(in crate::storage) fn set_pen(&self, pen: Box<dyn WriteHere>) {
        assert!(self.pen.set(pen).is_ok(), "an engine has one log");
    }

    /// Writes `batch` in this task if it is the next one and nobody writes.
    pub(super) fn write_here(self: &Arc<Self>, batch: u64) {
        if self.durable.load(Ordering::Acquire) < batch
            && let Some(pen) = self.pen.get()
        {
            pen.write_here(self, batch);
        }
    }

    /// The open batch, if it is `batch`, the next one, and gathers no company. Who asks holds the log.
    pub(in crate::storage) fn take_alone(&self, batch: u64) -> Option<Batch> {
        let mut state = self.state();
        let next = state.open.number == batch && state.open.records > 0 && state.full.is_empty();
        let alone = state.awaited_before < COMPANY_MIN && state.stats.stalled.is_none();
        (next && alone && !state.closing).then(|| state.take_open())
    }

    /// It could not be written, and the end was asked for: the writer gives up with it.
    pub(in crate::storage) fn give_back(&self, batch: Batch) {
        self.state().full.push_front(batch);
    }

    /// Nobody holds the log any more: the writer hears of what came meanwhile.
    pub(in crate::storage) fn laid_down(&self) {
        let state = self.state();
        let left = !state.full.is_empty() || state.open.records > 0 || state.closing;
        drop(state);
        if left {
            self.work.notify_one();
        }
    }

    /// `batch` is durable: wakes its waiters.
    pub(in crate::storage) fn batch_durable(&self, batch: Batch, written: &Written) {
        let number = batch.number;
        let mut state = self.state();
        let body = batch.buffer.len() - BATCH_HEADER_BYTES;
        assert!(state.pending_bytes >= body, "batch {number} was not pending");
        let behind = state.log_is_behind(&self.options);
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
        let caught_up = behind && !state.log_is_behind(&self.options);
        drop(state);
        if caught_up {
            self.room.notify_waiters();
        }
        let before = self.durable.swap(number, Ordering::AcqRel);
        assert_eq!(before + 1, number, "batches become durable in order");
        self.bells[number as usize % BELLS].notify_waiters();
    }

    /// A write or sync failed: refuses writes until a batch is durable again. True when it was not
    /// stalled before.
    pub(in crate::storage) fn stall(&self, reason: String) -> bool {
        self.failures.fetch_add(1, Ordering::AcqRel);
        let mut state = self.state();
        state.stats.syncs += 1;
        let first = state.stats.stalled.replace(reason.into()).is_none();
        drop(state);
        // Who waits for the log is to hear that it takes nothing.
        self.room.notify_waiters();
        first
    }

    /// Waits `pause`, or until the end is asked for.
    pub(in crate::storage) async fn pause(&self, pause: Duration) {
        let deadline = time::now() + pause;
        while !self.is_closing() {
            if time::timeout_at(deadline, self.work.notified()).await.is_err() {
                return;
            }
        }
    }

    /// The writer is gone.
    pub(in crate::storage) fn writer_gone(&self) {
        self.written.store(true, Ordering::Release);
        for bell in &self.bells {
            bell.notify_waiters();
        }
    }

    /// All tasks are gone, and the folder is free.
    pub(in crate::storage) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_waiters();
    }
}

/// What making a batch durable took.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct Written {
    pub(in crate::storage) took: Duration,
    /// The segment that holds it.
    pub(in crate::storage) segment: u64,
    /// By how much the segment grew.
    pub(in crate::storage) bytes: u64,
}

impl State {
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
            _ if self.is_quiet_and_large() => None,
            _ if self.awaited == 0 => Some(self.opened_at + RIDE_MAX),
            SyncPolicy::Interval { lag } => Some(self.opened_at + lag / 2),
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

    /// Nobody waits for the open batch, and it is worth a write.
    pub(super) fn is_quiet_and_large(&self) -> bool {
        self.awaited == 0 && self.open.buffer.len() >= QUIET_BYTES
    }

    pub(super) fn take_open(&mut self) -> Batch {
        let next = Batch::new(self.open.number + 1, std::mem::take(&mut self.spare));
        if self.awaited > 0 {
            self.awaited_before = std::mem::take(&mut self.awaited);
        }
        self.quiet_puts = false;
        std::mem::replace(&mut self.open, next)
    }
}
