//! What an engine did and holds, in numbers.

use std::sync::Arc;
use std::time::Duration;

/// Counters and sizes of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys held. A key that is in several tables, or in one and in memory, counts in each.
    pub keys: u64,
    /// What the memtables weigh in memory, the sealed ones too, in bytes.
    pub memtable_bytes: u64,
    /// Memtables that wait to become tables.
    pub sealed: u64,
    /// Hints held for other members.
    pub hints: u64,
    /// What they weigh in memory, in bytes.
    pub hint_bytes: u64,
    /// Of these, what those for [this copy itself](super::ITSELF) weigh, in bytes.
    pub own_hint_bytes: u64,
    /// Bytes of the log that replay would read.
    pub log_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Batches made durable since the start.
    pub batches: u64,
    /// Records made durable since the start.
    pub records: u64,
    /// Writes with sync that were tried since the start.
    pub syncs: u64,
    /// Writes with sync that failed since the start.
    pub failures: u64,
    /// How long the last successful write with sync took.
    pub last_sync: Duration,
    /// Why writes are refused at the moment; `None`: they are not.
    pub stalled: Option<Arc<str>>,
    /// Bytes accepted and not yet durable.
    pub pending_bytes: u64,
    /// Tables.
    pub tables: u64,
    /// Those of level 0, which compaction has not taken up yet.
    pub tables_level0: u64,
    /// Bytes of the tables' files.
    pub table_bytes: u64,
    /// Memtables written to tables since the start.
    pub flushes: u64,
    /// Bytes of the tables that flushes wrote since the start.
    pub flushed_bytes: u64,
    /// True while tables are merged.
    pub compacting: bool,
    /// Compactions finished since the start.
    pub compactions: u64,
    /// Bytes of the tables that compactions wrote since the start.
    pub compacted_bytes: u64,
    /// Why no table can be written at the moment; `None`: it can. Nothing is lost; writes wait once
    /// memory is full.
    pub tables_stalled: Option<Arc<str>>,
    /// Flushes, compactions and edits of the manifest that failed and were tried again since the start.
    pub table_failures: u64,
    /// Blocks found in the cache since the start.
    pub cache_hits: u64,
    /// Blocks not found in it.
    pub cache_misses: u64,
    /// Bytes of the blocks in it.
    pub cache_bytes: u64,
    /// Ranges of tokens that cannot be vouched for, because a file was damaged.
    pub doubtful_ranges: u64,
    /// Writes to keys in doubt that were refused since the start, for want of room among the hints for [this copy itself](super::ITSELF).
    pub fresh_refused: u64,
    /// Objects written since the file was damaged that found no room among the hints for [this copy itself](super::ITSELF), since the start: should
    /// no other replica have them either, they are let go.
    pub unsalvaged: u64,
}
