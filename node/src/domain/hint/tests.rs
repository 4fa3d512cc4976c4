//! What an owner's answers do to the window.

use super::*;
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

/// An owner that answers so many ms after a hint was sent, given how many are in flight.
struct Owner {
    now: Instant,
    pacer: Pacer,
    delivered: u64,
}

impl Owner {
    fn new() -> Self {
        let pacer = Pacer::new(Limits::default());
        Self { now: at(1000), pacer, delivered: 0 }
    }

    /// Sends full windows for `span`, each answered together after `took`.
    fn run(&mut self, span: Duration, took: impl Fn(u32) -> u64, crowded: bool) {
        let until = self.now + span;
        while self.now < until {
            let mut sent = Vec::new();
            while self.pacer.may_send(self.now) {
                sent.push(self.pacer.sent(self.now));
            }
            assert!(!sent.is_empty(), "stuck: {:?}", self.pacer);
            self.now = self.now + ms(took(sent.len() as u32));
            self.delivered += sent.len() as u64;
            for sent in sent {
                self.pacer.delivered(self.now, sent, crowded);
            }
        }
    }
}

#[test]
fn a_window_grows_by_one_for_each_window_that_was_answered() {
    let mut owner = Owner::new();
    let mut windows = Vec::new();
    for _ in 0..5 {
        owner.run(ms(10), |_| 10, false);
        windows.push(owner.pacer.window());
    }
    assert_eq!(windows, [2, 2, 3, 4, 5]);
    owner.run(ms(2000), |_| 10, false);
    assert_eq!(owner.pacer.window(), 64);
}

#[test]
fn hints_are_spread_over_a_part_of_the_absence() {
    // (hints, seconds away): at least and at most so many seconds until the last one is sent.
    for (count, away, least, most) in [(30_000, 100, 29, 31), (1000, 100, 4, 6), (10, 1, 0, 1)] {
        let mut pacer = Pacer::new(Limits::default());
        pacer.spread(count, Duration::from_secs(away));
        let (mut now, mut left) = (at(1000), count);
        while left > 0 {
            while left > 0 && pacer.may_send(now) {
                let sent = pacer.sent(now);
                pacer.delivered(now, sent, false);
                left -= 1;
            }
            let due = pacer.paced_until(now);
            now = due.filter(|_| left > 0).unwrap_or(now);
        }
        let took = now.since(at(1000)).as_secs();
        assert!((least..=most).contains(&took), "{count} hints of {away} s took {took} s");
    }
}

#[test]
fn a_pace_that_was_held_up_catches_up_by_a_few() {
    let mut owner = Owner::new();
    owner.run(ms(2000), |_| 10, false);
    assert_eq!(owner.pacer.window(), 64, "the window was to leave room");
    owner.pacer.spread(1000, Duration::from_secs(1));
    owner.now = owner.now + ms(60_000);
    let mut sent = 0;
    while owner.pacer.may_send(owner.now) {
        let _flying = owner.pacer.sent(owner.now);
        sent += 1;
    }
    assert_eq!(sent, BURST + 1);
}

#[test]
fn an_owner_that_answers_slower_is_asked_less() {
    // Answers take (before, after) ms; the window is about so large in the end.
    for (before, after, low, high) in [
        (10, 10, 64, 64),
        (10, 14, 64, 64),
        // Noise, however many times the best it is.
        (1, 4, 64, 64),
        (10, 40, 1, 2),
        (1, 6, 1, 2),
        (10, 1000, 1, 2),
    ] {
        let mut owner = Owner::new();
        owner.run(ms(3000), |_| before, false);
        assert_eq!(owner.pacer.window(), 64, "{before} ms");
        owner.run(ms(after * 9), |_| after, false);
        let window = owner.pacer.window();
        assert!((low..=high).contains(&window), "{before} ms, {after} ms: {window}");
    }
}

#[test]
fn a_window_settles_where_the_owner_begins_to_queue() {
    // The owner takes 20 at once in 10 ms, and queues the others.
    let mut owner = Owner::new();
    let took = |sent: u32| 10 + 10 * u64::from(sent.saturating_sub(20)) / 10;
    owner.run(ms(3000), took, false);
    for _ in 0..50 {
        owner.run(ms(20), took, false);
        let window = owner.pacer.window();
        assert!((10..=40).contains(&window), "{window}");
    }
}

#[test]
fn an_owner_that_became_slower_for_good_is_the_new_best() {
    let mut owner = Owner::new();
    owner.run(ms(3000), |_| 10, false);
    owner.run(ms(1000), |_| 50, false);
    assert_eq!(owner.pacer.window(), 1);
    owner.run(ms(60_000), |_| 50, false);
    assert_eq!(owner.pacer.window(), 64);
}

#[test]
fn one_window_of_failures_halves_and_pauses_once() {
    let mut owner = Owner::new();
    owner.run(ms(3000), |_| 10, false);
    let (now, pacer) = (owner.now, &mut owner.pacer);
    let sent: Vec<_> = (0..40).map(|_| pacer.sent(now)).collect();
    for sent in sent {
        pacer.failed(now + ms(1), sent);
    }
    assert_eq!((pacer.window(), pacer.in_flight()), (32, 0));
    assert_eq!(pacer.paused_until(now), Some(now + ms(101)));
    assert!(!pacer.may_send(now + ms(100)));
    assert!(pacer.may_send(now + ms(101)));
}

#[test]
fn pauses_double_up_to_a_limit_and_start_anew_after_a_delivery() {
    let mut pacer = Pacer::new(Limits::default());
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let sent = pacer.sent(now);
        pacer.failed(now, sent);
        let until = pacer.paused_until(now).unwrap();
        pauses.push(until.since(now).as_millis());
        now = until;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(pacer.window(), 1);
    let sent = pacer.sent(now);
    pacer.delivered(now + ms(1), sent, false);
    let sent = pacer.sent(now + ms(1));
    pacer.failed(now + ms(1), sent);
    assert_eq!(pacer.paused_until(now + ms(1)), Some(now + ms(101)));
}

#[test]
fn a_late_success_of_before_a_failure_does_not_end_its_pause() {
    let mut owner = Owner::new();
    owner.run(ms(100), |_| 10, false);
    let (now, pacer) = (owner.now, &mut owner.pacer);
    let (first, second) = (pacer.sent(now), pacer.sent(now));
    pacer.failed(now, second);
    pacer.delivered(now + ms(1), first, false);
    assert!(!pacer.may_send(now + ms(2)));
}

#[test]
fn clients_that_wait_slow_a_replay_but_do_not_stop_it() {
    let mut owner = Owner::new();
    owner.run(ms(3000), |_| 10, false);
    owner.run(ms(100), |_| 10, true);
    assert_eq!(owner.pacer.window(), 4);
    // A window below that is not raised to it.
    let mut owner = Owner::new();
    owner.run(ms(100), |_| 10, true);
    assert_eq!(owner.pacer.window(), 1);
}

#[test]
fn clients_are_crowded_when_they_wait_half_as_long_again() {
    let mut courtesy = Courtesy::new(ms(1));
    let crowded = [
        (0, None, false),
        (1, Some(10), false),
        (2, Some(15), false),
        (3, Some(16), true),
        (4, Some(10), false),
        (5, None, false),
        (100, Some(16), true),
        // The best of a while ago is forgotten.
        (300, Some(16), false),
        (301, Some(2), false),
        (302, Some(3), false),
        (303, Some(4), true),
    ];
    for (s, latency, expected) in crowded {
        let found = courtesy.is_crowded(at(s * 1000), latency.map(ms));
        assert_eq!(found, expected, "{latency:?} at {s} s");
    }
}

#[test]
fn the_rate_says_when_it_is_done() {
    let mut owner = Owner::new();
    assert_eq!(owner.pacer.drain(owner.now, 10), None);
    // One at a time, 100 in a second.
    owner.pacer.limits.window_max = 1;
    for seconds in [1, 10] {
        owner.run(ms(seconds * 1000), |_| 10, false);
        let rate = owner.pacer.rate_per_s(owner.now);
        assert!((99.0..=105.0).contains(&rate), "{rate} after {seconds} s");
    }
    let drain = owner.pacer.drain(owner.now, 6000).unwrap();
    assert!((57..=61).contains(&drain.as_secs()), "{drain:?}");
    let later = owner.pacer.rate_per_s(owner.now + ms(5000));
    assert!((33.0..=38.0).contains(&later), "{later}");
    assert_eq!(owner.pacer.drain(owner.now + ms(120_000), 10), None);
}

proptest! {
    /// Whatever comes back in whatever order, the bounds hold and something may be sent again.
    #[test]
    fn the_window_keeps_its_bounds(
        answers in prop::collection::vec((0..3u8, 0..500u64, any::<bool>(), 0..64usize), 1..300),
    ) {
        let limits = Limits { window_max: 9, ..Limits::default() };
        let mut pacer = Pacer::new(limits);
        let mut now = at(0);
        let mut flying = Vec::new();
        for (kind, wait_ms, crowded, which) in answers {
            while pacer.may_send(now) {
                flying.push(pacer.sent(now));
                prop_assert!(flying.len() <= 9);
            }
            now = now + ms(wait_ms);
            if !flying.is_empty() {
                let sent = flying.swap_remove(which % flying.len());
                match kind {
                    0 => pacer.failed(now, sent),
                    _ => pacer.delivered(now, sent, crowded),
                }
            }
            prop_assert!((1..=9).contains(&pacer.window()));
            prop_assert_eq!(pacer.in_flight() as usize, flying.len());
            let resumed = pacer.paused_until(now).unwrap_or(now);
            prop_assert!(resumed.since(now) <= limits.pause_max);
            prop_assert!(!flying.is_empty() || pacer.may_send(resumed));
        }
    }
}
