//! Many runs, one process each, and what came of them all.
//!
//! The parent is single-threaded: it draws no plan and touches no runtime; it forks a child for
//! each case, keeps `jobs` of them busy, reads their reports from pipes and counts. A child that
//! dies or does not end in time is a finding like any other, with its seed.
//!
//! What it does not do: decide what a case does. That is a function from a case to a [`Report`],
//! which tests replace.

mod guard;
mod process;
mod summary;

use std::io;
use std::time::{Duration, Instant};

use crate::report::{Report, Verdict};

use process::{Child, Exit};

pub use guard::guarded;
pub use summary::Summary;

/// How a sweep goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Children at once; at least 1.
    pub jobs: usize,
    /// No case is begun later than this after the start; `None`: all are.
    pub time_budget: Option<Duration>,
    /// How long one case may take before its child is ended and it counts as a crash.
    pub case_limit: Duration,
    /// False: after the first failure no further case is begun.
    pub keep_going: bool,
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Cases that have ended.
    pub done: u64,
    /// Those of them that are not ok.
    pub failed: u64,
    /// Simulated time of all of them.
    pub simulated_ms: u64,
    /// Since the start.
    pub elapsed: Duration,
}

struct Running<C> {
    case: C,
    child: Child,
    started: Instant,
    overdue: bool,
}

/// Runs `run` on each of `cases` in a process of its own. Calls `ended` with each report as it
/// comes, and `progress` now and then, at least ten times a second.
///
/// # Errors
/// When the system refuses processes or pipes; children that run then are ended.
pub fn sweep<C>(
    cases: impl IntoIterator<Item = C>,
    options: Options,
    run: impl Fn(&C) -> Report,
    mut ended: impl FnMut(&C, &Report),
    mut progress: impl FnMut(Progress),
) -> io::Result<Duration> {
    let started = Instant::now();
    let mut cases = cases.into_iter();
    let mut running: Vec<Running<C>> = Vec::new();
    let mut at = Progress { done: 0, failed: 0, simulated_ms: 0, elapsed: Duration::ZERO };
    loop {
        let stop = (at.failed > 0 && !options.keep_going)
            || options.time_budget.is_some_and(|budget| started.elapsed() >= budget);
        while !stop && running.len() < options.jobs.max(1) {
            let Some(case) = cases.next() else { break };
            let child = process::fork(|| encode(&run(&case)))?;
            running.push(Running { case, child, started: Instant::now(), overdue: false });
        }
        if running.is_empty() {
            return Ok(started.elapsed());
        }
        for ready in collect(&mut running, options.case_limit)?.into_iter().rev() {
            let Running { case, child, started, overdue } = running.swap_remove(ready);
            let report = outcome(child, started.elapsed(), overdue)?;
            at.done += 1;
            at.failed += u64::from(report.verdict != Verdict::Ok);
            at.simulated_ms += report.simulated_ms;
            ended(&case, &report);
        }
        at.elapsed = started.elapsed();
        progress(at);
    }
}

/// Waits a little for output; gives the indexes of those whose children are through, ascending.
fn collect<C>(running: &mut [Running<C>], case_limit: Duration) -> io::Result<Vec<usize>> {
    let children: Vec<&Child> = running.iter().map(|r| &r.child).collect();
    let readable = process::wait_any(&children, Duration::from_millis(100))?;
    let mut through = Vec::new();
    for (index, (run, readable)) in running.iter_mut().zip(readable).enumerate() {
        if !run.overdue && run.started.elapsed() > case_limit {
            run.overdue = true;
            run.child.kill();
        }
        if readable && run.child.pump()? {
            through.push(index);
        }
    }
    Ok(through)
}

fn encode(report: &Report) -> Vec<u8> {
    serde_json::to_vec(report).expect("a report has string keys alone, so it can be written")
}

fn outcome(child: Child, took: Duration, overdue: bool) -> io::Result<Report> {
    let (output, exit) = child.reap()?;
    let broken = |explanation: String| Report::broken(Verdict::Crash, explanation);
    let mut report = match (exit, serde_json::from_slice::<Report>(&output)) {
        (Exit::Code(0), Ok(report)) => report,
        (Exit::Code(0), Err(error)) => {
            Report::broken(Verdict::Harness, format!("the run's report cannot be read: {error}"))
        }
        (Exit::Signal(_), _) if overdue => broken(format!(
            "the run was stuck: it had not ended after {:.0} s and was stopped",
            took.as_secs_f64()
        )),
        (Exit::Signal(signal), _) => broken(format!("the run died by signal {signal}")),
        (Exit::Code(code), _) => broken(format!("the run ended early with exit code {code}")),
    };
    report.real_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}
