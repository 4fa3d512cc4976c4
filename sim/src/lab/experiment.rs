//! The experiments: which courses are run how often, and the rows that come of them.

use std::time::{Duration, Instant as Stopwatch};

use serde::Serialize;

use crate::dice::Dice;

use super::Factory;
use super::arena::{self, Outcome};
use super::course::Course;
use super::judge::{self, Detections, percentile};
use super::network::Network;

/// How much is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where every draw comes from.
    pub seed: u64,
    /// The sizes of cluster.
    pub sizes: Vec<usize>,
    /// About how many observers watch a crash, over all runs of a size.
    pub crash_observers: usize,
    /// How long each scenario is watched at each size: hours, times members.
    pub node_hours: u64,
    /// The long scenarios' length in hours; 0: none.
    pub long_hours: u64,
    /// The sizes of the clusters that start all at once, with one seed.
    pub joins: Vec<usize>,
}

impl Plan {
    /// All that the tables in README.md have: minutes.
    pub fn full(seed: u64) -> Self {
        Self {
            seed,
            sizes: vec![3, 5, 10, 100],
            crash_observers: 1_000,
            node_hours: 24,
            long_hours: 24,
            joins: vec![100, 1_000],
        }
    }

    /// A taste: seconds.
    pub fn quick(seed: u64) -> Self {
        Self {
            seed,
            sizes: vec![3, 10],
            crash_observers: 200,
            node_hours: 4,
            long_hours: 0,
            joins: vec![100],
        }
    }
}

/// The size of the cluster in the long scenarios.
const LONG_MEMBERS: usize = 10;

/// From so many members on, a slow subject is watched for a shorter time.
const MANY: usize = 100;

/// How long a crashed member stays away, and how long it then has to be taken back.
const AWAY: Duration = Duration::from_secs(45);

/// How long a paused member stands still.
const PAUSE: Duration = Duration::from_secs(3);

/// How long a flapping link is cut, and how long it is not.
const FLAP: Duration = Duration::from_secs(10);

/// How long a cluster that starts at once is watched.
const JOIN: Duration = Duration::from_secs(60);

/// What happens to a cluster while mistakes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    Quiet,
    LossOne,
    LossFive,
    Pauses,
    BadLink,
    FlappingLink,
}

impl Scenario {
    const ALL: [Self; 6] = [
        Self::Quiet,
        Self::LossOne,
        Self::LossFive,
        Self::Pauses,
        Self::BadLink,
        Self::FlappingLink,
    ];

    const LONG: [Self; 2] = [Self::LossOne, Self::Pauses];

    const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::LossOne => "1 % loss",
            Self::LossFive => "5 % loss, 1 % twice",
            Self::Pauses => "3 s pauses",
            Self::BadLink => "one bad link",
            Self::FlappingLink => "flapping link",
        }
    }

    fn course(self, seed: u64, members: usize, measured: Duration) -> Course {
        let quiet = Course::quiet(seed, members, measured);
        let lossy = |lost_per_mille, twice_per_mille| Network { lost_per_mille, twice_per_mille };
        match self {
            Self::Quiet => quiet,
            Self::LossOne => Course { network: lossy(10, 0), ..quiet },
            Self::LossFive => Course { network: lossy(50, 10), ..quiet },
            Self::Pauses => quiet.with_pauses(PAUSE),
            Self::BadLink => quiet.with_bad_link(),
            Self::FlappingLink => quiet.with_flapping_link(FLAP),
        }
    }
}

/// How one subject detected crashes and returns, at one size. Times in ms; `None`: there were none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrashRow {
    /// How many members.
    pub members: usize,
    /// The subject's name.
    pub subject: &'static str,
    /// How many crashes.
    pub runs: usize,
    /// Until a live observer believes it: half of them are faster than this.
    pub p50_ms: Option<u64>,
    /// 99 of 100 are faster.
    pub p99_ms: Option<u64>,
    /// The slowest.
    pub max_ms: Option<u64>,
    /// Until the last observer of a run believes it: half of the runs.
    pub agreed_p50_ms: Option<u64>,
    /// 99 of 100 runs.
    pub agreed_p99_ms: Option<u64>,
    /// Observers that did not believe it while it was away.
    pub missed: usize,
    /// Until an observer has the restarted member up again: half of them.
    pub back_p50_ms: Option<u64>,
    /// 99 of 100.
    pub back_p99_ms: Option<u64>,
    /// Observers that did not until the end of the run.
    pub not_back: usize,
}

/// What one subject took for dead that ran, and what it sent, in one scenario at one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MistakeRow {
    /// The scenario's name.
    pub scenario: &'static str,
    /// How many members.
    pub members: usize,
    /// The subject's name.
    pub subject: &'static str,
    /// The simulated time, in hours.
    pub hours: f64,
    /// Mistaken beliefs that another is down.
    pub mistakes: usize,
    /// The same per member and hour.
    pub per_node_hour: f64,
    /// How long half of them lasted, in ms; `None`: there were none.
    pub lasted_p50_ms: Option<u64>,
    /// How long the longest lasted, in ms.
    pub lasted_max_ms: Option<u64>,
    /// What a member sends on average, in bytes a second.
    pub bytes_per_s: u64,
    /// The busiest second of any member, in bytes.
    pub busiest_second_bytes: u64,
    /// The largest datagram, in bytes.
    pub largest_datagram_bytes: usize,
}

/// How one subject's members found each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JoinRow {
    /// How many members.
    pub members: usize,
    /// The subject's name.
    pub subject: &'static str,
    /// Why it was not run; the other figures are empty then.
    pub skipped: Option<&'static str>,
    /// From the first start until everybody first had everybody up, in ms; `None`: not in time.
    pub complete_ms: Option<u64>,
    /// Of all beliefs in the end, how many were up.
    pub up_percent: f64,
    /// What a member sends on average, in bytes a second.
    pub bytes_per_s: u64,
    /// The busiest second of any member, in bytes.
    pub busiest_second_bytes: u64,
    /// How long the laboratory took: the one figure that depends on the machine it ran on.
    pub wall_ms: u64,
}

/// All rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tables {
    /// The seed.
    pub seed: u64,
    /// Each subject's name and settings.
    pub subjects: Vec<(&'static str, String)>,
    /// Crashes and restarts.
    pub crashes: Vec<CrashRow>,
    /// Mistakes and traffic.
    pub mistakes: Vec<MistakeRow>,
    /// Starts all at once.
    pub joins: Vec<JoinRow>,
}

/// Does everything in the plan with everyone; calls `progress` before each row.
pub fn run(factories: &[&dyn Factory], plan: &Plan, progress: &mut dyn FnMut(&str)) -> Tables {
    let subjects = factories.iter().map(|factory| (factory.name(), factory.settings())).collect();
    let mut tables = Tables {
        seed: plan.seed,
        subjects,
        crashes: Vec::new(),
        mistakes: Vec::new(),
        joins: Vec::new(),
    };
    for &members in &plan.sizes {
        for factory in factories {
            progress(&format!("{} crashes at {members}", factory.name()));
            tables.crashes.push(crashes(*factory, plan, members));
        }
    }
    for scenario in Scenario::ALL {
        for &members in &plan.sizes {
            for factory in factories {
                progress(&format!("{} {} at {members}", factory.name(), scenario.name()));
                tables.mistakes.push(mistakes(*factory, plan, scenario, members));
            }
        }
    }
    for &members in &plan.joins {
        for factory in factories {
            progress(&format!("{} start of {members}", factory.name()));
            tables.joins.push(join(*factory, plan, members));
        }
    }
    tables
}

fn crashes(factory: &dyn Factory, plan: &Plan, members: usize) -> CrashRow {
    let runs = (plan.crash_observers / members).clamp(1, 200);
    let mut found = Detections::default();
    let mut die = Dice::new(plan.seed).stream("lab crash runs", members as u64, 0);
    for _ in 0..runs {
        let seed = die.within(0, u64::MAX);
        // Ten seconds to die in, then the time away, and as long again to come back.
        let measured = Duration::from_secs(10) + AWAY + AWAY;
        let course = Course::quiet(seed, members, measured).with_crash(AWAY);
        found.extend(judge::detections(&course, &arena::run(factory, &course)));
    }
    CrashRow {
        members,
        subject: factory.name(),
        runs,
        p50_ms: ms(percentile(&found.times, 50)),
        p99_ms: ms(percentile(&found.times, 99)),
        max_ms: ms(percentile(&found.times, 100)),
        agreed_p50_ms: ms(percentile(&found.agreements, 50)),
        agreed_p99_ms: ms(percentile(&found.agreements, 99)),
        missed: found.missed,
        back_p50_ms: ms(percentile(&found.back, 50)),
        back_p99_ms: ms(percentile(&found.back, 99)),
        not_back: found.never_back,
    }
}

fn mistakes(factory: &dyn Factory, plan: &Plan, scenario: Scenario, members: usize) -> MistakeRow {
    let long = plan.long_hours > 0 && members == LONG_MEMBERS && Scenario::LONG.contains(&scenario);
    let hours = if long { plan.long_hours * members as u64 } else { plan.node_hours };
    let slowness = if long || members >= MANY { factory.slowness() } else { 1 };
    let measured = Duration::from_secs(hours * 3_600 / members as u64 / slowness);
    let mut die = Dice::new(plan.seed).stream(scenario.name(), members as u64, 0);
    let course = scenario.course(die.within(0, u64::MAX), members, measured);
    let outcome = arena::run(factory, &course);
    let found = judge::mistakes(&course, &outcome);
    MistakeRow {
        scenario: scenario.name(),
        members,
        subject: factory.name(),
        hours: measured.as_secs_f64() / 3_600.0,
        mistakes: found.durations.len(),
        per_node_hour: found.durations.len() as f64 / found.node_hours,
        lasted_p50_ms: ms(percentile(&found.durations, 50)),
        lasted_max_ms: ms(percentile(&found.durations, 100)),
        bytes_per_s: bytes_per_s(&outcome, measured),
        busiest_second_bytes: busiest(&outcome),
        largest_datagram_bytes: outcome.traffic.iter().map(|t| t.largest).max().unwrap_or(0),
    }
}

fn join(factory: &dyn Factory, plan: &Plan, members: usize) -> JoinRow {
    let mut row = JoinRow {
        members,
        subject: factory.name(),
        skipped: None,
        complete_ms: None,
        up_percent: 0.0,
        bytes_per_s: 0,
        busiest_second_bytes: 0,
        wall_ms: 0,
    };
    if let Some((_, why)) = factory.limit().filter(|(most, _)| members > *most) {
        return JoinRow { skipped: Some(why), ..row };
    }
    let seed = Dice::new(plan.seed).stream("lab join", members as u64, 0).within(0, u64::MAX);
    let course = Course { seeds: 1, warm_up: Duration::ZERO, ..Course::quiet(seed, members, JOIN) };
    let course = Course { length: JOIN, ..course };
    let stopwatch = Stopwatch::now();
    let outcome = arena::run(factory, &course);
    row.wall_ms = u64::try_from(stopwatch.elapsed().as_millis()).unwrap_or(u64::MAX);
    row.complete_ms = ms(judge::complete_after(&outcome));
    row.up_percent = 100.0 * outcome.up as f64 / (members * (members - 1)) as f64;
    row.bytes_per_s = bytes_per_s(&outcome, JOIN);
    row.busiest_second_bytes = busiest(&outcome);
    row
}

fn bytes_per_s(outcome: &Outcome, measured: Duration) -> u64 {
    let sent: u64 = outcome.traffic.iter().map(|t| t.bytes).sum();
    sent / measured.as_secs().max(1) / (outcome.traffic.len() as u64).max(1)
}

fn busiest(outcome: &Outcome) -> u64 {
    outcome.traffic.iter().map(|t| t.busiest).max().unwrap_or(0)
}

fn ms(time: Option<Duration>) -> Option<u64> {
    time.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}
