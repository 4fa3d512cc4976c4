//! `cargo verify`: every check there is, in the order in which they are cheapest to fail.
//!
//! It is what CI runs and what a developer runs before a commit. Each step is a cargo command that
//! can be run by hand; a failing step prints its command and its output. `cargo verify NAME …` runs
//! only the steps named; `cargo verify --list` names them.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A step that says nothing for so long is stuck: no crate takes so long to build, and no test to run, on a slow machine either.
const SILENCE: Duration = Duration::from_secs(600);

/// How often it is looked whether a step has ended.
const LOOK: Duration = Duration::from_millis(200);

/// One step of the verification.
struct Step {
    name: &'static str,
    what: &'static str,
    cargo: Vec<String>,
    check: Check,
}

/// What a step's output must show, beyond success.
enum Check {
    /// Nothing more.
    Succeeds,
    /// Tests ran, and are counted.
    CountsTests,
    /// None of these packages is named.
    NamesNoneOf(&'static [&'static str]),
    /// The output is shown, since people like to read it.
    Shows,
}

/// What must not be in the production build: the simulator, and sources of chance or time that the
/// runtime facade does not control.
const NOT_IN_PRODUCTION: &[&str] = &[
    "madsim",
    "madsim-tokio",
    "starling-world",
    "turmoil",
    "turmoil-fs",
    "getrandom v0.2",
    "fastrand",
    "ahash",
    "async-std",
    "smol",
    "rayon",
];

/// As the alias `cargo sim` builds, but for the profile.
const SIM: [&str; 6] = [
    "--config",
    "build.rustflags=['--cfg','madsim']",
    "--config",
    "build.target-dir='target/sim'",
    "--profile",
    "sim-test",
];

fn steps() -> Vec<Step> {
    let step = |name, what, words: &str, check| Step {
        name,
        what,
        cargo: words.split_whitespace().map(str::to_owned).collect(),
        check,
    };
    let in_sim = |mut step: Step| {
        step.cargo.splice(1..1, SIM.map(str::to_owned));
        step
    };
    let base = fresh_base_seed();
    vec![
        step("format", "rustfmt", "fmt --all --check", Check::Succeeds),
        step(
            "tree",
            "the production build holds no simulation code",
            "tree -p starling-node -e normal --prefix none",
            Check::NamesNoneOf(NOT_IN_PRODUCTION),
        ),
        step(
            "lint",
            "clippy, real world, and the detectors that ours is compared with",
            "clippy -q --workspace --all-targets --features starling-sim/compare -- -D warnings",
            Check::Succeeds,
        ),
        in_sim(step(
            "lint-sim",
            "clippy, simulated world",
            "clippy -q --workspace --all-targets -- -D warnings",
            Check::Succeeds,
        )),
        step("docs", "rustdoc, every link", "doc -q --workspace --no-deps", Check::Succeeds),
        step("test", "unit tests, real sockets and files", "test --workspace", Check::CountsTests),
        in_sim(step(
            "test-sim",
            "tests in the simulated world",
            "test -p starling-world -p starling-sim -p starling-tests",
            Check::CountsTests,
        )),
        step("corpus", "regression plans in seeds/", "sim corpus", Check::Shows),
        step("sweep", "fresh seeds", &format!("sim sweep --count 200 --base {base}"), Check::Shows),
    ]
}

/// The base seed of the sweep: the commit picks it, so that each commit tries seeds of its own and
/// a failure can be repeated.
fn fresh_base_seed() -> u64 {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let hash = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    // 12 hex digits: room for seed arithmetic in every JSON reader.
    u64::from_str_radix(hash.get(..12).unwrap_or("1"), 16).unwrap_or(1)
}

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let all = steps();
    if names.iter().any(|name| name == "--list") {
        for step in &all {
            println!("{:10} {}: cargo {}", step.name, step.what, step.cargo.join(" "));
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|step| step.name != **name)) {
        println!("there is no step {unknown}: see cargo verify --list");
        return ExitCode::from(64);
    }
    let chosen: Vec<Step> =
        all.into_iter().filter(|s| names.is_empty() || names.iter().any(|n| n == s.name)).collect();
    let started = Instant::now();
    let mut passed = 0;
    for (at, step) in chosen.iter().enumerate() {
        match run(step, at + 1, chosen.len()) {
            Ok(tests) => passed += tests,
            Err(report) => {
                println!("{report}");
                println!("\n{} failed. By hand: cargo {}", step.name, quoted(&step.cargo));
                println!("{passed} passed, 1 failed");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\nverified in {} s", started.elapsed().as_secs());
    println!("{passed} passed, 0 failed");
    ExitCode::SUCCESS
}

fn quoted(words: &[String]) -> String {
    let quote = |w: &String| if w.contains(['[', '\'']) { format!("\"{w}\"") } else { w.clone() };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Runs one step; the number of tests that passed, or its output.
fn run(step: &Step, at: usize, of: usize) -> Result<u64, String> {
    let head = format!("[{at}/{of}] {:9} {}", step.name, step.what);
    let shows = matches!(step.check, Check::Shows);
    print!("{head} … {}", if shows { "\n" } else { "" });
    flush();
    let started = Instant::now();
    let mut cargo = Command::new(env!("CARGO"));
    // A RUSTFLAGS of the environment would override the simulator's own flags.
    cargo.args(&step.cargo).env_remove("RUSTFLAGS").env("INSTA_UPDATE", "no");
    cargo.env("RUSTDOCFLAGS", "-D warnings").env("CARGO_TERM_COLOR", "never");
    if shows {
        let status = cargo.status().map_err(|e| format!("cargo cannot be run: {e}"))?;
        let seconds = started.elapsed().as_secs();
        println!("{head}: {} ({seconds} s)", if status.success() { "ok" } else { "FAILED" });
        return if status.success() { Ok(0) } else { Err(String::new()) };
    }
    let (output, success) = capture(&mut cargo, &head)?;
    let seconds = started.elapsed().as_secs();
    let verdict = if success { judge(step, &output) } else { Err(output) };
    match &verdict {
        Ok(0) => println!("ok ({seconds} s)"),
        Ok(tests) => println!("ok, {tests} tests ({seconds} s)"),
        Err(_) => println!("FAILED ({seconds} s)"),
    }
    verdict
}

/// Runs a command to its end; shows its latest line while it runs on a terminal. One that says nothing for [`SILENCE`] is stuck: it
/// is ended, and what it said shows where (the tests that never ended, and the program that was killed).
fn capture(command: &mut Command, head: &str) -> Result<(String, bool), String> {
    let (reader, writer) = std::io::pipe().map_err(|e| format!("no pipe: {e}"))?;
    let second = writer.try_clone().map_err(|e| format!("no pipe: {e}"))?;
    let spawned = command.stdin(Stdio::null()).stdout(writer).stderr(second).spawn();
    let mut child = spawned.map_err(|e| format!("cargo cannot be run: {e}"))?;
    // The command keeps its ends of the pipe; close them, or reading never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (say, lines) = mpsc::channel();
    // Not joined: a process that outlives cargo may hold the pipe open.
    std::thread::spawn(move || {
        let mut lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
        lines.all(|line| say.send(String::from_utf8_lossy(&line).into_owned()).is_ok())
    });
    let terminal = std::io::stdout().is_terminal();
    let (mut output, mut heard_at, mut ended) = (String::new(), Instant::now(), None);
    let status = loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                heard_at = Instant::now();
                if terminal && !line.trim().is_empty() {
                    let short: String = line.trim().chars().take(60).collect();
                    print!("\r\x1b[K{head} … {short}");
                    flush();
                }
                output.push_str(&line);
                output.push('\n');
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                break child.wait().map_err(|e| format!("cargo was lost: {e}"))?;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = ended {
            break status;
        }
        ended = child.try_wait().map_err(|e| format!("cargo was lost: {e}"))?;
        if heard_at.elapsed() >= SILENCE {
            output.push_str(&end_stuck(&mut child));
            heard_at = Instant::now();
        }
    };
    if terminal {
        print!("\r\x1b[K{head} … ");
    }
    Ok((output, status.success()))
}

/// Kills the program that cargo waits for, so that cargo names it and ends; or cargo itself. What is to be said of it.
fn end_stuck(cargo: &mut Child) -> String {
    let its_child = ["-KILL", "-P", &cargo.id().to_string()];
    let ended = Command::new("pkill").args(its_child).status().is_ok_and(|status| status.success());
    let killed = if ended { "what ran was killed" } else { "cargo was killed" };
    if !ended {
        // It can only fail when cargo has just ended.
        let _gone = cargo.kill();
    }
    format!("\nstuck: nothing was said for {} minutes, and {killed}\n", SILENCE.as_secs() / 60)
}

fn judge(step: &Step, output: &str) -> Result<u64, String> {
    match &step.check {
        Check::Succeeds | Check::Shows => Ok(0),
        Check::CountsTests => {
            let count = |line: &str| {
                let rest = line.strip_prefix("test result: ok. ")?;
                rest.split_once(" passed")?.0.parse::<u64>().ok()
            };
            match output.lines().filter_map(count).sum() {
                0 => Err(format!("{output}\nno test ran")),
                tests => Ok(tests),
            }
        }
        Check::NamesNoneOf(banned) => {
            let named = |line: &str| {
                banned.iter().any(|ban| {
                    line == *ban
                        || line.starts_with(&format!("{ban} "))
                        || (ban.contains(' ') && line.starts_with(ban))
                })
            };
            let found: Vec<&str> = output.lines().filter(|line| named(line)).collect();
            if found.is_empty() { Ok(0) } else { Err(format!("not allowed here: {found:?}")) }
        }
    }
}

fn flush() {
    // A closed terminal is no reason to stop verifying.
    let _closed = std::io::stdout().flush();
}
