//! The storage engine of one node: a durable, ordered map from key to object.
//!
//! ```text
//! put ──► memtable (visible at once) + pending batch ──► writer task ──► log segment, synced
//!                                                                            │
//! ticket.durable() ◄─────────────────────────────────────────────────────────┘
//! ```
//!
//! A put goes into the memtable and into the pending batch in one step under one short lock, so
//! the log holds the writes in the order in which reads saw them. One task writes the log: it takes
//! whatever is pending as one batch, writes and syncs it in one call, and wakes everybody who waits
//! for that batch (group commit). See [`log`] for the files' format and the rules of recovery, and
//! [`identity`] for who this node is.
//!
//! Beside its own objects the engine keeps hints: objects for members that could not take them, by
//! owner and key. They are in the same log and in the same batches, under the same lock.
//!
//! Invariants:
//! - What [`Ticket::durable`] confirmed under [`SyncPolicy::Always`] is there after any crash, or
//!   [`Engine::open`] fails with a typed error. It is never silently gone, and never another value.
//! - A failed write or sync loses nothing that was accepted: the file is never trusted again beyond
//!   what was durable before, and the batch is written anew to another one until that works.
//! - Everything is bounded: memtable, hints, pending bytes, batch, segment ([`Options`]).
//!
//! What this module does not do: merge what it holds itself. It replaces; the caller holds the key's
//! lock and has merged. (Hints it does merge: nobody else changes them.)
//! It does not heal a damaged folder, and it does not yet move the memtable to tables on disk: past
//! [`Options::memtable_bytes_max`] it refuses writes.

mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hints;
pub mod identity;
pub mod log;
mod memtable;
mod queue;
pub mod table;
mod writer;

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;

use std::time::Duration;

pub use engine::Engine;
pub use error::{OpenError, ReadError, RenewError, ReserveError, WriteError};
pub use hints::{Hint, HintStats};
pub use identity::{EpochBlock, Identity};
pub use queue::{Stats, Ticket};

/// The longest that [`SyncPolicy::Interval`] may lag behind.
pub const SYNC_INTERVAL_MAX: Duration = Duration::from_millis(10);

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After its batch was synced.
    Always,
    /// At once. Its batch is written and synced so much later; a crash in between loses it.
    Interval {
        /// How long a batch gathers before it is written, at most [`SYNC_INTERVAL_MAX`].
        every: Duration,
    },
}

/// What an engine may use, and when it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// When a write counts as done.
    pub sync: SyncPolicy,
    /// A log segment is closed before it grows past this, unless a single batch is larger.
    pub segment_bytes: u64,
    /// Writes that would grow the memtable past this are refused.
    pub memtable_bytes_max: u64,
    /// Hints that would grow all of them together past this are refused. Those that the log brings
    /// back at the start are kept in any case.
    pub hint_bytes_max: u64,
    /// A batch is closed before it grows past this; a larger record is refused.
    pub batch_bytes_max: usize,
    /// Writes are refused while so much is accepted and not yet durable.
    pub pending_bytes_max: usize,
    /// How long the log waits for company before it syncs, once the batch before had much of it.
    /// A writer that is alone never waits. Zero: never wait.
    pub gather: Duration,
    /// So many zeros are written ahead of the log's end whenever it reaches the end of its file.
    /// A sync within them changes no metadata of the file, which halves its time on ext4. Zero: off.
    pub prefill_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            segment_bytes: 64 << 20,
            memtable_bytes_max: 1 << 30,
            hint_bytes_max: 256 << 20,
            batch_bytes_max: 8 << 20,
            pending_bytes_max: 64 << 20,
            gather: Duration::from_millis(2),
            prefill_bytes: 256 << 10,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        if let SyncPolicy::Interval { every } = self.sync
            && every > SYNC_INTERVAL_MAX
        {
            return Err(OpenError::Options("the sync interval is longer than 10 ms"));
        }
        if self.batch_bytes_max < 4096 || self.batch_bytes_max > 1 << 30 {
            return Err(OpenError::Options("the largest batch must have 4 KiB to 1 GiB"));
        }
        if self.pending_bytes_max < self.batch_bytes_max {
            return Err(OpenError::Options("less may be pending than one batch may hold"));
        }
        if self.segment_bytes < 4096 || self.segment_bytes > 1 << 40 {
            return Err(OpenError::Options("a segment must have 4 KiB to 1 TiB"));
        }
        if self.prefill_bytes > 16 << 20 {
            return Err(OpenError::Options("at most 16 MiB may be filled ahead"));
        }
        Ok(())
    }
}
