//! The machines, their network and their time: a heap of events, handled one by one.
//!
//! Everything follows from the course and the subject: events at the same moment are handled in the
//! order in which they were scheduled.
//!
//! A paused machine's datagrams wait in a socket buffer of `MAILBOX_BYTES`; what does not fit is
//! lost. When it goes on, an overdue timer fires before the waiting datagrams are read or after
//! them, as the toss of a coin has it: a real process's loop finds both ready.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use starling::runtime::time::Instant;

use crate::dice::{Dice, Die};

use super::course::{BEGIN, Course, Incident};
use super::network::Links;
use super::{Belief, Datagram, Factory, Outbox, Place, Seat, Subject};

/// How much waits for a process that is paused: Linux's default for a socket.
const MAILBOX_BYTES: usize = 212_992;

/// The soonest that a timer may fire again: no subject may stop the time.
const TICK_MIN: Duration = Duration::from_micros(1);

/// A change of what one member believes of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// Who believes it.
    pub observer: Place,
    /// Of whom.
    pub subject: Place,
    /// What it believed until now.
    pub before: Belief,
    /// What it believes from now on.
    pub after: Belief,
}

/// What a machine sent while it was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of all datagrams.
    pub bytes: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// The bytes of the busiest second.
    pub busiest: u64,
    /// The bytes of the largest datagram.
    pub largest: usize,
    second: u64,
    in_second: u64,
}

impl Traffic {
    fn add(&mut self, second: u64, bytes: usize) {
        if self.second != second {
            self.second = second;
            self.in_second = 0;
        }
        self.in_second += bytes as u64;
        self.busiest = self.busiest.max(self.in_second);
        self.bytes += bytes as u64;
        self.datagrams += 1;
        self.largest = self.largest.max(bytes);
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Every change of every belief, in order.
    pub changes: Vec<Change>,
    /// What each machine sent.
    pub traffic: Vec<Traffic>,
    /// When everybody that runs first had everybody that runs up; `None`: never.
    pub complete: Option<Instant>,
    /// How many beliefs were that the other is up, in the end.
    pub up: usize,
    /// When the run ended.
    pub ended: Instant,
}

/// Runs the course with subjects from `factory`.
pub fn run(factory: &dyn Factory, course: &Course) -> Outcome {
    let mut arena = Arena::new(factory, course);
    while let Some(Reverse(next)) = arena.heap.pop() {
        if next.at > course.end() {
            break;
        }
        assert!(next.at >= arena.now, "time goes forward");
        arena.now = next.at;
        arena.handle(next.event);
    }
    arena.finish()
}

enum Event {
    Start(Place),
    Incident(Incident),
    /// A timer that was set in the machine's life of that number.
    Tick(Place, u64),
    Deliver(Place, Datagram),
}

/// An event and its turn.
struct Timed {
    at: Instant,
    turn: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.turn) == (other.at, other.turn)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

struct Machine {
    /// `None`: not started, or dead.
    subject: Option<Box<dyn Subject>>,
    starts: u64,
    rng: ChaCha8Rng,
    tick: Instant,
    paused: bool,
    mailbox: VecDeque<Datagram>,
    mailbox_bytes: usize,
}

struct Arena<'a> {
    factory: &'a dyn Factory,
    course: &'a Course,
    now: Instant,
    turn: u64,
    heap: BinaryHeap<Reverse<Timed>>,
    machines: Vec<Machine>,
    links: Links,
    coin: Die,
    /// What observer o believes of subject s, at o * members + s.
    beliefs: Vec<Belief>,
    /// How many of them are up.
    up: usize,
    outcome: Outcome,
    out: Outbox,
}

impl<'a> Arena<'a> {
    fn new(factory: &'a dyn Factory, course: &'a Course) -> Self {
        let dice = Dice::new(course.seed);
        let machine = |place: Place| Machine {
            subject: None,
            starts: 0,
            rng: dice.stream("lab machine", place as u64, 0).into_rng(),
            tick: BEGIN,
            paused: false,
            mailbox: VecDeque::new(),
            mailbox_bytes: 0,
        };
        let mut arena = Self {
            factory,
            course,
            now: BEGIN,
            turn: 0,
            heap: BinaryHeap::new(),
            machines: (0..course.members).map(machine).collect(),
            links: Links::new(course.network, dice.stream("lab network", 0, 0)),
            coin: dice.stream("lab coin", 0, 0),
            beliefs: vec![Belief::Unknown; course.members * course.members],
            up: 0,
            outcome: Outcome {
                traffic: vec![Traffic::default(); course.members],
                ..Outcome::default()
            },
            out: Outbox::default(),
        };
        let mut starts = dice.stream("lab starts", 0, 0);
        let spread_us = u64::try_from(course.spread.as_micros()).expect("a start is soon");
        for place in 0..course.members {
            let at = BEGIN + Duration::from_micros(starts.within(0, spread_us));
            arena.schedule(at, Event::Start(place));
        }
        for (at, incident) in &course.incidents {
            arena.schedule(*at, Event::Incident(*incident));
        }
        arena
    }

    fn finish(mut self) -> Outcome {
        self.outcome.ended = self.course.end();
        self.outcome.up = self.up;
        self.outcome
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.turn += 1;
        self.heap.push(Reverse(Timed { at, turn: self.turn, event }));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(place) => self.start(place),
            Event::Incident(incident) => self.befall(incident),
            Event::Tick(place, life) => {
                let machine = &self.machines[place];
                // A timer that was set anew since, or that the machine did not live to see.
                let stale = machine.starts != life || machine.tick != self.now;
                if !stale && !machine.paused {
                    self.tick(place);
                }
            }
            Event::Deliver(place, datagram) => self.deliver(place, datagram),
        }
    }

    fn befall(&mut self, incident: Incident) {
        match incident {
            Incident::Crash(place) => {
                let machine = &mut self.machines[place];
                machine.subject = None;
                machine.paused = false;
                machine.mailbox.clear();
                machine.mailbox_bytes = 0;
                for other in 0..self.course.members {
                    self.believe(place, other, Belief::Unknown);
                }
            }
            Incident::Restart(place) => self.start(place),
            Incident::Pause(place) => self.machines[place].paused = true,
            Incident::Resume(place) => self.resume(place),
            Incident::Cut(from, to) => self.links.set_cut(from, to, true),
            Incident::Heal(from, to) => self.links.set_cut(from, to, false),
        }
    }

    fn start(&mut self, place: Place) {
        let machine = &mut self.machines[place];
        assert!(machine.subject.is_none(), "machine {place} runs already");
        let purpose = Dice::new(self.course.seed).stream("lab seat", place as u64, machine.starts);
        let seat = Seat {
            place,
            members: self.course.members,
            seeds: (0..self.course.seeds).filter(|seed| *seed != place).collect(),
            starts: machine.starts,
            now: self.now,
            rng: purpose.into_rng(),
        };
        machine.starts += 1;
        machine.tick = BEGIN;
        machine.subject = Some(self.factory.start(seat));
        self.set_timer(place);
    }

    fn resume(&mut self, place: Place) {
        let machine = &mut self.machines[place];
        machine.paused = false;
        machine.mailbox_bytes = 0;
        let waiting = std::mem::take(&mut machine.mailbox);
        let overdue = machine.subject.is_some() && machine.tick <= self.now;
        let timer_first = self.coin.chance(50);
        if overdue && timer_first {
            self.tick(place);
        }
        for datagram in waiting {
            self.deliver(place, datagram);
        }
        if overdue && !timer_first {
            self.tick(place);
        }
    }

    fn tick(&mut self, place: Place) {
        let machine = &mut self.machines[place];
        let Some(subject) = machine.subject.as_mut() else { return };
        subject.tick(self.now, &mut machine.rng, &mut self.out);
        self.after(place);
    }

    fn deliver(&mut self, place: Place, datagram: Datagram) {
        let machine = &mut self.machines[place];
        let Some(subject) = machine.subject.as_mut() else { return };
        if machine.paused {
            if machine.mailbox_bytes + datagram.bytes <= MAILBOX_BYTES {
                machine.mailbox_bytes += datagram.bytes;
                machine.mailbox.push_back(datagram);
            }
            return;
        }
        let Datagram { from, content, .. } = datagram;
        subject.receive(self.now, from, &content, &mut machine.rng, &mut self.out);
        self.after(place);
    }

    /// Does what the subject at `place` just asked for.
    fn after(&mut self, place: Place) {
        for (other, belief) in std::mem::take(&mut self.out.beliefs) {
            self.believe(place, other, belief);
        }
        while let Some((to, content, bytes)) = self.out.datagrams.pop_front() {
            self.post(place, to, content, bytes);
        }
        self.set_timer(place);
    }

    fn believe(&mut self, observer: Place, subject: Place, after: Belief) {
        let n = self.course.members;
        assert!(subject < n, "machine {observer} believes in {subject}, which there is not");
        let before = std::mem::replace(&mut self.beliefs[observer * n + subject], after);
        if before == after || observer == subject {
            return;
        }
        self.up = self.up + usize::from(after == Belief::Up) - usize::from(before == Belief::Up);
        if self.up == n * (n - 1) && self.outcome.complete.is_none() {
            self.outcome.complete = Some(self.now);
        }
        self.outcome.changes.push(Change { at: self.now, observer, subject, before, after });
    }

    fn post(&mut self, from: Place, to: Place, content: Vec<u8>, bytes: usize) {
        assert!(to < self.course.members, "machine {from} sends to {to}, which there is not");
        if self.now >= self.course.measured_from() {
            let second = self.now.since(BEGIN).as_secs();
            self.outcome.traffic[from].add(second, bytes);
        }
        let [first, second] = self.links.fate(from, to);
        if let Some(delay) = second {
            let copy = Datagram { from, content: content.clone(), bytes };
            self.schedule(self.now + delay, Event::Deliver(to, copy));
        }
        if let Some(delay) = first {
            let datagram = Datagram { from, content, bytes };
            self.schedule(self.now + delay, Event::Deliver(to, datagram));
        }
    }

    fn set_timer(&mut self, place: Place) {
        let machine = &mut self.machines[place];
        let Some(subject) = machine.subject.as_ref() else { return };
        let at = subject.next_tick().max(self.now + TICK_MIN);
        if at != machine.tick {
            machine.tick = at;
            let life = machine.starts;
            self.schedule(at, Event::Tick(place, life));
        }
    }
}
