//! Clocks and timers of the operating system.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

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

fn origin() -> tokio::time::Instant {
    static ORIGIN: OnceLock<tokio::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(tokio::time::Instant::now)
}

/// Reads the monotonic clock.
pub fn now() -> Instant {
    let elapsed = tokio::time::Instant::now().duration_since(origin());
    // One second of head start, so that `Instant::from_nanos(0)` is before every reading.
    Instant(1_000_000_000 + u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX / 2))
}

/// Milliseconds since the Unix epoch by this machine's wall clock. May jump either way.
pub fn wall_clock_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn to_tokio(at: Instant) -> tokio::time::Instant {
    origin() + Duration::from_nanos(at.0.saturating_sub(1_000_000_000))
}

/// Completes once `duration` has passed. Resolution is one millisecond in the real world.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Completes once the monotonic clock reads `deadline` or later.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(to_tokio(deadline)).await;
}

/// Runs `future` for at most `duration`, then drops it.
///
/// # Errors
/// [`Elapsed`] when the time passed first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(duration, future).await.map_err(|_| Elapsed)
}

/// Runs `future` until `deadline` at the latest, then drops it.
///
/// # Errors
/// [`Elapsed`] when the time passed first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout_at(to_tokio(deadline), future).await.map_err(|_| Elapsed)
}
