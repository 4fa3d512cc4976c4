//! Tasks on tokio's scheduler.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use tokio::task::yield_now;

use tokio::runtime::{Handle, RuntimeFlavor};

/// A task was aborted, or its process is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("task was aborted")]
pub struct Aborted;

/// Awaits a task's result. Dropping it detaches the task.
#[derive(Debug)]
pub struct JoinHandle<T>(tokio::task::JoinHandle<T>);

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
    JoinHandle(tokio::task::spawn(future))
}

/// Runs `work`, which may block, without holding up other tasks.
///
/// # Errors
/// [`Aborted`] when the process is ending.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aborted> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Aborted)
}

/// Runs `work`, which may block, on this thread, whose other tasks another thread takes over meanwhile. What the caller
/// waits for comes two hops between threads sooner than from [`run_blocking`]; futures that share its task (`select!`,
/// `join!`) wait as long as it.
///
/// # Errors
/// [`Aborted`] when the process is ending.
pub async fn run_in_place<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aborted> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return Ok(tokio::task::block_in_place(work));
    }
    // All tasks share the one thread there is.
    run_blocking(work).await
}

/// Runs `main` to its end on a runtime with `threads` worker threads (0: one for each core; 1: all
/// tasks share the calling thread).
///
/// # Errors
/// When the operating system refuses threads or an event queue.
pub fn block_on<F: Future>(threads: usize, main: F) -> std::io::Result<F::Output> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { cores } else { threads };
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build()?;
    let output = runtime.block_on(main);
    runtime.shutdown_background();
    Ok(output)
}
