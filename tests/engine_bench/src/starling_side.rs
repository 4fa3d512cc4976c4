//! Starling's engine as the rows use it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use starling::domain::causality::{Actor, CausalContext, Dot, NodeId};
use starling::domain::key::Key;
use starling::domain::object::{Content, Object, Sibling};
use starling::storage::{Engine, Options, SyncPolicy};

const BUCKET: &str = "b";

/// Bytes of a block where somebody asked for other ones; 0: the default.
pub static BLOCK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a memtable where somebody asked for other ones; 0: the default.
pub static MEMTABLE_BYTES: AtomicU64 = AtomicU64::new(0);

pub async fn open(folder: &Path, sync: SyncPolicy) -> Engine {
    let mut options = Options { sync, ..Options::default() };
    let block_bytes = BLOCK_BYTES.load(Ordering::Relaxed);
    if block_bytes > 0 {
        options.block_bytes = block_bytes;
    }
    let memtable_bytes = MEMTABLE_BYTES.load(Ordering::Relaxed);
    if memtable_bytes > 0 {
        options.memtable_bytes = memtable_bytes;
    }
    Engine::open(folder, "bench", options).await.expect("the folder opens")
}

/// Acks first, syncs at most 10 ms later.
pub fn interval() -> SyncPolicy {
    SyncPolicy::Interval { lag: Duration::from_millis(10) }
}

/// What a replica does for a write, but for reading what was there: an object with one sibling.
pub async fn put(engine: &Engine, name: &str, value: Bytes, counter: u64) {
    let key = Key::new(BUCKET, name).expect("a valid name");
    let dot = Dot { actor: Actor { node: NodeId(1), epoch: 1 }, counter };
    let sibling = Sibling {
        dot,
        content: Content::Value(value),
        written_at_ms: 1_700_000_000_000,
        expires_at_ms: None,
    };
    let mut object = Object::default();
    object.write(&CausalContext::new(), sibling);
    engine.room().await;
    let ticket = engine.put(&key, &object).expect("the disk takes it");
    ticket.ackable_here().await.expect("the engine is open");
}

pub async fn get(engine: &Engine, name: &str) -> Option<Arc<Object>> {
    let key = Key::new(BUCKET, name).expect("a valid name");
    engine.get(&key).await.expect("the folder is whole")
}

/// Waits until nothing is written in the background.
pub async fn settle(engine: &Engine) {
    let mut quiet = 0;
    while quiet < 10 {
        let before = engine.stats();
        starling::runtime::time::sleep(Duration::from_millis(100)).await;
        let after = engine.stats();
        let still = !after.compacting
            && after.sealed == 0
            && before.compacted_bytes == after.compacted_bytes
            && before.flushed_bytes == after.flushed_bytes;
        quiet = if still { quiet + 1 } else { 0 };
    }
}
