//! How much of its time compaction works: all of it while nobody waits for that, less when this node's
//! own clients begin to wait longer, and all of it again when level 0 fills up.
//!
//! The share grows by a little with each step and is halved when clients wait (additive increase and
//! multiplicative decrease, as for [hints](crate::domain::hint)). The signal is how long a write with
//! sync takes: every client's write waits for one, and merging fills the same disk.
//!
//! Invariants: the share lies between [`SHARE_MIN`] and 1; a pause is at most [`PAUSE_MAX`].

use std::time::Duration;

use super::picker::LEVEL0_FULL;
use crate::domain::hint::Courtesy;
use crate::runtime::time::Instant;

/// Even while clients wait, compaction gets this: it makes their reads cheaper.
const SHARE_MIN: f64 = 0.1;
/// What a step during which nobody waits adds.
const SHARE_STEP: f64 = 0.02;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Differences up to this are noise.
const NOISE: Duration = Duration::from_millis(2);
/// A new sync weighs so much in the smoothed time.
const GAIN: f64 = 0.25;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    share: f64,
    courtesy: Courtesy,
    /// Syncs that were seen.
    syncs: u64,
    /// Seconds that they take; `None`: there were none.
    smoothed: Option<f64>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { share: 1.0, courtesy: Courtesy::new(NOISE), syncs: 0, smoothed: None }
    }

    /// How long to pause after a step that took `worked`. `sync` is how long the last write with sync
    /// took, `syncs` how many there were; `level0` is how many tables wait in level 0.
    pub(super) fn pause(
        &mut self,
        now: Instant,
        worked: Duration,
        (sync, syncs): (Duration, u64),
        level0: usize,
    ) -> Duration {
        let mut latency = None;
        if syncs != self.syncs {
            self.syncs = syncs;
            let sync = sync.as_secs_f64();
            let smoothed = self.smoothed.map_or(sync, |before| before + GAIN * (sync - before));
            self.smoothed = Some(smoothed);
            latency = Some(Duration::from_secs_f64(smoothed));
        }
        if self.courtesy.is_crowded(now, latency) {
            self.share = (self.share / 2.0).max(SHARE_MIN);
        } else {
            self.share = (self.share + SHARE_STEP).min(1.0);
        }
        if level0 >= LEVEL0_FULL {
            // Clients would wait longer still if there were no room for a flush.
            return Duration::ZERO;
        }
        worked.mul_f64(1.0 / self.share - 1.0).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKED: Duration = Duration::from_millis(10);

    /// Pauses after so many steps with syncs of `sync_ms`.
    fn steps(pace: &mut Pace, count: u64, sync_ms: u64, level0: usize) -> Duration {
        let mut pause = Duration::ZERO;
        for _ in 0..count {
            let syncs = pace.syncs + 1;
            let now = Instant::from_nanos(1_000_000_000 + syncs * 10_000_000);
            let sync = Duration::from_millis(sync_ms);
            pause = pace.pause(now, WORKED, (sync, syncs), level0);
            assert!(pause <= PAUSE_MAX);
        }
        pause
    }

    #[test]
    fn it_works_all_the_time_until_clients_wait_and_never_stops() {
        let mut pace = Pace::new();
        assert_eq!(steps(&mut pace, 20, 3, 2), Duration::ZERO);
        let crowded = steps(&mut pace, 20, 30, 2);
        assert_eq!(crowded, WORKED * 9, "a tenth of the time");
        let later = steps(&mut pace, 30, 3, 2);
        assert!(later < WORKED, "{later:?}");
        assert_eq!(steps(&mut pace, 60, 3, 2), Duration::ZERO);
    }

    #[test]
    fn a_full_level_0_does_not_wait_for_anybody() {
        let mut pace = Pace::new();
        steps(&mut pace, 20, 3, 2);
        assert_eq!(steps(&mut pace, 20, 30, LEVEL0_FULL), Duration::ZERO);
        assert!(steps(&mut pace, 1, 30, LEVEL0_FULL - 1) > Duration::ZERO);
    }

    #[test]
    fn without_clients_nobody_waits() {
        let mut pace = Pace::new();
        steps(&mut pace, 5, 3, 2);
        steps(&mut pace, 5, 30, 2);
        let (now, same) = (Instant::from_nanos(9_000_000_000), (Duration::from_millis(30), 10));
        for _ in 0..60 {
            pace.pause(now, WORKED, same, 2);
        }
        assert_eq!(pace.pause(now, WORKED, same, 2), Duration::ZERO);
    }
}
