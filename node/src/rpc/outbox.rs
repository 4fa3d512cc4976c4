//! Frames that wait to be written, and the writer that takes all of them at once.
//!
//! Whoever has a frame encodes it at the end of the [`Outbox`] and, if that was empty, rings the bell.
//! The writer swaps the whole buffer against an empty one and writes it with one call, while new frames
//! gather in the other. So a lone frame leaves at once, and under load many leave together; nothing is
//! copied.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::runtime::task;

/// An empty buffer of more than this gives its memory back.
const KEEP_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Whole frames, in the order in which they are to leave.
    pub(super) frames: Vec<u8>,
    /// Bytes that the writer holds.
    writing: usize,
    /// Bytes that the writer has ever taken.
    taken: u64,
}

impl Outbox {
    /// Bytes that have yet to reach the operating system.
    pub(super) fn queued_bytes(&self) -> usize {
        self.frames.len() + self.writing
    }

    /// Where the next frame starts, counted in bytes from the first that this outbox ever held.
    pub(super) fn position(&self) -> u64 {
        self.taken + self.frames.len() as u64
    }

    /// Bytes that were handed to the writer: what lies behind them never left.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Gives all frames to the writer in exchange for its written batch; false when there are none.
    pub(super) fn take(&mut self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        if batch.capacity() > KEEP_BYTES_MAX {
            *batch = Vec::new();
        }
        std::mem::swap(&mut self.frames, batch);
        self.writing = batch.len();
        self.taken += batch.len() as u64;
        !batch.is_empty()
    }

    /// Forgets all frames: their connection is gone.
    pub(super) fn clear(&mut self) {
        self.frames = Vec::new();
        self.writing = 0;
    }
}

/// Writes what `take` gives, each time that `bell` rings, until the stream fails.
pub(super) async fn write_batches(
    to: &mut (impl AsyncWrite + Unpin),
    bell: &Notify,
    mut take: impl FnMut(&mut Vec<u8>) -> bool,
) -> io::Error {
    let mut batch = Vec::new();
    loop {
        bell.notified().await;
        // Whoever else is ready to run now may have a frame too: let them come first.
        task::yield_now().await;
        while take(&mut batch) {
            if let Err(error) = to.write_all(&batch).await {
                return error;
            }
        }
    }
}
