//! What a bench prints: a table for people, JSON for programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::BenchArgs;
use super::load::Measured;

/// One target's figures.
pub(super) struct Row {
    name: String,
    measured: Measured,
    /// Requests a second of the slowest and the fastest turn.
    range: (f64, f64),
}

impl Row {
    /// The turn of median throughput; `None` without turns.
    pub(super) fn median(name: &str, mut turns: Vec<Measured>) -> Option<Self> {
        turns.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
        let range = (turns.first()?.per_second(), turns.last()?.per_second());
        let measured = turns.swap_remove(turns.len() / 2);
        Some(Self { name: name.to_owned(), measured, range })
    }
}

const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// The table.
pub(super) fn text(args: &BenchArgs, rows: &[Row]) -> String {
    let mut out = String::new();
    let pace = args.rate.map_or(String::new(), |rate| format!(", at most {rate}/s"));
    let _infallible = writeln!(
        out,
        "{} connections, {:.0} % reads, {}-byte values, {} keys, {:.1} s{pace}\n",
        args.connections,
        args.reads * 100.0,
        args.value,
        args.keys,
        args.duration.as_secs_f64(),
    );
    for row in rows {
        let total = row.measured.per_second();
        let _infallible = write!(out, "{}\n  total {total:>10.0}/s", row.name);
        if row.range.0 < row.range.1 {
            let _infallible =
                write!(out, "   ({:.0} to {:.0} over the rounds)", row.range.0, row.range.1);
        }
        out.push('\n');
        for (op, histogram) in [("GET", &row.measured.gets), ("PUT", &row.measured.puts)] {
            if !histogram.is_empty() {
                line(&mut out, op, histogram, row.measured.seconds);
            }
        }
        if row.measured.errors.is_empty() {
            out.push_str("  no errors\n");
        }
        for (kind, count) in &row.measured.errors {
            let _infallible = writeln!(out, "  error {count:>10}     {kind}");
        }
        out.push('\n');
    }
    if let [bare, other] = rows {
        let _infallible = writeln!(out, "share of bare: {:.3}", share(bare, other));
    }
    out
}

fn share(bare: &Row, other: &Row) -> f64 {
    other.measured.per_second() / bare.measured.per_second()
}

fn line(out: &mut String, op: &str, histogram: &Histogram<u64>, seconds: f64) {
    let per_second = histogram.len() as f64 / seconds;
    let _infallible = write!(out, "  {op:5} {per_second:>10.0}/s ");
    for (name, percentile) in PERCENTILES {
        let ms = histogram.value_at_percentile(percentile) as f64 / 1e3;
        let _infallible = write!(out, "  {name} {ms:.2} ms");
    }
    let _infallible = writeln!(out, "  max {:.1} ms", histogram.max() as f64 / 1e3);
}

/// One kind of request as JSON, latencies in microseconds.
pub(super) fn operation(histogram: &Histogram<u64>, seconds: f64) -> Value {
    let mut value = json!({
        "count": histogram.len(),
        "per_second": histogram.len() as f64 / seconds,
        "mean_us": histogram.mean(),
        "max_us": histogram.max(),
    });
    for (name, percentile) in PERCENTILES {
        value[format!("{name}_us")] = json!(histogram.value_at_percentile(percentile));
    }
    value
}

/// The same as JSON, latencies in microseconds.
pub(super) fn json(args: &BenchArgs, rows: &[Row]) -> String {
    let targets: Vec<Value> = rows
        .iter()
        .map(|row| {
            let Measured { seconds, gets, puts, errors } = &row.measured;
            json!({
                "target": row.name,
                "seconds": seconds,
                "per_second": row.measured.per_second(),
                "per_second_range": [row.range.0, row.range.1],
                "get": operation(gets, *seconds),
                "put": operation(puts, *seconds),
                "errors": errors,
            })
        })
        .collect();
    let share_of_bare =
        if let [bare, other] = rows { json!(share(bare, other)) } else { Value::Null };
    let report = json!({
        "connections": args.connections,
        "reads": args.reads,
        "value_bytes": args.value,
        "keys": args.keys,
        "rate": args.rate,
        "targets": targets,
        "share_of_bare": share_of_bare,
    });
    format!("{report:#}\n")
}
