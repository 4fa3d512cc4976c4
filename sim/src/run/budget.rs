//! How long things may take, derived from a plan's settings. One place, so that "too late" means
//! the same to the run and to the oracle.

use std::time::Duration;

use starling::rpc;
use starling::service::coordinator::Patience;
use starling::storage::SYNC_INTERVAL_MAX;

use crate::history::Rules;
use crate::plan::{ClientPlan, Link, Plan};

/// The manners of the observer, the client that reads every key after healing.
pub(super) const OBSERVER: ClientPlan =
    ClientPlan { retries: 0, retry_pause_ms: 0, retry_elsewhere: false, patience_ms: 5_000 };

/// How long nodes may take from their start until they are ready, their logs replayed.
pub(super) const READY_MS: u64 = 30_000;

/// How long the final read of one key may take, all attempts together: longer than the longest
/// pause between two attempts of a node to reach another.
pub(super) const FINAL_READ_MS: u64 = 20_000;

/// How long read repair may take after the answer.
pub(super) const REPAIR_MS: u64 = 10_000;

/// How long a node that ended by itself stays down: what a supervisor's restart takes.
pub(super) const RESTART_MS: u64 = 1_000;

/// How often the gauges of a node are read.
pub(super) const SAMPLE_MS: u64 = 1_000;

/// When a client of this patience gives up. The deadline that it sends along is its patience; the
/// rest leaves time for the node's own "deadline passed" to arrive.
pub(super) const fn give_up_ms(patience_ms: u64) -> u64 {
    patience_ms + patience_ms / 4
}

/// What the oracle may hold the cluster to.
pub(super) fn rules(plan: &Plan) -> Rules {
    let links = [plan.links.within_zone, plan.links.across_zones, plan.links.clients];
    let slowest_us = links.iter().map(|link: &Link| link.delay_max_us).max().unwrap_or(0);
    let (rpc, patience) = (rpc::Options::default(), Patience::default());
    Rules {
        sync_always: plan.settings.sync_always,
        sync_lag_ns: nanos(SYNC_INTERVAL_MAX),
        // A node notices that a connection is dead, waits, connects and shakes hands once more.
        recovery_ns: nanos(rpc.dead_after + rpc.backoff_max + rpc.connect_timeout)
            + nanos(rpc.handshake_timeout),
        detection_ns: nanos(rpc.dead_after + rpc.ping_interval),
        failover_ns: nanos(patience.unreachable + patience.retry),
        // Connect, ask, forward, replicate, answer: a request and its new connections cross a link
        // twenty times at most, and each of its fsyncs waits for others.
        service_ns: 20 * slowest_us * 1_000 + 200_000_000,
        in_flight_max: plan.settings.requests_in_flight_max.map_or(u64::MAX, u64::from),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
