//! The block cache: unpacked blocks of all tables of one engine, within a budget.
//!
//! S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023), but that a full cache keeps
//! of a block that is read for the first time its name alone: what the small queue of the paper would hold for a moment is
//! mostly never read again, and to bring it in and take it out costs more than to unpack the few that are. A block
//! that is read again while its name is remembered goes to the main queue. There each block that comes
//! to the head has as many more rounds as it was read in the last one, three at most. So blocks that are read
//! once never push out those that are read often, and a hit moves nothing: it counts. As long as there is room,
//! every block is kept, in a small queue, from which it moves on if it was read twice more.
//!
//! Who reads a block that is not kept unpacks it into [spare](BlockCache::spare) memory, and gives that back.
//!
//! Deterministic: no clock, no thread, no random hash. Blocks are spread over a few shards, each with
//! a lock and a share of the budget, so that readers seldom meet.
//!
//! Invariant: the weight of a shard's blocks is within its share, always; so is that of the names.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::TableId;
use crate::domain::hash::fmix64;

/// A shard has at least so much, and there are at most so many: any fewer blocks than a few hundred
/// would make its queues too short to tell what is read often from what is not.
const SHARD_BYTES_MIN: u64 = 4 << 20;
const SHARDS_MAX: u64 = 16;
/// What a block weighs beside its bytes: its places in a queue and in the map.
const BLOCK_OVERHEAD_BYTES: u64 = 128;
/// So many buffers wait for readers of blocks that are not kept.
const SPARES_MAX: usize = 4;
/// A larger one is not kept.
const SPARE_BYTES_MAX: usize = 256 << 10;
/// More reads than this in a round count no more.
const READS_MAX: u8 = 3;

/// A block: its table and its offset there.
pub(super) type BlockId = (TableId, u64);

/// Unpacked blocks of all tables of one engine.
#[derive(Debug)]
pub struct BlockCache {
    shards: Box<[Mutex<Shard>]>,
    spares: Mutex<Vec<BytesMut>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What came of a look for a block.
#[derive(Debug)]
pub(super) enum Found {
    /// Its payload.
    Here(Bytes),
    /// It is not here, and worth [keeping](BlockCache::insert).
    Wanted,
    /// It is not here, and it was not read lately: its name is remembered.
    Passing,
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
    /// A cache that holds at most so many bytes; 0: nothing.
    pub fn new(budget_bytes: u64) -> Self {
        let count = (budget_bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shard = || Mutex::new(Shard::new(budget_bytes / count));
        let shards = (0..count).map(|_| shard()).collect();
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shards, spares: Mutex::default(), hits, misses }
    }

    /// Counters and sizes at this moment.
    pub fn stats(&self) -> CacheStats {
        let bytes = self.shards.iter().map(|shard| lock(shard).blocks_bytes()).sum();
        let (hits, misses) = (&self.hits, &self.misses);
        CacheStats {
            hits: hits.load(Ordering::Relaxed),
            misses: misses.load(Ordering::Relaxed),
            bytes,
        }
    }

    /// The payload of a block, if it is here, and whether it should be if it is not.
    pub(super) fn look(&self, id: BlockId) -> Found {
        let found = self.shard(id).look(id);
        let hit = matches!(found, Found::Here(_));
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Memory for a block that is not kept: `len` bytes of anything.
    pub(super) fn spare(&self, len: usize) -> BytesMut {
        let spare = lock(&self.spares).pop();
        let mut spare = spare.unwrap_or_default();
        // What it held before is as good as zeros.
        if spare.len() < len {
            spare.resize(len, 0);
        }
        spare
    }

    /// Gives back the memory of a block, if nobody shares it.
    pub(super) fn give_back(&self, payload: Bytes) {
        let Ok(spare) = payload.try_into_mut() else { return };
        let mut spares = lock(&self.spares);
        if spares.len() < SPARES_MAX && spare.capacity() <= SPARE_BYTES_MAX {
            spares.push(spare);
        }
    }

    /// Keeps a block that was not here. One larger than half a shard is not kept.
    pub(super) fn insert(&self, id: BlockId, payload: Bytes) {
        self.shard(id).insert(id, payload);
    }

    fn shard(&self, id: BlockId) -> MutexGuard<'_, Shard> {
        let number = hash(id) % self.shards.len() as u64;
        lock(&self.shards[number as usize])
    }
}

/// Nothing panics while a shard is locked; if it did, the node would end.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash((table, offset): BlockId) -> u64 {
    fmix64(offset ^ fmix64(table.0))
}

/// Mixes the two numbers of a [`BlockId`]; the same in every process.
#[derive(Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = fmix64(self.0.rotate_left(23) ^ n);
    }
}

#[derive(Debug)]
enum Slot {
    /// A block, and how often it was read since it came to the queue that it is in.
    Here { payload: Bytes, reads: u8 },
    /// It was here lately.
    Remembered,
}

#[derive(Debug)]
struct Shard {
    budget: u64,
    slots: HashMap<BlockId, Slot, BuildHasherDefault<Mix>>,
    small: Queue,
    main: Queue,
    /// Names in the order in which their blocks went. One that came back stands there still.
    names: Queue,
}

/// Ids with the weights of their blocks, oldest first.
#[derive(Debug, Default)]
struct Queue {
    ids: VecDeque<(BlockId, u64)>,
    bytes: u64,
}

impl Queue {
    fn push(&mut self, id: BlockId, weight: u64) {
        self.ids.push_back((id, weight));
        self.bytes += weight;
    }

    fn pop(&mut self) -> Option<(BlockId, u64)> {
        let (id, weight) = self.ids.pop_front()?;
        self.bytes -= weight;
        Some((id, weight))
    }
}

impl Shard {
    fn new(budget: u64) -> Self {
        Self {
            budget,
            slots: HashMap::default(),
            small: Queue::default(),
            main: Queue::default(),
            names: Queue::default(),
        }
    }

    fn blocks_bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    fn look(&mut self, id: BlockId) -> Found {
        let (blocks, bytes) = (self.small.ids.len() + self.main.ids.len(), self.blocks_bytes());
        match self.slots.get_mut(&id) {
            Some(Slot::Here { payload, reads }) => {
                *reads = (*reads + 1).min(READS_MAX);
                Found::Here(payload.clone())
            }
            Some(Slot::Remembered) => Found::Wanted,
            // There is room for another one as large as those here.
            None if blocks == 0 || bytes + bytes / blocks as u64 <= self.budget => Found::Wanted,
            None => {
                self.slots.insert(id, Slot::Remembered);
                self.remember(id, bytes / blocks as u64);
                Found::Passing
            }
        }
    }

    fn insert(&mut self, id: BlockId, payload: Bytes) {
        let weight = payload.len() as u64 + BLOCK_OVERHEAD_BYTES;
        if weight > self.budget / 2 {
            return;
        }
        match self.slots.insert(id, Slot::Here { payload, reads: 0 }) {
            None => self.small.push(id, weight),
            Some(Slot::Remembered) => self.main.push(id, weight),
            // Two readers missed it at once. It is in a queue already, with the same bytes.
            Some(Slot::Here { .. }) => {}
        }
        while self.blocks_bytes() > self.budget {
            if self.small.bytes > self.budget / 10 || self.main.ids.is_empty() {
                self.shrink_small();
            } else {
                self.shrink_main();
            }
        }
    }

    /// Takes the oldest block of the small queue on to the main one, or away.
    fn shrink_small(&mut self) {
        let Some((id, weight)) = self.small.pop() else { return };
        match self.slots.get_mut(&id) {
            Some(Slot::Here { reads, .. }) if *reads > 1 => {
                *reads = 0;
                self.main.push(id, weight);
            }
            Some(slot) => {
                *slot = Slot::Remembered;
                self.remember(id, weight);
            }
            None => {}
        }
    }

    /// Gives the oldest block of the main queue another round, or takes it away.
    fn shrink_main(&mut self) {
        let Some((id, weight)) = self.main.pop() else { return };
        match self.slots.get_mut(&id) {
            Some(Slot::Here { reads, .. }) if *reads > 0 => {
                *reads -= 1;
                self.main.push(id, weight);
            }
            Some(_) | None => {
                self.slots.remove(&id);
            }
        }
    }

    fn remember(&mut self, id: BlockId, weight: u64) {
        self.names.push(id, weight);
        while self.names.bytes > self.budget {
            let Some((id, _)) = self.names.pop() else { return };
            if matches!(self.slots.get(&id), Some(Slot::Remembered)) {
                self.slots.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 1000;

    fn id(n: u64) -> BlockId {
        (TableId(1), n)
    }

    /// Asks for a block, and brings it when it is not here; true when it was.
    fn read(cache: &BlockCache, n: u64) -> bool {
        match cache.look(id(n)) {
            Found::Here(payload) => {
                assert_eq!(*payload, vec![n as u8; BLOCK], "the payload of another block");
                return true;
            }
            Found::Wanted => cache.insert(id(n), vec![n as u8; BLOCK].into()),
            Found::Passing => {}
        }
        false
    }

    fn is_here(cache: &BlockCache, n: u64) -> bool {
        matches!(cache.look(id(n)), Found::Here(_))
    }

    fn read_once(cache: &BlockCache, n: u64) {
        read(cache, n);
    }

    #[test]
    fn the_budget_holds_whatever_is_asked_for() {
        for budget in [0, 500, 3000, 100_000, 40 << 20] {
            let cache = BlockCache::new(budget);
            let mut dice = 1u64;
            for _ in 0..20_000 {
                dice = fmix64(dice.wrapping_add(1));
                read(&cache, dice % 300 + (dice >> 60) * 1000);
                assert!(cache.stats().bytes <= budget);
            }
            let (blocks, names) =
                cache.shards.iter().map(lock).fold((0, 0), |(blocks, names), s| {
                    assert!(s.names.bytes <= s.budget);
                    let ids = s.small.ids.len() + s.main.ids.len();
                    assert!(s.slots.len() <= ids + s.names.ids.len(), "a slot that no queue knows");
                    (blocks + ids, names + s.names.ids.len())
                });
            let most = budget as usize / BLOCK;
            assert!(blocks <= most && names <= most, "{blocks} blocks, {names} names of {most}");
        }
    }

    #[test]
    fn blocks_read_often_survive_a_scan_of_ten_times_the_budget() {
        let cache = BlockCache::new(100 * (BLOCK as u64 + BLOCK_OVERHEAD_BYTES));
        for _ in 0..4 {
            (0..50).for_each(|n| read_once(&cache, n));
        }
        for n in 1000..2000 {
            read(&cache, n);
            // Somebody goes on reading them meanwhile, now and then.
            if n % 20 == 0 {
                (0..50).for_each(|n| read_once(&cache, n));
            }
        }
        let stay = (0..50).filter(|n| is_here(&cache, *n)).count();
        assert!(stay >= 45, "{stay} of 50 stay");
        let scanned = (1000..2000).filter(|n| is_here(&cache, *n)).count();
        assert!(scanned < 60, "{scanned} of the scan stay");
    }

    #[test]
    fn a_block_that_comes_back_soon_is_kept_before_new_ones() {
        let cache = BlockCache::new(100 * (BLOCK as u64 + BLOCK_OVERHEAD_BYTES));
        (0..150).for_each(|n| read_once(&cache, n));
        assert!(is_here(&cache, 5), "there was room");
        assert!(!read(&cache, 120) && !read(&cache, 130), "there was none for what was read once");
        (1000..1080).for_each(|n| read_once(&cache, n));
        assert!(read(&cache, 120) && read(&cache, 130));
        assert!(!read(&cache, 105), "its name was forgotten");
        assert!(!read(&cache, 105), "and is known again");
        assert!(read(&cache, 105));
    }

    #[test]
    fn memory_of_blocks_that_pass_is_used_again_unless_somebody_has_it() {
        let cache = BlockCache::new(0);
        let first = cache.spare(1000);
        assert!(first.len() >= 1000);
        let memory = first.as_ptr();
        let payload = first.freeze();
        let held = payload.slice(3..5);
        cache.give_back(payload.clone());
        assert_ne!(cache.spare(10).as_ptr(), memory, "it is shared");
        drop(held);
        cache.give_back(payload);
        assert_eq!(cache.spare(10).as_ptr(), memory);
        cache.give_back(vec![0; SPARE_BYTES_MAX + 1].into());
        assert!(lock(&cache.spares).is_empty(), "too large to lie about");
    }

    #[test]
    fn hits_and_misses_are_counted() {
        let cache = BlockCache::new(1 << 20);
        assert!(!read(&cache, 1) && read(&cache, 1) && !read(&cache, 2));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses), (1, 2));
        assert_eq!(stats.bytes, 2 * (BLOCK as u64 + BLOCK_OVERHEAD_BYTES));
        assert!(!matches!(cache.look((TableId(2), 1)), Found::Here(_)), "another table");
    }
}
