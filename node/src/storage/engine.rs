//! The engine: opens a folder, answers reads, hands writes to the log.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::{fmt, io};

use tokio::sync::Mutex;

use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::doubt::TokenRange;
use super::error::{ClaimError, OpenError, ReadError, RenewError, ReserveError, WriteError};
use super::hints::{Hint, HintStats};
use super::identity::{EpochBlock, Identity, IdentityFile};
use super::log::append::{Device, Disk};
use super::merge::Merge;
use super::opening::{self, Birth, Files, Opened};
use super::queue::{Near, Shared, Step, Ticket};
use super::salvage::salvage;
use super::snapshot::{Page, Snapshot};
use super::stats::Stats;
use super::store::Store;
use super::table::BlockCache;
use super::writer::{self, Pen};
use super::{Options, compaction, flush};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::fs::{self, FileLock};
use crate::runtime::{event, task};

/// The file that an open engine holds locked.
pub(super) const LOCK: &str = "lock";

/// Entries of the memtable that one hold of the lock copies at most while a scan runs.
const SCAN_STEP: usize = 256;

/// More than this is not pending for the sake of puts that nobody waits for.
const QUIET_BYTES_MAX: usize = 8 << 20;

/// What a replica knows under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The last object that was put, as far as it is known; `None`: nothing is known.
    pub object: Option<Arc<Object>>,
    /// A file was damaged, so that more may have been put and confirmed: this answer counts for
    /// nothing, and what is minted on it takes a fresh actor.
    pub doubtful: bool,
}

impl Known {
    /// What the newest version under a key says: an empty object marks that the key was [removed](Engine::remove).
    fn of(object: Option<Arc<Object>>, doubtful: bool) -> Self {
        Self { object: object.filter(|object| !object.is_empty()), doubtful }
    }
}

/// An open data folder. Clones share it. When the last clone is dropped without
/// [`close`](Engine::close), what is pending is still written in the background.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    cache: Arc<BlockCache>,
    identity: Arc<StdMutex<Identity>>,
    /// Taken away when the engine ends: after that the folder may belong to somebody else.
    identity_file: Arc<Mutex<Option<IdentityFile>>>,
    /// Held while a snapshot is written to disk.
    checkpointing: Arc<Mutex<()>>,
    _closer: Arc<Closer>,
}

impl fmt::Debug for Engine {
    /// All else is far too much.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("identity", &self.identity()).finish_non_exhaustive()
    }
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
    pub(super) async fn open_on<D: Device + Clone>(
        device: D,
        dir: &Path,
        cluster: &str,
        options: Options,
    ) -> Result<Self, OpenError> {
        options.check()?;
        fs::create_dir_all(dir).await.map_err(OpenError::disk("create", dir))?;
        let lock = lock(dir).await?;
        let files = Files::list(dir).await?;
        let identity_file = IdentityFile::open(dir, cluster, files.any()).await?;
        let id = identity_file.folder_id();
        let birth = Birth { restored: identity_file.is_restored() };
        let opened = opening::open(device, dir, (id, birth), options, &files).await?;
        let Opened { shared, log, store, cache, lost } = opened;

        let engine = Self::start(shared.clone(), cache, identity_file);
        let (store, identity_file) = (Arc::new(store), engine.identity_file.clone());
        let keeper = task::spawn(keep(store.clone()));
        let compactor = task::spawn(compact(store.clone()));
        let pen = Pen::new(log);
        shared.set_pen(Box::new(pen.clone()));
        // Detached: it ends with the engine, and says so.
        drop(task::spawn(async move {
            writer::run(&shared, &pen).await;
            shared.writer_gone();
            // Both end soon once the end was asked for; an error says that the process ends.
            let _ended = keeper.await;
            let _ended = compactor.await;
            store.close().await;
            // The lock goes after the last write to the folder, and before anybody hears of the end.
            drop(identity_file.lock().await.take());
            drop(lock);
            shared.end();
        }));
        if let Some((before, damage)) = &lost {
            salvage(&engine.shared, before, damage).await;
        }
        if birth.restored {
            if options.born_doubtful {
                let dropped = engine.drop_hints().await;
                let ended =
                    |error: WriteError| OpenError::disk("write", dir)(io::Error::other(error));
                event::note("old_hints_dropped", 1, dropped.map_err(ended)?);
            }
            // Only once nothing brings back what a restored folder must not know.
            if let Some(file) = engine.identity_file.lock().await.as_mut() {
                file.forget_restored().await;
            }
        }
        Ok(engine)
    }

    fn start(shared: Arc<Shared>, cache: Arc<BlockCache>, identity_file: IdentityFile) -> Self {
        let identity = Arc::new(StdMutex::new(identity_file.identity()));
        let identity_file = Arc::new(Mutex::new(Some(identity_file)));
        let (_closer, checkpointing) = (Arc::new(Closer(shared.clone())), Arc::default());
        Self { shared, cache, identity, identity_file, checkpointing, _closer }
    }

    /// The node that lives in the folder, and its generation.
    pub fn identity(&self) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the folder that of the member called `name`, durably, if it is nobody's yet: [`open`](Self::open) knows no
    /// names, so a node calls this before it mints anything.
    ///
    /// # Errors
    /// [`ClaimError`], [`Foreign`](ClaimError::Foreign) if it is another member's.
    pub async fn claim(&self, name: &str) -> Result<(), ClaimError> {
        let (file, name) = (self.identity_file.clone(), name.to_owned());
        // A task of its own, as for epochs.
        let claiming = task::spawn(async move {
            let mut file = file.lock().await;
            file.as_mut().ok_or(ClaimError::Closed)?.claim(&name).await
        });
        claiming.await.unwrap_or(Err(ClaimError::Closed))
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

    /// Gives the folder the next generation, and returns it once it is durable: a copy of the folder that was taken before is told
    /// from it by whoever has heard of the new one.
    ///
    /// # Errors
    /// [`RenewError`]: it is the old one.
    pub async fn raise_generation(&self) -> Result<u64, RenewError> {
        let (file, identity) = (self.identity_file.clone(), self.identity.clone());
        // A task of its own, as for epochs.
        let raising = task::spawn(async move {
            let mut file = file.lock().await;
            let raised = file.as_mut().ok_or(RenewError::Closed)?.raise().await?;
            *identity.lock().unwrap_or_else(PoisonError::into_inner) = raised;
            Ok(raised.generation)
        });
        raising.await.unwrap_or(Err(RenewError::Closed))
    }

    /// Reserves [`EPOCH_BLOCK`](super::identity::EPOCH_BLOCK) epochs, the next ones from `at_least` on. The reservation is
    /// durable when this returns; no other call, of this process or a later one, returns any of them.
    ///
    /// # Errors
    /// [`ReserveError`]: none was handed out.
    pub async fn reserve_epochs(&self, at_least: u64) -> Result<EpochBlock, ReserveError> {
        let file = self.identity_file.clone();
        // A task of its own: a caller that gives up must not leave a half-done replacement behind
        // that the next one would run into.
        let reserving = task::spawn(async move {
            match file.lock().await.as_mut() {
                Some(file) => file.reserve(at_least).await,
                None => Err(ReserveError::Closed),
            }
        });
        reserving.await.unwrap_or(Err(ReserveError::Closed))
    }

    /// The object under `key`: the last one that was put, durable or not.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Doubtful`] when there may be, or may have been, more than is known.
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError> {
        let Known { object, doubtful } = self.known(key).await?;
        if doubtful { Err(ReadError::Doubtful) } else { Ok(object) }
    }

    /// What is known under `key`, and whether that is all that ever was.
    ///
    /// # Errors
    /// [`ReadError::Closed`], [`ReadError::Disk`].
    pub async fn known(&self, key: &Key) -> Result<Known, ReadError> {
        let view = match self.shared.look(key).ok_or(ReadError::Closed)? {
            Near::Found(encoded, doubtful) => {
                return Ok(Known::of(Some(whole(&encoded)?), doubtful));
            }
            Near::Beneath(view) => view,
        };
        let doubtful = view.doubts.contains(key.token());
        if let Some(encoded) = view.sealed(key) {
            return Ok(Known::of(Some(whole(&encoded)?), doubtful));
        }
        let looked = view.tables(key).await.map_err(|error| ReadError::disk(&error))?;
        self.shared.damaged(&looked.damage);
        Ok(Known::of(looked.object, doubtful || !looked.damage.is_empty()))
    }

    /// Completes when there is room in memory for writes: at once, unless the disk is slower than the
    /// writers. Await it before a [`put`](Self::put), holding no lock.
    pub async fn room(&self) {
        self.shared.room().await;
    }

    /// What cannot be vouched for, because a file was damaged or missing, in order of tokens.
    pub fn doubts(&self) -> Vec<TokenRange> {
        self.shared.view().doubts.ranges().to_vec()
    }

    /// Completes when all that is in doubt by now and was written since the damage is kept as fresh, under the owner [`ITSELF`](super::ITSELF): only then
    /// may what is in doubt be settled.
    pub async fn salvaged(&self) {
        self.shared.salvaged().await;
    }

    /// Takes `range` out of doubt, durably: it was exchanged with every other live home replica, and there
    /// were so many [`damages`](Self::damages) when that began. If there are more by now it stays in doubt, since what
    /// was lost meanwhile may be what was exchanged; then the answer is false.
    ///
    /// # Errors
    /// [`ReadError::Closed`]: perhaps it is in doubt again after the next start.
    pub async fn trust(&self, range: TokenRange, damages: u64) -> Result<bool, ReadError> {
        let Some(trusted) = self.shared.trust(range, damages) else { return Ok(false) };
        trusted.await.map_err(|_closed| ReadError::Closed)?;
        Ok(true)
    }

    /// Puts everything in doubt, durably when this returns: for a folder that is an older copy of itself.
    ///
    /// # Errors
    /// [`ReadError::Closed`].
    pub async fn doubt_all(&self) -> Result<(), ReadError> {
        self.shared.doubt_all().await.map_err(|_closed| ReadError::Closed)
    }

    /// All keys as they are at this moment, whatever is written later.
    ///
    /// # Errors
    /// [`ReadError::Closed`].
    pub async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        loop {
            if let Some(view) = self.shared.seal_now() {
                return Ok(Snapshot { shared: self.shared.clone(), view });
            }
            if self.shared.is_closing() {
                return Err(ReadError::Closed);
            }
            self.shared.sealed_less().await;
        }
    }

    /// Makes a copy of all keys as they are at this moment, and of the hints, in the folder
    /// `snapshots/<name>` of the data folder. It is whole and durable when this returns; whoever opens it
    /// as a data folder gets a new node id.
    ///
    /// # Errors
    /// [`CheckpointError`]: there is no such copy.
    pub async fn checkpoint(&self, name: &str) -> Result<Checkpoint, CheckpointError> {
        let (engine, name) = (self.clone(), name.to_owned());
        // A task of its own: a caller that gives up must not leave half of one behind.
        let making = task::spawn(async move {
            let busy = engine.checkpointing.clone();
            let _one = busy.try_lock().map_err(|_| CheckpointError::Busy)?;
            let copied = engine.identity_file.lock().await.as_ref().map(IdentityFile::copied);
            let (folder, copied) = copied.ok_or(CheckpointError::Closed)?;
            checkpoint::make(&engine, &folder, &copied, &name).await
        });
        making.await.unwrap_or(Err(CheckpointError::Closed))
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.shared.options.block_bytes
    }

    /// Puts `object` in the place of what is under `key`. Reads see it at once; it is durable when
    /// the ticket says so. The caller holds the key's lock and has merged what was there.
    ///
    /// # Errors
    /// [`WriteError`]: nothing changed.
    pub fn put(&self, key: &Key, object: &Object) -> Result<Ticket, WriteError> {
        self.shared.put(key, object, true)
    }

    /// [`put`](Self::put) of what nobody waits for: it is written with the next batch that somebody waits for, or by itself within a tenth of
    /// a second, so that much of it costs few syncs. A [`barrier`](Self::barrier) covers it.
    ///
    /// # Errors
    /// As of `put`, and nobody hears of an error later: a crash before it is durable undoes it.
    pub fn put_soon(&self, key: &Key, object: &Object) -> Result<Ticket, WriteError> {
        self.shared.put(key, object, false)
    }

    /// [`put`](Self::put) under a key that is in doubt, of what is no leftover of an older copy: `fresh`, the write with all that its writer had
    /// seen, is merged into what is kept under the owner [`ITSELF`](super::ITSELF). Both or nothing; `fresh` is never durable later than
    /// the object.
    ///
    /// # Errors
    /// As of `put`, and [`FreshFull`](WriteError::FreshFull): nothing changed.
    pub fn put_fresh(
        &self,
        key: &Key,
        object: &Object,
        fresh: Arc<Object>,
        now_ms: u64,
    ) -> Result<Ticket, WriteError> {
        self.shared.put_fresh(key, object, fresh, now_ms)
    }

    /// Forgets what is under `key`: an empty object takes its place, in the log, in memory and in tables, so that
    /// no older version shines through. Reads and scans pass over it, and compaction drops it where nothing older lies beneath. The
    /// caller holds the key's lock.
    ///
    /// # Errors
    /// As [`put`](Self::put): nothing changed.
    pub fn remove(&self, key: &Key) -> Result<Ticket, WriteError> {
        self.shared.put(key, &Object::new(), true)
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
    ///
    /// # Errors
    /// [`WriteError`]: the log cannot note it now, and the hint is kept.
    pub fn remove_hint(&self, owner: &str, key: &Key, digest: u64) -> Result<bool, WriteError> {
        self.shared.remove_hint(owner, key, digest)
    }

    /// Forgets every hint for another member that last grew before `older_than_ms` (Unix milliseconds), as far as the log can note it now; how
    /// many.
    pub fn expire_hints(&self, older_than_ms: u64) -> u64 {
        self.shared.expire_hints(Some(older_than_ms))
    }

    /// A page of what is kept for `owner`, in key order from behind `after` (`None`: from the start):
    /// until its weight in memory passes `limit_bytes`, and one at least. An empty page is the end.
    pub fn hints_of(&self, owner: &str, after: Option<&Key>, limit_bytes: usize) -> Vec<Hint> {
        self.shared.hints_of(owner, after, limit_bytes)
    }

    /// What is kept for `owner` under `key`; `None`: nothing is.
    pub fn hint(&self, owner: &str, key: &Key) -> Option<Hint> {
        self.shared.hint(owner, key)
    }

    /// What is kept under `key` for any owners, merged; `None`: nothing is.
    pub fn hinted(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.hinted(key)
    }

    /// The members for whom something is kept, by name, and how much; this one itself is left out.
    pub fn hint_owners(&self) -> Vec<HintStats> {
        self.shared.hint_owners()
    }

    /// Which of `ranges` hold the key of a hint, for any owner. That a range holds none is durable once
    /// [`synced`](Self::synced) completes after this.
    pub fn hinted_ranges(&self, ranges: &[TokenRange]) -> Vec<bool> {
        self.shared.hinted_ranges(ranges)
    }

    /// Forgets every hint, durably when this returns; how many: for a folder that is an older copy of itself. They may have been handed
    /// over since, and what they held deleted and forgotten.
    ///
    /// # Errors
    /// [`WriteError::Closed`].
    pub async fn drop_hints(&self) -> Result<u64, WriteError> {
        let mut dropped = 0;
        loop {
            dropped += self.shared.expire_hints(None);
            self.synced().await?;
            if self.stats().hints == 0 {
                return Ok(dropped);
            }
        }
    }

    /// Completes at once unless a lot waits to be written: then when all of that is. For who puts much [that nobody waits
    /// for](Self::put_soon), so that others find room.
    ///
    /// # Errors
    /// [`WriteError::Closed`].
    pub async fn caught_up(&self) -> Result<(), WriteError> {
        match self.shared.pending_bytes() > QUIET_BYTES_MAX {
            true => self.synced().await,
            false => Ok(()),
        }
    }

    /// Completes once all that was accepted before is on the disk, under either [policy](super::SyncPolicy).
    ///
    /// # Errors
    /// [`WriteError::Closed`].
    pub async fn synced(&self) -> Result<(), WriteError> {
        self.shared.all_synced().await
    }

    /// A ticket for everything that was put before: for confirming something that is in memory
    /// already and perhaps not on disk.
    pub fn barrier(&self) -> Ticket {
        self.shared.barrier()
    }

    /// A page of the entries between two keys, in order: until they weigh `limit_bytes`, and one at
    /// least. The next page starts behind (`Bound::Excluded`) the last key; an empty page is the end.
    /// Writes between two pages may or may not be seen: a [`snapshot`](Self::snapshot) sees none. What a
    /// damaged file held is left out: see [`doubts`](Self::doubts) after the scan.
    ///
    /// # Errors
    /// [`ReadError::Closed`], [`ReadError::Disk`].
    pub async fn scan(
        &self,
        from: Bound<Key>,
        to: Bound<Key>,
        limit_bytes: usize,
    ) -> Result<Vec<(Key, Arc<Object>)>, ReadError> {
        let mut page = Page { entries: Vec::new(), left: limit_bytes.max(1) };
        let mut from = from;
        loop {
            let range = (from.as_ref(), to.as_ref());
            let step = self.shared.step(range, SCAN_STEP, page.left as u64);
            let Step { entries, view, more } = step.ok_or(ReadError::Closed)?;
            // As far as the memtable was copied; what lies beneath is merged up to there.
            let last = entries.last().map(|(key, _)| key.clone()).filter(|_| more);
            let until = last.clone().map_or(to.clone(), Bound::Included);
            let mut merge = Merge::of_view(&view, entries, &from, until);
            page.fill(&self.shared, &mut merge).await?;
            match last {
                Some(last) if page.left > 0 => from = Bound::Excluded(last),
                Some(_) | None => return Ok(page.entries),
            }
        }
    }

    /// Counters and sizes at this moment.
    pub fn stats(&self) -> Stats {
        let cache = self.cache.stats();
        Stats {
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_bytes: cache.bytes,
            ..self.shared.stats()
        }
    }

    /// How many writes to the log have failed since the start. After each one it is unknown which
    /// of the records then pending a crash would bring back: the caller retires its minting actor.
    pub fn failures(&self) -> u64 {
        self.shared.failures()
    }

    /// How often damage of a table was met since the start. After each one any dot that was minted before
    /// may be lost from keys that are [in doubt](Self::doubts).
    pub fn damages(&self) -> u64 {
        self.shared.damages()
    }

    /// How often something left doubt since the start. What was minted on it before the damage may still be where no
    /// exchange has asked, in a fallback's hint: the caller goes on with no actor from before the last damage.
    pub fn trusts(&self) -> u64 {
        self.shared.trusts()
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

/// An object of a memtable, from the bytes that it was put as.
fn whole(encoded: &[u8]) -> Result<Arc<Object>, ReadError> {
    let whole = Object::from_bytes(encoded).map(Arc::new);
    whole.map_err(|error| ReadError::Disk { reason: format!("memory is damaged: {error}").into() })
}

async fn keep<D: Device>(store: Arc<Store<D>>) {
    flush::run(&store).await;
}

async fn compact<D: Device>(store: Arc<Store<D>>) {
    compaction::run(&store).await;
}

/// Takes the folder's lock, whose file is made if it is missing.
pub(super) async fn lock(dir: &Path) -> Result<FileLock, OpenError> {
    let path = dir.join(LOCK);
    fs::lock_exclusive(&path).await.map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            OpenError::Locked(dir.to_path_buf())
        } else {
            OpenError::disk("lock", &path)(error)
        }
    })
}
