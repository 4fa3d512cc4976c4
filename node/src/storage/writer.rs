//! Who writes the log: one task, or, while that has nothing to do, whoever waits for a batch.
//!
//! ```text
//! take what is pending ──► write and sync ──► wake its waiters ──► again
//!                               │ failed
//!                               ▼
//!          stalled: put refuses; same batch to a new segment, 100 ms, 200 ms, … 2 s later
//! ```
//!
//! When the end is asked for it writes what is pending, and gives up if that fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::sync::Mutex;

use super::log::append::{Device, Log};
use super::log::format::{Batch, Place};
use super::queue::{Next, Shared, WriteHere, Written};
use crate::runtime::{event, task, time};

/// The pauses between tries while the disk fails.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The log, for one writer at a time: the writer's task, or the task of somebody who waits for a batch and has
/// nothing else to do.
#[derive(Debug)]
pub(super) struct Pen<D> {
    log: Arc<Mutex<Log<D>>>,
}

impl<D> Clone for Pen<D> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone() }
    }
}

impl<D: Device> Pen<D> {
    pub(super) fn new(log: Log<D>) -> Self {
        Self { log: Arc::new(Mutex::new(log)) }
    }
}

impl<D: Device> WriteHere for Pen<D> {
    fn write_here(&self, shared: &Arc<Shared>, batch: u64) {
        let Ok(mut log) = self.log.clone().try_lock_owned() else { return };
        let Some(batch) = shared.take_alone(batch) else {
            drop(log);
            // The writer may have found the log held just now.
            return shared.laid_down();
        };
        let shared = shared.clone();
        let mut writing = Box::pin(async move {
            if let Err(batch) = write(&shared, &mut log, batch).await {
                shared.give_back(batch);
            }
            drop(log);
            shared.laid_down();
        });
        // What must wait goes on by itself: whoever waits here may be dropped.
        if (&mut writing).now_or_never().is_none() {
            drop(task::spawn(writing));
        }
    }
}

/// Writes batches until the end is asked for.
pub(super) async fn run<D: Device>(shared: &Shared, pen: &Pen<D>) {
    let mut gather_until = None;
    loop {
        let mut until = None;
        // Held by somebody else: they ring when they lay it down.
        if let Ok(mut log) = pen.log.try_lock() {
            match shared.next(&mut gather_until) {
                Next::Write(batch) => {
                    gather_until = None;
                    if write(shared, &mut log, batch).await.is_err() {
                        return;
                    }
                    continue;
                }
                Next::End => return end(&mut log).await,
                Next::WaitUntil(deadline) => until = Some(deadline),
                Next::Wait => {}
            }
        }
        shared.work(until).await;
    }
}

/// Says that the last batch was durable, so that damage to it is told from a torn write.
async fn end<D: Device>(log: &mut Log<D>) {
    if log.last_is_undeclared() {
        let mut mark = Batch::new(log.durable_through() + 1, BytesMut::new());
        if let Err(error) = log.write(&mut mark).await {
            tracing::debug!(%error, "closed without the last mark");
        }
    }
}

/// Makes `batch` durable and wakes its waiters, however long it takes.
///
/// # Errors
/// The batch: it failed, and the end was asked for.
async fn write<D: Device>(
    shared: &Shared,
    log: &mut Log<D>,
    mut batch: Batch,
) -> Result<(), Batch> {
    match persist(shared, log, &mut batch).await {
        Some(written) => {
            shared.batch_durable(batch, &written);
            Ok(())
        }
        None => Err(batch),
    }
}

/// Makes `batch` durable, however long it takes. `None`: it failed and the end was asked for.
async fn persist<D: Device>(
    shared: &Shared,
    log: &mut Log<D>,
    batch: &mut Batch,
) -> Option<Written> {
    let before = log.end();
    let mut pause = RETRY_MIN;
    let mut stalled = false;
    loop {
        let (path, started) = (log.path(), time::now());
        let Err(error) = log.write(batch).await else {
            if stalled {
                event::note("log_recovered", 0, batch.number);
                tracing::info!(path = %log.path().display(), "the log is written again");
            }
            return Some(written(before, log.end(), time::now().since(started)));
        };
        if shared.stall(format!("{}: {error}", path.display())) {
            stalled = true;
            event::note("log_stalled", 0, batch.number);
            tracing::warn!(path = %path.display(), %error, "the log cannot be written; retrying");
        }
        if shared.is_closing() {
            return None;
        }
        shared.pause(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn written(before: Place, after: Place, took: Duration) -> Written {
    let segment = after.segment;
    if before.segment == segment {
        return Written { took, segment, bytes: after.offset - before.offset };
    }
    event::note("segment_rolled", 0, segment);
    Written { took, segment, bytes: after.offset }
}
