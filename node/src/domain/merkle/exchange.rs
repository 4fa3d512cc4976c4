//! The asking side of an exchange about one partition whose roots differ.
//!
//! ```text
//! roots differ ──► nodes, level by level ──► regions of leaves that differ
//!      for each region, in order:  list own keys ──► keys? ──► merge what is new here
//!                                      ▲                └────► objects: newer here are put, newer there are got
//!                                      └── the rest of the region, where an answer stopped early
//! ```
//!
//! An object is sent in one direction only: the answer to a key list says what the other side's object has seen, so
//! the side that has seen more sends. Only where each has seen something that the other has not is it sent, and
//! the merge sent back.
//!
//! Writes of a moment ago are left out, on both sides: they are under way. Not so in a [thorough](Exchange::begin)
//! exchange, after which a copy that was in doubt is to be trusted: it ends only when all that the other side held
//! at its beginning is here.
//!
//! A copy in doubt sends nothing; what the other side has not seen of it is [settled](super::vouching).
//!
//! Invariants: each question is about keys behind those of the one before, so an exchange ends; what is kept in
//! memory is one key list and the objects on it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Section;
use super::answering::Held;
use super::message::{
    Answer, Ask, HASHES_MAX, KEYS_MAX, KeysAnswer, OBJECTS_BYTES, Region, SPANS_MAX, Verdict,
};
use super::tree::{LEVEL_STEP, Tree};
use crate::domain::key::Key;
use crate::domain::object::Object;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the other side, and give the answer to [`Exchange::answered`].
    Ask(Ask),
    /// Read own entries of this region, and give them to [`Exchange::listed`].
    List(Region),
    /// Merge these, durably, then go on.
    Merge(Vec<(Key, Arc<Object>)>),
    /// The other side has not seen all of these, and this copy is in doubt: [settle](super::vouching::settle) them, then go on.
    Settle(Vec<Key>),
    /// It is over: both hold the same, but for what was left out.
    Done,
}

/// What an exchange did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects sent to the other side.
    pub sent: u64,
    /// Objects that came from it.
    pub received: u64,
    /// Questions asked.
    pub asks: u64,
    /// Keys left out because they were written a moment ago.
    pub left_out: u64,
}

/// The other side answered something else than it was asked, or its tree is gone. The exchange is over; another one may
/// do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// One of the two trees is not there or not so deep any more.
    #[error("a tree is not ready")]
    NotReady,
    /// The answer is none to that question.
    #[error("the answer is to another question")]
    Strange,
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    partition: u32,
    thorough: bool,
    /// The level of the nodes that are compared in the end.
    depth: u8,
    stage: Stage,
    /// Runs of nodes of `depth` that differ and were not gone through.
    spans: VecDeque<(u32, u32)>,
    /// Behind this key of the first of them.
    after: Option<Key>,
    merge: Vec<(Key, Arc<Object>)>,
    put: VecDeque<(Key, Arc<Object>)>,
    get: VecDeque<Key>,
    settle: Vec<Key>,
    summary: Summary,
}

#[derive(Debug)]
enum Stage {
    /// Nodes of `level` that differ; `asked` are with the other side.
    Nodes { level: u8, differ: VecDeque<u32>, asked: Vec<u32> },
    /// Between two regions.
    Regions,
    /// Own keys are to be listed.
    Listing(Region),
    /// A list is with the other side.
    Keys { region: Region, held: Vec<Held> },
    /// Objects are with the other side, and so many keys.
    Objects { got: usize },
}

impl Exchange {
    /// An exchange about `partition`, whose tree here is `tree` and which there is as `verdict` says; `None`: that
    /// says nothing to go by, or both are equal by now. `thorough`: recent writes are differences too.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn begin(
        partition: u32,
        tree: Option<&Tree>,
        verdict: &Verdict,
        thorough: bool,
    ) -> Result<Option<Self>, Broken> {
        let Verdict::Differs { bits, hashes } = verdict else { return Ok(None) };
        let tree = tree.ok_or(Broken::NotReady)?;
        if hashes.is_empty() {
            return Ok(None);
        }
        // The depth here may have changed since it was asked about: the hashes tell how far they go.
        let level = hashes.len().ilog2() as u8;
        let mine = tree.children(0, 0, level).ok_or(Broken::NotReady)?;
        if mine.len() != hashes.len() {
            return Err(Broken::NotReady);
        }
        let differ = differing(0, &mine, hashes);
        let stage = Stage::Nodes { level, differ: differ.collect(), asked: Vec::new() };
        let depth = tree.depth().min(*bits).max(level);
        let mut exchange = Self {
            partition,
            thorough,
            depth,
            stage,
            spans: VecDeque::new(),
            after: None,
            merge: Vec::new(),
            put: VecDeque::new(),
            get: VecDeque::new(),
            settle: Vec::new(),
            summary: Summary { asks: 1, ..Summary::default() },
        };
        exchange.descend();
        Ok(Some(exchange))
    }

    /// What it did so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// What to do now.
    pub fn step(&mut self) -> Step {
        if !self.merge.is_empty() {
            return Step::Merge(std::mem::take(&mut self.merge));
        }
        if let Some(ask) = self.ask_objects() {
            return self.ask(ask);
        }
        if !self.settle.is_empty() {
            return Step::Settle(std::mem::take(&mut self.settle));
        }
        match &mut self.stage {
            Stage::Nodes { level, differ, asked } => {
                let to = (*level + LEVEL_STEP).min(self.depth);
                let most = HASHES_MAX >> (to - *level);
                *asked = differ.drain(..most.min(differ.len())).collect();
                let ask = Ask::Nodes {
                    partition: self.partition,
                    level: *level,
                    to,
                    parents: asked.clone(),
                };
                self.ask(ask)
            }
            Stage::Listing(region) => Step::List(region.clone()),
            Stage::Keys { region, held } => {
                let entries = held.iter().map(|held| (held.key.clone(), held.object.digest()));
                let ask = Ask::Keys {
                    partition: self.partition,
                    thorough: self.thorough,
                    region: region.clone(),
                    entries: entries.collect(),
                };
                self.ask(ask)
            }
            Stage::Regions | Stage::Objects { .. } => {
                if self.spans.is_empty() {
                    return Step::Done;
                }
                let spans = self.spans.iter().take(SPANS_MAX).copied().collect();
                let after = self.after.clone();
                let region = Region { level: self.depth, spans, after, through: None };
                self.stage = Stage::Listing(region.clone());
                Step::List(region)
            }
        }
    }

    /// Own entries of the region that was to be listed, in order, [`KEYS_MAX`] at the most; `cut`: there is more of it behind the last.
    pub fn listed(&mut self, held: Vec<Held>, cut: bool) {
        let Stage::Listing(region) = &self.stage else { return };
        let mut region = region.clone();
        if cut {
            region.through = held.last().map(|held| held.key.clone());
        }
        self.stage = Stage::Keys { region, held };
    }

    /// The other side's answer. `tree` and `section` are this side's.
    ///
    /// # Errors
    /// [`Broken`]: the exchange is over.
    pub fn answered(
        &mut self,
        section: &Section,
        tree: Option<&Tree>,
        answer: Answer,
    ) -> Result<(), Broken> {
        match answer {
            Answer::Nodes(hashes) => self.compare_nodes(tree.ok_or(Broken::NotReady)?, &hashes),
            Answer::Keys(keys) => self.compare_keys(section, keys),
            Answer::Objects { objects, looked_at, doubtful: _ } => {
                self.take_objects(objects, looked_at)
            }
            Answer::NotReady => Err(Broken::NotReady),
            Answer::Roots(_) => Err(Broken::Strange),
        }
    }

    fn ask(&mut self, ask: Ask) -> Step {
        self.summary.asks += 1;
        Step::Ask(ask)
    }

    /// Once the leaves are reached, nodes that differ are regions to go through.
    fn descend(&mut self) {
        let Stage::Nodes { level, differ, .. } = &self.stage else { return };
        if *level < self.depth && !differ.is_empty() {
            return;
        }
        if *level == self.depth {
            self.spans.extend(runs(differ.iter().copied()));
        }
        self.stage = Stage::Regions;
    }

    fn compare_nodes(&mut self, tree: &Tree, hashes: &[u64]) -> Result<(), Broken> {
        let Stage::Nodes { level, differ, asked } = &mut self.stage else {
            return Err(Broken::Strange);
        };
        let to = (*level + LEVEL_STEP).min(self.depth);
        let width = 1usize << (to - *level);
        if hashes.len() != asked.len() * width {
            return Err(Broken::Strange);
        }
        let mut found = Vec::new();
        for (parent, theirs) in asked.drain(..).zip(hashes.chunks(width)) {
            let mine = tree.children(*level, parent, to).ok_or(Broken::NotReady)?;
            found.extend(differing(parent * width as u32, &mine, theirs));
        }
        // There are two steps at the most, so what was found is always of the last level.
        self.spans.extend(runs(found.into_iter()));
        if differ.is_empty() {
            self.stage = Stage::Regions;
        }
        Ok(())
    }

    fn compare_keys(&mut self, section: &Section, answer: KeysAnswer) -> Result<(), Broken> {
        let Stage::Keys { region, held } = std::mem::replace(&mut self.stage, Stage::Regions)
        else {
            return Err(Broken::Strange);
        };
        let KeysAnswer { fresh, differ, want, stopped_at, left_out } = answer;
        if stopped_at.is_some() && stopped_at <= region.after {
            return Err(Broken::Strange);
        }
        self.summary.received += fresh.len() as u64;
        self.summary.left_out += u64::from(left_out);
        self.merge = fresh;
        for (place, seen) in differ {
            let held = held.get(place as usize).ok_or(Broken::Strange)?;
            if held.recent && !self.thorough {
                self.summary.left_out += 1;
            } else if held.doubtful {
                self.get.push_back(held.key.clone());
                if !seen.covers(held.object.context()) {
                    self.settle.push(held.key.clone());
                }
            } else if seen.covers(held.object.context()) && seen != *held.object.context() {
                self.get.push_back(held.key.clone());
            } else {
                self.put.push_back((held.key.clone(), held.object.clone()));
            }
        }
        for place in want {
            let held = held.get(place as usize).ok_or(Broken::Strange)?;
            if held.recent && !self.thorough {
                self.summary.left_out += 1;
            } else if held.doubtful {
                self.settle.push(held.key.clone());
            } else {
                self.put.push_back((held.key.clone(), held.object.clone()));
            }
        }
        self.go_behind(section, &region, stopped_at.or(region.through.clone()));
        Ok(())
    }

    /// The region is done up to `reached`, or whole.
    fn go_behind(&mut self, section: &Section, region: &Region, reached: Option<Key>) {
        let node = reached.as_ref().map(|key| section.node_of(key.token(), region.level));
        let done = |span: &(u32, u32)| match node {
            None => region.spans.contains(span),
            Some(node) => span.1 < node,
        };
        while self.spans.front().is_some_and(done) {
            self.spans.pop_front();
        }
        self.after = reached;
    }

    /// The next message of objects, if there are any to send or to fetch.
    fn ask_objects(&mut self) -> Option<Ask> {
        if self.put.is_empty() && self.get.is_empty() {
            return None;
        }
        let (mut put, mut bytes) = (Vec::new(), 0);
        while bytes < OBJECTS_BYTES
            && let Some((key, object)) = self.put.pop_front()
        {
            bytes += key.size_bytes() + object.size_bytes();
            put.push((key, object));
        }
        self.summary.sent += put.len() as u64;
        let get: Vec<Key> = self.get.iter().take(KEYS_MAX).cloned().collect();
        self.stage = Stage::Objects { got: get.len() };
        Some(Ask::Objects { partition: self.partition, put, get })
    }

    fn take_objects(
        &mut self,
        objects: Vec<(Key, Arc<Object>)>,
        looked_at: u32,
    ) -> Result<(), Broken> {
        let Stage::Objects { got } = self.stage else { return Err(Broken::Strange) };
        let looked_at = looked_at as usize;
        if looked_at > got || (looked_at == 0 && got > 0) {
            return Err(Broken::Strange);
        }
        self.get.drain(..looked_at);
        self.summary.received += objects.len() as u64;
        self.merge = objects;
        Ok(())
    }
}

/// The numbers, from `first`, of the hashes that differ.
fn differing<'a>(first: u32, mine: &'a [u64], theirs: &'a [u64]) -> impl Iterator<Item = u32> + 'a {
    let pairs = mine.iter().zip(theirs).zip(first..);
    pairs.filter(|((mine, theirs), _)| mine != theirs).map(|(_, node)| node)
}

/// Ascending numbers as runs of neighbours.
fn runs(nodes: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for node in nodes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == node => *last = node,
            Some(_) | None => runs.push((node, node)),
        }
    }
    runs
}
