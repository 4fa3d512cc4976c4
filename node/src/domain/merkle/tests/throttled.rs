//! How fast: no faster than the rate, slower while clients wait, never standing still.

use std::time::Duration;

use crate::domain::merkle::throttle::{Limits, Throttle};
use crate::runtime::time::Instant;

const LIMITS: Limits = Limits { least: 1_000, most: 64_000 };

/// Spends in questions of `bytes` for `seconds`; how much that was.
fn spend(
    throttle: &mut Throttle,
    mut now: Instant,
    seconds: u64,
    bytes: usize,
    crowded: bool,
) -> u64 {
    let (end, mut spent) = (now + Duration::from_secs(seconds), 0);
    loop {
        let turn = throttle.turn(now);
        now = turn.at.max(now) + Duration::from_millis(1);
        if now > end {
            return spent;
        }
        spent += bytes as u64;
        throttle.spent(now, turn, bytes, crowded);
    }
}

#[test]
fn it_rises_to_the_most_and_spends_no_more() {
    let start = Instant::from_nanos(1);
    let mut throttle = Throttle::new(LIMITS, start);
    spend(&mut throttle, start, 10, 500, false);
    assert!((throttle.rate() - 64_000.0).abs() < 1.0, "{}", throttle.rate());
    let later = start + Duration::from_secs(10);
    let spent = spend(&mut throttle, later, 10, 500, false);
    assert!((600_000..=650_000).contains(&spent), "{spent}");
}

#[test]
fn clients_that_wait_slow_it_down_but_never_stop_it() {
    let start = Instant::from_nanos(1);
    let mut throttle = Throttle::new(LIMITS, start);
    assert!(!throttle.is_slowed());
    spend(&mut throttle, start, 20, 500, true);
    assert!(throttle.is_slowed());
    assert!((throttle.rate() - 1_000.0).abs() < 1.0, "{}", throttle.rate());
    let spent = spend(&mut throttle, start + Duration::from_secs(20), 10, 500, true);
    assert!((9_000..=11_000).contains(&spent), "{spent}");
    spend(&mut throttle, start + Duration::from_secs(30), 2, 500, false);
    assert!(!throttle.is_slowed());
}

#[test]
fn one_bad_moment_halves_it_once() {
    let start = Instant::from_nanos(1);
    let mut throttle = Throttle::new(LIMITS, start);
    spend(&mut throttle, start, 10, 500, false);
    let bad = start + Duration::from_secs(10);
    spend(&mut throttle, bad, 1, 500, true);
    assert!((throttle.rate() - 32_000.0).abs() < 1.0, "{}", throttle.rate());
    spend(&mut throttle, bad + Duration::from_secs(1), 1, 500, true);
    assert!((throttle.rate() - 16_000.0).abs() < 1.0, "{}", throttle.rate());
}

#[test]
fn a_large_message_is_paid_for_before_the_next() {
    let start = Instant::from_nanos(1);
    let mut throttle = Throttle::new(Limits { least: 1_000, most: 1_000 }, start);
    let turn = throttle.turn(start);
    assert_eq!(turn.at, start);
    throttle.spent(start, turn, 5_000, false);
    let ready = throttle.turn(start).at.since(start);
    assert!((4.9..=5.1).contains(&ready.as_secs_f64()), "{ready:?}");
}

#[test]
fn who_waits_for_the_same_debt_takes_turns() {
    let start = Instant::from_nanos(1);
    let rate = 64 << 20;
    let mut throttle = Throttle::new(Limits { least: rate, most: rate }, start);
    let turns: Vec<_> = (0..8).map(|_| throttle.turn(start)).collect();
    for (at, turn) in turns.iter().enumerate() {
        // 64 KiB each, at 64 MiB a second.
        let wait = turn.at.since(start).as_secs_f64() * 1_024.0;
        assert!((wait - at as f64).abs() < 0.01, "turn {at} after {wait} / 1,024 s");
    }
    // What was small gives the rest back: as if only 8 KiB had been reserved.
    for turn in turns {
        throttle.spent(start, turn, 1 << 10, false);
    }
    let wait = throttle.turn(start).at.since(start).as_secs_f64() * 1_024.0;
    assert!((wait - 0.125).abs() < 0.01, "{wait} / 1,024 s");
}
