//! What reads see beside the memtable: the sealed memtables, the tables by level, and what is in doubt.
//!
//! ```text
//! newest  memtable ─ sealed ─ sealed ─ level 0: table, table, … ─ level 1 … level 6: one table each  oldest
//! ```
//!
//! A [`View`] never changes; a flush or a compaction puts another one in its place under the engine's
//! lock. Who holds a view can read all that it names, however long it takes: the file of a table goes
//! when the last view with it does.
//!
//! Invariants: every version of a key in one of these places is newer than all in the places behind
//! it; tables of one level other than 0 do not overlap.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::doubt::{Doubts, TokenRange};
use super::manifest::edit::{LEVELS, TableMeta};
use super::memtable::Memtable;
use super::salvage::Damage;
use super::table::{Table, TableError, Target};
use crate::domain::key::Key;
use crate::domain::object::Object;

/// A memtable that takes no more writes and waits to become a table.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) memtable: Memtable,
    /// The log's batches whose puts it holds, from and through.
    pub(super) batches: (u64, u64),
}

/// The paths of files that nobody reads any more: the keeper removes them.
#[derive(Debug, Default)]
pub(super) struct Graveyard {
    paths: Mutex<Vec<PathBuf>>,
    /// Rung for the keeper.
    pub(super) bell: Notify,
}

impl Graveyard {
    fn paths(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, path: PathBuf) {
        self.paths().push(path);
        self.bell.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths().is_empty()
    }

    /// Takes all that is in it.
    pub(super) fn take(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.paths())
    }
}

/// An open table, whatever level it is in. When it is [doomed](Self::doom), its file goes with the
/// last who holds it.
#[derive(Debug)]
pub(super) struct TableFile {
    pub(super) table: Arc<Table>,
    path: PathBuf,
    graveyard: Arc<Graveyard>,
    doomed: AtomicBool,
    /// A block of it is damaged: it is rewritten without.
    sick: AtomicBool,
}

impl TableFile {
    pub(super) fn new(table: Table, path: PathBuf, graveyard: Arc<Graveyard>) -> Self {
        let (doomed, sick) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { table: Arc::new(table), path, graveyard, doomed, sick }
    }

    /// No manifest names it any more, and no crash brings one back that does.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire) {
            self.graveyard.push(std::mem::take(&mut self.path));
        }
    }
}

/// A table in its level.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) meta: TableMeta,
    pub(super) file: Arc<TableFile>,
}

impl Live {
    pub(super) fn is_sick(&self) -> bool {
        self.file.sick.load(Ordering::Acquire)
    }

    fn holds(&self, key: &Key) -> bool {
        self.meta.first <= *key && *key <= self.meta.last
    }
}

/// The tables, by level: level 0 newest first, the others by key.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) levels: Vec<Vec<Live>>,
}

impl Default for Version {
    fn default() -> Self {
        Self { levels: vec![Vec::new(); LEVELS] }
    }
}

impl Version {
    /// Adds a table where it belongs.
    ///
    /// # Panics
    /// When it overlaps another one of a level other than 0.
    pub(super) fn add(&mut self, live: Live) {
        let level = usize::from(live.meta.level);
        let tables = &mut self.levels[level];
        let at = match level {
            0 => tables.partition_point(|table| table.meta.id > live.meta.id),
            _ => tables.partition_point(|table| table.meta.first < live.meta.first),
        };
        tables.insert(at, live);
        let overlap = |pair: &[Live]| pair[0].meta.last >= pair[1].meta.first;
        let around = at.saturating_sub(1)..(at + 2).min(tables.len());
        assert!(level == 0 || !tables[around].windows(2).any(overlap), "level {level} overlaps");
    }

    /// Takes the table out and returns it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Live> {
        let find = |level: &mut Vec<Live>| {
            let at = level.iter().position(|table| table.meta.id == id)?;
            Some(level.remove(at))
        };
        self.levels.iter_mut().find_map(find)
    }

    /// All tables, newest data first.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Live> {
        self.levels.iter().flatten()
    }

    /// The tables that may hold `key`, newest first: any number of level 0, one of each other.
    fn candidates<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Live> {
        let (first, rest) = self
            .levels
            .split_first()
            .map_or((&[][..], &[][..]), |(first, rest)| (first.as_slice(), rest));
        let deeper = rest.iter().filter_map(move |level| {
            let at = level.partition_point(|table| table.meta.last < *key);
            level.get(at)
        });
        first.iter().chain(deeper).filter(move |table| table.holds(key))
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Newest first.
    pub(super) sealed: Vec<Arc<Sealed>>,
    pub(super) version: Arc<Version>,
    pub(super) doubts: Arc<Doubts>,
}

/// What a lookup in tables found.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) object: Option<Arc<Object>>,
    /// Damage that was met on the way.
    pub(super) damage: Vec<Damage>,
}

impl View {
    /// The object under `key` in the sealed memtables, encoded.
    pub(super) fn sealed(&self, key: &Key) -> Option<Bytes> {
        self.sealed.iter().find_map(|sealed| sealed.memtable.get(key))
    }

    /// The newest object under `key` in the tables, damaged blocks left out.
    ///
    /// # Errors
    /// [`TableError::Unreadable`]: a later try may work.
    pub(super) async fn tables(&self, key: &Key) -> Result<Looked, TableError> {
        let mut looked = Looked { object: None, damage: Vec::new() };
        let target = Target::new(key);
        for table in self.version.candidates(key) {
            match table.file.table.object(&target).await {
                Ok(None) => {}
                Ok(Some(object)) => {
                    looked.object = Some(object);
                    break;
                }
                Err(error) => looked.damage.push(damage(table, error)?),
            }
        }
        Ok(looked)
    }

    /// What all sealed memtables weigh, in bytes.
    pub(super) fn sealed_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.memtable.bytes()).sum()
    }
}

/// What the damage of a table puts in doubt. The table is rewritten soon.
///
/// # Errors
/// The error itself when it is none of the table's bytes, so that a later try may work.
pub(super) fn damage(table: &Live, error: TableError) -> Result<Damage, TableError> {
    let tokens = match &error {
        TableError::Damaged { tokens, .. } => tokens.clone(),
        TableError::Missing(_) | TableError::Foreign { .. } => {
            table.meta.first.token()..=table.meta.last.token()
        }
        TableError::Unreadable { .. } | TableError::Version { .. } | TableError::Write { .. } => {
            return Err(error);
        }
    };
    if !table.file.sick.swap(true, Ordering::AcqRel) {
        tracing::warn!(%error, "a table is damaged: its range is in doubt until replicas heal it");
    }
    // What the table says of itself may be damaged too; the manifest knows closer bounds.
    let all = table.meta.tokens();
    let first = (*tokens.start()).clamp(all.first, all.last);
    let last = (*tokens.end()).clamp(all.first, all.last);
    let range = if first <= last { TokenRange { first, last } } else { all };
    Ok(Damage { range, level: table.meta.level, table: table.meta.id })
}
