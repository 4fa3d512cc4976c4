//! A copy of a folder as it is at one moment, made while it serves: `snapshots/<name>` in the folder.
//!
//! ```text
//! data folder                      snapshots/monday
//!   table-7.sst ───── hard link ────── table-7.sst         no byte is copied
//!   memtables, sealed ── written ───── table-8.sst         as they were at that moment
//!   hints ───────────── written ────── log-1.log
//!   manifest                           manifest-1.log      of its own
//!   identity                           identity.snapshot   last; without it nothing opens
//! ```
//!
//! The `members.json` of the folder is not in it: that is who the members are, not what they hold, and an older list would
//! send the node to old addresses. A restored node asks the others; the README says when to add the file.
//!
//! It is a data folder that lacks an identity: move or copy it to where a node's data belongs, and start.
//! That start mints a new node id, since an older copy under the old id would use dots twice
//! (see [`identity`]). It holds the pairs of that moment and no others.
//!
//! Invariants:
//! - The moment is one: all puts before it are in, none after it. (Of hints, which are each their
//!   own, those that came a little later may be in.)
//! - Until `identity::MARKER` is durable, after all else, the folder cannot be opened. What a crash
//!   or an error left is removed by the next snapshot of that name.
//! - It costs disk as the node rewrites its tables: a table's bytes stay as long as any name does.
//! - One at a time, and only below the data folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::engine::Engine;
use super::identity::{self, Copied};
use super::log::append::{Disk, Log, Start};
use super::log::format::{Batch, Place};
use super::log::record::Record;
use super::log::segment_number;
use super::manifest::edit::{State, TableMeta};
use super::manifest::read::Found;
use super::manifest::{Manifest, manifest_number};
use super::table::{Origin, Spec, TableError, TableId, TableWriter, table_number, table_path};
use super::version::{Sealed, View};
use crate::domain::causality::NodeId;
use crate::runtime::{event, fs, task};

/// The folder of snapshots in a data folder.
pub const FOLDER: &str = "snapshots";

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Entries that are written between two looks at the rest of the world.
const STEP: usize = 64;

/// Bytes of hints in one batch of the snapshot's log, roughly.
const HINT_BATCH_BYTES: usize = 1 << 20;

/// A snapshot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where it is.
    pub folder: PathBuf,
    /// Its tables.
    pub tables: u64,
    /// Bytes of their files, most of them shared with the node's own.
    pub bytes: u64,
    /// Entries in them. A key counts once for each table that holds it.
    pub entries: u64,
    /// Hints in it.
    pub hints: u64,
}

/// Why there is no snapshot. The data is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Choose another name.
    #[error(
        "a snapshot's name has 1 to 64 letters, digits, dots, dashes and underscores, and does not \
         start with a dot"
    )]
    Name,
    /// Choose another name, or remove that folder.
    #[error("{} is there already: choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// Another one is being made: try later.
    #[error("another snapshot is being made: try again when it is done")]
    Busy,
    /// The engine was closed.
    #[error("the storage engine is closed")]
    Closed,
    /// The disk refused: look at `source`, then try again.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl CheckpointError {
    fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Disk { doing, path, source }
    }

    fn table(error: TableError, path: &Path) -> Self {
        match error {
            TableError::Write { doing, path, source } => Self::Disk { doing, path, source },
            TableError::Unreadable { path, source, .. } => {
                Self::Disk { doing: "read", path, source }
            }
            other @ (TableError::Missing(_)
            | TableError::Foreign { .. }
            | TableError::Version { .. }
            | TableError::Damaged { .. }) => {
                Self::disk("write", path)(io::Error::other(other.to_string()))
            }
        }
    }
}

/// True for what may be the name of a snapshot: one plain component of a path.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// Makes the snapshot `name` of `engine`, whose data folder is `data`.
///
/// # Errors
/// [`CheckpointError`]; what was written of it is removed, as far as the disk lets that happen.
pub(super) async fn make(
    engine: &Engine,
    data: &Path,
    copied: &Copied,
    name: &str,
) -> Result<Checkpoint, CheckpointError> {
    if !is_name(name) {
        return Err(CheckpointError::Name);
    }
    let folder = data.join(FOLDER).join(name);
    prepare(data, &folder).await?;
    let made = fill(engine, data, &folder, copied).await;
    if made.is_err()
        && let Err(left) = clear(&folder).await
    {
        tracing::warn!(folder = %folder.display(), error = %left, "half a snapshot stays");
    }
    made
}

/// Makes the folder, empty, and its name durable.
async fn prepare(data: &Path, folder: &Path) -> Result<(), CheckpointError> {
    let disk = CheckpointError::disk;
    fs::create_dir_all(folder).await.map_err(disk("create", folder))?;
    let entries = fs::read_dir(folder).await.map_err(disk("list", folder))?;
    // All that an unfinished one can hold. Whatever has more is somebody's.
    let unfinished = |name: &str| {
        table_number(name).is_some()
            || manifest_number(name).is_some()
            || segment_number(name).is_some()
            || name == identity::MARKER_TEMP
    };
    if !entries.iter().all(|entry| !entry.is_dir && unfinished(&entry.name)) {
        return Err(CheckpointError::Exists(folder.to_path_buf()));
    }
    clear(folder).await?;
    for above in [&data.join(FOLDER), data] {
        fs::sync_dir(above).await.map_err(disk("sync", above))?;
    }
    Ok(())
}

/// Removes the files of an unfinished snapshot, the one that makes it whole first.
async fn clear(folder: &Path) -> Result<(), CheckpointError> {
    let disk = CheckpointError::disk;
    let mut names: Vec<String> = fs::read_dir(folder)
        .await
        .map_err(disk("list", folder))?
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort_by_key(|name| name != identity::MARKER);
    for name in names {
        let path = folder.join(&name);
        fs::remove_file(&path).await.map_err(disk("remove", &path))?;
        if name == identity::MARKER {
            fs::sync_dir(folder).await.map_err(disk("sync", folder))?;
        }
    }
    Ok(())
}

async fn fill(
    engine: &Engine,
    data: &Path,
    folder: &Path,
    copied: &Copied,
) -> Result<Checkpoint, CheckpointError> {
    let snapshot = engine.snapshot().await.map_err(|_closed| CheckpointError::Closed)?;
    let (view, disk) = (&snapshot.view, CheckpointError::disk);
    let mut state = State { doubts: view.doubts.as_ref().clone(), ..State::default() };
    for live in view.version.tables() {
        let id = TableId(live.meta.id);
        let (from, to) = (table_path(data, id), table_path(folder, id));
        fs::hard_link(&from, &to).await.map_err(disk("link", &to))?;
        state.tables.insert(id.0, live.meta.clone());
    }
    // Oldest first: in level 0 the higher number is the newer table.
    for sealed in view.sealed.iter().rev().filter(|sealed| sealed.memtable.len() > 0) {
        let next = state.tables.keys().last().copied().unwrap_or(0) + 1;
        let origin = Origin { folder: copied.folder_id(), table: TableId(next) };
        let meta = write_table(engine, folder, origin, sealed).await?;
        state.tables.insert(next, meta);
    }
    state.next_table = state.tables.keys().last().copied().unwrap_or(0) + 1;
    state.flushed_through = flushed_through(view);
    // Its log, which is one segment as a rule, is not to be without its first one.
    state.log_start = 1;
    let hints = write_log(engine, folder, copied.folder_id(), state.flushed_through).await?;
    let checkpoint = Checkpoint {
        folder: folder.to_path_buf(),
        tables: state.tables.len() as u64,
        bytes: state.tables.values().map(|table| table.bytes).sum(),
        entries: state.tables.values().map(|table| table.entries).sum(),
        hints,
    };
    let found = Found { state: Some(state), void: Vec::new(), next_number: 1 };
    let mut manifest = Manifest::new(Disk, folder, copied.folder_id(), found);
    manifest.commit(&[]).await.map_err(disk("write the manifest of", folder))?;
    drop(manifest);
    fs::sync_dir(folder).await.map_err(disk("sync", folder))?;
    identity::mark(folder, copied).await.map_err(disk("finish", folder))?;
    event::note("snapshot_made", checkpoint.tables, checkpoint.entries);
    Ok(checkpoint)
}

/// The last batch whose puts the view can hold.
fn flushed_through(view: &View) -> u64 {
    let tables = view.version.tables().map(|live| live.meta.batches.1);
    let sealed = view.sealed.iter().map(|sealed| sealed.batches.1);
    tables.chain(sealed).max().unwrap_or(0)
}

/// Writes a memtable to a table of level 0.
async fn write_table(
    engine: &Engine,
    folder: &Path,
    origin: Origin,
    sealed: &Arc<Sealed>,
) -> Result<TableMeta, CheckpointError> {
    let path = table_path(folder, origin.table);
    let refused = |error| CheckpointError::table(error, &path);
    let spec = Spec {
        origin,
        entries_max: sealed.memtable.len() as u64,
        batches: sealed.batches.0..=sealed.batches.1,
        block_bytes: engine.block_bytes(),
    };
    let mut writer = TableWriter::create(&path, spec).await.map_err(refused)?;
    let mut from = std::ops::Bound::Unbounded;
    loop {
        let mut page = Vec::with_capacity(STEP);
        let range = (from.as_ref(), std::ops::Bound::Unbounded);
        sealed.memtable.page(range, STEP, u64::MAX, &mut page);
        let Some((last, _)) = page.last() else { break };
        from = std::ops::Bound::Excluded(last.clone());
        for (key, object) in &page {
            writer.add_encoded(key, object).await.map_err(refused)?;
        }
        task::yield_now().await;
    }
    let properties = writer.finish().await.map_err(refused)?;
    Ok(TableMeta {
        id: origin.table.0,
        level: 0,
        first: properties.first,
        last: properties.last,
        bytes: properties.file_bytes,
        entries: properties.entries,
        batches: (sealed.batches.0, sealed.batches.1),
    })
}

/// Writes the snapshot's log, which goes on behind batch `through` and holds the hints; how many.
async fn write_log(
    engine: &Engine,
    folder: &Path,
    id: NodeId,
    through: u64,
) -> Result<u64, CheckpointError> {
    let start = Start {
        folder: folder.to_path_buf(),
        id,
        segment_bytes: u64::MAX,
        prefill_bytes: 0,
        end: Place::START,
        durable_through: through,
        next_segment: 1,
    };
    let mut log = Log::new(Disk, start);
    let path = log.path();
    let refused = |error| CheckpointError::disk("write", &path)(error);
    log.bear(&mut []).await.map_err(refused)?;
    let (mut count, mut number) = (0, through);
    for owner in engine.hint_owners() {
        let mut after = None;
        loop {
            let page = engine.hints_of(&owner.owner, after.as_ref(), HINT_BATCH_BYTES);
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            number += 1;
            let mut batch = Batch::new(number, BytesMut::new());
            for hint in &page {
                batch.push(|out| {
                    Record::encode_hint(&owner.owner, &hint.key, &hint.object, hint.since_ms, out);
                });
            }
            count += page.len() as u64;
            log.write(&mut batch).await.map_err(refused)?;
        }
    }
    // Declares the last batch durable, as an orderly close does.
    log.write(&mut Batch::new(number + 1, BytesMut::new())).await.map_err(refused)?;
    Ok(count)
}
