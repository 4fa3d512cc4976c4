//! The engine: opens a folder, answers reads from memory, hands writes to the log.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::Mutex;

use super::error::{OpenError, ReadError, RenewError, ReserveError, WriteError};
use super::hints::{Hint, HintStats, Hints};
use super::identity::{EpochBlock, Identity, IdentityFile};
use super::log::append::{Device, Disk, Log, Start};
use super::log::record::Record;
use super::log::replay::{Replayed, replay};
use super::log::segment_number;
use super::memtable::Memtable;
use super::queue::{Shared, Stats, Ticket};
use super::{Options, writer};
use crate::domain::causality::NodeId;
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::fs::{self, FileLock};
use crate::runtime::task;

const LOCK: &str = "lock";

/// An open data folder. Clones share it. When the last clone is dropped without
/// [`close`](Engine::close), what is pending is still written in the background.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    identity: Arc<StdMutex<Identity>>,
    /// Taken away when the engine ends: after that the folder may belong to somebody else.
    identity_file: Arc<Mutex<Option<IdentityFile>>>,
    _closer: Arc<Closer>,
}

/// Asks the writer to finish when the last engine is dropped.
#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl Engine {
    /// Opens the folder `dir` for the node of `cluster` that lives in it; makes both if there is
    /// no folder, or an empty one. Takes the folder's lock, raises the generation, reads the log
    /// back, cuts a torn tail. All of it is durable when this returns.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing that was durable in the folder has changed, but for the generation.
    pub async fn open(dir: &Path, cluster: &str, options: Options) -> Result<Self, OpenError> {
        Self::open_on(Disk, dir, cluster, options).await
    }

    /// [`open`](Engine::open), with the log on `device`.
    pub(super) async fn open_on<D: Device>(
        device: D,
        dir: &Path,
        cluster: &str,
        options: Options,
    ) -> Result<Self, OpenError> {
        options.check()?;
        fs::create_dir_all(dir).await.map_err(OpenError::disk("create", dir))?;
        let lock = lock(dir).await?;
        let segments = list_segments(dir).await?;
        let identity_file = IdentityFile::open(dir, cluster, !segments.is_empty()).await?;
        let id = identity_file.folder_id();

        let (mut memtable, mut hints) = (Memtable::default(), Hints::default());
        let mut apply = |record| replay_one(record, &mut memtable, &mut hints);
        let replayed = replay(dir, id, &segments, &mut apply).await?;
        let (log, void, stats) = go_on(device, dir, id, &options, replayed).await?;
        remove_void(&void).await;

        let shared = Shared::new(options, log.durable_through(), (memtable, hints), stats);
        let engine = Self::start(shared, identity_file);
        let (shared, identity_file) = (engine.shared.clone(), engine.identity_file.clone());
        // Detached: it ends with the engine, and says so.
        drop(task::spawn(async move {
            writer::run(&shared, log).await;
            // The lock goes after the last write to the folder, and before anybody hears of the end.
            drop(identity_file.lock().await.take());
            drop(lock);
            shared.end();
        }));
        Ok(engine)
    }

    fn start(shared: Shared, identity_file: IdentityFile) -> Self {
        let shared = Arc::new(shared);
        let identity = Arc::new(StdMutex::new(identity_file.identity()));
        let identity_file = Arc::new(Mutex::new(Some(identity_file)));
        Self { _closer: Arc::new(Closer(shared.clone())), shared, identity, identity_file }
    }

    /// The node that lives in the folder, and how often it was started.
    pub fn identity(&self) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the folder a new node id and the next generation, and returns them: for a folder that
    /// was found to be an older copy of itself, or a copy of another one. They are durable then, and
    /// so is everything else in the folder, unchanged. Call it before anything is minted under
    /// the old id: epochs that were reserved under it were perhaps used before.
    ///
    /// # Errors
    /// [`RenewError`]: the identity is the old one, and nothing was or will be minted under the new one.
    pub async fn renew_identity(&self) -> Result<Identity, RenewError> {
        let (file, identity) = (self.identity_file.clone(), self.identity.clone());
        // A task of its own, as for epochs.
        let renewing = task::spawn(async move {
            let mut file = file.lock().await;
            let renewed = file.as_mut().ok_or(RenewError::Closed)?.renew().await?;
            *identity.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
            Ok(renewed)
        });
        renewing.await.unwrap_or(Err(RenewError::Closed))
    }

    /// Reserves the next [`EPOCH_BLOCK`](super::identity::EPOCH_BLOCK) epochs. The reservation is
    /// durable when this returns; no other call, of this process or a later one, returns any of them.
    ///
    /// # Errors
    /// [`ReserveError`]: none was handed out.
    pub async fn reserve_epochs(&self) -> Result<EpochBlock, ReserveError> {
        let file = self.identity_file.clone();
        // A task of its own: a caller that gives up must not leave a half-done replacement behind
        // that the next one would run into.
        let reserving = task::spawn(async move {
            match file.lock().await.as_mut() {
                Some(file) => file.reserve().await,
                None => Err(ReserveError::Closed),
            }
        });
        reserving.await.unwrap_or(Err(ReserveError::Closed))
    }

    /// The object under `key`: the last one that was put, durable or not.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError> {
        self.shared.get(key).ok_or(ReadError::Closed)
    }

    /// Puts `object` in the place of what is under `key`. Reads see it at once; it is durable when
    /// the ticket says so. The caller holds the key's lock and has merged what was there.
    ///
    /// # Errors
    /// [`WriteError`]: nothing changed.
    pub fn put(&self, key: &Key, object: Arc<Object>) -> Result<Ticket, WriteError> {
        self.shared.put(key, object)
    }

    /// Merges `object` into what is kept for the member `owner` under `key`. It is kept, over restarts
    /// too, until [`remove_hint`](Self::remove_hint) or [`expire_hints`](Self::expire_hints) ends it;
    /// its age counts from `now_ms` (Unix milliseconds). The ticket says when it is durable.
    ///
    /// # Errors
    /// [`WriteError`], [`HintsFull`](WriteError::HintsFull) among them: nothing changed.
    pub fn put_hint(
        &self,
        owner: &str,
        key: &Key,
        object: Arc<Object>,
        now_ms: u64,
    ) -> Result<Ticket, WriteError> {
        self.shared.put_hint(owner, key, object, now_ms)
    }

    /// Forgets what is kept for `owner` under `key` if its [digest](Object::digest) is still `digest`,
    /// and says whether it was: it may have grown since it was sent. Soon durable; a crash before
    /// that brings the hint back.
    pub fn remove_hint(&self, owner: &str, key: &Key, digest: u64) -> bool {
        self.shared.remove_hint(owner, key, digest)
    }

    /// Forgets every hint that last grew before `older_than_ms` (Unix milliseconds); how many.
    pub fn expire_hints(&self, older_than_ms: u64) -> u64 {
        self.shared.expire_hints(older_than_ms)
    }

    /// A page of what is kept for `owner`, in key order from behind `after` (`None`: from the start):
    /// until its weight in memory passes `limit_bytes`, and one at least. An empty page is the end.
    pub fn hints_of(&self, owner: &str, after: Option<&Key>, limit_bytes: usize) -> Vec<Hint> {
        self.shared.hints_of(owner, after, limit_bytes)
    }

    /// What is kept under `key` for any owners, merged; `None`: nothing is.
    pub fn hinted(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.hinted(key)
    }

    /// The members for whom something is kept, by name, and how much.
    pub fn hint_owners(&self) -> Vec<HintStats> {
        self.shared.hint_owners()
    }

    /// A ticket for everything that was put before: for confirming something that is in memory
    /// already and perhaps not on disk.
    pub fn barrier(&self) -> Ticket {
        self.shared.barrier()
    }

    /// A page of the entries between two keys, in order: until their weight in memory passes
    /// `limit_bytes`, and one at least. The next page starts behind (`Bound::Excluded`) the last
    /// key; an empty page is the end. Writes between two pages may or may not be seen.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn scan(
        &self,
        from: Bound<Key>,
        to: Bound<Key>,
        limit_bytes: usize,
    ) -> Result<Vec<(Key, Arc<Object>)>, ReadError> {
        self.shared.scan(from.as_ref(), to.as_ref(), limit_bytes).ok_or(ReadError::Closed)
    }

    /// Counters and sizes at this moment.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// How many writes to the log have failed since the start. After each one it is unknown which
    /// of the records then pending a crash would bring back: the caller retires its minting actor.
    pub fn failures(&self) -> u64 {
        self.shared.failures()
    }

    /// Refuses further calls, writes what is pending, and lets the folder go: it can be opened again
    /// when this returns.
    ///
    /// # Errors
    /// [`WriteError::Stalled`]: the disk fails, and what is pending was not all written.
    pub async fn close(&self) -> Result<(), WriteError> {
        self.shared.begin_close();
        self.shared.closed().await
    }
}

/// Each record is the whole object, merged before it was logged: the later one wins.
fn replay_one(record: Record, memtable: &mut Memtable, hints: &mut Hints) {
    match record {
        Record::Put { key, object } => memtable.insert(&key, Arc::new(object)),
        Record::Hint { owner, key, object, since_ms } => {
            hints.insert(&owner, &key, Arc::new(object), since_ms);
        }
        // A hint with another digest came after the end of an older one, and stays.
        Record::HintDone { owner, key, digest } => {
            hints.remove(&owner, &key, digest);
        }
    }
}

async fn lock(dir: &Path) -> Result<FileLock, OpenError> {
    let path = dir.join(LOCK);
    fs::lock_exclusive(&path).await.map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            OpenError::Locked(dir.to_path_buf())
        } else {
            OpenError::disk("lock", &path)(error)
        }
    })
}

/// The numbers of the folder's segments, lowest first.
async fn list_segments(dir: &Path) -> Result<Vec<u64>, OpenError> {
    let entries = fs::read_dir(dir).await.map_err(OpenError::disk("list", dir))?;
    let files = entries.iter().filter(|entry| !entry.is_dir);
    let mut numbers: Vec<u64> = files.filter_map(|entry| segment_number(&entry.name)).collect();
    // Sorted by name is not sorted by number beyond ten digits.
    numbers.sort_unstable();
    Ok(numbers)
}

/// Gives birth to the segment that follows what was replayed.
async fn go_on<D: Device>(
    device: D,
    dir: &Path,
    id: NodeId,
    options: &Options,
    mut replayed: Replayed,
) -> Result<(Log<D>, Vec<PathBuf>, Stats), OpenError> {
    let start = Start {
        folder: dir.to_path_buf(),
        id,
        segment_bytes: options.segment_bytes,
        prefill_bytes: options.prefill_bytes,
        end: replayed.end,
        durable_through: replayed.durable_through,
        next_segment: replayed.next_segment,
    };
    let mut log = Log::new(device, start);
    let path = log.path();
    log.bear(&mut replayed.unproven).await.map_err(OpenError::disk("write", &path))?;
    let stats = Stats {
        log_bytes: replayed.bytes + log.end().offset,
        segments: replayed.segments + 1,
        ..Stats::default()
    };
    Ok((log, replayed.void, stats))
}

/// Removes files that no longer count. One that stays is found and dropped again by the next start.
async fn remove_void(files: &[PathBuf]) {
    for path in files {
        if let Err(error) = fs::remove_file(path).await {
            tracing::warn!(path = %path.display(), %error, "cannot remove a void log segment");
        }
    }
}
