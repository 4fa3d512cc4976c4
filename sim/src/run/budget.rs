//! How long things may take, derived from a plan's settings. One place, so that "too late" means
//! the same to the run and to the oracle.

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

/// When a client of this patience gives up. The deadline that it sends along is its patience; the
/// rest leaves time for the node's own "deadline passed" to arrive.
pub(super) const fn give_up_ms(patience_ms: u64) -> u64 {
    patience_ms + patience_ms / 4
}

/// What the oracle may hold the cluster to.
pub(super) fn rules(plan: &Plan) -> Rules {
    const MS: u64 = 1_000_000;
    let settings = &plan.settings;
    let links = [plan.links.within_zone, plan.links.across_zones, plan.links.clients];
    let slowest_us = links.iter().map(|link: &Link| link.delay_max_us).max().unwrap_or(0);
    // Connect, ask, forward, replicate, answer: a request and its new connections cross a link
    // twenty times at most, and each of its fsyncs waits for others.
    let service_ns = 20 * slowest_us * 1_000 + 200 * MS;
    Rules {
        sync_always: settings.sync_always,
        sync_lag_ns: 10 * MS,
        recovery_ns: 15_000 * MS,
        detection_ns: 15_000 * MS,
        failover_ns: settings.request_timeout_ms * MS,
        service_ns,
    }
}
