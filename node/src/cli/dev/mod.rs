//! `starling dev`: a cluster of real node processes on this machine, to try things out.
//!
//! ```text
//! starling dev ─┬─ starling serve --config DIR/n1.yml    stderr: DIR/n1.log   data: DIR/n1/
//!               ├─ starling serve --config DIR/n2.yml    …
//!               └─ starling serve --config DIR/n3.yml    …
//! ```
//!
//! The nodes are the production binary with production defaults; the folder and what is in it
//! survive. Each node stops gracefully when its stdin closes, so none outlives `dev`, however that
//! ends; they have a process group of their own, so that Ctrl-C reaches `dev` alone, which then
//! stops them in order. A node that dies is reported and not restarted: killing one is the first
//! thing to try.

mod process;
mod welcome;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use self::process::NodeProcess;
use super::{Exit, Failure, block_on, config, note, print};
use crate::config::Config;
use crate::runtime::net::TcpListener;
use crate::runtime::{signal, time};

/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the nodes may take to become ready: replaying a large log takes its time.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long they may take to stop, before they are killed; more than `timeouts.drain_ms`.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Nodes listen for each other this far above where they listen for clients.
const RPC_ABOVE_HTTP: u16 = 1000;

/// What `starling dev` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// The folder of their data, logs and configuration files; it survives
    #[arg(long, value_name = "DIR", default_value = "./starling-dev")]
    dir: PathBuf,
    /// The first node's HTTP port; the others follow
    #[arg(long, default_value_t = 8001, value_parser = clap::value_parser!(u16).range(1..=64_000))]
    port: u16,
}

/// One node to be.
#[derive(Debug, PartialEq, Eq)]
struct NodePlan {
    name: String,
    http: String,
    rpc: String,
    config: PathBuf,
    log: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    block_on(dev(args))
}

async fn dev(args: &Args) -> Result<Exit, Failure> {
    let plans = plan(args);
    refuse_another_cluster(args, &plans).await?;
    for plan in &plans {
        refuse_busy(&plan.http).await?;
        refuse_busy(&plan.rpc).await?;
    }
    write_configs(args, &plans)?;
    let mut stop = pin!(signal::shutdown());
    let mut nodes = Vec::new();
    for plan in &plans {
        nodes.push(NodeProcess::start(plan)?);
    }
    let ready = tokio::select! {
        biased;
        _ = &mut stop => None,
        ready = all_ready(&mut nodes) => Some(ready),
    };
    let outcome = match ready {
        None => Ok(Exit::Ok),
        Some(Err(failure)) => Err(failure),
        Some(Ok(())) => {
            // With nobody to read it, the cluster runs all the same.
            print(&welcome::text(&args.dir, &nodes)).unwrap_or_default();
            tokio::select! {
                biased;
                _ = &mut stop => Ok(Exit::Ok),
                failure = all_dead(&mut nodes) => Err(failure),
            }
        }
    };
    note("\nstopping the nodes (again Ctrl-C: kill them) …");
    tokio::select! {
        biased;
        () = all_stopped(&mut nodes) => {}
        // A process can be told twice.
        _ = signal::shutdown() => {}
    }
    // Dropping what still runs kills it.
    drop(nodes);
    note(&format!("stopped; the data stays in {}", args.dir.display()));
    outcome
}

fn plan(args: &Args) -> Vec<NodePlan> {
    let one = |index: u16| {
        let name = format!("n{}", index + 1);
        NodePlan {
            http: format!("127.0.0.1:{}", args.port + index),
            rpc: format!("127.0.0.1:{}", args.port + RPC_ABOVE_HTTP + index),
            config: args.dir.join(format!("{name}.yml")),
            log: args.dir.join(format!("{name}.log")),
            name,
        }
    };
    (0..args.nodes).map(one).collect()
}

/// The configuration file of the node called `name`, with its data in `data`.
fn config_text(plans: &[NodePlan], name: &str, data: &Path) -> String {
    // A JSON string is a YAML string, whatever the path has in it.
    let data = serde_json::Value::from(data.to_string_lossy());
    let n = plans.len().min(3);
    let mut text = format!(
        "# Written by starling dev, at each start anew.\n\
         cluster: dev\nnode: {name}\ndata: {data}\nreplication: {{ n: {n} }}\n"
    );
    if let Some(own) = plans.iter().find(|plan| plan.name == name) {
        text.push_str(&format!("http: \"{}\"\nrpc: \"{}\"\n", own.http, own.rpc));
    }
    let list = |of: fn(&NodePlan) -> &str| plans.iter().map(of).collect::<Vec<_>>().join(", ");
    let (founders, seeds) = (list(|plan| &plan.name), list(|plan| &plan.rpc));
    text.push_str(&format!("founders: [{founders}]\nseeds: [{seeds}]\n"));
    text
}

fn write_configs(args: &Args, plans: &[NodePlan]) -> Result<(), Failure> {
    let dir = args.dir.display();
    let unwritten = |error| Failure::usage(format!("cannot write to {dir}: {error}; try --dir"));
    std::fs::create_dir_all(&args.dir).map_err(unwritten)?;
    let root = std::path::absolute(&args.dir).map_err(unwritten)?;
    for plan in plans {
        let text = config_text(plans, &plan.name, &root.join(&plan.name));
        std::fs::write(&plan.config, text).map_err(unwritten)?;
    }
    Ok(())
}

/// Members are fixed when a cluster is made: with another number of them, keys would be looked for
/// where they never were.
async fn refuse_another_cluster(args: &Args, plans: &[NodePlan]) -> Result<(), Failure> {
    let Some(first) = plans.first().filter(|first| first.config.exists()) else { return Ok(()) };
    let text = config::read(&first.config).await?;
    let Ok(earlier) = Config::from_yaml(&text, &std::collections::BTreeMap::new()) else {
        return Ok(());
    };
    let (count, dir) = (earlier.ring_names().len(), args.dir.display());
    if count == plans.len() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{dir} holds a cluster of {count} nodes; run it with --nodes {count}, or make another \
         with --dir"
    )))
}

async fn refuse_busy(address: &str) -> Result<(), Failure> {
    match TcpListener::bind(address).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::unavailable(format!(
            "cannot listen on {address}: {error}; is another cluster running? try --port"
        ))),
    }
}

async fn all_ready(nodes: &mut [NodeProcess]) -> Result<(), Failure> {
    let deadline = time::now() + READY_WITHIN;
    loop {
        let mut waiting = 0;
        for node in nodes.iter_mut() {
            if let Some(status) = node.ended() {
                return Err(Failure::unavailable(format!(
                    "{} did not start ({status}); the end of {}:\n{}",
                    node.name,
                    node.log.display(),
                    node.log_tail()
                )));
            }
            waiting += usize::from(!node.is_ready().await);
        }
        if waiting == 0 {
            return Ok(());
        }
        if time::now() > deadline {
            let seconds = READY_WITHIN.as_secs();
            let problem =
                format!("{waiting} nodes are not ready after {seconds} s; see their logs");
            return Err(Failure::unavailable(problem));
        }
        time::sleep(LOOK_EVERY).await;
    }
}

/// Tells of each node that ends, and returns when none is left.
async fn all_dead(nodes: &mut [NodeProcess]) -> Failure {
    loop {
        for node in nodes.iter_mut().filter(|node| !node.told) {
            let Some(status) = node.ended() else { continue };
            node.told = true;
            note(&welcome::obituary(node, &status.to_string()));
        }
        if nodes.iter().all(|node| node.told) {
            return Failure::unavailable("every node has ended");
        }
        time::sleep(LOOK_EVERY).await;
    }
}

/// Asks every node to stop and waits until they have, or until they took too long.
async fn all_stopped(nodes: &mut [NodeProcess]) {
    nodes.iter_mut().for_each(NodeProcess::ask_to_stop);
    let deadline = time::now() + STOP_WITHIN;
    while nodes.iter_mut().any(|node| node.ended().is_none()) {
        if time::now() > deadline {
            note("some nodes do not stop: killing them");
            return;
        }
        time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn args(dir: &Path, nodes: u16) -> Args {
        Args { nodes, dir: dir.to_owned(), port: 8001 }
    }

    #[test]
    fn the_written_files_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\": c");
        let args = args(&dir, 4);
        let plans = plan(&args);
        write_configs(&args, &plans).unwrap();
        for plan in &plans {
            let text = std::fs::read_to_string(&plan.config).unwrap();
            let config = Config::from_yaml(&text, &BTreeMap::new()).unwrap();
            assert_eq!((&config.node, &config.http), (&plan.name, &plan.http));
            assert_eq!(config.data, dir.join(&plan.name));
            assert_eq!((config.founders.len(), config.replication.n), (4, 3));
        }
        assert_eq!(plans[3].rpc, "127.0.0.1:9004");
    }

    #[test]
    fn a_folder_of_another_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let three = args(dir.path(), 3);
        let refused = |args: &Args| {
            block_on(refuse_another_cluster(args, &plan(args))).err().map(|e| e.message)
        };
        assert_eq!(refused(&three), None);
        write_configs(&three, &plan(&three)).unwrap();
        assert_eq!(refused(&three), None);
        let message = refused(&args(dir.path(), 5)).unwrap();
        assert!(message.contains("holds a cluster of 3 nodes; run it with --nodes 3"), "{message}");
    }

    #[test]
    fn a_busy_port_is_refused_before_anything_starts() {
        let refused = block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            refuse_busy(&listener.local_addr().unwrap().to_string()).await
        });
        assert!(refused.unwrap_err().message.ends_with("try --port"));
    }
}
