//! Points 8, 9 and 10: what nodes say of each other and of hints, against what was done to them.

use super::points;
use super::tale::{MS, during, node, tell};
use crate::history::{
    Belief, Disturbance, Ending, Evidence, Fault, Health, HintDeed, HintStep, Hints, HintsLeft,
    KeyIndex, Life, Listed, Membership, NodeIndex, View,
};

const NONE: [u8; 0] = [];

/// What nodes believe, in a short notation, a belief a word: `0>1:down@500` says that from 500 ms on n0
/// takes n1 for down. At the start every node takes every other for alive.
fn cluster(nodes: u32, lives: &[(u32, u64, Option<u64>)], notes: &str) -> Evidence {
    let mut beliefs = Vec::new();
    for observer in (0..nodes).map(NodeIndex) {
        for subject in (0..nodes).map(NodeIndex).filter(|subject| *subject != observer) {
            beliefs.push(Belief { observer, subject, at_ns: 0, state: Health::Up });
        }
    }
    beliefs.extend(notes.split_whitespace().map(belief));
    beliefs.sort_by_key(|belief| belief.at_ns);
    let mut all: Vec<Life> = Vec::new();
    for &(of, from_ms, to_ms) in lives {
        let end = to_ms.map(|ms| (ms * MS, Ending::Killed));
        all.push(Life { node: NodeIndex(of), start_ns: from_ms * MS, end });
    }
    for other in (0..nodes).filter(|n| lives.iter().all(|(of, ..)| of != n)) {
        all.push(Life { node: NodeIndex(other), start_ns: 0, end: None });
    }
    let membership = Membership {
        lives: all,
        beliefs,
        members: nodes,
        end_ns: 10_000 * MS,
        down_within_ns: 1_000 * MS,
        ..Membership::default()
    };
    Evidence { membership: Some(membership), ..tell("") }
}

fn belief(word: &str) -> Belief {
    let (who, rest) = word.split_once(':').unwrap();
    let (state, at) = rest.split_once('@').unwrap();
    let (observer, subject) = who.split_once('>').unwrap();
    let number = |text: &str| NodeIndex(text.parse().unwrap());
    let state = match state {
        "up" => Health::Up,
        "suspect" => Health::Suspect,
        "down" => Health::Down,
        "stopped" => Health::Stopped,
        other => panic!("what is {other}?"),
    };
    let at_ns = at.parse::<u64>().unwrap() * MS;
    Belief { observer: number(observer), subject: number(subject), at_ns, state }
}

fn under(mut evidence: Evidence, faults: &[Disturbance]) -> Vec<u8> {
    evidence.disturbances = faults.to_vec();
    points(&evidence)
}

/// n2 of three dies at 2,000 ms and is back at 5,000; the bound is 1,000.
fn death(notes: &str, faults: &[Disturbance]) -> Vec<u8> {
    let back = "0>2:up@5100 1>2:up@5100 2>0:up@5100 2>1:up@5100";
    let lives = [(2, 0, Some(2_000)), (2, 5_000, None)];
    let mut all = vec![during(2_000, 5_000, Fault::Down(node(2)))];
    all.extend(faults);
    under(cluster(3, &lives, &format!("{notes} {back}")), &all)
}

#[test]
fn the_dead_are_found_by_all_that_are_well() {
    assert_eq!(death("0>2:down@2900 1>2:down@2900", &[]), NONE);
    assert_eq!(death("0>2:stopped@2001 1>2:down@2900", &[]), NONE, "a goodbye will do");
    assert_eq!(death("0>2:down@2900", &[]), [8], "n1 is blind");
    assert_eq!(death("0>2:down@2900 1>2:suspect@2900", &[]), [8], "a suspicion is not enough");
    assert_eq!(death("0>2:down@2900 1>2:down@3100", &[]), [8], "too late");
    assert_eq!(death("0>2:down@2900 1>2:down@2500 1>2:up@2600", &[]), [8], "taken back");
    let stood_still = during(1_900, 2_300, Fault::Paused(node(1)));
    assert_eq!(death("0>2:down@2900 1>2:down@3200", &[stood_still]), NONE, "n1 stood still");
    assert_eq!(death("0>2:down@2900 1>2:down@3400", &[stood_still]), [8], "not for so long");
    let for_long = during(1_900, 4_100, Fault::Paused(node(1)));
    assert_eq!(death("", &[for_long]), NONE, "and n0 is alone");
    let apart = during(0, 6_000, Fault::LinkCut { from: node(0), to: node(1) });
    assert_eq!(death("", &[apart]), NONE, "neither hears the other");
    let slow = during(0, 2_500, Fault::LinkBad { from: node(2), to: node(0) });
    assert_eq!(death("0>2:down@3400 1>2:down@3400", &[slow]), NONE, "its last words came late");
    let leaving = during(1_500, 4_500, Fault::Down(node(1)));
    assert_eq!(death("", &[leaving]), NONE, "n1 was asked to stop, and still runs");
    let rough = during(0, 10_000, Fault::LinkRough { from: node(0), to: node(1) });
    assert_eq!(death("0>2:down@2900", &[rough]), [8], "a little loss is no excuse");
    let clock = during(0, 10_000, Fault::ClockWrong(node(1)));
    assert_eq!(death("0>2:down@2900", &[clock]), [8], "nor is a clock");
}

#[test]
fn who_never_knew_the_dead_need_not_miss_it() {
    // n1 starts after the death of n2.
    let lives = [(2, 0, Some(2_000)), (2, 8_000, None), (1, 3_000, None)];
    let mut evidence = cluster(
        3,
        &lives,
        "0>2:down@2900 0>2:up@8100 1>0:up@3100 1>2:up@8100 2>0:up@8100 2>1:up@8100",
    );
    evidence.membership.as_mut().unwrap().end_ns = 10_000 * MS;
    assert_eq!(under(evidence, &[during(0, 8_000, Fault::Down(node(2)))]), NONE);
}

#[test]
fn two_nodes_need_one_reporter() {
    let lives = [(1, 0, Some(2_000)), (1, 5_000, None)];
    let back = "0>1:up@5100 1>0:up@5100";
    let faults = [during(2_000, 5_000, Fault::Down(node(1)))];
    assert_eq!(under(cluster(2, &lives, back), &faults), [8]);
    assert_eq!(under(cluster(2, &lives, &format!("0>1:down@2500 {back}")), &faults), NONE);
    let bad = [during(1_000, 2_000, Fault::LinkBad { from: node(0), to: node(1) })];
    assert_eq!(under(cluster(2, &[], "0>1:down@1500 0>1:up@2100"), &bad), NONE);
}

/// n0 takes n2 of four for down at 3,000 ms, and back at 3,500.
fn mistake(faults: &[Disturbance]) -> Vec<u8> {
    under(cluster(4, &[], "0>2:down@3000 0>2:up@3500"), faults)
}

#[test]
fn the_living_are_not_taken_for_dead() {
    let cut = |from, to| Fault::LinkCut { from: node(from), to: node(to) };
    assert_eq!(mistake(&[]), [8], "in peace");
    assert_eq!(mistake(&[during(0, 1_900, Fault::Paused(node(2)))]), [8], "long over");
    assert_eq!(mistake(&[during(0, 2_100, Fault::Paused(node(2)))]), NONE);
    assert_eq!(mistake(&[during(2_000, 2_900, Fault::Paused(node(0)))]), [8], "its own pause");
    assert_eq!(mistake(&[during(0, 9_000, cut(2, 0))]), [8], "one bad link");
    assert_eq!(mistake(&[during(0, 8_000, cut(2, 0)), during(0, 8_000, cut(0, 2))]), [8]);
    assert_eq!(mistake(&[during(0, 8_000, cut(2, 0)), during(0, 8_000, cut(1, 2))]), NONE, "two");
    assert_eq!(
        mistake(&[during(0, 8_000, cut(0, 1)), during(0, 8_000, cut(0, 3))]),
        [8],
        "not its"
    );
    assert_eq!(mistake(&[during(0, 8_000, Fault::Isolated(node(0)))]), [8], "alone, nobody agrees");
    assert_eq!(mistake(&[during(0, 8_000, Fault::Isolated(node(2)))]), NONE);
    let clock = during(0, 8_000, Fault::ClockWrong(node(2)));
    let rough = during(0, 10_000, Fault::LinkRough { from: node(2), to: node(0) });
    let few = during(0, 10_000, Fault::DatagramsRough { from: node(2), to: node(1) });
    assert_eq!(mistake(&[clock, rough, few]), [8]);
    let restarted =
        cluster(4, &[(2, 0, Some(1_000)), (2, 2_500, None)], "0>2:down@3000 0>2:up@3500");
    assert!(!points(&restarted).contains(&0), "it has just been started");
    let stopped = under(cluster(4, &[], "0>2:stopped@3000 0>2:up@3500"), &[]);
    assert_eq!(stopped, [8], "it never said goodbye");
    let mut left = cluster(4, &[(2, 0, Some(50)), (2, 100, None)], "0>2:stopped@3000 0>2:up@3500");
    let membership = left.membership.as_mut().unwrap();
    membership.beliefs.push(belief("2>0:up@4000"));
    membership.beliefs.push(belief("2>1:up@4000"));
    membership.beliefs.push(belief("2>3:up@4000"));
    assert_eq!(points(&left), [8], "it was killed");
    left.membership.as_mut().unwrap().lives[0].end = Some((50 * MS, Ending::Exit));
    assert_eq!(points(&left), NONE, "an old goodbye");
}

#[test]
fn in_the_end_everybody_is_up() {
    assert_eq!(points(&cluster(3, &[], "")), NONE);
    assert_eq!(points(&cluster(3, &[], "0>1:suspect@5000")), [8]);
    let late = during(0, 9_100, Fault::LinkCut { from: node(0), to: node(2) });
    assert_eq!(under(cluster(3, &[], "0>1:suspect@5000"), &[late]), NONE, "it had no time");
    let mut silent = cluster(3, &[], "");
    silent.membership.as_mut().unwrap().beliefs.retain(|b| b.subject != NodeIndex(1));
    assert_eq!(points(&silent), [8], "never heard of");
    silent.membership = None;
    assert_eq!(points(&silent), NONE, "nodes that do not gossip");
}

fn views(change: impl FnOnce(&mut Vec<View>)) -> Vec<u8> {
    let listed = |name: &str| Listed { name: name.into(), health: Health::Up, incarnation: 7 };
    let members = vec![listed("n1"), listed("n2"), listed("n3")];
    let view = |n| View { node: NodeIndex(n), members: members.clone(), ring: 9 };
    let mut views = (0..3).map(view).collect();
    change(&mut views);
    let mut evidence = cluster(3, &[], "");
    evidence.membership.as_mut().unwrap().views = views;
    points(&evidence)
}

#[test]
fn nodes_agree_after_healing() {
    assert_eq!(views(|_| {}), NONE);
    assert_eq!(views(Vec::clear), NONE, "cut short");
    assert_eq!(views(|v| v[1].members[2].health = Health::Down), [10]);
    assert_eq!(views(|v| v[0].members[2].health = Health::Suspect), [10]);
    assert_eq!(views(|v| v[2].members[0].incarnation = 8), [10]);
    assert_eq!(views(|v| v[2].ring = 8), [10]);
    assert_eq!(views(|v| v[2].members[0].name = "n0".into()), [10]);
    assert_eq!(views(|v| drop(v[1].members.pop())), [10]);
    assert_eq!(views(|v| v.iter_mut().for_each(|v| drop(v.members.pop()))), [10], "all miss it");
}

/// Hints of n3 for n0 may become 1,000 ms old, and are in the log within 20.
fn hints(steps: &[(u64, HintDeed)], left: u64, faults: &[Disturbance]) -> Vec<u8> {
    let mut evidence = tell("a: put 1 => acked \n z: final => 1");
    let step = |&(at_ms, what): &(u64, HintDeed)| HintStep {
        at_ns: at_ms * MS,
        holder: NodeIndex(3),
        owner: NodeIndex(0),
        key: KeyIndex(0),
        what,
    };
    evidence.hints = Some(Hints {
        steps: steps.iter().map(step).collect(),
        left: Some(vec![HintsLeft { holder: NodeIndex(3), owner: NodeIndex(0), count: left }]),
        age_ns: 1_000 * MS,
        durable_ns: 20 * MS,
    });
    if left == 0 {
        evidence.hints.as_mut().unwrap().left = Some(Vec::new());
    }
    under(evidence, faults)
}

#[test]
fn hints_reach_their_owners() {
    use HintDeed::{Delivered, Expired, Reresolved, Stored};
    assert_eq!(hints(&[], 0, &[]), NONE);
    assert_eq!(hints(&[(10, Stored), (500, Delivered)], 0, &[]), NONE);
    assert_eq!(hints(&[(10, Stored), (500, Reresolved)], 0, &[]), NONE);
    assert_eq!(hints(&[(10, Stored)], 1, &[]), [9], "left behind");
    assert_eq!(hints(&[(10, Stored)], 0, &[]), [9], "lost");
    assert_eq!(hints(&[(10, Stored), (500, Delivered), (600, Stored)], 0, &[]), [9], "the second");
    assert_eq!(hints(&[(10, Stored), (20, Stored), (500, Delivered)], 0, &[]), NONE, "merged");
    assert_eq!(hints(&[(10, Stored), (1_200, Expired)], 0, &[]), NONE);
    assert_eq!(hints(&[(10, Stored), (900, Expired)], 0, &[]), [9], "too young");
    assert_eq!(hints(&[(10, Stored), (800, Stored), (1_200, Expired)], 0, &[]), NONE, "grown");
    let young = [(10, Stored), (800, Delivered), (900, Stored), (1_200, Expired)];
    assert_eq!(hints(&young, 0, &[]), [9], "the old one was delivered");
}

#[test]
fn keys_of_one_tag_are_told_as_one() {
    use HintDeed::{Delivered, Expired, Stored};
    let tagged = |name: &str| {
        let mut evidence = tell("a: put 1 => acked \n z: final => 1");
        evidence.history.keys[0].name = name.into();
        let told = [(10, Stored), (800, Delivered), (900, Stored), (1_200, Expired)];
        let step = |(at_ms, what)| HintStep {
            at_ns: at_ms * MS,
            holder: NodeIndex(3),
            owner: NodeIndex(0),
            key: KeyIndex(0),
            what,
        };
        let steps = told.into_iter().map(step).collect();
        evidence.hints = Some(Hints { steps, age_ns: 1_000 * MS, ..Hints::default() });
        points(&evidence)
    };
    assert_eq!(tagged("b/k0"), [9]);
    assert_eq!(tagged("b/{tag}/k0"), NONE, "the one that expired may be the first");
}

#[test]
fn a_lost_hint_needs_an_excuse() {
    let lost = |faults: &[Disturbance]| hints(&[(100, HintDeed::Stored)], 0, faults);
    assert_eq!(lost(&[during(110, 300, Fault::Down(node(3)))]), NONE, "before it was in the log");
    assert_eq!(lost(&[during(200, 300, Fault::Down(node(3)))]), [9], "it was in the log");
    assert_eq!(lost(&[during(110, 300, Fault::Down(node(0)))]), [9], "not the holder");
    assert_eq!(lost(&[during(200, 300, Fault::PowerLoss(node(3)))]), [9], "synced");
    assert_eq!(lost(&[during(200, 300, Fault::DiskTrouble(node(3)))]), NONE);
    let early = |faults: &[Disturbance]| {
        hints(&[(100, HintDeed::Stored), (300, HintDeed::Expired)], 0, faults)
    };
    assert_eq!(early(&[during(200, 250, Fault::ClockWrong(node(3)))]), NONE, "a wall clock");
    assert_eq!(early(&[during(0, 90, Fault::ClockWrong(node(3)))]), [9], "it was right again");
}

#[test]
fn a_write_that_only_hints_held_is_lost_unless_they_expired() {
    let told = |ack: &str, expired_ms: Option<u64>| {
        let mut evidence = tell(&format!("a: put 1 sloppy => acked {ack} \n z: final => none"));
        let step = |at_ms| HintStep {
            at_ns: at_ms * MS,
            holder: NodeIndex(3),
            owner: NodeIndex(0),
            key: KeyIndex(0),
            what: HintDeed::Expired,
        };
        let steps = expired_ms.into_iter().map(step).collect();
        evidence.hints = Some(Hints { steps, ..Hints::default() });
        points(&evidence).contains(&1)
    };
    assert!(told("2h2", None));
    assert!(!told("2h2", Some(500)));
    assert!(told("2h1", Some(500)), "a home replica had it");
}
