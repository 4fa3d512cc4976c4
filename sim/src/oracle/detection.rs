//! Point 8: the dead are found, the living are not taken for dead, and in the end everybody is up.
//!
//! Three rules, each on what nodes noted and on what the harness did:
//!
//! 1. **Found.** Take any stretch of time as long as the bound in which a node is dead throughout and
//!    nothing else stirs: every other node is dead throughout or runs throughout, undisturbed, and no link
//!    between those that run is cut or bad. At its end every one that runs, and that ever took the dead one
//!    for alive, takes it for down (or for stopped). There must be two that run, since it takes two to take
//!    a third down; in a cluster of two, one is enough.
//! 2. **Not mistaken.** Nobody takes a running node for down, unless within the bound before that the node
//!    itself was dead, paused, isolated or in trouble with its disk (which delays its start), or its links
//!    with two others, or more, were cut or bad in either direction. So one bad link takes nobody down, nor
//!    does a pause of those who watch, nor a little loss. Nor is it taken for stopped, unless it did stop once, or is
//!    about to: a process says goodbye when it is asked to stop, and who stood still may read an old goodbye before
//!    newer news.
//! 3. **In the end.** If all that run at the end have run, and nothing was wrong, for as long as the bound,
//!    each takes each other one for alive.
//!
//! Why the first is sound: what may clear a suspicion is news of a heartbeat, and of a dead node only old
//! ones are left, with nodes that were cut off or stood still when they came, or on slow links. Those stir:
//! what they hold back is out when they have been well for the bound. The second is sound because it takes
//! two reporters, and each of them must have missed the heartbeats on its own link *and* by way of others; what
//! a reporter said is forgotten within the bound. Wrong clocks excuse nothing: the bound leaves room for a
//! clock that is a tenth too slow.

use std::collections::BTreeSet;

use super::Violation;
use super::story::seconds;
use crate::history::{
    Belief, Disturbance, Ending, Endpoint, Evidence, Fault, Health, Life, Membership, NodeIndex,
};

/// How long a process may take to end after its goodbye: what it may wait for clients and for peers
/// (`timeouts.drain_ms`, for each of them), and what its disk takes.
const LEAVING_NS: u64 = 25_000_000_000;

pub(super) fn check(evidence: &Evidence, found: &mut Vec<Violation>) {
    let Some(membership) = &evidence.membership else { return };
    let watch = Watch { membership, disturbances: &evidence.disturbances };
    for node in watch.nodes() {
        watch.judge_deaths(node, found);
    }
    let gone = |belief: &&Belief| is_gone(belief.state);
    for belief in membership.beliefs.iter().filter(gone) {
        watch.judge_mistake(belief, found);
    }
    watch.judge_end(found);
}

const fn is_gone(state: Health) -> bool {
    matches!(state, Health::Down | Health::Stopped)
}

struct Watch<'a> {
    membership: &'a Membership,
    disturbances: &'a [Disturbance],
}

/// A stretch of time, both ends included.
#[derive(Clone, Copy)]
struct Span {
    from_ns: u64,
    to_ns: u64,
}

impl Watch<'_> {
    fn nodes(&self) -> BTreeSet<NodeIndex> {
        self.membership.lives.iter().map(|life| life.node).collect()
    }

    /// Rule 1, for every death of `node`.
    fn judge_deaths(&self, node: NodeIndex, found: &mut Vec<Violation>) {
        let lives: Vec<&Life> = self.lives_of(node).collect();
        for (place, life) in lives.iter().enumerate() {
            let Some((died_ns, _)) = life.end else { continue };
            let back = lives.get(place + 1).map(|next| next.start_ns);
            let dead = Span { from_ns: died_ns, to_ns: back.unwrap_or(self.membership.end_ns) };
            let mut blind = BTreeSet::new();
            for span in self.quiet_spans(node, dead) {
                for observer in self.running(span).filter(|observer| observer.node != node) {
                    if self.is_blind(observer, node, span.to_ns) && blind.insert(observer.node) {
                        found.push(self.accuse_blind(observer, node, dead, span));
                    }
                }
            }
        }
    }

    /// The stretches that prove something about the death of `node`: one for each moment from which on
    /// nothing stirs for the length of the bound.
    fn quiet_spans(&self, node: NodeIndex, dead: Span) -> Vec<Span> {
        let bound_ns = self.membership.down_within_ns;
        let mut starts = vec![dead.from_ns];
        for life in self.membership.lives.iter().filter(|life| life.node != node) {
            starts.push(life.start_ns);
            starts.extend(life.end.map(|(end_ns, _)| end_ns));
        }
        starts.extend(self.stirs(node).map(|stir| stir.to_ns.saturating_add(1)));
        starts
            .retain(|start| *start >= dead.from_ns && start.saturating_add(bound_ns) < dead.to_ns);
        starts.sort_unstable();
        starts.dedup();
        let spans = starts.into_iter().map(|from_ns| Span { from_ns, to_ns: from_ns + bound_ns });
        spans.filter(|span| self.is_quiet(node, *span)).collect()
    }

    fn is_quiet(&self, node: NodeIndex, span: Span) -> bool {
        let edge = |at_ns: u64| at_ns > span.from_ns && at_ns <= span.to_ns;
        let mut others = self.membership.lives.iter().filter(|life| life.node != node);
        let changes = others.any(|life| edge(life.start_ns) || life.end.is_some_and(|e| edge(e.0)));
        let needed = if self.membership.members > 2 { 2 } else { 1 };
        !changes
            && self.running(span).filter(|life| life.node != node).count() >= needed
            && !self
                .stirs(node)
                .any(|stir| stir.from_ns <= span.to_ns && stir.to_ns >= span.from_ns)
    }

    /// When something was wrong that may hide the death of `node` from others, or keep old news of it.
    fn stirs(&self, node: NodeIndex) -> impl Iterator<Item = Span> {
        let dead = Endpoint::Node(node);
        self.disturbances.iter().filter_map(move |d| {
            let span = |late_ns: u64| Span {
                from_ns: d.start_ns,
                to_ns: d.end_ns.saturating_add(late_ns),
            };
            match d.fault {
                Fault::Paused(at) | Fault::Isolated(at) if is_node(at) && at != dead => {
                    Some(span(0))
                }
                Fault::LinkCut { from, to } if is_node(from) && is_node(to) => {
                    (from != dead && to != dead).then(|| span(0))
                }
                Fault::LinkBad { from, to } if is_node(from) && is_node(to) => {
                    Some(span(self.membership.late_ns))
                }
                Fault::Paused(_)
                | Fault::Isolated(_)
                | Fault::LinkCut { .. }
                | Fault::LinkBad { .. }
                | Fault::Down(_)
                | Fault::PowerLoss(_)
                | Fault::DiskTrouble(_)
                | Fault::RolledBack(_)
                | Fault::Forgotten(_)
                | Fault::Damaged(_)
                | Fault::ClockWrong(_)
                | Fault::LinkRough { .. }
                | Fault::DatagramsRough { .. } => None,
            }
        })
    }

    fn is_blind(&self, observer: &Life, node: NodeIndex, at_ns: u64) -> bool {
        let beliefs = || self.beliefs(observer, node).filter(|b| b.at_ns <= at_ns);
        let knew = beliefs().any(|belief| belief.state == Health::Up);
        knew && !beliefs().last().is_some_and(|belief| is_gone(belief.state))
    }

    fn accuse_blind(&self, observer: &Life, node: NodeIndex, dead: Span, span: Span) -> Violation {
        violation(format!(
            "{node} is dead from {} to {}, and {} does not take it for down by {}, though nothing else stirs \
             from {} on and the bound is {}.{}",
            seconds(dead.from_ns),
            seconds(dead.to_ns),
            observer.node,
            seconds(span.to_ns),
            seconds(span.from_ns),
            seconds(self.membership.down_within_ns),
            self.told(observer, node),
        ))
    }

    /// Rule 2.
    fn judge_mistake(&self, belief: &Belief, found: &mut Vec<Violation>) {
        let at_ns = belief.at_ns;
        let bound_ns = self.membership.down_within_ns;
        let before = Span { from_ns: at_ns.saturating_sub(bound_ns), to_ns: at_ns };
        let runs = self.lives_of(belief.subject).any(|life| {
            life.start_ns <= before.from_ns && life.end.is_none_or(|(end_ns, _)| end_ns > at_ns)
        });
        let left = |life: &Life| {
            let said_by_ns = at_ns.saturating_add(LEAVING_NS);
            life.end.is_some_and(|(end_ns, how)| how == Ending::Exit && end_ns <= said_by_ns)
        };
        let old_goodbye =
            belief.state == Health::Stopped && self.lives_of(belief.subject).any(left);
        if !runs || old_goodbye || self.is_hurt(belief.subject, before) {
            return;
        }
        let hidden = self.hidden_from(belief.subject, before);
        let needed = if self.membership.members > 2 { 2 } else { 1 };
        if hidden.len() >= needed {
            return;
        }
        let hidden: Vec<String> = hidden.iter().map(NodeIndex::to_string).collect();
        let hidden = if hidden.is_empty() { "nobody".to_owned() } else { hidden.join(", ") };
        found.push(violation(format!(
            "{} takes {} for {} at {}, though it has been running and well for {}, and only its links with \
             {hidden} were cut or bad.",
            belief.observer,
            belief.subject,
            name(belief.state),
            seconds(at_ns),
            seconds(bound_ns),
        )));
    }

    /// Something was wrong with the node itself.
    fn is_hurt(&self, node: NodeIndex, span: Span) -> bool {
        self.felt(span).any(|d| match d.fault {
            Fault::Down(at)
            | Fault::PowerLoss(at)
            | Fault::Paused(at)
            | Fault::Isolated(at)
            | Fault::DiskTrouble(at) => at == Endpoint::Node(node),
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

    /// The other nodes that could not hear the node well, or it them.
    fn hidden_from(&self, node: NodeIndex, span: Span) -> BTreeSet<NodeIndex> {
        let own = Endpoint::Node(node);
        let late = Span { from_ns: span.from_ns.saturating_sub(self.membership.late_ns), ..span };
        let mut hidden = BTreeSet::new();
        for disturbance in self.felt(late) {
            match disturbance.fault {
                Fault::LinkCut { from, to } | Fault::LinkBad { from, to } => match (from, to) {
                    (Endpoint::Node(other), at) | (at, Endpoint::Node(other)) if at == own => {
                        hidden.insert(other);
                    }
                    (Endpoint::Node(_) | Endpoint::Client(_), _) => {}
                },
                Fault::Isolated(Endpoint::Node(other)) => {
                    hidden.insert(other);
                }
                Fault::Isolated(Endpoint::Client(_))
                | Fault::Down(_)
                | Fault::PowerLoss(_)
                | Fault::Paused(_)
                | Fault::DiskTrouble(_)
                | Fault::RolledBack(_)
                | Fault::Forgotten(_)
                | Fault::Damaged(_)
                | Fault::ClockWrong(_)
                | Fault::LinkRough { .. }
                | Fault::DatagramsRough { .. } => {}
            }
        }
        hidden
    }

    /// Rule 3.
    fn judge_end(&self, found: &mut Vec<Violation>) {
        let end_ns = self.membership.end_ns;
        let bound_ns = self.membership.down_within_ns;
        let last = Span { from_ns: end_ns.saturating_sub(bound_ns), to_ns: end_ns };
        let calm = |d: &Disturbance| {
            is_mild(d.fault) || d.end_ns.saturating_add(self.membership.late_ns) < last.from_ns
        };
        if end_ns < bound_ns || !self.disturbances.iter().all(calm) {
            return;
        }
        let there: Vec<&Life> = self.running(last).collect();
        for observer in &there {
            for subject in there.iter().filter(|subject| subject.node != observer.node) {
                let state = self.beliefs(observer, subject.node).last().map(|b| b.state);
                if state == Some(Health::Up) {
                    continue;
                }
                found.push(violation(format!(
                    "at the end, {} takes {} for {}, though both have run since {} and nothing has been \
                     wrong for {}.",
                    observer.node,
                    subject.node,
                    state.map_or("unknown", name),
                    seconds(observer.start_ns.max(subject.start_ns)),
                    seconds(bound_ns),
                )));
            }
        }
    }

    fn told(&self, observer: &Life, node: NodeIndex) -> String {
        let last = self.beliefs(observer, node).last();
        let told =
            |b: &Belief| format!(" Last it noted {} at {}.", name(b.state), seconds(b.at_ns));
        last.map_or_else(String::new, told)
    }

    fn lives_of(&self, node: NodeIndex) -> impl Iterator<Item = &Life> {
        self.membership.lives.iter().filter(move |life| life.node == node)
    }

    /// The processes that run throughout, and were not asked to stop: one that was says goodbye, listens no
    /// more, and may take a while to finish what it began.
    fn running(&self, span: Span) -> impl Iterator<Item = &Life> {
        self.membership.lives.iter().filter(move |life| {
            life.start_ns <= span.from_ns
                && life.end.is_none_or(|(end_ns, _)| end_ns > span.to_ns)
                && !self.felt(span).any(|d| d.fault == Fault::Down(Endpoint::Node(life.node)))
        })
    }

    /// What a process believed of a node, in order.
    fn beliefs(&self, observer: &Life, subject: NodeIndex) -> impl Iterator<Item = &Belief> {
        let observer = *observer;
        let end_ns = observer.end.map_or(u64::MAX, |(end_ns, _)| end_ns);
        self.membership.beliefs.iter().filter(move |belief| {
            (belief.observer, belief.subject) == (observer.node, subject)
                && (observer.start_ns..=end_ns).contains(&belief.at_ns)
        })
    }

    fn felt(&self, span: Span) -> impl Iterator<Item = &Disturbance> {
        let reaches = move |d: &&Disturbance| d.start_ns <= span.to_ns && d.end_ns >= span.from_ns;
        self.disturbances.iter().filter(reaches)
    }
}

const fn is_node(at: Endpoint) -> bool {
    matches!(at, Endpoint::Node(_))
}

/// What nobody may be taken for dead for, however long it lasts.
const fn is_mild(fault: Fault) -> bool {
    match fault {
        Fault::ClockWrong(_)
        | Fault::RolledBack(_)
        | Fault::Forgotten(_)
        | Fault::Damaged(_)
        | Fault::LinkRough { .. }
        | Fault::DatagramsRough { .. } => true,
        Fault::Down(at) | Fault::PowerLoss(at) | Fault::Paused(at) | Fault::Isolated(at) => {
            !is_node(at)
        }
        Fault::DiskTrouble(at) => !is_node(at),
        Fault::LinkCut { from, to } | Fault::LinkBad { from, to } => !is_node(from) || !is_node(to),
    }
}

const fn name(state: Health) -> &'static str {
    match state {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Suspect => "suspect",
        Health::Down => "down",
        Health::Stopped => "stopped",
    }
}

fn violation(explanation: String) -> Violation {
    Violation { point: 8, key: None, ops: Vec::new(), explanation, story: Vec::new() }
}
