//! Who is compared with whom, and when; and when a copy that is in doubt may be trusted again.
//!
//! A *pair* is one home partition of this node and another home replica of it. Each pair of the cluster has one node
//! whose turn it is to begin, worked out alike on both sides from partition and indices, so that pairs are not
//! compared twice. It does so once in three quarters of a period, which leaves a quarter for retries: so each pair is
//! compared at least once a period as long as both live. Pairs whose other side is not live wait; they are overdue
//! then, so they come first when it is back.
//!
//! The order: partitions in doubt, then what an operator asked for, then what is due longest.
//!
//! **Doubt.** A doubtful partition is exchanged with every other home replica, by this node whoever's turn it is, and
//! is trusted again once it was done with every one that is live, and with one at least. In detail:
//!
//! - That the other side is in doubt too does not matter: an exchange brings here all that it holds. So a
//!   new cluster, in which every replica is in doubt, is no deadlock: each has compared nothing with nothing in one
//!   request to each other node, and trusts itself.
//! - With nobody live nothing is trusted: a wiped node that is cut off must not vouch for its emptiness.
//!   That costs a new cluster reads (not writes) until a second home replica is there, which a quorum needs anyway.
//! - A partition without other home replicas (N=1) is trusted at once, since nobody could ever heal it.
//! - An exchange that began before the last damage counts for nothing ([`doubt`](Schedule::doubt) says so).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::ROOTS_MAX;
use crate::domain::ring::NodeIndex;
use crate::runtime::time::Instant;

/// After a failure a pair waits so long, and twice that after each that follows.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// A pair in doubt waits no longer than this.
const RETRY_DOUBTFUL_MAX: Duration = Duration::from_secs(2);

/// Why a partition is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It is its turn.
    Turn,
    /// An operator asked.
    Asked,
    /// It is in doubt here, and was not exchanged with this replica since.
    Doubt,
}

/// What is known of a pair.
#[derive(Clone, Debug)]
struct Pair {
    need: Need,
    /// This node begins.
    mine: bool,
    due_at: Instant,
    running: bool,
    failures: u32,
    done_at: Option<Instant>,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both hold the same now.
    Equal,
    /// Both hold the same, but for recent writes: another look soon.
    LeftOut,
    /// It did not come to its end.
    Failed,
}

/// Pairs to be compared with one other replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Who.
    pub with: NodeIndex,
    /// Here these are in doubt: the exchange must be thorough.
    pub doubtful: bool,
    /// The partitions, in the order in which they are to be exchanged; [`ROOTS_MAX`] at the most.
    pub partitions: Vec<u32>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Schedule {
    period: Duration,
    pairs: BTreeMap<(u32, u16), Pair>,
    /// All who are in `pairs`.
    others: BTreeSet<u16>,
    doubtful: BTreeSet<u32>,
    /// Exchanges that began in an older round of doubt do not end it.
    round: u64,
}

impl Schedule {
    /// Of the home partitions of `me`, each with its other home replicas. The first turns are spread over the
    /// first period.
    pub fn new(
        period: Duration,
        now: Instant,
        me: NodeIndex,
        homes: impl Iterator<Item = (u32, Vec<NodeIndex>)>,
    ) -> Self {
        let mut pairs = BTreeMap::new();
        for (partition, others) in homes {
            for other in others.into_iter().filter(|other| *other != me) {
                let even = (u32::from(me.0) + u32::from(other.0) + partition).is_multiple_of(2);
                // Spread by a number that scatters neighbours.
                let at = partition.wrapping_mul(0x9e37_79b9).wrapping_add(u32::from(other.0) << 28);
                let share = f64::from(at) / f64::from(u32::MAX);
                let pair = Pair {
                    need: Need::Turn,
                    mine: (me < other) == even,
                    due_at: now + (period * 3 / 4).mul_f64(share),
                    running: false,
                    failures: 0,
                    done_at: None,
                };
                pairs.insert((partition, other.0), pair);
            }
        }
        let others = pairs.keys().map(|(_, other)| *other).collect();
        Self { period, pairs, others, doubtful: BTreeSet::new(), round: 0 }
    }

    /// These partitions, and no others, are in doubt. `again`: more was lost since the last time, so that what was
    /// exchanged before counts for nothing.
    pub fn doubt(&mut self, now: Instant, doubtful: &BTreeSet<u32>, again: bool) {
        self.round += u64::from(again);
        if doubtful.is_empty() && self.doubtful.is_empty() {
            return;
        }
        for ((partition, _), pair) in &mut self.pairs {
            let is = doubtful.contains(partition);
            let was = self.doubtful.contains(partition);
            if is && (!was || again) {
                (pair.need, pair.due_at, pair.failures) = (Need::Doubt, now, 0);
            } else if was && !is && pair.need == Need::Doubt {
                pair.need = Need::Turn;
            }
        }
        self.doubtful.clone_from(doubtful);
    }

    /// The round of doubt: what [`finished`](Self::finished) must be told of an exchange that begins now.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// An operator wants this partition compared with all of its other home replicas now; `None`: all partitions.
    pub fn ask(&mut self, now: Instant, partition: Option<u32>) {
        let asked =
            self.pairs.iter_mut().filter(|((p, _), _)| partition.is_none_or(|asked| asked == *p));
        for (_, pair) in asked {
            pair.due_at = pair.due_at.min(now);
            if pair.need == Need::Turn {
                pair.need = Need::Asked;
            }
        }
    }

    /// What to compare now with somebody who is `live` and has time, most needed first; `None`: nothing.
    pub fn next(&mut self, now: Instant, live: impl Fn(NodeIndex) -> bool) -> Option<Batch> {
        let due = |pair: &Pair| {
            !pair.running && pair.due_at <= now && (pair.mine || pair.need != Need::Turn)
        };
        let rank =
            |pair: &Pair| (matches!(pair.need, Need::Turn), pair.need == Need::Asked, pair.due_at);
        let ready =
            self.pairs.iter().filter(|((_, with), pair)| due(pair) && live(NodeIndex(*with)));
        let (with, doubtful) = ready
            .min_by_key(|(_, pair)| rank(pair))
            .map(|((_, with), pair)| (*with, pair.need == Need::Doubt))?;
        let mut partitions = Vec::new();
        for ((partition, _), pair) in self.pairs.iter_mut().filter(|((_, w), _)| *w == with) {
            if due(pair) && (pair.need == Need::Doubt) == doubtful && partitions.len() < ROOTS_MAX {
                pair.running = true;
                partitions.push(*partition);
            }
        }
        let begin = partitions.len() * self.place(with) / self.others.len();
        partitions.rotate_left(begin);
        Some(Batch { with: NodeIndex(with), doubtful, partitions })
    }

    /// Which of the others, from 0, this one is: each is begun with at another place. So what a lost disk held comes from each of them in parts,
    /// and the rest is equal by the time.
    fn place(&self, with: u16) -> usize {
        self.others.iter().position(|other| *other == with).unwrap_or(0)
    }

    /// An exchange of `partition` that began in the round of doubt `round` has ended. `thorough`: nothing was left out, and
    /// what came is durable.
    pub fn finished(
        &mut self,
        now: Instant,
        (partition, with): (u32, NodeIndex),
        (round, thorough): (u64, bool),
        outcome: Outcome,
    ) {
        let period = self.period;
        let Some(pair) = self.pairs.get_mut(&(partition, with.0)) else { return };
        pair.running = false;
        match outcome {
            Outcome::Failed => {
                let most = match pair.need {
                    Need::Doubt => RETRY_DOUBTFUL_MAX,
                    Need::Turn | Need::Asked => (period / 8).max(RETRY_MIN),
                };
                pair.due_at = now + (RETRY_MIN * (1 << pair.failures.min(8))).min(most);
                pair.failures += 1;
                return;
            }
            Outcome::Equal => pair.due_at = now + period * 3 / 4,
            Outcome::LeftOut => {
                pair.due_at = now + (super::holding::RECENT * 2).min(period * 3 / 4)
            }
        }
        (pair.failures, pair.done_at) = (0, Some(now));
        if pair.need == Need::Asked || (pair.need == Need::Doubt && thorough && round == self.round)
        {
            pair.need = Need::Turn;
        }
    }

    /// The partitions in doubt that may be trusted, given who is `live`.
    pub fn trustworthy(&self, live: impl Fn(NodeIndex) -> bool) -> Vec<u32> {
        let may = |partition: &&u32| {
            let mut others =
                self.pairs.range((**partition, 0)..=(**partition, u16::MAX)).peekable();
            if others.peek().is_none() {
                return true;
            }
            let (mut done, mut open) = (false, false);
            for ((_, with), pair) in others {
                done |= pair.need != Need::Doubt;
                open |= pair.need == Need::Doubt && live(NodeIndex(*with));
            }
            done && !open
        };
        self.doubtful.iter().filter(may).copied().collect()
    }

    /// When `partition` was last compared with each of its other home replicas; `None`: never since the start.
    pub fn done_at(
        &self,
        partition: u32,
    ) -> impl Iterator<Item = (NodeIndex, Option<Instant>)> + '_ {
        let pairs = self.pairs.range((partition, 0)..=(partition, u16::MAX));
        pairs.map(|((_, with), pair)| (NodeIndex(*with), pair.done_at))
    }

    /// True while something that an operator asked for, or that is in doubt, was not compared yet with somebody who
    /// is `live`.
    pub fn is_busy(&self, live: impl Fn(NodeIndex) -> bool) -> bool {
        let open = |((_, with), pair): (&(u32, u16), &Pair)| {
            pair.running || (pair.need != Need::Turn && live(NodeIndex(*with)))
        };
        self.pairs.iter().any(open)
    }

    /// When the next pair is due that does not run, whether or not its other side is live.
    pub fn due_at(&self) -> Option<Instant> {
        let waiting = self.pairs.values().filter(|pair| !pair.running);
        let mine = waiting.filter(|pair| pair.mine || pair.need != Need::Turn);
        mine.map(|pair| pair.due_at).min()
    }
}
