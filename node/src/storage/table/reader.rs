//! Reads a table: single keys, and in order.

use std::ops::{Bound, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{BlockCache, Origin, Properties, TableError};
use crate::domain::key::{Key, Token};
use crate::domain::object::Object;

/// A key made ready for lookups in any number of tables.
#[derive(Clone, Debug)]
pub struct Target {
    key: Key,
}

impl Target {
    /// Hashes `key`.
    pub fn new(key: &Key) -> Self {
        Self { key: key.clone() }
    }
}

/// An open table.
#[derive(Debug)]
pub struct Table {
    properties: Properties,
}

impl Table {
    /// Opens the table at `path` and checks everything but its blocks.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn open(
        path: &Path,
        _origin: Origin,
        _cache: Arc<BlockCache>,
    ) -> Result<Self, TableError> {
        Err(TableError::Missing(path.to_path_buf()))
    }

    /// What the table says of itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The lowest and the highest token.
    pub fn tokens(&self) -> RangeInclusive<Token> {
        self.properties.first.token()..=self.properties.last.token()
    }

    /// False when the table certainly does not hold the key. Reads nothing.
    pub fn may_hold(&self, target: &Target) -> bool {
        target.key >= self.properties.first
    }

    /// The encoded object under the key.
    ///
    /// # Errors
    /// [`TableError::Damaged`], [`TableError::Unreadable`].
    pub async fn get(&self, _target: &Target) -> Result<Option<Bytes>, TableError> {
        Ok(None)
    }

    /// The object under the key.
    ///
    /// # Errors
    /// [`TableError::Damaged`], [`TableError::Unreadable`].
    pub async fn object(&self, _target: &Target) -> Result<Option<Arc<Object>>, TableError> {
        Ok(None)
    }

    /// The bytes of the file that hold these tokens, to within two blocks.
    pub fn stored_bytes_in(&self, _tokens: RangeInclusive<Token>) -> u64 {
        0
    }

    /// A scan in key order, from `from` to the end.
    pub fn cursor(self: &Arc<Self>, _from: Bound<&Key>) -> Cursor {
        Cursor { _table: self.clone() }
    }
}

/// A scan. It bypasses the cache.
#[derive(Debug)]
pub struct Cursor {
    _table: Arc<Table>,
}

/// What a scan yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The object, encoded.
    pub object: Bytes,
}

impl Cursor {
    /// The next entry; `None` at the end. After an error about a block the scan stands behind that
    /// block, and can go on.
    ///
    /// # Errors
    /// [`TableError::Damaged`], [`TableError::Unreadable`].
    pub async fn next(&mut self) -> Result<Option<Entry>, TableError> {
        Ok(None)
    }
}
