//! How fast a node exchanges: a bucket of bytes whose rate follows what clients feel.
//!
//! The rate grows by a fixed step while nobody is in the way and is halved, once a second at the most, when clients, here or at the other side,
//! wait longer than they have to (additive increase, multiplicative decrease, as for [hints](crate::domain::hint)). What a question
//! costs is known when it is answered, so the bucket may go into debt, and the next question waits until that
//! is paid: over any while no more is spent than the rate allows and the messages under way.
//!
//! Questions take turns: each reserves what a full message costs until its own cost is known, so that those that wait
//! for the same debt come one after the other. All at once, their answers would be worked on in one burst, and
//! clients would wait behind it.

use std::time::Duration;

use super::message::OBJECTS_BYTES;
use crate::runtime::time::Instant;

/// The rate changes at most this often.
const STEP_EVERY: Duration = Duration::from_millis(250);
/// It is halved at most this often: what clients feel is an average, in which the last halving shows no sooner.
const HALVE_EVERY: Duration = Duration::from_secs(1);
/// The bucket holds what so long a time brings.
const BURST: Duration = Duration::from_millis(5);
/// Nor does a turn reserve more than this brings: at low rates messages are small more often than not.
const TURN_MAX: Duration = Duration::from_millis(10);

/// The bounds of a [`Throttle`], in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Healing never stands still: the rate does not fall below this.
    pub least: u64,
    /// Nor does it rise above this.
    pub most: u64,
}

/// When a question may be asked.
#[derive(Clone, Copy, Debug)]
#[must_use = "what it reserved is given back by `spent`"]
pub struct Turn {
    /// Not before this.
    pub at: Instant,
    reserved: f64,
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
    /// What the last step found.
    slowed: bool,
}

impl Throttle {
    /// Begins in the middle of `limits`.
    ///
    /// # Panics
    /// When the least is 0 or more than the most.
    pub fn new(limits: Limits, now: Instant) -> Self {
        assert!(0 < limits.least && limits.least <= limits.most, "no rate lies in {limits:?}");
        let rate = (limits.least as f64 * limits.most as f64).sqrt();
        Self {
            limits,
            rate,
            left: 0.0,
            at: now,
            stepped_at: now,
            halve_at: now,
            crowded: false,
            slowed: false,
        }
    }

    /// The next question's turn: now, or once the debt is paid.
    pub fn turn(&mut self, now: Instant) -> Turn {
        self.fill(now);
        let wait = (-self.left / self.rate).max(0.0);
        let reserved = (self.rate * TURN_MAX.as_secs_f64()).min(OBJECTS_BYTES as f64);
        self.left -= reserved;
        Turn { at: now + Duration::from_secs_f64(wait), reserved }
    }

    /// In this turn so many bytes were moved. `crowded`: clients waited longer than they have to. A turn of which this is never
    /// said, since its question failed, costs what it reserved.
    pub fn spent(&mut self, now: Instant, turn: Turn, bytes: usize, crowded: bool) {
        self.fill(now);
        self.left += turn.reserved - bytes as f64;
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
        self.slowed = std::mem::take(&mut self.crowded);
        self.stepped_at = now;
    }

    /// Bytes a second now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// True while clients hold it back, as far as was known when something was last moved.
    pub fn is_slowed(&self) -> bool {
        self.slowed
    }

    fn fill(&mut self, now: Instant) {
        let earned = now.since(self.at).as_secs_f64() * self.rate;
        self.left = (self.left + earned).min(self.rate * BURST.as_secs_f64());
        self.at = self.at.max(now);
    }
}
