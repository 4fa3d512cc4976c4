//! Point 6 for reads of nothing: "not found" is said by home replicas. A fallback that has nothing knows nothing.
//!
//! A 404 without a token says that R home replicas hold nothing for the key. So at least R of them could be asked: a
//! home replica whose process did not run for the whole time of the request, or that no way led to from the node
//! asked, is none of them.
//!
//! Sound: a fault counts only if it was on from before the request until after the answer, and a way is a chain of
//! nodes none of whose links was cut in either direction all that time (connections need both), so whoever answered
//! is among those counted. Slow, lossy and flapping links excuse: something may get through.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::Violation;
use super::knowledge::{KeyView, Reading};
use super::story::Story;
use crate::history::{Disturbance, Endpoint, Evidence, Fault, NodeIndex, Operation};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    let Some(info) = evidence.history.keys.get(view.key.0 as usize) else { return };
    if evidence.hints.is_none() {
        // Without hints nobody is a fallback; a stand-in in the harness's tests has no homes to ask either.
        return;
    }
    for reading in &view.readings {
        let nothing = reading.items.is_empty() && reading.got.strange.is_empty();
        if !nothing || reading.got.context {
            continue;
        }
        let reached = reached(evidence, reading);
        let homes = info.homes.iter().filter(|home| reached.contains(home)).count();
        if homes >= usize::from(reading.op.asked.need) {
            continue;
        }
        let explanation = format!(
            "{} says that there is nothing, which takes {} home replicas to know, and no more than {homes} of \
             them could be asked: the others did not run, or no way led to them from {}, from before the \
             request until after its answer.",
            reading.op.id, reading.op.asked.need, reading.op.node,
        );
        found.push(story.violation(6, view.key, vec![reading.op.id], explanation));
    }
}

/// Whether a process of `node` lived at any time of the request.
fn ran(evidence: &Evidence, node: NodeIndex, op: &Operation) -> bool {
    let lives = evidence.membership.iter().flat_map(|membership| &membership.lives);
    lives.into_iter().any(|life| {
        let until_ns = life.end.map_or(u64::MAX, |(at_ns, _)| at_ns);
        life.node == node && life.start_ns <= op.end_ns && until_ns >= op.start_ns
    })
}

/// Whether a process of `node` was started in this time.
fn started(evidence: &Evidence, node: NodeIndex, when: RangeInclusive<u64>) -> bool {
    let lives = evidence.membership.iter().flat_map(|membership| &membership.lives);
    lives.into_iter().any(|life| life.node == node && when.contains(&life.start_ns))
}

/// The nodes that the one asked could hear from, itself among them.
fn reached(evidence: &Evidence, reading: &Reading<'_>) -> BTreeSet<NodeIndex> {
    let op = reading.op;
    let throughout = |d: &&Disturbance| d.start_ns <= op.start_ns && d.end_ns >= op.end_ns;
    let mut gone = BTreeSet::new();
    let mut cut = BTreeSet::new();
    let keys = evidence.history.keys.iter();
    let nodes: BTreeSet<NodeIndex> =
        keys.flat_map(|key| key.homes.iter().chain(&key.fallbacks)).copied().collect();
    for disturbance in evidence.disturbances.iter().filter(throughout) {
        match disturbance.fault {
            // One that was asked to stop counts as down from then on, and may still answer.
            Fault::Down(Endpoint::Node(node)) | Fault::PowerLoss(Endpoint::Node(node))
                if !ran(evidence, node, op) =>
            {
                gone.insert(node);
            }
            // A process that was started since does not stand still.
            Fault::Paused(Endpoint::Node(node))
                if !started(evidence, node, disturbance.start_ns..=op.end_ns) =>
            {
                gone.insert(node);
            }
            Fault::Isolated(Endpoint::Node(node)) => {
                gone.insert(node);
            }
            Fault::LinkCut { from: Endpoint::Node(from), to: Endpoint::Node(to) } => {
                cut.extend([(from, to), (to, from)]);
            }
            Fault::Down(_)
            | Fault::PowerLoss(_)
            | Fault::Paused(_)
            | Fault::Isolated(_)
            | Fault::RolledBack(_)
            | Fault::Forgotten(_)
            | Fault::Damaged(_)
            | Fault::DiskTrouble(_)
            | Fault::ClockWrong(_)
            | Fault::LinkCut { .. }
            | Fault::LinkBad { .. }
            | Fault::LinkRough { .. }
            | Fault::DatagramsRough { .. } => {}
        }
    }
    let mut reached = BTreeSet::from([op.node]);
    let mut open = vec![op.node];
    while let Some(from) = open.pop() {
        for to in nodes.iter().filter(|to| !gone.contains(to) && !cut.contains(&(from, **to))) {
            if reached.insert(*to) {
                open.push(*to);
            }
        }
    }
    reached
}
