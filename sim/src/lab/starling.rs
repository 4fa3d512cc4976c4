//! Starling's own machine in the laboratory, as the node drives it.
//!
//! A member that restarts keeps its name and its folder's id, in the next generation; it remembers
//! nobody, though a node would, so what it knows it got from the seeds.

use std::time::Duration;

use rand::RngCore as _;
use rand_chacha::ChaCha8Rng;
use starling::domain::causality::NodeId;
use starling::domain::membership::{Effects, Event, Health, Machine, MemberInfo, Options, Rule};
use starling::runtime::time::Instant;

use super::course::BEGIN;
use super::{Belief, Factory, Outbox, Place, Seat, Subject, address_of, place_of};

/// The wall clock when a run begins, in ms since 1970.
const WALL_MS: u64 = 1_750_000_000_000;

/// Makes Starling's machines.
#[derive(Clone, Copy, Debug)]
pub struct StarlingFactory {
    name: &'static str,
    rule: Rule,
}

impl StarlingFactory {
    /// With the detector that is the default: phi accrual.
    pub fn phi() -> Self {
        Self { name: "starling", rule: Options::default().rule }
    }

    /// With the plain rule: three missed beats.
    pub const fn count() -> Self {
        Self { name: "starling count", rule: Rule::Count { missed: 3 } }
    }

    fn options(self) -> Options {
        Options { interval: Duration::from_secs(1), rule: self.rule, ..Options::default() }
    }
}

impl Factory for StarlingFactory {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> String {
        let rule = match self.rule {
            Rule::Phi { threshold } => format!("phi {threshold}"),
            Rule::Count { missed } => format!("{missed} missed beats"),
        };
        let Options { interval, fanout, .. } = self.options();
        format!("gossip every {} s with {fanout}, {rule}, no secret", interval.as_secs())
    }

    fn start(&self, mut seat: Seat) -> Box<dyn Subject> {
        let own = MemberInfo {
            name: name(seat.place).into(),
            node: NodeId(seat.place as u64 + 1),
            generation: seat.starts + 1,
            process: seat.rng.next_u64(),
            gossip: address_of(seat.place),
            rpc: address_of(seat.place).to_string().into(),
            http: format!("{}:8000", address_of(seat.place).ip()).into(),
            zone: format!("zone-{}", seat.place % 3).into(),
            datacenter: "lab".into(),
            vnodes: 256,
            load: 0,
        };
        let passed_ms = u64::try_from(seat.now.since(BEGIN).as_millis()).expect("runs are short");
        let mut machine = Machine::new(own, WALL_MS + passed_ms, self.options(), seat.now);
        machine.set_seeds(seat.seeds.iter().map(|seed| address_of(*seed)).collect());
        Box::new(StarlingSubject { machine, effects: Effects::default() })
    }
}

fn name(place: Place) -> String {
    format!("n{place}")
}

struct StarlingSubject {
    machine: Machine,
    effects: Effects,
}

impl StarlingSubject {
    fn pass_on(&mut self, out: &mut Outbox) {
        for (to, datagram) in self.effects.datagrams.drain(..) {
            out.send(place_of(to), datagram);
        }
        for event in self.effects.events.drain(..) {
            let name = match event {
                Event::Learned(name)
                | Event::Changed(name)
                | Event::Restarted(name)
                | Event::Up(name)
                | Event::Suspected(name)
                | Event::Down(name)
                | Event::Stopped(name) => name,
                Event::Standing(_) => continue,
            };
            let belief = match self.machine.health(&name) {
                Health::Unknown => Belief::Unknown,
                Health::Up => Belief::Up,
                Health::Suspect => Belief::Suspect,
                // Nobody says goodbye here, so who is taken for stopped is taken for dead.
                Health::Down | Health::Stopped => Belief::Down,
            };
            let place = name[1..].parse().expect("names are those that this file gives");
            out.believe(place, belief);
        }
    }
}

impl Subject for StarlingSubject {
    fn next_tick(&self) -> Instant {
        self.machine.next_tick()
    }

    fn tick(&mut self, now: Instant, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        self.machine.tick(now, rng, &mut self.effects);
        self.pass_on(out);
    }

    fn receive(
        &mut self,
        now: Instant,
        from: Place,
        content: &[u8],
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        self.machine.receive(now, address_of(from), content, rng, &mut self.effects);
        self.pass_on(out);
    }
}
