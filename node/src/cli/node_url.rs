//! Which node a command speaks to, and how it asks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::{Exit, Failure};
use crate::client::{Client, Request, Response};
use crate::config::address::HostPort;
use crate::runtime::{net, time};

/// The address of a node's HTTP interface: `http://127.0.0.1:8001`, or without the `http://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeUrl {
    at: HostPort,
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeUrl, String> {
        if text.starts_with("https://") {
            return Err("Starling speaks plain http; use http://host:port".to_owned());
        }
        let at = text.strip_prefix("http://").unwrap_or(text);
        let at = at.strip_suffix('/').unwrap_or(at);
        let wrong = |_| "allowed: http://host:port, such as http://127.0.0.1:8001".to_owned();
        Ok(NodeUrl { at: at.parse().map_err(wrong)? })
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.at)
    }
}

/// Sends one request to the node and waits `patience` for its answer.
///
/// # Errors
/// The node cannot be found or reached, or does not answer. An HTTP error is an answer.
pub(super) async fn ask(
    node: &NodeUrl,
    request: Request,
    patience: Duration,
) -> Result<Response, Failure> {
    let host = node.at.to_string();
    let deadline = time::now() + patience;
    let found = time::timeout_at(deadline, net::lookup_host(&host)).await;
    let found =
        found.map_err(|_| Failure::unavailable(format!("no address for {host} in time")))?;
    let addresses = found.map_err(|error| {
        Failure::unavailable(format!("cannot find {host}: {error}; check the name in --node"))
    })?;
    let address = addresses.first().ok_or_else(|| {
        Failure::unavailable(format!("{host} has no address; check the name in --node"))
    })?;
    let answer = Client::new(*address).send(request, deadline).await;
    answer.map_err(|error| {
        Failure::unavailable(format!(
            "{error}\n  try another node with --node, or see: starling dev"
        ))
    })
}

/// What an answer that is an error says: RFC 9457, read leniently.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

/// The failure that an answer with an error status is. `doing` says what failed: "cannot read b/k".
pub(super) fn failure(doing: &str, answer: &Response) -> Failure {
    let exit = match answer.status {
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        408 | 429 => Exit::Unavailable,
        400..=499 => Exit::Usage,
        _ => Exit::Unavailable,
    };
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    let status = answer.status;
    let said = problem.detail.or(problem.title).unwrap_or_else(|| format!("HTTP status {status}"));
    let retry = match answer.retry_after {
        Some(seconds) => format!("\n  try again in {seconds} s"),
        None => String::new(),
    };
    Failure { exit, message: format!("{doing}: {said}{retry}") }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(status: u16, body: &'static str, retry_after: Option<u64>) -> Response {
        let body = Bytes::from_static(body.as_bytes());
        Response { status, context: None, retry_after, content_type: None, body }
    }

    #[test]
    fn urls_are_read_with_and_without_scheme() {
        for text in ["http://127.0.0.1:8001", "127.0.0.1:8001", "http://127.0.0.1:8001/"] {
            assert_eq!(text.parse::<NodeUrl>().unwrap().to_string(), "http://127.0.0.1:8001");
        }
        for text in ["https://a:1", "http://a", "ftp://a:1", "http://a:1/v1", ""] {
            assert!(text.parse::<NodeUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_answer_says_what_failed_and_what_to_try() {
        let body = r#"{"type":"quorum-unmet","detail":"1 of 2 replicas answered"}"#;
        let unmet = failure("cannot read b/k", &answer(503, body, Some(1)));
        assert_eq!(unmet.exit, Exit::Unavailable);
        let said = "cannot read b/k: 1 of 2 replicas answered\n  try again in 1 s";
        assert_eq!(unmet.message, said);
        let html = failure("cannot read b/k", &answer(400, "<html>", None));
        assert_eq!(html, Failure::usage("cannot read b/k: HTTP status 400"));
    }
}
