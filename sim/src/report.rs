//! What came of one run: small, plain data that a child process hands to the sweep.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quality::Quality;

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// Why, for people: one paragraph for each finding. Empty when all is well.
    pub explanation: String,
    /// The trace's digest; empty when the run did not get to its end.
    pub digest: String,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Time that it took here.
    pub real_ms: u64,
    /// How often each kind of fault began.
    pub faults: BTreeMap<String, u64>,
    /// How often each typed event happened.
    pub events: BTreeMap<String, u64>,
    /// What became of requests, by what they asked.
    pub requests: BTreeMap<String, Outcomes>,
    /// How well nodes told the dead from the living.
    pub detector: Quality,
    /// How long the replicas took to be equal after the last fault had ended; `None`: the run did not come so far.
    #[serde(default)]
    pub converged_ms: Option<u64>,
    /// The period in which replicas compare what they hold.
    #[serde(default)]
    pub period_ms: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that must hold held.
    Ok,
    /// Something wrong was answered or kept.
    Safety,
    /// Something that had to happen did not, in time.
    Liveness,
    /// A panic, a signal, or a run that would not end.
    Crash,
    /// The harness is at fault, or was used on the wrong build.
    Harness,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answered as asked.
    pub ok: u64,
    /// Refused, provably without effect.
    pub refused: u64,
    /// Nobody knows whether they took effect.
    pub unknown: u64,
}

impl Verdict {
    /// All of them, best first.
    pub const ALL: [Verdict; 5] =
        [Verdict::Ok, Verdict::Safety, Verdict::Liveness, Verdict::Crash, Verdict::Harness];

    /// Its name in reports and plans.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Safety => "safety",
            Verdict::Liveness => "liveness",
            Verdict::Crash => "crash",
            Verdict::Harness => "harness",
        }
    }

    /// The exit code that says it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Safety => 1,
            Verdict::Liveness => 2,
            Verdict::Crash => 3,
            Verdict::Harness => 4,
        }
    }
}

impl Report {
    /// A report of a run that did not get to its end.
    pub fn broken(verdict: Verdict, explanation: String) -> Self {
        Self {
            verdict,
            explanation,
            digest: String::new(),
            simulated_ms: 0,
            real_ms: 0,
            faults: BTreeMap::new(),
            events: BTreeMap::new(),
            requests: BTreeMap::new(),
            detector: Quality::default(),
            converged_ms: None,
            period_ms: 0,
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let digest = if self.digest.is_empty() { "none" } else { &self.digest };
        format!(
            "{}: {:.1} s simulated in {:.2} s, digest {digest}",
            self.verdict.name(),
            self.simulated_ms as f64 / 1e3,
            self.real_ms as f64 / 1e3,
        )
    }
}

impl Outcomes {
    /// All requests.
    pub const fn total(&self) -> u64 {
        self.ok + self.refused + self.unknown
    }

    /// Counts `other` in.
    pub fn add(&mut self, other: Outcomes) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}
