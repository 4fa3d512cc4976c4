//! One request's story: whom to ask, how long to wait, what to answer.
//!
//! ```text
//! GET   any node coordinates: own copy first, then R-1 home replicas, one more each time they are
//!       slow; merge; answer; repair whoever was stale.
//! PUT   a home replica coordinates: mint and log here, send the merged object to the other homes,
//!       answer after W durable acks. Any other node forwards to the first home that takes it.
//! ```
//!
//! A forwarded write is sent to one home at a time, and to a second one only when the first provably
//! did not take it: two coordinators would mint two dots for one write, and the slower one could
//! bring a value back after its deletion.
//!
//! A replica that can't be reached is asked again until the request's deadline, but no longer than
//! `patience`: a request that cannot meet its quorum fails then instead of holding on to memory.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::metrics::Metrics;
use super::replica::{Intent, Minted, Replica, ReplicaError};
use crate::domain::causality::CausalContext;
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::domain::quorum::{ReadAnswer, ReadTally, Standing, WriteTally};
use crate::domain::ring::{NodeIndex, Ring};
use crate::rpc::message::{Refusal, Reply, Request, RequestHead, WriteReply, WriteRequest};
use crate::rpc::{CallError, NotSent, Peer};
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, task};

/// How a coordinator waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long an unreachable replica is tried again within one request.
    pub unreachable: Duration,
    /// After this long without an answer a read asks one more replica.
    pub hedge: Duration,
    /// Pause between two tries.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            unreachable: Duration::from_millis(1500),
            hedge: Duration::from_millis(50),
            retry: Duration::from_millis(25),
        }
    }
}

/// Read repairs under way at once; more are skipped and counted, since the next read repairs too.
const REPAIRS_MAX: usize = 256;

/// Why a request failed. A write that failed its quorum may live on: the outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too few replicas could be reached.
    #[error(
        "{received} of {required} required replicas answered, and no more can be reached now: try again"
    )]
    QuorumUnmet {
        /// R or W.
        required: u8,
        /// Replicas that answered.
        received: u8,
        /// Of these, fallbacks with a hint.
        hinted: u8,
    },
    /// Too few replicas answered before the deadline.
    #[error(
        "{received} of {required} required replicas answered before the deadline: try again, or allow more time with timeout_ms"
    )]
    DeadlineExceeded {
        /// R or W.
        required: u8,
        /// Replicas that answered.
        received: u8,
        /// Of these, fallbacks with a hint.
        hinted: u8,
    },
    /// The key has too many siblings. Nothing was written.
    #[error(
        "the key has {limit} siblings or more: read it, merge them, and write with the context of that read"
    )]
    TooManySiblings {
        /// The limit.
        limit: usize,
        /// A context that covers the siblings.
        context: CausalContext,
    },
    /// The node that had to do it is over capacity. Nothing was written.
    #[error("the node is over capacity: try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The pair is too large. Nothing was written.
    #[error(
        "key and value together are over the limit of {limit} bytes: store less, or raise limits.pair_bytes"
    )]
    PairTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// This node's own storage failed. Nothing was written.
    #[error(transparent)]
    Storage(ReplicaError),
}

/// Coordinates requests for any key.
pub struct Coordinator {
    me: NodeIndex,
    ring: Arc<Ring>,
    peers: Vec<Option<Peer>>,
    replica: Arc<Replica>,
    metrics: Arc<Metrics>,
    patience: Patience,
    repairs: Arc<tokio::sync::Semaphore>,
}

impl Coordinator {
    /// A coordinator on the node `me`. `peers` has an entry for each ring member, `None` for `me`.
    pub fn new(
        me: NodeIndex,
        ring: Arc<Ring>,
        peers: Vec<Option<Peer>>,
        replica: Arc<Replica>,
        metrics: Arc<Metrics>,
        patience: Patience,
    ) -> Self {
        assert_eq!(peers.len(), ring.members().len(), "one entry for each member");
        let repairs = Arc::new(tokio::sync::Semaphore::new(REPAIRS_MAX));
        Self { me, ring, peers, replica, metrics, patience, repairs }
    }

    /// The ring that requests are routed by.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The connection to a member; `None` for this node itself.
    pub fn peer(&self, node: NodeIndex) -> Option<&Peer> {
        self.peers[usize::from(node.0)].as_ref()
    }

    /// Reads `key` from `required` home replicas and merges what they say. Stale ones among them
    /// are repaired afterwards.
    ///
    /// # Errors
    /// [`RequestError::QuorumUnmet`] and [`RequestError::DeadlineExceeded`].
    pub async fn read(
        &self,
        head: RequestHead,
        key: &Key,
        required: u8,
    ) -> Result<Option<Arc<Object>>, RequestError> {
        self.metrics.reads.increment();
        let home = self.ring.home(self.ring.partition_of(key.token()));
        let mut tally = ReadTally::new(required, 0);
        let mut known = None;
        if home.contains(&self.me) {
            tally.ask();
            match self.replica.read(key).await {
                Ok(object) => {
                    known.clone_from(&object);
                    tally.reply(self.me, object);
                }
                Err(error) => {
                    tracing::warn!(request_id = head.request_id, %key, %error, "own copy is unreadable");
                    tally.fail();
                }
            }
        }
        if tally.standing() != Standing::Met {
            self.ask_homes(head, key, known.as_ref(), home, &mut tally).await?;
        }
        let answer = tally.answer();
        self.repair(head.request_id, key, &answer);
        Ok(answer.object)
    }

    /// Asks the other homes, nearest in the list after this node first, until the tally is met.
    async fn ask_homes(
        &self,
        head: RequestHead,
        key: &Key,
        known: Option<&Arc<Object>>,
        home: &[NodeIndex],
        tally: &mut ReadTally,
    ) -> Result<(), RequestError> {
        let request =
            Request::Fetch { key: key.clone(), known: known.map(|object| object.digest()) };
        let start = home.iter().position(|&node| node == self.me).map_or(0, |at| at + 1);
        let order = home.iter().cycle().skip(start).take(home.len());
        let mut rest: Vec<NodeIndex> = order.copied().filter(|&node| node != self.me).collect();
        // Usable ones first, each group in ring order; then taken from the back.
        rest.sort_by_key(|&node| !self.peer(node).is_some_and(Peer::is_usable));
        rest.reverse();
        let mut waiting = FuturesUnordered::new();
        let mut hedge_at = time::now() + self.patience.hedge;
        loop {
            let wanted = tally.required().saturating_sub(tally.received()) as usize;
            while waiting.len() < wanted {
                let Some(node) = rest.pop() else { break };
                tally.ask();
                waiting.push(self.ask(node, head, &request));
            }
            match tally.standing() {
                Standing::Met => return Ok(()),
                Standing::Unmeetable => return Err(self.unmet_read(head.deadline, tally)),
                Standing::Waiting => {}
            }
            tokio::select! {
                biased;
                reply = waiting.next() => match reply {
                    Some((node, Ok(Reply::Found(object)))) => tally.reply(node, Some(object)),
                    Some((node, Ok(Reply::Same))) => tally.reply(node, known.cloned()),
                    Some((node, Ok(Reply::Absent))) => tally.reply(node, None),
                    Some((node, other)) => {
                        tracing::debug!(request_id = head.request_id, %key, node = node.0, ?other, "read failed");
                        tally.fail();
                    }
                    None => {}
                },
                () = time::sleep_until(hedge_at), if !rest.is_empty() => {
                    hedge_at = time::now() + self.patience.hedge;
                    if let Some(node) = rest.pop() {
                        self.metrics.hedged_reads.increment();
                        event::note("read_hedged", key.token().0, u64::from(node.0));
                        tally.ask();
                        waiting.push(self.ask(node, head, &request));
                    }
                }
            }
        }
    }

    fn unmet_read(&self, deadline: Instant, tally: &ReadTally) -> RequestError {
        self.unmet(deadline, tally.required(), tally.received())
    }

    fn unmet(&self, deadline: Instant, required: u8, received: u8) -> RequestError {
        if time::now() >= deadline {
            self.metrics.deadline_exceeded.increment();
            RequestError::DeadlineExceeded { required, received, hinted: 0 }
        } else {
            self.metrics.quorum_unmet.increment();
            RequestError::QuorumUnmet { required, received, hinted: 0 }
        }
    }

    async fn ask(
        &self,
        node: NodeIndex,
        head: RequestHead,
        request: &Request,
    ) -> (NodeIndex, Result<Reply, CallError>) {
        let Some(peer) = self.peer(node) else {
            return (node, Err(NotSent::NotConnected.into()));
        };
        (node, ask(peer, self.patience, head, request).await)
    }

    /// Sends the merge to those who lack part of it, in the background.
    fn repair(&self, request_id: u64, key: &Key, answer: &ReadAnswer) {
        let Some(object) = &answer.object else { return };
        for &node in &answer.stale {
            let Ok(permit) = self.repairs.clone().try_acquire_owned() else {
                self.metrics.read_repairs_skipped.increment();
                continue;
            };
            self.metrics.read_repairs.increment();
            event::note("read_repair", key.token().0, u64::from(node.0));
            let (key, object) = (key.clone(), object.clone());
            let deadline = time::now() + self.patience.unreachable;
            let head = RequestHead { request_id, deadline };
            match self.peer(node).cloned() {
                None => {
                    let replica = self.replica.clone();
                    task::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = replica.store(&key, object).await {
                            tracing::debug!(request_id, %key, %error, "own copy was not repaired");
                        }
                    });
                }
                Some(peer) => {
                    let patience = self.patience;
                    task::spawn(async move {
                        let _permit = permit;
                        let request = Request::Replicate { key, object };
                        match ask(&peer, patience, head, &request).await {
                            Ok(Reply::Stored) => {}
                            other => {
                                tracing::debug!(
                                    request_id,
                                    node = node.0,
                                    ?other,
                                    "read repair failed"
                                );
                            }
                        }
                    });
                }
            }
        }
    }

    /// Writes `intent` under `key` with `required` acks, here or at a home replica.
    ///
    /// # Errors
    /// [`RequestError`]; after `QuorumUnmet` and `DeadlineExceeded` the outcome is unknown.
    pub async fn write(
        &self,
        head: RequestHead,
        key: &Key,
        intent: Intent,
        required: u8,
    ) -> Result<WriteReply, RequestError> {
        let home = self.ring.home(self.ring.partition_of(key.token()));
        if !home.contains(&self.me) {
            return self.forward(head, key, intent, required, home).await;
        }
        match self.coordinate(head, key, intent.clone(), required).await {
            Err(RequestError::Storage(error)) => {
                // Nothing was minted here, so another home may do it in full.
                tracing::warn!(request_id = head.request_id, %key, %error, "own log takes no writes: forwarding");
                self.forward(head, key, intent, required, home).await
            }
            outcome => outcome,
        }
    }

    /// Mints and logs here, replicates, and answers after `required` durable acks.
    ///
    /// # Errors
    /// [`RequestError`]; after `Storage` and `TooManySiblings` nothing was written.
    pub async fn coordinate(
        &self,
        head: RequestHead,
        key: &Key,
        intent: Intent,
        required: u8,
    ) -> Result<WriteReply, RequestError> {
        self.metrics.writes.increment();
        let Minted { object, context, ticket } =
            self.replica.write(key, intent).await.map_err(|error| self.refusal(error))?;
        let siblings = object.siblings().len() as u32;
        let home = self.ring.home(self.ring.partition_of(key.token()));
        let mut tally = WriteTally::new(required, home.len() as u8);
        let request = Request::Replicate { key: key.clone(), object };
        let mut waiting: FuturesUnordered<_> = home
            .iter()
            .filter(|&&node| node != self.me)
            .map(|&node| self.ask(node, head, &request))
            .collect();
        let durable = time::timeout_at(head.deadline, ticket.durable());
        let mut durable = std::pin::pin!(durable);
        let mut logged = false;
        loop {
            match tally.standing() {
                Standing::Met => break,
                Standing::Unmeetable => {
                    return Err(self.unmet(head.deadline, required, tally.received));
                }
                Standing::Waiting => {}
            }
            tokio::select! {
                biased;
                Some((node, reply)) = waiting.next(), if !waiting.is_empty() => match reply {
                    Ok(Reply::Stored) => tally.ack(),
                    other => {
                        tracing::debug!(request_id = head.request_id, %key, node = node.0, ?other, "write failed");
                        tally.fail();
                    }
                },
                outcome = &mut durable, if !logged => {
                    logged = true;
                    match outcome {
                        Ok(Ok(())) => tally.ack(),
                        Ok(Err(_)) | Err(time::Elapsed) => tally.fail(),
                    }
                }
            }
        }
        let WriteTally { received, hinted, .. } = tally;
        Ok(WriteReply { context, siblings, required, received, hinted })
    }

    fn refusal(&self, error: ReplicaError) -> RequestError {
        match error {
            ReplicaError::TooManySiblings { limit, context, .. } => {
                self.metrics.too_many_siblings.increment();
                RequestError::TooManySiblings { limit, context }
            }
            error @ (ReplicaError::Read(_) | ReplicaError::Write(_) | ReplicaError::Epochs(_)) => {
                RequestError::Storage(error)
            }
        }
    }

    /// Hands the write to the first other home replica that takes it.
    async fn forward(
        &self,
        head: RequestHead,
        key: &Key,
        intent: Intent,
        required: u8,
        home: &[NodeIndex],
    ) -> Result<WriteReply, RequestError> {
        self.metrics.forwarded.increment();
        let request = Request::Write(WriteRequest {
            key: key.clone(),
            seen: intent.seen,
            content: intent.content,
            expires_at_ms: intent.expires_at_ms,
            w: required,
            sloppy: true,
        });
        let give_up = (time::now() + self.patience.unreachable).min(head.deadline);
        loop {
            for &node in home {
                let Some(peer) = self.peer(node).filter(|peer| peer.is_usable()) else { continue };
                event::note("write_forwarded", key.token().0, u64::from(node.0));
                match peer.call(head, &request).await {
                    Ok(Reply::Written(reply)) => return Ok(reply),
                    Ok(Reply::Refused(refusal)) if is_passing(&refusal) => {
                        tracing::debug!(request_id = head.request_id, %key, node = node.0, ?refusal, "write refused");
                    }
                    Ok(Reply::Refused(refusal)) => {
                        return Err(self.forwarded_error(refusal, required));
                    }
                    Err(CallError::NotSent(_)) => {}
                    Ok(_) | Err(CallError::Lost(_)) => {
                        self.metrics.quorum_unmet.increment();
                        return Err(RequestError::QuorumUnmet { required, received: 0, hinted: 0 });
                    }
                    Err(CallError::Deadline) => return Err(self.unmet(time::now(), required, 0)),
                }
            }
            if time::now() + self.patience.retry >= give_up {
                return Err(self.unmet(head.deadline, required, 0));
            }
            time::sleep(self.patience.retry).await;
        }
    }

    fn forwarded_error(&self, refusal: Refusal, required: u8) -> RequestError {
        match refusal {
            Refusal::TooManySiblings { context, limit } => {
                RequestError::TooManySiblings { limit: limit as usize, context }
            }
            Refusal::QuorumUnmet { required, received, hinted } => {
                RequestError::QuorumUnmet { required, received, hinted }
            }
            Refusal::DeadlineExceeded { required, received, hinted } => {
                RequestError::DeadlineExceeded { required, received, hinted }
            }
            Refusal::PairTooLarge { limit } => RequestError::PairTooLarge { limit: limit as usize },
            Refusal::Overloaded { retry_after_ms } => {
                RequestError::Overloaded { retry_after_ms: u64::from(retry_after_ms) }
            }
            Refusal::StorageStalled { .. } | Refusal::NotHome | Refusal::Unready => {
                RequestError::QuorumUnmet { required, received: 0, hinted: 0 }
            }
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

/// True when the node refused without beginning anything, for a reason that passes or is its own:
/// another node, or the same one later, may do it.
fn is_passing(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Overloaded { .. }
        | Refusal::StorageStalled { .. }
        | Refusal::NotHome
        | Refusal::Unready => true,
        Refusal::TooManySiblings { .. }
        | Refusal::QuorumUnmet { .. }
        | Refusal::DeadlineExceeded { .. }
        | Refusal::PairTooLarge { .. } => false,
    }
}
