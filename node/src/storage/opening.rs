//! Opening a folder: the manifest says which tables count and where the log starts, the log brings
//! back what is in no table yet, and what neither of them names is removed.
//!
//! A table that is missing or damaged as a whole does not keep the node from starting: its range is
//! [in doubt](super::doubt) from then on, and replicas heal it. Damage of the log or of the manifest
//! does: what is lost there is not known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Options;
use super::doubt::{Doubts, TokenRange};
use super::error::OpenError;
use super::hints::Hints;
use super::log::append::{Device, Log, Start};
use super::log::record::Record;
use super::log::replay::{Replayed, replay};
use super::log::segment_number;
use super::manifest::edit::{Change, State};
use super::manifest::read::{Found, find};
use super::manifest::{Manifest, manifest_number, manifest_path};
use super::memtable::Memtable;
use super::queue::{Contents, Segment, Shared};
use super::salvage::Damage;
use super::store::{Place, Store, remove};
use super::table::{BlockCache, TableError, TableId, table_number, table_path};
use super::version::{Graveyard, Sealed, Version, View};
use crate::domain::causality::NodeId;
use crate::runtime::fs::DirEntry;
use crate::runtime::{event, fs};

/// The numbers of a folder's files, each kind sorted.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) segments: Vec<u64>,
    pub(super) manifests: Vec<u64>,
    pub(super) tables: Vec<u64>,
}

impl Files {
    pub(super) async fn list(dir: &Path) -> Result<Self, OpenError> {
        let entries = fs::read_dir(dir).await.map_err(OpenError::disk("list", dir))?;
        Ok(Self::of(&entries))
    }

    pub(super) fn of(entries: &[DirEntry]) -> Self {
        let mut files = Self::default();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            files.segments.extend(segment_number(&entry.name));
            files.manifests.extend(manifest_number(&entry.name));
            files.tables.extend(table_number(&entry.name).map(|id| id.0));
        }
        // Sorted by name is not sorted by number beyond ten digits.
        files.segments.sort_unstable();
        files.manifests.sort_unstable();
        files.tables.sort_unstable();
        files
    }

    /// True when a node was here before.
    pub(super) fn any(&self) -> bool {
        !(self.segments.is_empty() && self.manifests.is_empty() && self.tables.is_empty())
    }
}

/// What an identity says of its folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    /// It is a snapshot that was restored.
    pub(super) restored: bool,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Opened<D> {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log<D>,
    pub(super) store: Store<D>,
    pub(super) cache: Arc<BlockCache>,
    /// Tables that were lost, and what was in doubt before.
    pub(super) lost: Option<(Doubts, Vec<Damage>)>,
}

/// Opens the folder `dir`, whose id is `id`. All that it found is durable when this returns.
///
/// # Errors
/// [`OpenError`]: nothing that was durable has changed.
pub(super) async fn open<D: Device + Clone>(
    device: D,
    dir: &Path,
    (id, birth): (NodeId, Birth),
    options: Options,
    files: &Files,
) -> Result<Opened<D>, OpenError> {
    let found = find(dir, id, &files.manifests).await?;
    if found.state.is_none() && !files.tables.is_empty() {
        let path = manifest_path(dir, files.manifests.last().copied().unwrap_or(1));
        return Err(OpenError::damaged(&path, 0, "no manifest is whole, and tables are there"));
    }
    let cache = Arc::new(BlockCache::new(options.cache_bytes));
    let place = Place {
        folder: dir.to_path_buf(),
        id,
        cache: cache.clone(),
        graveyard: Arc::new(Graveyard::default()),
    };
    let known = found.state.clone().unwrap_or_default();
    let (version, mut doubts, mut lost, damage) = open_tables(&place, &known).await?;
    let damage = (!damage.is_empty()).then(|| (known.doubts.clone(), damage));
    if options.born_doubtful && (found.state.is_none() || birth.restored) {
        event::note("folder_doubted", 0, u64::from(birth.restored));
        doubts.add(TokenRange::ALL);
        lost.push(Change::Doubt(TokenRange::ALL));
    }

    let mut replaying = Replaying::new(&known, options.memtable_bytes);
    let mut apply = |batch, record| replaying.apply(batch, record);
    let from = (known.log_start, known.flushed_through);
    let replayed = replay(dir, id, &files.segments, from, &mut apply).await?;
    let (log, segments, void) = go_on(device.clone(), &place, &options, replayed).await?;
    let manifest = write_manifest(device, &place, found, files, &lost).await?;
    for path in void.iter().chain(&orphans(dir, files, manifest.state())) {
        remove(path).await;
    }

    let view = View { sealed: replaying.sealed, version: version.into(), doubts: doubts.into() };
    let contents = Contents {
        memtable: replaying.memtable,
        memtable_from: replaying.from,
        hints: replaying.hints,
        view,
        segments: segments.into(),
        graveyard: place.graveyard.clone(),
    };
    let shared = Arc::new(Shared::new(options, log.durable_through(), contents));
    let store = Store::new(shared.clone(), place, manifest);
    Ok(Opened { shared, log, store, cache, lost: damage })
}

/// Opens all tables. Those that cannot be read are given up: the changes that say so.
async fn open_tables(
    place: &Place,
    known: &State,
) -> Result<(Version, Doubts, Vec<Change>, Vec<Damage>), OpenError> {
    let (mut version, mut doubts, mut lost, mut damage) =
        (Version::default(), known.doubts.clone(), Vec::new(), Vec::new());
    for meta in known.tables.values() {
        let error = match place.open(meta).await {
            Ok(live) => {
                version.add(live);
                continue;
            }
            Err(error) => error,
        };
        match error {
            TableError::Version { path: file, found, known } => {
                return Err(OpenError::Version { file, found, known });
            }
            TableError::Unreadable { path, source, .. }
            | TableError::Write { path, source, .. } => {
                return Err(OpenError::Disk { doing: "read", path, source });
            }
            TableError::Missing(_) | TableError::Foreign { .. } | TableError::Damaged { .. } => {}
        }
        let tokens: TokenRange = meta.tokens();
        event::note("table_lost", tokens.first.0, tokens.last.0);
        tracing::warn!(%error, "a table is lost: its range is in doubt until replicas heal it");
        doubts.add(tokens);
        lost.extend([Change::Doubt(tokens), Change::Remove(meta.id)]);
        damage.push(Damage { range: tokens, level: meta.level, table: meta.id });
    }
    Ok((version, doubts, lost, damage))
}

/// Gives birth to the manifest of this start.
async fn write_manifest<D: Device>(
    device: D,
    place: &Place,
    found: Found,
    files: &Files,
    lost: &[Change],
) -> Result<Manifest<D>, OpenError> {
    let path = manifest_path(&place.folder, found.next_number);
    let mut manifest = Manifest::new(device, &place.folder, place.id, found);
    manifest.skip_table_numbers(files.tables.last().copied().unwrap_or(0));
    manifest.commit(lost).await.map_err(OpenError::disk("write", &path))?;
    Ok(manifest)
}

/// The files of tables that are not in the manifest.
fn orphans(dir: &Path, files: &Files, state: &State) -> Vec<PathBuf> {
    let orphans = files.tables.iter().filter(|id| !state.tables.contains_key(id));
    orphans.map(|id| table_path(dir, TableId(*id))).collect()
}

/// Gives birth to the segment that follows what was replayed. Returns the log, its segments, and the
/// files that are void now.
async fn go_on<D: Device>(
    device: D,
    place: &Place,
    options: &Options,
    mut replayed: Replayed,
) -> Result<(Log<D>, Vec<Segment>, Vec<PathBuf>), OpenError> {
    let start = Start {
        folder: place.folder.clone(),
        id: place.id,
        segment_bytes: options.segment_bytes,
        prefill_bytes: options.prefill_bytes,
        end: replayed.end,
        durable_through: replayed.durable_through,
        next_segment: replayed.next_segment,
    };
    let mut log = Log::new(device, start);
    let path = log.path();
    log.bear(&mut replayed.unproven).await.map_err(OpenError::disk("write", &path))?;
    let mut segments = replayed.segments;
    segments.push(Segment {
        number: log.end().segment,
        first_batch: replayed.durable_through + 1,
        bytes: log.end().offset,
    });
    Ok((log, segments, replayed.void))
}

/// What the log brings back.
#[derive(Debug)]
struct Replaying {
    memtable: Memtable,
    /// The first batch whose puts may be in the memtable.
    from: u64,
    /// Newest first.
    sealed: Vec<Arc<Sealed>>,
    hints: Hints,
    flushed_through: u64,
    limit_bytes: u64,
    batch: u64,
}

impl Replaying {
    fn new(known: &State, limit_bytes: u64) -> Self {
        Self {
            memtable: Memtable::default(),
            from: known.flushed_through + 1,
            sealed: Vec::new(),
            hints: Hints::default(),
            flushed_through: known.flushed_through,
            limit_bytes,
            batch: 0,
        }
    }

    /// Each record is the whole object, merged before it was logged: the later one wins.
    fn apply(&mut self, batch: u64, record: Record) {
        if batch != self.batch && self.memtable.bytes() >= self.limit_bytes {
            self.seal();
        }
        self.batch = batch;
        match record {
            // It is in a table, or a later one is.
            Record::Put { .. } if batch <= self.flushed_through => {}
            Record::Put { key, object } => {
                let _encoded = self.memtable.insert(&key, &object);
            }
            Record::Hint { owner, key, object, since_ms } => {
                self.hints.insert(&owner, &key, Arc::new(object), since_ms, batch);
            }
            // A hint with another digest came after the end of an older one, and stays.
            Record::HintDone { owner, key, digest } => {
                self.hints.remove(&owner, &key, digest);
            }
        }
    }

    fn seal(&mut self) {
        let batches = (self.from, self.batch);
        let memtable = std::mem::take(&mut self.memtable);
        self.sealed.insert(0, Arc::new(Sealed { memtable, batches }));
        self.from = self.batch + 1;
    }
}
