//! What this node knows of the cluster: members, ring, where a key lives.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};

use super::App;
use super::problem::Problem;
use super::query;
use crate::domain::ring::NodeIndex;
use crate::runtime::time;

/// A JSON answer.
pub(super) type Json = ([(HeaderName, &'static str); 1], String);

fn as_json(value: &Value) -> Json {
    ([(CONTENT_TYPE, "application/json")], value.to_string())
}

/// Members, their state as this node sees it, and this node's storage.
pub async fn members(State(app): State<Arc<App>>) -> Json {
    let ring = app.coordinator.ring();
    let stats = app.replica.engine().stats();
    let identity = app.replica.engine().identity();
    let members: Vec<Value> = (0..ring.members().len()).map(|at| member(&app, at)).collect();
    as_json(&json!({
        "cluster": app.config.cluster,
        "node": app.config.node,
        "id": identity.node.to_string(),
        "generation": identity.generation,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": app.is_ready(),
        "ring": {
            "partitions": ring.partitions(),
            "n": ring.n(),
            "digest": format!("{:016x}", ring.digest()),
        },
        "members": members,
        "storage": {
            "keys": stats.keys,
            "memtable_bytes": stats.memtable_bytes,
            "log_bytes": stats.log_bytes,
            "log_segments": stats.segments,
            "stalled": stats.stalled.as_deref(),
        },
        "requests_in_flight": app.in_flight(),
    }))
}

fn member(app: &App, at: usize) -> Value {
    let ring = app.coordinator.ring();
    let node = NodeIndex(at as u16);
    let member = &ring.members()[at];
    let addresses = app.config.members.iter().find(|m| m.name == member.name);
    let mut value = json!({
        "name": member.name,
        "zone": member.zone,
        "vnodes": member.vnodes,
        "share": (ring.share(node) * 1000.0).round() / 1000.0,
        "replicas": ring.replicas_held(node),
        "rpc": addresses.map(|m| &m.rpc),
        "http": addresses.map(|m| &m.http),
    });
    match app.coordinator.peer(node) {
        None => {
            value["status"] = json!("up");
            value["id"] = json!(app.replica.engine().identity().node.to_string());
        }
        Some(peer) => {
            let status = peer.status();
            value["status"] = json!(if peer.is_usable() { "up" } else { "down" });
            value["id"] = json!(status.info.map(|info| info.sighting.node.to_string()));
            value["since_ms"] = json!(time::now().since(status.since).as_millis() as u64);
            value["rtt_ms"] = json!(status.rtt.map(|rtt| rtt.as_secs_f64() * 1e3));
            value["error"] = json!(status.last_error.as_deref());
        }
    }
    value
}

/// Every partition's preference list, and each node's share.
pub async fn ring(State(app): State<Arc<App>>) -> Json {
    let ring = app.coordinator.ring();
    let name = |node: &NodeIndex| ring.members()[usize::from(node.0)].name.clone();
    let partitions: Vec<Value> = (0..ring.partitions())
        .map(|p| {
            let p = crate::domain::ring::PartitionId(p);
            json!({
                "partition": p.0,
                "home": ring.home(p).iter().map(name).collect::<Vec<_>>(),
                "fallbacks": ring.fallbacks(p).iter().map(name).collect::<Vec<_>>(),
            })
        })
        .collect();
    let shares: serde_json::Map<String, Value> = (0..ring.members().len())
        .map(|at| {
            let node = NodeIndex(at as u16);
            (name(&node), json!({"replicas": ring.replicas_held(node), "share": ring.share(node)}))
        })
        .collect();
    let digest = format!("{:016x}", ring.digest());
    as_json(&json!({"digest": digest, "n": ring.n(), "shares": shares, "partitions": partitions}))
}

/// Where a key lives.
///
/// # Errors
/// 400 for a bad key.
pub async fn locate(State(app): State<Arc<App>>, uri: Uri) -> Result<Json, Problem> {
    let rest = uri.path().strip_prefix("/v1/cluster/where/").unwrap_or_default();
    let key = query::key_of(rest)?;
    let ring = app.coordinator.ring();
    let partition = ring.partition_of(key.token());
    let show = |nodes: &[NodeIndex]| -> Vec<Value> {
        let up = |node| app.coordinator.peer(node).is_none_or(crate::rpc::Peer::is_usable);
        let name = |node: NodeIndex| &ring.members()[usize::from(node.0)].name;
        nodes.iter().map(|&node| json!({"name": name(node), "up": up(node)})).collect()
    };
    Ok(as_json(&json!({
        "bucket": key.bucket(),
        "key": key.name(),
        "token": key.token().to_string(),
        "partition": partition.0,
        "home": show(ring.home(partition)),
        "fallbacks": show(ring.fallbacks(partition)),
    })))
}
