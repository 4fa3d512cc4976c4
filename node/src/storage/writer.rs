//! The one task that writes the log.
//!
//! ```text
//! take what is pending ──► write and sync ──► wake its waiters ──► again
//!                               │ failed
//!                               ▼
//!          stalled: put refuses; same batch to a new segment, 100 ms, 200 ms, … 2 s later
//! ```
//!
//! When the end is asked for it writes what is pending, and gives up if that fails.

use std::time::Duration;

use bytes::BytesMut;

use super::log::append::{Device, Log};
use super::log::format::{Batch, Place};
use super::queue::{Shared, Written};
use crate::runtime::{event, time};

/// The pauses between tries while the disk fails.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Writes batches until the end is asked for.
pub(super) async fn run<D: Device>(shared: &Shared, mut log: Log<D>) {
    while let Some(mut batch) = shared.next_batch().await {
        let Some(written) = persist(shared, &mut log, &mut batch).await else { return };
        shared.batch_durable(batch, &written);
    }
    if log.last_is_undeclared() {
        // Says that the last batch was durable, so that damage to it is told from a torn write.
        let mut mark = Batch::new(log.durable_through() + 1, BytesMut::new());
        if let Err(error) = log.write(&mut mark).await {
            tracing::debug!(%error, "closed without the last mark");
        }
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
