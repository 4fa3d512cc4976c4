//! `cargo sim replay`: one run again, with all that there is to see.

use std::path::Path;

use crate::output;
use crate::plan::{self, Plan};
use crate::report::Report;
use crate::sweep::{Summary, guarded};

use super::run_case::run_case;
use super::{CommandError, read_plan};

/// Runs the seed, the plan file, or the folder of plan files that `what` names.
pub(super) fn replay(what: &str, verbose: bool) -> Result<u8, CommandError> {
    if let Ok(seed) = what.parse() {
        return Ok(one(&plan::draw(seed), what, verbose));
    }
    let path = Path::new(what);
    if path.is_dir() {
        return super::sweep::corpus(path, None);
    }
    Ok(one(&read_plan(path)?, what, verbose))
}

fn one(plan: &Plan, name: &str, verbose: bool) -> u8 {
    let mut trace = Vec::new();
    let report = guarded(|| {
        let ran = run_case(plan, verbose);
        trace = ran.trace;
        ran.report
    });
    trace.iter().for_each(|line| output::line(line));
    if let Some(told) = recorded_line(plan, &report) {
        output::line(&told);
    }
    let mut summary = Summary::default();
    summary.add(name, &report);
    output::line(summary.render(std::time::Duration::from_millis(report.real_ms), 1).trim_end());
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
