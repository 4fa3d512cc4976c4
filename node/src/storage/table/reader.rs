//! An open table: lookups of single keys. For scans see [`cursor`](super::cursor).

use std::io;
use std::ops::{Bound, Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::block::{self, Block, Flaw};
use super::cache::Found;
use super::cursor::Cursor;
use super::filter::{Filter, Hashes};
use super::footer::{FOOTER_BYTES, Footer, NoFooter, VERSION};
use super::index::Index;
use super::{ALL_TOKENS, BlockCache, Origin, Properties, TableError};
use crate::domain::key::{Key, Token};
use crate::domain::object::Object;
use crate::runtime::fs::{File, OpenMode};

/// A key made ready for lookups in any number of tables.
#[derive(Clone, Debug)]
pub struct Target {
    key: Key,
    hashes: Hashes,
}

impl Target {
    /// Hashes `key`.
    pub fn new(key: &Key) -> Self {
        Self { key: key.clone(), hashes: Hashes::new(key) }
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// An open table. It holds the file open, so the file may be removed while it is read.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    file: File,
    origin: Origin,
    properties: Properties,
    index: Index,
    filter: Option<Filter>,
    pub(super) cache: Arc<BlockCache>,
}

impl Table {
    /// Opens the table at `path` that belongs to `origin`. Reads and checks everything but its blocks,
    /// which it reads through `cache`. A damaged filter is no error: see
    /// [`has_filter`](Self::has_filter).
    ///
    /// # Errors
    /// [`TableError::Missing`], [`TableError::Foreign`], [`TableError::Version`],
    /// [`TableError::Damaged`], [`TableError::Unreadable`].
    pub async fn open(
        path: &Path,
        origin: Origin,
        cache: Arc<BlockCache>,
    ) -> Result<Self, TableError> {
        let path = path.to_path_buf();
        let file = match File::open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(TableError::Missing(path)),
            Err(e) => return Err(unreadable(&path, 0, ALL_TOKENS, e)),
        };
        let file_bytes = file.len().await.map_err(|e| unreadable(&path, 0, ALL_TOKENS, e))?;
        let footer = read_footer(&path, &file, file_bytes).await?;
        if footer.origin != origin {
            let (found, expected) = (footer.origin, origin);
            return Err(TableError::Foreign { path, found, expected });
        }
        let meta_bytes = (file_bytes - FOOTER_BYTES as u64 - footer.filter_at) as usize;
        let meta = file.read_at(footer.filter_at, meta_bytes).await;
        let meta = meta.map_err(|e| unreadable(&path, footer.filter_at, ALL_TOKENS, e))?;
        if meta.len() != meta_bytes {
            return Err(damaged(&path, footer.filter_at, ALL_TOKENS, "it ends too early"));
        }
        let (filter, index, properties) = decode_meta(&path, &footer, &meta, file_bytes)?;
        Ok(Self { path, file, origin, properties, index, filter, cache })
    }

    /// Where the table belongs.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the table says of itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The lowest and the highest token.
    pub fn tokens(&self) -> RangeInclusive<Token> {
        self.properties.first.token()..=self.properties.last.token()
    }

    /// False when the filter was found damaged: every lookup then reads a block. Writing the
    /// table anew gives it a filter again.
    pub fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// What the open table takes in memory, in bytes: filter and index.
    pub fn memory_bytes(&self) -> u64 {
        (self.index.bytes() + self.filter.as_ref().map_or(0, Filter::bytes)) as u64
    }

    /// False when the table certainly does not hold the key. Reads nothing.
    pub fn may_hold(&self, target: &Target) -> bool {
        let key = &target.key;
        self.properties.first <= *key
            && *key <= self.properties.last
            && self.passes_filter(target.hashes)
    }

    /// False when the filter, if there is one, says that the key with these hashes is not there.
    pub(super) fn passes_filter(&self, hashes: Hashes) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_hold(hashes))
    }

    /// The object under the key. Reads one block at most, and none when [`may_hold`](Self::may_hold) says no.
    ///
    /// # Errors
    /// [`TableError::Damaged`], [`TableError::Unreadable`]: whether the table holds the key is unknown.
    pub async fn object(&self, target: &Target) -> Result<Option<Arc<Object>>, TableError> {
        if !self.may_hold(target) {
            return Ok(None);
        }
        let (token, raw) = (target.key.token(), target.key.raw());
        let Some(at) = self.index.find(token, raw) else { return Ok(None) };
        let payload = self.payload(at).await?;
        let block = Block::new(payload).map_err(|flaw| self.flawed(at, flaw))?;
        let found = block.get(token, raw);
        let object = found.and_then(|encoded| encoded.map(decode).transpose());
        self.cache.give_back(block.into_bytes());
        object.map_err(|flaw| self.flawed(at, flaw))
    }

    /// How many bytes of the file hold these tokens, to within two blocks: for pickers, and for what a
    /// partition weighs.
    pub fn stored_bytes_in(&self, tokens: RangeInclusive<Token>) -> u64 {
        let blocks = self.index.blocks(tokens);
        blocks.map(|at| self.index.place(at)).map(|place| place.end - place.start).sum()
    }

    /// Where a scan begins that ends at `end` and reads the last block or two before it; `None`: at the table's start.
    pub fn begin_of_last(&self, end: Bound<&Key>) -> Option<Key> {
        self.index().begin_before(match end {
            Bound::Included(end) | Bound::Excluded(end) => Some(end),
            Bound::Unbounded => None,
        })
    }

    /// A scan in key order, from `from` to the table's end.
    pub fn cursor(self: &Arc<Self>, from: Bound<&Key>) -> Cursor {
        Cursor::new(self.clone(), from.cloned())
    }

    /// The block's payload, from the cache or from the disk.
    async fn payload(&self, at: usize) -> Result<Bytes, TableError> {
        let place = self.index.place(at);
        let id = (self.origin.table, place.start);
        let wanted = match self.cache.look(id) {
            Found::Here(payload) => return Ok(payload),
            Found::Wanted => true,
            Found::Passing => false,
        };
        let stored = self.read(at, place).await?;
        if wanted {
            let payload = self.unpack(at, &stored)?;
            self.cache.insert(id, payload.clone());
            return Ok(payload);
        }
        let offset = self.index.place(at).start;
        let room = |len| self.cache.spare(len);
        block::unpack(self.origin, offset, &stored, room).map_err(|flaw| self.flawed(at, flaw))
    }

    /// The bytes at `place`, which starts with the block `at`: all of that block, and as much more as
    /// there is.
    pub(super) async fn read(&self, at: usize, place: Range<u64>) -> Result<Bytes, TableError> {
        let len = (place.end - place.start) as usize;
        let stored = self.file.read_at(place.start, len).await;
        let stored = stored.map_err(|e| unreadable(&self.path, place.start, self.doubt(at), e))?;
        let block = self.index.place(at);
        if (stored.len() as u64) < block.end - block.start {
            return Err(self.flawed(at, "the file ends before its block does"));
        }
        Ok(stored)
    }

    /// The payload of the block `at`.
    pub(super) fn unpack(&self, at: usize, stored: &Bytes) -> Result<Bytes, TableError> {
        let offset = self.index.place(at).start;
        let unpacked = block::unpack(self.origin, offset, stored, BytesMut::zeroed);
        unpacked.map_err(|flaw| self.flawed(at, flaw))
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Damage of the block `at`.
    pub(super) fn flawed(&self, at: usize, what: Flaw) -> TableError {
        damaged(&self.path, self.index.place(at).start, self.doubt(at), what)
    }

    /// The tokens that are in doubt when the block `at` is.
    fn doubt(&self, at: usize) -> RangeInclusive<Token> {
        self.index.tokens(at, self.properties.last.token())
    }
}

fn decode(encoded: &[u8]) -> Result<Arc<Object>, Flaw> {
    let decoded = Object::from_bytes(encoded);
    decoded.map(Arc::new).map_err(|_| "one of its objects is not valid")
}

async fn read_footer(path: &Path, file: &File, file_bytes: u64) -> Result<Footer, TableError> {
    let at = file_bytes.saturating_sub(FOOTER_BYTES as u64);
    let bytes = file.read_at(at, FOOTER_BYTES).await;
    let bytes = bytes.map_err(|e| unreadable(path, at, ALL_TOKENS, e))?;
    Footer::decode(&bytes, file_bytes).map_err(|no| match no {
        NoFooter::Unreadable(what) => damaged(path, at, ALL_TOKENS, what),
        NoFooter::Version(found) => {
            TableError::Version { path: path.to_path_buf(), found, known: VERSION }
        }
    })
}

/// Filter, index and properties of what stands between blocks and footer.
fn decode_meta(
    path: &Path,
    footer: &Footer,
    meta: &[u8],
    file_bytes: u64,
) -> Result<(Option<Filter>, Index, Properties), TableError> {
    let [filter, index, properties] = footer.sections(meta.len()).map(|place| &meta[place]);
    let wrong = |at, what| damaged(path, at, ALL_TOKENS, what);

    if crc32fast::hash(properties) != footer.properties_crc {
        return Err(wrong(footer.properties_at, "the checksum of its properties does not match"));
    }
    let properties = Properties::decode(properties, file_bytes)
        .map_err(|_| wrong(footer.properties_at, "its properties are not valid"))?;

    if crc32fast::hash(index) != footer.index_crc {
        return Err(wrong(footer.index_at, "the checksum of its index does not match"));
    }
    let index = Index::decode(index, footer.filter_at)
        .ok()
        .filter(|index| index.fits(&properties))
        .ok_or_else(|| wrong(footer.index_at, "its index is not valid"))?;

    let sound = crc32fast::hash(filter) == footer.filter_crc;
    let filter = if sound { Filter::decode(filter) } else { None };
    if filter.is_none() {
        tracing::warn!(path = %path.display(), "the filter of a table is damaged: it is read without");
    }
    Ok((filter, index, properties))
}

fn damaged(
    path: &Path,
    offset: u64,
    tokens: RangeInclusive<Token>,
    what: &'static str,
) -> TableError {
    TableError::Damaged { path: path.to_path_buf(), offset, what, tokens }
}

fn unreadable(
    path: &Path,
    offset: u64,
    tokens: RangeInclusive<Token>,
    source: io::Error,
) -> TableError {
    TableError::Unreadable { path: path.to_path_buf(), offset, source, tokens }
}
