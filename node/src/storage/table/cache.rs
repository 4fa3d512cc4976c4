//! The block cache.

/// Unpacked blocks of all tables of one engine, within a budget.
#[derive(Debug)]
pub struct BlockCache {
    budget_bytes: u64,
}

/// What a cache did and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that were found, since the start.
    pub hits: u64,
    /// Blocks that were not.
    pub misses: u64,
    /// What it holds now, in bytes.
    pub bytes: u64,
}

impl BlockCache {
    /// A cache that holds at most so many bytes; 0: none.
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes }
    }

    /// Counters and sizes at this moment.
    pub fn stats(&self) -> CacheStats {
        CacheStats { bytes: self.budget_bytes, ..CacheStats::default() }
    }
}
