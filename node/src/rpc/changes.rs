//! A counter that can be waited for: tokio's `watch` without a value, and without its dice.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts changes of something and wakes whoever waits for the next.
#[derive(Debug, Default)]
pub(super) struct Changes {
    version: AtomicU64,
    bell: Notify,
}

impl Changes {
    /// Changes so far.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// One more.
    pub(super) fn bump(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.bell.notify_waiters();
    }

    /// Waits until there are others than `seen`; how many.
    pub(super) async fn after(&self, seen: u64) -> u64 {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            // Listening before looking: no change falls between.
            rung.as_mut().enable();
            let version = self.version();
            if version != seen {
                return version;
            }
            rung.await;
        }
    }
}
