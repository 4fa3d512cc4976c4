//! The storage engine of one node: a durable, ordered map from key to object.
//!
//! ```text
//! put ──► memtable (visible at once) + pending batch ──► writer task ──► log segment, synced
//!            │ full                                                          │
//!            ▼                            ticket.durable() ◄─────────────────┘
//!         sealed ──► keeper task ──► table of level 0 ──► compaction task ──► tables of levels 1 to 6
//!                       └──► manifest: which tables there are, where the log starts
//!
//! get ──► memtable ──► sealed memtables ──► level 0, newest first ──► one table of each other level
//! ```
//!
//! A put goes into the memtable and into the pending batch in one step under one short lock, so
//! the log holds the writes in the order in which reads saw them. One task writes the log: it takes
//! whatever is pending as one batch, writes and syncs it in one call, and wakes everybody who waits
//! for that batch (group commit). See [`log`] for the files' format and the rules of recovery, and
//! [`identity`] for who this node is.
//!
//! A memtable that is full is sealed and becomes a [`table`] in the background (`flush`); the
//! `manifest` then says that the log need not bring it back. `compaction` merges tables. What damage of
//! a table took is in doubt (`doubt`) until replicas have healed it: it is never served as if it
//! were all there is.
//!
//! A key that is [removed](Engine::remove) leaves a marker behind, an empty object, which is a version like any other
//! until compaction finds nothing older beneath it.
//!
//! Beside its own objects the engine keeps hints: objects for members that could not take them, by
//! owner and key. They are in the same log and in the same batches, under the same lock.
//!
//! Invariants:
//! - What [`Ticket::durable`] confirmed under [`SyncPolicy::Always`] is there after any crash, or
//!   [`Engine::open`] fails with a typed error. It is never silently gone, and never another value.
//! - A failed write or sync loses nothing that was accepted: the file is never trusted again beyond
//!   what was durable before, and the batch is written anew to another one until that works.
//! - Everything is bounded: memtables, hints, pending bytes, batch, segment, cache ([`Options`]). When tables are
//!   written more slowly than memory fills, writers wait ([`Engine::room`]), then are refused.
//! - A file goes only after the manifest that no longer names it is durable, and after its last reader.
//!
//! What this module does not do: merge what it holds itself. It replaces; the caller holds the key's
//! lock and has merged. (Hints it does merge: nobody else changes them.)
//! It does not heal what is in doubt: it says what that is ([`Engine::doubts`]), and is told when it was
//! healed ([`Engine::trust`]). It does not heal a damaged log or manifest: it refuses to open.

mod backward;
pub mod checkpoint;
mod compaction;
mod doubt;
mod engine;
mod error;
mod flush;
pub mod fsck;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hints;
pub mod identity;
pub mod log;
mod manifest;
mod memtable;
mod merge;
mod opening;
mod queue;
mod salvage;
mod snapshot;
mod stats;
mod store;
pub mod table;
mod version;
mod writer;

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;

use std::time::Duration;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use doubt::TokenRange;
pub use engine::{Engine, Known};
pub use error::{ClaimError, OpenError, ReadError, RenewError, ReserveError, WriteError};
pub use hints::{Hint, HintStats, ITSELF};
pub use identity::{EpochBlock, Identity};
pub use queue::Ticket;
pub use snapshot::Snapshot;
pub use stats::Stats;

/// The longest that acks may be ahead of the disk with [`SyncPolicy::Interval`].
pub const SYNC_LAG_MAX: Duration = Duration::from_millis(10);

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After its batch was synced.
    Always,
    /// At once, before its batch is synced; a crash in between loses it.
    Interval {
        /// How much earlier than its sync a write may be acked, at most [`SYNC_LAG_MAX`]. A batch gathers for half of it, so a disk that
        /// takes longer than the other half for a write and its sync adds that.
        lag: Duration,
    },
}

/// What an engine may use, and when it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// When a write counts as done.
    pub sync: SyncPolicy,
    /// A log segment is closed before it grows past this, unless a single batch is larger.
    pub segment_bytes: u64,
    /// A memtable that would grow past this is sealed, to become a table. Two of them may wait for
    /// that; then writes do.
    pub memtable_bytes: u64,
    /// A table that compaction writes is finished once it has so many bytes.
    pub table_bytes: u64,
    /// A table's block is closed once it has so many bytes: what a read of one key unpacks.
    pub block_bytes: usize,
    /// Unpacked blocks of tables are kept in memory up to so many bytes in all.
    pub cache_bytes: u64,
    /// Hints that would grow all of them together past this are refused; those that stand for the copy itself while it is in doubt have as much
    /// for themselves. Those that the log brings back at the start are kept in any case.
    pub hint_bytes_max: u64,
    /// A batch is closed before it grows past this; a larger record is refused.
    pub batch_bytes_max: usize,
    /// Writes are refused while so much is accepted and not yet durable.
    pub pending_bytes_max: usize,
    /// How long the log waits for company before it syncs, once the batch before had much of it.
    /// A writer that is alone never waits. Zero: never wait.
    pub gather: Duration,
    /// A folder that is made, or restored from a snapshot, is in doubt as a whole: the cluster may know more than
    /// it does. Off, for those who use the engine alone.
    pub born_doubtful: bool,
    /// So many zeros are written ahead of the log's end whenever it reaches the end of its file with a batch of at most a quarter of that.
    /// A sync within them changes no metadata of the file, which halves its time on ext4. Zero: off.
    pub prefill_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            segment_bytes: 64 << 20,
            memtable_bytes: 40 << 20,
            table_bytes: 32 << 20,
            block_bytes: table::BLOCK_BYTES,
            cache_bytes: 64 << 20,
            hint_bytes_max: 256 << 20,
            batch_bytes_max: 8 << 20,
            pending_bytes_max: 64 << 20,
            gather: Duration::from_millis(2),
            born_doubtful: false,
            prefill_bytes: 256 << 10,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        if let SyncPolicy::Interval { lag } = self.sync
            && lag > SYNC_LAG_MAX
        {
            return Err(OpenError::Options("syncs may lag behind acks by more than 10 ms"));
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
        if self.memtable_bytes < 1024 || self.table_bytes < 1024 {
            return Err(OpenError::Options("a memtable and a table must have 1 KiB at least"));
        }
        if self.block_bytes < 64 || self.block_bytes > 1 << 20 {
            return Err(OpenError::Options("a block must have 64 bytes to 1 MiB"));
        }
        if self.prefill_bytes > 16 << 20 {
            return Err(OpenError::Options("at most 16 MiB may be filled ahead"));
        }
        Ok(())
    }
}
