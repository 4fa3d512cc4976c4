//! Point 9: no hint is lost before its owner has it, and none is left for a live owner after healing.
//!
//! 1. After healing every owner lives and has had its time, so nobody holds any hint.
//! 2. A hint that a node noted as stored was delivered, given to the new owners, or expired after that, or
//!    is still held (then rule 1 speaks). Nothing else makes it vanish: a crash does not, since the hint is in
//!    the log before anybody was told of it.
//! 3. A hint expires only when it is as old as it may become.
//!
//! What is excused, since the note may run ahead of the log, and age is read off a wall clock: a process that
//! ended within the time that the log takes; a disk in trouble, or rolled back, at the note or later; a power loss, where acks
//! do not wait for fsync; and for age, a wall clock that was wrong at some time between note and expiry, or a disk that was rolled back.
//!
//! That an acked write survives even if only hints held it is point 1's part; see `lost`.
//!
//! Keys that share a tag share a token and are told as one, so what is told of one may be true of another: there
//! rule 3 counts the age from the first of them, and rule 2 takes what ended one for the end of all.

use std::collections::BTreeMap;

use super::Violation;
use super::story::seconds;
use crate::history::{
    Disturbance, Endpoint, Evidence, Fault, HintDeed, HintStep, Hints, KeyIndex, NodeIndex,
};

/// One hint: who holds it, for whom, of which key.
type Place = (NodeIndex, NodeIndex, KeyIndex);

pub(super) fn check(evidence: &Evidence, found: &mut Vec<Violation>) {
    let Some(hints) = &evidence.hints else { return };
    for left in hints.left.iter().flatten().filter(|left| left.count > 0) {
        found.push(violation(format!(
            "after healing, {} still holds {} hints for {}, which is up.",
            left.holder, left.count, left.owner
        )));
    }
    let mut places: BTreeMap<Place, Vec<&HintStep>> = BTreeMap::new();
    for step in &hints.steps {
        places.entry((step.holder, step.owner, step.key)).or_default().push(step);
    }
    let case = Case { evidence, hints };
    for steps in places.values() {
        case.judge_end(steps, found);
        case.judge_age(steps, found);
    }
}

struct Case<'a> {
    evidence: &'a Evidence,
    hints: &'a Hints,
}

impl Case<'_> {
    /// Rule 2: the last that is told of a hint is not that it was stored.
    fn judge_end(&self, steps: &[&HintStep], found: &mut Vec<Violation>) {
        let Some(last) = steps.last().filter(|step| step.what == HintDeed::Stored) else { return };
        // A run that was cut short may hold anything.
        let Some(left) = &self.hints.left else { return };
        let held = left.iter().any(|row| (row.holder, row.owner) == (last.holder, last.owner));
        if held || self.may_have_lost(last) {
            return;
        }
        found.push(violation(format!(
            "{} stored a hint for {} of key {} at {}, and it is gone: it was neither delivered nor \
             expired after that, and is not held.",
            last.holder,
            last.owner,
            self.name(last.key),
            seconds(last.at_ns),
        )));
    }

    /// Rule 3: the oldest part of what expired was old enough.
    fn judge_age(&self, steps: &[&HintStep], found: &mut Vec<Violation>) {
        let mut since: Option<u64> = None;
        let shared = steps.first().is_some_and(|step| self.name(step.key).contains('{'));
        for step in steps {
            match step.what {
                HintDeed::Stored => since = since.or(Some(step.at_ns)),
                HintDeed::Delivered | HintDeed::Reresolved if shared => {}
                HintDeed::Delivered | HintDeed::Reresolved => since = None,
                HintDeed::Expired => {
                    if let Some(since_ns) = since {
                        self.judge_expiry(since_ns, step, found);
                    }
                    since = since.filter(|_| shared);
                }
            }
        }
    }

    fn judge_expiry(&self, since_ns: u64, step: &HintStep, found: &mut Vec<Violation>) {
        // Clocks drift, and ages are kept in whole milliseconds.
        let least_ns = self.hints.age_ns - self.hints.age_ns / 500;
        let aged_ns = step.at_ns - since_ns;
        let holder = Endpoint::Node(step.holder);
        let wrong_clock = self.evidence.disturbances.iter().any(|d| {
            // What was delivered since the copy is back, as old as it was.
            let odd =
                [Fault::ClockWrong(holder), Fault::RolledBack(holder), Fault::Forgotten(holder)];
            odd.contains(&d.fault) && d.start_ns <= step.at_ns && d.end_ns >= since_ns
        });
        if aged_ns >= least_ns || wrong_clock {
            return;
        }
        found.push(violation(format!(
            "{} dropped a hint for {} of key {} at {} for its age of {}; it may become {} old.",
            step.holder,
            step.owner,
            self.name(step.key),
            seconds(step.at_ns),
            seconds(aged_ns),
            seconds(self.hints.age_ns),
        )));
    }

    /// What the holder suffered may have kept the hint out of its log.
    fn may_have_lost(&self, stored: &HintStep) -> bool {
        let holder = Endpoint::Node(stored.holder);
        let written_ns = stored.at_ns.saturating_add(self.hints.durable_ns);
        let rules = &self.evidence.rules;
        self.evidence.disturbances.iter().any(|Disturbance { fault, start_ns, end_ns }| {
            let at_once = (stored.at_ns..=written_ns).contains(start_ns);
            let after = *end_ns >= stored.at_ns;
            match fault {
                Fault::Down(at) => *at == holder && at_once,
                Fault::PowerLoss(at) => *at == holder && (at_once || (after && !rules.sync_always)),
                Fault::DiskTrouble(at) | Fault::RolledBack(at) | Fault::Forgotten(at) => {
                    *at == holder && after
                }
                // Hints are in no table.
                Fault::Damaged(_)
                | Fault::Paused(_)
                | Fault::Isolated(_)
                | Fault::ClockWrong(_)
                | Fault::LinkCut { .. }
                | Fault::LinkBad { .. }
                | Fault::LinkRough { .. }
                | Fault::DatagramsRough { .. } => false,
            }
        })
    }

    fn name(&self, key: KeyIndex) -> &str {
        self.evidence.history.keys.get(key.0 as usize).map_or("?", |info| &info.name)
    }
}

fn violation(explanation: String) -> Violation {
    Violation { point: 9, key: None, ops: Vec::new(), explanation, story: Vec::new() }
}
