//! A small world of replicas of one key, run by a list of steps, beside a model that knows nothing of
//! dots: it tracks which writes each replica received, and which writes each writer had seen.
//!
//! After every step the replica that it touched must hold exactly what the model says: the writes it
//! received and no received write covers. That is at once "no value vanishes unless a write
//! covered it" and "what was covered never comes back".

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use crate::domain::causality::{CausalContext, Dot, NodeId};
use crate::domain::mint::{EpochsExhausted, Minter};
use crate::domain::object::{Content, Object, Sibling};

pub(super) const REPLICAS: usize = 3;
const CLIENTS: usize = 3;
/// Few, so that histories run out of epochs and reserve more.
const EPOCHS_A_BLOCK: u64 = 3;

/// The n-th write of the history.
type Write = usize;
type Writes = BTreeSet<Write>;

/// What happens next. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A client reads from a replica and keeps the context.
    Read { client: usize, at: usize },
    /// A client writes through a replica, with the context it holds or with none, and keeps the
    /// one it is handed.
    Write { client: usize, at: usize, blind: bool },
    /// A write reaches another replica, but not the coordinator's log.
    FailedLog { client: usize, at: usize, to: usize },
    /// One replica sends its object to another.
    Send { from: usize, to: usize },
    /// A replica's state is on disk now.
    Sync { at: usize },
    /// A replica's process ends, and starts again with what was on disk.
    Crash { at: usize },
    /// A replica drops the key, on disk too.
    Forget { at: usize },
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || (0..CLIENTS, 0..REPLICAS, 0..REPLICAS);
    let step = prop_oneof![
        6 => (who(), any::<bool>())
            .prop_map(|((client, at, _), blind)| Step::Write { client, at, blind }),
        4 => who().prop_map(|(client, at, _)| Step::Read { client, at }),
        6 => who().prop_map(|(_, from, to)| Step::Send { from, to }),
        1 => who().prop_map(|(client, at, to)| Step::FailedLog { client, at, to }),
        2 => who().prop_map(|(_, at, _)| Step::Sync { at }),
        1 => who().prop_map(|(_, at, _)| Step::Crash { at }),
        1 => who().prop_map(|(_, at, _)| Step::Forget { at }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Clone, Default)]
struct Copy {
    object: Option<Object>,
    /// Model: every write that got here, superseded since or not.
    received: Writes,
}

struct Replica {
    node: NodeId,
    minter: Minter,
    /// Durable: epochs through this one may have been used.
    reserved_through: u64,
    now: Copy,
    on_disk: Copy,
}

#[derive(Clone, Default)]
struct Client {
    context: CausalContext,
    /// Model: the writes that the context stands for.
    seen: Writes,
}

/// The world after some steps.
pub(super) struct History {
    replicas: Vec<Replica>,
    clients: Vec<Client>,
    /// For each write, what its writer had seen.
    covers: Vec<Writes>,
    dots: BTreeMap<Dot, Write>,
    /// Every object that any replica ever held.
    pub(super) objects: Vec<Object>,
}

impl History {
    /// Runs the steps, and checks the model at each.
    pub(super) fn run(steps: &[Step]) -> Self {
        let replica = |at| Replica {
            node: NodeId(at as u64),
            minter: Minter::new(NodeId(at as u64), 1, EPOCHS_A_BLOCK),
            reserved_through: EPOCHS_A_BLOCK,
            now: Copy::default(),
            on_disk: Copy::default(),
        };
        let mut history = Self {
            replicas: (0..REPLICAS).map(replica).collect(),
            clients: vec![Client::default(); CLIENTS],
            covers: Vec::new(),
            dots: BTreeMap::new(),
            objects: vec![Object::new()],
        };
        for step in steps {
            history.step(*step);
        }
        history
    }

    /// Every copy merged: what all replicas hold once they have talked to each other.
    pub(super) fn settle(&mut self) {
        for to in 0..REPLICAS {
            for from in 0..REPLICAS {
                self.step(Step::Send { from, to });
            }
        }
        for from in 0..REPLICAS {
            self.step(Step::Send { from: REPLICAS - 1, to: from });
        }
        let first = &self.replicas[0].now.object;
        assert!(self.replicas.iter().all(|replica| replica.now.object == *first));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Read { client, at } => {
                let copy = &self.replicas[at].now;
                let context =
                    copy.object.as_ref().map_or_else(CausalContext::new, |o| o.context().clone());
                let seen = self.known(&copy.received);
                self.clients[client] = Client { context, seen };
            }
            Step::Write { client, at, blind } => {
                let (copy, handed) = self.write(client, at, blind);
                self.replicas[at].now = copy;
                self.clients[client] = handed;
                self.check(at);
            }
            Step::FailedLog { client, at, to } => {
                let (copy, _) = self.write(client, at, false);
                self.replicas[at].minter.retire();
                if to != at {
                    self.receive(copy, to);
                }
            }
            Step::Send { from, to } => {
                let copy = self.replicas[from].now.clone();
                self.receive(copy, to);
            }
            Step::Sync { at } => self.replicas[at].on_disk = self.replicas[at].now.clone(),
            Step::Crash { at } => {
                let replica = &mut self.replicas[at];
                let first = replica.reserved_through + 1;
                replica.reserved_through += EPOCHS_A_BLOCK;
                replica.minter = Minter::new(replica.node, first, replica.reserved_through);
                replica.now = replica.on_disk.clone();
            }
            Step::Forget { at } => {
                let replica = &mut self.replicas[at];
                replica.minter.retire();
                replica.now = Copy::default();
                replica.on_disk = Copy::default();
            }
        }
    }

    /// What the coordinator `at` holds after a write, and what the client is handed for it.
    fn write(&mut self, client: usize, at: usize, blind: bool) -> (Copy, Client) {
        let writer = if blind { Client::default() } else { self.clients[client].clone() };
        let dot = self.mint(at, &writer.context);
        let write = self.covers.len();
        self.covers.push(writer.seen.clone());
        assert_eq!(self.dots.insert(dot, write), None, "{dot:?} was minted twice");

        let mut copy = self.replicas[at].now.clone();
        let mut object = copy.object.take().unwrap_or_default();
        let context = object.write(&writer.context, sibling(dot, write));
        copy.received.insert(write);

        let beside = object.siblings().iter().filter(|s| s.dot != dot);
        let beside: Vec<Dot> = beside.map(|s| s.dot).collect();
        let mut seen = writer.seen;
        seen.insert(write);
        if beside.is_empty() {
            seen.extend(self.known(&copy.received));
        }
        assert!(context.contains(dot), "{context:?} lacks its own write {dot:?}");
        for unseen in beside {
            assert!(!context.contains(unseen), "{context:?} claims the unseen {unseen:?}");
        }
        assert_eq!(context, self.context_of(&seen), "handed for {write}, which had seen {seen:?}");
        copy.object = Some(object);
        (copy, Client { context, seen })
    }

    fn mint(&mut self, at: usize, seen: &CausalContext) -> Dot {
        let replica = &mut self.replicas[at];
        loop {
            match replica.minter.mint(replica.now.object.as_ref(), seen) {
                Ok(dot) => return dot,
                Err(EpochsExhausted) => {
                    replica.reserved_through += EPOCHS_A_BLOCK;
                    replica.minter.extend(replica.reserved_through);
                }
            }
        }
    }

    fn receive(&mut self, copy: Copy, to: usize) {
        let Some(object) = copy.object else { return };
        let mine = &mut self.replicas[to].now;
        let before = mine.object.clone().unwrap_or_default();
        let held = mine.object.get_or_insert_default();
        let changed = held.merge(&object);
        assert_eq!(changed, *held != before, "merge of {object:?} into {before:?}");
        mine.received.extend(copy.received);
        self.check(to);
    }

    /// The replica holds what the model says, no more and no less.
    fn check(&mut self, at: usize) {
        let Copy { object, received } = &self.replicas[at].now;
        let object = object.clone().unwrap_or_default();
        let covered = |write: &Write| received.iter().any(|by| self.covers[*by].contains(write));
        let live: Writes = received.iter().copied().filter(|write| !covered(write)).collect();
        let held: Writes = object.siblings().iter().map(|s| self.dots[&s.dot]).collect();
        assert_eq!(held, live, "replica {at} received {received:?} and holds {object:?}");
        for held in object.siblings() {
            assert_eq!(*held, sibling(held.dot, self.dots[&held.dot]), "changed on its way");
        }
        assert_eq!(*object.context(), self.context_of(&self.known(received)));
        self.objects.push(object);
    }

    /// The received writes and all that they cover.
    fn known(&self, received: &Writes) -> Writes {
        let covered = received.iter().flat_map(|write| &self.covers[*write]);
        covered.chain(received).copied().collect()
    }

    fn context_of(&self, writes: &Writes) -> CausalContext {
        let dots = self.dots.iter().filter(|(_, write)| writes.contains(write));
        dots.map(|(dot, _)| *dot).collect()
    }
}

/// What the n-th write of any history writes.
fn sibling(dot: Dot, write: Write) -> Sibling {
    let content = if write % 5 == 4 {
        Content::Tombstone
    } else {
        Content::Value(Bytes::from(format!("{{\"write\":{write}}}")))
    };
    let expires_at_ms = [None, Some(0), Some(write as u64), Some(u64::MAX)][write % 4];
    Sibling { dot, content, written_at_ms: write as u64 * 1000, expires_at_ms }
}
