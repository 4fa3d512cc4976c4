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
//! Nor is it in more of a hurry than it has to be ([`Pacer::spread`]): an owner that was away for ten minutes
//! gets what it missed within about three. A window alone would fill whatever the owner has to spare, and
//! a disk that is busy to the brim makes clients wait long before its average says so.
//!
//! Invariants: the window lies between 1 and its limit; never more is in flight than the window was
//! when it was sent; one window of bad answers counts once; never more is sent than the pace says, but for
//! a few that were held up.

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

/// The share of an owner's absence in which it gets back what it missed.
const SPREAD: f64 = 0.3;
/// A pace is never slower than so many hints in a second: a short absence is over soon.
const PACE_MIN_PER_S: f64 = 200.0;
/// So many may be sent at once when the pace allowed them earlier.
const BURST: u32 = 4;

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
    /// Time from one hint to the next; zero: as soon as the window allows.
    gap: Duration,
    /// The pace allows the next one from here on.
    next_at: Instant,
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
            gap: Duration::ZERO,
            next_at: Instant::default(),
            rate: Rate::default(),
        }
    }

    /// From now on `count` hints are spread over a part of the time that their owner was `away`.
    pub fn spread(&mut self, count: u64, away: Duration) {
        let seconds = (away.as_secs_f64() * SPREAD).max(f64::MIN_POSITIVE);
        let per_s = (count as f64 / seconds).max(PACE_MIN_PER_S);
        self.gap = Duration::from_secs_f64(1.0 / per_s);
    }

    /// True when another hint may be sent now.
    pub fn may_send(&self, now: Instant) -> bool {
        self.in_flight < self.window()
            && self.paused_until(now).is_none()
            && self.paced_until(now).is_none()
    }

    /// When the pace allows another hint that the window allows already; `None`: now, or the window is full.
    pub fn paced_until(&self, now: Instant) -> Option<Instant> {
        (self.in_flight < self.window() && now < self.next_at).then_some(self.next_at)
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
        let held_up_ns = (self.gap * BURST).as_nanos() as u64;
        let earliest = Instant::from_nanos(now.as_nanos().saturating_sub(held_up_ns));
        self.next_at = self.next_at.max(earliest) + self.gap;
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

/// True when clients of any kind wait too long: one [`Courtesy`] and one latency for each kind.
pub fn is_crowded(
    kinds: &mut [Courtesy],
    now: Instant,
    latencies: impl IntoIterator<Item = Option<Duration>>,
) -> bool {
    let mut crowded = false;
    for (courtesy, latency) in kinds.iter_mut().zip(latencies) {
        // Each is shown its latency, whatever the others say.
        crowded |= courtesy.is_crowded(now, latency);
    }
    crowded
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
mod tests;
