//! A model store that keeps its promises, with clients that make its life hard.
//!
//! Three home replicas and a fallback, plain sets for contexts ([`Object`]), one queue of events. Messages
//! are slow, very slow, or lost; requests time out and arrive later all the same; clients retry, write
//! blindly, and use old tokens; fallbacks take hints that reach their owners at the very end; machines lose
//! their power, and under `sync: interval` what they had not synced. Everything follows from the seed.
//!
//! A [`Mutant`] breaks it in one place, now and then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mutants::Mutant;
use super::object::Object;
use super::tale::MS;
use crate::history::{
    Asked, ClientId, Disturbance, Endpoint, Evidence, Fault, FinalState, Got, History, KeyIndex,
    KeyInfo, Kind, NodeIndex, OpId, Operation, Outcome, ReplicaCopy, Rules, ValueId,
};
use crate::oracle::bits::Bits;

const CLIENTS: u32 = 4;
const KEYS: u32 = 2;
const HOMES: usize = 3;
/// The node that is no home replica and takes hints.
const FALLBACK: usize = HOMES;
const OPS: usize = 160;
const TIMEOUT: u64 = 80 * MS;
const SYNC_LAG: u64 = 10 * MS;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Turn(u32),
    Arrive(usize),
    Store { op: usize, at: usize },
    Ack { op: usize, hinted: bool },
    Read { op: usize, at: usize },
    Reply { op: usize, parcel: usize },
    Answer(usize),
    TimeOut(usize),
    PowerLoss(usize),
}

/// A request under way.
#[derive(Clone, Debug, Default)]
struct Flight {
    seen: Bits,
    done: bool,
    answered: bool,
    acks: u8,
    hinted: u8,
    siblings: u32,
    merged: Object,
    replies: u8,
}

/// The store, its clients, and what they have recorded so far.
pub(super) struct Model {
    rng: ChaCha8Rng,
    mutant: Option<Mutant>,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u32, Event)>>,
    pushed: u32,
    stores: Vec<BTreeMap<KeyIndex, Object>>,
    /// What each store held before each change.
    old: Vec<Vec<(u64, KeyIndex, Object)>>,
    /// What replicas replied, by number.
    parcels: Vec<Object>,
    flights: Vec<Flight>,
    /// Tokens that each client holds.
    tokens: BTreeMap<(ClientId, KeyIndex), Vec<(OpId, Bits)>>,
    retry: BTreeMap<u32, OpId>,
    dots: usize,
    evidence: Evidence,
}

impl Model {
    /// Runs a whole history.
    pub(super) fn run(seed: u64, mutant: Option<Mutant>) -> Evidence {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sync_always = mutant == Some(Mutant::AckedUnsynced) || rng.random_bool(0.5);
        let homes: Vec<NodeIndex> = (0..HOMES as u32).map(NodeIndex).collect();
        let key = |k| KeyInfo {
            name: format!("b/k{k}"),
            homes: homes.clone(),
            fallbacks: Vec::new(),
            last_write: false,
        };
        let evidence = Evidence {
            history: History { keys: (0..KEYS).map(key).collect(), ops: Vec::new() },
            rules: Rules {
                sync_always,
                sync_lag_ns: SYNC_LAG,
                recovery_ns: 0,
                service_ns: TIMEOUT,
                ..Rules::default()
            },
            ..Evidence::default()
        };
        let mut model = Model {
            rng,
            mutant,
            now: 0,
            queue: BinaryHeap::new(),
            pushed: 0,
            stores: vec![BTreeMap::new(); HOMES + 1],
            old: vec![Vec::new(); HOMES + 1],
            parcels: Vec::new(),
            flights: Vec::new(),
            tokens: BTreeMap::new(),
            retry: BTreeMap::new(),
            dots: 0,
            evidence,
        };
        for client in 0..CLIENTS {
            model.push(u64::from(client) * MS, Event::Turn(client));
        }
        for _ in 0..4 {
            let at = model.rng.random_range(0..1_500 * MS);
            for node in 0..=HOMES {
                if model.rng.random_bool(0.6) {
                    model.push(at, Event::PowerLoss(node));
                }
            }
        }
        while let Some(Reverse((time, _, event))) = model.queue.pop() {
            model.now = time;
            model.handle(event);
        }
        model.heal();
        model.evidence
    }

    fn push(&mut self, after: u64, event: Event) {
        self.pushed += 1;
        self.queue.push(Reverse((self.now + after, self.pushed, event)));
    }

    /// Sends `event` on its way: mostly fast, sometimes slow, rarely lost.
    fn send(&mut self, event: Event) {
        let delay_us = match self.rng.random_range(0..100) {
            0..70 => self.rng.random_range(200..4_000),
            70..88 => self.rng.random_range(4_000..40_000),
            88..96 => self.rng.random_range(40_000..600_000),
            _ => return,
        };
        self.push(delay_us * 1_000, event);
    }

    fn wrong(&mut self, mutant: Mutant, chance: f64) -> bool {
        self.mutant == Some(mutant) && self.rng.random_bool(chance)
    }

    fn new_dot(&mut self) -> usize {
        self.dots += 1;
        self.dots
    }

    fn op(&self, op: usize) -> &Operation {
        &self.evidence.history.ops[op]
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn(client) => self.turn(ClientId(client)),
            Event::Arrive(op) => self.arrive(op),
            Event::Store { op, at } => self.store(op, at),
            Event::Ack { op, hinted } => self.ack(op, hinted),
            Event::Read { op, at } => self.read(op, at),
            Event::Reply { op, parcel } => self.reply(op, parcel),
            Event::Answer(op) => self.answer(op),
            Event::TimeOut(op) => self.time_out(op),
            Event::PowerLoss(node) => self.power_loss(node),
        }
    }

    /// A client begins its next request.
    fn turn(&mut self, client: ClientId) {
        if self.evidence.history.ops.len() >= OPS {
            return;
        }
        let id = OpId(self.evidence.history.ops.len() as u32);
        let node = NodeIndex(self.rng.random_range(0..HOMES as u32));
        let mut op = Operation {
            id,
            client,
            node,
            key: KeyIndex(self.rng.random_range(0..KEYS)),
            kind: match self.rng.random_range(0..100) {
                0..45 => Kind::Get,
                45..88 => Kind::Put { value: ValueId(u64::from(id.0)) },
                _ => Kind::Delete,
            },
            asked: Asked {
                need: *[1, 2, 2, 2, 3].choose(&mut self.rng).unwrap(),
                n: HOMES as u8,
                sloppy: self.rng.random_bool(0.3),
                timeout_ns: TIMEOUT,
                ttl_ns: None,
            },
            context_from: None,
            retry_of: None,
            start_ns: self.now,
            end_ns: self.now,
            outcome: Outcome::Unknown { status: None, required: None, received: None },
        };
        if let Some(of) = self.retry.remove(&client.0) {
            let of = self.op(of.0 as usize);
            (op.kind, op.key, op.context_from) = (of.kind, of.key, of.context_from);
            op.retry_of = Some(of.id);
        } else if op.kind != Kind::Get {
            op.context_from = self.choose_token(client, op.key);
        }
        let held = self.tokens.values().flatten();
        let seen = op.context_from.and_then(|from| held.clone().find(|t| t.0 == from));
        let seen = seen.map_or_else(Bits::default, |token| token.1.clone());
        self.flights.push(Flight { seen, ..Flight::default() });
        self.evidence.history.ops.push(op);
        let op = id.0 as usize;
        self.push(TIMEOUT, Event::TimeOut(op));
        if self.rng.random_bool(0.03) {
            self.refuse(op);
        } else if !self.wrong(Mutant::FailsForNothing, 0.05) {
            self.send(Event::Arrive(op));
            if self.wrong(Mutant::ExecutesTwice, 0.1) {
                self.send(Event::Arrive(op));
            }
        }
    }

    /// Mostly the client's last token of the key, sometimes an older one or none.
    fn choose_token(&mut self, client: ClientId, key: KeyIndex) -> Option<OpId> {
        let tokens = self.tokens.get(&(client, key))?;
        let at = match self.rng.random_range(0..100) {
            0..65 => tokens.len() - 1,
            65..78 => self.rng.random_range(0..tokens.len()),
            _ => return None,
        };
        Some(tokens[at].0)
    }

    fn refuse(&mut self, op: usize) {
        if self.op(op).kind != Kind::Get && self.wrong(Mutant::ExecutesRefused, 0.5) {
            self.send(Event::Arrive(op));
        }
        self.push(MS, Event::Answer(op));
        self.evidence.history.ops[op].outcome = Outcome::Refused { status: Some(429) };
    }

    /// A request reaches its coordinator.
    fn arrive(&mut self, op: usize) {
        let coordinator = self.op(op).node.0 as usize;
        let targets: Vec<usize> = (0..HOMES).filter(|&at| at != coordinator).collect();
        if self.op(op).kind == Kind::Get {
            self.read(op, coordinator);
            let more = if self.op(op).asked.sloppy { vec![FALLBACK] } else { Vec::new() };
            for at in targets.into_iter().chain(more) {
                self.send(Event::Read { op, at });
            }
            return;
        }
        self.mint(op, coordinator);
        for at in targets {
            let hint = self.op(op).asked.sloppy && self.rng.random_bool(0.3);
            self.send(Event::Store { op, at: if hint { FALLBACK } else { at } });
        }
    }

    /// The coordinator writes.
    fn mint(&mut self, op: usize, coordinator: usize) {
        let mut dot = self.new_dot();
        let mut key = self.op(op).key;
        let content = match self.op(op).kind {
            Kind::Put { value } => Some(value),
            Kind::Delete | Kind::Get => None,
        };
        if self.wrong(Mutant::CrossesKeys, 0.05) {
            key = KeyIndex((key.0 + 1) % KEYS);
        }
        let mut object = self.held(coordinator, key);
        let mut seen = self.flights[op].seen.clone();
        if self.wrong(Mutant::ContextTooWide, 0.1) {
            seen.clone_from(&object.known);
        }
        if self.wrong(Mutant::ContextIgnored, 0.1) {
            seen = Bits::default();
        }
        if self.wrong(Mutant::ReusesDot, 0.05) {
            let dead = |d: &usize| object.known.contains(*d) && !object.live.contains_key(d);
            dot = (0..dot).find(dead).unwrap_or(dot);
        }
        if !self.wrong(Mutant::AckedUnapplied, 0.05) {
            object.write(&seen, dot, content);
        }
        self.flights[op].siblings = object.live.len().max(1) as u32;
        self.flights[op].merged = object.clone();
        self.flights[op].seen.insert(dot);
        self.keep(coordinator, key, object);
        self.ack(op, false);
    }

    fn store(&mut self, op: usize, at: usize) {
        let key = self.op(op).key;
        let parcel = self.flights[op].merged.clone();
        let mut object = self.held(at, key);
        let before = object.clone();
        object.merge(&parcel);
        if self.wrong(Mutant::MergeKeepsTheDead, 0.05) {
            object.live.extend(before.live.clone());
        }
        if object.live.len() > 1 && self.wrong(Mutant::DropsSibling, 0.05) {
            object.live.pop_first();
        }
        if self.wrong(Mutant::Resurrects, 0.05)
            && let Some((_, content)) = before.live.first_key_value()
        {
            let dot = self.new_dot();
            object.write(&Bits::default(), dot, *content);
        }
        if object.live.values().all(Option::is_none) && self.wrong(Mutant::ForgetsTombstones, 1.0) {
            object = Object::default();
        }
        self.keep(at, key, object);
        let hinted = at == FALLBACK;
        if !hinted || self.flights[op].hinted == 0 {
            self.send(Event::Ack { op, hinted });
        }
    }

    fn ack(&mut self, op: usize, hinted: bool) {
        let lie = hinted && self.mutant == Some(Mutant::HintCountedAsHome);
        let early = self.mutant == Some(Mutant::AckedEarly);
        let need = self.op(op).asked.need;
        let flight = &mut self.flights[op];
        if flight.answered {
            return;
        }
        flight.acks += 1;
        flight.hinted += u8::from(hinted && !lie);
        if early && flight.acks + 1 == need {
            flight.acks += 1;
        }
        if flight.acks >= need {
            flight.answered = true;
            self.send(Event::Answer(op));
        }
    }

    fn read(&mut self, op: usize, at: usize) {
        let object = self.held(at, self.op(op).key);
        if at == FALLBACK && object.is_empty() {
            return;
        }
        self.parcels.push(object);
        self.send(Event::Reply { op, parcel: self.parcels.len() - 1 });
    }

    fn reply(&mut self, op: usize, parcel: usize) {
        let hurry = self.wrong(Mutant::StaleStrictRead, 0.2);
        let need = self.op(op).asked.need;
        let flight = &mut self.flights[op];
        if flight.answered {
            return;
        }
        flight.merged.merge(&self.parcels[parcel]);
        flight.replies += 1;
        if flight.replies >= need || hurry {
            flight.answered = true;
            self.send(Event::Answer(op));
        }
    }

    /// An answer reaches its client, unless it gave up before.
    fn answer(&mut self, op: usize) {
        if std::mem::replace(&mut self.flights[op].done, true) {
            return;
        }
        let refused = matches!(self.op(op).outcome, Outcome::Refused { .. });
        let flight = self.flights[op].clone();
        let required = self.op(op).asked.need;
        let (mut outcome, mut token) = (self.op(op).outcome.clone(), None);
        if refused {
            self.excuse(op);
        } else if self.op(op).kind == Kind::Get {
            let (mut values, deleted) = flight.merged.shown();
            if self.mutant != Some(Mutant::ShowsTwice) {
                values.dedup();
            }
            let context = !flight.merged.is_empty();
            let deleted_shown = deleted && !values.is_empty();
            token = context.then_some(flight.merged.known);
            outcome = Outcome::Got(Got {
                values,
                strange: Vec::new(),
                deleted_shown,
                context,
                passed_over: false,
            });
        } else {
            let Flight { siblings, acks: received, hinted, .. } = flight;
            token = Some(flight.seen);
            outcome = Outcome::Acked { siblings, required, received, hinted };
        }
        self.finish(op, outcome, token);
    }

    fn time_out(&mut self, op: usize) {
        if !std::mem::replace(&mut self.flights[op].done, true) {
            self.excuse(op);
            if self.op(op).kind != Kind::Get && self.rng.random_bool(0.6) {
                let client = self.op(op).client.0;
                self.retry.insert(client, self.op(op).id);
            }
            self.finish(op, self.op(op).outcome.clone(), None);
        }
    }

    fn finish(&mut self, op: usize, outcome: Outcome, token: Option<Bits>) {
        let now = self.now;
        let record = &mut self.evidence.history.ops[op];
        (record.end_ns, record.outcome) = (now, outcome);
        let (id, key, client) = (record.id, record.key, record.client);
        if let Some(token) = token {
            self.tokens.entry((client, key)).or_default().push((id, token));
        }
        let think = self.rng.random_range(0..10) * MS;
        self.push(think, Event::Turn(client.0));
    }

    /// Every failure has a reason in this store: the link was bad.
    fn excuse(&mut self, op: usize) {
        let op = self.op(op);
        let (from, to) = (Endpoint::Client(op.client), Endpoint::Node(op.node));
        let fault = Fault::LinkBad { from, to };
        let disturbance = Disturbance { fault, start_ns: op.start_ns, end_ns: self.now };
        if self.mutant != Some(Mutant::FailsForNothing) {
            self.evidence.disturbances.push(disturbance);
        }
    }

    fn power_loss(&mut self, node: usize) {
        let (start_ns, fault) =
            (self.now, Fault::PowerLoss(Endpoint::Node(NodeIndex(node as u32))));
        self.evidence.disturbances.push(Disturbance { fault, start_ns, end_ns: start_ns });
        let lag = match self.mutant {
            Some(Mutant::AckedUnsynced) => 10 * SYNC_LAG,
            _ if self.evidence.rules.sync_always => return,
            _ => self.rng.random_range(0..=SYNC_LAG),
        };
        let synced = self.now.saturating_sub(lag);
        while let Some((_, key, before)) = self.old[node].pop_if(|old| old.0 > synced) {
            self.stores[node].insert(key, before);
        }
    }

    fn held(&self, at: usize, key: KeyIndex) -> Object {
        self.stores[at].get(&key).cloned().unwrap_or_default()
    }

    fn keep(&mut self, at: usize, key: KeyIndex, object: Object) {
        let before = self.stores[at].insert(key, object).unwrap_or_default();
        self.old[at].push((self.now, key, before));
    }

    /// Every replica learns what any knows, and each key is read a last time.
    fn heal(&mut self) {
        self.now += 1_000 * MS;
        for key in (0..KEYS).map(KeyIndex) {
            let all: Vec<Object> = (0..=HOMES).map(|at| self.held(at, key)).collect();
            let mut merged = Object::default();
            all.iter().for_each(|object| merged.merge(object));
            let sick = self.wrong(Mutant::NeverHeals, 0.5);
            let copies = (0..HOMES).map(|at| {
                let object = if sick && at == 1 { &all[at] } else { &merged };
                let bytes = (!object.is_empty()).then(|| format!("{object:?}").into_bytes());
                ReplicaCopy { node: NodeIndex(at as u32), bytes }
            });
            let copies = copies.collect();
            let id = OpId(self.evidence.history.ops.len() as u32);
            self.evidence.finals.push(FinalState { key, read: id, copies });
            let (mut values, deleted) = merged.shown();
            values.dedup();
            let context = !merged.is_empty();
            let deleted_shown = deleted && !values.is_empty();
            let got =
                Got { values, strange: Vec::new(), deleted_shown, context, passed_over: false };
            self.evidence.history.ops.push(Operation {
                id,
                client: ClientId(0),
                node: NodeIndex(0),
                key,
                kind: Kind::Get,
                asked: Asked { need: 3, n: 3, sloppy: false, timeout_ns: TIMEOUT, ttl_ns: None },
                context_from: None,
                retry_of: None,
                start_ns: self.now,
                end_ns: self.now + MS,
                outcome: Outcome::Got(got),
            });
        }
    }
}
