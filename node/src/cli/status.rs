//! `starling status`: the cluster as one of its nodes sees it, as a table.

use std::io::IsTerminal;
use std::time::Duration;

use serde::Deserialize;

use super::node_url::{NodeUrl, ask, failure};
use super::{Exit, Failure, block_on, print, print_bytes};
use crate::client::Request;

/// How long the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `starling status` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// Print the node's answer as it is, in JSON
    #[arg(long)]
    json: bool,
}

/// `GET /v1/cluster`, read leniently: an older or newer node may say less or more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cluster {
    cluster: Option<String>,
    node: Option<String>,
    version: Option<String>,
    ring: RingStatus,
    members: Vec<MemberStatus>,
    storage: StorageStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RingStatus {
    partitions: Option<u64>,
    n: Option<u64>,
    digest: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemberStatus {
    name: Option<String>,
    status: Option<String>,
    zone: Option<String>,
    vnodes: Option<u64>,
    share: Option<f64>,
    http: Option<String>,
    rpc: Option<String>,
    since_ms: Option<f64>,
    rtt_ms: Option<f64>,
    heartbeat_age_ms: Option<f64>,
    phi: Option<f64>,
    reasons: Option<String>,
    error: Option<String>,
}

/// `GET /v1/cluster/hints`, read as leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Hints {
    owners: Vec<OwnerHints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerHints {
    owner: Option<String>,
    count: u64,
    bytes: u64,
    drain_s: Option<f64>,
    state: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StorageStatus {
    keys: Option<u64>,
    memtable_bytes: Option<u64>,
    log_bytes: Option<u64>,
    stalled: Option<String>,
    partitions: Option<u64>,
    doubtful_partitions: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let answer = block_on(ask(&args.node, Request::get("/v1/cluster"), PATIENCE))?;
    let doing = format!("cannot read the status of {}", args.node);
    if answer.status != 200 {
        // There is no key here that could be missing: this is no Starling node.
        let failed = failure(&doing, &answer);
        let exit = if answer.status == 404 { Exit::Usage } else { failed.exit };
        return Err(Failure { exit, ..failed });
    }
    if args.json {
        print_bytes(&[&answer.body[..], b"\n"].concat())?;
        return Ok(Exit::Ok);
    }
    let cluster: Cluster = serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::unavailable(format!("{doing}: odd answer: {error}; see it with --json"))
    })?;
    // Of a node that does not know them, no hints are shown.
    let asked = block_on(ask(&args.node, Request::get("/v1/cluster/hints"), PATIENCE));
    let hints = asked.ok().and_then(|hints| serde_json::from_slice(&hints.body).ok());
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print(&page(&cluster, &hints.unwrap_or_default(), colours))?;
    Ok(Exit::Ok)
}

/// The whole page.
fn page(cluster: &Cluster, hints: &Hints, colours: bool) -> String {
    let up = cluster.members.iter().filter(|member| member.status.as_deref() == Some("up")).count();
    let count = cluster.members.len();
    let mut head = format!("cluster {}: {up} of {count} members up", or_dash(&cluster.cluster));
    let ring = &cluster.ring;
    if let (Some(partitions), Some(n)) = (ring.partitions, ring.n) {
        head.push_str(&format!(", {partitions} partitions, {n} replicas of each key"));
    }
    if let Some(digest) = &ring.digest {
        head.push_str(&format!(", ring {digest}"));
    }
    let mut foot = format!("asked {}", or_dash(&cluster.node));
    if let Some(version) = &cluster.version {
        foot.push_str(&format!(", version {version}"));
    }
    let storage = &cluster.storage;
    let sizes = [("in memory", storage.memtable_bytes), ("of log", storage.log_bytes)];
    if let Some(keys) = storage.keys {
        foot.push_str(&format!(": {keys} keys"));
        for (what, bytes) in sizes {
            if let Some(bytes) = bytes {
                foot.push_str(&format!(", {} {what}", size(bytes)));
            }
        }
    }
    if let Some(reason) = &storage.stalled {
        foot.push_str(&format!("\nits log takes no writes and is retried: {reason}"));
    }
    if let (Some(doubtful @ 1..), Some(all)) = (storage.doubtful_partitions, storage.partitions) {
        foot.push_str(&format!(
            "\ncompares what it holds with the other replicas: {doubtful} of {all} partitions are in doubt, and its answers to reads of them do not count"
        ));
    }
    for owner in &hints.owners {
        let drain = owner.drain_s.map_or_else(String::new, |seconds| {
            format!(", {} to go", duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e12))))
        });
        foot.push_str(&format!(
            "\nkeeps {} hints for {}: {} ({}{drain})",
            owner.count,
            or_dash(&owner.owner),
            size(owner.bytes),
            or_dash(&owner.state),
        ));
    }
    format!("{head}\n\n{}\n{foot}\n", table(&cluster.members, colours))
}

const COLUMNS: [&str; 11] =
    ["MEMBER", "STATUS", "SINCE", "BEAT", "PHI", "RTT", "ZONE", "VNODES", "SHARE", "HTTP", "RPC"];

fn table(members: &[MemberStatus], colours: bool) -> String {
    let rows: Vec<[String; COLUMNS.len()]> = members.iter().map(row).collect();
    let mut widths = COLUMNS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = line(&COLUMNS.map(str::to_owned), &widths, None);
    for (row, member) in rows.iter().zip(members) {
        let colour = match member.status.as_deref() {
            Some("up") => "32",
            Some("down") => "31",
            _ => "33",
        };
        out.push_str(&line(row, &widths, colours.then_some(colour)));
        // Why it is believed, and what its connection says: of interest when something is wrong.
        let well = member.status.as_deref() == Some("up");
        let why = member.reasons.as_deref().filter(|_| !well);
        for line in [why, member.error.as_deref()].into_iter().flatten() {
            out.push_str(&format!("  └ {line}\n"));
        }
    }
    out
}

fn row(member: &MemberStatus) -> [String; COLUMNS.len()] {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    [
        or_dash(&member.name).to_owned(),
        or_dash(&member.status).to_owned(),
        member.since_ms.map_or_else(
            || "-".to_owned(),
            |ms| duration(Duration::from_secs_f64(ms.clamp(0.0, 1e15) / 1e3)),
        ),
        member.heartbeat_age_ms.map_or_else(|| "-".to_owned(), age),
        member.phi.map_or_else(|| "-".to_owned(), |phi| format!("{phi:.1}")),
        member.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        or_dash(&member.zone).to_owned(),
        match member.vnodes {
            Some(0) => "proxy".to_owned(),
            other => number(other),
        },
        member.share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
        or_dash(&member.http).to_owned(),
        or_dash(&member.rpc).to_owned(),
    ]
}

/// One line; the status, in its colour if there is one. Nothing trails.
fn line(
    row: &[String; COLUMNS.len()],
    widths: &[usize; COLUMNS.len()],
    colour: Option<&str>,
) -> String {
    let mut out = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width.saturating_sub(cell.chars().count()) + 2);
        match colour.filter(|_| COLUMNS[index] == "STATUS") {
            Some(colour) => out.push_str(&format!("\x1b[{colour}m{cell}\x1b[0m{padding}")),
            None => out.push_str(&format!("{cell}{padding}")),
        }
    }
    format!("{}\n", out.trim_end())
}

fn or_dash(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("-")
}

/// A duration in its two largest units.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// How long ago, with tenths below a minute: heartbeats come every second.
fn age(ms: f64) -> String {
    if ms < 60_000.0 {
        return format!("{:.1} s", ms / 1e3);
    }
    duration(Duration::from_secs_f64(ms.min(1e15) / 1e3))
}

/// A size in the largest unit that leaves at least one of it.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1024.0 && unit + 1 < units.len() {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    format!("{amount:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_cluster_with_a_dead_member() {
        let body = r#"{"cluster":"demo","node":"a","version":"0.1.0","extra":[1],
            "ring":{"partitions":1024,"n":3,"digest":"00c0ffee00c0ffee"},
            "members":[
              {"name":"a","id":"1","status":"up","zone":"default","vnodes":256,"share":0.3333,"rpc":"127.0.0.1:7001","http":"127.0.0.1:8001"},
              {"name":"long-name","status":"down","zone":"z","vnodes":256,"share":0.3333,"rpc":"127.0.0.1:7002","http":"127.0.0.1:8002","since_ms":93784000,"heartbeat_age_ms":93790000,"phi":300.0,"reasons":"silent for 26 h, no answer to pings, suspected by a and p","rtt_ms":null,"error":"connection refused"},
              {"name":"p","status":"up","zone":"z","vnodes":0,"share":0.0,"rpc":"[::1]:7003","http":"[::1]:8003","since_ms":61000,"heartbeat_age_ms":420,"phi":0.13,"reasons":"its heartbeat advances","rtt_ms":0.24}],
            "storage":{"keys":12,"memtable_bytes":3145728,"log_bytes":900}}"#;
        let cluster: Cluster = serde_json::from_str(body).unwrap();
        let hints = r#"{"owners":[{"owner":"long-name","count":3,"bytes":2048,"drain_s":61,"state":"waiting"}]}"#;
        let hints: Hints = serde_json::from_str(hints).unwrap();
        insta::assert_snapshot!(page(&cluster, &hints, false), @r#"
        cluster demo: 2 of 3 members up, 1024 partitions, 3 replicas of each key, ring 00c0ffee00c0ffee

        MEMBER     STATUS  SINCE      BEAT     PHI    RTT     ZONE     VNODES  SHARE   HTTP            RPC
        a          up      -          -        -      -       default  256     33.3 %  127.0.0.1:8001  127.0.0.1:7001
        long-name  down    1 d 2 h    1 d 2 h  300.0  -       z        256     33.3 %  127.0.0.1:8002  127.0.0.1:7002
          └ silent for 26 h, no answer to pings, suspected by a and p
          └ connection refused
        p          up      1 min 1 s  0.4 s    0.1    0.2 ms  z        proxy   0.0 %   [::1]:8003      [::1]:7003

        asked a, version 0.1.0: 12 keys, 3.0 MiB in memory, 900 B of log
        keeps 3 hints for long-name: 2.0 KiB (waiting, 1 min 1 s to go)
        "#);
        assert!(page(&cluster, &hints, true).contains("\x1b[31mdown\x1b[0m"));
    }

    #[test]
    fn an_answer_that_says_little_is_shown_all_the_same() {
        let cluster: Cluster = serde_json::from_str(r#"{"members":[{}]}"#).unwrap();
        let hints = Hints::default();
        insta::assert_snapshot!(page(&cluster, &hints, false), @r#"
        cluster -: 0 of 1 members up

        MEMBER  STATUS  SINCE  BEAT  PHI  RTT  ZONE  VNODES  SHARE  HTTP  RPC
        -       -       -      -     -    -    -     -       -      -     -

        asked -
        "#);
    }

    #[test]
    fn a_node_whose_log_is_stalled_says_why() {
        let body = r#"{"storage":{"keys":1,"stalled":"/data/log-1: No space left on device"}}"#;
        let page = page(&serde_json::from_str(body).unwrap(), &Hints::default(), false);
        assert!(page.contains("takes no writes and is retried: /data/log-1: No space"), "{page}");
    }

    #[test]
    fn a_node_in_doubt_says_how_far_it_is() {
        let told = |storage: &str| {
            let body = format!(r#"{{"storage":{{"keys":1,{storage}}}}}"#);
            page(&serde_json::from_str(&body).unwrap(), &Hints::default(), false)
        };
        let page = told(r#""partitions":85,"doubtful_partitions":12"#);
        assert!(page.contains("12 of 85 partitions are in doubt"), "{page}");
        assert!(!told(r#""partitions":85,"doubtful_partitions":0"#).contains("doubt"));
    }

    #[test]
    fn durations_and_sizes_have_readable_units() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(60)], ["0 s", "59 s", "1 min 0 s"]);
        assert_eq!([of(3_600), of(86_399), of(90_000)], ["1 h 0 min", "23 h 59 min", "1 d 1 h"]);
        assert_eq!([size(1023), size(1024), size(u64::MAX)], ["1023 B", "1.0 KiB", "16384.0 PiB"]);
    }
}
