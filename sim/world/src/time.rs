//! Clocks and timers of the machine that asks. A pending sleep is one entry of the world's queue,
//! registered once and taken out when dropped.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::process::ProcessId;
use crate::slab::Id;
use crate::world::{self, Later, Place, World};

/// A reading of the monotonic clock: nanoseconds since an arbitrary moment before this process's
/// first reading. Never goes back. Means nothing to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The reading that is `ns` nanoseconds after the clock's origin (for tests and machines that
    /// are fed time as data).
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The time limit given to [`timeout`] or [`timeout_at`] passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// Reads the monotonic clock.
pub fn now() -> Instant {
    world::with(|w| {
        let process = w.current();
        w.instant(process)
    })
}

/// Milliseconds since the Unix epoch by this machine's wall clock. May jump either way.
pub fn wall_clock_ms() -> u64 {
    world::with(|w| {
        let machine = w.current().machine;
        w.machines[machine.0 as usize].clock.wall_ms(w.now(), w.wall_start_ms)
    })
}

/// Completes once `duration` has passed. It always yields once, as tokio's does.
pub async fn sleep(duration: Duration) {
    Sleep::until(now() + duration).await;
}

/// Completes once the monotonic clock reads `deadline` or later. It always yields once.
pub async fn sleep_until(deadline: Instant) {
    Sleep::until(deadline).await;
}

/// Runs `future` for at most `duration`, then drops it.
///
/// # Errors
/// [`Elapsed`] when the time passed first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(now() + duration, future).await
}

/// Runs `future` until `deadline` at the latest, then drops it.
///
/// # Errors
/// [`Elapsed`] when the time passed first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut limit = pin!(Sleep::until(deadline));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        limit.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// A sleep that is waiting.
pub(crate) struct Timer {
    waker: Waker,
    place: Place,
    fired: bool,
}

/// A sleep. Its timer is registered at the first poll and removed on drop.
struct Sleep {
    deadline: Instant,
    timer: Option<Id<Timer>>,
}

impl Sleep {
    const fn until(deadline: Instant) -> Self {
        Self { deadline, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        world::with(|w| {
            let process = w.current();
            if let Some(id) = self.timer {
                let timer = w.timers.get_mut(id).expect("a registered timer goes with its sleep");
                if !timer.fired {
                    if !timer.waker.will_wake(cx.waker()) {
                        timer.waker = cx.waker().clone();
                    }
                    return Poll::Pending;
                }
                w.timers.remove(id);
                self.timer = None;
                if w.instant(process) >= self.deadline {
                    return Poll::Ready(());
                }
                // The clock was slowed down meanwhile: the rest is still to come.
            }
            self.timer = Some(w.start_timer(process, self.deadline, cx));
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer {
            world::with_if(|w| {
                if let Some(timer) = w.timers.remove(id)
                    && !timer.fired
                {
                    w.cancel(timer.place);
                }
            });
        }
    }
}

/// What an [`Instant`] reads at the start of a process, so that zero is before every reading.
const HEAD_START_NS: u64 = 1_000_000_000;

impl World {
    /// The monotonic clock as `process` reads it.
    pub(crate) fn instant(&self, process: ProcessId) -> Instant {
        let machine = &self.machines[process.machine.0 as usize];
        let reading = machine.clock.monotonic(self.now());
        Instant(HEAD_START_NS + reading.saturating_sub(machine.started_reading))
    }

    fn start_timer(
        &mut self,
        process: ProcessId,
        deadline: Instant,
        cx: &Context<'_>,
    ) -> Id<Timer> {
        let machine = &self.machines[process.machine.0 as usize];
        let reading = deadline.0.saturating_sub(HEAD_START_NS);
        let at_ns = machine.clock.when(reading.saturating_add(machine.started_reading));
        let at_ns = at_ns.max(self.now() + 1);
        let waker = cx.waker().clone();
        let id = self.timers.insert(Timer { waker, place: (0, 0), fired: false });
        let place = self.schedule(at_ns, Later::Timer(id));
        self.timers.get_mut(id).expect("just inserted").place = place;
        id
    }

    pub(crate) fn timer_fired(&mut self, id: Id<Timer>) {
        if let Some(timer) = self.timers.get_mut(id) {
            timer.fired = true;
            self.wake.push(timer.waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Keep;
    use crate::world::{Config, run};

    #[test]
    fn a_sleep_is_one_entry_however_often_polled_and_none_once_dropped() {
        let config = Config { seed: 1, wall_start_ms: 0, keep_trace: Keep::Nothing };
        run(config, async {
            let waiting = || world::with(|w| w.waiting());
            let before = waiting();
            let mut sleep = Box::pin(sleep(Duration::from_secs(3_600)));
            for _ in 0..100 {
                let polled = std::future::poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx)));
                assert!(polled.await.is_pending());
                assert_eq!(waiting(), before + 1);
            }
            drop(sleep);
            assert_eq!(waiting(), before);
        });
    }
}
