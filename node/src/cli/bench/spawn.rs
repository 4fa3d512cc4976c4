//! Processes that a bench starts and stops: nodes, or the bare target.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{BenchArgs, BenchError};
use crate::client::{Client, Request};
use crate::runtime::{task, time};

const START_WITHIN: Duration = Duration::from_secs(20);
/// How often it is asked whether a killed process is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Running processes and their data. Dropping this kills them and removes the data.
pub(super) struct Processes {
    /// Where they serve HTTP.
    pub(super) addresses: Vec<SocketAddr>,
    children: Vec<Child>,
    folder: Option<PathBuf>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // A child that has ended already is as good as killed.
            let _gone = child.kill();
            let _gone = child.wait();
        }
        if let Some(folder) = &self.folder {
            let _left_behind = std::fs::remove_dir_all(folder);
        }
    }
}

impl Processes {
    /// Kills the node at `at` (SIGKILL), and waits until it is gone. Like all that is done while clients are measured, it
    /// leaves the thread to them.
    pub(super) async fn kill(&mut self, at: usize) -> Result<(), BenchError> {
        let child = &mut self.children[at];
        child.kill()?;
        while child.try_wait()?.is_none() {
            time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Removes all that the node at `at`, which was killed, has stored.
    pub(super) async fn wipe(&self, at: usize) -> Result<(), BenchError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        in_background(move || Ok(std::fs::remove_dir_all(folder.join(name(at)))?)).await
    }

    /// Starts the node at `at` again, on the data that it left. It may take a while to be ready.
    pub(super) async fn restart(&mut self, at: usize) -> Result<(), BenchError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        self.children[at] = in_background(move || start_node(&folder, &name(at))).await?;
        Ok(())
    }
}

/// Runs `work`, which blocks, on a thread of its own.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    let ending = |_| io::Error::new(io::ErrorKind::Interrupted, "the process is ending");
    task::run_blocking(work).await.map_err(ending)?
}

/// The name of the node at `at`.
pub(super) fn name(at: usize) -> String {
    format!("n{}", at + 1)
}

/// Starts the bare target.
pub(super) async fn bare(threads: usize) -> Result<Processes, BenchError> {
    let address = free_address()?;
    let arguments = [
        "bench-bare".into(),
        "--listen".into(),
        address.to_string(),
        "--threads".into(),
        threads.to_string(),
    ];
    let child = start("the bare server", &arguments, None)?;
    let processes = Processes { addresses: vec![address], children: vec![child], folder: None };
    ready(&processes).await?;
    Ok(processes)
}

/// Starts a cluster of `nodes` processes with data in a temporary folder.
pub(super) async fn cluster(nodes: u16, args: &BenchArgs) -> Result<Processes, BenchError> {
    let folder = std::env::temp_dir().join(format!("starling-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut processes =
        Processes { addresses: Vec::new(), children: Vec::new(), folder: Some(folder.clone()) };
    let mut members = Vec::new();
    for at in 0..usize::from(nodes) {
        members.push((name(at), free_address()?, free_address()?));
    }
    let list: String = members
        .iter()
        .map(|(name, http, rpc)| {
            format!("  - {{name: {name}, http: \"{http}\", rpc: \"{rpc}\"}}\n")
        })
        .collect();
    for (name, http, rpc) in &members {
        let data = folder.join(name);
        let config = format!(
            "cluster: bench\nnode: {name}\ndata: {}\nhttp: \"{http}\"\nrpc: \"{rpc}\"\nthreads: {}\n\
             replication: {{n: {}}}\nlimits: {{pair_bytes: {}}}\nstorage: {{sync: {}}}\nlog: {{level: warn}}\nmembers:\n{list}",
            data.display(),
            args.threads,
            nodes.min(3),
            (args.value as usize + 2048).clamp(10_240, 1 << 20),
            args.sync,
        );
        std::fs::write(folder.join(format!("{name}.yml")), config)?;
        processes.children.push(start_node(&folder, name)?);
        processes.addresses.push(*http);
    }
    ready(&processes).await?;
    Ok(processes)
}

/// Starts the node `name`, whose file is in `folder`; its log is continued.
fn start_node(folder: &Path, name: &str) -> Result<Child, BenchError> {
    let file = folder.join(format!("{name}.yml"));
    let arguments = ["serve".into(), "--config".into(), file.display().to_string()];
    let log = folder.join(format!("{name}.log"));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    start(name, &arguments, Some(log))
}

fn start(
    what: &str,
    arguments: &[String],
    log: Option<std::fs::File>,
) -> Result<Child, BenchError> {
    let failed = |e: io::Error| BenchError::Start { what: what.to_owned(), reason: e.to_string() };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(log) = log {
        command.stderr(log);
    }
    command.spawn().map_err(failed)
}

/// An address on loopback that nobody listens on now.
fn free_address() -> Result<SocketAddr, BenchError> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until each process says that it serves.
async fn ready(processes: &Processes) -> Result<(), BenchError> {
    let give_up = time::now() + START_WITHIN;
    for address in &processes.addresses {
        let mut client = Client::new(*address);
        loop {
            let soon = time::now() + Duration::from_secs(1);
            match client.send(Request::get("/health/ready"), soon).await {
                Ok(answer) if answer.status == 200 => break,
                answer if time::now() > give_up => {
                    let reason = match answer {
                        Ok(answer) => format!("it answers {}", answer.status),
                        Err(error) => error.to_string(),
                    };
                    return Err(BenchError::Start { what: format!("{address}"), reason });
                }
                _ => time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    Ok(())
}
