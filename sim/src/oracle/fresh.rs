//! Point 6: a strict read with R+W>N knows every write that was acked before it began.
//!
//! W is counted as the acks of home replicas that the answer reports (`received` less `hinted`), which is
//! never less than what was asked. R of the N home replicas and those cannot miss one another, so some reply
//! knows the write: it is shown, or superseded by something shown. By the fact of [`super::knowledge`], the read's
//! token then covers it; a write outside the token's upper bound was missed.
//!
//! Sound: only reads with `sloppy=false` are judged (a fallback may answer the others), and only against
//! writes whose ack came before the read began. Concurrent ones may be shown or not. The final read is
//! left to point 1, which asks more of it.
//!
//! An ack must also be honest: it counts at least the acks that were asked for and no fallbacks when none
//! were allowed, nor more fallbacks than there are (where they are told), else nothing above would mean anything.

use super::Violation;
use super::knowledge::{Attempt, KeyView};
use super::meeting::meets;
use super::story::{Story, list};
use crate::history::{Evidence, Outcome};

pub(super) fn check(
    evidence: &Evidence,
    view: &KeyView<'_>,
    story: &Story<'_>,
    found: &mut Vec<Violation>,
) {
    let info = evidence.history.keys.get(view.key.0 as usize);
    let fallbacks = info.map_or(0, |info| info.fallbacks.len());
    for attempt in &view.attempts {
        found.extend(dishonest(view, attempt, fallbacks, story));
    }
    for (at, reading) in view.readings.iter().enumerate() {
        if reading.op.asked.sloppy || view.last == Some(at) {
            continue;
        }
        let asked = reading.op.asked;
        let due = view.attempts[..reading.horizon].iter().enumerate().filter(|(_, a)| {
            a.acked && a.op.end_ns <= reading.op.start_ns && meets(evidence, view, a, reading)
        });
        let mut missed = due.filter(|(at, _)| !reading.token.may.contains(*at)).map(|(_, a)| a);
        let Some(first) = missed.next() else { continue };
        let more = missed.count();
        let others =
            if more > 0 { format!(" ({more} other writes as well)") } else { String::new() };
        let explanation = format!(
            "the strict read {} asked {} of {} replicas and missed the write {} ({}){others}, which {} \
             home replicas had acked before the read began. It showed {}, and nothing of that can have \
             superseded the write.",
            reading.op.id,
            asked.need,
            asked.n,
            first.op.id,
            list(&[first.item]),
            first.home_acks,
            list(&reading.items),
        );
        let mut ops = vec![reading.op.id, first.op.id];
        ops.extend(view.writers(&reading.items, reading.horizon));
        found.push(story.violation(6, view.key, ops, explanation));
    }
}

fn dishonest(
    view: &KeyView<'_>,
    attempt: &Attempt<'_>,
    fallbacks: usize,
    story: &Story<'_>,
) -> Option<Violation> {
    let Outcome::Acked { required, received, hinted, .. } = attempt.op.outcome else {
        return None;
    };
    let asked = attempt.op.asked;
    let problem = if required != asked.need {
        format!("it asked for {} acks and the answer says {required}", asked.need)
    } else if received < required {
        format!("it was acked although only {received} of {required} acks had come")
    } else if hinted > received || (hinted > 0 && !asked.sloppy) {
        format!(
            "its answer counts {hinted} fallbacks among {received} acks, sloppy={}",
            asked.sloppy
        )
    } else if fallbacks > 0 && usize::from(hinted) > fallbacks {
        format!(
            "its answer counts {hinted} acks of fallbacks, and the cluster has {fallbacks} for that key"
        )
    } else if received - hinted > asked.n {
        format!("its answer counts {received} acks, {hinted} of fallbacks, where N is {}", asked.n)
    } else {
        return None;
    };
    let explanation = format!("the ack of {} can't be true: {problem}.", attempt.op.id);
    Some(story.violation(6, view.key, vec![attempt.op.id], explanation))
}
