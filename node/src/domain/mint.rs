//! Who mints the dot of a write: DESIGN's rule that no dot is ever used twice, as a machine.
//!
//! An actor is (node id, epoch). Epochs come from a durable counter that is reserved in blocks, so
//! a process never sees an epoch that an earlier process of its folder may have used. Within a key, an
//! actor counts 1, 2, 3, …; two keys may share an actor, since dots belong to their key.
//!
//! A write goes on with the actor that the key's local state knows as this node's latest, unless
//!
//! - there is no state: the key was forgotten, or was never here. What was forgotten may have
//!   had dots (`riak_kv` issue 679);
//! - the actor is of an earlier process, or from before [`Minter::retire`]: the state may lack writes
//!   that were sent to others and then lost here with what was not synced;
//! - the key was forgotten, and a client or another replica who remembered an older time brought the actor back: they may know less
//!   than was minted ([`Minter::is_news_of_itself`] tells; the caller keeps the epoch from which on actors count);
//! - the writer's context knows a dot of the actor that the state doesn't: somebody has seen a
//!   write that is lost here, or the context is forged;
//! - its counter is used up;
//! - so many actors in the state are younger that it may have been [pruned](super::object::pruning) there: what an older copy brings
//!   back of it may be less than was minted. (Pruning keeps the youngest so many, so once it dropped an actor, there are always as
//!   many above it.) And half as many when it is older than what pruning spares, so that a pair's age tells that of its dots.
//!
//! Then the write takes a fresh actor: the next epoch that was not handed out yet.
//!
//! Contexts come from clients and may be forged. An epoch that was not handed out yet is never
//! gone on with, though state or context name it, and never handed out for a key that names it.
//!
//! Invariants: `first_epoch <= next_epoch`, every epoch handed out is reserved, and nothing ever goes
//! back. The caller holds the key's lock from before it reads the state until the state holds the
//! write, and calls [`Minter::retire`] whenever state was lost or given up within this process: a
//! write that did not reach the log, a key or partition that was dropped.

use std::collections::BTreeSet;

use super::causality::{Actor, CausalContext, Dot, NodeId};
use super::object::Object;
use super::object::pruning::{Pruning, rank};

/// Mints dots for one process of one node.
#[derive(Clone, Debug)]
pub struct Minter {
    node: NodeId,
    /// Actors of earlier epochs are not gone on with.
    first_epoch: u64,
    /// Actors of earlier epochs are not gone on with for keys in doubt.
    doubted_before: u64,
    /// The next epoch to hand out.
    next_epoch: u64,
    /// The last epoch that is durably reserved for this process.
    reserved_through: u64,
    pruning: Pruning,
    /// The latest time that it was told, in Unix seconds.
    now_s: u64,
}

/// No reserved epoch is left ([`Minter::left`] is 0 now). Nothing was minted: reserve more epochs,
/// [`Minter::extend`], try again. A context that names many epochs can take more than one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no reserved epoch is left to mint with: reserve more and try again")]
pub struct EpochsExhausted;

impl Minter {
    /// A minter of `node` whose epochs are `first_epoch` to `reserved_through`, both included. No
    /// process of this folder has used any of them, and all are durably reserved.
    pub fn new(node: NodeId, first_epoch: u64, reserved_through: u64) -> Self {
        let (doubted_before, next_epoch) = (first_epoch, first_epoch);
        let (pruning, now_s) = (Pruning::default(), 0);
        Self { node, first_epoch, doubted_before, next_epoch, reserved_through, pruning, now_s }
    }

    /// The same, for objects that are pruned like this.
    pub fn with_pruning(self, pruning: Pruning) -> Self {
        Self { pruning, ..self }
    }

    /// It is `now_s` (Unix seconds): actors that are born from now on say so.
    pub fn at(&mut self, now_s: u64) {
        if now_s > self.now_s {
            self.now_s = now_s;
            // What is passed over is never used, reserved or not.
            self.next_epoch = self.next_epoch.max(Actor::epoch_at(now_s));
        }
    }

    /// The node that mints.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The dot of a write on top of `state` (all that this replica holds of the key) by a writer
    /// who has seen `seen`. Neither of them knows the dot.
    ///
    /// # Errors
    /// [`EpochsExhausted`] when the write takes a fresh actor and no reserved epoch is left.
    pub fn mint(
        &mut self,
        state: Option<&Object>,
        seen: &CausalContext,
    ) -> Result<Dot, EpochsExhausted> {
        let none = CausalContext::new();
        let known = state.map_or(&none, Object::context);
        let dot = match self.next_of_own_actor(known, seen) {
            Some(dot) => dot,
            None => Dot { actor: self.fresh_actor(known, seen)?, counter: 1 },
        };
        assert!(!known.contains(dot), "{dot:?} is known to the state: {known:?}");
        assert!(!seen.contains(dot), "{dot:?} is known to the writer: {seen:?}");
        Ok(dot)
    }

    /// As [`mint`](Self::mint), for a key whose state may lack dots of any actor of an epoch before `since`, so that none of
    /// them is gone on with.
    ///
    /// # Errors
    /// [`EpochsExhausted`], as for `mint`.
    pub fn mint_since(
        &mut self,
        since: u64,
        state: Option<&Object>,
        seen: &CausalContext,
    ) -> Result<Dot, EpochsExhausted> {
        let first_epoch = self.first_epoch;
        self.first_epoch = first_epoch.max(since);
        let minted = self.mint(state, seen);
        self.first_epoch = first_epoch;
        minted
    }

    /// State was lost, of keys that are known to be in doubt from now on.
    pub fn doubt(&mut self) {
        self.doubted_before = self.next_epoch;
    }

    /// A state in doubt may lack dots of any actor of an earlier epoch.
    pub fn doubted_before(&self) -> u64 {
        self.doubted_before
    }

    /// No actor of this epoch or a later one was handed out yet.
    pub fn next_epoch(&self) -> u64 {
        self.next_epoch
    }

    /// True when a key that held `before`, and holds `after` now without a dot being minted, learned by that of dots of its own actors,
    /// which it could go on with. All that was minted here was in the state at once, so the key was forgotten in between (or
    /// the dots are forged), and there may be more of them than those who remember know.
    pub fn is_news_of_itself(&self, before: Option<&Object>, after: &Object) -> bool {
        self.own_last(after) > before.and_then(|object| self.own_last(object))
    }

    /// Goes on with no actor that was handed out before the last [`doubt`](Self::doubt): call it when keys leave
    /// doubt, since from then on nothing tells them from others.
    pub fn retire_doubted(&mut self) {
        self.first_epoch = self.first_epoch.max(self.doubted_before);
    }

    /// Goes on with no actor that was handed out so far: call it when local state was lost or given
    /// up, such as after a failure of the log.
    pub fn retire(&mut self) {
        self.first_epoch = self.next_epoch;
    }

    /// Says that epochs through `reserved_through` are durably reserved now.
    pub fn extend(&mut self, reserved_through: u64) {
        self.reserved_through = self.reserved_through.max(reserved_through);
    }

    /// Reserved epochs that were not handed out yet.
    pub fn left(&self) -> u64 {
        // The very last epoch there is is never used: none would be next.
        self.reserved_through.saturating_add(1).saturating_sub(self.next_epoch)
    }

    /// The last dot of the latest actor of this process that `object` knows.
    fn own_last(&self, object: &Object) -> Option<(Actor, u64)> {
        let actor = self.latest_own_actor(object.context())?;
        Some((actor, object.context().highest(actor)))
    }

    fn latest_own_actor(&self, known: &CausalContext) -> Option<Actor> {
        let handed_out = self.first_epoch..self.next_epoch;
        known.actors_of(self.node).filter(|actor| handed_out.contains(&actor.epoch)).max()
    }

    /// The next dot of the latest actor of this process that `known` knows, if it can be gone on with.
    fn next_of_own_actor(&self, known: &CausalContext, seen: &CausalContext) -> Option<Dot> {
        let actor = self.latest_own_actor(known).filter(|&a| known.covers_actor(seen, a))?;
        if known.len() >= self.pruning.actors_max / 2 && !self.is_sure(known, actor) {
            return None;
        }
        Some(Dot { actor, counter: known.highest(actor).checked_add(1)? })
    }

    /// Nothing of `actor` was ever pruned from what became `known`, and its dots are about as young as it is.
    fn is_sure(&self, known: &CausalContext, actor: Actor) -> bool {
        let younger = known.actors().filter(|other| rank(*other) > rank(actor));
        let younger = younger.collect::<BTreeSet<Actor>>().len();
        let old = actor.born_s().saturating_add(self.pruning.age_s) <= self.now_s;
        younger < self.pruning.actors_max && !(old && younger >= self.pruning.actors_max / 2)
    }

    /// Hands out the next epoch that neither context names: they name finitely many.
    fn fresh_actor(
        &mut self,
        known: &CausalContext,
        seen: &CausalContext,
    ) -> Result<Actor, EpochsExhausted> {
        let named = known.actors_of(self.node).chain(seen.actors_of(self.node));
        let named: BTreeSet<u64> = named.map(|actor| actor.epoch).collect();
        // What is passed over stays unused even if none is left then: a caller who reserves more
        // when few are left must see that none are.
        while named.contains(&self.next_epoch) && self.left() > 0 {
            self.next_epoch += 1;
        }
        if self.left() == 0 {
            return Err(EpochsExhausted);
        }
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        Ok(Actor { node: self.node, epoch })
    }
}

#[cfg(test)]
mod tests;
