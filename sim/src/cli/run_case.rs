//! The one place where the command line meets the simulated world.

use crate::plan::Plan;
use crate::report::Report;

/// A finished run: its report and, if asked for, its trace as text, a line an event.
pub(super) struct Ran {
    pub(super) report: Report,
    pub(super) trace: Vec<String>,
}

/// Runs `plan`; `verbose`: with its trace and what nodes log.
#[cfg(madsim)]
pub(super) fn run_case(plan: &Plan, verbose: bool) -> Ran {
    use crate::run::Keeping;
    let keeping = if verbose { Keeping::TraceAndLogs } else { Keeping::Nothing };
    let (report, trace) = crate::run::run(plan, keeping);
    Ran { report, trace }
}

/// Says that there is no simulated world in this build.
#[cfg(not(madsim))]
pub(super) fn run_case(_plan: &Plan, _verbose: bool) -> Ran {
    let why = super::WRONG_BUILD.to_owned();
    Ran { report: Report::broken(crate::report::Verdict::Harness, why), trace: Vec::new() }
}
