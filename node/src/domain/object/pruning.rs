//! Contexts that stay short although actors come and go.
//!
//! Every process of a node, and every write that a fallback coordinates, brings an actor, and the context of a key that lives for
//! years would name them all. So what an object knows of its oldest actors is dropped, as Dynamo (DeCandia et al., 2007, 4.4) and Riak
//! do, past so many actors and never of
//!
//! - an actor with a live sibling;
//! - an actor that was born less than a day ([`Pruning::age_s`]) before the newest sibling was written. An actor is born with its
//!   epoch ([`Actor::born_s`]).
//!
//! ```text
//! actors without a live sibling, by epoch:   n n n n … n  │  o o o       n: the newest 50, kept
//!                                                         └─ dropped, if old enough
//! ```
//!
//! What is dropped follows from the object alone, by an order that all replicas share. The newest so many of a union are
//! the newest so many of the newest of each part, so replicas that exchange what they hold still become equal.
//!
//! **What it costs.** A sibling that was replaced, of an actor that was dropped, is taken for news when a replica that was away for
//! longer than that brings it: it stands beside its successor again, a *false sibling*, until somebody resolves them. No write is
//! ever lost: less is known, so less is superseded. Nor is a dot minted twice: [`mint`](crate::domain::mint) goes on with an actor only
//! if it cannot have been dropped.

use super::Object;
use crate::domain::causality::{Actor, NodeId};

/// When actors are dropped. The same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Pruning {
    /// Actors without a live sibling that are never dropped: the newest so many.
    pub actors_max: usize,
    /// Nor are those that are younger than this, in seconds.
    pub age_s: u64,
}

impl Default for Pruning {
    fn default() -> Self {
        Self { actors_max: 50, age_s: 86_400 }
    }
}

/// What the order of actors goes by: oldest first.
pub fn rank(actor: Actor) -> (u64, NodeId) {
    (actor.epoch, actor.node)
}

impl Object {
    /// Drops what it knows of its oldest actors, and returns them.
    pub fn prune(&mut self, pruning: Pruning) -> Vec<Actor> {
        if !self.may_be_pruned(pruning) {
            return Vec::new();
        }
        let is_live = |actor: Actor| self.siblings.iter().any(|sibling| sibling.dot.actor == actor);
        let mut actors: Vec<Actor> = self.context.actors().filter(|a| !is_live(*a)).collect();
        actors.sort_unstable_by_key(|actor| std::cmp::Reverse(rank(*actor)));
        actors.dedup();
        let newest_s = self.newest_ms() / 1000;
        let is_old = |actor: &Actor| actor.born_s().saturating_add(pruning.age_s) <= newest_s;
        let past = actors.get(pruning.actors_max..).unwrap_or_default();
        // Sorted by age, so all behind the first old one are old.
        let old = past.iter().position(is_old).map_or(Vec::new(), |at| past[at..].to_vec());
        if !old.is_empty() {
            self.context.drop_actors(|actor| old.contains(&actor));
        }
        old
    }

    /// False: it has so few actors that [`prune`](Self::prune) drops none. The common case, which costs one comparison.
    pub fn may_be_pruned(&self, pruning: Pruning) -> bool {
        self.context.len() > pruning.actors_max
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::super::causality::{CausalContext, Dot};
    use super::super::{Content, Sibling};
    use super::*;

    const FEW: Pruning = Pruning { actors_max: 2, age_s: 10 };

    fn actor(node: u64, born_s: u64) -> Actor {
        Actor { node: NodeId(node), epoch: Actor::epoch_at(born_s) }
    }

    fn write(object: &mut Object, seen: &CausalContext, dot: Dot, at_s: u64) -> CausalContext {
        let content = Content::Value(format!("{dot:?}").into());
        let new = Sibling { dot, content, written_at_ms: at_s * 1000, expires_at_ms: None };
        object.write(seen, new)
    }

    /// An object of one write each of actors that were born then; each replaced all before it.
    fn chain(born_s: &[u64]) -> Object {
        let mut object = Object::new();
        for (node, born_s) in born_s.iter().enumerate() {
            let seen = object.context().clone();
            let dot = Dot { actor: actor(node as u64, *born_s), counter: 1 };
            write(&mut object, &seen, dot, *born_s);
        }
        object
    }

    fn born(object: &Object) -> Vec<u64> {
        let mut born: Vec<u64> = object.context().actors().map(Actor::born_s).collect();
        born.sort_unstable();
        born
    }

    #[test]
    fn the_oldest_go_but_none_that_is_young_or_alive() {
        let rows: [(&[u64], &[u64]); 5] = [
            (&[1, 2, 100], &[1, 2, 100]),
            (&[1, 2, 3, 100], &[2, 3, 100]),
            // Ten seconds old to the second.
            (&[1, 90, 91, 92, 100], &[91, 92, 100]),
            (&[1, 91, 92, 93, 100], &[91, 92, 93, 100]),
            (&[89, 91, 92, 93, 94, 100], &[91, 92, 93, 94, 100]),
        ];
        for (held, left) in rows {
            let mut object = chain(held);
            let dropped = object.prune(FEW).len();
            assert_eq!(
                (born(&object), dropped),
                (left.to_vec(), held.len() - left.len()),
                "{held:?}"
            );
            assert_eq!(object.prune(FEW), [], "{held:?}: once is enough");
        }
        // The oldest of all is alive.
        let mut object = Object::new();
        let mut seen = CausalContext::new();
        write(&mut object, &seen, Dot { actor: actor(9, 1), counter: 1 }, 1);
        for born_s in 2..=6 {
            seen = write(&mut object, &seen, Dot { actor: actor(1, born_s), counter: 1 }, 100);
        }
        assert_eq!(object.prune(FEW).len(), 2);
        assert_eq!((born(&object), object.siblings().len()), (vec![1, 4, 5, 6], 2));
    }

    /// (replica, 0: a write with the last token it gave, 1: a blind one, else: exchange with, seconds that pass, new actor)
    type Move = (usize, usize, usize, u64, bool);

    /// Three replicas of one key, and the truth.
    #[derive(Default)]
    struct World {
        held: [Object; 3],
        tokens: [CausalContext; 3],
        actors: [u64; 3],
        counters: BTreeMap<Actor, u64>,
        now_s: u64,
        /// What each write replaced, and all that this had replaced.
        past: BTreeMap<Dot, BTreeSet<Dot>>,
        /// What each token stands for, whatever was pruned of it.
        seen: [BTreeSet<Dot>; 3],
    }

    impl World {
        fn step(&mut self, (at, what, other, passes_s, new): Move, pruning: Pruning) {
            self.now_s += passes_s;
            if new || self.actors[at] == 0 {
                self.actors[at] = self.now_s;
            }
            if what > 1 {
                let from = self.held[other].clone();
                self.held[at].merge(&from);
                self.held[at].prune(pruning);
                // Its next client reads.
                self.tokens[at] = self.held[at].context().clone();
                let shown = self.held[at].siblings().iter().map(|sibling| sibling.dot);
                self.seen[at] = shown.flat_map(|dot| self.past_of(dot)).collect();
                return;
            }
            let actor = actor(at as u64, self.actors[at]);
            let counter = self.counters.entry(actor).or_default();
            *counter += 1;
            let dot = Dot { actor, counter: *counter };
            let (seen, past) = match what {
                0 => (self.tokens[at].clone(), self.seen[at].clone()),
                _ => (CausalContext::new(), BTreeSet::new()),
            };
            self.past.insert(dot, past);
            self.tokens[at] = write(&mut self.held[at], &seen, dot, self.now_s);
            self.seen[at] = self.past_of(dot);
            self.held[at].prune(pruning);
        }

        fn past_of(&self, dot: Dot) -> BTreeSet<Dot> {
            let mut all = self.past[&dot].clone();
            all.insert(dot);
            all
        }
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let step = (0..3_usize, 0..4_usize, 0..3_usize, 0..8_u64, any::<bool>());
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_write_is_lost_and_replicas_become_equal(moves in moves(), actors_max in 1..4_usize) {
            let pruning = Pruning { actors_max, age_s: 6 };
            let mut world = World { now_s: 1000, ..World::default() };
            for step in moves {
                // An actor of a pair goes on only if it cannot have been dropped.
                let (at, now) = (step.0, world.actors[step.0]);
                let known = world.held[at].context();
                let above = known.actors().filter(|a| rank(*a) > rank(actor(at as u64, now)));
                let dropped = above.collect::<BTreeSet<_>>().len() >= actors_max;
                world.step((step.0, step.1, step.2, step.3 + u64::from(dropped), step.4 || dropped), pruning);
            }
            // Everybody hears of everything, twice.
            for _ in 0..2 {
                for (at, other) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2), (2, 0)] {
                    let from = world.held[other].clone();
                    world.held[at].merge(&from);
                    world.held[at].prune(pruning);
                }
            }
            prop_assert_eq!(&world.held[0], &world.held[1]);
            prop_assert_eq!(&world.held[0], &world.held[2]);
            // A write that is not shown was replaced by one that a client wrote after seeing it.
            let shown: BTreeSet<Dot> = world.held[0].siblings().iter().map(|s| s.dot).collect();
            for write in world.past.keys() {
                let replaced = world.past.values().any(|past| past.contains(write));
                prop_assert!(shown.contains(write) || replaced, "{:?} is lost: {:?}", write, world.held[0]);
            }
        }
    }
}
