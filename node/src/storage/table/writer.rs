//! Writes a table, front to back, from entries in key order.

use std::path::{Path, PathBuf};

use super::{Properties, Spec, TableError};
use crate::domain::key::Key;
use crate::domain::object::Object;

/// A table that is not finished. Dropping it leaves a file that is worth nothing: remove it.
#[derive(Debug)]
pub struct TableWriter {
    path: PathBuf,
}

impl TableWriter {
    /// Makes the file at `path`, which must not exist.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub async fn create(path: &Path, _spec: Spec) -> Result<Self, TableError> {
        Err(TableError::Missing(path.to_path_buf()))
    }

    /// Adds an entry; its key must be above all before it.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub async fn add(&mut self, _key: &Key, _object: &Object) -> Result<(), TableError> {
        Err(TableError::Missing(self.path.clone()))
    }

    /// [`add`](Self::add), of an object that is encoded already.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub async fn add_encoded(&mut self, _key: &Key, _object: &[u8]) -> Result<(), TableError> {
        Err(TableError::Missing(self.path.clone()))
    }

    /// How many entries were added.
    pub fn entries(&self) -> u64 {
        0
    }

    /// How many bytes the file has so far, roughly: to know when to start another one.
    pub fn bytes(&self) -> u64 {
        0
    }

    /// Writes the rest and syncs the file. Its name is durable after the caller synced the folder.
    ///
    /// # Errors
    /// [`TableError::Write`].
    ///
    /// # Panics
    /// When no entry was added.
    pub async fn finish(self) -> Result<Properties, TableError> {
        Err(TableError::Missing(self.path))
    }
}
