//! Point 3: after healing, all home replicas are byte-equal, without any client.
//!
//! The copies were taken before anything was read since the load, within a period of anti-entropy and the time that hints
//! take. They are compared as bytes and never decoded. Also, the GET with `r=all` that came afterwards must have been answered (nothing is
//! wrong any more), and if it showed anything, the replicas must hold something.

use super::Violation;
use super::story::{Story, answer};
use crate::history::{Evidence, FinalState, Outcome};

pub(super) fn check(evidence: &Evidence, story: &Story<'_>, found: &mut Vec<Violation>) {
    for state in &evidence.finals {
        let Some(read) = evidence.history.ops.get(state.read.0 as usize) else { continue };
        let problem = match &read.outcome {
            Outcome::Got(got) => unequal(state).or_else(|| {
                let empty = state.copies.iter().all(|c| c.bytes.is_none());
                let shows = got.context || !got.values.is_empty() || !got.strange.is_empty();
                (empty && shows).then(|| {
                    format!(
                        "{} {}, and yet no home replica holds the key",
                        read.id,
                        answer(&read.outcome)
                    )
                })
            }),
            Outcome::Acked { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. } => Some(
                format!("all faults are over and {} of all home replicas still fails", read.id),
            ),
        };
        if let Some(problem) = problem {
            let explanation = format!("the home replicas have not converged: {problem}.");
            found.push(story.violation(3, state.key, vec![read.id], explanation));
        }
    }
}

/// Says who differs from the first replica.
fn unequal(state: &FinalState) -> Option<String> {
    let (first, rest) = state.copies.split_first()?;
    let other = rest.iter().find(|copy| copy.bytes != first.bytes)?;
    Some(format!(
        "{} holds {} and {} holds {}",
        first.node,
        summary(first.bytes.as_deref()),
        other.node,
        summary(other.bytes.as_deref())
    ))
}

fn summary(bytes: Option<&[u8]>) -> String {
    const SHOWN: usize = 48;
    let Some(bytes) = bytes else { return "nothing".to_string() };
    let hex: String = bytes.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect();
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("{} bytes {hex}{more}", bytes.len())
}
