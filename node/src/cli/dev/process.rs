//! One node as a child process.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::super::Failure;
use super::super::node_url::{NodeUrl, ask};
use super::NodePlan;
use crate::client::Request;

/// How much of a log's end is looked at.
const TAIL_BYTES: u64 = 4096;

/// How many lines of a log's end are shown.
const TAIL_LINES: usize = 12;

/// What would make every node the same one.
const NOT_INHERITED: [&str; 5] =
    ["STARLING_CLUSTER", "STARLING_NODE", "STARLING_DATA", "STARLING_HTTP", "STARLING_RPC"];

/// A node's process. Dropping it kills the process, if it still runs.
#[derive(Debug)]
pub(super) struct NodeProcess {
    /// The node's name.
    pub(super) name: String,
    /// Where it serves.
    pub(super) url: NodeUrl,
    /// Its process id.
    pub(super) pid: u32,
    /// Its configuration file.
    pub(super) config: PathBuf,
    /// Where its log lines go.
    pub(super) log: PathBuf,
    /// True once its end was told.
    pub(super) told: bool,
    child: Child,
    /// The process stops when this closes.
    stdin: Option<ChildStdin>,
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // It may end in between; then there is nothing to kill.
            self.child.kill().unwrap_or_default();
            self.child.wait().ok();
        }
    }
}

impl NodeProcess {
    /// Starts the process. Its log is appended to.
    pub(super) fn start(plan: &NodePlan) -> Result<NodeProcess, Failure> {
        let name = &plan.name;
        let failed = |error| Failure::unavailable(format!("cannot start {name}: {error}"));
        let url: NodeUrl = plan.http.parse().map_err(Failure::usage)?;
        let log = OpenOptions::new().create(true).append(true).open(&plan.log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["serve", "--stop-with-stdin", "--config"]).arg(&plan.config);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).process_group(0);
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        let mut child = command.spawn().map_err(failed)?;
        Ok(NodeProcess {
            name: name.clone(),
            url,
            pid: child.id(),
            config: plan.config.clone(),
            log: plan.log.clone(),
            told: false,
            stdin: child.stdin.take(),
            child,
        })
    }

    /// How the process ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        // That the state of one's own child cannot be read does not happen; it would mean that
        // somebody else has taken it.
        self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::default()))
    }

    /// True if the node says that it serves.
    pub(super) async fn is_ready(&self) -> bool {
        let answer = ask(&self.url, Request::get("/health/ready"), Duration::from_secs(1)).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Asks the process to finish what it does, and end.
    pub(super) fn ask_to_stop(&mut self) {
        drop(self.stdin.take());
    }

    /// The last lines of the node's log, indented.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}
