//! `starling repair`: has a node compare its partitions with the other replicas at once, and says how they compare.

use std::time::Duration;

use axum::http::Method;
use serde::Deserialize;

use super::node_url::{NodeUrl, ask, failure};
use super::{Exit, Failure, block_on, print, print_bytes};
use crate::client::{Request, Response};
use crate::runtime::time;

/// How long one answer of the node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks with `--wait`.
const LOOK: Duration = Duration::from_millis(200);

/// What `starling repair` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// The partition; without it all that the node is a home replica of
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// Return when every partition was compared with every replica that is there
    #[arg(long)]
    wait: bool,
    /// Print the node's answer as it is, in JSON
    #[arg(long)]
    json: bool,
}

/// The node's answer, read leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    node: String,
    busy: bool,
    doubtful: u64,
    bytes_per_s: u64,
    bytes_per_s_max: u64,
    clients_wait: bool,
    partitions: Vec<Partition>,
}

impl Progress {
    /// Whether anything is under way, how fast, and why not faster.
    fn pace(&self) -> String {
        if !self.busy {
            return String::new();
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (now, most) = (mb(self.bytes_per_s), mb(self.bytes_per_s_max));
        let held_back = match self.clients_wait {
            true => format!(", not {most:.1}, since clients wait"),
            false => String::new(),
        };
        format!("; under way at {now:.1} MB/s at the most{held_back}")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Partition {
    partition: u32,
    root: Option<String>,
    keys: u64,
    doubtful: bool,
    keys_sent: u64,
    keys_received: u64,
    exchanges: Vec<Exchange>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exchange {
    with: String,
    ago_ms: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    block_on(repair(args))
}

async fn repair(args: &Args) -> Result<Exit, Failure> {
    let node = &args.node;
    let query = args.partition.map(|number| format!("?partition={number}")).unwrap_or_default();
    let begin = Request::new(Method::POST, format!("/v1/admin/repair{query}"));
    let begun = ask(node, begin, PATIENCE).await?;
    if begun.status != 202 {
        let failed = failure(&format!("cannot repair {node}"), &begun);
        let usage = matches!(begun.status, 400 | 404 | 405);
        return Err(Failure { exit: if usage { Exit::Usage } else { failed.exit }, ..failed });
    }
    let (answer, progress) = loop {
        let answer = ask(node, Request::new(Method::GET, "/v1/cluster/repair"), PATIENCE).await?;
        let progress = read(node, &answer)?;
        if !args.wait || !progress.busy {
            break (answer, progress);
        }
        time::sleep(LOOK).await;
    };
    if args.json {
        print_bytes(&[&answer.body[..], b"\n"].concat())?;
    } else {
        print(&page(&progress, args.partition))?;
    }
    Ok(Exit::Ok)
}

fn read(node: &NodeUrl, answer: &Response) -> Result<Progress, Failure> {
    if answer.status != 200 {
        return Err(failure(&format!("cannot see how {node} compares"), answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::unavailable(format!("odd answer of {node}: {error}; see it with --json"))
    })
}

fn page(progress: &Progress, partition: Option<u32>) -> String {
    let Progress { node, doubtful, partitions, .. } = progress;
    let sum = |count: fn(&Partition) -> u64| partitions.iter().map(count).sum::<u64>();
    let mut page = format!(
        "{node}: {} partitions ({doubtful} in doubt), {} keys; sent {}, received {}{}\n",
        partitions.len(),
        sum(|p| p.keys),
        sum(|p| p.keys_sent),
        sum(|p| p.keys_received),
        progress.pace(),
    );
    for part in partitions.iter().filter(|part| partition == Some(part.partition)) {
        let root = part.root.as_deref().unwrap_or("being built");
        let doubt = if part.doubtful { ", in doubt" } else { "" };
        page += &format!("partition {}: {} keys, root {root}{doubt}\n", part.partition, part.keys);
        for Exchange { with, ago_ms } in &part.exchanges {
            page += &match ago_ms {
                Some(ms) => format!("  compared with {with} {:.1} s ago\n", *ms as f64 / 1e3),
                None => format!("  not compared with {with} by this node\n"),
            };
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_a_line_and_a_partition_in_full() {
        let body = r#"{"node":"n1","busy":true,"doubtful":1,"bytes_per_s":6000000,"bytes_per_s_max":48000000,"clients_wait":true,"partitions":[
            {"partition":7,"root":"00ff","keys":3,"doubtful":true,"keys_sent":1,"keys_received":2,
             "exchanges":[{"with":"n2","ago_ms":1500},{"with":"n3","ago_ms":null}]},
            {"partition":8,"root":null,"keys":0}]}"#;
        let progress: Progress = serde_json::from_str(body).unwrap();
        insta::assert_snapshot!(page(&progress, Some(7)), @r"
        n1: 2 partitions (1 in doubt), 3 keys; sent 1, received 2; under way at 6.0 MB/s at the most, not 48.0, since clients wait
        partition 7: 3 keys, root 00ff, in doubt
          compared with n2 1.5 s ago
          not compared with n3 by this node
        ");
        assert_eq!(page(&progress, None).lines().count(), 1);
        let free = Progress { clients_wait: false, ..progress };
        assert!(page(&free, None).ends_with("; under way at 6.0 MB/s at the most\n"));
        let idle = Progress { busy: false, ..free };
        assert!(page(&idle, None).ends_with("received 2\n"));
    }
}
