//! Where the copies of one write go: to its home replicas, and in place of one that is away to the next
//! fallback, which keeps the object durably with a hint that names the owner.
//!
//! ```text
//! home is live     ask it; no ack within `stand_in`: ask a fallback as well, whoever acks first
//! home is not live ask a fallback at once; the home only if gossip does not say that it is down
//! no fallback      this node keeps the hint itself, which is no further ack: it holds a copy already
//! ```
//!
//! Each fallback is asked to stand in for one home, so acks are of distinct nodes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Coordinator;
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::domain::ring::NodeIndex;
use crate::rpc::message::{Reply, Request, RequestHead};
use crate::runtime::time;
use crate::service::hints;

/// What became of one home replica's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is durable there.
    Home,
    /// A fallback keeps it durably, with a hint.
    Fallback,
    /// The coordinator itself keeps the hint.
    Here,
    /// Nobody took it in time.
    Nowhere,
}

/// One write, on its way to those who are to keep it.
pub(super) struct Copies {
    coordinator: Arc<Coordinator>,
    head: RequestHead,
    key: Key,
    object: Arc<Object>,
    request: Request,
    /// Fallbacks that were asked to stand in.
    asked: AtomicUsize,
}

impl Copies {
    /// The write of `object` under `key`, which lives on for [`placing`](super::Patience::placing) at
    /// least, whatever its client's deadline.
    pub(super) fn new(
        coordinator: Arc<Coordinator>,
        head: RequestHead,
        key: Key,
        object: Arc<Object>,
    ) -> Arc<Self> {
        let placing = time::now() + coordinator.patience.placing;
        let head = RequestHead { deadline: head.deadline.max(placing), ..head };
        let request = Request::Replicate { key: key.clone(), object: object.clone() };
        Arc::new(Self { coordinator, head, key, object, request, asked: AtomicUsize::new(0) })
    }

    /// Places the copy of `home`.
    pub(super) async fn place(self: Arc<Self>, home: NodeIndex) -> Placed {
        let cluster = &self.coordinator.cluster;
        let mut direct = pin!(self.store(home));
        if cluster.is_live(home) {
            tokio::select! {
                biased;
                stored = &mut direct => if stored {
                    return Placed::Home;
                } else {
                    return self.stand_in(home).await;
                },
                () = time::sleep(self.coordinator.patience.stand_in) => {}
            }
        }
        if cluster.is_down(home) {
            return self.stand_in(home).await;
        }
        let mut stand_in = pin!(self.stand_in(home));
        tokio::select! {
            biased;
            stored = &mut direct => if stored { Placed::Home } else { stand_in.await },
            placed = &mut stand_in => match placed {
                Placed::Home | Placed::Fallback => placed,
                // No ack yet: the home may still give one.
                Placed::Here | Placed::Nowhere => if direct.await { Placed::Home } else { placed },
            },
        }
    }

    async fn store(&self, home: NodeIndex) -> bool {
        let reply = self.coordinator.ask(home, self.head, &self.request).await;
        if !matches!(reply, Ok(Reply::Stored)) {
            tracing::debug!(request_id = self.head.request_id, key = %self.key, node = home.0, ?reply, "copy was not stored");
        }
        matches!(reply, Ok(Reply::Stored))
    }

    /// Finds somebody to keep the copy of `owner`.
    async fn stand_in(&self, owner: NodeIndex) -> Placed {
        let coordinator = &self.coordinator;
        let cluster = &coordinator.cluster;
        let owner = cluster.name(owner);
        let request = Request::Hint {
            owner: owner.into(),
            key: self.key.clone(),
            object: self.object.clone(),
        };
        while let Some(fallback) = self.next_fallback() {
            let Some(peer) = cluster.peer(fallback) else { continue };
            let deadline = (time::now() + coordinator.patience.unreachable).min(self.head.deadline);
            if peer.is_idle() {
                peer.wait_usable(deadline).await;
            }
            match peer.call(RequestHead { deadline, ..self.head }, &request).await {
                Ok(Reply::Stored) => return Placed::Fallback,
                reply => {
                    tracing::debug!(request_id = self.head.request_id, key = %self.key, node = fallback.0, ?reply, "hint was not stored");
                }
            }
        }
        let (replica, object) = (&coordinator.replica, self.object.clone());
        match hints::keep(replica, &coordinator.metrics, owner, &self.key, object) {
            Ok(ticket) => match ticket.ackable().await {
                Ok(()) => Placed::Here,
                Err(_closed) => Placed::Nowhere,
            },
            Err(error) => {
                tracing::debug!(request_id = self.head.request_id, key = %self.key, %error, "hint was not kept here");
                Placed::Nowhere
            }
        }
    }

    /// The next live fallback, other than this node, that was not asked yet.
    fn next_fallback(&self) -> Option<NodeIndex> {
        let cluster = &self.coordinator.cluster;
        let fallbacks = cluster.fallbacks(&self.key);
        loop {
            let fallback = *fallbacks.get(self.asked.fetch_add(1, Ordering::Relaxed))?;
            if Some(fallback) != cluster.me() && cluster.is_live(fallback) {
                return Some(fallback);
            }
        }
    }
}
