//! From a strange silence to a suspicion that counts: a direct ping, then through two others.
//!
//! ```text
//!   A -> X         ping                        X raises its heartbeat and answers
//!   A -> X         ping again                  after ASK intervals
//!   A -> B, C      ask them to ping X
//!   B -> X -> B    ping, pong
//!   B -> A         the same pong               any of it carries X's new stamp: progress
//!   A              suspects X                  after ASK_OTHERS more intervals
//! ```
//!
//! An answer needs no bookkeeping: it holds a stamp that is newer than any before, so even one that
//! comes late, as from a process that was paused, clears the doubt. B and C keep nothing: the ping and
//! the pong say for whom they are.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;

use super::member::{Effects, Health};
use super::members::Slot;
use super::suspicion::Doubt;
use super::wire::{Message, Stamp};
use super::{ALARM_MAX, Machine, sample};
use crate::runtime::time::Instant;

/// How long a direct ping is waited for, in intervals.
const ASK: f64 = 0.5;
/// How long pings through others are waited for, in intervals.
const ASK_OTHERS: f64 = 0.8;
/// How many others are asked.
const HELPERS: usize = 2;
/// Members that are asked at the same time, at most: the others wait their turn.
const ASKED_MAX: usize = 16;
/// Each member has its turn again after so many intervals at the latest.
const TURN_MAX: u32 = 4;
/// The watch is not kept more often than this, in intervals.
const WATCH_GAP: f64 = 0.1;

impl Machine {
    /// Looks at every member whose turn has come, and takes each doubt a step further whose time has come.
    ///
    /// A member's turn comes when its silence would be strange by what was known at its last turn. What is known
    /// changes all the time, but each advance puts that off by more than patience shrinks with it, as a rule; an
    /// exception is found [`TURN_MAX`] later at the most. So a watch of many members looks at a few of them each
    /// time that it wakes.
    pub(super) fn watch(&mut self, now: Instant, rng: &mut impl Rng, out: &mut Effects) {
        let interval = self.options.interval;
        if !self.is_member() {
            // Who is not announced can't report, so it has no use for doubts.
            self.watch_due = now + interval;
            return;
        }
        let mut due = Vec::new();
        let latest = now + interval * TURN_MAX;
        while self.agenda.first().is_some_and(|(turn, _)| *turn <= now) {
            let Some((_, hash)) = self.agenda.pop_first() else { break };
            let step = self.next_step(hash);
            if step.is_some_and(|at| at <= now) {
                due.push(hash);
            }
            let turn = step.filter(|at| *at > now).map_or(now + interval, |at| at.min(latest));
            self.set_turn(hash, turn);
        }
        due.sort_unstable();
        let mut asked = self.count_asked();
        let mut alarm = false;
        for hash in due {
            alarm |= self.doubt_further(hash, &mut asked, now, rng, out);
            self.set_turn(hash, now + interval.mul_f64(ASK));
        }
        if alarm {
            self.alarm(now, rng, out);
        }
        let next = self.agenda.first().map_or(now + interval, |(turn, _)| *turn);
        self.watch_due = next.min(now + interval).max(now + interval.mul_f64(WATCH_GAP));
    }

    /// When the doubt about a member goes a step further, if nothing is heard; `None`: there is none to come.
    fn next_step(&mut self, hash: u64) -> Option<Instant> {
        let entry = self.members.get_mut(hash)?;
        match entry.doubt {
            Doubt::None if entry.health == Health::Stopped => None,
            Doubt::None => {
                let patience = entry.patience(&self.detector);
                let hurried = patience.min(self.options.interval);
                let patience = if entry.hurried { hurried } else { patience };
                Some((entry.rhythm.last + patience).max(self.calm_until))
            }
            Doubt::Asked { until } | Doubt::AskedOthers { until } => Some(until),
            Doubt::Counted => None,
        }
    }

    /// Gives a member its turn in the watch; each has one.
    pub(super) fn set_turn(&mut self, hash: u64, turn: Instant) {
        if let Some(entry) = self.members.get_mut(hash) {
            self.agenda.remove(&(entry.turn, hash));
            self.agenda.insert((turn, hash));
            entry.turn = turn;
        }
    }

    /// How many members are being asked.
    fn count_asked(&mut self) -> usize {
        let members = &self.members;
        self.asked.retain(|hash| {
            let doubt = members.get(*hash).map_or(Doubt::None, |entry| entry.doubt);
            matches!(doubt, Doubt::Asked { .. } | Doubt::AskedOthers { .. })
        });
        self.asked.len()
    }

    /// One step. Says whether a suspicion began to count.
    fn doubt_further(
        &mut self,
        hash: u64,
        asked: &mut usize,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Effects,
    ) -> bool {
        let strained = self.options.interval * (1 + self.strain);
        let wait = |times: f64| -> Duration { strained.mul_f64(times) };
        let Some(entry) = self.members.get_mut(hash) else { return false };
        let to = entry.record.info.gossip;
        match entry.doubt {
            Doubt::None => {
                if *asked < ASKED_MAX {
                    *asked += 1;
                    self.asked.insert(hash);
                    entry.doubt = Doubt::Asked { until: now + wait(ASK) };
                    self.counters.probes += 1;
                    self.ping(to, self.own_hash, out);
                }
                false
            }
            Doubt::Asked { .. } => {
                entry.doubt = Doubt::AskedOthers { until: now + wait(ASK_OTHERS) };
                self.ping(to, self.own_hash, out);
                for helper in self.live(hash, HELPERS, rng) {
                    self.counters.indirect_probes += 1;
                    self.send(helper, &Message::AskPing { target: hash }, out);
                }
                false
            }
            Doubt::AskedOthers { .. } => {
                entry.doubt = Doubt::Counted;
                self.counters.suspicions += 1;
                self.suspects.insert(hash);
                self.judge(hash, now, out);
                true
            }
            Doubt::Counted => false,
        }
    }

    /// Tells some others of a suspicion at once, instead of with the next beat.
    fn alarm(&mut self, now: Instant, rng: &mut impl Rng, out: &mut Effects) {
        let digest = self.digest(now, rng);
        for to in self.live(self.own_hash, ALARM_MAX, rng) {
            self.send(to, &digest, out);
        }
    }

    /// The addresses of up to `count` members that are up, at random, without `but`.
    fn live(&self, but: u64, count: usize, rng: &mut impl Rng) -> Vec<SocketAddr> {
        let but = self.members.slot(but);
        let others = self.members.slots().filter(|(slot, _)| Some(*slot) != but);
        let up = others.filter(|(_, entry)| entry.health == Health::Up);
        let mut pool: Vec<Slot> = up.map(|(slot, _)| slot).collect();
        self.addresses(sample(&mut pool, count, rng)).collect()
    }

    fn ping(&mut self, to: SocketAddr, origin: u64, out: &mut Effects) {
        self.send(to, &Message::Ping { origin }, out);
    }

    /// Somebody asks whether this process lives. Only the member of the name answers for it.
    pub(super) fn pong(&mut self, origin: u64, from: SocketAddr, out: &mut Effects) {
        if self.is_member() {
            self.own.stamp.beat = self.own.stamp.beat.next();
            let stamp = self.own.stamp;
            self.send(from, &Message::Pong { origin, target: self.own_hash, stamp }, out);
        }
    }

    /// Somebody asks to ping another.
    pub(super) fn ping_for(&mut self, origin: u64, target: u64, out: &mut Effects) {
        if let Some(entry) = self.members.get(target)
            && target != origin
        {
            let to = entry.record.info.gossip;
            self.send(to, &Message::Ping { origin }, out);
        }
    }

    /// An answer, for this member or for one that asked it to ping.
    pub(super) fn take_pong(
        &mut self,
        origin: u64,
        (target, stamp): (u64, Stamp),
        now: Instant,
        out: &mut Effects,
    ) {
        self.hear(target, stamp, now, out);
        let to = self.members.get(origin).map(|entry| entry.record.info.gossip);
        if let Some(to) = to.filter(|_| origin != target) {
            self.send(to, &Message::Pong { origin, target, stamp }, out);
        }
    }
}
