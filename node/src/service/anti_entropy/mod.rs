//! Anti-entropy: home replicas find and heal what differs between them, without any client.
//!
//! ```text
//! writes ──► Trees ◄── builds, by scan         Driver: what is due? ──► Session with one replica
//!              ▲                                  ▲                       roots of many partitions, at once
//!              │                                  │                       exchanges of those that differ
//!  Answering ◄─┘ ◄── Exchange, by rpc ──          └── done, trusted ◄─────┘   received ──► Replica::heal
//! ```
//!
//! What is compared with whom and when, what is asked, and when doubt ends is decided in [`domain::merkle`](crate::domain::merkle);
//! here is who does it: [`trees`] keeps the trees, [`answering`] answers, `driver` is the one task that begins
//! exchanges and builds trees, `session` is its dealings with one other replica.
//!
//! What it costs: at most so many bytes of objects a second as `anti_entropy.bytes_per_s` says, half of that for each
//! second in which clients of either side wait longer than they have to, down to a sixteenth; and for
//! partitions that are equal one small message for up to 256 of them.
//!
//! A node that starts with doubt about what it holds (a new or restored folder, a new id, damage) says that it is not ready
//! until it has compared that with whoever is there, or nothing was compared for [`PATIENCE`]: it works before that, but its copies
//! do not count for reads, so that some would be refused.

pub mod answering;
mod driver;
mod scan;
mod session;
mod stride;
pub mod trees;

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngCore;
use tokio::sync::Notify;

use self::answering::Answering;
use self::driver::Driver;
use super::cluster::Cluster;
use super::metrics::Metrics;
use super::replica::Replica;
use crate::domain::merkle::exchange::Summary;
use crate::domain::merkle::schedule::Schedule;
use crate::domain::merkle::throttle::{Limits, Throttle, Turn};
use crate::domain::ring::{NodeIndex, PartitionId};
use crate::rpc::Peer;
use crate::runtime::rng;
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::time::{self, Instant};

/// How exchanges are paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Every pair of home replicas compares each partition at least this often.
    pub period: Duration,
    /// Bytes of objects that are moved in a second, at the most.
    pub bytes_per_s: u64,
    /// Other replicas that are dealt with at one time.
    pub sessions_max: usize,
    /// Partitions that are exchanged with one of them at one time.
    pub exchanges_max: usize,
    /// An answer must come within this.
    pub ask_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(60),
            bytes_per_s: 48 << 20,
            sessions_max: 4,
            exchanges_max: 4,
            ask_timeout: Duration::from_secs(5),
        }
    }
}

/// After so long without a comparison, since nobody is there or answers, a node says that it is ready although it is in doubt: it can
/// coordinate, and take writes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How one home partition stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStats {
    /// Its number.
    pub partition: u32,
    /// The root of its tree; `None`: the tree is being built.
    pub root: Option<u64>,
    /// Keys in the tree.
    pub keys: u64,
    /// This copy may lack what was acked.
    pub doubtful: bool,
    /// Objects that exchanges begun here sent and received, since the start.
    pub shipped: (u64, u64),
    /// The other home replicas, and how long ago each was compared with by this node; `None`: not since the start.
    pub compared: Vec<(String, Option<Duration>)>,
}

/// How fast exchanges may go, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes of objects that may be moved in a second now.
    pub bytes_per_s: u64,
    /// The same, when nobody is in the way.
    pub bytes_per_s_max: u64,
    /// It is held back, since clients of this node or of another home replica wait longer than they have to: so it was when something was
    /// last moved.
    pub clients_wait: bool,
}

/// The task that exchanges. [`stop`](Self::stop) ends it.
pub struct AntiEntropy {
    shared: Arc<Shared>,
    answering: Arc<Answering>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the task, its sessions and those who look at it share.
struct Shared {
    replica: Arc<Replica>,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    options: Options,
    answering: Arc<Answering>,
    schedule: Mutex<Schedule>,
    throttle: Mutex<Throttle>,
    shipped: Mutex<BTreeMap<u32, (u64, u64)>>,
    request_ids: AtomicU64,
    started_at: Instant,
    /// When something was read or brought to compare it; the start, before that.
    compared_at: Mutex<Instant>,
    /// Nothing is in doubt, or it was not at some time, or waiting for that was given up.
    settled: AtomicBool,
    /// Rung when an operator asked for something.
    poke: Notify,
    /// Rung once: no more.
    stop: Notify,
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.schedule)
    }

    /// Waits for the turn of the next question.
    async fn turn(&self) -> Turn {
        let now = time::now();
        let turn = lock(&self.throttle).turn(now);
        if turn.at > now {
            time::sleep_until(turn.at).await;
        }
        turn
    }

    /// In this turn so many bytes were moved. `crowded`: the other side's clients wait.
    fn spent(&self, turn: Turn, bytes: usize, crowded: bool) {
        let (now, crowded) = (time::now(), crowded || self.answering.is_crowded());
        lock(&self.throttle).spent(now, turn, bytes, crowded);
        *lock(&self.compared_at) = now;
        self.metrics.repair_bytes.add(bytes as u64);
    }

    /// The other home replicas of `partition` that are live.
    fn other_homes(&self, partition: u32) -> Vec<(NodeIndex, Peer)> {
        let cluster = &self.cluster;
        let home = cluster.ring().home(PartitionId(partition)).iter().copied();
        let live = home.filter(|node| cluster.is_live(*node));
        live.filter_map(|node| Some((node, cluster.peer(node)?.clone()))).collect()
    }

    fn shipped(&self, partition: u32, summary: Summary) {
        let (sent, received) = (summary.sent, summary.received);
        self.metrics.repair_sent.add(sent);
        self.metrics.repair_received.add(received);
        let mut shipped = lock(&self.shipped);
        let counts = shipped.entry(partition).or_default();
        *counts = (counts.0 + sent, counts.1 + received);
    }
}

/// A poisoned lock means that a task panicked, which ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AntiEntropy {
    /// Starts to exchange what `replica` holds with the other home replicas in `cluster`. Nothing is to do for a node
    /// that is no owner.
    pub fn start(
        replica: Arc<Replica>,
        cluster: Arc<Cluster>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        let (ring, now) = (cluster.ring(), time::now());
        let homes = replica.trees().partitions().map(|p| (p, ring.home(PartitionId(p)).to_vec()));
        let me = cluster.me();
        let homes = homes.filter(|_| me.is_some());
        let schedule = Schedule::new(options.period, now, me.unwrap_or(NodeIndex(0)), homes);
        let limits = Limits { least: (options.bytes_per_s / 16).max(1), most: options.bytes_per_s };
        let digest = ring.digest();
        let answering = Arc::new(Answering::new(replica.clone(), metrics.clone(), digest));
        let shared = Arc::new(Shared {
            replica,
            cluster,
            metrics,
            options,
            answering: answering.clone(),
            schedule: Mutex::new(schedule),
            throttle: Mutex::new(Throttle::new(limits, now)),
            shipped: Mutex::default(),
            request_ids: AtomicU64::new(rng::fork("exchange-request-id").next_u64()),
            started_at: now,
            compared_at: Mutex::new(now),
            settled: AtomicBool::new(me.is_none()),
            poke: Notify::new(),
            stop: Notify::new(),
        });
        let task = me.map(|_| task::spawn(Driver::new(shared.clone()).run()));
        Self { shared, answering, task: Mutex::new(task) }
    }

    /// The answering side.
    pub fn answering(&self) -> &Arc<Answering> {
        &self.answering
    }

    /// True once this node has vouched for all that it holds, or has waited for that long enough. Doubt that comes later, as of a damaged
    /// table, changes nothing.
    pub fn is_settled(&self) -> bool {
        let shared = &self.shared;
        if shared.settled.load(Ordering::Acquire) {
            return true;
        }
        let alone = time::now().since(*lock(&shared.compared_at)) >= PATIENCE;
        if alone {
            shared.settled.store(true, Ordering::Release);
        }
        alone
    }

    /// Has a partition, or all, compared with every other home replica now; false: it is no home partition of this node.
    pub fn ask(&self, partition: Option<u32>) -> bool {
        let trees = self.shared.replica.trees();
        if partition.is_some_and(|partition| trees.with(partition, |_| ()).is_none()) {
            return false;
        }
        self.shared.schedule().ask(time::now(), partition);
        self.shared.poke.notify_one();
        true
    }

    /// True while something that was asked for is not done, or a copy is in doubt.
    pub fn is_busy(&self) -> bool {
        let cluster = &self.shared.cluster;
        self.shared.schedule().is_busy(|node| cluster.is_live(node))
    }

    /// The home partitions that are in doubt.
    pub fn doubtful(&self) -> Vec<u32> {
        driver::doubtful(&self.shared.replica).into_iter().collect()
    }

    /// Home partitions in doubt, and all of them.
    pub fn progress(&self) -> (usize, usize) {
        let replica = &self.shared.replica;
        (driver::doubtful(replica).len(), replica.trees().partitions().count())
    }

    /// Every home partition.
    pub fn stats(&self) -> Vec<PartitionStats> {
        let (shared, now) = (&self.shared, time::now());
        let doubtful = driver::doubtful(&shared.replica);
        let shipped = lock(&shared.shipped).clone();
        let schedule = shared.schedule();
        let trees = shared.replica.trees();
        let stats = |partition: u32| {
            let tree = trees.with(partition, |h| h.tree().map(|tree| (tree.root(), tree.keys())));
            let tree = tree.flatten();
            let ago = |at: Option<Instant>| at.map(|at| now.since(at));
            let compared = schedule.done_at(partition);
            PartitionStats {
                partition,
                root: tree.map(|(root, _)| root),
                keys: tree.map_or(0, |(_, keys)| keys),
                doubtful: doubtful.contains(&partition),
                shipped: shipped.get(&partition).copied().unwrap_or_default(),
                compared: compared
                    .map(|(with, at)| (shared.cluster.name(with).to_owned(), ago(at)))
                    .collect(),
            }
        };
        trees.partitions().map(stats).collect()
    }

    /// How fast it goes.
    pub fn pace(&self) -> Pace {
        let throttle = lock(&self.shared.throttle);
        Pace {
            bytes_per_s: throttle.rate().round() as u64,
            bytes_per_s_max: self.shared.options.bytes_per_s,
            clients_wait: throttle.is_slowed(),
        }
    }

    /// Ends the task. What is under way is given up; what was merged stays.
    pub async fn stop(&self) {
        self.shared.stop.notify_one();
        let task = lock(&self.task).take();
        if let Some(task) = task {
            // It can only fail when the process is ending.
            let _ended = task.await;
        }
    }
}
