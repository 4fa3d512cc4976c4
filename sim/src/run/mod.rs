//! One run of a plan: build the cluster, disturb it, heal it, and gather what the oracle judges.
//!
//! ```text
//! machines on, every node ready      t = 0 for the plan's times
//!   faults begin and end, clients do their operations
//! faults_ms: every fault ends, what is down starts, clients finish what they began
//!   every node ready again           within the budget, or the run is stuck
//!   all home replicas equal          by the nodes themselves, or as far as they come within the budget
//!   every member up everywhere, every hint delivered    as far as it comes within the budget
//!   every tree against a scan, every home replica's copy    asked of the replicas themselves
//!   a read of every key, r=all       by the observer, a client of its own
//! total_ms: the oracle
//! ```
//!
//! Everything here runs inside the simulated world, on one thread: the locks of this module are
//! there because futures must be `Send`, never for waiting, and none is held across an await.

mod answer;
mod budget;
mod claims;
mod client;
mod cluster;
mod founding;
mod heal;
pub mod large;
mod logs;
mod many;
mod node;
mod operator;
mod recorder;
mod samples;
pub mod staleness;
mod system;
#[cfg(test)]
mod tests;
mod text;
mod weather;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use starling_world::trace::{Keep, Trace};
use starling_world::{Config, time};

use crate::history::{Evidence, Kind, Outcome};
use crate::oracle;
use crate::plan::Plan;
use crate::quality::Quality;
use crate::report::{Outcomes, Report, Verdict};

use claims::Claims;
use cluster::Cluster;
use heal::Healed;
use node::Starling;
use recorder::Recorder;
use system::System;
use weather::Weather;

/// What every wall clock reads at the start: the first moment of 2026.
const WALL_START_MS: u64 = 1_767_225_600_000;

/// What is kept of a run for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Nothing.
    Nothing,
    /// The trace as text, a line an event.
    Trace,
    /// The trace and what nodes log. Only one run of a process can have it, and no other may go on
    /// beside it.
    TraceAndLogs,
}

/// Runs `plan` and judges it; gives what was kept as well.
pub fn run(plan: &Plan, keeping: Keeping) -> (Report, Vec<String>) {
    run_system(plan, keeping, Arc::new(Starling))
}

/// [`run`], of nodes that `system` makes.
fn run_system(plan: &Plan, keeping: Keeping, system: Arc<dyn System>) -> (Report, Vec<String>) {
    let config = Config {
        seed: plan.seed,
        wall_start_ms: WALL_START_MS,
        keep_trace: match keeping {
            Keeping::Nothing => Keep::Kinds(claims::KINDS),
            Keeping::Trace | Keeping::TraceAndLogs => Keep::All,
        },
    };
    let logs = (keeping == Keeping::TraceAndLogs).then(logs::capture);
    let shared = Arc::new(plan.clone());
    let finished = starling_world::run(config, async move { drive(shared, system).await });
    let mut driven = finished.output;
    take_claims(plan, &mut driven.evidence, &finished.trace);
    let (verdict, explanation, false_siblings) = judge(&driven);
    let mut events = events(&finished.trace);
    if false_siblings > 0 {
        events.insert("false_sibling".to_owned(), false_siblings);
    }
    let report = Report {
        verdict,
        explanation,
        digest: format!("{:032x}", finished.trace.digest()),
        simulated_ms: u64::try_from(finished.simulated.as_millis()).unwrap_or(u64::MAX),
        real_ms: 0,
        faults: driven.faults,
        events,
        requests: requests(&driven.evidence),
        detector: Quality::measure(&driven.evidence),
        converged_ms: driven.converged_ms,
        period_ms: budget::period_ms(plan),
    };
    let lines = match keeping {
        Keeping::Nothing => Vec::new(),
        Keeping::Trace | Keeping::TraceAndLogs => {
            let logged = logs.map(|logs| logs.take()).unwrap_or_default();
            text::lines(plan, &finished.trace, logged)
        }
    };
    (report, lines)
}

/// Puts what nodes noted into the evidence, where it is asked for.
fn take_claims(plan: &Plan, evidence: &mut Evidence, trace: &Trace) {
    let claims = Claims::read(plan, &evidence.history.keys, trace);
    if let Some(membership) = &mut evidence.membership {
        membership.lives = claims.lives;
        membership.beliefs = claims.beliefs;
    }
    if let Some(hints) = &mut evidence.hints {
        hints.steps = claims.steps;
    }
    evidence.forgotten = claims.forgotten;
    evidence.unsalvaged = claims.unsalvaged;
    evidence.pruned = claims.pruned;
}

/// What a run leaves for judgement.
#[derive(Debug, Default)]
struct Driven {
    evidence: Evidence,
    /// What did not happen in time, a sentence each.
    stuck: Vec<String>,
    /// What an operator met and should not have, a sentence each.
    wrong: Vec<String>,
    /// How often each kind of fault began.
    faults: BTreeMap<String, u64>,
    /// How long replicas took to be equal after the faults.
    converged_ms: Option<u64>,
}

async fn drive(plan: Arc<Plan>, system: Arc<dyn System>) -> Driven {
    let recorder = Arc::new(Recorder::new(&plan));
    let abilities = system.abilities();
    let cluster = Cluster::build(&plan, system);
    let weather = Arc::new(Weather::new(&plan, &cluster));
    let mut stuck = cluster.start_all().await;
    let start_ns = starling_world::now();
    if stuck.is_empty() {
        match cluster.homes(&plan.keys()).await {
            Ok(homes) => recorder.set_homes(&plan, homes, abilities.hints),
            Err(why) => stuck.push(why),
        }
    }
    let (mut healed, mut wrong) = (Healed::default(), Vec::new());
    if stuck.is_empty() {
        let faults = weather.begin(start_ns);
        let clients = client::start_all(&plan, &cluster, &recorder, start_ns);
        time::sleep(Duration::from_millis(plan.length.faults_ms)).await;
        weather.end(faults);
        stuck = client::join_all(clients, &plan).await;
        healed = heal::heal(&plan, &cluster, &recorder, abilities, &mut stuck).await;
        if stuck.is_empty() && abilities.hints {
            wrong = weather.check_snapshots().await;
        }
    }
    let end_ns = start_ns + plan.length.total_ms * 1_000_000;
    time::sleep(Duration::from_nanos(end_ns.saturating_sub(starling_world::now()))).await;
    let history = recorder.take();
    let mut sampled = cluster.take_samples();
    sampled.extend(samples::most_siblings(&plan, &history));
    Driven {
        evidence: Evidence {
            history,
            finals: healed.finals,
            unrepaired: healed.unrepaired,
            disturbances: weather.take_log(),
            samples: sampled,
            membership: abilities.gossips.then(|| budget::membership(&plan, healed.views)),
            hints: abilities.hints.then(|| budget::hints(&plan, healed.hints_left)),
            forgotten: Vec::new(),
            unsalvaged: Vec::new(),
            pruned: Vec::new(),
            rules: budget::rules(&plan),
        },
        stuck,
        wrong,
        faults: weather.counts(),
        converged_ms: healed.converged_ms,
    }
}

/// The verdict, why, and how many false siblings pruning made.
fn judge(driven: &Driven) -> (Verdict, String, u64) {
    let (violations, false_siblings) = match oracle::judge_counting(&driven.evidence) {
        Ok(judged) => judged,
        Err(malformed) => return (Verdict::Harness, malformed.to_string(), 0),
    };
    let unsafe_ones = violations.iter().any(|violation| !is_about_liveness(violation.point));
    let verdict = if unsafe_ones || !driven.wrong.is_empty() {
        Verdict::Safety
    } else if violations.is_empty() && driven.stuck.is_empty() {
        Verdict::Ok
    } else {
        Verdict::Liveness
    };
    let mut paragraphs = [&driven.stuck[..], &driven.wrong].concat();
    for violation in &violations {
        let story = violation.story.iter().map(|line| format!("    {line}"));
        let head = format!("[point {}] {}", violation.point, violation.explanation);
        paragraphs.push(std::iter::once(head).chain(story).collect::<Vec<_>>().join("\n"));
    }
    (verdict, paragraphs.join("\n\n"), false_siblings)
}

/// Points of DESIGN.md's list that say that something happens, not that something never does.
const fn is_about_liveness(point: u8) -> bool {
    matches!(point, 3 | 7 | 8 | 10)
}

fn events(trace: &Trace) -> BTreeMap<String, u64> {
    trace.counters().into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}

fn requests(evidence: &Evidence) -> BTreeMap<String, Outcomes> {
    let mut requests: BTreeMap<String, Outcomes> = BTreeMap::new();
    for operation in &evidence.history.ops {
        let asked = match operation.kind {
            Kind::Get => "get",
            Kind::Put { .. } => "put",
            Kind::Delete => "delete",
        };
        let outcomes = requests.entry(asked.to_owned()).or_default();
        match operation.outcome {
            Outcome::Got(_) | Outcome::Acked { .. } => outcomes.ok += 1,
            Outcome::Refused { .. } => outcomes.refused += 1,
            Outcome::Unknown { .. } => outcomes.unknown += 1,
        }
    }
    requests
}

/// Locks what only one thread uses.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
