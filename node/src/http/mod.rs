//! The HTTP contract: routes, parameters, status codes, problem documents.
//!
//! ```text
//! server   accept loop, keep-alive, slow clients, drain      (bytes ⇄ requests)
//! site     each request's way in: id, capacity, time, path   (requests ⇄ handlers)
//! kv       GET HEAD PUT DELETE /v1/kv/{bucket}/{key}         (requests ⇄ coordinator)
//! batch    /v1/batch                                        (many of them, side by side)
//! list     GET /v1/kv/{bucket}                              (keys of one tag, in order)
//! cluster  /v1/cluster…        ops   /health… /metrics       (what an operator looks at)
//! admin    /v1/admin…                                    (what an operator does)
//! routes   the table of all of them    openapi  /openapi.json, made from it
//! problem  every error's document, in one place     waiting   before the node serves
//! ```
//!
//! The same bytes leave in production and in simulation. Nothing here knows how a quorum is met.

pub mod admin;
pub mod batch;
pub mod cluster;
pub mod date;
pub mod io;
pub mod kv;
pub mod list;
pub mod openapi;
pub mod ops;
pub mod problem;
pub mod query;
mod routes;
pub mod server;
pub mod site;
pub mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use axum::http::Request;
use axum::http::header::HeaderName;
use rand::RngCore;

use crate::config::Config;
use crate::domain::key::murmur3;
use crate::runtime::rng;
use crate::service::anti_entropy::AntiEntropy;
use crate::service::coordinator::Coordinator;
use crate::service::forgetting::Forgetting;
use crate::service::gossip::Gossip;
use crate::service::hints::Handoff;
use crate::service::metrics::Metrics;
use crate::service::replica::Replica;
pub use routes::router;

/// The header that carries a request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that carries a causal context, in both directions.
pub const CAUSAL_CONTEXT: HeaderName = HeaderName::from_static("causal-context");

/// What every handler works with.
pub struct App {
    /// The node's settings.
    pub config: Config,
    /// Coordinates requests.
    pub coordinator: Arc<Coordinator>,
    /// This node's own copy.
    pub replica: Arc<Replica>,
    /// What this node hears of the others.
    pub gossip: Gossip,
    /// What it keeps for those that are away.
    pub handoff: Handoff,
    /// Its comparisons with other home replicas.
    pub anti_entropy: AntiEntropy,
    /// Its tombstones, until nothing needs them.
    pub forgetting: Forgetting,
    /// Counts.
    pub metrics: Arc<Metrics>,
    ready: AtomicBool,
    in_flight: AtomicUsize,
    request_ids: AtomicU64,
}

/// What a node does without being asked.
pub struct Background {
    /// Hints on their way.
    pub handoff: Handoff,
    /// Replicas that heal each other.
    pub anti_entropy: AntiEntropy,
    /// Tombstones that are forgotten.
    pub forgetting: Forgetting,
}

impl App {
    /// Handlers' state for one node; not ready until told.
    pub fn new(
        config: Config,
        coordinator: Arc<Coordinator>,
        replica: Arc<Replica>,
        gossip: Gossip,
        Background { handoff, anti_entropy, forgetting }: Background,
        metrics: Arc<Metrics>,
    ) -> Self {
        let first_id = rng::fork("request ids").next_u64();
        Self {
            config,
            coordinator,
            replica,
            gossip,
            handoff,
            anti_entropy,
            forgetting,
            metrics,
            ready: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            request_ids: AtomicU64::new(first_id),
        }
    }

    /// Says whether the node serves: joined, log replayed, not draining.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// True while the node serves.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The id under which every node logs this request: 16 hex digits of the client's as they are,
    /// any other text of the client's hashed, a fresh one if it sent none.
    fn request_id<B>(&self, request: &Request<B>) -> u64 {
        match request.headers().get(REQUEST_ID) {
            None => self.request_ids.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed),
            Some(text) => {
                let hex = text.to_str().ok().filter(|text| text.len() == 16);
                hex.and_then(|text| u64::from_str_radix(text, 16).ok())
                    .unwrap_or_else(|| murmur3(text.as_bytes()).0)
            }
        }
    }
}
