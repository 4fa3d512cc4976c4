//! Writes a table, front to back, from entries in key order.
//!
//! It keeps one block, one piece of the file that is not written yet, the filter and the index; no more,
//! however large the table. Pieces are large, so that a hop to the disk costs little, and
//! every few of them are synced: one sync of all in the end would hold up the log's syncs behind it.

use std::io;
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::block::Builder;
use super::filter::{Filter, Hashes};
use super::footer::Footer;
use super::index::Index;
use super::{Properties, Spec, TableError};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::event;
use crate::runtime::fs::{File, OpenMode};

/// The file is written in pieces of at least this.
const PIECE_BYTES: usize = 256 << 10;
/// And synced each time so much was written: a sync of more holds up the syncs of the log, of other nodes on the disk as well.
const SYNC_BYTES: u64 = 1 << 20;
/// The largest object: no batch of the log can hold more.
const OBJECT_BYTES_MAX: usize = 1 << 30;

/// A table that is not finished. Dropping it leaves a file that is worth nothing: remove it. So does a
/// call whose future was dropped, or that failed: the writer must not be used after it.
#[derive(Debug)]
pub struct TableWriter {
    path: PathBuf,
    file: File,
    spec: Spec,
    block: Builder,
    /// The first key of the block.
    block_first: Option<Key>,
    /// The last key of the block before.
    block_before: Option<Key>,
    first: Option<Key>,
    last: Option<Key>,
    filter: Filter,
    index: Index,
    entries: u64,
    raw_bytes: u64,
    /// Closed blocks that are not written yet, and where they go.
    piece: BytesMut,
    written: u64,
    synced: u64,
}

impl TableWriter {
    /// Makes the file at `path`, which must not exist.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub async fn create(path: &Path, spec: Spec) -> Result<Self, TableError> {
        let path = path.to_path_buf();
        let file = File::open(&path, OpenMode::CreateNew).await;
        let file = file.map_err(|source| TableError::Write {
            doing: "create",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            file,
            block: Builder::new(),
            block_first: None,
            block_before: None,
            first: None,
            last: None,
            filter: Filter::new(spec.entries_max),
            index: Index::default(),
            entries: 0,
            raw_bytes: 0,
            piece: BytesMut::with_capacity(PIECE_BYTES + 2 * spec.block_bytes),
            written: 0,
            synced: 0,
            spec,
        })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`TableError::Write`]: give the table up.
    ///
    /// # Panics
    /// When the key is not above all before it, or there are more entries than announced.
    pub async fn add(&mut self, key: &Key, object: &Object) -> Result<(), TableError> {
        self.push(key, |out| object.encode(out));
        self.write_if_large().await
    }

    /// [`add`](Self::add), of an object that is encoded already.
    ///
    /// # Errors
    /// As of [`add`](Self::add).
    ///
    /// # Panics
    /// As [`add`](Self::add).
    pub async fn add_encoded(&mut self, key: &Key, object: &[u8]) -> Result<(), TableError> {
        self.push(key, |out| out.extend_from_slice(object));
        self.write_if_large().await
    }

    /// How many entries were added.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many bytes the entries take in the file so far: to know when to start another table.
    pub fn bytes(&self) -> u64 {
        self.written + (self.piece.len() + self.block.payload_bytes()) as u64
    }

    /// Writes the rest and syncs the file. Its name is durable after the caller synced the folder.
    ///
    /// # Errors
    /// [`TableError::Write`]: give the table up.
    ///
    /// # Panics
    /// When no entry was added.
    pub async fn finish(mut self) -> Result<Properties, TableError> {
        self.close_block();
        let (Some(first), Some(last)) = (self.first.take(), self.last.take()) else {
            panic!("a table holds at least one entry");
        };
        self.filter.fold(self.entries);
        let filter_at = self.written + self.piece.len() as u64;
        let mut properties = Properties {
            entries: self.entries,
            blocks: self.index.len() as u64,
            raw_bytes: self.raw_bytes,
            file_bytes: 0,
            batches: self.spec.batches.clone(),
            first,
            last,
        };
        let mut meta = Vec::with_capacity(self.filter.bytes() + self.index.bytes() + 4096);
        self.filter.encode(&mut meta);
        let index = meta.len();
        self.index.encode(&mut meta);
        let props = meta.len();
        properties.encode(&mut meta);
        let footer = Footer {
            filter_at,
            index_at: filter_at + index as u64,
            properties_at: filter_at + props as u64,
            filter_crc: crc32fast::hash(&meta[..index]),
            index_crc: crc32fast::hash(&meta[index..props]),
            properties_crc: crc32fast::hash(&meta[props..]),
            origin: self.spec.origin,
        };
        footer.encode(&mut meta);
        self.piece.extend_from_slice(&meta);
        self.write(true).await?;
        properties.file_bytes = self.written;
        event::note("table_written", 0, self.entries);
        Ok(properties)
    }

    fn push(&mut self, key: &Key, put_object: impl FnOnce(&mut Vec<u8>)) {
        if let Some(last) = &self.last {
            assert!(last < key, "keys of a table ascend: {key:?} after {last:?}");
        }
        assert!(
            self.entries < self.spec.entries_max,
            "more than {} entries",
            self.spec.entries_max
        );
        let before = self.block.payload_bytes();
        self.block.push(key, put_object);
        let added = self.block.payload_bytes() - before;
        assert!(added <= OBJECT_BYTES_MAX + 4096, "an object of {added} bytes");
        self.filter.insert(Hashes::new(key));
        self.entries += 1;
        self.last = Some(key.clone());
        if self.first.is_none() {
            self.first = Some(key.clone());
        }
        if self.block_first.is_none() {
            self.block_first = Some(key.clone());
        }
        if self.block.payload_bytes() >= self.spec.block_bytes {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        let Some(first) = self.block_first.take() else { return };
        let at = self.written + self.piece.len() as u64;
        let (stored, raw) = self.block.seal(self.spec.origin, at, &mut self.piece);
        self.index.push(self.block_before.as_ref(), &first, stored);
        self.block_before.clone_from(&self.last);
        self.raw_bytes += raw as u64;
    }

    async fn write_if_large(&mut self) -> Result<(), TableError> {
        if self.piece.len() < PIECE_BYTES {
            return Ok(());
        }
        let sync = self.written + self.piece.len() as u64 >= self.synced + SYNC_BYTES;
        self.write(sync).await
    }

    async fn write(&mut self, sync: bool) -> Result<(), TableError> {
        let piece = self.piece.split().freeze();
        let (at, len) = (self.written, piece.len() as u64);
        let mut result: io::Result<()> = self.file.write_all_at(at, piece).await;
        if sync && result.is_ok() {
            // Not in one call with the write: that syncs its own bytes alone, and others wait too.
            result = self.file.sync_data().await;
        }
        let path = &self.path;
        result.map_err(|source| TableError::Write {
            doing: "write",
            path: path.clone(),
            source,
        })?;
        self.written += len;
        if sync {
            self.synced = self.written;
        }
        Ok(())
    }
}
