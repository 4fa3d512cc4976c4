//! The sweep's machinery, with jobs that are no simulations: reports come back whole, and children
//! that panic, die, exit or hang are findings that name their case.
//!
//! Not under the test harness, since a process that forks must have one thread.

use std::time::{Duration, Instant};

use starling_sim::report::{Report, Verdict};
use starling_sim::sweep::{Options, guarded, sweep};

fn main() {
    // `cargo test NAME` filters by name; this program is one test, so any other name skips it.
    let name = "sweep_machinery";
    let mut filters = std::env::args().skip(1).filter(|a| !a.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| name.contains(&filter)) {
        return;
    }
    reports_come_back_whole_and_every_end_is_a_verdict();
    the_first_failure_stops_the_sweep_unless_told_otherwise();
    the_time_budget_begins_no_new_case();
    a_process_with_threads_does_not_fork();
}

const OPTIONS: Options =
    Options { jobs: 3, time_budget: None, case_limit: Duration::from_secs(20), keep_going: true };

fn fine(text: &str) -> Report {
    Report { simulated_ms: 7, ..Report::broken(Verdict::Ok, text.to_owned()) }
}

fn run(cases: &[&'static str], options: Options) -> Vec<(&'static str, Report)> {
    let mut reports = Vec::new();
    let work = |case: &&'static str| {
        let case = *case;
        guarded(move || match case {
            "large" => fine(&"x".repeat(1 << 20)),
            "panic" => panic!("planted"),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(7),
            "hang" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "slow" => {
                std::thread::sleep(Duration::from_millis(300));
                fine(case)
            }
            _ => fine(case),
        })
    };
    let ended = |case: &&'static str, report: &Report| reports.push((*case, report.clone()));
    sweep(cases.iter().copied(), options, work, ended, |_| {}).expect("the system gives processes");
    reports.sort_by_key(|(case, _)| *case);
    reports
}

fn reports_come_back_whole_and_every_end_is_a_verdict() {
    let options = Options { case_limit: Duration::from_secs(1), ..OPTIONS };
    let reports = run(&["a", "large", "panic", "abort", "exit", "hang", "b"], options);
    let found: Vec<(&str, Verdict, &str)> = reports
        .iter()
        .map(|(case, report)| (*case, report.verdict, report.explanation.as_str()))
        .collect();
    let large = "x".repeat(1 << 20);
    assert_eq!(found[0], ("a", Verdict::Ok, "a"));
    assert_eq!(found[1], ("abort", Verdict::Crash, "the run died by signal 6"));
    assert_eq!(found[2], ("b", Verdict::Ok, "b"));
    assert_eq!(found[3], ("exit", Verdict::Crash, "the run ended early with exit code 7"));
    assert_eq!((found[4].0, found[4].1), ("hang", Verdict::Crash));
    assert!(found[4].2.starts_with("the run was stuck"), "{}", found[4].2);
    assert_eq!(found[5], ("large", Verdict::Ok, large.as_str()));
    assert_eq!((found[6].0, found[6].1), ("panic", Verdict::Crash));
    assert!(found[6].2.ends_with("planted"), "{}", found[6].2);
}

fn the_first_failure_stops_the_sweep_unless_told_otherwise() {
    let one = Options { jobs: 1, ..OPTIONS };
    let cases = ["a", "panic", "b", "c"];
    assert_eq!(run(&cases, Options { keep_going: false, ..one }).len(), 2);
    assert_eq!(run(&cases, one).len(), 4);
}

fn the_time_budget_begins_no_new_case() {
    let budget = Some(Duration::from_millis(100));
    let started = Instant::now();
    let cases = ["slow"; 20];
    let reports = run(&cases, Options { jobs: 1, time_budget: budget, ..OPTIONS });
    assert_eq!(reports.len(), 1, "a begun case is finished, and no other begun");
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn a_process_with_threads_does_not_fork() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || stopped.recv());
    let refused = sweep(["a"], OPTIONS, |_| fine(""), |_, _| {}, |_| {})
        .expect_err("a process with two threads must not fork");
    assert!(refused.to_string().contains("2 threads"), "{refused}");
    drop(stop);
    assert!(other.join().is_ok_and(|received| received.is_err()));
}
