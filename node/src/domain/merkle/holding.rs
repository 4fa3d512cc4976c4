//! The tree of one partition as a replica holds it: not there yet, being built, or ready; with what was
//! written a moment ago.
//!
//! A tree is built by a scan, in key order, while writes go on. What a scan reads and what writes change must each
//! count once, whichever comes first:
//!
//! ```text
//!            cursor         page that is being read          not read yet
//!  ─────────────┼────────────────────┼───────────────────────────────▶ keys
//!  old out, new in    what is written meanwhile       the scan will see it
//!                     wins over what was read
//! ```
//!
//! That is sound as long as a write and its [`change`](Holding::change) are one step to whoever begins or ends a
//! page: the caller holds this holding's lock over both. A key of the page is then either written before the page
//! ends, and its last digest noted, or after, when the tree holds what was read, which was there until then.
//!
//! A tree that has become too small for its keys stays in use while a deeper one is built beside it.
//!
//! Recent writes: the last [`RECENT_MAX`] keys that were written within [`RECENT`], since they may be under way to
//! other replicas. More writes than that in so short a time push the oldest out, and an exchange may send such
//! an object twice.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::ops::Bound;
use std::time::Duration;

use super::tree::Tree;
use super::{Section, digest_of, mix, name_of};
use crate::domain::key::Key;
use crate::runtime::time::Instant;

/// A write may be under way to the other replicas for so long.
pub const RECENT: Duration = Duration::from_secs(2);

/// Keys of one partition that are remembered as recent: 16 bytes each.
pub const RECENT_MAX: usize = 64;

/// Keys written while one page is read; with more the page is read again.
const NOTED_MAX: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct Holding {
    section: Section,
    tree: Option<Tree>,
    /// Boxed, so that what each write changes lies close together.
    building: Option<Box<Building>>,
    /// A scan is wanted whatever the tree is like.
    rescan: bool,
    recent: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Debug)]
struct Building {
    tree: Tree,
    /// The last key that the tree has seen.
    cursor: Option<Key>,
    /// While a page is read: what was written behind the cursor.
    noted: Option<BTreeMap<Key, Option<u64>>>,
    overflowed: bool,
}

/// How a build stands after a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    Reading,
    /// The tree is ready.
    Ready,
    /// The build was given up meanwhile.
    GivenUp,
}

impl Holding {
    /// Of a partition about which nothing is known yet.
    pub fn new(section: Section) -> Self {
        Self { section, tree: None, building: None, rescan: false, recent: VecDeque::new() }
    }

    /// Of a partition without keys.
    pub fn empty(section: Section) -> Self {
        Self { tree: Some(Tree::for_keys(0)), ..Self::new(section) }
    }

    /// The partition's tokens.
    pub fn section(&self) -> &Section {
        &self.section
    }

    /// The tree, when it can be relied on.
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    /// True when a scan is needed: there is no tree, it is too small, or somebody [wants one](Self::want_rescan).
    pub fn wants_build(&self) -> bool {
        self.rescan || self.tree.as_ref().is_none_or(Tree::is_too_small)
    }

    /// Somebody wants to see all keys of it again. The tree stays in use meanwhile.
    pub fn want_rescan(&mut self) {
        self.rescan = true;
    }

    /// A write has replaced the object of digest `old` (`None`: there was none) by one of `new` (`None`: the key was
    /// removed). `recent_at`: when, if the write may be under way to other replicas.
    pub fn change(
        &mut self,
        key: &Key,
        (old, new): (Option<u64>, Option<u64>),
        recent_at: Option<Instant>,
    ) {
        let leaf = self.fetch(key);
        let name = name_of(key);
        let old = old.map(|digest| mix(name, digest));
        let new = new.map(|digest| mix(name, digest));
        if let Some(tree) = &mut self.tree {
            tree.change(leaf, old, new);
        }
        if let Some(building) = &mut self.building {
            building.change(&self.section, key, old, new);
        }
        if let Some(now) = recent_at {
            self.forget(now);
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back((now, name));
        }
    }

    /// The leaf of `key` in the tree. It is read here, and what a recent write is noted over: of a few hundred trees they are seldom in
    /// the processor's cache, and arrive while digests are computed.
    fn fetch(&self, key: &Key) -> u32 {
        let Some(tree) = &self.tree else { return 0 };
        let leaf = self.section.node_of(key.token(), tree.bits());
        black_box((tree.leaf(leaf), self.recent.front().copied()));
        leaf
    }

    /// True when `key` was written a moment ago.
    pub fn is_recent(&self, now: Instant, key: &Key) -> bool {
        let name = name_of(key);
        let mut young = self.recent.iter().filter(|(at, _)| now.since(*at) < RECENT);
        young.any(|(_, recent)| *recent == name)
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.since(*at) >= RECENT) {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent.shrink_to_fit();
        }
    }

    /// The data changed past the writes: neither the tree nor what is built can be relied on.
    pub fn distrust(&mut self) {
        (self.tree, self.building) = (None, None);
    }

    /// Begins to build a tree for about `keys` keys, from the first one.
    pub fn begin(&mut self, keys: u64) {
        let known = self.tree.as_ref().map_or(0, Tree::keys);
        let tree = Tree::for_keys(known.max(keys));
        self.rescan = false;
        let building = Building { tree, cursor: None, noted: None, overflowed: false };
        self.building = Some(Box::new(building));
    }

    /// A page is about to be read from here on; `None`: nothing is being built.
    pub fn page_begins(&mut self) -> Option<Bound<Key>> {
        let building = self.building.as_mut()?;
        (building.noted, building.overflowed) = (Some(BTreeMap::new()), false);
        let (first, _) = self.section.tokens();
        Some(building.cursor.clone().map_or(Bound::Included(Key::lowest(first)), Bound::Excluded))
    }

    /// The page was read: these are its keys with their objects' digests, in order; none: that was the end.
    pub fn page_ends(&mut self, entries: &[(Key, u64)]) -> Progress {
        let Some(building) = &mut self.building else { return Progress::GivenUp };
        let Some(mut noted) = building.noted.take() else { return Progress::GivenUp };
        if building.overflowed {
            return Progress::Reading;
        }
        let last = entries.last().map(|(key, _)| key);
        let digests = entries.iter().map(|(key, object)| (key, digest_of(key, *object)));
        let digests = digests.map(|(key, digest)| (key, Some(digest)));
        let mut page: BTreeMap<&Key, Option<u64>> = digests.collect();
        if let Some(last) = last {
            noted.retain(|key, _| key <= last);
        }
        page.extend(noted.iter().map(|(key, digest)| (key, *digest)));
        for (key, digest) in page {
            let leaf = self.section.node_of(key.token(), building.tree.bits());
            building.tree.change(leaf, None, digest);
        }
        if let Some(last) = last {
            building.cursor = Some(last.clone());
            return Progress::Reading;
        }
        let built = self.building.take();
        self.tree = built.map(|built| built.tree);
        Progress::Ready
    }
}

impl Building {
    fn change(&mut self, section: &Section, key: &Key, old: Option<u64>, new: Option<u64>) {
        if self.cursor.as_ref().is_some_and(|cursor| key <= cursor) {
            let leaf = section.node_of(key.token(), self.tree.bits());
            self.tree.change(leaf, old, new);
        } else if let Some(noted) = &mut self.noted {
            if noted.len() < NOTED_MAX {
                noted.insert(key.clone(), new);
            } else {
                self.overflowed = true;
            }
        }
    }
}
