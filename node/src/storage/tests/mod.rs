//! Tests of the engine on real files. What needs a disk that forgets is tested in simulation.

mod checkpoint;
mod damage;
mod engine;
mod failure;
mod fsck;
mod hints;
mod identity;
mod model;
mod salvage;
mod tables;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::{Engine, OpenError, Options};
use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
use crate::domain::key::Key;
use crate::domain::object::{Content, Object, Sibling};
use crate::runtime::fs::{self, File, OpenMode};
use crate::runtime::{task, time};

const CLUSTER: &str = "test";

type Contents = BTreeMap<Key, Arc<Object>>;

/// Runs a test, which must not hang.
fn run<F: Future>(main: F) -> F::Output {
    task::block_on(2, time::timeout(Duration::from_secs(60), main)).unwrap().unwrap()
}

/// A folder in memory where there is one: these tests make thousands of files, and a sync of a real
/// disk would show nothing more.
fn temp_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn key(n: u64) -> Key {
    Key::new("bucket", &format!("key-{n}")).unwrap()
}

fn object(value: &str) -> Arc<Object> {
    let dot = Dot { actor: Actor { node: NodeId(7), epoch: 3 }, counter: 1 };
    let content = Content::Value(Bytes::copy_from_slice(value.as_bytes()));
    let mut object = Object::new();
    let sibling = Sibling { dot, content, written_at_ms: 1_700_000_000_000, expires_at_ms: None };
    object.write(&CausalContext::new(), sibling);
    Arc::new(object)
}

/// Nothing written ahead, so that files end where the log ends.
fn plain() -> Options {
    Options { prefill_bytes: 0, gather: Duration::ZERO, ..Options::default() }
}

/// So small that a test of a few writes seals, flushes and compacts.
fn tiny() -> Options {
    Options {
        segment_bytes: 8192,
        memtable_bytes: 4096,
        table_bytes: 8192,
        block_bytes: 512,
        cache_bytes: 16 << 10,
        ..plain()
    }
}

async fn open(dir: &Path, options: Options) -> Engine {
    Engine::open(dir, CLUSTER, options).await.unwrap()
}

/// Opens a folder whose last engine was dropped and may still be flushing.
async fn open_when_free(dir: &Path, options: Options) -> Engine {
    loop {
        match Engine::open(dir, CLUSTER, options).await {
            Err(OpenError::Locked(_)) => time::sleep(Duration::from_millis(1)).await,
            other => return other.unwrap(),
        }
    }
}

async fn put(engine: &Engine, n: u64, value: &str) {
    engine.room().await;
    engine.put(&key(n), &object(value)).unwrap().durable().await.unwrap();
}

async fn contents(engine: &Engine) -> Contents {
    let mut all = Contents::new();
    let mut from = Bound::Unbounded;
    loop {
        let page = engine.scan(from, Bound::Unbounded, 1000).await.unwrap();
        let Some((last, _)) = page.last() else { return all };
        from = Bound::Excluded(last.clone());
        all.extend(page);
    }
}

/// Waits until nothing is on its way to the disk.
async fn settle(engine: &Engine) {
    let busy = |stats: &crate::storage::Stats| {
        stats.pending_bytes > 0 || stats.sealed > 0 || stats.compacting
    };
    let mut calm = 0;
    while calm < 5 {
        time::sleep(Duration::from_millis(1)).await;
        calm = if busy(&engine.stats()) { 0 } else { calm + 1 };
    }
}

/// The bytes of every file of a folder, by name, as a crash of the process would leave them.
type Image = BTreeMap<String, Vec<u8>>;

async fn image(dir: &Path) -> Image {
    'again: loop {
        let mut files = Image::new();
        for entry in fs::read_dir(dir).await.unwrap() {
            let file = match File::open(&dir.join(&entry.name), OpenMode::Read).await {
                Ok(file) => file,
                // What an engine needs no more it removes, sooner or later.
                Err(gone) if gone.kind() == ErrorKind::NotFound => continue 'again,
                Err(error) => panic!("{}: {error}", entry.name),
            };
            let bytes = file.read_at(0, entry.len as usize).await.unwrap();
            files.insert(entry.name, bytes.to_vec());
        }
        return files;
    }
}

/// A new folder with these files.
async fn folder(files: &Image) -> TempDir {
    let dir = temp_dir();
    for (name, bytes) in files {
        let file = File::open(&dir.path().join(name), OpenMode::CreateNew).await.unwrap();
        file.write_all_at(0, Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    dir
}

fn segments(files: &Image) -> Vec<String> {
    files.keys().filter(|name| name.starts_with("log-")).cloned().collect()
}

/// The file that an open failed on, and where; panics when it was not found to be damaged.
fn damage(result: Result<Engine, OpenError>) -> (PathBuf, u64) {
    match result {
        Err(OpenError::Damaged { file, offset, .. }) => (file, offset),
        other => panic!("expected damage, got {other:?}"),
    }
}
