//! How soon the dead are found, and that the living are left alone.

use rand::Rng;

use super::net::Net;
use crate::domain::membership::{Event, Health, Rule};

/// Crashes a node at a random moment and returns after how many ms the last of the others knew.
fn crash_found_after_ms(net: &mut Net, victim: usize, within_ms: u64) -> u64 {
    let moment = net.dice.random_range(0..1_000);
    net.run_ms(moment);
    let crashed = net.now_ms();
    net.crash(victim);
    net.run_ms(within_ms);
    let downs = net.downs(victim);
    let n = net.nodes.len();
    assert_eq!(downs.len(), n - 1, "{n} nodes: found by {downs:?}, crashed at {crashed}");
    assert_eq!(net.all_downs(), n - 1, "somebody else was taken for down");
    downs.iter().map(|(ms, _)| ms - crashed).max().unwrap()
}

fn slowest(n: usize, seeds: u64, within_ms: u64, loss: f64, rule: Rule) -> Vec<u64> {
    let mut times: Vec<u64> = (0..seeds)
        .map(|seed| {
            let mut net = Net::empty(seed);
            net.options.rule = rule;
            net = net.grown(n);
            net.loss = loss;
            let victim = net.dice.random_range(0..n);
            crash_found_after_ms(&mut net, victim, within_ms)
        })
        .collect();
    times.sort_unstable();
    println!("{n} nodes, {rule:?}: {times:?}");
    times
}

const PHI: Rule = Rule::Phi { threshold: 8.0 };

#[test]
fn a_crash_is_down_everywhere_within_five_seconds_in_small_clusters() {
    for (n, seeds) in [(2, 20), (3, 40), (5, 30), (10, 20)] {
        let times = slowest(n, seeds, 7_000, 0.01, PHI);
        assert!(times[times.len() - 1] <= 5_000, "{n} nodes: {times:?}");
        assert!(
            times[0] >= 3_000,
            "{n} nodes: sooner than a pause of 3 s would be over: {times:?}"
        );
    }
}

#[test]
fn a_crash_is_down_everywhere_within_eight_seconds_among_a_hundred() {
    let times = slowest(100, 3, 9_000, 0.0, PHI);
    assert!(times[times.len() - 1] <= 8_000, "{times:?}");
}

#[test]
fn three_missed_beats_is_a_rule_too() {
    for n in [3, 10] {
        let times = slowest(n, 10, 7_000, 0.0, Rule::Count { missed: 3 });
        assert!(times[times.len() - 1] <= 5_000, "{n} nodes: {times:?}");
    }
}

#[test]
fn loss_takes_nobody_down() {
    let mut net = Net::settled(10, 7);
    net.loss = 0.01;
    net.run_ms(2 * 3_600_000);
    assert_eq!(net.all_downs(), 0, "{:?}", net.events);
}

#[test]
fn pauses_of_three_seconds_take_nobody_down() {
    for (n, minutes, seed) in [(10, 60, 1), (3, 60, 2), (2, 60, 3)] {
        let mut net = Net::settled(n, seed);
        net.loss = 0.01;
        // Without loss of its last beat a pair has no second way: see the page of the machine.
        if n < 10 {
            net.loss = 0.0;
        }
        for _ in 0..minutes * 4 {
            let who = net.dice.random_range(0..n);
            net.pause(who, 3_000);
            let rest = net.dice.random_range(13_000..17_000);
            net.run_ms(rest);
        }
        assert_eq!(net.all_downs(), 0, "{n} nodes: {:?}", net.events);
        let pauses: u64 = net.nodes.iter().map(|node| node.machine.counters().pauses).sum();
        assert!(pauses >= minutes * 3, "{pauses} pauses were noticed");
    }
}

#[test]
fn one_bad_link_takes_nobody_down() {
    for n in [3, 4, 10] {
        for both_ways in [false, true] {
            let mut net = Net::settled(n, 11);
            net.cut_off(0, 1);
            if both_ways {
                net.cut_off(1, 0);
            }
            net.run_ms(300_000);
            assert_eq!(net.all_downs(), 0, "{n} nodes: {:?}", net.events);
            assert!(net.events.is_empty(), "{n} nodes: {:?}", net.events);
        }
    }
}

#[test]
fn a_paused_node_accuses_nobody_when_it_wakes() {
    for seed in 0..5 {
        let mut net = Net::settled(5, seed);
        let before = net.nodes[2].machine.counters().suspicions;
        net.pause(2, 60_000);
        net.run_ms(120_000);
        let accused = net.events.iter().filter(|(_, slot, event)| {
            *slot == 2 && matches!(event, Event::Suspected(_) | Event::Down(_))
        });
        assert_eq!(accused.count(), 0, "{:?}", net.events);
        assert_eq!(net.nodes[2].machine.counters().suspicions, before);
        assert!(net.nodes[2].machine.counters().pauses >= 1);
        // The others took it for down, and for up again once it woke.
        assert_eq!(net.downs(2).len(), 4);
        assert!((0..5).all(|slot| net.count(slot, Health::Up) == 5));
    }
}

#[test]
fn who_is_cut_off_believes_all_suspect_and_none_down() {
    let mut net = Net::settled(5, 3);
    for other in [0, 1, 3, 4] {
        net.cut_off(2, other);
        net.cut_off(other, 2);
    }
    net.run_ms(60_000);
    assert_eq!(net.count(2, Health::Suspect), 4);
    assert_eq!(net.downs(2).len(), 4);
    assert_eq!(net.all_downs(), 4);
    net.cuts.clear();
    net.run_ms(15_000);
    assert!((0..5).all(|slot| net.count(slot, Health::Up) == 5));
}

#[test]
fn two_of_three_dead_leave_a_suspicion_and_no_certainty() {
    let mut net = Net::settled(3, 4);
    net.crash(1);
    net.run_ms(20_000);
    assert_eq!(net.health(0, 1), Health::Down);
    net.crash(2);
    net.run_ms(20_000);
    assert_eq!(net.health(0, 2), Health::Suspect);
    let view = net.nodes[0].machine.view("node-0002", net.now()).unwrap();
    assert_eq!(view.suspected_by.len(), 1);
    assert!(view.phi > 8.0);
    assert!(view.reasons.contains("down when 2 live members suspect it"), "{}", view.reasons);
}

#[test]
fn a_refused_connection_hastens_the_question_and_an_answer_clears() {
    // With the hint, silence is asked about after one interval.
    let mut net = Net::settled(5, 9);
    net.run_ms(500);
    net.crash(4);
    let crashed = net.now_ms();
    net.run_ms(200);
    for slot in 0..4 {
        net.call(slot, |machine, now, _| machine.report_unreachable("node-0004", now));
    }
    net.run_ms(7_000);
    let last = net.downs(4).iter().map(|(ms, _)| ms - crashed).max().unwrap();
    assert_eq!(net.downs(4).len(), 4);
    assert!(last <= 3_500, "{last}");
    // A hint about a live one does nothing.
    net.events.clear();
    for slot in 0..3 {
        net.call(slot, |machine, now, _| machine.report_unreachable("node-0003", now));
    }
    net.run_ms(5_000);
    assert!(net.events.is_empty(), "{:?}", net.events);
    // An answer to a request is life.
    net.call(0, |machine, now, out| machine.report_progress("node-0004", now, out));
    assert_eq!(net.health(0, 4), Health::Up);
}
