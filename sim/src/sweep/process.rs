//! Child processes by `fork`: the only unsafe code of the harness.
//!
//! # Why fork
//!
//! A run must not depend on the runs before it. Process-wide state (counters that seed generators,
//! lazily made tables, the allocator) would carry over from run to run in one process; a child
//! forked before any of it was touched starts from the same state as every other.
//!
//! # Why it is sound
//!
//! - `fork` copies the calling thread alone. If another thread held a lock (the allocator's, say),
//!   the child would find it locked for ever. So [`fork`] refuses unless this process has exactly
//!   one thread, counted in `/proc/self/task`; then the child may do whatever the parent might.
//! - The child never returns into the caller's frames: it ends by `_exit`, a panic included, so no
//!   destructor and no buffer of the parent runs twice.
//! - `poll`, `waitpid` and `kill` are given memory and ids that this module owns for the time of
//!   the call: a pid stays reserved until it is waited for, which [`Child`] does exactly once.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A running child and the pipe that it writes its output to.
#[derive(Debug)]
pub(super) struct Child {
    pid: libc::pid_t,
    output: PipeReader,
    received: Vec<u8>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Starts a child that runs `job`, hands its bytes to the parent and ends.
///
/// # Errors
/// When this process has other threads, or the system refuses a pipe or a process.
pub(super) fn fork(job: impl FnOnce() -> Vec<u8>) -> io::Result<Child> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "cannot fork a run from a process with {threads} threads: start none before a sweep"
        )));
    }
    let (output, input) = io::pipe()?;
    // What is buffered now would be written twice, by the parent and by the child.
    io::stdout().flush()?;
    // SAFETY: there is one thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(output);
            let code = match catch_unwind(AssertUnwindSafe(job)) {
                Ok(bytes) => {
                    let written = File::from(OwnedFd::from(input)).write_all(&bytes);
                    i32::from(written.is_err())
                }
                Err(_) => 101,
            };
            // SAFETY: always sound; it ends the process without running anything of the parent's.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Child { pid, output, received: Vec::new() }),
    }
}

/// Waits until one of `children` has output or has ended, but not longer than `limit`; says of each
/// whether [`Child::pump`] would find something.
///
/// # Errors
/// When the system refuses to wait.
pub(super) fn wait_any(children: &[&Child], limit: Duration) -> io::Result<Vec<bool>> {
    let mut waits: Vec<libc::pollfd> = children
        .iter()
        .map(|child| libc::pollfd {
            fd: child.output.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are those of `waits`, and its descriptors are open.
    let found = unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, limit_ms) };
    if found < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(waits.iter().map(|wait| found > 0 && wait.revents != 0).collect())
}

impl Child {
    /// Takes what the child has written, without waiting if [`wait_any`] said so; true once it will
    /// write no more.
    ///
    /// # Errors
    /// When the pipe breaks.
    pub(super) fn pump(&mut self) -> io::Result<bool> {
        let mut chunk = [0u8; 64 << 10];
        let count = self.output.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..count]);
        Ok(count == 0)
    }

    /// Ends the child at once, whatever it does.
    pub(super) fn kill(&self) {
        // SAFETY: `pid` is our child and was not waited for, so the id cannot be another's. That it
        // may have ended already is no error to us.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for the child's end; gives what it wrote and how it ended.
    ///
    /// # Errors
    /// When the system knows nothing of the child.
    pub(super) fn reap(self) -> io::Result<(Vec<u8>, Exit)> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is ours for the call; `pid` is our child, waited for here alone.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
            if waited == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        Ok((self.received, exit))
    }
}
