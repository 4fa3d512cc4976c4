//! The writer task's side of the shared state: which batch is next, and when; and what came of it.
//!
//! A writer that is alone never waits. Once the batch before held much, the next one gathers company for a moment, but not
//! until the last of those has come back: the slowest would hold up the others.

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

/// What the writer does next.
enum Next {
    Write(Batch),
    WaitUntil(Instant),
    Wait,
    End,
}

/// The writer task's side.
impl Shared {
    /// The next batch to write, when it is time to; `None`: all is written and the end was asked
    /// for.
    pub(in crate::storage) async fn next_batch(&self) -> Option<Batch> {
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

    pub(super) fn take_open(&mut self) -> Batch {
        let next = Batch::new(self.open.number + 1, std::mem::take(&mut self.spare));
        self.awaited_before = std::mem::take(&mut self.awaited);
        self.quiet_puts = false;
        std::mem::replace(&mut self.open, next)
    }
}
