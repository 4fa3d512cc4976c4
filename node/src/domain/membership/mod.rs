//! Who is a member, and who of them lives: gossip and failure detection as one pure machine.
//!
//! Datagrams come in, datagrams and [`Event`]s go out; a service moves them and decides nothing.
//!
//! ```text
//!   each interval:  A raises its heartbeat
//!   A -> B, C, D    digest   (hash, incarnation, heartbeat) of all that A knows, and suspicions
//!   B -> A          news     what B knows better; records of members that A lacks; "send me x, y"
//!   A -> B          news     the records of x and y
//! ```
//!
//! **Gossip** is anti-entropy by push and pull (Demers et al., "Epidemic algorithms", 1987; van
//! Renesse et al., "Efficient reconciliation and flow control for anti-entropy protocols", 2008). A
//! digest is a push already: who knows the incarnation takes the heartbeat from it. When the members do not fit
//! one datagram (beyond about 85), a digest tells of a random stretch of the hashes, from first to
//! last, so that what is missing in it is seen too. Answers tell the most stale first.
//!
//! **Order.** A *stamp* is (incarnation, heartbeat, stopped). Only the member itself gives stamps to
//! its name and they only grow: the higher one wins, whoever tells it. The incarnation starts at the
//! wall clock in ms, or above whatever was heard of the own name, so a clock that was set back does no
//! harm. It is raised when another process claims the name, and when the address changes.
//!
//! **Detection.** Silence that is strange by phi accrual (the child module `phi`) is only a reason to
//! ask: directly, then through two others (Das et al., "SWIM", 2002). If nobody answers, it is a
//! *suspicion*, which travels in digests. Down takes two live members that suspect at once (one where
//! there are but two members; the child module `suspicion`). Any advance of the heartbeat clears at
//! once. A process that notices its own pause blames itself first (Dadgar et al., "Lifeguard",
//! 2018). Nobody is told "X is down": each member judges by the evidence that it has.
//!
//! From the last heartbeat of a crashed member, in intervals, with a steady rhythm and the default
//! rule: 3.1 asked; +0.5 asked through others; +0.8 suspected, and told at once; so 4.4 down at all
//! members of a small cluster. A pause of 3 s and one beat fits below that.
//!
//! Measured by the tests, from the crash to the last live member that knows, slowest of 20 to 40
//! (of 3 for 100 nodes): 4.4 s with 2, 4.7 s with 3, 4.4 s with 5 and 10, 5.5 s with 100. A thousand
//! nodes that start at once with one seed all know each other after 7 s.
//!
//! **Names.** The child module `standing`: a process listens before it announces itself, and gives way
//! to a live process of its name.
//!
//! Invariants: a stamp here never goes back; at most [`MEMBERS_MAX`] members; each datagram at most
//! 1,400 bytes; at most `ANSWER_DATAGRAMS_MAX` of them for one received; all state bounded; equal inputs give
//! equal outputs. What is read from the network changes nothing until it was read whole.
//!
//! What it does not do: remove members. Who was down for a year still keeps its ranges. Nor does it
//! hide what it says; nor defend against a member that lies.

mod exchange;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod member;
mod members;
mod phi;
mod seal;
mod standing;
mod suspicion;
mod view;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

pub use member::{
    Counters, Effects, Event, Health, MEMBERS_MAX, MemberInfo, Options, Rule, Standing,
    TEXT_BYTES_MAX, TextLength,
};
pub use view::View;

use self::members::{Members, Slot};
use self::phi::Detector;
use self::seal::Seal;
use self::standing::Claimant;
use self::suspicion::Entry;
use self::wire::{Dropped, Header, Message, Record, Stamp};
use super::causality::NodeId;
use super::key::murmur3;
use crate::runtime::time::Instant;

/// Datagrams that one received datagram can cause at most.
const ANSWER_DATAGRAMS_MAX: usize = 16;
/// Members told at once of a suspicion, or of a goodbye.
const ALARM_MAX: usize = 8;
const GOODBYES_MAX: usize = 16;
/// Seeds kept at most.
const SEEDS_MAX: usize = 256;
/// Larger incarnations are not sent, so none is ever raised above this.
const INCARNATION_MAX: u64 = 1 << 62;
/// How bad the own health can get, in intervals of holding back.
const STRAIN_MAX: u32 = 8;

/// One member's knowledge of all others. See the module's page.
pub struct Machine {
    /// What it says of itself.
    own: Record,
    own_hash: u64,
    /// Hash of the cluster's name.
    cluster: u64,
    seal: Seal,
    options: Options,
    detector: Detector,
    /// All others, by the hash of the name.
    members: Members,
    /// Those whom anybody suspects.
    suspects: BTreeSet<u64>,
    /// Whom the watch looks at when: each member once, at its `turn`.
    agenda: BTreeSet<(Instant, u64)>,
    /// All that are being asked, and some that answered since the last watch.
    asked: BTreeSet<u64>,
    seeds: Vec<SocketAddr>,
    claimant: Claimant,
    beat_due: Instant,
    watch_due: Instant,
    /// How often this process was late of late: so many intervals more it holds back after a pause.
    strain: u32,
    /// A new member was learned not long before.
    learning_until: Instant,
    /// No new doubts before.
    calm_until: Instant,
    counters: Counters,
}

/// The hash by which a name is known on the wire.
fn hash_of(name: &str) -> u64 {
    murmur3(name.as_bytes()).0
}

impl Machine {
    /// A process that knows nobody yet. The first [`tick`](Self::tick) is due at once; do it after
    /// [`set_seeds`](Self::set_seeds) and [`remember`](Self::remember), since without any it takes
    /// itself for the first member. `wall_ms` is the wall clock, in ms since 1970; `own` must pass
    /// [`MemberInfo::check`] to be learned by others.
    pub fn new(own: MemberInfo, wall_ms: u64, options: Options, now: Instant) -> Self {
        let options =
            Options { interval: options.interval.max(Duration::from_millis(1)), ..options };
        let incarnation = wall_ms.clamp(1, INCARNATION_MAX);
        let stamp = Stamp { incarnation, ..Stamp::default() };
        Self {
            own_hash: hash_of(&own.name),
            own: Record { info: own, stamp, born: incarnation },
            cluster: hash_of(&options.cluster),
            seal: Seal::new(options.secret.as_deref()),
            detector: Detector::new(options.rule, options.interval),
            options,
            members: Members::default(),
            suspects: BTreeSet::new(),
            agenda: BTreeSet::new(),
            asked: BTreeSet::new(),
            seeds: Vec::new(),
            claimant: Claimant::default(),
            beat_due: now,
            watch_due: now,
            strain: 0,
            learning_until: now,
            calm_until: now,
            counters: Counters::default(),
        }
    }

    /// Where to ask when nobody else is known, and now and then. Replaces the former ones.
    pub fn set_seeds(&mut self, mut seeds: Vec<SocketAddr>) {
        seeds.sort_unstable();
        seeds.dedup();
        seeds.retain(|seed| *seed != self.own.info.gossip);
        seeds.truncate(SEEDS_MAX);
        self.seeds = seeds;
    }

    /// An address to try, from disk or from a list: no proof of life. Others are not told of it until
    /// somebody else knows it. What is already known is not changed.
    pub fn remember(&mut self, member: MemberInfo) {
        let hash = hash_of(&member.name);
        if hash == self.own_hash || self.members.get(hash).is_some() {
            return;
        }
        if member.check().is_err() || self.members.len() >= MEMBERS_MAX {
            self.counters.refused += 1;
            return;
        }
        let record = Record { info: member, stamp: Stamp::default(), born: 0 };
        let turn = self.beat_due;
        self.members.insert(hash, Entry::new(record, turn));
        self.agenda.insert((turn, hash));
    }

    /// Changes what this process says of itself. Anything but the load becomes a new incarnation,
    /// which others fetch; name, node, generation and process stay as they are.
    pub fn update_own(&mut self, change: impl FnOnce(&mut MemberInfo)) {
        let mut info = self.own.info.clone();
        change(&mut info);
        let old = &self.own.info;
        info.name = Arc::clone(&old.name);
        (info.node, info.generation, info.process) = (old.node, old.generation, old.process);
        let same = MemberInfo { load: old.load, ..info.clone() } == *old;
        self.own.info = info;
        if !same {
            self.raise_above(self.own.stamp.incarnation);
        }
    }

    /// The data folder has a new id, after [`Standing::Outdated`]. Listens once more before it
    /// announces itself, if it had not yet.
    pub fn renew(&mut self, node: NodeId, generation: u64) {
        self.own.info.node = node;
        self.own.info.generation = generation;
        self.raise_above(self.own.stamp.incarnation);
        self.claimant.renewed();
    }

    /// The data folder has a higher generation, durably. Others fetch it as news.
    pub fn raise_generation(&mut self, generation: u64) {
        self.own.info.generation = generation;
        self.raise_above(self.own.stamp.incarnation);
    }

    /// When [`tick`](Self::tick) is due. Ask again after every call.
    pub fn next_tick(&self) -> Instant {
        self.beat_due.min(self.watch_due)
    }

    /// Does what is due. Calling early does no harm; calling late is taken for a pause of this process.
    pub fn tick(&mut self, now: Instant, rng: &mut impl Rng, out: &mut Effects) {
        if self.own.stamp.beat.stopped() {
            self.beat_due = now + self.options.interval;
            self.watch_due = self.beat_due;
            return;
        }
        self.notice_pause(now);
        self.settle(now, out);
        if now >= self.beat_due {
            self.beat(now, rng, out);
        }
        if now >= self.watch_due {
            self.watch(now, rng, out);
        }
    }

    /// Takes a datagram. One that is malformed, foreign or not authenticated is counted and dropped.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        rng: &mut impl Rng,
        out: &mut Effects,
    ) {
        self.counters.received += 1;
        self.counters.received_bytes += datagram.len() as u64;
        let (header, message) = match wire::decode(self.cluster, datagram, &self.seal) {
            Ok(read) => read,
            Err(Dropped::Malformed) => return self.counters.malformed += 1,
            Err(Dropped::Foreign) => return self.counters.foreign += 1,
            Err(Dropped::Unauthenticated) => return self.counters.unauthenticated += 1,
        };
        let echo = header.sender == self.own_hash && header.process == self.own.info.process;
        if echo || self.own.stamp.beat.stopped() {
            return;
        }
        self.notice_pause(now);
        let unknown_sender = self.greet(&header, now, out);
        match message {
            Message::Digest { first, last, stamps, claims } => {
                let digest = exchange::Digest { first, last, stamps };
                self.answer(&header, from, digest, unknown_sender, now, rng, out);
                self.take_claims(claims, now, out);
            }
            Message::News { answers, stamps, wants, claims, records } => {
                let news = exchange::News { stamps, wants, records };
                self.take_news(&header, from, news, unknown_sender, now, rng, out);
                self.take_claims(claims, now, out);
                if answers && header.announced {
                    self.claimant.answered();
                    self.settle(now, out);
                }
            }
            Message::Ping { origin } => self.pong(origin, from, out),
            Message::Pong { origin, target, stamp } => {
                self.take_pong(origin, (target, stamp), now, out);
            }
            Message::AskPing { target } => {
                self.ping_for(header.sender, target, out);
            }
        }
    }

    /// Says goodbye to enough members that all will know: they take this one for stopped at once.
    /// Afterwards the machine is silent for good.
    pub fn goodbye(&mut self, out: &mut Effects) {
        self.own.stamp.beat = self.own.stamp.beat.next().stop();
        if !self.is_member() {
            return;
        }
        // Each member starts elsewhere in the order, so many that stop at once tell different ones.
        let after = self.members.range(self.own_hash..);
        let cycle = after.chain(self.members.range(..self.own_hash)).map(|(_, entry)| entry);
        let live = cycle.filter(|entry| entry.health == Health::Up).take(GOODBYES_MAX);
        let to: Vec<SocketAddr> = live.map(|entry| entry.record.info.gossip).collect();
        for to in to {
            self.send(to, &exchange::News::default().message(false, Vec::new()), out);
        }
    }

    /// A hint: `name` refused a connection or did not answer. It is asked after one silent interval
    /// instead of waiting for a strange silence. Says nothing by itself.
    pub fn report_unreachable(&mut self, name: &str, now: Instant) {
        let hash = hash_of(name);
        if let Some(entry) = self.members.get_mut(hash) {
            entry.hurried = true;
            self.set_turn(hash, now);
            self.watch_due = self.watch_due.min(now);
        }
    }

    /// A hint: `name` answered a request just now, which is progress.
    pub fn report_progress(&mut self, name: &str, now: Instant, out: &mut Effects) {
        let hash = hash_of(name);
        if let Some(entry) = self.members.get_mut(hash)
            && entry.health != Health::Stopped
        {
            entry.rhythm.heard_apart(now);
            entry.calm_down();
            self.set_health(hash, Health::Up, now, out);
        }
    }

    /// How this process stands.
    pub fn standing(&self) -> Standing {
        self.claimant.standing()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn is_member(&self) -> bool {
        self.claimant.standing() == Standing::Member
    }

    /// Makes the own incarnation higher than `other` and than it was.
    fn raise_above(&mut self, other: u64) {
        let incarnation = self.own.stamp.incarnation.max(other).saturating_add(1);
        self.own.stamp.incarnation = incarnation.min(INCARNATION_MAX);
    }

    /// Once each interval.
    fn beat(&mut self, now: Instant, rng: &mut impl Rng, out: &mut Effects) {
        if self.is_member() {
            self.own.stamp.beat = self.own.stamp.beat.next();
        }
        if self.strain > 0 && self.own.stamp.beat.heartbeat().is_multiple_of(8) {
            self.strain -= 1;
        }
        self.review(now, out);
        let mut partners = self.partners(rng);
        let mut digests = vec![self.digest(now, rng)];
        if now < self.learning_until && exchange::is_partial(&digests[0]) {
            // All to one instead of a part to each.
            partners.truncate(1);
            digests.extend(self.digests_of_all(rng));
        }
        for to in partners {
            digests.iter().for_each(|digest| self.send(to, digest, out));
        }
        // Jitter keeps members that started at once from beating at once for ever.
        self.beat_due = now + self.options.interval.mul_f64(rng.random_range(0.95..1.05));
    }

    /// Whom to send a digest: `fanout` members that may live, now and then one that is gone, and a seed.
    fn partners(&self, rng: &mut impl Rng) -> Vec<SocketAddr> {
        let (mut gone, mut pool) = (Vec::new(), Vec::new());
        for (slot, entry) in self.members.slots() {
            let absent = matches!(entry.health, Health::Down | Health::Stopped);
            if absent { &mut gone } else { &mut pool }.push(slot);
        }
        let live = pool.len();
        // The chance of asking the gone grows with their share, as in Cassandra's gossiper.
        let mut chosen = sample(&mut pool, self.options.fanout, rng);
        if !gone.is_empty() && rng.random_range(0..=live) < gone.len().max(live.div_ceil(8)) {
            chosen.extend(sample(&mut gone, 1, rng));
        }
        let mut partners: Vec<SocketAddr> = self.addresses(chosen).collect();
        let mut seeds = self.seeds.clone();
        let known = live + gone.len();
        if live == 0 {
            partners.extend(sample(&mut seeds, self.options.fanout, rng));
        } else if rng.random_range(0..=known) < seeds.len() {
            partners.extend(sample(&mut seeds, 1, rng));
        }
        partners
    }

    /// Where the gossip of these members is reached.
    fn addresses(&self, slots: Vec<Slot>) -> impl Iterator<Item = SocketAddr> {
        slots.into_iter().map(|slot| self.members.at(slot).record.info.gossip)
    }

    /// A tick that comes more than an interval late means that this process was paused or starved.
    /// Nothing was heard meanwhile, and that is nobody else's fault.
    fn notice_pause(&mut self, now: Instant) {
        let late = now.since(self.beat_due);
        if late <= self.options.interval {
            return;
        }
        self.counters.pauses += 1;
        self.strain = (self.strain + 1).min(STRAIN_MAX);
        self.beat_due = now;
        self.calm_until = now + self.options.interval * (1 + self.strain);
        for entry in self.members.values_mut() {
            entry.rhythm.shift(late);
            entry.calm_down();
        }
    }

    fn header(&self) -> Header {
        let announced = self.is_member();
        Header {
            sender: self.own_hash,
            process: self.own.info.process,
            announced,
            stamp: if announced { self.own.stamp } else { self.claimant.known() },
            load: self.own.info.load,
        }
    }

    fn send(&mut self, to: SocketAddr, message: &Message, out: &mut Effects) {
        let datagram = wire::encode(self.cluster, &self.header(), message, &self.seal);
        self.counters.sent += 1;
        self.counters.sent_bytes += datagram.len() as u64;
        out.datagrams.push((to, datagram));
    }
}

/// Up to `count` of `pool` at random, each once. Changes the order of `pool`.
fn sample<T: Copy>(pool: &mut [T], count: usize, rng: &mut impl Rng) -> Vec<T> {
    let count = count.min(pool.len());
    for at in 0..count {
        pool.swap(at, rng.random_range(at..pool.len()));
    }
    pool[..count].to_vec()
}
