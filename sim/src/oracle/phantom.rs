//! Point 2: a value read was written, to that key, by somebody; a tombstone read comes from a delete.
//!
//! Sound: whatever a reply shows must have been asked for by an attempt on the same key that began before
//! the reply ended and was not refused. A refusal is a proof that the request is not executed, now or
//! later, so a refused write that shows up is a phantom as well: the node lied about the refusal, or the
//! harness counted something as a refusal that is none.

use super::Violation;
use super::knowledge::{Item, KeyView, Reading};
use super::story::{Story, list};
use crate::history::{Evidence, Kind, OpId, Outcome};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    for reading in &view.readings {
        for text in &reading.got.strange {
            let explanation = format!(
                "{} showed {text:?}, which is not, byte for byte, a value that anybody ever sent.",
                reading.op.id
            );
            found.push(story.violation(2, view.key, vec![reading.op.id], explanation));
        }
        for &item in &reading.items {
            if view.candidates(item, reading.horizon).is_empty() {
                found.push(accuse(evidence, view, reading, item, story));
            }
        }
    }
}

fn accuse(
    evidence: &Evidence,
    view: &KeyView<'_>,
    reading: &Reading<'_>,
    item: Item,
    story: &Story<'_>,
) -> Violation {
    let (reason, proof) = origin(evidence, view, item, story);
    let mut ops = vec![reading.op.id];
    ops.extend(proof);
    let explanation = format!("{} showed {}, a phantom: {reason}.", reading.op.id, list(&[item]));
    story.violation(2, view.key, ops, explanation)
}

/// Where a phantom may come from.
fn origin(
    evidence: &Evidence,
    view: &KeyView<'_>,
    item: Item,
    story: &Story<'_>,
) -> (String, Option<OpId>) {
    let value = match item {
        Item::Value(value) => value,
        Item::Deleted => {
            let deletes =
                |op: &&_| matches!(op, crate::history::Operation { kind: Kind::Delete, .. });
            let of_key = evidence.history.ops.iter().filter(|op| op.key == view.key);
            let first = of_key.clone().find(deletes).map(|op| op.id);
            let reason = "no delete of this key that was not refused began before the read ended";
            return (reason.to_string(), first);
        }
    };
    let writes = || story.mentions(value).filter(|op| op.kind == Kind::Put { value });
    let here = writes().find(|op| op.key == view.key);
    if let Some(op) = here {
        let reason = match op.outcome {
            Outcome::Refused { .. } => format!("its write {} was refused", op.id),
            Outcome::Got(_) | Outcome::Acked { .. } | Outcome::Unknown { .. } => {
                format!("its first write {} began after the read had ended", op.id)
            }
        };
        return (reason, Some(op.id));
    }
    match writes().next() {
        Some(op) => (format!("{} wrote it to another key", op.id), Some(op.id)),
        None => ("nobody ever wrote it".to_string(), None),
    }
}
