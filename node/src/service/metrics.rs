//! Counts of what this node did since it started, as OpenMetrics text.
//!
//! Counters only go up and start at zero with the process. Nothing here decides anything.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::time::Instant;

/// A number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the latency buckets, in microseconds.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// How long things took, in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        let bounds = BOUNDS_US.iter().map(|us| format!("{}", *us as f64 / 1e6));
        for (bucket, le) in self.buckets.iter().zip(bounds.chain(["+Inf".into()])) {
            total += bucket.load(Ordering::Relaxed);
            let _infallible = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {total}");
        }
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _infallible = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _infallible = writeln!(out, "{name}_count{{{labels}}} {total}");
    }
}

/// Kinds of clients' requests whose times are looked at apart, reads and writes: a write waits for disks, so an average over both
/// would follow their mixture.
pub const KINDS: usize = 2;

/// The time that requests take now: for each of the [`KINDS`] an average in which each request counts 1/64. Fewer would
/// follow chance: the least such average of some minutes is what [`Courtesy`](crate::domain::hint::Courtesy) takes for undisturbed.
///
/// A request counts for four times the average at the most. So one sync of a disk that took fifty times as long is noise, which would
/// weigh for some hundred requests otherwise, and when all take longer the average still doubles within twenty.
#[derive(Debug, Default)]
pub struct Foreground {
    kinds: [Smoothed; KINDS],
}

#[derive(Debug, Default)]
struct Smoothed {
    /// In 1/64 of a microsecond, so that small differences add up too.
    sum: AtomicU64,
    last_ns: AtomicU64,
}

impl Foreground {
    /// Without a request for so long there is no foreground.
    const LASTS: Duration = Duration::from_secs(1);

    /// What takes less is never clipped, in microseconds: an average of nothing must rise too.
    const CLIPPED_US_MIN: u64 = 1_000;

    /// A request was answered at `now` after `took`. Two at once may count as one.
    pub fn note(&self, now: Instant, is_read: bool, took: Duration) {
        let kind = &self.kinds[usize::from(is_read)];
        let took = took.as_micros() as u64;
        let before = kind.sum.load(Ordering::Relaxed);
        let after = match before {
            0 => took * 64,
            _ => before - before / 64 + took.min((before / 16).max(Self::CLIPPED_US_MIN)),
        };
        kind.sum.store(after, Ordering::Relaxed);
        kind.last_ns.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The averages at `now`; `None`: there are no such requests.
    pub fn smoothed(&self, now: Instant) -> [Option<Duration>; KINDS] {
        self.kinds.each_ref().map(|kind| {
            let last = kind.last_ns.load(Ordering::Relaxed);
            let recent = last > 0 && now.since(Instant::from_nanos(last)) < Self::LASTS;
            recent.then(|| Duration::from_micros(kind.sum.load(Ordering::Relaxed) / 64))
        })
    }
}

macro_rules! counters {
    ($($name:ident $metric:literal $help:literal),* $(,)?) => {
        /// Everything that a node counts.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: Counter,)*
            /// What clients' requests take now.
            pub foreground: Foreground,
            /// Time from the request's head to the answer, of GET and HEAD.
            pub get_seconds: Histogram,
            /// Time from the request's head to the answer, of PUT and DELETE.
            pub put_seconds: Histogram,
        }

        impl Metrics {
            fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($metric, $help, self.$name.get()),)*]
            }
        }
    };
}

counters! {
    reads "starling_reads" "Reads coordinated here.",
    writes "starling_writes" "Writes coordinated here.",
    forwarded "starling_forwarded" "Writes forwarded to a home replica.",
    read_repairs "starling_read_repairs" "Stale replicas repaired after a read.",
    background_skipped "starling_background_skipped" "Repairs and placings of copies given up because too many were running.",
    fallback_writes "starling_fallback_writes" "Writes coordinated here as a fallback.",
    hedged_reads "starling_hedged_reads" "Reads that asked one more replica because the first were slow.",
    quorum_unmet "starling_quorum_unmet" "Requests that failed because too few replicas answered.",
    deadline_exceeded "starling_deadline_exceeded" "Requests whose deadline passed.",
    conflicts "starling_conflicts" "Reads answered with siblings.",
    many_siblings "starling_many_siblings" "Writes that left a key with as many siblings as limits.siblings_warn.",
    too_many_siblings "starling_too_many_siblings" "Writes refused at the sibling limit.",
    listings "starling_listings" "Pages of listings coordinated here.",
    batches "starling_batches" "Batches answered.",
    batch_operations "starling_batch_operations" "Operations of batches.",
    replicated "starling_replicated" "Objects merged for other coordinators.",
    fetched "starling_fetched" "Objects read for other coordinators.",
    hints_stored "starling_hints_stored" "Objects kept for members that could not take them.",
    hints_refused "starling_hints_refused" "Objects not kept because hints were full.",
    hints_delivered "starling_hints_delivered" "Hints that their owner, or every home replica, has now.",
    hints_reresolved "starling_hints_reresolved" "Hints sent to a key's home replicas because their owner is none.",
    hints_expired "starling_hints_expired" "Hints dropped because they were too old.",
    repair_roots "starling_repair_roots" "Partitions compared with another home replica.",
    repair_differing "starling_repair_differing" "Partitions that differed.",
    repair_failed "starling_repair_failed" "Comparisons that did not come to their end.",
    repair_sent "starling_repair_sent" "Objects sent to other home replicas in exchanges.",
    repair_received "starling_repair_received" "Objects received from other home replicas in exchanges.",
    repair_bytes "starling_repair_bytes" "Bytes of objects moved in exchanges begun here.",
    repair_answers "starling_repair_answers" "Questions of other home replicas answered.",
    tombstones_forgotten "starling_tombstones_forgotten" "Keys forgotten here once nothing needed their tombstones.",
    trees_built "starling_trees_built" "Trees of partitions built by a scan.",
    http_requests "starling_http_requests" "HTTP requests answered.",
    http_overloaded "starling_http_overloaded" "HTTP requests refused at capacity.",
    http_connections "starling_http_connections" "HTTP connections accepted.",
    http_timeouts "starling_http_connection_timeouts" "HTTP connections closed because the client was too slow.",
}

impl Metrics {
    /// Appends every count and histogram in the OpenMetrics text format, without the final `# EOF`.
    pub fn render(&self, out: &mut String) {
        for (name, help, value) in self.counters() {
            let _infallible = writeln!(out, "# TYPE {name} counter\n# HELP {name} {help}");
            let _infallible = writeln!(out, "{name}_total {value}");
        }
        let name = "starling_request_seconds";
        let help = "Time from a request's head to its answer.";
        let _infallible = writeln!(out, "# TYPE {name} histogram\n# HELP {name} {help}");
        self.get_seconds.render(out, name, "op=\"get\"");
        self.put_seconds.render(out, name, "op=\"put\"");
    }
}

/// Appends one gauge.
pub fn gauge(out: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    let _infallible = writeln!(out, "# TYPE {name} gauge\n# HELP {name} {help}\n{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_request_is_noise_and_twenty_are_not() {
        let foreground = Foreground::default();
        let now = Instant::from_nanos(1);
        let note = |us, times| {
            (0..times).for_each(|_| foreground.note(now, true, Duration::from_micros(us)));
            foreground.smoothed(now)[1].expect("there was a request").as_micros()
        };
        assert_eq!(note(2_000, 200), 2_000);
        let with_one = note(100_000, 1);
        assert!((2_000..2_200).contains(&with_one), "{with_one}");
        let with_twenty = note(100_000, 19);
        assert!(with_twenty > 4_000, "{with_twenty}");
        assert!(note(2_000, 500) < 2_050);
        assert_eq!(foreground.smoothed(now)[0], None, "no write");
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_the_count() {
        let histogram = Histogram::default();
        for us in [50, 100, 101, 9_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let mut out = String::new();
        histogram.render(&mut out, "x", "op=\"get\"");
        let line = |le: &str| out.lines().find(|l| l.contains(&format!("le=\"{le}\""))).unwrap();
        assert!(line("0.0001").ends_with(" 2"), "{out}");
        assert!(line("0.00025").ends_with(" 3"), "{out}");
        assert!(line("5").ends_with(" 3"), "{out}");
        assert!(line("+Inf").ends_with(" 4"), "{out}");
        assert!(out.contains("x_count{op=\"get\"} 4"), "{out}");
    }
}
