//! The trees of this node's home partitions, changed by each write, built by scans in the background.
//!
//! They are in memory alone. A start builds them anew, one partition after the other, by scans that are paced like exchanges
//! (`anti_entropy.bytes_per_s`) while requests are served; until a partition's tree is there it is compared with nobody.
//! That reads all data once: 200 MB take some 6 s at the default most, and less is taken when clients wait.
//! Kept on disk, a tree would have to be proved equal to the data after every crash, which is what a scan does; and a
//! start that reads everything finds what rotted while nobody looked. An empty folder needs no scan.
//!
//! A write and its change of the tree are one step under the partition's lock, which is held for as long as the
//! engine's own, so a tree is never ahead of the data or behind it. What changes data past the
//! writes is damage of a table: its [count](Engine::damages) is watched, and trees of what is in doubt are built anew.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::forgetting::candidates::Candidates;
use crate::domain::key::{Key, Token};
use crate::domain::merkle::holding::{Holding, Progress};
use crate::domain::merkle::tree::Tree;
use crate::domain::merkle::{Section, digest};
use crate::domain::object::Object;
use crate::domain::ring::{NodeIndex, PartitionId, Ring};
use crate::runtime::time::{self, Instant};
use crate::storage::{Engine, ReadError, Ticket, TokenRange, WriteError};

/// See the module.
#[derive(Debug)]
pub struct Trees {
    /// By partition; `None`: this node is no home replica of it.
    holdings: Vec<Option<Mutex<Holding>>>,
    /// A token's partition is what is left of it after a shift by so many bits.
    shift: u32,
    /// Damages that were looked at.
    damages: AtomicU64,
    /// Some partition may want a scan.
    wanting: AtomicBool,
    /// By partition: this node drives [forgetting](crate::service::forgetting) there.
    driven: Vec<bool>,
    candidates: Mutex<Candidates>,
}

impl Trees {
    /// Of no partition: for a node that keeps nothing, and for tests of other things.
    pub fn none() -> Self {
        let (damages, wanting) = (AtomicU64::new(0), AtomicBool::new(false));
        let (driven, candidates) = (Vec::new(), Mutex::default());
        Self { holdings: Vec::new(), shift: 0, damages, wanting, driven, candidates }
    }

    /// Of the partitions of which `me` is a home replica. `engine` must take no write before they are told of it.
    pub fn new(ring: &Ring, me: NodeIndex, engine: &Engine) -> Self {
        // Taken first: what is damaged later is seen as such.
        let damages = AtomicU64::new(engine.damages());
        let empty = engine.stats().keys == 0;
        let holding = |partition: u32| {
            let partition = PartitionId(partition);
            let (first, last) = ring.token_range(partition);
            let section = Section::new(first, last);
            let make = if empty { Holding::empty } else { Holding::new };
            ring.home(partition).contains(&me).then(|| Mutex::new(make(section)))
        };
        let holdings = (0..ring.partitions()).map(holding).collect();
        let shift = 64 - ring.partitions().ilog2();
        let driven = |partition: u32| ring.home(PartitionId(partition)).first() == Some(&me);
        let driven = (0..ring.partitions()).map(driven).collect();
        let (wanting, candidates) = (AtomicBool::new(!empty), Mutex::default());
        Self { holdings, shift, damages, wanting, driven, candidates }
    }

    /// The home partitions, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        let held = self.holdings.iter().enumerate().filter(|(_, holding)| holding.is_some());
        held.map(|(partition, _)| partition as u32)
    }

    fn lock(&self, partition: u32) -> Option<MutexGuard<'_, Holding>> {
        let holding = self.holdings.get(partition as usize)?.as_ref()?;
        // A panic anywhere ends the process.
        Some(holding.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn partition_of(&self, token: Token) -> u32 {
        token.0.checked_shr(self.shift).unwrap_or(0) as u32
    }

    /// The keys that this node may have to have forgotten.
    pub fn candidates(&self) -> MutexGuard<'_, Candidates> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what is under `key` now, where that is for this node to have forgotten.
    fn note(&self, key: &Key, object: &Object) {
        let partition = self.partition_of(key.token());
        if self.driven.get(partition as usize) != Some(&true) {
            return;
        }
        if object.is_empty() {
            self.candidates().remove(partition, key);
        } else {
            self.candidates().note(partition, key, object);
        }
    }

    /// Has `partition` scanned again, for candidates that did not fit.
    pub fn scan_again(&self, partition: u32) {
        if let Some(mut holding) = self.lock(partition) {
            holding.want_rescan();
        }
        self.want_again();
    }

    /// Looks at the holding of a home partition; `None`: it is none. It is locked meanwhile.
    pub fn with<T>(&self, partition: u32, look: impl FnOnce(&Holding) -> T) -> Option<T> {
        self.lock(partition).map(|holding| look(&holding))
    }

    /// Whether the tree of a home partition is the one that a scan of the data makes; `None`: there is no tree yet. For
    /// those who look from outside; a partition that is written to all the time is looked at for as long.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn is_right(
        &self,
        engine: &Engine,
        partition: u32,
    ) -> Result<Option<bool>, ReadError> {
        loop {
            self.check(engine);
            let before =
                self.with(partition, |holding| Some((*holding.section(), holding.tree()?.clone())));
            let Some((section, tree)) = before.flatten() else { return Ok(None) };
            let (first, last) = section.tokens();
            let mut from = Bound::Included(Key::lowest(first));
            let mut scanned = Tree::new(tree.bits());
            loop {
                let page = engine.scan(from, up_to(last), 64 << 10).await?;
                let Some((end, _)) = page.last() else { break };
                from = Bound::Excluded(end.clone());
                for (key, object) in &page {
                    let leaf = section.node_of(key.token(), tree.bits());
                    scanned.change(leaf, None, Some(digest(key, object)));
                }
            }
            self.check(engine);
            let same = self.with(partition, |holding| holding.tree() == Some(&tree));
            if same == Some(true) {
                return Ok(Some(scanned == tree));
            }
        }
    }

    /// Puts `new` (empty: nothing) in the place of `old` in `engine` and in the tree. The caller holds the key's lock and has read
    /// `old` under it. `recent_at`: when, if other replicas may be about to hear of it; if not, nobody waits for it either. `fresh`: what is
    /// to be kept of it beside a copy in doubt.
    ///
    /// # Errors
    /// As [`Engine::put`]: nothing changed.
    pub fn put(
        &self,
        engine: &Engine,
        key: &Key,
        old: Option<&Object>,
        new: &Object,
        recent_at: Option<Instant>,
        fresh: Option<Arc<Object>>,
    ) -> Result<Ticket, WriteError> {
        let put = |object: &Object| match (fresh, recent_at) {
            (Some(fresh), _) => engine.put_fresh(key, object, fresh, time::wall_clock_ms()),
            (None, Some(_)) => engine.put(key, object),
            (None, None) => engine.put_soon(key, object),
        };
        if self.holdings.is_empty() {
            return put(new);
        }
        let digests = (old.map(Object::digest), (!new.is_empty()).then(|| new.digest()));
        let holding = self.lock(self.partition_of(key.token()));
        let ticket = put(new)?;
        self.note(key, new);
        if let Some(mut holding) = holding {
            holding.change(key, digests, recent_at);
            if holding.wants_build() {
                self.wanting.store(true, Ordering::Release);
            }
        }
        Ok(ticket)
    }

    /// Gives up the trees of what was damaged since the last look. True when something was.
    pub fn check(&self, engine: &Engine) -> bool {
        let damages = engine.damages();
        if self.damages.swap(damages, Ordering::AcqRel) == damages {
            return false;
        }
        let doubts = engine.doubts();
        for partition in 0..self.holdings.len() as u32 {
            let Some(mut holding) = self.lock(partition) else { continue };
            let (first, last) = holding.section().tokens();
            if doubts.iter().any(|range| range.overlaps(&TokenRange { first, last })) {
                holding.distrust();
            }
        }
        self.wanting.store(true, Ordering::Release);
        true
    }

    /// The partitions that want a scan, if any may.
    pub(super) fn take_wanting(&self) -> Vec<u32> {
        if !self.wanting.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let wants = |partition: &u32| self.with(*partition, Holding::wants_build) == Some(true);
        self.partitions().filter(wants).collect()
    }

    /// Some partition wants a scan still.
    pub(super) fn want_again(&self) {
        self.wanting.store(true, Ordering::Release);
    }

    /// Begins to build the tree of `partition` anew.
    pub(super) fn begin(&self, partition: u32) {
        if let Some(mut holding) = self.lock(partition) {
            holding.begin(0);
        }
    }

    /// Reads the next page of a build, about `page_bytes`; how it stands, and the bytes that were read.
    ///
    /// # Errors
    /// [`ReadError`]: the page may be tried again.
    pub(super) async fn build_page(
        &self,
        engine: &Engine,
        partition: u32,
        page_bytes: usize,
    ) -> Result<(Progress, usize), ReadError> {
        let begun = self.lock(partition).and_then(|mut holding| {
            let (_, last) = holding.section().tokens();
            Some((holding.page_begins()?, last))
        });
        let Some((from, last)) = begun else { return Ok((Progress::GivenUp, 0)) };
        let entries = engine.scan(from, up_to(last), page_bytes).await?;
        // What a scan finds damaged it leaves out.
        if self.check(engine) {
            return Ok((Progress::GivenUp, 0));
        }
        let size = |(key, object): &(Key, Arc<Object>)| key.size_bytes() + object.size_bytes();
        let bytes = entries.iter().map(size).sum();
        // What was written since the page was read is known already, and newer.
        for (key, object) in entries.iter().filter(|(_, object)| object.spent_at_ms().is_some()) {
            self.note(key, object);
        }
        let digests = entries.into_iter().map(|(key, object)| (key, object.digest()));
        let page: Vec<(Key, u64)> = digests.collect();
        let progress =
            self.lock(partition).map_or(Progress::GivenUp, |mut holding| holding.page_ends(&page));
        Ok((progress, bytes))
    }
}

/// The bound behind all keys of `last`.
pub(in crate::service) fn up_to(last: Token) -> Bound<Key> {
    last.0.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(Key::lowest(Token(next))))
}
