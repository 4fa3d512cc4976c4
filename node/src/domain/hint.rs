//! How fast hints are replayed to their owner: as fast as it takes them without anybody noticing.
//!
//! A [`Pacer`] keeps a window of hints in flight to one owner. The window grows by one each time a whole
//! window was answered about as fast as the owner can, and is halved when answers take twice as long,
//! when the owner refuses or cannot be reached, and when this node's own clients begin to wait longer
//! ([`Courtesy`]). Source: Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for
//! Congestion Avoidance in Computer Networks" (1989): additive increase and multiplicative decrease
//! converge to fair shares, so several nodes that replay to one owner share what it has to spare. That
//! delay is the signal, not loss alone, is from Brakmo and Peterson, "TCP Vegas" (1995).
//!
//! ```text
//! window  ▲        ╱│      ╱│        grows by 1 a window while answers come at their best
//!         │   ╱│  ╱ │  ╱│ ╱ │  ╱     halves when they take twice that, at most once a window
//!         │  ╱ │ ╱  │ ╱ │╱  │ ╱
//!         └──────────────────────▶   after a failure: a pause of 100 ms, 200 ms, … 5 s as well
//! ```
//!
//! Invariants: the window lies between 1 and its limit; never more is in flight than the window was
//! when it was sent; one window of bad answers counts once.

use std::time::Duration;

use crate::runtime::time::Instant;

/// The best answer is looked for in the last one to two of these.
const BEST_SPAN: Duration = Duration::from_secs(10);
/// The best latency of clients is looked for in the last one to two of these. Longer, since a replay
/// that lasts should not become what it is measured by.
const COURTESY_SPAN: Duration = Duration::from_secs(60);
/// A new answer weighs so much in the smoothed time.
const GAIN: f64 = 0.25;
/// Deliveries count for the rate over about so long.
const RATE_SPAN_S: f64 = 5.0;

/// The bounds of a [`Pacer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that is ever in flight; at least 1.
    pub window_max: u32,
    /// Waiting clients alone do not bring the window below this: an owner that came back must catch
    /// up some day.
    pub crowded_window: u32,
    /// The pause after a first failure; it doubles with each that follows.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Differences up to this are noise: a sync, a timer, a scheduler.
    pub noise: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window_max: 64,
            crowded_window: 4,
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            noise: Duration::from_millis(4),
        }
    }
}

/// One hint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    number: u64,
    at: Instant,
}

/// How many hints may be in flight to one owner. See the module.
#[derive(Clone, Debug)]
pub struct Pacer {
    limits: Limits,
    window: f64,
    in_flight: u32,
    /// The number of the next send.
    next: u64,
    /// Sends before this one are of a window that was full: only such a window shows that a larger one
    /// would do.
    full_before: u64,
    /// Sends before this one are from before the last cut: they have had their say.
    cut_at: u64,
    best: Best,
    /// Seconds that answers take now; `None`: not known since the last cut.
    smoothed: Option<f64>,
    /// Failures in a row, one a window.
    failures: u32,
    resume_at: Option<Instant>,
    rate: Rate,
}

impl Pacer {
    /// A pacer that begins with one hint at a time.
    ///
    /// # Panics
    /// When `limits` allow nothing in flight, or the longest pause is shorter than the first.
    pub fn new(limits: Limits) -> Self {
        assert!(limits.window_max > 0, "a window of nothing sends nothing");
        assert!(limits.pause_min <= limits.pause_max, "the first pause is the shortest");
        Self {
            limits,
            window: 1.0,
            in_flight: 0,
            next: 0,
            full_before: 0,
            cut_at: 0,
            best: Best::new(BEST_SPAN),
            smoothed: None,
            failures: 0,
            resume_at: None,
            rate: Rate::default(),
        }
    }

    /// True when another hint may be sent now.
    pub fn may_send(&self, now: Instant) -> bool {
        self.in_flight < self.window() && self.paused_until(now).is_none()
    }

    /// When the pause ends; `None`: there is none.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.resume_at.filter(|&at| now < at)
    }

    /// How many may be in flight.
    pub fn window(&self) -> u32 {
        self.window as u32
    }

    /// How many are.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// A hint is sent. Give the value back with its answer.
    ///
    /// # Panics
    /// When it [may not](Self::may_send) be.
    pub fn sent(&mut self, now: Instant) -> Sent {
        assert!(self.may_send(now), "{} in flight, window {}", self.in_flight, self.window);
        self.in_flight += 1;
        self.next += 1;
        if self.in_flight == self.window() {
            self.full_before = self.next;
        }
        Sent { number: self.next - 1, at: now }
    }

    /// The owner has it. `crowded`: this node's clients wait longer than they should.
    pub fn delivered(&mut self, now: Instant, sent: Sent, crowded: bool) {
        self.land();
        self.rate.count(now);
        let took = now.since(sent.at);
        self.best.see(now, took);
        if sent.number < self.cut_at {
            return;
        }
        (self.failures, self.resume_at) = (0, None);
        let took = took.as_secs_f64();
        let smoothed = self.smoothed.map_or(took, |before| before + GAIN * (took - before));
        self.smoothed = Some(smoothed);
        let best = self.best.get().map_or(took, |best| best.as_secs_f64());
        let noise = self.limits.noise.as_secs_f64();
        if smoothed > (2.0 * best).max(best + noise) {
            self.cut(1.0);
        } else if crowded {
            self.cut(f64::from(self.limits.crowded_window).min(self.window));
        } else if sent.number < self.full_before && smoothed <= (1.5 * best).max(best + noise / 2.0)
        {
            self.window = (self.window + 1.0 / self.window).min(f64::from(self.limits.window_max));
        }
    }

    /// The owner refused it, did not answer in time, or cannot be reached.
    pub fn failed(&mut self, now: Instant, sent: Sent) {
        self.land();
        if sent.number < self.cut_at {
            return;
        }
        self.cut(1.0);
        let pause =
            self.limits.pause_min.saturating_mul(2u32.saturating_pow(self.failures.min(16)));
        self.resume_at = Some(now + pause.min(self.limits.pause_max));
        self.failures = self.failures.saturating_add(1);
    }

    /// Hints delivered in a second, lately.
    pub fn rate_per_s(&self, now: Instant) -> f64 {
        self.rate.per_s(now)
    }

    /// How long `left` hints take at this rate; `None`: nothing was delivered lately.
    pub fn drain(&self, now: Instant, left: u64) -> Option<Duration> {
        let rate = self.rate_per_s(now);
        // Slower than one in 1,000 s is no rate to go by.
        (rate > 0.001).then(|| Duration::from_secs_f64(left as f64 / rate))
    }

    fn land(&mut self) {
        assert!(self.in_flight > 0, "an answer to nothing");
        self.in_flight -= 1;
    }

    fn cut(&mut self, floor: f64) {
        self.window = (self.window / 2.0).max(floor);
        self.cut_at = self.next;
        self.smoothed = None;
    }
}

/// Tells whether this node's clients wait longer than they have to: half as long again as at their
/// best in the last minute or two.
#[derive(Clone, Debug)]
pub struct Courtesy {
    best: Best,
    noise: Duration,
}

impl Courtesy {
    /// One that takes differences up to `noise` for nothing.
    pub fn new(noise: Duration) -> Self {
        Self { best: Best::new(COURTESY_SPAN), noise }
    }

    /// True when clients wait too long: `latency` is what their requests take now, smoothed; `None`:
    /// there are none.
    pub fn is_crowded(&mut self, now: Instant, latency: Option<Duration>) -> bool {
        let Some(latency) = latency else { return false };
        self.best.see(now, latency);
        let best = self.best.get().unwrap_or(latency);
        latency > (best * 3 / 2).max(best + self.noise)
    }
}

/// The shortest of the durations seen in the last one to two spans, so that it forgets.
#[derive(Clone, Debug)]
struct Best {
    span: Duration,
    since: Instant,
    current: Option<Duration>,
    before: Option<Duration>,
}

impl Best {
    fn new(span: Duration) -> Self {
        Self { span, since: Instant::default(), current: None, before: None }
    }

    fn see(&mut self, now: Instant, took: Duration) {
        let age = now.since(self.since);
        if self.current.is_none() || age >= self.span {
            self.before = self.current.take().filter(|_| age < self.span * 2);
            self.since = now;
        }
        self.current = Some(self.current.map_or(took, |best| best.min(took)));
    }

    fn get(&self) -> Option<Duration> {
        self.current.into_iter().chain(self.before).min()
    }
}

/// Events in a second, the recent ones weighing most.
#[derive(Clone, Debug, Default)]
struct Rate {
    /// Since when it counts; `None`: nothing has happened yet.
    since: Option<Instant>,
    at: Instant,
    /// Each event weighs 1 when it happens and e times less with each span.
    weight: f64,
}

impl Rate {
    fn count(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.weight = self.weight_at(now) + 1.0;
        (self.since, self.at) = (Some(since), now);
    }

    fn weight_at(&self, now: Instant) -> f64 {
        self.weight * (-now.since(self.at).as_secs_f64() / RATE_SPAN_S).exp()
    }

    fn per_s(&self, now: Instant) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        // So much would an event each second have weighed by now. Not less than a tenth of a second,
        // so that the first few events promise nothing.
        let age = now.since(since).as_secs_f64().max(0.1);
        let whole = RATE_SPAN_S * (1.0 - (-age / RATE_SPAN_S).exp());
        self.weight_at(now) / whole
    }
}

#[cfg(test)]
mod tests {
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
}
