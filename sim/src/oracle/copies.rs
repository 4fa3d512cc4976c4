//! Point 9 from the other side: a write that so many acked is on so many home replicas once every hint is
//! delivered, before the final reads repair anything.
//!
//! An ack comes from a home replica, or from a fallback that stands in for one which has not acked. So k acks are k
//! home replicas in the end, and a hint that was forgotten too soon is missed here even if other copies survive, which
//! point 1 can't see: the read with `r=all` brings them back.
//!
//! Sound: what a home replica would show alone tells what it may know, as a reply does; only writes whose acks hold
//! for good are counted ([`super::knowledge`]), less what an older disk may have undone; hints of the key that expired
//! later excuse all fallbacks. Judged only where acks wait for fsync: else an owner may lose what it was handed, after
//! the hint was forgotten. And only when no hint is left.

use super::Violation;
use super::knowledge::{KeyView, Known};
use super::story::{Story, list};
use crate::history::{Evidence, NodeIndex};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    let left = evidence.hints.iter().filter_map(|hints| hints.left.as_ref()).flatten();
    if !evidence.rules.sync_always || left.into_iter().any(|row| row.count > 0) {
        return;
    }
    let of_key = evidence.unrepaired.iter().filter(|copy| copy.key == view.key);
    let known: Vec<(NodeIndex, Known)> =
        of_key.map(|copy| (copy.node, view.known_by(&copy.got))).collect();
    if known.is_empty() {
        return;
    }
    for (at, attempt) in view.attempts.iter().enumerate().filter(|(_, attempt)| attempt.acked) {
        let without = known.iter().filter(|(_, known)| !known.may.contains(at));
        let without: Vec<String> = without.map(|(node, _)| node.to_string()).collect();
        if known.len() - without.len() >= usize::from(attempt.copies) {
            continue;
        }
        let explanation = format!(
            "the write {} ({}) must be on {} home replicas when all hints are delivered, and before any read \
             repaired them it was on {}: {} do not have it.",
            attempt.op.id,
            list(&[attempt.item]),
            attempt.copies,
            known.len() - without.len(),
            without.join(", "),
        );
        found.push(story.violation(9, view.key, vec![attempt.op.id], explanation));
    }
}
