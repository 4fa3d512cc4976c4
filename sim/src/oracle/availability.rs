//! Point 7: a request fails only if too few of the nodes that it needed were reachable for long enough.
//!
//! A failure is a 5xx, a 429, a broken or refused connection, or a client's timeout; a 4xx is the client's own
//! fault. Each failed request is held against the list of injected faults. Its window is
//! `start - recovery .. end`: a fault that was over by then has no effect left. The failure is *excused*
//! by any of these:
//!
//! 1. The client, the asked node or the link between them was disturbed in the window.
//! 2. The asked node is a home replica and coordinates. Then it needs R or W replicas, itself among them:
//!    excused if fewer were *well* (no fault of the replica or of its link with the asked node in the window).
//! 3. It is not. Then it forwards the request to one home replica, and must not forward it twice
//!    (that could write twice). So each home replica must be either well, or *absent*: silent for longer
//!    than it takes to notice, so that nothing is forwarded to it. Excused if some replica is neither,
//!    or if one of the well ones had too few others that it could reach.
//! 4. The deadline was shorter than what an undisturbed request may take, plus one failover for each home
//!    replica that was not well.
//!    A sloppy write counts the fallbacks too, in 2, 3 and 4: whoever coordinates turns to them when home
//!    replicas are down or do not answer, so any W well nodes of the whole preference list are enough. If
//!    every home replica is absent, the asked node must coordinate itself, if it is a fallback.
//! 5. The asked node refused it at once, being full: as many other requests as it answers at one time were
//!    with it, or could still be (their clients may have given up, but their deadlines had not passed).
//!
//! 6. Limits are so tight that nodes may refuse each other, or close a connection as it is used.
//!
//! Sound as long as the four durations of [`crate::history::Rules`] are honest, as each rule asks for
//! nodes that were undisturbed the whole time. Wrong clocks excuse nothing. For reads fallbacks are never counted:
//! one may not hold the key, and its "not found" is no answer. A write that only fallbacks could take, and
//! that was asked of a node which is neither home nor fallback (a proxy), is not judged: nothing says to which
//! of them it may be forwarded.

use super::Violation;
use super::story::{Story, answer, request, seconds};
use crate::history::{
    Disturbance, Endpoint, Evidence, Fault, KeyInfo, Kind, NodeIndex, Operation, Outcome, Rules,
};

pub(super) fn check(evidence: &Evidence, story: &Story<'_>, found: &mut Vec<Violation>) {
    for op in evidence.history.ops.iter().filter(|op| failed(op)) {
        let Some(key) = evidence.history.keys.get(op.key.0 as usize) else { continue };
        let request = Request::new(evidence, op, key);
        if evidence.rules.tight || request.excused() || shed(evidence, op) {
            continue;
        }
        found.push(accuse(&request, story));
    }
}

fn failed(op: &Operation) -> bool {
    match op.outcome {
        Outcome::Got(_) | Outcome::Acked { .. } => false,
        Outcome::Refused { status } => status.is_none_or(|code| code == 429 || code >= 500),
        Outcome::Unknown { .. } => true,
    }
}

/// The asked node was full and said so.
fn shed(evidence: &Evidence, op: &Operation) -> bool {
    if !matches!(op.outcome, Outcome::Refused { status: Some(429 | 503) }) {
        return false;
    }
    let there = evidence.history.ops.iter().filter(|other| {
        let gone_ns = other.end_ns.saturating_add(other.asked.timeout_ns);
        other.id != op.id
            && other.node == op.node
            && other.start_ns <= op.end_ns
            && gone_ns >= op.start_ns
    });
    there.count() as u64 >= evidence.rules.in_flight_max
}

/// A failed request and the faults that can have touched it.
struct Request<'a> {
    op: &'a Operation,
    rules: Rules,
    homes: &'a [NodeIndex],
    /// Who may answer in place of a home replica.
    standins: &'a [NodeIndex],
    /// Faults whose effects reach into the window.
    felt: Vec<&'a Disturbance>,
}

impl<'a> Request<'a> {
    fn new(evidence: &'a Evidence, op: &'a Operation, key: &'a KeyInfo) -> Self {
        let rules = evidence.rules;
        let felt = evidence.disturbances.iter().filter(|d| {
            d.start_ns <= op.end_ns && d.end_ns.saturating_add(rules.recovery_ns) >= op.start_ns
        });
        let standins: &[NodeIndex] =
            if op.asked.sloppy && op.kind != Kind::Get { &key.fallbacks } else { &[] };
        Request { op, rules, homes: &key.homes, standins, felt: felt.collect() }
    }

    fn excused(&self) -> bool {
        let client = Endpoint::Client(self.op.client);
        let asked = Endpoint::Node(self.op.node);
        if self.hurt(client) || self.hurt(asked) || self.link_hurt(client, asked) {
            return true;
        }
        let well: Vec<NodeIndex> = self.well().collect();
        let asked_of = self.homes.len() + self.standins.len();
        let patience = self
            .rules
            .service_ns
            .saturating_add(self.rules.failover_ns.saturating_mul((asked_of - well.len()) as u64));
        let need = usize::from(self.op.asked.need);
        if self.op.asked.timeout_ns < patience || well.len() < need {
            return true;
        }
        if self.homes.contains(&self.op.node) {
            return false;
        }
        let mut chosen = self.homes.iter().filter(|home| !self.absent(**home)).peekable();
        if chosen.peek().is_none() {
            // The asked node is left, and it has just been seen that it reaches enough, itself included.
            return !self.standins.contains(&self.op.node);
        }
        chosen.any(|home| !well.contains(home) || self.reach(*home, &well) < need)
    }

    /// How many of `well` the home replica reaches, itself included.
    fn reach(&self, home: NodeIndex, well: &[NodeIndex]) -> usize {
        let at = Endpoint::Node;
        well.iter()
            .filter(|other| **other == home || !self.link_hurt(at(**other), at(home)))
            .count()
    }

    /// Replicas that were undisturbed, and so was their link with the asked node.
    fn well(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        let asked = Endpoint::Node(self.op.node);
        self.homes.iter().chain(self.standins).copied().filter(move |&replica| {
            let node = Endpoint::Node(replica);
            !self.hurt(node)
                && !self.doubtful(node)
                && (node == asked || !self.link_hurt(node, asked))
        })
    }

    /// What it answers to a read may count for nothing.
    fn doubtful(&self, replica: Endpoint) -> bool {
        self.op.kind == Kind::Get && self.felt.iter().any(|d| d.fault == Fault::Damaged(replica))
    }

    /// A fault of the machine itself was felt in the window.
    fn hurt(&self, machine: Endpoint) -> bool {
        self.felt.iter().any(|d| match d.fault {
            Fault::Down(at)
            | Fault::PowerLoss(at)
            | Fault::Paused(at)
            | Fault::Isolated(at)
            | Fault::DiskTrouble(at) => at == machine,
            Fault::ClockWrong(_)
            | Fault::RolledBack(_)
            | Fault::Forgotten(_)
            | Fault::Damaged(_)
            | Fault::LinkCut { .. }
            | Fault::LinkBad { .. }
            | Fault::LinkRough { .. }
            | Fault::DatagramsRough { .. } => false,
        })
    }

    /// A fault of the link between them was felt in the window, in either direction.
    fn link_hurt(&self, one: Endpoint, other: Endpoint) -> bool {
        self.felt.iter().any(|d| match d.fault {
            Fault::LinkCut { from, to }
            | Fault::LinkBad { from, to }
            | Fault::LinkRough { from, to } => {
                (from, to) == (one, other) || (from, to) == (other, one)
            }
            Fault::Down(_)
            | Fault::PowerLoss(_)
            | Fault::Paused(_)
            | Fault::Isolated(_)
            | Fault::DiskTrouble(_)
            | Fault::RolledBack(_)
            | Fault::Forgotten(_)
            | Fault::Damaged(_)
            | Fault::ClockWrong(_)
            | Fault::DatagramsRough { .. } => false,
        })
    }

    /// The home replica was silent towards everybody from before the request until after it, for long
    /// enough that nobody takes it for alive.
    fn absent(&self, home: NodeIndex) -> bool {
        let since = self.op.start_ns.checked_sub(self.rules.detection_ns);
        let silent = |fault| match fault {
            Fault::Down(at) | Fault::PowerLoss(at) | Fault::Paused(at) | Fault::Isolated(at) => {
                at == Endpoint::Node(home)
            }
            Fault::DiskTrouble(_)
            | Fault::RolledBack(_)
            | Fault::Forgotten(_)
            | Fault::Damaged(_)
            | Fault::ClockWrong(_)
            | Fault::LinkCut { .. }
            | Fault::LinkBad { .. }
            | Fault::LinkRough { .. }
            | Fault::DatagramsRough { .. } => false,
        };
        self.felt.iter().any(|d| {
            silent(d.fault) && since.is_some_and(|t| d.start_ns <= t) && d.end_ns >= self.op.end_ns
        })
    }
}

fn accuse(request_: &Request<'_>, story: &Story<'_>) -> Violation {
    let op = request_.op;
    let well: Vec<String> = request_.well().map(|n| n.to_string()).collect();
    let homes = request_.homes.iter().chain(request_.standins);
    let homes: Vec<String> = homes.map(NodeIndex::to_string).collect();
    let role = if request_.homes.contains(&op.node) { "home replica" } else { "node (no home)" };
    let explanation = format!(
        "{} ({}) failed without an excuse: {}. From {} to {} nothing was wrong with {}, the {role} {} or \
         their link; of the replicas {} these were well: {}; {} were needed, and the deadline was {}.",
        op.id,
        request(op),
        answer(&op.outcome),
        seconds(op.start_ns.saturating_sub(request_.rules.recovery_ns)),
        seconds(op.end_ns),
        op.client,
        op.node,
        homes.join(", "),
        well.join(", "),
        op.asked.need,
        seconds(op.asked.timeout_ns),
    );
    story.violation(7, op.key, vec![op.id], explanation)
}
