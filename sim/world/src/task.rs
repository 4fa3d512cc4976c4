//! Tasks of the process that spawns them, on madsim's executor, which picks the next ready one at
//! random. A panic in any task ends the run.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::Rng as _;

pub use madsim::task::yield_now;

use crate::time;
use crate::world;

/// A task was aborted, or its process is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("task was aborted")]
pub struct Aborted;

/// Awaits a task's result. Dropping it detaches the task.
#[derive(Debug)]
pub struct JoinHandle<T>(madsim::task::JoinHandle<T>);

impl<T> JoinHandle<T> {
    /// Asks the task to stop at its next await. Its destructors run.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// True once the task has finished or was aborted.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| joined.map_err(|_| Aborted))
    }
}

/// Starts `future` as a task of its own.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    JoinHandle(madsim::task::spawn(future))
}

/// Simulated microseconds that one piece of blocking work takes.
const BLOCKING_WORK_US: std::ops::Range<u64> = 20..200;

/// Runs `work`, which may block, without holding up other tasks. In simulation it takes a fraction
/// of a millisecond, and as in the real world it is done even if nobody waits for it any more.
///
/// # Errors
/// [`Aborted`] when the process is ending.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aborted> {
    let charge = world::with(|w| {
        let process = w.current();
        w.machines[process.machine.0 as usize].dice.random_range(BLOCKING_WORK_US)
    });
    spawn(async move {
        time::sleep(Duration::from_micros(charge)).await;
        work()
    })
    .await
}
