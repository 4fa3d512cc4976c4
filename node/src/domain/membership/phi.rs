//! The rhythm of a member's heartbeats as it is heard here, and how long a silence is strange.
//!
//! Phi accrual (Hayashibara et al., "The φ accrual failure detector", 2004): the times between
//! advances of the heartbeat are kept, at most `GAPS_MAX` of them; phi of a silence is
//! -log10 of the chance of one at least as long. A member is suspect when phi passes the threshold.
//!
//! The gaps are taken as normal, as the paper does, and not as exponential (as Cassandra does). An
//! exponential knows the mean alone. A heartbeat comes every interval, more or less, so its gaps
//! bunch around the mean: with the same threshold of 8 the exponential waits 18 times the mean and the
//! normal 1 + 5.2 deviations. The tail of the normal is the usual logistic approximation (Akka's),
//! whose inverse is found once, when the rule is set: then a silence is compared with a patience.
//!
//! Floors: the mean counts as one interval at least, the deviation as [`DEVIATION_MIN`] intervals, and
//! as [`DEVIATION_MIN_EARLY`] while there are few gaps. Without them a very regular member would be
//! suspected for one lost datagram. A gap counts at most as three intervals or twice the mean,
//! whichever is more: so one pause does not blunt the detector for the next half minute, and a truly
//! slower rhythm is still learned.

use std::time::Duration;

use super::member::Rule;
use crate::runtime::time::Instant;

/// Gaps that are kept of each member.
const GAPS_MAX: usize = 32;
/// The least deviation, in intervals. With a threshold of 8 a member of steady rhythm is asked after
/// a silence of 3.1 intervals: just after a pause of 3 s would have shown itself with two lost beats.
const DEVIATION_MIN: f64 = 0.4;
/// The least deviation, in intervals, until `GAPS_EARLY` gaps are known.
const DEVIATION_MIN_EARLY: f64 = 0.8;
const GAPS_EARLY: usize = 8;
/// A gap counts as so many intervals at most, or as twice the mean.
const GAP_INTERVALS_MAX: u32 = 3;
/// A gap counts as so long at most, in µs: about a minute. Keeps sums of squares far from overflow.
const GAP_US_MAX: u32 = 1 << 26;
/// The patience with a member that was never heard, in intervals: others may just be starting.
const PATIENCE_UNHEARD: u32 = 6;

/// When one member was heard.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    /// The latest gaps in µs, a ring.
    gaps: Vec<u32>,
    oldest: usize,
    sum: u64,
    squares: u64,
    /// When it was heard last; when it was learned, if it was never heard.
    pub(super) last: Instant,
    /// Whether it was ever heard.
    pub(super) heard: bool,
}

impl Rhythm {
    /// Of a member that was just learned.
    pub(super) fn new(now: Instant) -> Self {
        Self { gaps: Vec::new(), oldest: 0, sum: 0, squares: 0, last: now, heard: false }
    }

    /// It was heard, after a gap that says nothing of its rhythm: a restart, or an answer.
    pub(super) fn heard_apart(&mut self, now: Instant) {
        self.last = self.last.max(now);
        self.heard = true;
    }

    /// Its heartbeat advanced.
    pub(super) fn advance(&mut self, now: Instant, detector: &Detector) {
        if self.heard {
            let mean = self.sum / (self.gaps.len().max(1) as u64);
            let most = u64::from(detector.interval_us) * u64::from(GAP_INTERVALS_MAX);
            let most = most.max(mean * 2).min(u64::from(GAP_US_MAX));
            let gap = u64::try_from(now.since(self.last).as_micros()).unwrap_or(u64::MAX).min(most);
            self.push(u32::try_from(gap).unwrap_or(GAP_US_MAX));
        }
        self.heard_apart(now);
    }

    /// This process was paused so long: nothing could be heard then.
    pub(super) fn shift(&mut self, pause: Duration) {
        self.last = self.last + pause;
    }

    fn push(&mut self, gap: u32) {
        let square = |gap: u32| u64::from(gap) * u64::from(gap);
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        } else {
            let old = std::mem::replace(&mut self.gaps[self.oldest], gap);
            self.oldest = (self.oldest + 1) % GAPS_MAX;
            self.sum -= u64::from(old);
            self.squares -= square(old);
        }
        self.sum += u64::from(gap);
        self.squares += square(gap);
    }

    /// Mean and deviation in µs, with their floors.
    fn shape(&self, interval_us: u32) -> (f64, f64) {
        let interval = f64::from(interval_us);
        let least = if self.gaps.len() < GAPS_EARLY { DEVIATION_MIN_EARLY } else { DEVIATION_MIN }
            * interval;
        if self.gaps.is_empty() {
            return (interval, least);
        }
        let n = self.gaps.len() as f64;
        let mean = self.sum as f64 / n;
        let variance = (self.squares as f64 / n - mean * mean).max(0.0);
        (mean.max(interval), variance.sqrt().max(least))
    }
}

/// The rule in a form that is quick to apply.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    rule: Rule,
    interval: Duration,
    interval_us: u32,
    /// How many deviations beyond the mean phi reaches the threshold.
    deviations: f64,
}

impl Detector {
    /// The rule, for heartbeats that come every `interval`.
    pub(super) fn new(rule: Rule, interval: Duration) -> Self {
        let interval_us = u32::try_from(interval.as_micros()).unwrap_or(GAP_US_MAX);
        let interval_us = interval_us.clamp(1, GAP_US_MAX);
        let deviations = match rule {
            Rule::Phi { threshold } => deviations_of(threshold),
            Rule::Count { .. } => 0.0,
        };
        Self { rule, interval, interval_us, deviations }
    }

    /// How long a silence of this member is taken calmly.
    pub(super) fn patience(&self, rhythm: &Rhythm) -> Duration {
        if !rhythm.heard {
            return self.interval * PATIENCE_UNHEARD;
        }
        match self.rule {
            Rule::Phi { .. } => {
                let (mean, deviation) = rhythm.shape(self.interval_us);
                Duration::from_micros((mean + self.deviations * deviation) as u64)
            }
            Rule::Count { missed } => self.interval * missed.max(1),
        }
    }

    /// Phi of the present silence; 0 for a member that was never heard.
    pub(super) fn phi(&self, rhythm: &Rhythm, now: Instant) -> f64 {
        if !rhythm.heard {
            return 0.0;
        }
        let (mean, deviation) = rhythm.shape(self.interval_us);
        phi_of((now.since(rhythm.last).as_micros() as f64 - mean) / deviation)
    }
}

/// Phi of a silence so many deviations beyond the mean. Grows with its argument, without bound.
fn phi_of(deviations: f64) -> f64 {
    // ln(e^-x / (1 + e^-x)) with x below, written so that it neither overflows nor rounds to 0.
    let x = deviations * (1.5976 + 0.070566 * deviations * deviations);
    let ln_tail = if x > 0.0 { -x - (-x).exp().ln_1p() } else { -(x.exp().ln_1p()) };
    -ln_tail / std::f64::consts::LN_10
}

/// The inverse of [`phi_of`], by bisection.
fn deviations_of(threshold: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 40.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if phi_of(middle) < threshold { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn heard_every(gaps_ms: &[u64]) -> (Rhythm, u64) {
        let detector = Detector::new(Rule::Phi { threshold: 8.0 }, Duration::from_secs(1));
        let mut rhythm = Rhythm::new(at(0));
        let mut now = 0;
        for gap in [0].iter().chain(gaps_ms) {
            now += gap;
            rhythm.advance(at(now), &detector);
        }
        (rhythm, now)
    }

    #[test]
    fn phi_grows_and_its_inverse_fits() {
        let mut last = 0.0;
        for step in -30..300 {
            let phi = phi_of(f64::from(step) / 10.0);
            assert!(phi > last, "{step}: {phi} after {last}");
            last = phi;
        }
        for threshold in [0.5, 1.0, 3.0, 8.0, 12.0, 100.0] {
            assert!((phi_of(deviations_of(threshold)) - threshold).abs() < 1e-6, "{threshold}");
        }
        // The normal's own tail: 1 in 741 beyond three deviations.
        assert!((phi_of(3.0) - 741f64.log10()).abs() < 0.05, "{}", phi_of(3.0));
    }

    #[test]
    fn patience_follows_the_rhythm_between_its_bounds() {
        let phi = Detector::new(Rule::Phi { threshold: 8.0 }, Duration::from_secs(1));
        let count = Detector::new(Rule::Count { missed: 3 }, Duration::from_secs(1));
        // (gaps in ms, least and most patience in ms)
        let uneven: Vec<u64> = (0..40).map(|i| if i % 2 == 0 { 400 } else { 1_800 }).collect();
        let one_pause: Vec<u64> = (0..40).map(|i| if i == 30 { 60_000 } else { 1_000 }).collect();
        let table = [
            (vec![1_000; 40], 2_950, 3_300),
            (vec![100; 40], 2_950, 3_300),
            (vec![1_000; 4], 4_900, 5_400),
            (vec![3_000; 60], 4_950, 5_300),
            (uneven, 4_400, 5_000),
            (one_pause, 2_950, 3_500),
        ];
        for (gaps, least, most) in table {
            let (rhythm, now) = heard_every(&gaps);
            let patience = phi.patience(&rhythm).as_millis();
            assert!((least..=most).contains(&patience), "{gaps:?}: {patience}");
            assert_eq!(count.patience(&rhythm), Duration::from_secs(3));
            // Patience and phi are the same rule, said in two ways.
            let edge = at(now) + phi.patience(&rhythm);
            assert!((phi.phi(&rhythm, edge) - 8.0).abs() < 0.01, "{gaps:?}");
        }
    }

    #[test]
    fn the_window_is_bounded_and_forgets() {
        let slow: Vec<u64> = [vec![2_500; 100], vec![1_000; GAPS_MAX]].concat();
        let (rhythm, _) = heard_every(&slow);
        assert_eq!(rhythm.gaps.len(), GAPS_MAX);
        assert_eq!(rhythm.sum, 1_000_000 * GAPS_MAX as u64);
        assert_eq!(rhythm.squares, 1_000_000_000_000 * GAPS_MAX as u64);
    }

    #[test]
    fn no_time_or_rule_breaks_it() {
        for rule in [
            Rule::Phi { threshold: f64::NAN },
            Rule::Phi { threshold: -1.0 },
            Rule::Phi { threshold: f64::INFINITY },
            Rule::Count { missed: u32::MAX },
            Rule::Count { missed: 0 },
        ] {
            for interval in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(86_400)]
            {
                let detector = Detector::new(rule, interval);
                let mut rhythm = Rhythm::new(at(5));
                for ms in [5, 1, u64::MAX / 1_000_000, 7] {
                    rhythm.advance(at(ms), &detector);
                    assert!(detector.phi(&rhythm, at(9)) >= 0.0);
                    rhythm.shift(detector.patience(&rhythm));
                }
            }
        }
    }
}
