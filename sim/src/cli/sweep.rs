//! `cargo sim sweep` and `cargo sim corpus`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::events;
use crate::output::{self, Status};
use crate::plan::{self, Expect, Plan};
use crate::report::{Report, Verdict};
use crate::sweep::{self, Options, Progress, Summary};

use super::run_case::run_case;
use super::{CommandError, SweepArguments, read_plan};

/// One run of a sweep.
enum Case {
    Seed { seed: u64, small_engine: bool },
    File(PathBuf, Box<Plan>),
}

impl Case {
    fn name(&self) -> String {
        match self {
            Case::Seed { seed, .. } => seed.to_string(),
            Case::File(path, _) => path.display().to_string(),
        }
    }

    fn plan(&self) -> Plan {
        match self {
            Case::Seed { seed, small_engine } => {
                let mut plan = plan::draw(*seed);
                if *small_engine {
                    plan.settings.engine = Some(plan::SMALLEST);
                }
                plan
            }
            Case::File(_, plan) => plan.as_ref().clone(),
        }
    }
}

/// Runs the seeds that `arguments` name.
pub(super) fn seeds(arguments: &SweepArguments) -> Result<u8, CommandError> {
    let base = arguments.base.unwrap_or_else(base_from_clock);
    let seeds = arguments.seeds.clone().unwrap_or(base..base.saturating_add(arguments.count));
    output::line(&format!("sweep of seeds {}..{}", seeds.start, seeds.end));
    let options = Options {
        jobs: jobs(arguments.jobs),
        time_budget: arguments.time_budget,
        case_limit: arguments.seed_limit,
        keep_going: arguments.keep_going,
    };
    let total = seeds.end - seeds.start;
    let small_engine = arguments.small_engine;
    let cases = seeds.map(|seed| Case::Seed { seed, small_engine });
    let summary = go(cases, total, options, &arguments.failures)?;
    Ok(conclude(&summary, arguments.digests))
}

fn conclude(summary: &Summary, digests: bool) -> u8 {
    if digests {
        summary.digests().iter().for_each(|line| output::line(line));
    }
    summary.verdict().exit_code()
}

/// Replays all plans in `folder`.
pub(super) fn corpus(
    folder: &Path,
    wanted_jobs: Option<usize>,
    digests: bool,
) -> Result<u8, CommandError> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| CommandError::NotFound(folder.display().to_string(), error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(CommandError::NoPlans(folder.to_owned()));
    }
    let mut cases = Vec::with_capacity(files.len());
    for file in files {
        let plan = Box::new(read_plan(&file)?);
        cases.push(Case::File(file, plan));
    }
    let options = Options {
        jobs: jobs(wanted_jobs),
        time_budget: None,
        case_limit: Duration::from_secs(120),
        keep_going: true,
    };
    let total = cases.len() as u64;
    let summary = go(cases, total, options, Path::new("target/sim-failures"))?;
    Ok(conclude(&summary, digests))
}

fn go(
    cases: impl IntoIterator<Item = Case>,
    total: u64,
    options: Options,
    failures: &Path,
) -> Result<Summary, CommandError> {
    let status = std::cell::RefCell::new(Status::default());
    let mut summary = Summary::expecting(&[events::NODE, events::ORACLE].concat());
    let mut written = Ok(());
    let run = |case: &Case| {
        let plan = case.plan();
        sweep::guarded(move || run_case(&plan, false).report)
    };
    let ended = |case: &Case, report: &Report| {
        summary.add(&case.name(), report);
        if report.verdict != Verdict::Ok {
            status.borrow_mut().clear();
            let told = tell_failure(case, report, failures);
            written = std::mem::replace(&mut written, Ok(())).and(told);
        }
    };
    let mut shown_ms = 0;
    let progress = |at: Progress| {
        let now_ms = u64::try_from(at.elapsed.as_millis()).unwrap_or(u64::MAX);
        let mut status = status.borrow_mut();
        if now_ms >= shown_ms + status.interval_ms() {
            shown_ms = now_ms;
            status.show(&status_line(at, total));
        }
    };
    let took = sweep::sweep(cases, options, run, ended, progress).map_err(CommandError::System)?;
    status.borrow_mut().clear();
    written?;
    output::line(summary.render(took, options.jobs).trim_end());
    Ok(summary)
}

/// Writes the plan of a failing case to a file and says how to run it again.
fn tell_failure(case: &Case, report: &Report, folder: &Path) -> Result<(), CommandError> {
    output::line(&format!("\nFAILED  {}  {}", case.name(), report.line()));
    for line in report.explanation.lines() {
        output::line(&format!("  {line}"));
    }
    let command = match case {
        Case::File(path, _) => format!("cargo sim replay {}", path.display()),
        Case::Seed { seed, small_engine } => {
            let file = folder.join(format!("{seed}.json"));
            let digest = Some(report.digest.clone()).filter(|digest| !digest.is_empty());
            let verdict = report.verdict.name().to_owned();
            let mut plan = case.plan();
            plan.expect = Some(Expect { verdict, digest });
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(&file, plan.to_json()))
                .map_err(|error| CommandError::Failure(file.clone(), error))?;
            if *small_engine {
                format!("cargo sim replay {}", file.display())
            } else {
                format!("cargo sim replay {seed}    (or the plan: {})", file.display())
            }
        }
    };
    output::line(&format!("  again: {command}\n"));
    Ok(())
}

fn status_line(at: Progress, total: u64) -> String {
    let seconds = at.elapsed.as_secs_f64().max(1e-3);
    const WIDTH: u64 = 24;
    let filled = (WIDTH * at.done / total.max(1)).min(WIDTH) as usize;
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH as usize - filled));
    format!(
        "[{bar}] {}/{total}  {:.1} runs/s  {:.0} to 1  {} failed",
        at.done,
        at.done as f64 / seconds,
        at.simulated_ms as f64 / 1e3 / seconds,
        at.failed,
    )
}

pub(super) fn jobs(wanted: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted.unwrap_or(cores).max(1)
}

/// A base that is new each second and short enough to type.
fn base_from_clock() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_secs() % 100_000_000 * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_reads_well() {
        let at = Progress {
            done: 50,
            failed: 1,
            simulated_ms: 3_000_000,
            elapsed: Duration::from_secs(10),
        };
        insta::assert_snapshot!(
            status_line(at, 200),
            @"[######..................] 50/200  5.0 runs/s  300 to 1  1 failed"
        );
    }
}
