//! `starling snapshot`: asks a node for a copy of its data, and says how to restore it.

use std::time::Duration;

use axum::http::Method;
use serde::Deserialize;

use super::node_url::{NodeUrl, ask, failure};
use super::status::size;
use super::{Exit, Failure, block_on, print, print_bytes};
use crate::client::Request;
use crate::storage::CheckpointError;
use crate::storage::checkpoint::is_name;

/// How long the node may take: it writes what is in memory, and links the rest.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `starling snapshot` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// What the snapshot is called: it becomes the folder snapshots/NAME in the node's data folder
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Print the node's answer as it is, in JSON
    #[arg(long)]
    json: bool,
}

/// The node's answer, read leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Made {
    folder: String,
    tables: u64,
    entries: u64,
    bytes: u64,
    hints: u64,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let (name, node) = (&args.name, &args.node);
    if !is_name(name) {
        return Err(Failure::usage(format!("{}; it was {name:?}", CheckpointError::Name)));
    }
    let request = Request::new(Method::POST, format!("/v1/admin/snapshots/{name}"));
    let answer = block_on(ask(node, request, PATIENCE))?;
    let doing = format!("cannot make the snapshot {name} of {node}");
    if answer.status != 201 {
        // Neither a missing key nor siblings: an older node, or a name that is taken.
        let failed = failure(&doing, &answer);
        let usage = matches!(answer.status, 404 | 405 | 409);
        return Err(Failure { exit: if usage { Exit::Usage } else { failed.exit }, ..failed });
    }
    if args.json {
        print_bytes(&[&answer.body[..], b"\n"].concat())?;
        return Ok(Exit::Ok);
    }
    let made: Made = serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::unavailable(format!("{doing}: odd answer: {error}; see it with --json"))
    })?;
    print(&page(&made))?;
    Ok(Exit::Ok)
}

fn page(made: &Made) -> String {
    let Made { folder, tables, entries, bytes, hints } = made;
    format!(
        "{folder}\n\
         on the node's machine: {entries} entries in {tables} tables ({}), {hints} hints\n\
         to restore: stop the node, move its data folder away, copy this folder to its place, start\n\
         to drop it: remove the folder; its tables share the node's disk space until then\n",
        size(*bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_told_with_what_to_do_with_it() {
        let body = r#"{"folder":"/d/snapshots/m","tables":2,"entries":10,"bytes":2048,"x":1}"#;
        insta::assert_snapshot!(page(&serde_json::from_str(body).unwrap()), @r"
        /d/snapshots/m
        on the node's machine: 10 entries in 2 tables (2.0 KiB), 0 hints
        to restore: stop the node, move its data folder away, copy this folder to its place, start
        to drop it: remove the folder; its tables share the node's disk space until then
        ");
    }
}
