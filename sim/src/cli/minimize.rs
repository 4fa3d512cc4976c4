//! `cargo sim minimize`: which faults and operations does a failure need?
//!
//! Delta debugging (Zeller and Hildebrandt, 2002), for faults first and for operations then: take
//! out halves, quarters, … single ones, and keep every smaller plan that still fails in the same
//! way. It works because every draw of a run has a stream of its own: what is left behaves as
//! before, as far as what is gone did not matter to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::output::{self, Status};
use crate::plan::{Expect, Plan};
use crate::report::{Report, Verdict};
use crate::sweep::{self, Options};

use super::run_case::run_case;
use super::{CommandError, plan_of};

/// Cuts the plan that `what` names down and writes the result.
pub(super) fn minimize(what: &str, wanted_jobs: Option<usize>) -> Result<u8, CommandError> {
    let plan = plan_of(what)?;
    let jobs = super::sweep::jobs(wanted_jobs);
    let failure = run_all(vec![plan.clone()], jobs)?.remove(0);
    if failure.verdict == Verdict::Ok {
        return Err(CommandError::NoFailure(what.to_owned()));
    }
    output::line(&format!("{what} fails: {}", failure.line()));
    let mut search = Search { jobs, wanted: symptom(&failure), status: Status::default(), runs: 0 };
    let mut small = Plan { expect: None, ..plan };
    small = search.cut(small, |plan| plan.faults.len(), without_faults)?;
    small = search.cut(small, |plan| plan.operations.len(), without_operations)?;
    // Fewer operations may need fewer faults.
    small = search.cut(small, |plan| plan.faults.len(), without_faults)?;
    search.status.clear();
    let report = run_all(vec![small.clone()], jobs)?.remove(0);
    let digest = Some(report.digest.clone()).filter(|digest| !digest.is_empty());
    small.expect = Some(Expect { verdict: report.verdict.name().to_owned(), digest });
    let file = beside(what);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| CommandError::Failure(file.clone(), e))?;
    }
    std::fs::write(&file, small.to_json()).map_err(|e| CommandError::Failure(file.clone(), e))?;
    output::line(&format!(
        "{} faults and {} operations are left after {} runs; the plan: {}",
        small.faults.len(),
        small.operations.len(),
        search.runs,
        file.display(),
    ));
    output::line(&format!("\n{}", report.explanation));
    Ok(report.verdict.exit_code())
}

struct Search {
    jobs: usize,
    wanted: (Verdict, String),
    status: Status,
    runs: usize,
}

impl Search {
    /// Takes out of `plan` what `without` can take out and the failure does not need.
    fn cut(
        &mut self,
        mut plan: Plan,
        len: fn(&Plan) -> usize,
        without: fn(&Plan, std::ops::Range<usize>) -> Plan,
    ) -> Result<Plan, CommandError> {
        let mut size = len(&plan).div_ceil(2);
        while size > 0 {
            // From the end, so that what has been tried keeps its place.
            let mut end = len(&plan);
            while end > 0 {
                let starts = (0..self.jobs).map(|job| end.saturating_sub(size * (job + 1)));
                let mut starts: Vec<usize> = starts.collect();
                starts.dedup();
                let pieces: Vec<_> =
                    starts.iter().map(|start| *start..(*start + size).min(end)).collect();
                let plans = pieces.iter().map(|piece| without(&plan, piece.clone())).collect();
                let reports = run_all(plans, self.jobs)?;
                self.runs += reports.len();
                let still = reports.iter().position(|report| symptom(report) == self.wanted);
                match still {
                    Some(at) => {
                        plan = without(&plan, pieces[at].clone());
                        end = pieces[at].start;
                    }
                    None => end = *starts.last().unwrap_or(&0),
                }
                self.status.show(&format!(
                    "{} faults, {} operations, {} runs",
                    plan.faults.len(),
                    plan.operations.len(),
                    self.runs
                ));
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        Ok(plan)
    }
}

/// Runs all of `plans`, a process each; the reports are in their order.
fn run_all(plans: Vec<Plan>, jobs: usize) -> Result<Vec<Report>, CommandError> {
    let options =
        Options { jobs, time_budget: None, case_limit: Duration::from_secs(120), keep_going: true };
    let mut reports: Vec<Option<Report>> = plans.iter().map(|_| None).collect();
    let run = |case: &(usize, Plan)| {
        let plan = case.1.clone();
        sweep::guarded(move || run_case(&plan, false).report)
    };
    let ended = |case: &(usize, Plan), report: &Report| reports[case.0] = Some(report.clone());
    let cases: Vec<(usize, Plan)> = plans.into_iter().enumerate().collect();
    sweep::sweep(cases, options, run, ended, |_| {}).map_err(CommandError::System)?;
    Ok(reports.into_iter().map(|report| report.expect("every case ends with a report")).collect())
}

/// What makes two failures the same: the verdict, and of the first finding what comes before the
/// names in it (`[point 3] key`, `panic at file:line:column`).
fn symptom(report: &Report) -> (Verdict, String) {
    let words = report.explanation.split_whitespace().take(3).collect::<Vec<_>>();
    (report.verdict, words.join(" "))
}

fn without_faults(plan: &Plan, piece: std::ops::Range<usize>) -> Plan {
    let mut plan = plan.clone();
    plan.faults.drain(piece);
    plan
}

fn without_operations(plan: &Plan, piece: std::ops::Range<usize>) -> Plan {
    let mut plan = plan.clone();
    plan.operations.drain(piece);
    plan
}

/// `x.min.json` for `x.json`; the folder of failing plans for a seed.
fn beside(what: &str) -> PathBuf {
    match what.parse::<u64>() {
        Ok(seed) => Path::new("target/sim-failures").join(format!("{seed}.min.json")),
        Err(_) => Path::new(what).with_extension("min.json"),
    }
}
