//! Compares what members believed with what was true.
//!
//! The truth is the course's: a member is dead from its crash until its restart, and runs
//! otherwise, also while it is paused or behind a cut link. See [`lab`](super) for what is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use starling::runtime::time::Instant;

use super::arena::{Change, Outcome};
use super::course::{BEGIN, Course, Incident};
use super::{Belief, Place};

/// What came of crashes and restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detections {
    /// For each crash and each observer that lived: how long until it believed it, for good.
    pub times: Vec<Duration>,
    /// For each crash that all observers believed: how long until the last of them did.
    pub agreements: Vec<Duration>,
    /// How often an observer did not believe the member down when it came back.
    pub missed: usize,
    /// For each restart and each observer that had the member down: how long until it had it up.
    pub back: Vec<Duration>,
    /// How often an observer that had the member down did not have it up in the end.
    pub never_back: usize,
}

impl Detections {
    /// Adds what came of another run.
    pub fn extend(&mut self, other: Self) {
        self.times.extend(other.times);
        self.agreements.extend(other.agreements);
        self.missed += other.missed;
        self.back.extend(other.back);
        self.never_back += other.never_back;
    }
}

/// How often members that ran were taken for dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mistakes {
    /// How long each mistake lasted; one that the end of the run cut short counts up to there.
    pub durations: Vec<Duration>,
    /// How long was watched: hours, times members.
    pub node_hours: f64,
}

/// Judges each crash of the course.
pub fn detections(course: &Course, outcome: &Outcome) -> Detections {
    let mut found = Detections::default();
    for (at, incident) in &course.incidents {
        let Incident::Crash(victim) = *incident else { continue };
        let back = restart_of(course, victim, *at);
        let until = back.unwrap_or(outcome.ended);
        let next = crash_of(course, victim, until).unwrap_or(outcome.ended);
        let mut times = Vec::new();
        let missed_before = found.missed;
        for observer in (0..course.members).filter(|o| lives(course, *o, *at, until)) {
            let view: Vec<&Change> = outcome
                .changes
                .iter()
                .filter(|c| c.observer == observer && c.subject == victim)
                .collect();
            let Some(believed) = down_for_good(&view, until) else {
                found.missed += 1;
                continue;
            };
            times.push(believed.since(*at));
            if back.is_some() {
                match view.iter().find(|c| c.at > until && c.at < next && c.after == Belief::Up) {
                    Some(change) => found.back.push(change.at.since(until)),
                    None => found.never_back += 1,
                }
            }
        }
        if found.missed == missed_before {
            found.agreements.extend(times.iter().max());
        }
        found.times.extend(times);
    }
    found
}

/// Since when the observer with these changes has had the member down at `until`; `None`: it has not.
fn down_for_good(view: &[&Change], until: Instant) -> Option<Instant> {
    let last = view.iter().rfind(|c| c.at <= until)?;
    (last.after == Belief::Down).then_some(last.at)
}

/// Judges every belief in a member's death, from the end of the warm-up.
pub fn mistakes(course: &Course, outcome: &Outcome) -> Mistakes {
    let from = course.measured_from();
    let mut durations = Vec::new();
    let mut open: BTreeMap<(Place, Place), Instant> = BTreeMap::new();
    let mut deaths = deaths(course).into_iter().peekable();
    for change in &outcome.changes {
        // A death makes right whoever had the member down by mistake.
        while let Some((at, dead)) = deaths.next_if(|(at, _)| *at <= change.at) {
            close(&mut open, &mut durations, |(_, subject)| *subject == dead, at);
        }
        let pair = (change.observer, change.subject);
        if change.after == Belief::Down {
            let was_up = matches!(change.before, Belief::Up | Belief::Suspect);
            let runs = lives(course, change.subject, change.at, change.at);
            if was_up && runs && change.at >= from {
                open.insert(pair, change.at);
            }
        } else if let Some(since) = open.remove(&pair) {
            durations.push(change.at.since(since));
        }
    }
    for (at, dead) in deaths {
        close(&mut open, &mut durations, |(_, subject)| *subject == dead, at);
    }
    close(&mut open, &mut durations, |_| true, outcome.ended);
    let hours = outcome.ended.since(from).as_secs_f64() / 3_600.0;
    Mistakes { durations, node_hours: hours * course.members as f64 }
}

fn close(
    open: &mut BTreeMap<(Place, Place), Instant>,
    durations: &mut Vec<Duration>,
    which: impl Fn(&(Place, Place)) -> bool,
    at: Instant,
) {
    let closed: Vec<_> = open.keys().filter(|pair| which(pair)).copied().collect();
    durations.extend(closed.iter().filter_map(|pair| open.remove(pair)).map(|s| at.since(s)));
}

/// How long after the first machine may start everybody first had everybody up; `None`: never.
pub fn complete_after(outcome: &Outcome) -> Option<Duration> {
    outcome.complete.map(|at| at.since(BEGIN))
}

fn deaths(course: &Course) -> Vec<(Instant, Place)> {
    let crash = |(at, incident): &(Instant, Incident)| match incident {
        Incident::Crash(place) => Some((*at, *place)),
        Incident::Restart(_)
        | Incident::Pause(_)
        | Incident::Resume(_)
        | Incident::Cut(..)
        | Incident::Heal(..) => None,
    };
    course.incidents.iter().filter_map(crash).collect()
}

fn restart_of(course: &Course, place: Place, after: Instant) -> Option<Instant> {
    let found = |(at, incident): &&(Instant, Incident)| {
        *at > after && *incident == Incident::Restart(place)
    };
    course.incidents.iter().find(found).map(|(at, _)| *at)
}

fn crash_of(course: &Course, place: Place, after: Instant) -> Option<Instant> {
    deaths(course).into_iter().find(|(at, dead)| *at > after && *dead == place).map(|(at, _)| at)
}

/// Whether the member runs all the time from `from` to `to`.
fn lives(course: &Course, place: Place, from: Instant, to: Instant) -> bool {
    deaths(course)
        .into_iter()
        .filter(|(at, dead)| *dead == place && *at <= to)
        .all(|(at, _)| restart_of(course, place, at).is_some_and(|back| back <= from))
}

/// The time that `percent` of `times` do not exceed (nearest rank); `None`: there are none.
pub fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    assert!((1..=100).contains(&percent), "{percent} is no percentile");
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}
