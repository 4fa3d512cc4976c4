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
        let ready = throttle.ready_at(now);
        now = ready.max(now) + Duration::from_millis(1);
        if now > end {
            return spent;
        }
        spent += bytes as u64;
        throttle.spent(now, bytes, crowded);
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
    spend(&mut throttle, start, 20, 500, true);
    assert!((throttle.rate() - 1_000.0).abs() < 1.0, "{}", throttle.rate());
    let spent = spend(&mut throttle, start + Duration::from_secs(20), 10, 500, true);
    assert!((9_000..=11_000).contains(&spent), "{spent}");
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
    assert_eq!(throttle.ready_at(start), start);
    throttle.spent(start, 5_000, false);
    let ready = throttle.ready_at(start).since(start);
    assert!((4.9..=5.1).contains(&ready.as_secs_f64()), "{ready:?}");
}
