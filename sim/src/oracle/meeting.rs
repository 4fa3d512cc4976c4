//! Which acked writes a strict read cannot miss: those whose home acks and the R that it asked of N make more than N.
//!
//! An ack of a home replica whose disk was damaged or rolled back afterwards counts all the same: the replica answers no read before it
//! has compared what it holds with every other live home replica. But only the live ones. If another home replica of the key
//! was out of its reach at some time since, the write may have been there alone, and the ack no longer counts: with W=2 of three,
//! acked by a and b, one that is away (b) and one that forgot (a) leave only the third, which never had it, to compare with.

use super::knowledge::{Attempt, KeyView, Reading};
use crate::history::{Disturbance, Endpoint, Evidence, Fault, NodeIndex};

/// True when some replica that answered `reading` must know `attempt`, which was acked before it began.
pub(super) fn meets(
    evidence: &Evidence,
    view: &KeyView<'_>,
    attempt: &Attempt<'_>,
    reading: &Reading<'_>,
) -> bool {
    let asked = reading.op.asked;
    if attempt.home_acks + asked.need <= asked.n {
        return false;
    }
    let homes = evidence.history.keys.get(view.key.0 as usize).map_or(&[][..], |key| &key.homes);
    let end_ns = reading.op.end_ns;
    let alone = |home: &&NodeIndex| {
        let since = forgot_at(evidence, **home, attempt.op.start_ns);
        since.is_some_and(|since| {
            let mut others = homes.iter().filter(|other| other != home);
            others.any(|other| was_away(evidence, *other, since, end_ns))
        })
    };
    let lost = u8::try_from(homes.iter().filter(alone).count()).unwrap_or(u8::MAX);
    attempt.home_acks.saturating_sub(lost) + asked.need > asked.n
}

/// When `home` lost some of what it had stored since `start_ns`, and knew that.
fn forgot_at(evidence: &Evidence, home: NodeIndex, start_ns: u64) -> Option<u64> {
    let at = |d: &Disturbance| match d.fault {
        Fault::Damaged(Endpoint::Node(node)) if node == home => Some(d.start_ns),
        Fault::RolledBack(Endpoint::Node(node)) if node == home => Some(d.end_ns),
        Fault::Damaged(_)
        | Fault::RolledBack(_)
        | Fault::Down(_)
        | Fault::PowerLoss(_)
        | Fault::Forgotten(_)
        | Fault::Paused(_)
        | Fault::Isolated(_)
        | Fault::DiskTrouble(_)
        | Fault::ClockWrong(_)
        | Fault::LinkCut { .. }
        | Fault::LinkBad { .. }
        | Fault::LinkRough { .. }
        | Fault::DatagramsRough { .. } => None,
    };
    evidence.disturbances.iter().filter_map(at).filter(|at| *at >= start_ns).min()
}

/// True when others may have taken `node` for dead at some time from `from_ns` to `to_ns`.
fn was_away(evidence: &Evidence, node: NodeIndex, from_ns: u64, to_ns: u64) -> bool {
    let node = Endpoint::Node(node);
    evidence.disturbances.iter().filter(|d| d.start_ns <= to_ns && d.end_ns >= from_ns).any(|d| {
        match d.fault {
            Fault::Down(at) | Fault::PowerLoss(at) | Fault::Paused(at) | Fault::Isolated(at) => {
                at == node
            }
            Fault::LinkCut { from, to } | Fault::LinkBad { from, to } => from == node || to == node,
            Fault::RolledBack(_)
            | Fault::Forgotten(_)
            | Fault::Damaged(_)
            | Fault::DiskTrouble(_)
            | Fault::ClockWrong(_)
            | Fault::LinkRough { .. }
            | Fault::DatagramsRough { .. } => false,
        }
    })
}
