//! How long things may take, derived from a plan's settings. One place, so that "too late" means
//! the same to the run and to the oracle.

use std::time::Duration;

use starling::domain::forgetting::quiet;
use starling::rpc;
use starling::service::coordinator::Patience;
use starling::storage::SYNC_LAG_MAX;

use crate::history::{Hints, HintsLeft, Membership, Rules, View};
use crate::plan::{ClientPlan, FaultKind, Link, Plan};

/// The node's own interval of gossip, where a plan names none.
const GOSSIP_INTERVAL_MS: u64 = 1_000;

/// The node's own period of anti-entropy, where a plan names none.
const ANTI_ENTROPY_MS: u64 = 60_000;

/// The node's own age of hints, where a plan names none.
const HINT_AGE_S: u64 = 10_800;

/// How long nodes may take from their start until they are ready, their logs replayed.
pub(super) const READY_MS: u64 = 30_000;

/// How long the final read of one key may take, all attempts together: longer than the longest
/// pause between two attempts of a node to reach another.
pub(super) const FINAL_READ_MS: u64 = 20_000;

/// How long read repair may take after the answer.
pub(super) const REPAIR_MS: u64 = 10_000;

/// How often it is looked whether replicas are equal.
pub(super) const CONVERGE_LOOK_MS: u64 = 200;

/// How long a node that ended by itself stays down: what a supervisor's restart takes.
pub(super) const RESTART_MS: u64 = 1_000;

/// How often the gauges of a node are read.
pub(super) const SAMPLE_MS: u64 = 1_000;

/// How long hints may take to reach their owners after every member is up: their owners answer, and a
/// pause between two attempts is at most a few seconds.
pub(super) const DRAIN_MS: u64 = 30_000;

/// The period in which replicas compare what they hold.
pub(super) fn period_ms(plan: &Plan) -> u64 {
    plan.settings.anti_entropy_ms.unwrap_or(ANTI_ENTROPY_MS)
}

/// How long the replicas may take until they are equal, after every node is ready: each pair compares each partition once in a
/// period, after trees are built and hints are delivered, and looks again where a write was under way.
pub(super) fn converge_ms(plan: &Plan) -> u64 {
    period_ms(plan) + DRAIN_MS
}

/// The longest that a client of the plan waits, which is the most that a node lets a request take: how long a tombstone must be left
/// alone follows from it.
pub(super) fn request_max_ms(plan: &Plan) -> u64 {
    let patience = plan.clients.iter().map(|client| client.patience_ms);
    patience.chain([plan.settings.request_timeout_ms]).max().unwrap_or(1_000)
}

/// The manners of the observer, the client that reads every key after healing: as patient as nodes allow.
pub(super) fn observer(plan: &Plan) -> ClientPlan {
    let patience_ms = request_max_ms(plan);
    ClientPlan {
        retries: 0,
        retry_pause_ms: 0,
        retry_elsewhere: false,
        patience_ms,
        batch_max: None,
    }
}

/// How long it may take until everything that was deleted is forgotten, once all members are up and no hint is left: it is found,
/// waits for the round before, and is left alone for its own quiet time.
pub(super) fn forget_ms(plan: &Plan) -> u64 {
    let quiet = quiet(Duration::from_millis(request_max_ms(plan)));
    u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX) * 5 / 2 + 10_000
}

/// When a client of this patience gives up. The deadline that it sends along is its patience; the
/// rest leaves time for the node's own "deadline passed" to arrive.
pub(super) const fn give_up_ms(patience_ms: u64) -> u64 {
    patience_ms + patience_ms / 4
}

/// What the oracle may hold the cluster to.
pub(super) fn rules(plan: &Plan) -> Rules {
    let (rpc, patience) = (rpc::Options::default(), Patience::default());
    Rules {
        sync_always: plan.settings.sync_always,
        sync_lag_ns: nanos(SYNC_LAG_MAX),
        // A node notices that a connection is dead, waits, connects and shakes hands once more.
        recovery_ns: nanos(rpc.dead_after + rpc.backoff_max + rpc.connect_timeout)
            + nanos(rpc.handshake_timeout),
        detection_ns: nanos(rpc.dead_after + rpc.ping_interval),
        failover_ns: nanos(patience.unreachable + patience.retry),
        // Connect, ask, forward, replicate, answer: a request and its new connections cross a link
        // twenty times at most, and each of its fsyncs waits for others.
        service_ns: 20 * slowest_us(plan) * 1_000 + 200_000_000,
        in_flight_max: plan.settings.requests_in_flight_max.map_or(u64::MAX, u64::from),
        tight: plan.settings.is_tight(),
        siblings_max: Some(plan.settings.siblings_max),
    }
}

/// How long it may take until a node that is gone is down at every other that is well, at the most.
///
/// Counted in intervals of gossip. Its last heartbeat may still be on its way for 2: three members hear each
/// round's news, and a plan has eight at the most. The silence is suspicious after 5 (phi with its floors, or
/// three missed beats and the wait for a tick). Asking it, and asking two others to ask it, takes 2. The
/// suspicion of the second reporter reaches everybody in 2, and a tick acts on it in 1. So 12; and as a clock
/// may be a tenth too slow, and rounds are jittered, a quarter more. Datagrams cross a link ten times.
pub(super) fn down_within_ns(plan: &Plan) -> u64 {
    let interval_ms = plan.settings.gossip_interval_ms.unwrap_or(GOSSIP_INTERVAL_MS);
    15 * interval_ms * 1_000_000 + 10 * slowest_us(plan) * 1_000
}

/// How long it may take after healing until all members are up everywhere: as long as it takes to notice
/// that one is gone, and the longest pause before one that is down is asked again.
pub(super) fn agree_within_ns(plan: &Plan) -> u64 {
    2 * down_within_ns(plan)
}

/// What nodes are held to about each other; the trace has the rest.
pub(super) fn membership(plan: &Plan, views: Vec<View>) -> Membership {
    Membership {
        views,
        members: plan.nodes.len() as u32,
        end_ns: starling_world::now(),
        down_within_ns: down_within_ns(plan),
        late_ns: held_up_ms(plan) * 1_000_000 + slowest_us(plan) * 1_000,
        ..Membership::default()
    }
}

/// How long a request that no client waits for any more may still change something: it may stand behind what a slow link holds up, and
/// is then worked on for as long as it asked for.
pub(super) fn straggler_ms(plan: &Plan) -> u64 {
    held_up_ms(plan) + request_max_ms(plan)
}

/// The longest that a slow link of the plan holds up what is sent again once; 0: none is slow.
fn held_up_ms(plan: &Plan) -> u64 {
    let slow = plan.faults.iter().filter_map(|fault| {
        let FaultKind::SlowLink { extra_ms, .. } = fault.what else { return None };
        Some(2 * extra_ms)
    });
    slow.max().unwrap_or(0)
}

/// What nodes are held to about hints; the trace has the rest.
pub(super) fn hints(plan: &Plan, left: Option<Vec<HintsLeft>>) -> Hints {
    Hints {
        left,
        age_ns: plan.settings.hint_age_s.unwrap_or(HINT_AGE_S) * 1_000_000_000,
        // The log waits for company, writes and syncs.
        durable_ns: 200_000_000,
        ..Hints::default()
    }
}

/// The longest that a packet takes between two machines that no fault touches.
fn slowest_us(plan: &Plan) -> u64 {
    let links = [plan.links.within_zone, plan.links.across_zones, plan.links.clients];
    links.iter().map(|link: &Link| link.delay_max_us).max().unwrap_or(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
