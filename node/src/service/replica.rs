//! One node's copy of its keys: lock the key, read, mint or merge, log.
//!
//! ```text
//! write:  lock key ─ read ─ mint dot ─ log + memtable ─ unlock        ─ (durable)
//! store:  lock key ─ read ─ merge    ─ log + memtable ─ unlock        ─ (durable)
//! ```
//!
//! Between the mint and the log there is no await: a request that is dropped half-way has either
//! minted and logged, or neither, so no dot is ever used for two values. The lock is let go before
//! the fsync: readers may see a write that is not durable yet, but nobody is told that it is. A merge
//! that changes nothing is acked behind a barrier for the same reason.

use std::future::Future;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use self::forgotten::Forgotten;
use super::anti_entropy::trees::Trees;
use crate::domain::causality::{Actor, CausalContext};
use crate::domain::key::Key;
use crate::domain::listing::{Listing, Page};
use crate::domain::mint::Minter;
use crate::domain::object::lww::TooFarAhead;
use crate::domain::object::{Content, Object};
use crate::domain::policy::Policies;
use crate::runtime::time::Instant;
use crate::runtime::{event, task, time};
use crate::storage::{Engine, ITSELF, Known, ReadError, ReserveError, Ticket, WriteError};

mod forgotten;
mod minting;

/// Locks for keys. Two keys may share one (by token), which costs a wait now and then; a lock is
/// held for a read and a memtable insert, never for an fsync or a message.
const KEY_LOCKS: usize = 1024;

/// What a listing reads at a time, in bytes.
const LIST_STEP_BYTES: usize = 64 << 10;

/// Of what is kept of writes in doubt, one page weighs about so much.
const FRESH_PAGE_BYTES: usize = 64 << 10;

/// A write that finds no room in memory waits for it so often again.
const ROOM_TRIES: usize = 16;

/// Why a replica did not do what it was asked. Unless said otherwise nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The write would leave more siblings than allowed: the client must merge first.
    #[error(
        "key has {siblings} siblings and the limit is {limit}: read it, merge them, and write with the context of that read"
    )]
    TooManySiblings {
        /// Siblings now.
        siblings: usize,
        /// The limit.
        limit: usize,
        /// A context that covers them all.
        context: CausalContext,
    },
    /// The client's context is stamped too far in the future.
    #[error(transparent)]
    TooFarAhead(#[from] TooFarAhead),
    /// The storage engine can't read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The storage engine takes no writes now.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// No epoch could be reserved, so nothing can be minted.
    #[error("no write epoch could be reserved: {0}")]
    Epochs(#[from] ReserveError),
}

/// What a client wants to put under a key.
#[derive(Debug, Clone)]
pub struct Intent {
    /// What the client has seen: this is replaced, and nothing else.
    pub seen: CausalContext,
    /// No write in it has a higher stamp, in Unix milliseconds; 0 where siblings are kept.
    pub newest_ms: u64,
    /// The new value, or the tombstone.
    pub content: Content,
    /// When reads begin to hide it, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// What clients' writes are held to. Replication is not: what a replica has minted the others take.
#[derive(Debug, Clone)]
pub struct WriteRules {
    /// Siblings that a write may leave a key with.
    pub siblings_max: usize,
    /// Siblings from which on the operator is told.
    pub siblings_warn: usize,
    /// Milliseconds that a context may be ahead of this node's clock where the last write wins.
    pub skew_max_ms: u64,
    /// What becomes of concurrent values. This holds for replication too.
    pub policies: Policies,
}

impl Default for WriteRules {
    fn default() -> Self {
        Self {
            siblings_max: 100,
            siblings_warn: 25,
            skew_max_ms: 86_400_000,
            policies: Policies::default(),
        }
    }
}

/// A write that the local log has accepted.
#[derive(Debug)]
pub struct Minted {
    /// The key's object with the write in it: what the other replicas are to merge.
    pub object: Arc<Object>,
    /// The context for the client.
    pub context: CausalContext,
    /// Resolves when the write is durable here.
    pub ticket: Ticket,
}

/// This node's copy of the keys it holds.
pub struct Replica {
    engine: Engine,
    trees: Arc<Trees>,
    /// Each holds the first epoch whose actors its keys are gone on with.
    locks: Vec<tokio::sync::Mutex<u64>>,
    minter: Mutex<Minter>,
    reserving: tokio::sync::Mutex<()>,
    failures_seen: Mutex<u64>,
    damages_seen: Mutex<u64>,
    trusts_seen: Mutex<u64>,
    rules: WriteRules,
    pruned: AtomicU64,
    forgotten: Mutex<Forgotten>,
}

impl Replica {
    /// Starts minting on `engine`, with a first block of epochs reserved durably, and without trees.
    ///
    /// # Errors
    /// When the reservation can't be made durable.
    pub async fn start(engine: Engine, rules: WriteRules) -> Result<Self, ReserveError> {
        Self::start_with(engine, rules, Arc::new(Trees::none())).await
    }

    /// [`start`](Self::start), with every change told to `trees`.
    ///
    /// # Errors
    /// As it.
    pub async fn start_with(
        engine: Engine,
        rules: WriteRules,
        trees: Arc<Trees>,
    ) -> Result<Self, ReserveError> {
        let block = engine.reserve_epochs(Actor::epoch_at(now_s())).await?;
        let minter = Minter::new(engine.identity().node, block.first, block.through)
            .with_pruning(rules.policies.pruning());
        let (failures, damages) = (engine.failures(), engine.damages());
        let trusts = engine.trusts();
        Ok(Self {
            engine,
            trees,
            locks: (0..KEY_LOCKS).map(|_| tokio::sync::Mutex::new(0)).collect(),
            minter: Mutex::new(minter),
            reserving: tokio::sync::Mutex::new(()),
            failures_seen: Mutex::new(failures),
            damages_seen: Mutex::new(damages),
            trusts_seen: Mutex::new(trusts),
            rules,
            pruned: AtomicU64::new(0),
            forgotten: Mutex::default(),
        })
    }

    /// The storage engine beneath.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What clients' writes are held to.
    pub fn rules(&self) -> &WriteRules {
        &self.rules
    }

    /// The trees of what it holds.
    pub fn trees(&self) -> &Arc<Trees> {
        &self.trees
    }

    /// What this replica knows of the key, and whether it can vouch for that: if not, it counts for nothing.
    ///
    /// # Errors
    /// [`ReplicaError::Read`].
    pub async fn read(&self, key: &Key) -> Result<Known, ReplicaError> {
        Ok(self.engine.known(key).await?)
    }

    /// What this replica holds of the keys that `listing` asks for; `None`: it cannot vouch for that. Each key is as it was
    /// at some moment of the call, so what was acked before it began is there.
    ///
    /// # Errors
    /// [`ReplicaError::Read`].
    pub async fn list(&self, listing: &Listing) -> Result<Option<Page>, ReplicaError> {
        let token = listing.prefix.token();
        let (mut low, mut high) = listing.bounds();
        let mut page = Page::default();
        let (most, mut left) = (listing.entries.max(1) as usize, listing.bytes.max(1) as usize);
        while page.entries.len() < most && left > 0 {
            // Small steps: the rest of what is read is thrown away.
            let step = left.min(LIST_STEP_BYTES);
            let entries = match listing.reverse {
                false => self.engine.scan(low.clone(), high.clone(), step).await?,
                true => self.engine.scan_back(low.clone(), high.clone(), step).await?,
            };
            let Some((last, _)) = entries.last() else { break };
            match listing.reverse {
                false => low = Bound::Excluded(last.clone()),
                true => high = Bound::Excluded(last.clone()),
            }
            let weight =
                |(key, object): &(Key, Arc<Object>)| key.size_bytes() + object.size_bytes();
            left = left.saturating_sub(entries.iter().map(weight).sum());
            page.entries.extend(entries);
        }
        page.more = page.entries.len() >= most || left == 0;
        page.entries.truncate(most);
        // Asked last: what a scan leaves out for damage is in doubt by then.
        let doubtful = self.engine.doubts().iter().any(|range| range.contains(token));
        Ok((!doubtful).then_some(page))
    }

    /// Forgets what is under `key` if that has `digest` and can be vouched for; true when it was. The removal is soon
    /// durable; a crash before that brings it back.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing changed.
    pub async fn forget(&self, key: &Key, digest: u64) -> Result<bool, ReplicaError> {
        let forgotten = self.replace(key, digest, false, Arc::new(Object::new())).await?;
        if forgotten {
            lock(&self.forgotten).add(key.token(), digest);
        }
        Ok(forgotten)
    }

    /// Puts `object` (empty: nothing) in the place of what a copy in doubt holds under `key`, if that still has `digest`; true when
    /// it had.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing changed.
    pub async fn settle(
        &self,
        key: &Key,
        digest: u64,
        object: Arc<Object>,
    ) -> Result<bool, ReplicaError> {
        self.replace(key, digest, true, object).await
    }

    async fn replace(
        &self,
        key: &Key,
        digest: u64,
        in_doubt: bool,
        mut object: Arc<Object>,
    ) -> Result<bool, ReplicaError> {
        self.engine.room().await;
        let mut since = self.lock(key).await;
        let Known { object: before, doubtful } = self.engine.known(key).await?;
        let Some(before) = before.filter(|before| before.digest() == digest) else {
            return Ok(false);
        };
        if doubtful != in_doubt {
            return Ok(false);
        }
        // As every object that is held: one that is not would be pruned by the others alone, who bring nothing that it lacks.
        self.prune(key, &mut object);
        self.learn(key, &mut since, Some(&before), &object);
        // The ticket is of no use: who needs it to be durable waits for a barrier.
        drop(self.trees.put(&self.engine, key, Some(&before), &object, None, None)?);
        Ok(true)
    }

    /// What was written here of a key since it is in doubt, each write with all that its writer had seen: no leftover of an older copy.
    /// `None`: nothing was. Without meaning for a key that is not in doubt.
    pub fn fresh(&self, key: &Key) -> Option<Arc<Object>> {
        self.engine.hint(ITSELF, key).map(|hint| hint.object)
    }

    /// Ends what is kept as [`fresh`](Self::fresh) of keys that are in doubt no more; false: the log takes no more of it now.
    pub async fn end_fresh(&self) -> bool {
        let mut after: Option<Key> = None;
        loop {
            let page = self.engine.hints_of(ITSELF, after.as_ref(), FRESH_PAGE_BYTES);
            let Some(last) = page.last() else { return true };
            after = Some(last.key.clone());
            let doubts = self.engine.doubts();
            for hint in page {
                let token = hint.key.token();
                let doubtful = doubts.iter().any(|doubt| doubt.contains(token));
                if !doubtful
                    && self.engine.remove_hint(ITSELF, &hint.key, hint.object.digest()).is_err()
                {
                    return false;
                }
            }
            task::yield_now().await;
        }
    }

    /// Merges `object`, which a client's write, a repair or a hint brings, into this replica's copy. The ticket resolves once the merge is
    /// durable. In doubt it is kept as [`fresh`](Self::fresh) as well: whoever sent it may be the only other one that has it.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing changed.
    pub async fn store(&self, key: &Key, object: Arc<Object>) -> Result<Ticket, ReplicaError> {
        let (_, ticket) = self.merge(key, object, Some(time::now())).await?;
        // Of what changes nothing it is confirmed that it is durable.
        Ok(ticket.unwrap_or_else(|| self.engine.barrier()))
    }

    /// Merges what came in an exchange, so that no other replica is about to hear of it, and returns what the key holds now. Nobody waits
    /// until it is durable: it soon is, and a crash before that leaves it to the next exchange. What was
    /// forgotten a moment ago is left there, and returned as it came.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing changed.
    pub async fn heal(&self, key: &Key, object: Arc<Object>) -> Result<Arc<Object>, ReplicaError> {
        let forgotten = lock(&self.forgotten).contains(key.token(), object.digest());
        let doubtful = || self.engine.doubts().iter().any(|range| range.contains(key.token()));
        if forgotten && !doubtful() {
            event::note("object_not_taken_back", key.token().0, 0);
            return Ok(object);
        }
        Ok(self.merge(key, object, None).await?.0)
    }

    async fn merge(
        &self,
        key: &Key,
        object: Arc<Object>,
        recent_at: Option<Instant>,
    ) -> Result<(Arc<Object>, Option<Ticket>), ReplicaError> {
        self.when_there_is_room(|| self.merge_once(key, object.clone(), recent_at)).await
    }

    async fn merge_once(
        &self,
        key: &Key,
        object: Arc<Object>,
        recent_at: Option<Instant>,
    ) -> Result<(Arc<Object>, Option<Ticket>), ReplicaError> {
        let mut since = self.lock(key).await;
        // What is merged with less than was confirmed stays in doubt.
        let Known { object: before, doubtful } = self.engine.known(key).await?;
        let fresh = (doubtful && recent_at.is_some()).then(|| object.clone());
        let policy = self.rules.policies.of(key.bucket());
        let merged = match before.clone() {
            // What a fallback kept was merged without the policy.
            None if object.siblings().len() <= 1 => {
                let mut object = object;
                self.prune(key, &mut object);
                object
            }
            state => {
                let mut state = state.unwrap_or_default();
                let changed = Arc::make_mut(&mut state).merge_under(policy, &object);
                if !self.prune(key, &mut state) && !changed && fresh.is_none() {
                    return Ok((state, None));
                }
                state
            }
        };
        self.learn(key, &mut since, before.as_deref(), &merged);
        let before = before.as_deref();
        let ticket = self.trees.put(&self.engine, key, before, &merged, recent_at, fresh)?;
        Ok((merged, Some(ticket)))
    }

    /// Does `write` once memory has room for it, and again when others who waited for that were faster: the flush that they wait for is a
    /// matter of milliseconds, and to refuse a client for that would send it to a node that may be away. While the disk fails
    /// this waits as long as the caller does.
    async fn when_there_is_room<T, F: Future<Output = Result<T, ReplicaError>>>(
        &self,
        write: impl Fn() -> F,
    ) -> Result<T, ReplicaError> {
        for _ in 0..ROOM_TRIES {
            self.engine.room().await;
            match write().await {
                Err(ReplicaError::Write(WriteError::Overloaded { .. })) => {}
                outcome => return outcome,
            }
        }
        self.engine.room().await;
        write().await
    }

    /// What is kept of `key` for others.
    pub fn hinted(&self, key: &Key) -> Option<Arc<Object>> {
        self.engine.hinted(key)
    }

    /// Keeps `object` for the member `owner`, merged with what is kept for it already. The ticket resolves
    /// once that is durable.
    ///
    /// # Errors
    /// [`ReplicaError::Write`]; nothing changed.
    pub fn store_hint(
        &self,
        owner: &str,
        key: &Key,
        object: Arc<Object>,
    ) -> Result<Ticket, ReplicaError> {
        Ok(self.engine.put_hint(owner, key, object, time::wall_clock_ms())?)
    }

    async fn lock(&self, key: &Key) -> tokio::sync::MutexGuard<'_, u64> {
        // The low bits of the token: the high bits choose the partition, so neighbours differ here.
        let at = key.token().0 as usize % KEY_LOCKS;
        self.locks[at].lock().await
    }

    /// Drops what `object` knows of old actors; true when it did.
    fn prune(&self, key: &Key, object: &mut Arc<Object>) -> bool {
        let pruning = self.rules.policies.pruning();
        // So that nothing is copied in vain.
        if !object.may_be_pruned(pruning) {
            return false;
        }
        let dropped = Arc::make_mut(object).prune(pruning);
        self.pruned.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        for actor in &dropped {
            event::note("vector_pruned", key.token().0, actor.word());
        }
        !dropped.is_empty()
    }

    /// Actors that were dropped from contexts since the start.
    pub fn pruned(&self) -> u64 {
        self.pruned.load(Ordering::Relaxed)
    }
}

/// The wall clock in Unix seconds.
fn now_s() -> u64 {
    time::wall_clock_ms() / 1000
}

/// A poisoned lock means that a task panicked, which ends the process; until then the data is whole,
/// since no panic can happen between two changes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of key and value together: what `limits.pair_bytes` bounds.
pub fn pair_bytes(key: &Key, value: &Bytes) -> usize {
    key.size_bytes() + value.len()
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;
