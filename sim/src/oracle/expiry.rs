//! Point 4, for values that were to live for a time: none is shown once it has expired.
//!
//! A node fixes the expiry by its own clock while the request is with it, so not after the answer; another node hides the
//! value by its own clock. So an acked value is hidden from every read that begins when its time has passed since the answer, and as much
//! longer as clocks differ.
//!
//! Sound: every attempt at the value that began before the read ended must have been acked and have expired; one without an answer may
//! be taken by a node at any later time. Where a clock was wrong at any time nothing is judged. That no value is gone before its time is
//! [`lost`](super::lost)'s part: [`knowledge`](super::knowledge) excuses only what may have expired.

use super::Violation;
use super::knowledge::{CLOCK_SKEW_NS, Item, KeyView, Reading, has_wrong_clock};
use super::story::{Story, list};
use crate::history::{Evidence, OpId};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    if has_wrong_clock(evidence) {
        return;
    }
    for reading in &view.readings {
        for &item in &reading.items {
            if let Item::Value(_) = item
                && is_expired(view, reading, item)
            {
                let mut ops: Vec<OpId> = vec![reading.op.id];
                ops.extend(view.writers(&[item], reading.horizon));
                let explanation = format!(
                    "{} showed {}, which had expired before it began: every request that wrote it was acked, and its \
                     time to live has passed since.",
                    reading.op.id,
                    list(&[item]),
                );
                found.push(story.violation(4, view.key, ops, explanation));
            }
        }
    }
}

fn is_expired(view: &KeyView<'_>, reading: &Reading<'_>, item: Item) -> bool {
    let attempts = view.candidates(item, reading.horizon);
    let expired = |&at: &usize| {
        let op = view.attempts[at].op;
        let gone_ns = op.asked.ttl_ns.map(|ttl| op.end_ns + ttl + CLOCK_SKEW_NS);
        op.is_acked() && gone_ns.is_some_and(|gone_ns| gone_ns <= reading.op.start_ns)
    };
    !attempts.is_empty() && attempts.iter().all(expired)
}
