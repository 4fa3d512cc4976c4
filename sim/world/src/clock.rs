//! A clock per machine: drift moves both of its hands, a step only the wall clock.
//!
//! The monotonic hand never goes back; a process reads it from its own start. The wall clock is
//! the run's start plus the monotonic hand plus all steps so far.

use crate::process::MachineId;
use crate::world;

/// Moves the wall clock of a machine by `delta_ms`, as an administrator or NTP would.
pub fn step(machine: MachineId, delta_ms: i64) {
    world::with(|w| {
        w.machines[machine.0 as usize].clock.offset_ms += delta_ms;
        w.emit_of_machine(machine, "clock_step", delta_ms.cast_unsigned(), 0);
    });
}

/// From now on the clocks of a machine run `ppm` millionths fast (negative: slow).
///
/// # Panics
/// When `ppm` is outside ±100,000: a clock that is off by a tenth is broken, not drifting.
pub fn drift(machine: MachineId, ppm: i32) {
    assert!(ppm.abs() <= 100_000, "drift of {ppm} ppm: at most 100,000 either way");
    world::with(|w| {
        let now = w.now();
        w.machines[machine.0 as usize].clock.set_drift(now, ppm);
        w.emit_of_machine(machine, "clock_drift", i64::from(ppm).cast_unsigned(), 0);
    });
}

/// The two hands of a machine's clock, as a piecewise linear function of simulated time.
#[derive(Debug)]
pub(crate) struct Clock {
    ppm: i64,
    /// Simulated time of the last change of drift, and what the monotonic hand read then.
    since: (u64, u64),
    offset_ms: i64,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { ppm: 0, since: (0, 0), offset_ms: 0 }
    }

    /// Nanoseconds on the monotonic hand at simulated time `now`.
    pub(crate) fn monotonic(&self, now: u64) -> u64 {
        let passed = i128::from(now - self.since.0);
        let ticked = passed * i128::from(1_000_000 + self.ppm) / 1_000_000;
        self.since.1 + u64::try_from(ticked).expect("drift is bounded, so the hand moves forward")
    }

    /// The simulated time at which the monotonic hand reads `reading` or just past it.
    pub(crate) fn when(&self, reading: u64) -> u64 {
        let ticks = i128::from(reading.saturating_sub(self.since.1));
        let passed = (ticks * 1_000_000) / i128::from(1_000_000 + self.ppm);
        let exact = if self.ppm == 0 { passed } else { passed + 1 };
        self.since.0.saturating_add(u64::try_from(exact).unwrap_or(u64::MAX))
    }

    /// Milliseconds since the Unix epoch on the wall clock.
    pub(crate) fn wall_ms(&self, now: u64, start_ms: u64) -> u64 {
        (start_ms + self.monotonic(now) / 1_000_000).saturating_add_signed(self.offset_ms)
    }

    fn set_drift(&mut self, now: u64, ppm: i32) {
        self.since = (now, self.monotonic(now));
        self.ppm = i64::from(ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_bends_the_hand_and_never_turns_it_back() {
        let mut clock = Clock::new();
        clock.set_drift(1_000_000_000, 500);
        assert_eq!(clock.monotonic(1_000_000_000), 1_000_000_000);
        assert_eq!(clock.monotonic(2_000_000_000), 2_000_500_000);
        clock.set_drift(2_000_000_000, -500);
        assert_eq!(clock.monotonic(2_000_000_000), 2_000_500_000);
        assert_eq!(clock.monotonic(3_000_000_000), 3_000_000_000);
        for reading in [2_000_500_001, 2_700_000_003, 9_999_999_999] {
            let when = clock.when(reading);
            assert!(clock.monotonic(when) >= reading, "{reading} not reached at {when}");
            assert!(clock.monotonic(when - 2) < reading, "{when} is late for {reading}");
        }
    }

    #[test]
    fn a_step_moves_the_wall_clock_alone() {
        let mut clock = Clock::new();
        clock.offset_ms = -2_000;
        assert_eq!(clock.wall_ms(5_000_000_000, 1_000_000), 1_003_000);
        assert_eq!(clock.monotonic(5_000_000_000), 5_000_000_000);
    }
}
