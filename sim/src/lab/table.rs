//! The tables as text.

use std::fmt::Write as _;

use super::experiment::{CrashRow, JoinRow, MistakeRow, Tables};

/// What was assumed, for the foot of the tables.
const ASSUMED: &[&str] = &[
    "Simulated time; one-way delays of 0.25 to 16 ms, each order of magnitude as likely.",
    "Starts within one second, two seeds (one where all start at once), 120 s of warm-up.",
    "Crash: a random member dies without a word, its machine with it, and is back, empty, after 45 s.",
    "Detection: until a live observer believes it for good. All: the last observer of a run.",
    "Mistake: an observer that runs takes a member that runs (a paused one does) for dead.",
    "Pauses: each minute one random member stands still for 3 s; its datagrams wait.",
    "Bad link: one member never hears one other. Flapping: two are cut off from each other, 10 s of 20.",
    "Bytes: payload that a member sends, without UDP and IP headers; max: the busiest second of any.",
];

/// Writes all tables that have rows, and what was assumed.
pub fn render(tables: &Tables) -> String {
    let mut text = format!("Failure detectors, seed {}\n", tables.seed);
    if !tables.crashes.is_empty() {
        let title = "Crashes: seconds until the others know, and until they know it is back";
        let head = [
            "members", "subject", "runs", "p50", "p99", "max", "all p50", "all p99", "missed",
            "back p50", "back p99", "not back",
        ];
        write_table(&mut text, title, &head, 2, tables.crashes.iter().map(crash_cells));
    }
    if !tables.mistakes.is_empty() {
        let title = "Mistakes: members that ran, taken for dead; bytes that a member sends";
        let head = [
            "scenario", "members", "subject", "hours", "mistakes", "/node/h", "s p50", "s max",
            "B/s", "max B/s", "datagram",
        ];
        write_table(&mut text, title, &head, 3, tables.mistakes.iter().map(mistake_cells));
    }
    if !tables.joins.is_empty() {
        let title = "Start of all at once: seconds until everybody has everybody up, of 60 s";
        let head = ["members", "subject", "complete", "up at end", "B/s", "max B/s", "real time"];
        write_table(&mut text, title, &head, 2, tables.joins.iter().map(join_cells));
    }
    text.push('\n');
    for (name, settings) in &tables.subjects {
        line(&mut text, &format!("{name}: {settings}."));
    }
    for assumed in ASSUMED {
        line(&mut text, assumed);
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Writes a table whose first `names` columns are words (to the left; what repeats is left out), and
/// the others numbers (to the right).
fn write_table(
    text: &mut String,
    title: &str,
    head: &[&str],
    names: usize,
    rows: impl Iterator<Item = Vec<String>>,
) {
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(head[column].len())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let put = |cells: Vec<&str>| {
        let mut out = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let width = widths[column];
            let done = if column < names {
                write!(out, "{cell:<width$}  ")
            } else {
                write!(out, "{cell:>width$}  ")
            };
            done.expect("a string takes any text");
        }
        out.trim_end().to_owned()
    };
    line(text, &format!("\n{title}\n"));
    line(text, &put(head.to_vec()));
    line(text, &"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
    let mut above: Option<&Vec<String>> = None;
    for row in &rows {
        let mut same = true;
        let shown = row.iter().enumerate().map(|(column, cell)| {
            same &=
                column + 1 < names && above.is_some_and(|above| above.get(column) == Some(cell));
            if same { "" } else { cell.as_str() }
        });
        let shown = shown.collect();
        line(text, &put(shown));
        above = Some(row);
    }
}

fn crash_cells(row: &CrashRow) -> Vec<String> {
    vec![
        row.members.to_string(),
        row.subject.to_owned(),
        row.runs.to_string(),
        seconds(row.p50_ms),
        seconds(row.p99_ms),
        seconds(row.max_ms),
        seconds(row.agreed_p50_ms),
        seconds(row.agreed_p99_ms),
        row.missed.to_string(),
        seconds(row.back_p50_ms),
        seconds(row.back_p99_ms),
        row.not_back.to_string(),
    ]
}

fn mistake_cells(row: &MistakeRow) -> Vec<String> {
    vec![
        row.scenario.to_owned(),
        row.members.to_string(),
        row.subject.to_owned(),
        format!("{:.2}", row.hours),
        row.mistakes.to_string(),
        format!("{:.2}", row.per_node_hour),
        seconds(row.lasted_p50_ms),
        seconds(row.lasted_max_ms),
        row.bytes_per_s.to_string(),
        row.busiest_second_bytes.to_string(),
        row.largest_datagram_bytes.to_string(),
    ]
}

fn join_cells(row: &JoinRow) -> Vec<String> {
    let mut cells = vec![row.members.to_string(), row.subject.to_owned()];
    if let Some(why) = row.skipped {
        cells.push(format!("not run: {why}"));
        return cells;
    }
    cells.push(row.complete_ms.map_or_else(|| "not in time".to_owned(), |t| seconds(Some(t))));
    // Rounded down: only all is 100 %.
    cells.push(format!("{:.1} %", (row.up_percent * 10.0).floor() / 10.0));
    cells.push(row.bytes_per_s.to_string());
    cells.push(row.busiest_second_bytes.to_string());
    cells.push(format!("{} s", seconds(Some(row.wall_ms))));
    cells
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{:02}", ms / 1_000, ms % 1_000 / 10))
}
