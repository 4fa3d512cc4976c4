//! Tests of tables on real files: what comes back, and what damage does.

mod damage;
mod fixture;
mod model;
mod story;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::domain::causality::{Actor, CausalContext, Dot};
use crate::domain::object::{Content, Object, Sibling};
use crate::runtime::fs::{File, OpenMode};
use crate::runtime::{task, time};

/// What a table holds, objects encoded.
type Contents = BTreeMap<Key, Bytes>;

const ORIGIN: Origin = Origin { folder: NodeId(0xf01d), table: TableId(7) };

/// Runs a test, which must not hang.
fn run<F: Future>(main: F) -> F::Output {
    task::block_on(1, time::timeout(Duration::from_secs(60), main)).unwrap().unwrap()
}

fn temp_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn object(value: &str) -> Object {
    let dot = Dot { actor: Actor { node: NodeId(7), epoch: 3 }, counter: 1 };
    let content = Content::Value(Bytes::copy_from_slice(value.as_bytes()));
    let mut object = Object::new();
    let sibling = Sibling { dot, content, written_at_ms: 1_700_000_000_000, expires_at_ms: None };
    object.write(&CausalContext::new(), sibling);
    object
}

fn encoded(value: &str) -> Bytes {
    object(value).to_bytes().into()
}

/// `count` entries; every third one shares a token with others, values differ and pack well.
fn contents(count: u64) -> Contents {
    let entry = |n: u64| {
        let name = if n.is_multiple_of(3) { format!("{{tag}}/{n}") } else { format!("key-{n}") };
        let value = format!("{n}:{}", "abc".repeat((n % 40) as usize));
        (Key::new("bucket", &name).unwrap(), encoded(&value))
    };
    (0..count).map(entry).collect()
}

fn spec(entries: usize, block_bytes: usize) -> Spec {
    Spec { origin: ORIGIN, entries_max: entries as u64, batches: 3..=9, block_bytes }
}

async fn write(path: &Path, contents: &Contents, block_bytes: usize) -> Properties {
    let mut writer = TableWriter::create(path, spec(contents.len(), block_bytes)).await.unwrap();
    for (key, object) in contents {
        writer.add_encoded(key, object).await.unwrap();
    }
    writer.finish().await.unwrap()
}

/// A table of a folder that is removed with it.
struct Made {
    dir: TempDir,
    contents: Contents,
    bytes: Vec<u8>,
}

impl Made {
    async fn new(contents: Contents, block_bytes: usize) -> Self {
        let dir = temp_dir();
        let path = table_path(dir.path(), ORIGIN.table);
        let properties = write(&path, &contents, block_bytes).await;
        let file = File::open(&path, OpenMode::Read).await.unwrap();
        let bytes = file.read_at(0, file.len().await.unwrap() as usize).await.unwrap().to_vec();
        assert_eq!(properties.file_bytes, bytes.len() as u64);
        Self { dir, contents, bytes }
    }

    fn path(&self) -> PathBuf {
        table_path(self.dir.path(), ORIGIN.table)
    }

    async fn open(&self) -> Arc<Table> {
        Arc::new(open(&self.path()).await.unwrap())
    }

    /// Opens a file with other bytes in the place of this one.
    async fn open_as(&self, bytes: &[u8]) -> Result<Arc<Table>, TableError> {
        let file = File::open(&self.path(), OpenMode::ReadWrite).await.unwrap();
        file.set_len(bytes.len() as u64).await.unwrap();
        file.write_all_at(0, Bytes::copy_from_slice(bytes)).await.unwrap();
        open(&self.path()).await.map(Arc::new)
    }
}

async fn open(path: &Path) -> Result<Table, TableError> {
    Table::open(path, ORIGIN, Arc::new(BlockCache::new(1 << 20))).await
}

/// The object under the key, encoded.
async fn get(table: &Table, key: &Key) -> Result<Option<Bytes>, TableError> {
    let object = table.object(&Target::new(key)).await?;
    Ok(object.map(|object| {
        let mut out = Vec::new();
        object.encode(&mut out);
        out.into()
    }))
}

/// Everything from `from` on, and the errors met on the way.
async fn scan(table: &Arc<Table>, from: Bound<&Key>) -> (Vec<(Key, Bytes)>, Vec<TableError>) {
    let mut cursor = table.cursor(from);
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    loop {
        match cursor.next().await {
            Ok(Some(entry)) => found.push((entry.key, entry.object)),
            Ok(None) => return (found, errors),
            Err(error) => errors.push(error),
        }
    }
}
