//! Whose turn it is, and when doubt ends.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::merkle::schedule::{Batch, Outcome, Schedule};
use crate::domain::ring::NodeIndex;
use crate::runtime::time::Instant;

const PERIOD: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 32;
const NODES: [NodeIndex; 3] = [NodeIndex(0), NodeIndex(1), NodeIndex(2)];

fn start() -> Instant {
    Instant::from_nanos(1_000)
}

fn schedule(me: NodeIndex) -> Schedule {
    let homes = (0..PARTITIONS).map(|partition| (partition, NODES.to_vec()));
    Schedule::new(PERIOD, start(), me, homes)
}

fn all(_: NodeIndex) -> bool {
    true
}

fn finish(schedule: &mut Schedule, now: Instant, batch: &Batch, outcome: Outcome) {
    let round = schedule.round();
    for partition in &batch.partitions {
        schedule.finished(now, (*partition, batch.with), (round, batch.doubtful), outcome);
    }
}

/// Does all that is due at `now`; the pairs.
fn run(
    schedule: &mut Schedule,
    now: Instant,
    live: impl Fn(NodeIndex) -> bool,
) -> Vec<(u32, NodeIndex)> {
    let mut done = Vec::new();
    while let Some(batch) = schedule.next(now, &live) {
        done.extend(batch.partitions.iter().map(|partition| (*partition, batch.with)));
        finish(schedule, now, &batch, Outcome::Equal);
    }
    done
}

#[test]
fn each_pair_is_compared_once_a_period_and_by_one_side() {
    let mut seen: Vec<BTreeSet<(u32, u16, u16)>> = vec![BTreeSet::new(); 4];
    let mut count = 0;
    for me in NODES {
        let mut schedule = schedule(me);
        for second in 0..240u64 {
            for (partition, with) in run(&mut schedule, start() + Duration::from_secs(second), all)
            {
                let pair = (partition, me.0.min(with.0), me.0.max(with.0));
                count += 1;
                seen[second as usize / 60].insert(pair);
            }
        }
    }
    for period in &seen {
        assert_eq!(period.len(), 32 * 3, "every pair in every period");
    }
    assert!(count < 32 * 3 * 6, "{count}: both sides begin");
}

#[test]
fn who_is_down_is_skipped_and_comes_first_when_it_is_back() {
    let mut schedule = schedule(NODES[0]);
    let later = start() + PERIOD;
    let done = run(&mut schedule, later, |node| node != NODES[1]);
    assert!(done.iter().all(|(_, with)| *with == NODES[2]) && !done.is_empty());
    let soon = later + PERIOD * 3 / 4;
    let first = schedule.next(soon, all).unwrap();
    assert_eq!(first.with, NODES[1], "it waits longest");
}

#[test]
fn a_new_cluster_trusts_itself_after_one_exchange_with_each() {
    let mut schedule = schedule(NODES[0]);
    let doubtful: BTreeSet<u32> = (0..PARTITIONS).collect();
    schedule.doubt(start(), &doubtful, false);
    assert!(schedule.trustworthy(all).is_empty());
    let batch = schedule.next(start(), all).unwrap();
    assert!(batch.doubtful, "at once, and whoever's turn it is");
    assert_eq!(batch.partitions.len(), 32);
    finish(&mut schedule, start(), &batch, Outcome::Equal);
    assert!(schedule.trustworthy(all).is_empty(), "another one is live");
    let batch = schedule.next(start(), all).unwrap();
    finish(&mut schedule, start(), &batch, Outcome::Equal);
    assert_eq!(schedule.trustworthy(all).len(), 32);
    schedule.doubt(start(), &BTreeSet::new(), false);
    assert!(schedule.trustworthy(all).is_empty(), "nothing is in doubt");
}

#[test]
fn whoever_is_alone_trusts_nothing_and_whoever_is_down_is_not_waited_for() {
    let mut schedule = schedule(NODES[0]);
    schedule.doubt(start(), &BTreeSet::from([5]), false);
    assert!(schedule.trustworthy(|_| false).is_empty());
    let only_two = |node| node == NODES[2];
    let batch = schedule.next(start(), only_two).unwrap();
    assert_eq!((batch.with, &batch.partitions[..]), (NODES[2], &[5][..]));
    finish(&mut schedule, start(), &batch, Outcome::Equal);
    assert_eq!(schedule.trustworthy(only_two), [5]);
    assert!(schedule.trustworthy(all).is_empty(), "it came back before the partition was trusted");
}

#[test]
fn without_other_home_replicas_there_is_nobody_to_wait_for() {
    let homes = (0..2).map(|partition| (partition, vec![NODES[0]]));
    let mut schedule = Schedule::new(PERIOD, start(), NODES[0], homes);
    schedule.doubt(start(), &BTreeSet::from([0, 1]), false);
    assert_eq!(schedule.trustworthy(|_| false), [0, 1]);
    assert_eq!(schedule.next(start() + PERIOD, all), None);
}

#[test]
fn an_exchange_from_before_the_damage_ends_no_doubt() {
    let mut schedule = schedule(NODES[0]);
    schedule.doubt(start(), &BTreeSet::from([3]), false);
    let batch = schedule.next(start(), |node| node == NODES[1]).unwrap();
    let before = schedule.round();
    schedule.doubt(start(), &BTreeSet::from([3]), true);
    schedule.finished(start(), (3, NODES[1]), (before, true), Outcome::Equal);
    assert!(schedule.trustworthy(|node| node == NODES[1]).is_empty());
    // Nor does one that left something out.
    let later = start() + PERIOD;
    let again = schedule.next(later, |node| node == NODES[1]).unwrap();
    assert_eq!(batch, again);
    schedule.finished(later, (3, NODES[1]), (schedule.round(), false), Outcome::Equal);
    assert!(schedule.trustworthy(|node| node == NODES[1]).is_empty());
}

#[test]
fn failures_are_tried_again_later_and_later() {
    let mut schedule = schedule(NODES[0]);
    let only_one = |node| node == NODES[1];
    let mut now = start() + PERIOD;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let batch = schedule.next(now, only_one).unwrap();
        finish(&mut schedule, now, &batch, Outcome::Failed);
        assert_eq!(schedule.next(now, only_one), None);
        let due = schedule.due_at().filter(|at| *at > now);
        let mut next = now;
        while schedule.clone().next(next, only_one).is_none() {
            next = next + Duration::from_millis(50);
        }
        waits.push(next.since(now).as_millis());
        assert!(due.is_none() || due <= Some(next));
        now = next;
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 7500, 7500, 7500]);
}

#[test]
fn an_operator_need_not_wait() {
    let mut schedule = schedule(NODES[0]);
    run(&mut schedule, start() + PERIOD, all);
    assert!(!schedule.is_busy(all));
    let now = start() + PERIOD;
    schedule.ask(now, Some(9));
    assert!(schedule.is_busy(all));
    let mut done = run(&mut schedule, now, all);
    done.sort_unstable();
    assert_eq!(done, [(9, NODES[1]), (9, NODES[2])]);
    assert!(!schedule.is_busy(all));
    assert!(schedule.done_at(9).all(|(_, at)| at == Some(now)));
}

#[test]
fn what_left_something_out_is_looked_at_again_soon() {
    let mut schedule = schedule(NODES[0]);
    let now = start() + PERIOD;
    let batch = schedule.next(now, all).unwrap();
    finish(&mut schedule, now, &batch, Outcome::LeftOut);
    let again = schedule.next(now + Duration::from_secs(4), |node| node == batch.with).unwrap();
    assert_eq!(again, batch);
}

#[test]
fn what_a_lost_disk_held_comes_from_each_other_in_parts() {
    let mut schedule = schedule(NODES[0]);
    let doubtful: BTreeSet<u32> = (0..PARTITIONS).collect();
    schedule.doubt(start(), &doubtful, true);
    let first = schedule.next(start(), all).expect("all is in doubt");
    let second = schedule.next(start(), |node| node != first.with).expect("with the other too");
    let half = PARTITIONS as usize / 2;
    let halves = [&first.partitions[..half], &second.partitions[..half]].concat();
    assert_eq!(halves.into_iter().collect::<BTreeSet<u32>>(), doubtful, "no part comes twice");
    assert_eq!(second.partitions.iter().copied().collect::<BTreeSet<u32>>(), doubtful);
}
