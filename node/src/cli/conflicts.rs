//! `starling conflicts`: the keys of the whole cluster that have more than one value.
//!
//! Every member that is up is asked, page by page; each names the keys of the partitions that it answers for, so each
//! key comes once, in no order.

use std::collections::BTreeSet;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::node_url::{NodeUrl, ask, failure};
use super::{Exit, Failure, block_on, note, print};
use crate::client::Request;

/// How long one answer of a node may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `starling conflicts` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node that says who else is there
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// Of this bucket alone
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A node's list of members, read leniently.
#[derive(Debug, Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    http: String,
    #[serde(default)]
    vnodes: u32,
}

/// A page of a node's answer.
#[derive(Debug, Deserialize)]
struct Page {
    conflicts: Vec<Conflict>,
    next: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Conflict {
    bucket: String,
    key: String,
    siblings: u64,
    bytes: u64,
    written_at: String,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    block_on(conflicts(args))
}

async fn conflicts(args: &Args) -> Result<Exit, Failure> {
    let answer = ask(&args.node, Request::get("/v1/cluster"), PATIENCE).await?;
    if answer.status != 200 {
        return Err(failure(&format!("cannot list the members that {} knows", args.node), &answer));
    }
    let odd = |error| Failure::unavailable(format!("odd answer of {}: {error}", args.node));
    let Members { members } = serde_json::from_slice(&answer.body).map_err(odd)?;
    let mut told = BTreeSet::new();
    let mut exit = Exit::Ok;
    for member in members.iter().filter(|member| member.vnodes > 0) {
        // Others answer for who is known to be away.
        let asked = match (member.status.as_str(), member.http.parse::<NodeUrl>()) {
            ("down" | "stopped" | "unknown", _) => continue,
            (_, Ok(url)) => of_member(args, &url, &mut told).await,
            (_, Err(error)) => Err(Failure::unavailable(format!("no address: {error}"))),
        };
        if let Err(failed) = asked {
            note(&format!("starling: {} is left out: {}", member.name, failed.message));
            exit = failed.exit;
        }
    }
    Ok(exit)
}

/// Prints what one member names. `told` holds what was printed: while nodes differ in who is there, two may name a key.
async fn of_member(args: &Args, url: &NodeUrl, told: &mut BTreeSet<String>) -> Result<(), Failure> {
    let quoted = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let bucket = args.bucket.as_deref().map(|name| format!("&bucket={}", quoted(name)));
    let mut after = String::new();
    loop {
        let target =
            format!("/v1/cluster/conflicts?limit=1000{}{after}", bucket.as_deref().unwrap_or(""));
        let answer = ask(url, Request::get(target), PATIENCE).await?;
        if answer.status != 200 {
            return Err(failure(&format!("cannot list conflicts of {url}"), &answer));
        }
        let odd = |error| Failure::unavailable(format!("odd answer of {url}: {error}"));
        let page: Page = serde_json::from_slice(&answer.body).map_err(odd)?;
        for conflict in page.conflicts {
            let key = format!("{}/{}", conflict.bucket, conflict.key);
            let line = match args.json {
                true => json!(conflict).to_string(),
                false => format!(
                    "{key}: {} values, {} bytes, last written {}",
                    conflict.siblings, conflict.bytes, conflict.written_at
                ),
            };
            if told.insert(key) {
                print(&format!("{line}\n"))?;
            }
        }
        match page.next {
            Some(key) => after = format!("&after={}", quoted(&key)),
            None => return Ok(()),
        }
    }
}
