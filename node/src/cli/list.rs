//! `starling list`: the keys of a tag that begin with a prefix, all of them, page by page.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::node_url::{NodeUrl, ask, failure};
use super::{Exit, Failure, block_on, print};
use crate::client::Request;

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(61);

/// What `starling list` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bucket
    bucket: String,
    /// How the keys begin, with a whole {tag}
    prefix: String,
    /// Any node of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// Replicas that must answer: one, quorum, all or a number
    #[arg(long, value_name = "R")]
    r: Option<String>,
    /// Print each item as the node says it, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item<'a> {
    key: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    siblings: Vec<&'a RawValue>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    block_on(list(args))
}

async fn list(args: &Args) -> Result<Exit, Failure> {
    let quoted = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let level = args.r.as_deref().map(|r| format!("&r={}", quoted(r))).unwrap_or_default();
    let base = format!(
        "/v1/kv/{}?prefix={}&limit=1000&reverse={}{level}",
        quoted(&args.bucket),
        quoted(&args.prefix),
        args.reverse
    );
    let doing = format!("cannot list {} in {}", args.prefix, args.bucket);
    let mut start = String::new();
    loop {
        let answer = ask(&args.node, Request::get(format!("{base}{start}")), PATIENCE).await?;
        if answer.status != 200 {
            return Err(failure(&doing, &answer));
        }
        let odd = |error| Failure::unavailable(format!("odd answer of {}: {error}", args.node));
        let page: Page<'_> = serde_json::from_slice(&answer.body).map_err(odd)?;
        for item in page.items {
            match args.json {
                true => print(&format!("{}\n", item.get()))?,
                false => print(&line(&serde_json::from_str(item.get()).map_err(odd)?))?,
            }
        }
        match page.next {
            Some(key) => start = format!("&start={}", quoted(&key)),
            None => return Ok(Exit::Ok),
        }
    }
}

/// A key, a tab, and its value or how many it has.
fn line(item: &Item<'_>) -> String {
    match item.value {
        Some(value) => format!("{}\t{}\n", item.key, value.get()),
        None => format!("{}\t({} values)\n", item.key, item.siblings.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_line() {
        let one = serde_json::from_str(r#"{"key":"{t}a","value":{"x":1},"context":"c"}"#).unwrap();
        assert_eq!(line(&one), "{t}a\t{\"x\":1}\n");
        let two =
            serde_json::from_str(r#"{"key":"{t}b","siblings":[{},{}],"context":"c"}"#).unwrap();
        assert_eq!(line(&two), "{t}b\t(2 values)\n");
    }
}
