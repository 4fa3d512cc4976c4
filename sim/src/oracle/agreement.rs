//! Point 10: after healing, all nodes list the same members, all of them up, and have one partition table.
//!
//! Each node was asked when the cluster was whole and had had its time, so nothing excuses a difference:
//! a member that one lists and another does not, one that is not up, two processes of one member, another
//! ring. A run that was cut short has no lists, and nothing is judged.

use super::Violation;
use crate::history::{Evidence, Health, Listed, Membership, View};

pub(super) fn check(evidence: &Evidence, found: &mut Vec<Violation>) {
    let Some(membership) = &evidence.membership else { return };
    let Some(first) = membership.views.first() else { return };
    for view in &membership.views {
        let missed = missed(membership, view).or_else(|| differs(first, view));
        if let Some(explanation) = missed {
            found.push(Violation {
                point: 10,
                key: None,
                ops: Vec::new(),
                explanation,
                story: Vec::new(),
            });
        }
    }
}

/// What is wrong with a list by itself.
fn missed(membership: &Membership, view: &View) -> Option<String> {
    let listed = view.members.len();
    if listed != membership.members as usize {
        return Some(format!(
            "after healing, {} lists {listed} members of {}: {}.",
            view.node,
            membership.members,
            names(&view.members),
        ));
    }
    let not_up = view.members.iter().find(|row| row.health != Health::Up)?;
    Some(format!(
        "after healing, {} lists {} as {:?}, though every node is up and has had its time.",
        view.node, not_up.name, not_up.health,
    ))
}

/// What two nodes do not agree on.
fn differs(one: &View, other: &View) -> Option<String> {
    let (a, b) = (one.node, other.node);
    let mut rows = one.members.iter().zip(&other.members);
    if let Some((x, y)) = rows.find(|(x, y)| (&x.name, x.incarnation) != (&y.name, y.incarnation)) {
        return Some(if x.name == y.name {
            format!(
                "after healing, {a} knows incarnation {} of {}, and {b} knows {}.",
                x.incarnation, x.name, y.incarnation
            )
        } else {
            format!(
                "after healing, {a} lists {}, and {b} lists {}.",
                names(&one.members),
                names(&other.members)
            )
        });
    }
    (one.ring != other.ring).then(|| {
        format!(
            "after healing, the partition tables of {a} ({:016x}) and {b} ({:016x}) differ.",
            one.ring, other.ring
        )
    })
}

fn names(rows: &[Listed]) -> String {
    rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ")
}
