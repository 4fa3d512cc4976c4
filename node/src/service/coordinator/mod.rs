//! One request's story: whom to ask, how long to wait, what to answer.
//!
//! ```text
//! GET   any node coordinates: own copy first, then R-1 home replicas, one more each time they are
//!       slow; merge; answer; repair whoever was stale.                                       read
//! PUT   a home replica coordinates: mint and log here, place a copy with every other home (or with
//!       somebody who keeps it for a home that is away), answer after W durable acks.       write, place
//!       Any other node forwards to the first home that takes it.                           forward
//! list  a page of keys from each of R home replicas; merge; answer; repair.                   list
//! ```
//!
//! A request that is not sloppy is met by home replicas alone. A sloppy one (the default) counts fallbacks
//! too: for a write those that hold it durably with a hint; for a read those that hold the key for a
//! home replica that is away. A fallback that holds nothing never counts.
//!
//! A replica that can't be reached is asked again until the request's deadline, but no longer than
//! [`Patience::unreachable`]: a request that cannot meet its quorum fails then instead of holding on to
//! memory. What was promised to go on after the answer is bounded too ([`BACKGROUND_MAX`]).
//!
//! Sources: `DeCandia` et al., "Dynamo" (2007), sections 4.5 and 4.6.

mod error;
mod forward;
pub(in crate::service) mod list;
mod place;
mod read;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cluster::Cluster;
use super::metrics::Metrics;
use super::replica::{Replica, ReplicaError};
use crate::domain::key::Key;
use crate::domain::ring::NodeIndex;
use crate::rpc::message::{Reply, Request, RequestHead};
use crate::rpc::{CallError, NotSent, Peer};
use crate::runtime::event;
use crate::runtime::time::{self, Instant};

pub use error::RequestError;
use error::is_passing;
pub use write::Wanted;

/// How a coordinator waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long an unreachable replica is tried again within one request.
    pub unreachable: Duration,
    /// After this long without an answer a read asks one more replica.
    pub hedge: Duration,
    /// After this long without an ack of a home replica, somebody else is asked to keep its copy.
    pub stand_in: Duration,
    /// How long copies of a write are placed after its client has gone.
    pub placing: Duration,
    /// Pause between two tries.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            unreachable: Duration::from_millis(1500),
            hedge: Duration::from_millis(50),
            stand_in: Duration::from_millis(300),
            placing: Duration::from_secs(3),
            retry: Duration::from_millis(25),
        }
    }
}

/// Read repairs, and writes of which copies are still being placed, at one time after their clients
/// were answered. More are given up and counted: the next read repairs too.
pub const BACKGROUND_MAX: usize = 4096;

/// Between two log lines about keys with many siblings.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// Coordinates requests for any key.
pub struct Coordinator {
    cluster: Arc<Cluster>,
    replica: Arc<Replica>,
    metrics: Arc<Metrics>,
    patience: Patience,
    background: Arc<Semaphore>,
    /// When a key with many siblings was last logged, as nanoseconds of the monotonic clock; 0: never.
    warned_ns: AtomicU64,
    /// When each node last said that its copy of something is in doubt, as nanoseconds of the monotonic clock; 0: never.
    doubtful_ns: Vec<AtomicU64>,
}

/// Who said that its copy is in doubt is asked last for so long: while it heals, a read that asks it first takes a hop more, and
/// gives it an object that an exchange is about to bring.
const DOUBTFUL_FOR: Duration = Duration::from_secs(1);

impl Coordinator {
    /// A coordinator of this node's requests.
    pub fn new(
        cluster: Arc<Cluster>,
        replica: Arc<Replica>,
        metrics: Arc<Metrics>,
        patience: Patience,
    ) -> Self {
        let background = Arc::new(Semaphore::new(BACKGROUND_MAX));
        let warned_ns = AtomicU64::new(0);
        let nodes = cluster.ring().members().len();
        let doubtful_ns = (0..nodes).map(|_| AtomicU64::new(0)).collect();
        Self { cluster, replica, metrics, patience, background, warned_ns, doubtful_ns }
    }

    /// The ring that requests are routed by, and who is there.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Takes note that `node` could not vouch for what it was asked.
    fn note_doubtful(&self, node: NodeIndex) {
        if let Some(at) = self.doubtful_ns.get(usize::from(node.0)) {
            at.store(time::now().as_nanos().max(1), Ordering::Relaxed);
        }
    }

    /// True when `node` could not vouch for what it was asked a moment ago, so that others are better asked first.
    fn was_doubtful(&self, node: NodeIndex, now: Instant) -> bool {
        let at =
            self.doubtful_ns.get(usize::from(node.0)).map_or(0, |at| at.load(Ordering::Relaxed));
        at > 0 && now.since(Instant::from_nanos(at)) < DOUBTFUL_FOR
    }

    /// Tells the operator of a key that has many siblings after a write: each in a counter, now and then one in the log.
    fn note_siblings(&self, key: &Key, siblings: usize) {
        if siblings < self.replica.rules().siblings_warn {
            return;
        }
        self.metrics.many_siblings.increment();
        event::note("many_siblings", key.token().0, siblings as u64);
        let now = time::now();
        let last_ns = self.warned_ns.load(Ordering::Relaxed);
        if last_ns > 0 && now.since(Instant::from_nanos(last_ns)) < WARNING_PAUSE {
            return;
        }
        self.warned_ns.store(now.as_nanos().max(1), Ordering::Relaxed);
        tracing::warn!(
            %key, siblings, limit = self.replica.rules().siblings_max,
            "the key has many siblings: its writers should send the context of their last read; see starling conflicts"
        );
    }

    /// A place among the work that goes on after an answer; `None`: there is too much of it.
    fn stay(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.background.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.metrics.background_skipped.increment();
        }
        permit
    }

    fn unmet(&self, deadline: Instant, required: u8, received: u8, hinted: u8) -> RequestError {
        if time::now() >= deadline {
            self.metrics.deadline_exceeded.increment();
            RequestError::DeadlineExceeded { required, received, hinted }
        } else {
            self.metrics.quorum_unmet.increment();
            RequestError::QuorumUnmet { required, received, hinted }
        }
    }

    fn refusal(&self, error: ReplicaError) -> RequestError {
        match error {
            ReplicaError::TooManySiblings { limit, context, .. } => {
                self.metrics.too_many_siblings.increment();
                RequestError::TooManySiblings { limit, context }
            }
            ReplicaError::TooFarAhead(error) => RequestError::TooFarAhead(error),
            error @ (ReplicaError::Read(_) | ReplicaError::Write(_) | ReplicaError::Epochs(_)) => {
                RequestError::Storage(error)
            }
        }
    }

    /// [`ask`]s the peer of `node`.
    async fn ask(
        &self,
        node: NodeIndex,
        head: RequestHead,
        request: &Request,
    ) -> Result<Reply, CallError> {
        match self.cluster.peer(node) {
            Some(peer) => ask(peer, self.patience, head, request).await,
            None => Err(NotSent::NotConnected.into()),
        }
    }
}

/// Asks one replica, again and again while it can't be reached and patience lasts. Only for requests
/// that may be carried out twice.
async fn ask(
    peer: &Peer,
    patience: Patience,
    head: RequestHead,
    request: &Request,
) -> Result<Reply, CallError> {
    let give_up = (time::now() + patience.unreachable).min(head.deadline);
    if peer.is_idle() {
        peer.wait_usable(give_up).await;
    }
    loop {
        let result = peer.call(head, request).await;
        let again = match &result {
            Ok(Reply::Refused(refusal)) => is_passing(refusal),
            Ok(_) | Err(CallError::Deadline) => false,
            Err(CallError::NotSent(_) | CallError::Lost(_)) => true,
        };
        if !again || time::now() + patience.retry >= give_up {
            return result;
        }
        time::sleep(patience.retry).await;
        peer.wait_usable(give_up).await;
    }
}
