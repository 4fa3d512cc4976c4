//! PUT and DELETE at their coordinator.
//!
//! ```text
//! home replica   mint on the key's state ─ log ─┬─ own fsync ───────────────┐
//!                                              ├─ copy to home 2 ──────────┼─ W acks: answer
//!                                              └─ copy to home 3, or to a  ─┘   (the rest goes on)
//!                                                 fallback in its stead
//! fallback       (no home replica can be reached) mint on nothing, always with a fresh actor ─ keep it
//!                as a hint for the first home; copies for the others as above
//! ```
//!
//! A fallback holds no state of the key that it may mint on: what it keeps may be handed over and
//! dropped at any time, so each write that it coordinates takes an actor of its own (`riak_kv` issue 679).

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::place::{Copies, Placed};
use super::{Coordinator, RequestError};
use crate::domain::key::Key;
use crate::domain::policy::Policy;
use crate::domain::quorum::{Standing, WriteTally};
use crate::domain::ring::NodeIndex;
use crate::rpc::message::{RequestHead, WriteReply};
use crate::runtime::{event, task, time};
use crate::service::hints;
use crate::service::replica::{Intent, Minted};
use crate::storage::Ticket;

/// How a write wants to be acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// W.
    pub required: u8,
    /// Whether a fallback's ack counts.
    pub sloppy: bool,
}

impl Coordinator {
    /// Writes `intent` under `key`, here or at a home replica.
    ///
    /// # Errors
    /// [`RequestError`]; after `QuorumUnmet` and `DeadlineExceeded` the outcome is unknown.
    pub async fn write(
        self: &Arc<Self>,
        head: RequestHead,
        key: &Key,
        intent: Intent,
        wanted: Wanted,
    ) -> Result<WriteReply, RequestError> {
        let is_home = self.cluster.me().is_some_and(|me| self.cluster.home(key).contains(&me));
        if !is_home {
            return self.forward(head, key, intent, wanted).await;
        }
        match self.coordinate(head, key, &intent, wanted).await {
            Err(RequestError::Storage(error)) => {
                // Nothing was minted here, so another home may do it in full.
                tracing::warn!(request_id = head.request_id, %key, %error, "own log takes no writes: forwarding");
                self.forward(head, key, intent, wanted).await
            }
            outcome => outcome,
        }
    }

    /// As a home replica: mints and logs here, places copies, and answers after W durable acks.
    ///
    /// # Errors
    /// [`RequestError`]; after `Storage` and `TooManySiblings` nothing was written.
    pub async fn coordinate(
        self: &Arc<Self>,
        head: RequestHead,
        key: &Key,
        intent: &Intent,
        wanted: Wanted,
    ) -> Result<WriteReply, RequestError> {
        self.metrics.writes.increment();
        let minted = self.replica.write(key, intent).await.map_err(|error| self.refusal(error))?;
        self.gather(head, key, minted, wanted, None).await
    }

    /// As a fallback, when no home replica can be reached: the same with a hint in place of the
    /// home replica's own copy.
    ///
    /// # Errors
    /// As [`coordinate`](Self::coordinate).
    pub async fn coordinate_as_fallback(
        self: &Arc<Self>,
        head: RequestHead,
        key: &Key,
        intent: &Intent,
        wanted: Wanted,
    ) -> Result<WriteReply, RequestError> {
        self.metrics.fallback_writes.increment();
        let owner = self.cluster.home(key)[0];
        event::note("fallback_coordinates", key.token().0, u64::from(owner.0));
        let name = self.cluster.name(owner);
        let minted = self.replica.write_hinted(key, intent, name).await;
        hints::count(&self.metrics, name, key, minted.as_ref());
        let minted = minted.map_err(|error| self.refusal(error))?;
        self.gather(head, key, minted, wanted, Some(owner)).await
    }

    /// Waits for W acks of what was minted here. `stands_for`: the home replica in whose stead this
    /// fallback keeps it; `None`: this node is a home replica.
    async fn gather(
        self: &Arc<Self>,
        head: RequestHead,
        key: &Key,
        minted: Minted,
        wanted: Wanted,
        stands_for: Option<NodeIndex>,
    ) -> Result<WriteReply, RequestError> {
        let Minted { object, context, ticket } = minted;
        let siblings = object.siblings().len() as u32;
        let newest_ms = match self.replica.rules().policies.of(key.bucket()) {
            Policy::Siblings => 0,
            Policy::LastWrite => object.newest_ms(),
        };
        self.note_siblings(key, object.siblings().len());
        let home = self.cluster.home(key);
        let mine = stands_for.or(self.cluster.me());
        let mut tally = WriteTally::new(wanted.required, home.len() as u8);
        let copies = Copies::new(self.clone(), head, key.clone(), object);
        let mut placing: FuturesUnordered<_> = home
            .iter()
            .filter(|&&node| Some(node) != mine)
            .map(|&node| copies.clone().place(node))
            .collect();
        let outcome = {
            let mut own = std::pin::pin!(self.own_copy(ticket, stands_for.is_some()));
            let mut logged = false;
            let mut late = std::pin::pin!(time::sleep_until(head.deadline));
            loop {
                match tally.standing() {
                    Standing::Met => break Ok(()),
                    // The own copy is waited for: the answer says how many hold the write.
                    Standing::Unmeetable if logged => break Err(()),
                    Standing::Unmeetable | Standing::Waiting => {}
                }
                let placed = tokio::select! {
                    biased;
                    Some(placed) = placing.next(), if !placing.is_empty() => placed,
                    placed = &mut own, if !logged => {
                        logged = true;
                        placed
                    }
                    () = &mut late => break Err(()),
                };
                match placed {
                    Placed::Home => tally.ack(),
                    Placed::Fallback if wanted.sloppy => tally.ack_hinted(),
                    Placed::Fallback | Placed::Here | Placed::Nowhere => tally.fail(),
                }
            }
        };
        if !placing.is_empty()
            && let Some(permit) = self.stay()
        {
            task::spawn(async move {
                while placing.next().await.is_some() {}
                drop(permit);
            });
        }
        let WriteTally { required, received, hinted, .. } = tally;
        match outcome {
            Ok(()) => Ok(WriteReply { context, newest_ms, siblings, required, received, hinted }),
            Err(()) => Err(self.unmet(head.deadline, required, received, hinted)),
        }
    }

    /// The copy on this node's own disk.
    async fn own_copy(&self, ticket: Ticket, hinted: bool) -> Placed {
        match ticket.ackable().await {
            Ok(()) if hinted => Placed::Fallback,
            Ok(()) => Placed::Home,
            Err(_closed) => Placed::Nowhere,
        }
    }
}
