//! What this node knows of the cluster: members, ring, where a key lives.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};

use super::App;
use super::date::rfc3339;
use super::problem::Problem;
use super::query::{self, Conflicts};
use crate::domain::membership::{Health, View};
use crate::domain::ring::NodeIndex;
use crate::runtime::time;
use crate::service::conflicts;

/// A JSON answer.
pub(super) type Json = ([(HeaderName, &'static str); 1], String);

pub(super) fn as_json(value: &Value) -> Json {
    ([(CONTENT_TYPE, "application/json")], value.to_string())
}

/// Members, what is believed of each and why, and this node's storage.
pub async fn members(State(app): State<Arc<App>>) -> Json {
    let ring = app.coordinator.cluster().ring();
    let stats = app.replica.engine().stats();
    let identity = app.replica.engine().identity();
    app.gossip.set_load(u32::try_from(app.in_flight()).unwrap_or(u32::MAX));
    let views = app.gossip.members();
    let mut members: Vec<Value> = views.iter().map(|view| member(&app, view)).collect();
    // Members of a listed ring that nobody has heard of yet.
    for listed in ring.members() {
        if !views.iter().any(|view| *view.info.name == *listed.name) {
            members.push(json!({
                "name": listed.name, "status": Health::Unknown.word(), "zone": listed.zone,
                "vnodes": listed.vnodes, "reasons": "never heard of",
            }));
        }
    }
    let (doubtful, partitions) = app.anti_entropy.progress();
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
            "tables": stats.tables,
            "table_bytes": stats.table_bytes,
            "tables_stalled": stats.tables_stalled.as_deref(),
            "doubtful_ranges": stats.doubtful_ranges,
            "partitions": partitions,
            "doubtful_partitions": doubtful,
        },
        "requests_in_flight": app.in_flight(),
    }))
}

fn member(app: &App, view: &View) -> Value {
    let cluster = app.coordinator.cluster();
    let (ring, info) = (cluster.ring(), &view.info);
    let since_ms = time::now().since(view.since).as_millis() as u64;
    let mut value = json!({
        "name": &*info.name,
        "status": view.health.word(),
        "since_ms": since_ms,
        "reasons": view.reasons,
        "suspected_by": view.suspected_by.iter().map(|name| &**name).collect::<Vec<_>>(),
        "heartbeat": view.heartbeat,
        "heartbeat_age_ms": view.heartbeat_age.as_millis() as u64,
        "phi": (view.phi * 100.0).round() / 100.0,
        "id": info.node.to_string(),
        "generation": info.generation,
        "incarnation": view.incarnation,
        "zone": &*info.zone,
        "datacenter": &*info.datacenter,
        "vnodes": info.vnodes,
        "load": info.load,
        "rpc": &*info.rpc,
        "http": &*info.http,
    });
    let Some(node) = ring.index_of(&info.name) else { return value };
    value["share"] = json!((ring.share(node) * 1000.0).round() / 1000.0);
    value["replicas"] = json!(ring.replicas_held(node));
    if let Some(peer) = cluster.peer(node) {
        let status = peer.status();
        value["live"] = json!(cluster.is_live(node));
        value["rtt_ms"] = json!(status.rtt.map(|rtt| rtt.as_secs_f64() * 1e3));
        value["error"] = json!(status.last_error.as_deref().filter(|_| !peer.is_usable()));
    }
    value
}

/// What this node keeps for members that are away.
pub async fn hints(State(app): State<Arc<App>>) -> Json {
    let owners: Vec<Value> = app
        .handoff
        .stats()
        .iter()
        .map(|owner| {
            json!({
                "owner": &*owner.owner,
                "count": owner.count,
                "bytes": owner.bytes,
                "oldest_ms": owner.oldest_ms,
                "rate_per_s": (owner.rate_per_s * 10.0).round() / 10.0,
                "drain_s": owner.drain_s.map(|seconds| seconds.ceil()),
                "state": owner.state,
            })
        })
        .collect();
    as_json(&json!({"node": app.config.node, "owners": owners}))
}

/// Keys in conflict, of the partitions whose first live home replica this node is: a page of them, and where the next
/// one begins. All members together name each key once.
///
/// # Errors
/// 400 for a bad parameter, 503 when the data cannot be read.
pub async fn conflicts(State(app): State<Arc<App>>, uri: Uri) -> Result<Json, Problem> {
    let Conflicts { bucket, after, limit } = query::conflicts(uri.query())?;
    let (engine, cluster) = (app.replica.engine(), app.coordinator.cluster());
    let now_ms = time::wall_clock_ms();
    let page = conflicts::page(engine, cluster, bucket.as_deref(), after, limit, now_ms);
    let page = page.await.map_err(|error| Problem::unreadable(&error))?;
    let rows = page.conflicts.iter().map(|conflict| {
        json!({
            "bucket": conflict.key.bucket(), "key": conflict.key.name(),
            "siblings": conflict.siblings, "bytes": conflict.bytes,
            "written_at": rfc3339(conflict.written_at_ms),
        })
    });
    Ok(as_json(&json!({
        "node": app.config.node,
        "conflicts": rows.collect::<Vec<_>>(),
        "next": page.next.map(|key| key.to_string()),
    })))
}

/// How each home partition of this node compares with its other home replicas.
pub async fn repair(State(app): State<Arc<App>>) -> Json {
    let stats = app.anti_entropy.stats();
    let partitions: Vec<Value> = stats
        .iter()
        .map(|stats| {
            let compared = stats.compared.iter().map(|(name, ago)| {
                json!({"with": name, "ago_ms": ago.map(|ago| ago.as_millis() as u64)})
            });
            json!({
                "partition": stats.partition,
                "root": stats.root.map(|root| format!("{root:016x}")),
                "keys": stats.keys,
                "doubtful": stats.doubtful,
                "keys_sent": stats.shipped.0,
                "keys_received": stats.shipped.1,
                "exchanges": compared.collect::<Vec<_>>(),
            })
        })
        .collect();
    let pace = app.anti_entropy.pace();
    as_json(&json!({
        "node": app.config.node,
        "period_ms": app.config.anti_entropy.period_ms,
        "busy": app.anti_entropy.is_busy(),
        "bytes_per_s": pace.bytes_per_s,
        "bytes_per_s_max": pace.bytes_per_s_max,
        "clients_wait": pace.clients_wait,
        "spent_keys": app.forgetting.candidates(),
        "forgotten": app.metrics.tombstones_forgotten.get(),
        "doubtful": stats.iter().filter(|stats| stats.doubtful).count(),
        "partitions": partitions,
    }))
}

/// Every partition's preference list, and each node's share.
pub async fn ring(State(app): State<Arc<App>>) -> Json {
    let ring = app.coordinator.cluster().ring();
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
    let ring = app.coordinator.cluster().ring();
    let partition = ring.partition_of(key.token());
    let show = |nodes: &[NodeIndex]| -> Vec<Value> {
        let up = |node| app.coordinator.cluster().is_live(node);
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
