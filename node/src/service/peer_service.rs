//! What this node does for its peers: stores, reads and coordinates at their request.

use std::sync::Arc;

use futures_util::FutureExt;

use super::anti_entropy::answering::Answering;
use super::coordinator::list;
use super::coordinator::{Coordinator, RequestError, Wanted};
use super::forgetting;
use super::gossip::Gossip;
use super::hints;
use super::metrics::Metrics;
use super::replica::{Intent, Replica, ReplicaError};
use crate::domain::key::Key;
use crate::domain::object::Content;
use crate::domain::object::lww::TooFarAhead;
use crate::rpc::identity::PeerInfo;
use crate::rpc::message::{Refusal, Reply, Request, RequestHead, WriteRequest};
use crate::rpc::{Handled, Handler};
use crate::runtime::time;
use crate::storage::{Known, WriteError};

/// Answers peers' requests.
pub struct PeerService {
    replica: Arc<Replica>,
    coordinator: Arc<Coordinator>,
    gossip: Gossip,
    answering: Arc<Answering>,
    forgetting: Arc<forgetting::Answering>,
    metrics: Arc<Metrics>,
    pair_bytes_max: usize,
}

impl PeerService {
    /// Serves `replica`, and coordinates through `coordinator`.
    pub fn new(
        replica: Arc<Replica>,
        coordinator: Arc<Coordinator>,
        gossip: Gossip,
        (answering, forgetting): (Arc<Answering>, Arc<forgetting::Answering>),
        metrics: Arc<Metrics>,
        pair_bytes_max: usize,
    ) -> Self {
        Self { replica, coordinator, gossip, answering, forgetting, metrics, pair_bytes_max }
    }
}

impl Handler for PeerService {
    fn is_member(&self, name: &str) -> bool {
        self.coordinator.cluster().ring().index_of(name).is_some() || self.gossip.knows(name)
    }

    fn handle(&self, head: RequestHead, from: &PeerInfo, request: Request) -> Handled {
        tracing::debug!(request_id = head.request_id, from = %from.name, kind = kind(&request), "peer request");
        match request {
            Request::Ping => Handled::Now(Reply::Pong),
            Request::Replicate { key, object } => {
                self.metrics.replicated.increment();
                let replica = self.replica.clone();
                Handled::Later(Box::pin(async move {
                    match replica.store(&key, object).await {
                        Ok(ticket) => stored(head, ticket.ackable_here()).await,
                        Err(error) => refused(&error),
                    }
                }))
            }
            Request::HandOver { key, object } => {
                let replica = self.replica.clone();
                Handled::Later(Box::pin(async move {
                    match replica.store(&key, object).await {
                        Ok(ticket) => stored(head, ticket.durable()).await,
                        Err(error) => refused(&error),
                    }
                }))
            }
            Request::Fetch { key, known } => {
                self.metrics.fetched.increment();
                let replica = self.replica.clone();
                // In memory it is answered at once; a task is only worth it when a disk must be read.
                at_once_or_later(fetch(replica, key, known))
            }
            Request::Hint { owner, key, object } => {
                let (replica, metrics) = (self.replica.clone(), self.metrics.clone());
                Handled::Later(Box::pin(async move {
                    match hints::keep(&replica, &metrics, &owner, &key, object) {
                        Ok(ticket) => stored(head, ticket.ackable()).await,
                        Err(error) => refused(&error),
                    }
                }))
            }
            Request::FetchHinted { key } => {
                Handled::Now(self.replica.engine().hinted(&key).map_or(Reply::Absent, Reply::Found))
            }
            Request::List(listing) => {
                Handled::Later(Box::pin(list::page(self.replica.clone(), listing)))
            }
            Request::Exchange { ring, ask } => {
                let answering = self.answering.clone();
                // Roots that are compared need no task.
                at_once_or_later(async move { answering.answer(head, ring, ask).await })
            }
            Request::Forgetting { ring, question } => {
                Handled::Later(Box::pin(self.forgetting.clone().answer(head, ring, question)))
            }
            Request::Write(write) => {
                let size = match &write.content {
                    Content::Value(value) => super::replica::pair_bytes(&write.key, value),
                    Content::Tombstone => 0,
                };
                if size > self.pair_bytes_max {
                    let limit = self.pair_bytes_max as u64;
                    return Handled::Now(Reply::Refused(Refusal::PairTooLarge { limit }));
                }
                Handled::Later(Box::pin(coordinate(self.coordinator.clone(), head, write)))
            }
        }
    }
}

/// Answers now if `answer` waits for nothing.
fn at_once_or_later(answer: impl Future<Output = Reply> + Send + 'static) -> Handled {
    let mut answer = Box::pin(answer);
    match (&mut answer).now_or_never() {
        Some(reply) => Handled::Now(reply),
        None => Handled::Later(answer),
    }
}

/// Says that it is stored once `ticked` completes.
async fn stored(head: RequestHead, ticked: impl Future<Output = Result<(), WriteError>>) -> Reply {
    match time::timeout_at(head.deadline, ticked).await {
        Ok(Ok(())) => Reply::Stored,
        Ok(Err(error)) => refused(&ReplicaError::Write(error)),
        Err(time::Elapsed) => {
            Reply::Refused(Refusal::DeadlineExceeded { required: 1, received: 0, hinted: 0 })
        }
    }
}

async fn fetch(replica: Arc<Replica>, key: Key, known: Option<u64>) -> Reply {
    match replica.read(&key).await {
        Ok(Known { object, doubtful: true }) => {
            Reply::Refused(Refusal::Doubtful { held: object.map(|object| object.digest()) })
        }
        Ok(Known { object: None, .. }) => Reply::Absent,
        Ok(Known { object: Some(object), .. }) if known == Some(object.digest()) => Reply::Same,
        Ok(Known { object: Some(object), .. }) => Reply::Found(object),
        Err(error) => refused(&error),
    }
}

async fn coordinate(
    coordinator: Arc<Coordinator>,
    head: RequestHead,
    write: WriteRequest,
) -> Reply {
    let WriteRequest { key, seen, newest_ms, content, expires_at_ms, w, sloppy, fallback } = write;
    let cluster = coordinator.cluster();
    let home = cluster.home(&key);
    let is_home = cluster.me().is_some_and(|me| home.contains(&me));
    let may = if fallback { cluster.me().is_some() } else { is_home };
    if !may || usize::from(w) > home.len() || w == 0 {
        return Reply::Refused(Refusal::NotHome);
    }
    let intent = Intent { seen, newest_ms, content, expires_at_ms };
    let wanted = Wanted { required: w, sloppy };
    let outcome = if is_home {
        coordinator.coordinate(head, &key, &intent, wanted).await
    } else {
        coordinator.coordinate_as_fallback(head, &key, &intent, wanted).await
    };
    match outcome {
        Ok(reply) => Reply::Written(reply),
        Err(error) => Reply::Refused(refusal(error)),
    }
}

fn refusal(error: RequestError) -> Refusal {
    match error {
        RequestError::QuorumUnmet { required, received, hinted } => {
            Refusal::QuorumUnmet { required, received, hinted }
        }
        RequestError::DeadlineExceeded { required, received, hinted } => {
            Refusal::DeadlineExceeded { required, received, hinted }
        }
        RequestError::TooManySiblings { limit, context } => {
            Refusal::TooManySiblings { context, limit: limit as u32 }
        }
        RequestError::TooFarAhead(TooFarAhead { ahead_ms }) => Refusal::TooFarAhead { ahead_ms },
        RequestError::PairTooLarge { limit } => Refusal::PairTooLarge { limit: limit as u64 },
        RequestError::Overloaded { retry_after_ms } => {
            Refusal::Overloaded { retry_after_ms: retry_after_ms as u32 }
        }
        RequestError::Storage(error) => Refusal::StorageStalled { reason: error.to_string() },
    }
}

fn refused(error: &ReplicaError) -> Reply {
    Reply::Refused(Refusal::StorageStalled { reason: error.to_string() })
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Replicate { .. } => "replicate",
        Request::HandOver { .. } => "hand over",
        Request::Fetch { .. } => "fetch",
        Request::Hint { .. } => "hint",
        Request::FetchHinted { .. } => "fetch hinted",
        Request::Write(_) => "write",
        Request::List(_) => "list",
        Request::Exchange { .. } => "exchange",
        Request::Forgetting { .. } => "forgetting",
        Request::Ping => "ping",
    }
}
