//! Point 5: siblings shown together are pairwise concurrent, each is shown once, and there are no more of
//! them than can be.
//!
//! **Pairs.** A reply never shows both x and something whose request's token covered x. For items: if every
//! attempt that can stand behind y surely covered every attempt that can stand behind x, the two can't be
//! shown together. Sound: one attempt of each is live in the reply; the reply knows y's, hence knows that x's
//! is superseded.
//!
//! **k clients, k siblings.** Let k clients read, modify and write, each with the token of its last answer. Among
//! k+1 siblings two are by one client; the later one's token covers the earlier, unless the client never heard
//! of its own write (unanswered), or read too few replicas to see it again. So the exact and sound form of the bound
//! is the one about pairs, and a count adds nothing where siblings are identified. It does add something for
//! the `siblings` that an ack reports, which are only counted:
//!
//! ```text
//! siblings in the ack of w  <=  1 + chains of the attempts begun before the ack's end that w surely neither
//!                               covers nor is covered by
//! ```
//!
//! where all attempts of the key are cut into chains in which each surely covers the one before (a greedy
//! cover: each attempt goes on from its own client's last write if it covers that, else from the oldest open
//! end that it covers). Siblings are pairwise concurrent, so a chain holds at most one of them. For k disciplined
//! clients that gives k, plus one for each of their attempts that went unanswered.
//!
//! **The last write wins**: one value is shown, and one sibling is there after a write.
//!
//! **Pruned** attempts ([`super::pruning`]) may be siblings beside whatever covers them, each beside the count of chains.
//!
//! **Refusals** at the limit of siblings (point 12) are held to the same count: so many chains must there be that the refused
//! write's token does not surely cover.

use std::collections::BTreeSet;

use super::Violation;
use super::knowledge::{Crowded, Item, KeyView, Reading};
use super::story::{Story, list};
use crate::history::{Evidence, OpId, Outcome};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    for reading in &view.readings {
        if view.last_write && reading.items.len() > 1 {
            let explanation = format!(
                "{} showed {} together, and of concurrent values the last write is to win.",
                reading.op.id,
                list(&reading.items)
            );
            found.push(story.violation(5, view.key, vec![reading.op.id], explanation));
        }
        found.extend(shown_twice(view, reading, story));
        found.extend(ordered_pair(view, reading, story));
    }
    let chains = chains(view);
    for at in 0..view.attempts.len() {
        found.extend(too_many(view, at, &chains, story));
    }
    if let Some(limit) = evidence.rules.siblings_max {
        let refusals = view.crowded.iter();
        found.extend(refusals.filter_map(|refusal| too_few(view, refusal, limit, &chains, story)));
    }
}

fn shown_twice(view: &KeyView<'_>, reading: &Reading<'_>, story: &Story<'_>) -> Option<Violation> {
    let mut seen = BTreeSet::new();
    let twice = reading.got.values.iter().find(|&value| !seen.insert(value))?;
    let explanation = format!(
        "{} showed {twice} twice; equal concurrent values are to be shown once.",
        reading.op.id
    );
    Some(story.violation(5, view.key, vec![reading.op.id], explanation))
}

fn ordered_pair(view: &KeyView<'_>, reading: &Reading<'_>, story: &Story<'_>) -> Option<Violation> {
    if reading.items.len() < 2 {
        return None;
    }
    for &later in &reading.items {
        let covered = view.seen_by_all(view.candidates(later, reading.horizon));
        let is_covered = |&a: &usize| covered.contains(a) && !view.is_pruned(a, reading.op.end_ns);
        let dead = |item: &&Item| {
            let attempts = view.candidates(**item, reading.horizon);
            **item != later && !attempts.is_empty() && attempts.iter().all(is_covered)
        };
        let Some(&earlier) = reading.items.iter().find(dead) else { continue };
        let writer = |item| {
            let first = view.candidates(item, reading.horizon).first();
            first.map(|&at| view.attempts[at].op.id)
        };
        let mut ops: Vec<OpId> = vec![reading.op.id];
        ops.extend(writer(earlier));
        ops.extend(writer(later));
        let explanation = format!(
            "{} showed {} and {} together, but whoever wrote {} held a token that covers {}: they are not \
             concurrent, and only the later may be shown.",
            reading.op.id,
            list(&[earlier]),
            list(&[later]),
            list(&[later]),
            list(&[earlier]),
        );
        return Some(story.violation(5, view.key, ops, explanation));
    }
    None
}

/// The number of the chain that each attempt is on.
fn chains(view: &KeyView<'_>) -> Vec<usize> {
    let mut chain_of: Vec<usize> = Vec::with_capacity(view.attempts.len());
    // The last attempt of each chain.
    let mut ends: Vec<usize> = Vec::new();
    for (at, attempt) in view.attempts.iter().enumerate() {
        let covers = |&chain: &usize| attempt.seen.must.contains(ends[chain]);
        let own = |&chain: &usize| view.attempts[ends[chain]].op.client == attempt.op.client;
        let open = (0..ends.len()).filter(|chain| covers(chain));
        let chain = open.clone().find(|chain| own(chain)).or_else(|| open.clone().next());
        match chain {
            Some(chain) => {
                ends[chain] = at;
                chain_of.push(chain);
            }
            None => {
                chain_of.push(ends.len());
                ends.push(at);
            }
        }
    }
    chain_of
}

/// Point 12: a write is refused at the limit only if there can be so many siblings beside it.
fn too_few(
    view: &KeyView<'_>,
    refusal: &Crowded<'_>,
    limit: u32,
    chains: &[usize],
    story: &Story<'_>,
) -> Option<Violation> {
    let begun = (0..refusal.horizon).filter(|&at| !refusal.seen.must.contains(at));
    let beside: BTreeSet<usize> = begun.map(|at| chains[at]).collect();
    if beside.len() + come_back(view, refusal.horizon, refusal.op.end_ns) >= limit as usize {
        return None;
    }
    let explanation = format!(
        "{} was refused because the key had {limit} siblings, but at most {} writes can be concurrent beside it.",
        refusal.op.id,
        beside.len()
    );
    Some(story.violation(12, view.key, vec![refusal.op.id], explanation))
}

/// How many of the first so many attempts may be siblings again, though others of their chain are.
fn come_back(view: &KeyView<'_>, horizon: usize, at_ns: u64) -> usize {
    (0..horizon).filter(|&at| view.is_pruned(at, at_ns)).count()
}

fn too_many(
    view: &KeyView<'_>,
    at: usize,
    chains: &[usize],
    story: &Story<'_>,
) -> Option<Violation> {
    let written = &view.attempts[at];
    let Outcome::Acked { siblings, .. } = written.op.outcome else { return None };
    if siblings == 1 {
        return None;
    }
    let begun = view.attempts.iter().enumerate();
    let begun = begun.take_while(|(_, other)| other.op.start_ns <= written.op.end_ns);
    let beside: BTreeSet<usize> = begun
        .filter(|&(index, other)| {
            index != at && !written.seen.must.contains(index) && !other.seen.must.contains(at)
        })
        .map(|(index, _)| chains[index])
        .collect();
    let most = 1 + beside.len() + come_back(view, view.attempts.len(), written.op.end_ns);
    let most = if view.last_write { 1 } else { most };
    let problem = if siblings == 0 {
        "no sibling at all, though the write itself is one".to_string()
    } else if siblings as usize > most {
        format!("{siblings} siblings, where at most {most} writes can be concurrent")
    } else {
        return None;
    };
    let explanation = format!("the ack of {} reports {problem}.", written.op.id);
    Some(story.violation(5, view.key, vec![written.op.id], explanation))
}
