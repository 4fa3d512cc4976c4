//! What is sampled for point 12: gauges of nodes, and what clients heard of their bounds.
//!
//! | gauge | bound |
//! |---|---|
//! | `memtable_bytes` | `storage.memtable_bytes`: two full ones beside one that may be over by a quarter, and a pair |
//! | `log_pending_bytes` | the engine's `pending_bytes_max` |
//! | `hint_bytes`, for other members; `own_hint_bytes`, for the copy itself while it is in doubt | `hints.bytes_max` each |
//! | `http_connections` | `limits.connections` |
//! | `http_requests_in_flight` | `limits.requests_in_flight` |
//! | `rpc_in_flight`, to the peer with the most | the peers' `in_flight_max` |
//! | `rpc_queued_bytes`, to the peer with the most | `limits.peer_queue_bytes`, and one frame: the last one in may be over |
//! | `siblings_after_write`, from the history | `limits.siblings` |

use std::collections::BTreeMap;

use starling::domain::ring::NodeIndex as RingIndex;
use starling::node::Node;
use starling::{rpc, storage};

use crate::history::{History, NodeIndex, Outcome, Sample};
use crate::plan::Plan;

use super::system::Gauge;

/// What the gauges of `node` read now.
pub(super) fn gauges(node: &Node) -> Vec<Gauge> {
    let (stats, app) = (node.storage().stats(), node.app());
    let (limits, rpc) = (&app.config.limits, rpc::Options::default());
    let members = (0..node.ring().members().len() as u16).map(RingIndex);
    let cluster = app.coordinator.cluster();
    let peers = members.filter_map(|at| cluster.peer(at));
    let (mut calls, mut bytes) = (0, 0);
    for status in peers.map(rpc::Peer::status) {
        calls = calls.max(status.in_flight);
        bytes = bytes.max(status.queued_bytes);
    }
    let gauge = |name, value, bound| Gauge { name, value, bound };
    let count = |name, value, bound| gauge(name, value as u64, bound as u64);
    // Each may hold one object more than fits.
    let object_max = (limits.siblings * limits.pair_bytes) as u64;
    let memtables_max = app.config.storage.memtable_bytes * 13 / 4 + 3 * object_max;
    let hints_max = app.config.hints.bytes_max;
    let pending_max = storage::Options::default().pending_bytes_max as u64;
    vec![
        gauge("memtable_bytes", stats.memtable_bytes, memtables_max),
        gauge("hint_bytes", stats.hint_bytes - stats.own_hint_bytes, hints_max),
        gauge("own_hint_bytes", stats.own_hint_bytes, hints_max),
        gauge("log_pending_bytes", stats.pending_bytes, pending_max),
        count("http_connections", node.http_connections(), limits.connections),
        count("http_requests_in_flight", app.in_flight(), limits.requests_in_flight),
        count("rpc_in_flight", calls, rpc.in_flight_max),
        count("rpc_queued_bytes", bytes, limits.peer_queue_bytes + rpc.payload_bytes_max),
    ]
}

/// For each node that was asked, the ack that reports the most siblings. Whoever mints counts what is
/// left beside the new write and refuses at the limit, so no ack may ever report more.
pub(super) fn most_siblings(plan: &Plan, history: &History) -> Vec<Sample> {
    let mut most: BTreeMap<NodeIndex, Sample> = BTreeMap::new();
    for op in &history.ops {
        let Outcome::Acked { siblings, .. } = op.outcome else { continue };
        let (at_ns, node, value) = (op.end_ns, op.node, u64::from(siblings));
        let (gauge, bound) = ("siblings_after_write".to_owned(), plan.settings.siblings_max.into());
        if most.get(&node).is_none_or(|known| known.value < value) {
            most.insert(node, Sample { at_ns, node, gauge, value, bound });
        }
    }
    most.into_values().collect()
}
