//! False siblings: what the pruning of contexts is allowed to cost, and nothing beyond.
//!
//! A replica that dropped what it knew of an actor takes an old write of it for news, which then stands beside what had replaced it
//! until somebody resolves them (`starling::domain::object::pruning`). So from the moment at which some node dropped the actor of a write from
//! the context of its key, that write may be shown again although it is dead (point 4), beside what covers it (5), and be one of
//! too many (5, 12). Writes under any other actor may not, and every other promise holds for all: above all point 1, since pruning
//! never loses a write.
//!
//! Which actor a write has no client knows. A write that was acked has one under which a dot of its key was minted while it was
//! under way; one that was not answered may have any later one.

use super::knowledge::KeyView;
use super::story::Story;
use super::{resurrection, siblings};
use crate::history::{Evidence, Operation, Outcome};

/// From when on the write `op` may be taken for news; `None`: never.
pub(super) fn from_ns(evidence: &Evidence, op: &Operation) -> Option<u64> {
    let until_ns = match op.outcome {
        Outcome::Acked { .. } => op.end_ns,
        Outcome::Got(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => u64::MAX,
    };
    let may_be = |minted: &u64| (op.start_ns..=until_ns).contains(minted);
    let of_key = evidence.pruned.iter().filter(|pruned| pruned.key == op.key);
    of_key.filter(|pruned| pruned.minted_ns.iter().any(may_be)).map(|p| p.from_ns).min()
}

/// How many accusations there would be more if nothing had been pruned.
pub(super) fn excused(evidence: &Evidence, view: KeyView<'_>, story: &Story<'_>) -> u64 {
    if view.attempts.iter().all(|attempt| attempt.pruned_ns.is_none()) {
        return 0;
    }
    let count = |view: &KeyView<'_>| {
        let mut found = Vec::new();
        resurrection::check(evidence, view, story, &mut found);
        siblings::check(evidence, view, story, &mut found);
        found.len() as u64
    };
    let (with, mut strict) = (count(&view), view);
    strict.attempts.iter_mut().for_each(|attempt| attempt.pruned_ns = None);
    count(&strict) - with
}
