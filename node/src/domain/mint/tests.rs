//! No dot twice, whatever is lost and whatever clients forge; and fresh actors only where they must be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::object::{Content, Sibling};

const NODE: NodeId = NodeId(7);

fn actor(epoch: u64) -> Actor {
    Actor { node: NODE, epoch }
}

fn dot(epoch: u64, counter: u64) -> Dot {
    Dot { actor: actor(epoch), counter }
}

fn context(dots: &[Dot]) -> CausalContext {
    dots.iter().copied().collect()
}

/// An object that saw these dots, the last of them live.
fn object(dots: &[Dot]) -> Object {
    let mut object = Object::new();
    for &dot in dots {
        let seen = object.context().clone();
        object.write(&seen, tombstone(dot));
    }
    object
}

fn tombstone(dot: Dot) -> Sibling {
    Sibling { dot, content: Content::Tombstone, written_at_ms: 0, expires_at_ms: None }
}

#[test]
fn a_fresh_actor_is_taken_only_where_it_must_be() {
    // This process has handed out epochs 10, 11 and 12.
    let mut minter = Minter::new(NODE, 10, 19);
    for epoch in 10..=12 {
        assert_eq!(minter.mint(None, &CausalContext::new()), Ok(dot(epoch, 1)));
    }
    let none = CausalContext::new();
    let gap = object(&[dot(10, 1), dot(10, 4)]);
    let last = object(&[dot(10, u64::MAX)]);
    let other = Dot { actor: Actor { node: NodeId(8), epoch: 11 }, counter: 3 };
    let rows = [
        ("no state", None, none.clone(), dot(13, 1)),
        ("its own actor", Some(object(&[dot(10, 1)])), none.clone(), dot(10, 2)),
        ("the latest of two", Some(object(&[dot(10, 1), dot(12, 1)])), none.clone(), dot(12, 2)),
        ("above a gap", Some(gap), none.clone(), dot(10, 5)),
        ("of an earlier process", Some(object(&[dot(9, 5)])), none.clone(), dot(13, 1)),
        ("of another node", Some(object(&[other])), none.clone(), dot(13, 1)),
        ("counter used up", Some(last), none.clone(), dot(13, 1)),
        ("never handed out", Some(object(&[dot(15, 1)])), none.clone(), dot(13, 1)),
        ("next one is named", Some(object(&[dot(13, 1)])), none, dot(14, 1)),
        ("all seen is known", Some(object(&[dot(10, 1)])), context(&[dot(10, 1)]), dot(10, 2)),
        ("seen: lost here", Some(object(&[dot(10, 1)])), context(&[dot(10, 2)]), dot(13, 1)),
        ("seen: a named epoch", None, context(&[dot(13, 9), dot(14, 1)]), dot(15, 1)),
        ("seen: another actor", Some(object(&[dot(10, 1)])), context(&[dot(11, 9)]), dot(10, 2)),
    ];
    for (case, state, seen, expected) in rows {
        let minted = minter.clone().mint(state.as_ref(), &seen);
        assert_eq!(minted, Ok(expected), "{case}");
    }
    minter.retire();
    let own = object(&[dot(12, 1)]);
    assert_eq!(minter.mint(Some(&own), &CausalContext::new()), Ok(dot(13, 1)), "retired");
}

#[test]
fn without_epochs_nothing_is_minted_until_more_are_reserved() {
    let none = CausalContext::new();
    let mut minter = Minter::new(NODE, 5, 6);
    assert_eq!(minter.left(), 2);
    assert_eq!(minter.mint(None, &none), Ok(dot(5, 1)));
    assert_eq!(minter.mint(None, &none), Ok(dot(6, 1)));
    assert_eq!(minter.left(), 0);
    let own = object(&[dot(6, 1)]);
    assert_eq!(minter.mint(Some(&own), &none), Ok(dot(6, 2)), "no epoch is needed");
    minter.extend(4);
    assert_eq!(minter.mint(None, &none), Err(EpochsExhausted));
    minter.extend(8);
    assert_eq!(minter.left(), 2);
    // A refusal leaves none, though it handed none out: the caller sees that it must reserve more.
    let named = context(&[dot(7, 1), dot(8, 1), dot(9, 1)]);
    assert_eq!(minter.mint(None, &named), Err(EpochsExhausted));
    assert_eq!(minter.left(), 0);
    minter.extend(10);
    assert_eq!(minter.mint(None, &named), Ok(dot(10, 1)));
}

#[test]
fn the_end_of_all_epochs_is_refused() {
    let mut minter = Minter::new(NODE, u64::MAX - 1, u64::MAX);
    let none = CausalContext::new();
    assert_eq!(minter.mint(None, &none), Ok(dot(u64::MAX - 1, 1)));
    assert!(minter.mint(None, &none).is_err());
    let mut minter = Minter::new(NODE, u64::MAX - 1, u64::MAX);
    let named = context(&[dot(u64::MAX - 1, 1), dot(u64::MAX, 1)]);
    assert!(minter.mint(None, &named).is_err());
}

/// What happens to one key at one replica.
#[derive(Clone, Debug)]
enum Step {
    /// A write by a client who holds one of the contexts so far, or a forged one.
    Write {
        held: prop::sample::Index,
        forged: Vec<Dot>,
    },
    /// A write of another key takes an epoch.
    OtherKey,
    /// The state, written or not, goes to the others, who merge what they got.
    Send,
    /// What the others hold comes back.
    Receive,
    /// A write that the others got, but not the log.
    FailedLog,
    /// Others write, each as an actor of its own, and it is heard of or not.
    Crowd(u8, bool),
    /// One who was away brings what it was sent once.
    Return(prop::sample::Index),
    Sync,
    Crash,
    Forget,
}

/// Any age is enough.
const PRUNING: Pruning = Pruning { actors_max: 3, age_s: 0 };

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the epochs that are handed out, and at the ends.
    let epoch = prop_oneof![8 => 1..40u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)];
    let counter = prop_oneof![8 => 1..5u64, 1 => Just(u64::MAX)];
    let forged = (epoch, counter).prop_map(|(epoch, counter)| dot(epoch, counter));
    let forged = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(forged, 1..8)];
    let write = (any::<prop::sample::Index>(), forged)
        .prop_map(|(held, forged)| Step::Write { held, forged });
    let step = prop_oneof![
        8 => write,
        1 => Just(Step::OtherKey),
        3 => Just(Step::Send),
        2 => Just(Step::Receive),
        1 => Just(Step::FailedLog),
        2 => any::<prop::sample::Index>().prop_map(Step::Return),
        2 => (1..5_u8, any::<bool>()).prop_map(|(many, heard)| Step::Crowd(many, heard)),
        2 => Just(Step::Sync),
        1 => Just(Step::Crash),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..60)
}

/// One replica of one key, its disk, and the other replicas taken as one.
struct Key {
    minter: Minter,
    reserved_through: u64,
    state: Option<Object>,
    on_disk: Option<Object>,
    others: Object,
    handed: Vec<CausalContext>,
    used: BTreeSet<Dot>,
    /// All that was ever sent.
    sent: Vec<Object>,
    /// Actors of others so far.
    crowd: u64,
}

impl Key {
    fn new() -> Self {
        Self {
            minter: Minter::new(NODE, 1, 4).with_pruning(PRUNING),
            reserved_through: 4,
            state: None,
            on_disk: None,
            others: Object::new(),
            handed: vec![CausalContext::new()],
            used: BTreeSet::new(),
            sent: vec![Object::new()],
            crowd: 0,
        }
    }

    fn mint(&mut self, state: Option<&Object>, seen: &CausalContext) -> Dot {
        loop {
            match self.minter.mint(state, seen) {
                Ok(dot) => return dot,
                Err(EpochsExhausted) => {
                    assert_eq!(self.minter.left(), 0);
                    self.reserved_through += 4;
                    self.minter.extend(self.reserved_through);
                }
            }
        }
    }

    /// The state with one more write.
    fn written(&mut self, seen: &CausalContext) -> Object {
        let state = self.state.clone();
        let dot = self.mint(state.as_ref(), seen);
        assert!(self.used.insert(dot), "{dot:?} was minted twice");
        assert!(dot.actor.epoch <= self.reserved_through, "{dot:?} is not reserved");
        let mut object = state.unwrap_or_default();
        self.handed.push(object.write(seen, tombstone(dot)));
        object.prune(PRUNING);
        object
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { held, forged } => {
                let mut seen = held.get(&self.handed).clone();
                seen.join(&context(&forged));
                self.state = Some(self.written(&seen));
            }
            Step::OtherKey => {
                self.mint(None, &CausalContext::new());
            }
            Step::Send => {
                let state = self.state.clone().unwrap_or_default();
                self.others.merge(&state);
                self.sent.push(state);
            }
            Step::Return(which) => {
                let old = which.get(&self.sent).clone();
                let state = self.state.get_or_insert_default();
                state.merge(&old);
                state.prune(PRUNING);
            }
            Step::Receive => {
                let state = self.state.get_or_insert_default();
                state.merge(&self.others);
                state.prune(PRUNING);
            }
            Step::Crowd(many, heard) => {
                for _ in 0..many {
                    self.crowd += 1;
                    // Of epochs like those of this node, at the side of what is there.
                    let epoch = 1 + self.crowd % 40;
                    let actor = Actor { node: NodeId(8 + self.crowd), epoch };
                    let seen = self.others.context().clone();
                    self.others.write(&seen, tombstone(Dot { actor, counter: 1 }));
                }
                if heard {
                    self.step(Step::Receive);
                }
            }
            Step::FailedLog => {
                let seen = self.handed.last().cloned().unwrap_or_default();
                let lost = self.written(&seen);
                self.others.merge(&lost);
                self.minter.retire();
            }
            Step::Sync => self.on_disk.clone_from(&self.state),
            Step::Crash => {
                let first = self.reserved_through + 1;
                self.reserved_through += 4;
                self.minter = Minter::new(NODE, first, self.reserved_through).with_pruning(PRUNING);
                self.state.clone_from(&self.on_disk);
            }
            Step::Forget => {
                // By proof: nobody holds it any more.
                self.minter.retire();
                self.state = None;
                self.on_disk = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_dot_is_minted_twice(steps in steps()) {
        let mut key = Key::new();
        for step in steps {
            key.step(step);
        }
    }
}

/// What pruning dropped and an older copy brings back in part is not gone on with.
#[test]
fn an_actor_that_may_have_been_pruned_is_left() {
    let none = CausalContext::new();
    let mut minter = Minter::new(NODE, 10, 19).with_pruning(PRUNING);
    assert_eq!(minter.mint(None, &none), Ok(dot(10, 1)));
    let old = object(&[dot(10, 1)]);
    assert_eq!(minter.mint(Some(&old), &none), Ok(dot(10, 2)));
    let mut state = object(&[dot(10, 1), dot(10, 2)]);
    for node in 8..12 {
        let other = Dot { actor: Actor { node: NodeId(node), epoch: 11 }, counter: 1 };
        let seen = state.context().clone();
        state.write(&seen, tombstone(other));
    }
    assert!(state.prune(PRUNING).len() == 1 && state.context().counter(actor(10)) == 0);
    state.merge(&old);
    assert_eq!(state.context().counter(actor(10)), 1, "the older copy knows less");
    assert_eq!(minter.mint(Some(&state), &none), Ok(dot(11, 1)));
}

#[test]
fn actors_are_born_when_they_say_and_old_ones_rest_before_they_are_many() {
    let pruning = Pruning { actors_max: 4, age_s: 100 };
    let first = Actor::epoch_at(1000);
    let mut minter = Minter::new(NODE, first, u64::MAX).with_pruning(pruning);
    minter.at(1000);
    let none = CausalContext::new();
    let own = minter.mint(None, &none).unwrap();
    assert_eq!(own.actor.born_s(), 1000);
    // A clock that is set back changes nothing.
    minter.at(1200);
    minter.at(900);
    let mut state = object(&[own]);
    assert_eq!(minter.mint(Some(&state), &none).unwrap().actor, own.actor, "few are known");
    for node in 8..10 {
        let actor = Actor { node: NodeId(node), epoch: Actor::epoch_at(1100) };
        state.write(&none, tombstone(Dot { actor, counter: 1 }));
    }
    let next = minter.mint(Some(&state), &none).unwrap();
    assert_eq!((next.actor.born_s(), next.counter), (1200, 1));
}
