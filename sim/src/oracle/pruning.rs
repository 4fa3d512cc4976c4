//! False siblings: what the pruning of contexts is allowed to cost.
//!
//! A replica that dropped what it knew of an actor takes an old write of it for news, which then stands beside what had replaced it
//! until somebody resolves them (`starling::domain::object::pruning`). So once nodes noted that they pruned the context of a key, what
//! points 4, 5 and 12 say of what is dead, not concurrent or too much there no longer holds, and is counted instead. All else does:
//! above all point 1, since pruning never loses a write.

use super::Violation;
use crate::history::{Evidence, OpId};

/// Takes out of `found` what pruning excuses, and says how many accusations that were.
pub(super) fn excuse(evidence: &Evidence, found: &mut Vec<Violation>) -> u64 {
    let before = found.len();
    let ended_ns = |id: &OpId| evidence.history.ops.get(id.0 as usize).map(|op| op.end_ns);
    found.retain(|violation| {
        let Some(key) = violation.key.filter(|_| matches!(violation.point, 4 | 5 | 12)) else {
            return true;
        };
        let by = violation.ops.first().and_then(ended_ns).unwrap_or(u64::MAX);
        !evidence.pruned.iter().any(|(pruned, at_ns)| *pruned == key && *at_ns <= by)
    });
    (before - found.len()) as u64
}
