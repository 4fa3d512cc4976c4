//! Hinted handoff: what this node keeps for other members finds its way to them.
//!
//! ```text
//! a write's owner is away ──▶ keep() on a fallback ──▶ commit log        (acked: it is durable)
//! the owner is back       ──▶ Handoff ── HandOver ──▶ owner: merged, on disk ──▶ hint forgotten
//! ```
//!
//! One task replays, to few owners at once, in key order, as fast as a [`Pacer`](crate::domain::hint)
//! allows. A hint is forgotten only when its owner has acked it durably and it has not grown since;
//! a crash in between replays it again, which changes nothing at the owner.
//!
//! An owner that left the ring never comes back for its hints, and one that stays may be a home replica
//! of the key no longer: then the hint goes to every current home replica of its key, and is
//! forgotten when all of them have acked it.
//!
//! Hints older than [`Options::max_age`] are dropped, counted and logged: anti-entropy brings their
//! owner what it lacks. The age is by this machine's clock, so a clock that jumps ahead ends hints early.
//!
//! Source: DeCandia et al., "Dynamo" (2007), 4.6.

mod replay;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::metrics::{KINDS, Metrics};
use super::replica::{Replica, ReplicaError};
use crate::domain::hint::{Limits, Pacer};
use crate::domain::key::{Key, murmur3};
use crate::domain::object::Object;
use crate::rpc::Peer;
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::{event, time};
use crate::storage::{Ticket, WriteError};
use replay::Replay;

/// Who the owners of hints are, and where: membership as far as hints need it.
pub trait Owners: Send + Sync + 'static {
    /// True while the member is in the ring, up or down. Once it is not, its hints go elsewhere: a
    /// member that is only not known yet must be one.
    fn is_member(&self, owner: &str) -> bool;

    /// The connection to a member that is believed to be up; `None`: it isn't, or isn't reachable.
    fn live_peer(&self, owner: &str) -> Option<Peer>;

    /// The home replicas of a key by the ring of now, up or down.
    fn homes(&self, key: &Key) -> Vec<Home>;

    /// Completes when one of the above may have changed since the call. One that is missed costs
    /// [`Options::check_interval`]. It must not complete for ever without a change.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// What client requests to this node take now, smoothed; `None`: there are none.
    fn foreground_latency(&self) -> [Option<Duration>; KINDS];
}

/// A home replica of a key.
#[derive(Clone, Debug)]
pub enum Home {
    /// This node.
    Here,
    /// Another one.
    Peer {
        /// Its member name.
        name: Arc<str>,
        /// The connection to it.
        peer: Peer,
    },
}

/// How hints are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Owners that are replayed to at once; the others wait for their turn.
    pub owners_max: usize,
    /// Bytes of objects on their way to all owners together. One hint may always be.
    pub in_flight_bytes_max: usize,
    /// Hints that did not grow for so long are dropped.
    pub max_age: Duration,
    /// An owner's ack must come within this.
    pub ack_timeout: Duration,
    /// Everything is looked at anew this often, whether or not something is known to have changed.
    pub check_interval: Duration,
    /// A member must be out of the ring for so long before its hints go elsewhere.
    pub absent_for: Duration,
    /// The pace for each owner.
    pub pace: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owners_max: 2,
            in_flight_bytes_max: 1 << 20,
            max_age: Duration::from_secs(3 * 3600),
            ack_timeout: Duration::from_secs(5),
            check_interval: Duration::from_secs(1),
            absent_for: Duration::from_secs(5),
            pace: Limits::default(),
        }
    }
}

/// What is kept for one owner, and how it goes, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerStats {
    /// The member's name.
    pub owner: Arc<str>,
    /// Hints.
    pub count: u64,
    /// What they weigh in memory, in bytes.
    pub bytes: u64,
    /// When the one that is oldest was stored or last grew, in Unix milliseconds.
    pub oldest_ms: u64,
    /// Hints delivered in a second, lately.
    pub rate_per_s: f64,
    /// Seconds until all are delivered at that rate; `None`: nothing was delivered lately.
    pub drain_s: Option<f64>,
    /// `waiting` for the owner, `queued` behind other owners, `replaying`, `re-resolving` (to the home
    /// replicas of now), or `paused` after a failure.
    pub state: &'static str,
}

/// Keeps `object` for `owner`, and counts it. The ticket resolves once it is durable here.
///
/// # Errors
/// [`ReplicaError::Write`]: nothing is kept, so nothing may be acked.
pub fn keep(
    replica: &Replica,
    metrics: &Metrics,
    owner: &str,
    key: &Key,
    object: Arc<Object>,
) -> Result<Ticket, ReplicaError> {
    let kept = replica.store_hint(owner, key, object);
    count(metrics, owner, key, kept.as_ref());
    kept
}

/// Counts a hint for `owner` that was kept, or was not.
pub fn count<T>(metrics: &Metrics, owner: &str, key: &Key, kept: Result<&T, &ReplicaError>) {
    match kept {
        Ok(_) => {
            metrics.hints_stored.increment();
            event::note("hint_stored", key.token().0, owner_token(owner));
        }
        Err(ReplicaError::Write(WriteError::HintsFull { .. })) => {
            metrics.hints_refused.increment();
            event::note("hint_refused", key.token().0, owner_token(owner));
        }
        Err(_) => {}
    }
}

/// How events name an owner.
fn owner_token(owner: &str) -> u64 {
    murmur3(owner.as_bytes()).0
}

/// The task that replays hints. Dropping it does not end the task; [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct Handoff {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the task and those who look at it share.
struct Shared {
    replica: Arc<Replica>,
    progress: Mutex<BTreeMap<Arc<str>, Progress>>,
    /// Rung when a hint was stored.
    poke: Notify,
    /// Rung once: no more.
    stop: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("handoff")
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Progress>> {
        // A panic anywhere ends the process.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How it goes with one owner, as the task last said.
#[derive(Clone, Debug)]
struct Progress {
    state: &'static str,
    pacer: Pacer,
}

impl Handoff {
    /// Starts to replay what `replica` keeps.
    ///
    /// # Panics
    /// When `options` allow no owner, or nothing in flight.
    pub fn start(
        replica: Arc<Replica>,
        owners: Arc<dyn Owners>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        assert!(options.owners_max > 0, "without owners nothing is replayed");
        let progress = Mutex::default();
        let (poke, stop) = (Notify::new(), Notify::new());
        let shared = Arc::new(Shared { replica, progress, poke, stop });
        let replay = Replay::new(shared.clone(), owners, metrics, options);
        let task = Mutex::new(Some(task::spawn(replay.run())));
        Self { shared, task }
    }

    /// Says that a hint was stored, so that an owner who is there gets it soon.
    pub fn poke(&self) {
        self.shared.poke.notify_one();
    }

    /// What is kept for whom, by name, and how it goes.
    pub fn stats(&self) -> Vec<OwnerStats> {
        let kept = self.shared.replica.engine().hint_owners();
        let (now, progress) = (time::now(), self.shared.progress());
        let stats = kept.into_iter().map(|kept| {
            let progress = progress.get(&kept.owner);
            let drain = progress.and_then(|progress| progress.pacer.drain(now, kept.count));
            OwnerStats {
                rate_per_s: progress.map_or(0.0, |progress| progress.pacer.rate_per_s(now)),
                drain_s: drain.map(|drain| drain.as_secs_f64()),
                state: progress.map_or("waiting", |progress| progress.state),
                owner: kept.owner,
                count: kept.count,
                bytes: kept.bytes,
                oldest_ms: kept.oldest_ms,
            }
        });
        stats.collect()
    }

    /// Ends the replay. What is on its way may still arrive; what was not acked is kept.
    pub async fn stop(&self) {
        self.shared.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // It can only fail when the process is ending.
            let _ended = task.await;
        }
    }
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;
