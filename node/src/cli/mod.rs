//! The command line: `starling serve`, `dev`, `get`, `put`, `delete`, `status`, `config`,
//! `snapshot`, `repair`, `list`, `conflicts`, `fsck`, `bench`.
//!
//! Results go to stdout; everything that is said about them goes to stderr, so that pipes carry
//! data alone. A reader that closes the pipe early ends the command in silence. Messages say what
//! failed, on what, and what to try. Exit codes are a contract: see [`Exit`].
//!
//! This is a module of the real world alone: it names processes, stdin and the terminal, and the
//! simulation build leaves it out.

mod bench;
mod config;
mod conflicts;
mod dev;
mod fsck;
mod keys;
mod list;
mod node_url;
mod repair;
mod serve;
mod snapshot;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// There is no such key.
    NotFound = 1,
    /// The key has siblings: more than one value, none of them later than the others.
    Conflict = 2,
    /// The node, or the cluster, cannot do it now; the outcome may be unknown.
    Unavailable = 3,
    /// The command, its configuration or its value is wrong.
    Usage = 64,
}

impl Exit {
    /// Of `fsck`, which looks for no key: the folder is damaged, and heals once its node runs.
    const HEALS: Exit = Exit::NotFound;
    /// Of `fsck`: the folder is damaged, and somebody has to do something first.
    const REFUSES: Exit = Exit::Conflict;
}

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    exit: Exit,
    /// For stderr; empty: nothing is to be said.
    message: String,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Unavailable, message: message.into() }
    }
}

/// Starling: a key-value store that takes your writes whatever happens.
#[derive(Debug, Parser)]
#[command(name = "starling", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 no such key, 2 conflict (siblings), 3 unavailable, 64 wrong usage.
Start with: starling dev";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or Ctrl-C
    Serve(serve::Args),
    /// Run a proxy: a member that keeps nothing, and passes requests to those that do
    Proxy(serve::Args),
    /// Run a small cluster on this machine, to try things out
    Dev(dev::Args),
    /// Read a key; its value goes to stdout
    Get(keys::GetArgs),
    /// Write a key
    Put(keys::PutArgs),
    /// Delete a key
    Delete(keys::DeleteArgs),
    /// List the keys of a tag that begin with a prefix, with their values
    List(list::Args),
    /// Show the cluster as one of its nodes sees it
    Status(status::Args),
    /// Print an example configuration, or check a file
    Config(config::Args),
    /// Make a consistent copy of a node's data while it serves, for a backup
    Snapshot(snapshot::Args),
    /// Have a node compare what it holds with the other replicas now, and show how they compare
    Repair(repair::Args),
    /// List the keys that have more than one value, of the whole cluster
    Conflicts(conflicts::Args),
    /// Check the data folder of a node that is not running, and change nothing
    Fsck(fsck::Args),
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// Serve as the bench's bare target
    #[command(hide = true)]
    BenchBare(bench::BareArgs),
}

/// Runs the command that the process's arguments name, to its end.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return ExitCode::from(refuse(&refused) as u8),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args, serve::Role::Node),
        Command::Proxy(args) => serve::run(&args, serve::Role::Proxy),
        Command::Dev(args) => dev::run(&args),
        Command::Get(args) => keys::get(&args),
        Command::Put(args) => keys::put(&args),
        Command::Delete(args) => keys::delete(&args),
        Command::List(args) => list::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Conflicts(args) => conflicts::run(&args),
        Command::Fsck(args) => fsck::run(&args),
        Command::Bench(args) => bench::command(args),
        Command::BenchBare(args) => bench::bare_command(args),
    };
    let exit = result.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            note(&format!("starling: {}", failure.message));
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Prints what clap has to say: help and versions are results, the rest is wrong usage.
fn refuse(refused: &clap::Error) -> Exit {
    // With nobody to read it there is nothing left to do.
    let unread = refused.print().is_err();
    if refused.use_stderr() && !unread { Exit::Usage } else { Exit::Ok }
}

/// Writes `text` to stdout.
///
/// # Errors
/// A silent [`Failure`] when the reader has gone.
fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure { exit: Exit::Ok, message: String::new() })
        }
        Err(error) => Err(Failure::unavailable(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes a line to stderr, if anybody reads it.
fn note(line: &str) {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "{line}").unwrap_or_default();
}

/// Runs a command's future on this thread alone.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_threads(1, command)?
}

/// Runs a command's future on so many threads; 0: one for each core.
fn block_on_threads<F: Future>(threads: usize, command: F) -> Result<F::Output, Failure> {
    let refused = |error| {
        Failure::unavailable(format!("cannot start an event loop of {threads} threads: {error}"))
    };
    crate::runtime::task::block_on(threads, command).map_err(refused)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        for line in [
            "starling serve --config f.yml",
            "starling proxy --config f.yml",
            "starling dev",
            "starling dev --nodes 5 --dir /tmp/x --port 9000",
            "starling get b k --r all --sloppy false --json --timeout-ms 100",
            "starling put b k 1 --w 2 --ttl 60 --context t --node http://h:1",
            "starling put b k -",
            "starling put b k -1",
            "starling delete b k --context t",
            "starling status --node 127.0.0.1:8001 --json",
            "starling config --example",
            "starling config --check f.yml",
            "starling snapshot --node 127.0.0.1:8001 --name monday --json",
            "starling repair",
            "starling repair --node 127.0.0.1:8001 --partition 7 --wait --json",
            "starling list b {t}/",
            "starling list b {t}/ --reverse --r all --json --node http://h:1",
            "starling conflicts",
            "starling conflicts --node 127.0.0.1:8001 --bucket b --json",
            "starling fsck --data /tmp/x --json",
            "starling bench --spawn 3 --bare --reads 0.5",
            "starling bench --spawn 3 --rate 1000 --outage 60s",
            "starling bench-bare --listen 127.0.0.1:0",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "starling",
            "starling fly",
            "starling serve",
            "starling get b",
            "starling put b k",
            "starling get b k --w 1",
            "starling get b k --node ftp://h:1",
            "starling dev --nodes 0",
            "starling bench --spawn 3 --outage 60s",
            "starling bench --rate 1000 --outage 60s",
            "starling bench --spawn 3 --bare --rate 1000 --outage 60s",
            "starling dev --port 65000",
            "starling config",
            "starling fsck",
            "starling snapshot",
            "starling config --example --check f.yml",
        ] {
            let refused = parse(line).map(|_| ()).unwrap_err();
            assert!(refused.use_stderr(), "{line}");
        }
    }
}
