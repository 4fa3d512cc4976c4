//! A network of machines: a heap of what is to happen, with delays, loss, one-way cuts and pauses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::causality::NodeId;
use crate::domain::membership::{Effects, Event, Health, Machine, MemberInfo, Options, Standing};
use crate::runtime::time::Instant;

/// The wall clock of all machines when the network starts, in ms.
pub(super) const WALL_MS: u64 = 1_790_000_000_000;
const MS: u64 = 1_000_000;

/// What is to happen to the node in a slot.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick,
    Datagram { from: SocketAddr, bytes: Vec<u8> },
}

pub(super) struct Node {
    pub(super) machine: Machine,
    address: SocketAddr,
    rng: ChaCha8Rng,
    alive: bool,
    paused_until: u64,
    tick_at: u64,
}

pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    /// What every machine told: when (ms), whose, what.
    pub(super) events: Vec<(u64, usize, Event)>,
    /// The chance that a datagram is lost.
    pub(super) loss: f64,
    /// Slots from which no datagram reaches which.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    pub(super) longest: usize,
    pub(super) dice: ChaCha8Rng,
    pub(super) options: Options,
    /// Whose address it is now.
    addresses: BTreeMap<SocketAddr, usize>,
    now: u64,
    wall_ms: u64,
    count: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize, What)>>,
}

pub(super) fn address(slot: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (slot >> 8) as u8, slot as u8], 7000))
}

/// What node `slot` says of itself; its name is that of `named`.
pub(super) fn info(slot: usize, named: usize, process: u64) -> MemberInfo {
    MemberInfo {
        name: format!("node-{named:04}").into(),
        node: NodeId(1_000 + slot as u64),
        generation: 1,
        process,
        gossip: address(slot),
        rpc: format!("{}", address(slot)).into(),
        http: format!("{}:8080", address(slot).ip()).into(),
        zone: "zone-a".into(),
        datacenter: "here".into(),
        vnodes: 256,
        load: 0,
    }
}

impl Net {
    pub(super) fn empty(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            events: Vec::new(),
            loss: 0.0,
            cuts: BTreeSet::new(),
            longest: 0,
            dice: ChaCha8Rng::seed_from_u64(seed),
            options: Options::default(),
            addresses: BTreeMap::new(),
            now: 0,
            wall_ms: WALL_MS,
            count: 0,
            queue: BinaryHeap::new(),
        }
    }

    /// With `n` nodes that start within a second, with the first one as their seed, and 20 s later:
    /// everybody knows everybody.
    pub(super) fn grown(mut self, n: usize) -> Self {
        for slot in 0..n {
            self.start(info(slot, slot, slot as u64));
            self.run_ms(1_000 / n as u64);
        }
        self.run_ms(20_000);
        for slot in 0..n {
            assert_eq!(self.count(slot, Health::Up), n, "node {slot} of {n}");
        }
        self.events.clear();
        self
    }

    /// `n` nodes that know each other.
    pub(super) fn settled(n: usize, seed: u64) -> Self {
        Self::empty(seed).grown(n)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now / MS
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// A new node, told of slot 0 as its seed. Returns its slot.
    pub(super) fn start(&mut self, own: MemberInfo) -> usize {
        self.start_with(own, self.wall_ms + self.now_ms(), vec![address(0)], Vec::new())
    }

    pub(super) fn start_with(
        &mut self,
        own: MemberInfo,
        wall_ms: u64,
        seeds: Vec<SocketAddr>,
        remembered: Vec<MemberInfo>,
    ) -> usize {
        let address = own.gossip;
        // Whoever had the address before is gone.
        if let Some(before) = self.addresses.insert(address, self.nodes.len()) {
            self.nodes[before].alive = false;
        }
        let mut machine = Machine::new(own, wall_ms, self.options.clone(), self.now());
        machine.set_seeds(seeds);
        remembered.into_iter().for_each(|member| machine.remember(member));
        let rng = ChaCha8Rng::seed_from_u64(self.dice.random());
        let tick_at = self.now;
        self.nodes.push(Node { machine, address, rng, alive: true, paused_until: 0, tick_at });
        let slot = self.nodes.len() - 1;
        self.push(self.now, slot, What::Tick);
        slot
    }

    /// From now on the wall clocks of new nodes are later by so much.
    pub(super) fn advance_wall_ms(&mut self, ms: u64) {
        self.wall_ms += ms;
    }

    /// The node gets another address. What was under way to the old one is lost.
    pub(super) fn move_to(&mut self, slot: usize, address: SocketAddr) {
        self.addresses.remove(&self.nodes[slot].address);
        self.nodes[slot].address = address;
        self.addresses.insert(address, slot);
    }

    pub(super) fn crash(&mut self, slot: usize) {
        self.nodes[slot].alive = false;
    }

    pub(super) fn pause(&mut self, slot: usize, ms: u64) {
        self.nodes[slot].paused_until = self.now + ms * MS;
    }

    pub(super) fn cut_off(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Calls a machine outside of its ticks, and performs the effects.
    pub(super) fn call(
        &mut self,
        slot: usize,
        act: impl FnOnce(&mut Machine, Instant, &mut Effects),
    ) {
        let (mut out, now) = (Effects::default(), self.now());
        act(&mut self.nodes[slot].machine, now, &mut out);
        self.perform(slot, out);
    }

    pub(super) fn deliver(&mut self, slot: usize, from: SocketAddr, bytes: &[u8]) {
        let (mut out, now) = (Effects::default(), self.now());
        let node = &mut self.nodes[slot];
        node.machine.receive(now, from, bytes, &mut node.rng, &mut out);
        self.perform(slot, out);
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.queue.peek().is_some_and(|Reverse(next)| next.0 <= end) {
            let Some(Reverse((at, _, slot, what))) = self.queue.pop() else { break };
            self.now = at;
            let node = &mut self.nodes[slot];
            if !node.alive {
                continue;
            }
            if node.paused_until > at {
                // The sockets of a paused process keep what came; its timers fire when it wakes.
                let wakes = node.paused_until;
                self.push(wakes, slot, what);
                continue;
            }
            let mut out = Effects::default();
            match what {
                What::Tick if node.machine.next_tick().as_nanos() > at => {}
                What::Tick => {
                    let now = Instant::from_nanos(at);
                    let node = &mut self.nodes[slot];
                    node.machine.tick(now, &mut node.rng, &mut out);
                }
                What::Datagram { from, bytes } => {
                    let now = Instant::from_nanos(at);
                    node.machine.receive(now, from, &bytes, &mut node.rng, &mut out);
                }
            }
            self.perform(slot, out);
        }
        self.now = end;
    }

    fn perform(&mut self, slot: usize, out: Effects) {
        let ms = self.now_ms();
        self.events.extend(out.events.into_iter().map(|event| (ms, slot, event)));
        let from = self.nodes[slot].address;
        for (to, bytes) in out.datagrams {
            self.longest = self.longest.max(bytes.len());
            let receiver = self.addresses.get(&to).copied();
            let delay = self.dice.random_range(MS..10 * MS);
            if let Some(receiver) = receiver
                && !self.cuts.contains(&(slot, receiver))
                && !self.dice.random_bool(self.loss)
            {
                self.push(self.now + delay, receiver, What::Datagram { from, bytes });
            }
        }
        let node = &mut self.nodes[slot];
        let next = node.machine.next_tick().as_nanos();
        if node.alive && next != node.tick_at {
            node.tick_at = next;
            self.push(next, slot, What::Tick);
        }
    }

    fn push(&mut self, at: u64, slot: usize, what: What) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count, slot, what)));
    }

    /// How many members the node in `slot` knows, itself included.
    pub(super) fn known(&self, slot: usize) -> usize {
        self.nodes[slot].machine.members.len() + 1
    }

    /// How many members the node in `slot` believes to be so, itself included.
    pub(super) fn count(&self, slot: usize, health: Health) -> usize {
        let members = self.nodes[slot].machine.members(self.now());
        members.iter().filter(|view| view.health == health).count()
    }

    pub(super) fn health(&self, slot: usize, of: usize) -> Health {
        self.nodes[slot].machine.health(&format!("node-{of:04}"))
    }

    pub(super) fn standing(&self, slot: usize) -> Standing {
        self.nodes[slot].machine.standing()
    }

    /// When which node said that `of` is down.
    pub(super) fn downs(&self, of: usize) -> Vec<(u64, usize)> {
        let down = Event::Down(format!("node-{of:04}").into());
        let told = self.events.iter().filter(|(_, _, event)| *event == down);
        told.map(|(ms, slot, _)| (*ms, *slot)).collect()
    }

    /// How often any node took any other for down.
    pub(super) fn all_downs(&self) -> usize {
        self.events.iter().filter(|(_, _, event)| matches!(event, Event::Down(_))).count()
    }
}
