//! What came of all runs of a sweep, as a page that a person likes to read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::dice::fnv1a;
use crate::events;
use crate::plan::FaultKind;
use crate::quality::Quality;
use crate::report::{Outcomes, Report, Verdict};

/// How many of the slowest runs are named.
const SLOWEST: usize = 3;

/// The counts of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    verdicts: BTreeMap<Verdict, u64>,
    faults: BTreeMap<String, Counter>,
    events: BTreeMap<String, Counter>,
    requests: BTreeMap<String, Outcomes>,
    detector: Quality,
    /// How long replicas took to be equal, a run each, by the period in which they compare what they hold.
    converged_ms: BTreeMap<u64, Vec<u64>>,
    simulated_ms: u64,
    /// What each run is called, how long it took, and its digest.
    runs: BTreeMap<String, (u64, String)>,
}

#[derive(Clone, Debug, Default)]
struct Counter {
    times: u64,
    runs: u64,
    /// The first run, by name, that has it; empty: none.
    first: String,
}

impl Summary {
    /// An empty summary in which every kind of fault is listed, and each of `events` that the node
    /// is known to note, so that what never happened is seen.
    pub fn expecting(events: &[&str]) -> Self {
        let zero = |name: &&str| ((*name).to_owned(), Counter::default());
        Self {
            faults: FaultKind::NAMES.iter().map(zero).collect(),
            events: events.iter().map(zero).collect(),
            ..Self::default()
        }
    }

    /// Counts `report`, of the run called `name`, in.
    pub fn add(&mut self, name: &str, report: &Report) {
        *self.verdicts.entry(report.verdict).or_default() += 1;
        for (counters, counts) in
            [(&mut self.faults, &report.faults), (&mut self.events, &report.events)]
        {
            for (kind, times) in counts.iter().filter(|(_, times)| **times > 0) {
                let counter = counters.entry(kind.clone()).or_default();
                counter.times += times;
                counter.runs += 1;
                let earlier = (name.len(), name) < (counter.first.len(), &counter.first);
                if counter.first.is_empty() || earlier {
                    name.clone_into(&mut counter.first);
                }
            }
        }
        for (asked, outcomes) in &report.requests {
            self.requests.entry(asked.clone()).or_default().add(*outcomes);
        }
        self.detector.add(&report.detector);
        self.converged_ms.entry(report.period_ms).or_default().extend(report.converged_ms);
        self.simulated_ms += report.simulated_ms;
        self.runs.insert(name.to_owned(), (report.real_ms, report.digest.clone()));
    }

    /// The verdict of the sweep: of its failures, the one that matters most; ok if there is none.
    pub fn verdict(&self) -> Verdict {
        let failures = self.verdicts.keys().copied().filter(|v| *v != Verdict::Ok);
        failures.min().unwrap_or(Verdict::Ok)
    }

    /// One word that stands for the digests of all runs, whatever the order in which they ended.
    pub fn digest(&self) -> String {
        format!("{:016x}", fnv1a(&self.digests().join("\n")))
    }

    /// One line a run: its name and digest.
    pub fn digests(&self) -> Vec<String> {
        self.runs.iter().map(|(name, (_, digest))| format!("{name} {digest}")).collect()
    }

    /// The page. `took` and the runs' times are the only parts that differ from sweep to sweep.
    pub fn render(&self, took: Duration, jobs: usize) -> String {
        let mut page = String::new();
        self.render_head(&mut page, took, jobs);
        render_counters(&mut page, "faults", &self.faults);
        render_counters(&mut page, "events", &self.events);
        self.render_requests(&mut page);
        if !self.detector.is_empty() {
            put(&mut page, &format!("\n{}", self.detector.render().trim_end()));
        }
        self.render_convergence(&mut page);
        let mut slowest: Vec<(u64, &str)> =
            self.runs.iter().map(|(name, (ms, _))| (*ms, name.as_str())).collect();
        slowest.sort_unstable_by(|a, b| b.cmp(a));
        let slowest: Vec<String> = slowest
            .iter()
            .take(SLOWEST)
            .map(|(ms, name)| format!("{name} ({:.2} s)", *ms as f64 / 1e3))
            .collect();
        put(&mut page, &format!("\nslowest    {}", slowest.join(", ")));
        put(&mut page, &format!("digest     {}", self.digest()));
        page
    }

    fn render_head(&self, page: &mut String, took: Duration, jobs: usize) {
        let verdicts: Vec<String> = Verdict::ALL
            .into_iter()
            .map(|v| format!("{} {}", self.verdicts.get(&v).copied().unwrap_or(0), v.name()))
            .collect();
        let seconds = took.as_secs_f64().max(1e-3);
        let simulated = self.simulated_ms as f64 / 1e3;
        put(page, &format!("runs       {}: {}", self.runs.len(), verdicts.join(", ")));
        put(
            page,
            &format!(
                "time       {simulated:.0} s simulated in {seconds:.1} s with {jobs} at once: \
                 {:.0} to 1, {:.1} runs a second",
                simulated / seconds,
                self.runs.len() as f64 / seconds,
            ),
        );
    }

    fn render_convergence(&self, page: &mut String) {
        let all: Vec<u64> = self.converged_ms.values().flatten().copied().collect();
        let Some(times) = times_to_be_equal(all) else { return };
        put(page, &format!("\nequal      after the faults: {times}"));
        for (period_ms, times) in self.converged_ms.iter().filter(|_| self.converged_ms.len() > 1) {
            let Some(times) = times_to_be_equal(times.clone()) else { continue };
            put(page, &format!("           {:>5.1} s a period: {times}", *period_ms as f64 / 1e3));
        }
    }

    fn render_requests(&self, page: &mut String) {
        if self.requests.is_empty() {
            return;
        }
        let mut all = Outcomes::default();
        put(page, &row("\nrequests", ["all", "ok", "refused", "unknown"]));
        for (asked, outcomes) in &self.requests {
            all.add(*outcomes);
            put(page, &outcomes_row(asked, *outcomes));
        }
        put(page, &outcomes_row("together", all));
    }
}

fn outcomes_row(name: &str, outcomes: Outcomes) -> String {
    let share =
        |part: u64| format!("{:.1} %", 100.0 * part as f64 / outcomes.total().max(1) as f64);
    let cells = [outcomes.ok, outcomes.refused, outcomes.unknown].map(share);
    row(
        &format!("  {name}"),
        [&outcomes.total().to_string(), &cells[0], &cells[1], &cells[2]].map(String::as_str),
    )
}

fn render_counters(page: &mut String, title: &str, counters: &BTreeMap<String, Counter>) {
    if counters.is_empty() {
        return;
    }
    put(page, &row(&format!("\n{title}"), ["times", "in runs", "such as"]));
    for (name, counter) in counters {
        let never = if counter.times == 0 { why_never(name) } else { String::new() };
        let cells = [&counter.times.to_string(), &counter.runs.to_string(), &counter.first];
        let line = row(&format!("  {name}"), cells.map(String::as_str));
        put(page, format!("{line}{never}").trim_end());
    }
}

/// What is said of what never happened.
fn why_never(name: &str) -> String {
    let known = events::NOT_YET.iter().find(|(event, _)| *event == name);
    let (mark, why) = known.map_or(("<-", "never happened"), |(_, why)| ("  ", *why));
    format!("   {mark} {why}")
}

/// A name and right-aligned cells. A leading line break stays one.
fn row<const N: usize>(name: &str, cells: [&str; N]) -> String {
    let width = 34 + usize::from(name.starts_with('\n'));
    cells.iter().fold(format!("{name:<width$}"), |line, cell| format!("{line}{cell:>12}"))
}

fn put(page: &mut String, line: &str) {
    writeln!(page, "{line}").expect("a string takes all that is written to it");
}

/// In words; `None`: there are none.
fn times_to_be_equal(mut ms: Vec<u64>) -> Option<String> {
    ms.sort_unstable();
    let at = |percent: usize| ms.get((ms.len() * percent / 100).min(ms.len().saturating_sub(1)));
    let seconds = |ms: &u64| *ms as f64 / 1e3;
    let (half, most, last) = (seconds(at(50)?), seconds(at(99)?), seconds(ms.last()?));
    let runs = ms.len();
    Some(format!("p50 {half:.1} s, p99 {most:.1} s, slowest {last:.1} s of {runs} runs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, digest: &str) -> Report {
        let mut report = Report::broken(verdict, String::new());
        report.digest = digest.to_owned();
        report.simulated_ms = 60_000;
        report.real_ms = 120;
        report.faults.insert("crash".to_owned(), 3);
        report.events.insert("read_repair".to_owned(), 41);
        report.requests.insert("get".to_owned(), Outcomes { ok: 90, refused: 0, unknown: 10 });
        report.requests.insert("put".to_owned(), Outcomes { ok: 45, refused: 5, unknown: 10 });
        report
    }

    #[test]
    fn the_page_reads_well() {
        let mut summary = Summary::expecting(&["hint_stored", "read_repair"]);
        summary.add("17", &report(Verdict::Ok, "aa"));
        summary.add("18", &report(Verdict::Liveness, "bb"));
        summary.add("19", &report(Verdict::Safety, "cc"));
        insta::assert_snapshot!(summary.render(Duration::from_millis(500), 2));
    }

    #[test]
    fn the_verdict_is_the_failure_that_matters_most() {
        let verdict = |verdicts: &[Verdict]| {
            let mut summary = Summary::default();
            for (n, v) in verdicts.iter().enumerate() {
                summary.add(&n.to_string(), &report(*v, ""));
            }
            summary.verdict()
        };
        assert_eq!(verdict(&[]), Verdict::Ok);
        assert_eq!(verdict(&[Verdict::Ok, Verdict::Ok]), Verdict::Ok);
        assert_eq!(verdict(&[Verdict::Crash, Verdict::Ok, Verdict::Harness]), Verdict::Crash);
        assert_eq!(verdict(&[Verdict::Liveness, Verdict::Safety]), Verdict::Safety);
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order() {
        let digest = |order: [usize; 2]| {
            let runs = [("1", report(Verdict::Ok, "aa")), ("2", report(Verdict::Ok, "bb"))];
            let mut summary = Summary::default();
            for i in order {
                summary.add(runs[i].0, &runs[i].1);
            }
            summary.digest()
        };
        assert_eq!(digest([0, 1]), digest([1, 0]));
    }
}
