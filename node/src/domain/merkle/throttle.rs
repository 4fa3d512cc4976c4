//! How fast a node exchanges: a bucket of bytes whose rate follows what clients feel.
//!
//! The rate grows by a fixed step while nobody is in the way and is halved, once a second at the most, when clients, here or at the other side,
//! wait longer than they have to (additive increase, multiplicative decrease, as for [hints](crate::domain::hint)). What a question
//! costs is known when it is answered, so the bucket may go into debt, and the next question waits until that
//! is paid: over any while no more is spent than the rate allows and one message.

use std::time::Duration;

use crate::runtime::time::Instant;

/// The rate changes at most this often.
const STEP_EVERY: Duration = Duration::from_millis(250);
/// It is halved at most this often: what clients feel is an average, in which the last halving shows no sooner.
const HALVE_EVERY: Duration = Duration::from_secs(1);
/// The bucket holds what so long a time brings.
const BURST: Duration = Duration::from_millis(100);

/// The bounds of a [`Throttle`], in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Healing never stands still: the rate does not fall below this.
    pub least: u64,
    /// Nor does it rise above this.
    pub most: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Throttle {
    limits: Limits,
    rate: f64,
    /// What may be spent; below zero: what was spent too early.
    left: f64,
    at: Instant,
    stepped_at: Instant,
    /// Not halved again before this.
    halve_at: Instant,
    crowded: bool,
}

impl Throttle {
    /// Begins in the middle of `limits`.
    ///
    /// # Panics
    /// When the least is 0 or more than the most.
    pub fn new(limits: Limits, now: Instant) -> Self {
        assert!(0 < limits.least && limits.least <= limits.most, "no rate lies in {limits:?}");
        let rate = (limits.least as f64 * limits.most as f64).sqrt();
        Self { limits, rate, left: 0.0, at: now, stepped_at: now, halve_at: now, crowded: false }
    }

    /// When the next question may be asked: `now`, or once the debt is paid.
    pub fn ready_at(&mut self, now: Instant) -> Instant {
        self.fill(now);
        if self.left >= 0.0 {
            return now;
        }
        now + Duration::from_secs_f64(-self.left / self.rate)
    }

    /// So many bytes were moved. `crowded`: clients waited longer than they have to.
    pub fn spent(&mut self, now: Instant, bytes: usize, crowded: bool) {
        self.fill(now);
        self.left -= bytes as f64;
        self.crowded |= crowded;
        if now.since(self.stepped_at) < STEP_EVERY {
            return;
        }
        let (least, most) = (self.limits.least as f64, self.limits.most as f64);
        let next = match self.crowded {
            true if now < self.halve_at => self.rate,
            true => {
                self.halve_at = now + HALVE_EVERY;
                self.rate / 2.0
            }
            false => self.rate + most / 16.0,
        };
        self.rate = next.clamp(least, most);
        (self.stepped_at, self.crowded) = (now, false);
    }

    /// Bytes a second now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    fn fill(&mut self, now: Instant) {
        let earned = now.since(self.at).as_secs_f64() * self.rate;
        self.left = (self.left + earned).min(self.rate * BURST.as_secs_f64());
        self.at = self.at.max(now);
    }
}
