//! `starling bench`: a closed-loop load generator, and what to hold its figures against.
//!
//! Each connection sends its next request when the last one is answered, so the offered load follows
//! what the cluster can take; `--rate` caps it, and then the latency of a request that the one before held up counts
//! from the moment at which it was due, so that a stall is not hidden by the requests it kept from being sent.
//!
//! Every key is written once before the clock starts. Each connection overwrites keys of its own
//! with the context of its last write, as a client should: no siblings pile up. It reads any key.
//!
//! | target | what it measures |
//! |---|---|
//! | `--target URL,URL` | a cluster that runs already |
//! | `--spawn 3` | three node processes on loopback, data in a temporary folder, gone afterwards |
//! | `--bare` | a bare axum server with a map in memory, in a process of its own: the machine's limit |
//! | `--spawn 3 --bare` | both, in turns, and the first as a share of the second |
//! | `--spawn 3 --rate 1000 --outage 60s` | what one node's death and return cost, and how long its hints take to drain; with `--wipe`, and how fast it gets its data back |

mod bare;
mod load;
mod outage;
mod report;
mod spawn;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::{Exit, Failure};
pub(super) use bare::BareArgs;
use load::{Load, Measured};
use report::Row;

/// Measure throughput and latency, closed loop.
#[derive(Args, Debug, Clone)]
pub(super) struct BenchArgs {
    /// Nodes to load, as http://host:port, separated by commas. Connections are dealt out evenly.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    target: Vec<String>,
    /// Start so many node processes on loopback and load them.
    #[arg(long, value_name = "NODES", conflicts_with = "target")]
    spawn: Option<u16>,
    /// Load a bare axum server with a map in memory; with another target, measure both in turns.
    #[arg(long)]
    bare: bool,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Share of requests that read, from 0 to 1.
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    reads: f64,
    /// Bytes of each JSON value.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    value: u32,
    /// Distinct keys.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: u32,
    /// How long to measure, such as 10s or 500ms.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long to load before measuring.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Kill the last node for so long, start it again, and follow its hints until none is left. The load
    /// goes to the other nodes alone, for --duration before that. Every key that is written meanwhile is
    /// a hint: --keys times --value bounds what is kept (hints.bytes_max, 256 MiB a node).
    #[arg(long, value_name = "TIME", requires_all = ["spawn", "rate"], conflicts_with = "bare", value_parser = duration)]
    outage: Option<Duration>,
    /// Remove the killed node's data before it is started again, and follow how it gets everything back.
    #[arg(long, requires = "outage")]
    wipe: bool,
    /// Requests a second at most, over all connections.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Replicas that must answer a read: one, quorum, all or a number.
    #[arg(long)]
    r: Option<String>,
    /// Replicas that must ack a write: one, quorum, all or a number.
    #[arg(long)]
    w: Option<String>,
    /// Turns of each target when two are measured; the median turn is shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Worker threads of the load generator and of each process it starts; 0: one for each core.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// `always` or `interval`: the sync policy of nodes started by --spawn.
    #[arg(long, default_value = "always", value_parser = ["always", "interval"])]
    sync: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// The arguments name no target.
    #[error("nothing to load: give --target http://host:port, --spawn 3, or --bare")]
    NoTarget,
    /// A target can't be used.
    #[error("cannot use the target {target}: {reason}")]
    Target {
        /// As given.
        target: String,
        /// What is wrong.
        reason: String,
    },
    /// A process did not start.
    #[error("cannot start {what}: {reason}")]
    Start {
        /// Which process.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody would be left.
    #[error("an outage of one node needs others: give --spawn 2 or more")]
    Alone,
    /// The keys could not be written before measuring.
    #[error("cannot write the keys before measuring: {0}")]
    Preload(String),
    /// Files or terminal.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// `starling bench`.
pub(super) fn command(args: BenchArgs) -> Result<Exit, Failure> {
    let threads = args.threads;
    let report = on_threads(threads, run(args))?;
    super::print(&report)?;
    Ok(Exit::Ok)
}

/// `starling bench-bare`: what the bench starts for `--bare`.
pub(super) fn bare_command(args: BareArgs) -> Result<Exit, Failure> {
    on_threads(args.threads, bare::serve(args))?;
    Ok(Exit::Ok)
}

fn on_threads<T>(
    threads: usize,
    work: impl Future<Output = Result<T, BenchError>>,
) -> Result<T, Failure> {
    let done = super::block_on_threads(threads, work)?;
    done.map_err(|error| Failure::unavailable(error.to_string()))
}

/// Runs the load and returns the report to print.
async fn run(args: BenchArgs) -> Result<String, BenchError> {
    if let (Some(outage), Some(nodes)) = (args.outage, args.spawn) {
        return outage::run(&args, nodes, outage).await;
    }
    let mut targets: Vec<Target> = Vec::new();
    if args.bare {
        targets.push(Target::started("bare", spawn::bare(args.threads).await?));
    }
    if let Some(nodes) = args.spawn {
        let name = format!("{nodes} nodes, sync: {}", args.sync);
        targets.push(Target::started(&name, spawn::cluster(nodes, &args).await?));
    } else if !args.target.is_empty() {
        let mut addresses = Vec::new();
        for target in &args.target {
            addresses.push(resolve(target).await?);
        }
        targets.push(Target { name: args.target.join(","), addresses, _processes: None });
    }
    if targets.is_empty() {
        return Err(BenchError::NoTarget);
    }
    let rounds = if targets.len() > 1 { args.rounds } else { 1 };
    let mut turns: Vec<Vec<Measured>> = targets.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (target, turns) in targets.iter().zip(&mut turns) {
            progress(&format!("round {} of {rounds}: {}", round + 1, target.name));
            let quorums = target.name != "bare";
            let load = Load::new(&args, target.addresses.clone(), quorums, round == 0);
            turns.push(load.run().await?);
        }
    }
    let rows: Vec<Row> = targets
        .iter()
        .zip(turns)
        .filter_map(|(target, turns)| Row::median(&target.name, turns))
        .collect();
    Ok(if args.json { report::json(&args, &rows) } else { report::text(&args, &rows) })
}

struct Target {
    name: String,
    addresses: Vec<SocketAddr>,
    _processes: Option<spawn::Processes>,
}

impl Target {
    fn started(name: &str, processes: spawn::Processes) -> Self {
        let addresses = processes.addresses.clone();
        Self { name: name.to_owned(), addresses, _processes: Some(processes) }
    }
}

async fn resolve(target: &str) -> Result<SocketAddr, BenchError> {
    let bad = |reason: String| BenchError::Target { target: target.to_owned(), reason };
    let host = target.strip_prefix("http://").unwrap_or(target).trim_end_matches('/');
    let found = crate::runtime::net::lookup_host(host).await;
    let found = found.map_err(|error| bad(format!("{error}: write it as http://host:port")))?;
    found.first().copied().ok_or_else(|| bad("it has no address".into()))
}

/// Says on the terminal what is being measured: a run takes many seconds.
#[expect(clippy::print_stderr, reason = "progress of a command-line program")]
fn progress(what: &str) {
    eprintln!("{what} …");
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "use a number from 0 to 1".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        (number > 0.0 && number * seconds < 86_400.0)
            .then(|| Duration::from_secs_f64(number * seconds))
    });
    parsed.ok_or_else(|| "use a time such as 10s, 500ms or 2m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["10", "s", "-1s", "0s", "1h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
