//! The tables of an open folder and the manifest that names them: what flushes and compactions share.
//!
//! An edit is made in this order: the new tables' files and names are durable; the manifest says so;
//! reads see them; and only then does a file that no longer counts go, once nobody reads it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::doubt::Doubts;
use super::log::append::Device;
use super::manifest::Manifest;
use super::manifest::edit::{Change, TableMeta};
use super::queue::Shared;
use super::table::{BlockCache, Origin, Properties, Table, TableError, TableId, table_path};
use super::version::{Graveyard, Live, Sealed, TableFile, Version};
use crate::domain::causality::NodeId;
use crate::runtime::fs;

/// The pauses between tries while the disk fails.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(100);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);

/// The end was asked for before it was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing;

/// What an edit does to the set of tables.
#[derive(Debug, Default)]
pub(super) struct Edit<'a> {
    pub(super) added: Vec<Live>,
    pub(super) removed: Vec<u64>,
    /// Put before the rest.
    pub(super) changes: Vec<Change>,
    /// The memtable that is in the added table.
    pub(super) flushed: Option<&'a Arc<Sealed>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store<D> {
    pub(super) shared: Arc<Shared>,
    folder: PathBuf,
    id: NodeId,
    cache: Arc<BlockCache>,
    graveyard: Arc<Graveyard>,
    manifest: Mutex<Manifest<D>>,
}

/// What opening tables needs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) id: NodeId,
    pub(super) cache: Arc<BlockCache>,
    pub(super) graveyard: Arc<Graveyard>,
}

impl Place {
    fn origin(&self, id: u64) -> Origin {
        Origin { folder: self.id, table: TableId(id) }
    }

    /// Opens the table that the manifest describes.
    ///
    /// # Errors
    /// [`TableError`], among them [`TableError::Damaged`] when the file is another table than that.
    pub(super) async fn open(&self, meta: &TableMeta) -> Result<Live, TableError> {
        let path = table_path(&self.folder, TableId(meta.id));
        let table = Table::open(&path, self.origin(meta.id), self.cache.clone()).await?;
        let found = table.properties();
        let tokens = table.tokens();
        let same = found.first == meta.first
            && found.last == meta.last
            && found.entries == meta.entries
            && found.file_bytes == meta.bytes;
        if !same {
            let what = "it is not the table that the manifest names";
            return Err(TableError::Damaged { path, offset: 0, what, tokens });
        }
        let file = Arc::new(TableFile::new(table, path, self.graveyard.clone()));
        Ok(Live { meta: meta.clone(), file })
    }
}

impl<D: Device> Store<D> {
    pub(super) fn new(shared: Arc<Shared>, place: Place, manifest: Manifest<D>) -> Self {
        let Place { folder, id, cache, graveyard } = place;
        Self { shared, folder, id, cache, graveyard, manifest: Mutex::new(manifest) }
    }

    /// The data folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the next table belongs.
    pub(super) async fn next_table(&self) -> Origin {
        let id = self.manifest.lock().await.take_table_number();
        Origin { folder: self.id, table: TableId(id) }
    }

    pub(super) fn path(&self, origin: Origin) -> PathBuf {
        table_path(&self.folder, origin.table)
    }

    /// Makes the name of a finished table durable and opens it for `level`.
    ///
    /// # Errors
    /// [`TableError`]: the table is worth nothing.
    pub(super) async fn adopt(
        &self,
        origin: Origin,
        level: usize,
        properties: Properties,
    ) -> Result<Live, TableError> {
        let synced = fs::sync_dir(&self.folder).await;
        synced.map_err(|source| TableError::Write {
            doing: "sync the folder of",
            path: self.path(origin),
            source,
        })?;
        let meta = TableMeta {
            id: origin.table.0,
            level: level as u8,
            first: properties.first,
            last: properties.last,
            bytes: properties.file_bytes,
            entries: properties.entries,
            batches: (*properties.batches.start(), *properties.batches.end()),
        };
        let place = Place {
            folder: self.folder.clone(),
            id: self.id,
            cache: self.cache.clone(),
            graveyard: self.graveyard.clone(),
        };
        place.open(&meta).await
    }

    /// Removes the file of a table that was not finished or did not open.
    pub(super) async fn discard(&self, origin: Origin) {
        remove(&self.path(origin)).await;
    }

    /// Makes the edit, however long that takes, and lets reads see it.
    ///
    /// # Errors
    /// [`Closing`]: reads do not see it; whether the next start finds it is unknown.
    pub(super) async fn install(&self, edit: Edit<'_>) -> Result<(), Closing> {
        let mut manifest = self.manifest.lock().await;
        let mut changes = edit.changes;
        changes.extend(edit.removed.iter().map(|id| Change::Remove(*id)));
        changes.extend(edit.added.iter().map(|live| Change::Add(live.meta.clone())));
        self.commit(&mut manifest, &changes).await?;
        let mut version = Version::clone(&self.shared.view().version);
        let removed: Vec<Live> = edit.removed.iter().filter_map(|id| version.remove(*id)).collect();
        assert_eq!(removed.len(), edit.removed.len(), "the manifest knows other tables than reads");
        for live in edit.added {
            version.add(live);
        }
        self.shared.install(version, edit.flushed);
        drop(manifest);
        // Their files go with the last reader.
        removed.iter().for_each(|live| live.file.doom());
        Ok(())
    }

    /// Writes `changes` that concern no table; what is in doubt after them.
    ///
    /// # Errors
    /// [`Closing`]: whether the next start finds them is unknown.
    pub(super) async fn note(&self, changes: &[Change]) -> Result<Doubts, Closing> {
        let mut manifest = self.manifest.lock().await;
        self.commit(&mut manifest, changes).await?;
        Ok(manifest.state().doubts.clone())
    }

    /// Where the log starts, and through which batch all puts are in tables.
    pub(super) async fn log_start(&self) -> (u64, u64) {
        let manifest = self.manifest.lock().await;
        (manifest.state().log_start, manifest.state().flushed_through)
    }

    /// Commits until it works or the end is asked for.
    async fn commit(
        &self,
        manifest: &mut MutexGuard<'_, Manifest<D>>,
        changes: &[Change],
    ) -> Result<(), Closing> {
        let mut pause = RETRY_MIN;
        while let Err(error) = manifest.commit(changes).await {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot write the manifest; retrying");
            self.shared.count_table_failure(format!("manifest: {error}"));
            if self.shared.is_closing() {
                return Err(Closing);
            }
            self.shared.rest(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        Ok(())
    }

    /// Ends the manifest in order, so that rot of its last edit is told from a torn write. Nothing is committed after it.
    pub(super) async fn close(&self) {
        if let Err(error) = self.manifest.lock().await.close().await {
            tracing::debug!(%error, "closed without the manifest's last mark");
        }
    }

    /// Removes the files that nobody reads any more. One that stays is an orphan, which the next
    /// start removes.
    pub(super) async fn bury(&self) {
        for path in self.graveyard.take() {
            remove(&path).await;
        }
    }
}

/// Removes a file that does not count.
pub(super) async fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file that no longer counts");
    }
}
