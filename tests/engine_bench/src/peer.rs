//! fjall as the rows use it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

pub const CACHE_BYTES: u64 = 64 << 20;

/// An open database with one keyspace.
pub struct Peer {
    pub database: Database,
    pub pairs: Keyspace,
}

impl Peer {
    pub fn open(folder: &Path) -> Self {
        let database = Database::builder(folder).cache_size(CACHE_BYTES).open().expect("it opens");
        let pairs = database.keyspace("pairs", KeyspaceCreateOptions::default).expect("it opens");
        Self { database, pairs }
    }

    pub fn sync(&self) {
        self.database.persist(PersistMode::SyncData).expect("the disk takes it");
    }
}

/// Syncs every 10 ms until dropped.
pub struct Syncing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Syncing {
    pub fn start(peer: &Peer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (database, ended) = (peer.database.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                database.persist(PersistMode::SyncData).expect("the disk takes it");
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Waits until nothing changes in its folder.
pub fn settle(folder: &Path) {
    let mut quiet = 0;
    let mut before = 0;
    while quiet < 10 {
        std::thread::sleep(Duration::from_millis(100));
        let now = crate::uses::folder_bytes(folder);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}
