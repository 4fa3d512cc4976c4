//! What operators and orchestrators poll: health and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::App;
use super::problem::Problem;
use crate::domain::membership::Health;
use crate::service::metrics::gauge;
use crate::storage::Stats;

/// 200 while the process works.
pub async fn live() -> &'static str {
    "live\n"
}

/// 200 when the node serves, else 503 with the reason: it starts, it stops, it does not vouch yet for what it holds, or its log takes no
/// writes.
///
/// # Errors
/// 503 with the reason.
pub async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    if !app.is_ready() {
        return Err(Problem::not_ready("it is starting or stopping"));
    }
    if !app.anti_entropy.is_settled() {
        let (doubtful, partitions) = app.anti_entropy.progress();
        return Err(Problem::not_ready(&format!(
            "it compares what it holds with the other replicas first, {doubtful} of {partitions} partitions are to be done: its data folder is new, restored or damaged"
        )));
    }
    match app.replica.engine().stats().stalled {
        None => Ok("ready\n"),
        Some(reason) => {
            Err(Problem::not_ready(&format!("its log takes no writes and is retried: {reason}")))
        }
    }
}

/// OpenMetrics text.
pub async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut text = String::with_capacity(8 * 1024);
    app.metrics.render(&mut text);
    let in_flight = app.in_flight();
    gauge(&mut text, "starling_requests_in_flight", "HTTP requests being answered.", in_flight);
    let stats = app.replica.engine().stats();
    gauge(&mut text, "starling_keys", "Keys held, tombstones included.", stats.keys);
    gauge(
        &mut text,
        "starling_memtable_bytes",
        "Bytes of objects in memtables.",
        stats.memtable_bytes,
    );
    gauge(&mut text, "starling_log_bytes", "Bytes in the commit log.", stats.log_bytes);
    gauge(&mut text, "starling_log_segments", "Segments of the commit log.", stats.segments);
    gauge(&mut text, "starling_log_syncs", "Syncs of the commit log since the start.", stats.syncs);
    gauge(&mut text, "starling_log_records", "Records logged since the start.", stats.records);
    tables(&stats, &mut text);
    let help = "Old actors that were dropped from keys' contexts since the start.";
    gauge(&mut text, "starling_pruned_actors", help, app.replica.pruned());
    members(&app, &mut text);
    let (doubtful, pace) = (app.anti_entropy.doubtful().len(), app.anti_entropy.pace());
    let help = "Home partitions of which this copy may lack something.";
    gauge(&mut text, "starling_doubtful_partitions", help, doubtful);
    let help = "Bytes that exchanges may move in a second now.";
    gauge(&mut text, "starling_repair_bytes_per_second_max", help, pace.bytes_per_s);
    let help = "1 while exchanges are held back since clients wait.";
    gauge(&mut text, "starling_repair_slowed", help, u8::from(pace.clients_wait));
    let help = "Bytes of writes kept apart while this copy is in doubt.";
    gauge(&mut text, "starling_own_hint_bytes", help, stats.own_hint_bytes);
    let ready = u8::from(app.is_ready());
    gauge(&mut text, "starling_ready", "1 while the node serves.", ready);
    text.push_str("# EOF\n");
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// What became of memtables.
fn tables(stats: &Stats, text: &mut String) {
    for (name, help, value) in [
        ("memtables_sealed", "Memtables that wait to become tables.", stats.sealed),
        ("tables", "Tables on disk.", stats.tables),
        ("tables_level0", "Tables that compaction has not taken up.", stats.tables_level0),
        ("table_bytes", "Bytes of the tables' files.", stats.table_bytes),
        ("flushes", "Memtables written to tables since the start.", stats.flushes),
        ("flushed_bytes", "Bytes that flushes wrote since the start.", stats.flushed_bytes),
        ("compactions", "Compactions finished since the start.", stats.compactions),
        ("compacted_bytes", "Bytes that compactions wrote since the start.", stats.compacted_bytes),
        ("table_failures", "Flushes and compactions that were tried again.", stats.table_failures),
        ("cache_hits", "Blocks found in the cache since the start.", stats.cache_hits),
        ("cache_misses", "Blocks not found in the cache since the start.", stats.cache_misses),
        ("cache_bytes", "Bytes of the blocks in the cache.", stats.cache_bytes),
        ("doubtful_ranges", "Ranges of tokens that damage put in doubt.", stats.doubtful_ranges),
        (
            "fresh_refused",
            "Writes to keys in doubt that found no room apart (hints.bytes_max), and were refused.",
            stats.fresh_refused,
        ),
        (
            "objects_unsalvaged",
            "Writes since a table's damage that found no room apart (hints.bytes_max).",
            stats.unsalvaged,
        ),
    ] {
        gauge(text, &format!("starling_{name}"), help, value);
    }
}

/// Gossip and hints.
fn members(app: &App, text: &mut String) {
    let views = app.gossip.members();
    for health in [Health::Up, Health::Suspect, Health::Down, Health::Stopped, Health::Unknown] {
        let count = views.iter().filter(|view| view.health == health).count();
        let name = format!("starling_members_{}", health.word());
        gauge(text, &name, "Members that are believed to be so.", count);
    }
    let gossip = app.gossip.counters();
    for (name, help, value) in [
        ("sent_bytes", "Bytes of gossip sent.", gossip.sent_bytes),
        ("received_bytes", "Bytes of gossip received.", gossip.received_bytes),
        ("malformed", "Datagrams dropped as malformed.", gossip.malformed),
        ("foreign", "Datagrams dropped as another cluster's.", gossip.foreign),
        ("unauthenticated", "Datagrams dropped for a wrong secret.", gossip.unauthenticated),
        ("downs", "Members found down.", gossip.downs),
    ] {
        gauge(text, &format!("starling_gossip_{name}"), help, value);
    }
    let owners = app.replica.engine().hint_owners();
    let (count, bytes) =
        owners.iter().fold((0, 0), |(count, bytes), o| (count + o.count, bytes + o.bytes));
    gauge(text, "starling_hints", "Hints kept for members that are away.", count);
    gauge(text, "starling_hints_bytes", "Bytes of hints.", bytes);
}
