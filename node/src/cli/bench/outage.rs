//! `--outage`: one node dies under a steady load and comes back; what that costs, phase by phase.
//!
//! ```text
//! before      every node lives            what the cluster does when nothing is wrong
//! outage      the last one is dead        the others keep hints for it        (it was killed: SIGKILL)
//! replay      it was started again        … until no hint for it is left
//! after       every node lives            is it as before?
//! ```
//!
//! With `--wipe` the dead node has lost its disk: it is started on an empty folder, and the phase of the replay goes on until the others
//! have given everything back to it, and it vouches for that.
//!
//! The load goes to the nodes that live throughout, in every phase: so that phases differ by what
//! happens behind these nodes alone. The drain begins when the process is started, not when it is
//! ready: its start and its discovery are part of what an operator waits for.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{self, Load, Measured};
use super::{BenchArgs, BenchError, progress, report, spawn};
use crate::client::{Client, Request};
use crate::runtime::time::{self, Instant};

/// How often nodes are asked what they keep.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Whoever takes longer to say is asked again.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// At most so long the last phase lasts.
const AFTER_MAX: Duration = Duration::from_secs(30);
/// A drain is given up after so many times the outage,
const PATIENCE: u32 = 10;
/// but not before this.
const PATIENCE_MIN: Duration = Duration::from_secs(120);
/// What is wanted: a drain no longer than the outage, clients that wait half as long again at most, and a lost disk that is filled
/// at so many bytes a second.
const DRAIN_RATIO_WANTED: f64 = 1.0;
const P99_RATIO_WANTED: f64 = 1.5;
const HEAL_BYTES_WANTED: f64 = 20e6;

/// The parts of the story, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before = 0,
    Outage = 1,
    Replay = 2,
    After = 3,
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::Before, Phase::Outage, Phase::Replay, Phase::After];

    fn word(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::Outage => "outage",
            Phase::Replay => "replay",
            Phase::After => "after",
        }
    }
}

/// What is kept for the dead node, on all others together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    count: u64,
    bytes: u64,
}

impl Kept {
    /// What one node's `/v1/cluster/hints` says of `owner`; `None`: it is no such answer.
    fn of(answer: &Value, owner: &str) -> Option<Self> {
        let owners = answer["owners"].as_array()?;
        let mut kept = Self::default();
        for one in owners.iter().filter(|one| one["owner"] == owner) {
            kept = kept.and(Self { count: one["count"].as_u64()?, bytes: one["bytes"].as_u64()? });
        }
        Some(kept)
    }

    fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }

    fn most(self, other: Self) -> Self {
        Self { count: self.count.max(other.count), bytes: self.bytes.max(other.bytes) }
    }
}

/// What the whole story showed.
struct Course {
    outage: Duration,
    /// The most that was kept at one time.
    most: Kept,
    /// What was left in the end; zero unless the drain was given up.
    left: Kept,
    /// From the start of the process until nothing was kept for it; `None`: given up.
    drain: Option<Duration>,
    /// What a node without its disk was to get back.
    heal: Option<Heal>,
    /// One for each of [`Phase::ALL`].
    phases: Vec<Measured>,
}

/// A node that lost its disk.
struct Heal {
    /// Bytes of keys and values that it had before.
    bytes: f64,
    /// From the start of the process until it had joined and began to compare; `None`: it never did.
    joined: Option<Duration>,
    /// From then until it vouched for all of it; `None`: given up.
    took: Option<Duration>,
}

impl Heal {
    fn bytes_per_s(&self) -> Option<f64> {
        ratio(self.bytes, self.took?.as_secs_f64())
    }
}

impl Course {
    fn phase(&self, phase: Phase) -> &Measured {
        &self.phases[phase as usize]
    }

    /// The drain as a multiple of the outage.
    fn drain_ratio(&self) -> Option<f64> {
        ratio(self.drain?.as_secs_f64(), self.outage.as_secs_f64())
    }

    /// p99 of a phase as a multiple of that before; `None`: one of them has no requests.
    fn p99_ratio(&self, phase: Phase) -> Option<f64> {
        ratio(p99_ms(self.phase(phase))?, p99_ms(self.phase(Phase::Before))?)
    }
}

fn ratio(of: f64, to: f64) -> Option<f64> {
    (to > 0.0).then(|| of / to)
}

fn p99_ms(measured: &Measured) -> Option<f64> {
    percentile_ms(measured, 99.0)
}

fn percentile_ms(measured: &Measured, percentile: f64) -> Option<f64> {
    let answered = measured.answered();
    (!answered.is_empty()).then(|| answered.value_at_percentile(percentile) as f64 / 1e3)
}

/// Starts a cluster, runs the story on it, and returns the report.
pub(super) async fn run(
    args: &BenchArgs,
    nodes: u16,
    outage: Duration,
) -> Result<String, BenchError> {
    if nodes < 2 {
        return Err(BenchError::Alone);
    }
    progress(&format!("starting {nodes} nodes, writing {} keys", args.keys));
    let mut cluster = spawn::cluster(nodes, args).await?;
    let victim = usize::from(nodes) - 1;
    let living = cluster.addresses[..victim].to_vec();
    let mut watch = Watch::new(&spawn::name(victim), &living);
    let mut load = Load::new(args, living, true, true).start(Phase::ALL.len()).await?;
    time::sleep(args.warmup).await;

    progress(&format!("before: {:.0} s", args.duration.as_secs_f64()));
    load.enter(Phase::Before as usize);
    time::sleep(args.duration).await;

    progress(&format!("{} is killed for {:.0} s", watch.owner, outage.as_secs_f64()));
    load.enter(Phase::Outage as usize);
    cluster.kill(victim).await?;
    if args.wipe {
        cluster.wipe(victim).await?;
    }
    watch.look_for(outage).await;

    progress(&format!(
        "{} is started again; {} hints are kept for it",
        watch.owner, watch.most.count
    ));
    load.enter(Phase::Replay as usize);
    cluster.restart(victim).await?;
    let (began, patience) = (time::now(), (outage * PATIENCE).max(PATIENCE_MIN));
    let heal = match args.wipe {
        false => None,
        true => {
            let bytes = f64::from(args.keys) * f64::from(args.value + load::KEY_BYTES);
            Some(until_trusted(cluster.addresses[victim], began, patience, bytes).await)
        }
    };
    let (drain, left) = watch.until_none(began, patience).await;
    // A lost disk is waited for first, so it is not known when the last hint went.
    let drain = drain.filter(|_| !args.wipe);

    progress("after");
    load.enter(Phase::After as usize);
    time::sleep(args.duration.min(AFTER_MAX)).await;
    let course = Course { outage, most: watch.most, left, drain, heal, phases: load.stop().await };
    Ok(if args.json { as_json(args, nodes, &course) } else { text(args, nodes, &course) })
}

/// Waits until the node at `address`, which had `bytes`, vouches for all that it holds, for `patience` since `began` at most.
async fn until_trusted(
    address: SocketAddr,
    began: Instant,
    patience: Duration,
    bytes: f64,
) -> Heal {
    let mut client = Client::new(address);
    let mut heal = Heal { bytes, joined: None, took: None };
    while time::now().since(began) < patience {
        // Of all that tells it the least work, for the node and for the threads that measure.
        let answer = client.send(Request::get("/v1/cluster"), time::now() + LOOK_WITHIN);
        let answer = answer.await.ok().filter(|answer| answer.status == 200);
        let told = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        if let Some(told) = told {
            let joined = *heal.joined.get_or_insert_with(|| time::now().since(began));
            if told["storage"]["doubtful_partitions"] == 0 {
                heal.took = Some(time::now().since(began).saturating_sub(joined));
                return heal;
            }
        }
        time::sleep(LOOK_EVERY).await;
    }
    heal
}

/// Looks at what is kept for one node.
struct Watch {
    owner: String,
    others: Vec<Client>,
    most: Kept,
}

impl Watch {
    fn new(owner: &str, others: &[SocketAddr]) -> Self {
        let others = others.iter().map(|address| Client::new(*address)).collect();
        Self { owner: owner.to_owned(), others, most: Kept::default() }
    }

    /// What all others keep for it now; `None`: not all have said.
    async fn look(&mut self) -> Option<Kept> {
        let mut all = Kept::default();
        for other in &mut self.others {
            let deadline = time::now() + LOOK_WITHIN;
            let answer = other.send(Request::get("/v1/cluster/hints"), deadline).await.ok()?;
            all = all.and(Kept::of(&serde_json::from_slice(&answer.body).ok()?, &self.owner)?);
        }
        self.most = self.most.most(all);
        Some(all)
    }

    async fn look_for(&mut self, duration: Duration) {
        let until = time::now() + duration;
        while time::now() < until {
            let _counted_in_most = self.look().await;
            time::sleep_until((time::now() + LOOK_EVERY).min(until)).await;
        }
    }

    /// Waits until nothing is kept, and says how long that took since `began`; `None` when it took longer than
    /// `patience`. And what is left.
    async fn until_none(&mut self, began: Instant, patience: Duration) -> (Option<Duration>, Kept) {
        let mut left = self.most;
        while time::now().since(began) < patience {
            if let Some(kept) = self.look().await {
                left = kept;
                if kept.count == 0 {
                    return (Some(time::now().since(began)), kept);
                }
            }
            time::sleep(LOOK_EVERY).await;
        }
        (None, left)
    }
}

/// The table, and what it comes to.
fn text(args: &BenchArgs, nodes: u16, course: &Course) -> String {
    let mut out = String::new();
    let _infallible = writeln!(
        out,
        "{nodes} nodes, sync: {}; n{nodes} killed for {:.0} s; {} requests/s to the others, {:.0} % reads, {}-byte values, {} keys\n",
        args.sync,
        course.outage.as_secs_f64(),
        args.rate.unwrap_or_default(),
        args.reads * 100.0,
        args.value,
        args.keys,
    );
    out.push_str("  phase    seconds   requests     failed    p50 ms    p99 ms   p99 to before\n");
    for phase in Phase::ALL {
        let measured = course.phase(phase);
        let ms = |percentile| or_none(percentile_ms(measured, percentile), 2);
        let _infallible = writeln!(
            out,
            "  {:<8}{:>8.1}{:>11}{:>11}{:>10}{:>10}{:>16}",
            phase.word(),
            measured.seconds,
            measured.answered().len() + measured.failed(),
            measured.failed(),
            ms(50.0),
            ms(99.0),
            or_none(course.p99_ratio(phase), 2),
        );
    }
    let _infallible = writeln!(
        out,
        "\nhints kept at most   {} ({:.1} MB)",
        course.most.count,
        course.most.bytes as f64 / 1e6
    );
    out.push_str(&came_back(course));
    let p99 = verdict(course.p99_ratio(Phase::Replay), "before", P99_RATIO_WANTED);
    let _infallible = writeln!(out, "p99 while replaying  {p99}");
    for (phase, measured) in Phase::ALL.iter().zip(&course.phases) {
        for (kind, count) in &measured.errors {
            let _infallible = writeln!(out, "failed {}: {count} {kind}", phase.word());
        }
    }
    out
}

/// The line of what came back to the node that was away: its hints, or all that it had.
fn came_back(course: &Course) -> String {
    if let Some(heal) = &course.heal {
        let (took, rate) = (heal.took.map(|took| took.as_secs_f64()), heal.bytes_per_s());
        let met = rate.is_some_and(|rate| rate >= HEAL_BYTES_WANTED);
        return format!(
            "healed in            {} s after it had joined, which took {} s; {} MB/s: {} (at least {})\n",
            or_none(took, 1),
            or_none(heal.joined.map(|joined| joined.as_secs_f64()), 1),
            or_none(rate.map(|rate| rate / 1e6), 1),
            if met { "as wanted" } else { "NOT as wanted" },
            HEAL_BYTES_WANTED / 1e6,
        );
    }
    match course.drain {
        Some(drain) => format!(
            "drained in           {:.1} s from its start: {}\n",
            drain.as_secs_f64(),
            verdict(course.drain_ratio(), "the outage", DRAIN_RATIO_WANTED),
        ),
        None => format!("not drained          {} hints were left\n", course.left.count),
    }
}

/// A ratio, and whether it is what is wanted.
fn verdict(ratio: Option<f64>, to: &str, wanted: f64) -> String {
    let Some(ratio) = ratio else { return "unknown: too few requests".to_owned() };
    let met = if ratio <= wanted { "as wanted" } else { "NOT as wanted" };
    format!("{ratio:.3} times {to}, {met} (at most {wanted})")
}

fn or_none(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// The same as JSON.
fn as_json(args: &BenchArgs, nodes: u16, course: &Course) -> String {
    let phases: Vec<Value> = Phase::ALL
        .iter()
        .zip(&course.phases)
        .map(|(phase, measured)| {
            json!({
                "phase": phase.word(),
                "seconds": measured.seconds,
                "all": report::operation(&measured.answered(), measured.seconds),
                "get": report::operation(&measured.gets, measured.seconds),
                "put": report::operation(&measured.puts, measured.seconds),
                "p99_to_before": course.p99_ratio(*phase),
                "failed": measured.failed(),
                "errors": measured.errors,
            })
        })
        .collect();
    let report = json!({
        "nodes": nodes,
        "sync": args.sync,
        "rate": args.rate,
        "reads": args.reads,
        "value_bytes": args.value,
        "keys": args.keys,
        "outage_s": course.outage.as_secs_f64(),
        "hints_most": course.most.count,
        "hints_most_bytes": course.most.bytes,
        "hints_left": course.left.count,
        "drain_s": course.drain.map(|drain| drain.as_secs_f64()),
        "drain_to_outage": course.drain_ratio(),
        "join_s": course.heal.as_ref().and_then(|heal| heal.joined).map(|joined| joined.as_secs_f64()),
        "heal_s": course.heal.as_ref().and_then(|heal| heal.took).map(|took| took.as_secs_f64()),
        "heal_bytes_per_s": course.heal.as_ref().and_then(Heal::bytes_per_s),
        "p99_replay_to_before": course.p99_ratio(Phase::Replay),
        "phases": phases,
    });
    format!("{report:#}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args() -> BenchArgs {
        Alone::parse_from(["bench", "--spawn", "3", "--rate", "1000", "--outage", "60s"]).args
    }

    /// A phase of 99 requests that took `usual_us`, and two that took `rare_us`.
    fn measured(usual_us: u64, rare_us: u64) -> Measured {
        let mut measured = Measured { seconds: 10.0, ..Measured::new() };
        measured.gets.record_n(usual_us, 50).unwrap();
        measured.puts.record_n(usual_us, 49).unwrap();
        measured.puts.record_n(rare_us, 2).unwrap();
        measured
    }

    fn course(drain: Option<Duration>, replay: Measured) -> Course {
        let outage = Duration::from_secs(60);
        let most = Kept { count: 9_000, bytes: 12_340_000 };
        let left = if drain.is_some() { Kept::default() } else { Kept { count: 7, bytes: 700 } };
        let mut away = measured(1_000, 4_000);
        away.errors.insert("503 quorum-unmet".to_owned(), 3);
        let phases = vec![measured(1_000, 2_000), away, replay, measured(1_000, 2_000)];
        Course { outage, most, left, drain, heal: None, phases }
    }

    #[test]
    fn a_lost_disk_is_told_with_how_fast_it_was_filled() {
        let mut course = course(Some(Duration::from_secs(15)), measured(1_000, 5_000));
        course.heal = Some(Heal {
            bytes: 200e6,
            joined: Some(Duration::from_secs(4)),
            took: Some(Duration::from_secs(5)),
        });
        assert_eq!(course.heal.as_ref().and_then(Heal::bytes_per_s), Some(40e6));
        let args = args();
        let shown = text(&args, 3, &course);
        assert!(!shown.contains("drained"), "{shown}");
        assert!(
            shown.contains(
                "5.0 s after it had joined, which took 4.0 s; 40.0 MB/s: as wanted (at least 20)"
            ),
            "{shown}"
        );
        course.heal = Some(Heal { bytes: 200e6, joined: None, took: None });
        let shown = text(&args, 3, &course);
        assert!(
            shown.contains("- s after it had joined, which took - s; - MB/s: NOT as wanted"),
            "{shown}"
        );
    }

    #[test]
    fn ratios_compare_with_the_outage_and_with_the_first_phase() {
        let near = |ratio: Option<f64>, to: f64| ratio.is_some_and(|r| (r - to).abs() < 0.01);
        let fast = course(Some(Duration::from_secs(15)), measured(1_000, 5_000));
        assert!(near(fast.drain_ratio(), 0.25), "{:?}", fast.drain_ratio());
        assert!(near(fast.p99_ratio(Phase::Replay), 2.5));
        assert!(near(fast.p99_ratio(Phase::Outage), 2.0));
        assert!(near(fast.p99_ratio(Phase::Before), 1.0));
        let never = course(None, Measured::new());
        assert_eq!((never.drain_ratio(), never.p99_ratio(Phase::Replay)), (None, None));
    }

    #[test]
    fn phases_stand_in_their_order() {
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, at, "{phase:?}");
        }
    }

    #[test]
    fn hints_of_the_owner_alone_are_counted() {
        let answer = json!({"owners": [
            {"owner": "n2", "count": 5, "bytes": 50},
            {"owner": "n3", "count": 7, "bytes": 70},
        ]});
        assert_eq!(Kept::of(&answer, "n3"), Some(Kept { count: 7, bytes: 70 }));
        assert_eq!(Kept::of(&answer, "n1"), Some(Kept::default()));
        for bad in [json!({}), json!({"owners": [{"owner": "n3", "count": "7", "bytes": 1}]})] {
            assert_eq!(Kept::of(&bad, "n3"), None, "{bad}");
        }
        let (few, many) = (Kept { count: 1, bytes: 90 }, Kept { count: 2, bytes: 80 });
        assert_eq!(few.most(many), Kept { count: 2, bytes: 90 });
        assert_eq!(few.and(many), Kept { count: 3, bytes: 170 });
    }

    #[test]
    fn the_table_shows_each_phase_and_says_what_is_not_as_wanted() {
        let shown =
            text(&args(), 3, &course(Some(Duration::from_secs(15)), measured(1_000, 5_000)));
        insta::assert_snapshot!(shown, @"
        3 nodes, sync: always; n3 killed for 60 s; 1000 requests/s to the others, 50 % reads, 1000-byte values, 10000 keys

          phase    seconds   requests     failed    p50 ms    p99 ms   p99 to before
          before      10.0        101          0      1.00      2.00            1.00
          outage      10.0        104          3      1.00      4.00            2.00
          replay      10.0        101          0      1.00      5.00            2.50
          after       10.0        101          0      1.00      2.00            1.00

        hints kept at most   9000 (12.3 MB)
        drained in           15.0 s from its start: 0.250 times the outage, as wanted (at most 1)
        p99 while replaying  2.502 times before, NOT as wanted (at most 1.5)
        failed outage: 3 503 quorum-unmet
        ");
    }

    #[test]
    fn a_drain_that_was_given_up_says_what_is_left() {
        let course = course(None, Measured::new());
        let shown = text(&args(), 3, &course);
        assert!(shown.contains("not drained          7 hints were left"), "{shown}");
        assert!(shown.contains("p99 while replaying  unknown"), "{shown}");
        let shown: Value = serde_json::from_str(&as_json(&args(), 3, &course)).unwrap();
        assert_eq!(shown["drain_s"], Value::Null);
        assert_eq!((&shown["hints_left"], &shown["hints_most"]), (&7.into(), &9_000.into()));
        let phases: Vec<&Value> =
            shown["phases"].as_array().unwrap().iter().map(|p| &p["phase"]).collect();
        assert_eq!(phases, ["before", "outage", "replay", "after"]);
        assert_eq!(shown["phases"][1]["failed"], 3);
        assert_eq!(shown["phases"][0]["all"]["count"], 101);
    }
}
