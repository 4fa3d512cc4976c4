//! `cargo sim …`: sweeps, replays and plans from the command line.
//!
//! Exit codes: 0 all well, 1 something wrong was answered or kept, 2 something that had to happen
//! did not, 3 a panic or a run that would not end, 4 the harness itself (a wrong build included),
//! 64 a wrong command line.

mod crashes;
mod detectors;
mod large;
mod minimize;
mod replay;
mod run_case;
mod staleness;
mod sweep;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::output;
use crate::plan::{self, Plan};
use crate::report::Verdict;

/// The exit code for a wrong command line (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

/// What to do when the binary was built without the simulated world.
const WRONG_BUILD: &str = "\
this starling-sim was built without cfg(madsim): there is no simulated world in it.
`cargo sim` sets the cfg by `--config build.rustflags`, which RUSTFLAGS or CARGO_ENCODED_RUSTFLAGS in
the environment overrides. Unset them, or add the cfg: RUSTFLAGS=\"$RUSTFLAGS --cfg madsim\" cargo sim …";

/// Runs whole Starling clusters under seeded faults and judges them by what their clients saw.
#[derive(Debug, Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds, a process each, and prints a verdict.
    Sweep(SweepArguments),
    /// Runs one seed, one plan file, or all plan files of a folder again.
    Replay {
        /// A seed, a plan file, or a folder of them.
        what: String,
        /// Prints the trace: each event with its time and machine.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Replays every plan in seeds/.
    Corpus {
        /// Where the plans are.
        #[arg(default_value = "seeds")]
        folder: PathBuf,
        /// Runs at once; default: one for each core.
        #[arg(long, short)]
        jobs: Option<usize>,
        /// Prints the digest of each run's trace.
        #[arg(long)]
        digests: bool,
    },
    /// Cuts a failing plan down to what it takes to fail, and writes it beside the original.
    Minimize {
        /// A seed or a plan file.
        what: String,
        /// Runs at once; default: one for each core.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Crashes the storage engine at every point of short lives, and opens what is left.
    Crashes(CrashArguments),
    /// Measures the failure detector: detection times, mistakes, traffic.
    ///
    /// The rows of foca and chitchat are there when built with --features compare; see sim/README.md.
    Detectors(DetectorArguments),
    /// Runs one large cluster of whole nodes at rest: all find each other, and nobody is taken for dead.
    Large(LargeArguments),
    /// Measures how often a read with R+W<=N misses the last write, with the delays that LinkedIn measured.
    Staleness(StalenessArguments),
    /// Prints a plan as JSON, one fault and one operation a line.
    Plan {
        /// A seed, or a plan file to be written anew.
        what: String,
    },
}

/// Which seeds, and how.
#[derive(Debug, clap::Args)]
struct SweepArguments {
    /// The seeds: A..B (without B), or one.
    #[arg(long, conflicts_with_all = ["count", "base"], value_parser = parse_range)]
    seeds: Option<std::ops::Range<u64>>,
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The first seed; default: from the clock, and printed.
    #[arg(long)]
    base: Option<u64>,
    /// Runs at once; default: one for each core.
    #[arg(long, short)]
    jobs: Option<usize>,
    /// Begins no further seed after this time, such as 60s, 10m, 1h.
    #[arg(long, value_parser = parse_duration)]
    time_budget: Option<Duration>,
    /// How long one seed may take.
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    seed_limit: Duration,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Gives every seed the smallest memtables and tables, so that each flushes and compacts.
    #[arg(long)]
    small_engine: bool,
    /// Prints the digest of each run's trace.
    #[arg(long)]
    digests: bool,
    /// Where plans of failing seeds are written.
    #[arg(long, default_value = "target/sim-failures")]
    failures: PathBuf,
}

/// Which lives.
#[derive(Debug, clap::Args)]
struct CrashArguments {
    /// The seeds: A..B (without B), or one.
    #[arg(long, default_value = "0..40", value_parser = parse_range)]
    seeds: std::ops::Range<u64>,
}

/// What is measured, and how it is printed.
#[derive(Debug, clap::Args)]
struct DetectorArguments {
    /// The seed of every draw.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A taste of it, in seconds.
    #[arg(long)]
    quick: bool,
    /// The sizes of cluster, such as 3,10; default: all.
    #[arg(long, value_delimiter = ',', value_parser = parse_members)]
    members: Vec<usize>,
    /// The subjects, such as "starling count,foca"; default: all that are built in, but for the
    /// plain rule.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// How large, and for how long.
#[derive(Debug, clap::Args)]
struct LargeArguments {
    /// Nodes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(3..=4_000))]
    nodes: u32,
    /// Those of them that own data; the others are proxies.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=1_024))]
    owners: u32,
    /// Simulated seconds, from the moment when all start.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The seed of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How much is asked.
#[derive(Debug, clap::Args)]
struct StalenessArguments {
    /// Writes for each pause between the ack of a write and its read.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    writes: u32,
    /// The seed of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Does what the process's command line says; gives the exit code.
pub fn main() -> u8 {
    match Arguments::try_parse() {
        Ok(arguments) => dispatch(arguments.command),
        Err(error) => {
            // Nothing is left to do about a terminal that takes no text.
            drop(error.print());
            if error.use_stderr() { USAGE } else { 0 }
        }
    }
}

fn dispatch(command: Command) -> u8 {
    let any_world = matches!(command, Command::Plan { .. } | Command::Detectors(_));
    if !cfg!(madsim) && !any_world {
        output::notice(WRONG_BUILD);
        return Verdict::Harness.exit_code();
    }
    let done = match command {
        Command::Sweep(arguments) => sweep::seeds(&arguments),
        Command::Corpus { folder, jobs, digests } => sweep::corpus(&folder, jobs, digests),
        Command::Replay { what, verbose } => replay::replay(&what, verbose),
        Command::Minimize { what, jobs } => minimize::minimize(&what, jobs),
        Command::Crashes(arguments) => Ok(crashes::crashes(&arguments)),
        Command::Large(arguments) => Ok(large::large(&arguments)),
        Command::Staleness(arguments) => Ok(staleness::staleness(&arguments)),
        Command::Detectors(arguments) => Ok(detectors::detectors(&arguments)),
        Command::Plan { what } => plan_of(&what).map(|plan| {
            output::line(plan.to_json().trim_end());
            0
        }),
    };
    done.unwrap_or_else(|error| {
        output::notice(&format!("cargo sim: {error}"));
        error.exit_code()
    })
}

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{0} is neither a seed nor a readable file or folder: {1}")]
    NotFound(String, std::io::Error),
    #[error("{0}: {1}")]
    Plan(PathBuf, plan::PlanError),
    #[error("no plan in {0}: a folder of plans holds files named *.json")]
    NoPlans(PathBuf),
    #[error("{0} does not fail, so there is nothing to cut down")]
    NoFailure(String),
    #[error("cannot run a sweep: {0}")]
    System(std::io::Error),
    #[error("cannot write the plan of a failing run to {0}: {1}")]
    Failure(PathBuf, std::io::Error),
}

impl CommandError {
    const fn exit_code(&self) -> u8 {
        match self {
            CommandError::NotFound(..)
            | CommandError::Plan(..)
            | CommandError::NoPlans(_)
            | CommandError::NoFailure(_) => USAGE,
            CommandError::System(_) | CommandError::Failure(..) => Verdict::Harness.exit_code(),
        }
    }
}

/// The plan that `what` names: a seed's, or that in a file.
fn plan_of(what: &str) -> Result<Plan, CommandError> {
    match what.parse() {
        Ok(seed) => Ok(plan::draw(seed)),
        Err(_) => read_plan(std::path::Path::new(what)),
    }
}

fn read_plan(path: &std::path::Path) -> Result<Plan, CommandError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CommandError::NotFound(path.display().to_string(), error))?;
    Plan::from_json(&text).map_err(|error| CommandError::Plan(path.to_owned(), error))
}

fn parse_members(text: &str) -> Result<usize, String> {
    // Two members are the least that can watch each other; the most is what an evening can take.
    match text.parse() {
        Ok(members) if (2..=1_000).contains(&members) => Ok(members),
        Ok(_) | Err(_) => Err(format!("\"{text}\" is not a number of members from 2 to 1000")),
    }
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let number = |part: &str| {
        part.parse::<u64>().map_err(|_| format!("\"{part}\" is not a seed: use 17 or 17..42"))
    };
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => {
            let only = number(text)?;
            (only, only.checked_add(1).ok_or("the last seed is one too large")?)
        }
    };
    if from >= to {
        return Err(format!("{from}..{to} holds no seed: the end is not part of the range"));
    }
    Ok(from..to)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a time: use 90s, 10m or 1h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn ranges_and_times_are_read_or_refused() {
        assert_eq!(parse_range("17"), Ok(17..18));
        assert_eq!(parse_range("0..200"), Ok(0..200));
        assert!(parse_range("5..5").is_err());
        assert!(parse_range("5..x").is_err());
        assert!(parse_range("18446744073709551615").is_err());
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("60").is_err());
        assert!(parse_duration("s").is_err());
        assert!(parse_duration("99999999999999999999h").is_err());
    }
}
