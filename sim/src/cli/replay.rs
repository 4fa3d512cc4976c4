//! `cargo sim replay`: one run again, with all that there is to see.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::output;
use crate::plan::Plan;
use crate::report::Report;
use crate::sweep::{Summary, guarded};

use super::run_case::run_case;
use super::{CommandError, plan_of};

/// Runs the seed, the plan file, or the folder of plan files that `what` names.
pub(super) fn replay(what: &str, verbose: bool) -> Result<u8, CommandError> {
    let path = Path::new(what);
    if path.is_dir() {
        return super::sweep::corpus(path, None, false);
    }
    Ok(one(&plan_of(what)?, what, verbose))
}

fn one(plan: &Plan, name: &str, verbose: bool) -> u8 {
    let mut trace = Vec::new();
    let started = Instant::now();
    let mut report = guarded(|| {
        let ran = run_case(plan, verbose);
        trace = ran.trace;
        ran.report
    });
    report.real_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    trace.iter().for_each(|line| output::line(line));
    if let Some(told) = recorded_line(plan, &report) {
        output::line(&told);
    }
    let mut summary = Summary::default();
    summary.add(name, &report);
    output::line(summary.render(Duration::from_millis(report.real_ms), 1).trim_end());
    output::line(&format!("\n{name}: {}", report.line()));
    if !report.explanation.is_empty() {
        output::line(&format!("\n{}", report.explanation));
    }
    report.verdict.exit_code()
}

/// Whether the run is the one that the plan's file recorded.
fn recorded_line(plan: &Plan, report: &Report) -> Option<String> {
    let expect = plan.expect.as_ref()?;
    if expect.verdict != report.verdict.name() {
        let now = report.verdict.name();
        return Some(format!("verdict {now}: it was {} when this was recorded", expect.verdict));
    }
    let recorded = expect.digest.as_ref()?;
    Some(if *recorded == report.digest {
        format!("digest {recorded}: as recorded, so this is the same run")
    } else {
        format!(
            "digest {} is not the recorded {recorded}: the code, or the plan, has changed since",
            report.digest
        )
    })
}
