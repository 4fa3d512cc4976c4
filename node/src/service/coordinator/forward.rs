//! PUT and DELETE at a node that is no home replica of the key: another node has to coordinate.
//!
//! The write is sent to one node at a time, and to a second one only when the first provably did not
//! take it: two coordinators would mint two dots for one write, and the slower one could bring a
//! value back after its deletion. Home replicas come first, in the order of the preference list: one that usually
//! coordinates a key keeps the key's vector short. Only when none can be reached, a fallback coordinates:
//! this node if it is one, else (a proxy) the first that takes it.

use std::sync::Arc;

use super::write::Wanted;
use super::{Coordinator, RequestError, is_passing};
use crate::domain::key::Key;
use crate::domain::ring::NodeIndex;
use crate::rpc::CallError;
use crate::rpc::message::{Reply, Request, RequestHead, WriteReply, WriteRequest};
use crate::runtime::{event, time};
use crate::service::replica::Intent;

/// What one attempt came to.
enum Attempt {
    Done(Result<WriteReply, RequestError>),
    /// The node did not take it: another may.
    Untaken,
}

impl Coordinator {
    /// Hands the write to the first other home replica that takes it, or to a fallback.
    pub(super) async fn forward(
        self: &Arc<Self>,
        head: RequestHead,
        key: &Key,
        intent: Intent,
        wanted: Wanted,
    ) -> Result<WriteReply, RequestError> {
        self.metrics.forwarded.increment();
        let request = |fallback: bool| {
            Request::Write(WriteRequest {
                key: key.clone(),
                seen: intent.seen.clone(),
                newest_ms: intent.newest_ms,
                content: intent.content.clone(),
                expires_at_ms: intent.expires_at_ms,
                w: wanted.required,
                sloppy: wanted.sloppy,
                fallback,
            })
        };
        let home = self.cluster.home(key);
        let began = time::now();
        let give_up = (began + self.patience.unreachable).min(head.deadline);
        let to_home = request(false);
        loop {
            if let Attempt::Done(outcome) = self.attempt(head, key, home, &to_home, wanted).await {
                return outcome;
            }
            let now = time::now();
            let gone = home.iter().all(|&node| self.cluster.is_down(node));
            if wanted.sloppy && (gone || now >= began + self.patience.stand_in) {
                break;
            }
            if now + self.patience.retry >= give_up {
                return Err(self.unmet(head.deadline, wanted.required, 0, 0));
            }
            time::sleep(self.patience.retry).await;
        }
        // A home replica comes here when its own log takes no writes: it is no fallback.
        if self.cluster.me().is_some_and(|me| !home.contains(&me)) {
            return self.coordinate_as_fallback(head, key, &intent, wanted).await;
        }
        let fallbacks = self.cluster.fallbacks(key);
        match self.attempt(head, key, fallbacks, &request(true), wanted).await {
            Attempt::Done(outcome) => outcome,
            Attempt::Untaken => Err(self.unmet(head.deadline, wanted.required, 0, 0)),
        }
    }

    /// Asks `nodes`, one after the other, until one takes it.
    async fn attempt(
        &self,
        head: RequestHead,
        key: &Key,
        nodes: &[NodeIndex],
        request: &Request,
        wanted: Wanted,
    ) -> Attempt {
        let required = wanted.required;
        for &node in nodes {
            let Some(peer) = self.cluster.peer(node).filter(|_| self.cluster.is_live(node)) else {
                continue;
            };
            if peer.is_idle() {
                let deadline = (time::now() + self.patience.stand_in).min(head.deadline);
                peer.wait_usable(deadline).await;
            }
            event::note("write_forwarded", key.token().0, u64::from(node.0));
            match peer.call(head, request).await {
                Ok(Reply::Written(reply)) => return Attempt::Done(Ok(reply)),
                Ok(Reply::Refused(refusal)) if is_passing(&refusal) => {
                    tracing::debug!(request_id = head.request_id, %key, node = node.0, ?refusal, "write refused");
                }
                Ok(Reply::Refused(refusal)) => {
                    return Attempt::Done(Err(RequestError::of_refusal(refusal, required)));
                }
                Err(CallError::NotSent(_)) => {}
                Ok(_) | Err(CallError::Lost(_)) => {
                    self.metrics.quorum_unmet.increment();
                    let error = RequestError::QuorumUnmet { required, received: 0, hinted: 0 };
                    return Attempt::Done(Err(error));
                }
                Err(CallError::Deadline) => {
                    return Attempt::Done(Err(self.unmet(time::now(), required, 0, 0)));
                }
            }
        }
        Attempt::Untaken
    }
}
