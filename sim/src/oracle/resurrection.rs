//! Point 4: what an acked write or delete covered never comes back.
//!
//! Once a write W has been acked whose request's token surely covered a write v, v is dead:
//!
//! - to every strict read that begins later and whose replicas must meet W's (R + home acks of W > N, see
//!   [`super::meeting`]): one of the replies knows W, hence knows that v is superseded, and merging keeps that;
//! - to the final read, which asks all home replicas. Other reads may be stale, and are not judged.
//!
//! What is shown is bytes, not writes: retries of v have writes of their own, and a late one may show v's
//! bytes again, rightly. So a reading is accused only if *every* attempt of the item that began before it ended
//! is dead. Tombstones are items too: their attempts are all the deletes of the key.
//!
//! Sound: `must` holds only what the token surely covered, and acks count only replicas that are homes.

use super::Violation;
use super::bits::Bits;
use super::knowledge::{Item, KeyView, Reading};
use super::meeting::meets;
use super::story::{Story, list};
use crate::history::{Evidence, OpId};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    for (at, reading) in view.readings.iter().enumerate() {
        let last = view.last == Some(at);
        if reading.op.asked.sloppy && !last {
            continue;
        }
        let dead = dead(evidence, view, reading, last);
        for &item in &reading.items {
            let attempts = view.candidates(item, reading.horizon);
            if !attempts.is_empty()
                && attempts
                    .iter()
                    .all(|&a| dead.contains(a) && !view.is_pruned(a, reading.op.end_ns))
            {
                found.push(accuse(evidence, view, reading, item, last, story));
            }
        }
    }
}

/// What must not be shown by `reading` any more.
fn dead(evidence: &Evidence, view: &KeyView<'_>, reading: &Reading<'_>, last: bool) -> Bits {
    let mut dead = Bits::default();
    for killer in killers(evidence, view, reading, last) {
        dead.add(&view.attempts[killer].seen.must);
    }
    dead
}

/// The attempts that `reading` must know.
fn killers<'v>(
    evidence: &'v Evidence,
    view: &'v KeyView<'_>,
    reading: &'v Reading<'_>,
    last: bool,
) -> impl Iterator<Item = usize> + 'v {
    (0..reading.horizon).filter(move |&at| {
        let killer = &view.attempts[at];
        let due = killer.acked && killer.op.end_ns <= reading.op.start_ns;
        due && (last || meets(evidence, view, killer, reading))
    })
}

fn accuse(
    evidence: &Evidence,
    view: &KeyView<'_>,
    reading: &Reading<'_>,
    item: Item,
    last: bool,
    story: &Story<'_>,
) -> Violation {
    let attempts = view.candidates(item, reading.horizon);
    let mut ops: Vec<OpId> = vec![reading.op.id];
    for &attempt in attempts {
        ops.push(view.attempts[attempt].op.id);
        let killer = killers(evidence, view, reading, last)
            .find(|&killer| view.attempts[killer].seen.must.contains(attempt));
        ops.extend(killer.map(|at| view.attempts[at].op.id));
    }
    ops.dedup();
    let which = if last { "the final read" } else { "the strict read" };
    let killer = ops.get(2).map_or(String::new(), OpId::to_string);
    let explanation = format!(
        "{which} {} showed {} again, which is dead: {killer}, acked before that read began, carried a \
         token that covers it, and no retry of it is left that could have come late.",
        reading.op.id,
        list(&[item]),
    );
    story.violation(4, view.key, ops, explanation)
}
