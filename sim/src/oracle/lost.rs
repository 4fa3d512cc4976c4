//! Points 1 and 11: an acked write is never lost.
//!
//! After healing, one GET of each key asks all its home replicas. By the fact that [`super::knowledge`]
//! rests on, that reply knows a write exactly if the write is shown, or if the token of a request behind
//! something shown covered it, through however many steps. So an acked write that is not even in the
//! upper bound of that set is on no home replica and was superseded by nobody: it is lost.
//!
//! Sound: the bound contains every attempt that could stand behind a shown item, unanswered ones among
//! them, with everything that each could have seen; for "deleted" that is every delete. A superseder of
//! unknown outcome excuses a loss only if it (or what superseded it) is shown, so it is itself accounted for.
//!
//! It is point 11 when a power loss, of any machine, came after the write began, and point 1 otherwise.
//! Writes whose ack could run ahead of fsync (`sync: interval`) count as unanswered: [`super::knowledge`].
//! So do writes that only fallbacks acked, of a key of which a hint expired later; an ack of a home replica is never
//! excused by that.
//!
//! Not seen: a loss that a delete covers up, when the delete could have had a token that covers it.

use super::Violation;
use super::knowledge::{Attempt, KeyView, Reading};
use super::story::{Story, list, seconds};
use crate::history::{Evidence, Fault};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    let Some(last) = view.last.map(|at| &view.readings[at]) else { return };
    for (at, attempt) in view.attempts.iter().enumerate() {
        if attempt.acked && !last.token.may.contains(at) {
            found.push(accuse(evidence, view, attempt, last, story));
        }
    }
}

fn accuse(
    evidence: &Evidence,
    view: &KeyView<'_>,
    lost: &Attempt<'_>,
    last: &Reading<'_>,
    story: &Story<'_>,
) -> Violation {
    let power = power_loss_after(evidence, lost.op.start_ns);
    let point = if power.is_some() { 11 } else { 1 };
    let power = match power {
        Some((what, at)) => format!(" {what} lost its power at {}.", seconds(at)),
        None => " No machine lost its power after it began.".to_string(),
    };
    let mut ops = vec![lost.op.id, last.op.id];
    ops.extend(view.writers(&last.items, last.horizon));
    let seen_by = view.readings.iter().rev().find(|r| r.items.contains(&lost.item));
    let sight = match seen_by {
        Some(reading) => {
            ops.push(reading.op.id);
            format!("it was last shown by {}", reading.op.id)
        }
        None => "no read ever showed it".to_string(),
    };
    let explanation = format!(
        "the acked write {} ({}) is lost. The final read {} of all home replicas shows {}: the write \
         is not among that, and no request behind it had a token that could cover the write; \
         {sight}.{power}",
        lost.op.id,
        list(&[lost.item]),
        last.op.id,
        list(&last.items),
    );
    story.violation(point, view.key, ops, explanation)
}

/// The first power loss that began after `ns`.
fn power_loss_after(evidence: &Evidence, ns: u64) -> Option<(String, u64)> {
    let struck = evidence.disturbances.iter().filter(|d| d.start_ns >= ns);
    let losses = struck.filter_map(|d| match d.fault {
        Fault::PowerLoss(machine) => Some((machine.to_string(), d.start_ns)),
        Fault::Down(_)
        | Fault::RolledBack(_)
        | Fault::Forgotten(_)
        | Fault::Damaged(_)
        | Fault::Paused(_)
        | Fault::Isolated(_)
        | Fault::DiskTrouble(_)
        | Fault::ClockWrong(_)
        | Fault::LinkCut { .. }
        | Fault::LinkBad { .. }
        | Fault::LinkRough { .. }
        | Fault::DatagramsRough { .. } => None,
    });
    losses.min_by_key(|loss| loss.1)
}
