//! The oracle: decides from the outside whether the store kept its promises.
//!
//! It is given [`Evidence`]: what clients sent and heard, which faults were injected, what home replicas
//! hold after healing, and sampled gauges. It shares no code with the node, looks into no token and no
//! replica (copies are compared as bytes), and works the same in every build.
//!
//! | point of DESIGN.md | promise | file |
//! |---|---|---|
//! | 1, 11 | no acked write is lost; 11 when a power loss came after it began | `lost` |
//! | 2 | a value read was written, to that key, by somebody | `phantom` |
//! | 3 | after healing and a read with `r=all`, home replicas are byte-equal | `convergence` |
//! | 4 | what an acked write or delete covered never comes back | `resurrection` |
//! | 5 | siblings shown together are concurrent, and no more than can be | `siblings` |
//! | 6 | strict R+W>N reads show the latest acked write, or what superseded it | `fresh` |
//! | 7 | a request fails only if too few of the nodes it needed were reachable | `availability` |
//! | 8 | the dead are found in time, the living are not taken for dead | `detection` |
//! | 6 | "not found" is said by R home replicas, never by fallbacks | `hearsay` |
//! | 9 | so many acks, so many home replicas that have it once hints are delivered | `copies` |
//! | 9 | no hint is lost before its owner has it, none is left after healing | `handoff` |
//! | 10 | after healing, all list the same members, all up, and have one ring | `agreement` |
//! | 12 | gauges stay within their bounds; a write is refused for siblings only if there are so many | `bounds`, `siblings` |
//!
//! Two rules for every check. **Sound first**: with a store that keeps its promises, whatever the
//! faults, no check ever accuses; each file argues why. **Then sharp**: `tests/` breaks a model store in
//! a dozen ways and counts how often each is caught. What clients can know of contexts is worked out once
//! for each key, in `knowledge`; most checks are a few lines on top of it.
//!
//! Points 8 to 10 are about what nodes say of each other, so they rest on the nodes' own notes, held against
//! what the harness did to machines and links.
//!
//! What it takes for granted: who owns what is static, values have no expiry, tombstones are not
//! forgotten, and one request makes at most one write (a node that forwards a request twice breaks the
//! last, and is rightly accused).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{Evidence, KeyIndex, OpId, Operation};

mod agreement;
mod availability;
mod bits;
mod bounds;
mod convergence;
mod copies;
mod detection;
mod expiry;
mod fresh;
mod handoff;
mod hearsay;
mod knowledge;
mod lost;
mod meeting;
mod phantom;
mod pruning;
mod resurrection;
mod siblings;
mod story;
mod wellformed;

#[cfg(test)]
mod tests;

pub use wellformed::Malformed;

use knowledge::KeyView;
use story::Story;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// Which of DESIGN.md's twelve points.
    pub point: u8,
    /// The key; `None`: it concerns none.
    pub key: Option<KeyIndex>,
    /// The operations that prove it, the accused one first.
    pub ops: Vec<OpId>,
    /// One paragraph: what was promised, what happened, why it can't be excused.
    pub explanation: String,
    /// The part of the key's history that one needs to follow it, one operation a line.
    pub story: Vec<String>,
}

/// At most so many violations of one point are reported: one broken thing breaks it everywhere.
pub const VIOLATIONS_PER_POINT_MAX: usize = 20;

/// Judges a run. No violations: every promise was kept, as far as clients can tell.
///
/// Without any [`Evidence::finals`] (a run that was cut short) only what must hold at all times is
/// judged. Time: about linear in the operations, quadratic / 64 in the writes of one key.
///
/// # Errors
/// [`Malformed`] when the evidence contradicts itself: the harness is wrong, not the store.
pub fn judge(evidence: &Evidence) -> Result<Vec<Violation>, Malformed> {
    Ok(judge_counting(evidence)?.0)
}

/// [`judge`], and how many accusations more there would be if no contexts had been pruned.
///
/// # Errors
/// As it.
pub fn judge_counting(evidence: &Evidence) -> Result<(Vec<Violation>, u64), Malformed> {
    wellformed::check(evidence)?;
    let story = Story::new(evidence);
    let (mut found, mut false_siblings) = (Vec::new(), 0);
    for (key, ops) in by_key(evidence) {
        let view = KeyView::new(evidence, key, &ops);
        lost::check(evidence, &view, &story, &mut found);
        phantom::check(evidence, &view, &story, &mut found);
        resurrection::check(evidence, &view, &story, &mut found);
        expiry::check(evidence, &view, &story, &mut found);
        siblings::check(evidence, &view, &story, &mut found);
        fresh::check(evidence, &view, &story, &mut found);
        hearsay::check(evidence, &view, &story, &mut found);
        copies::check(evidence, &view, &story, &mut found);
        false_siblings += pruning::excused(evidence, view, &story);
    }
    convergence::check(evidence, &story, &mut found);
    availability::check(evidence, &story, &mut found);
    detection::check(evidence, &mut found);
    handoff::check(evidence, &mut found);
    agreement::check(evidence, &mut found);
    bounds::check(evidence, &mut found);
    found.sort_by_key(|v| v.point);
    let mut count = [0_usize; 13];
    found.retain(|v| {
        count[usize::from(v.point)] += 1;
        count[usize::from(v.point)] <= VIOLATIONS_PER_POINT_MAX
    });
    Ok((found, false_siblings))
}

/// The operations of each key that has any.
fn by_key(evidence: &Evidence) -> BTreeMap<KeyIndex, Vec<&Operation>> {
    let mut keys: BTreeMap<KeyIndex, Vec<&Operation>> = BTreeMap::new();
    for op in &evidence.history.ops {
        keys.entry(op.key).or_default().push(op);
    }
    keys
}
