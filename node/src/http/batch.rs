//! `POST /v1/batch`: many operations in one request, each answered as if it had come alone.
//!
//! It is no transaction: operations run side by side, [`AT_ONCE`] at a time, and each takes the way of a single request
//! through the same coordinator. All share one deadline. A batch that cannot be read is refused as a whole before
//! any of it begins; an operation that is wrong is refused alone.
//!
//! What is read is held until the answer is sent, so reads that come after [`BATCH_BYTES`] of answers are refused: the
//! client asks for them again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::App;
use super::kv::{self, Answer};
use super::problem::Problem;
use super::query::{self, Parameters};
use crate::domain::causality::CausalContext;
use crate::domain::key::Key;
use crate::domain::object::Content;
use crate::rpc::message::RequestHead;
use crate::runtime::time;
use crate::service::coordinator::RequestError;
use crate::service::replica::Intent;

/// Where batches are sent.
pub const PATH: &str = "/v1/batch";
/// Operations of a batch at the most.
pub const OPERATIONS_MAX: usize = 1_000;
/// Bytes of a batch's body at the most, and, about, of its answer.
pub const BATCH_BYTES: usize = 8 << 20;
/// Operations of a batch under way at one time.
pub const AT_ONCE: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    ops: Vec<Operation<'a>>,
}

/// One operation. Names and tokens are owned: they may be escaped.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation<'a> {
    Get(Get),
    #[serde(borrow)]
    Put(Put<'a>),
    Delete(Delete),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    bucket: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put<'a> {
    bucket: String,
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    context: Option<String>,
    /// In seconds.
    ttl: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    bucket: String,
    key: String,
    context: Option<String>,
}

/// What holds for every operation of a batch.
struct Terms<'a> {
    app: &'a App,
    head: RequestHead,
    read: Parameters,
    write: Parameters,
    /// Bytes of answers so far.
    answered: AtomicUsize,
}

/// Answers a batch.
///
/// # Errors
/// 400, 405, 408, 413: nothing was done.
pub(super) async fn answer(
    app: &App,
    id: u64,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Ok(Problem::wrong_method(&parts.method, PATH).allowing("POST"));
    }
    let replicas = app.coordinator.cluster().ring().n() as u8;
    let (read, write) = query::batch(parts.uri.query(), &app.config, replicas)?;
    let allowed = Duration::from_millis(app.config.timeouts.body_read_ms);
    let body = kv::read_body(body, BATCH_BYTES, allowed, too_large).await?;
    let Batch { ops } = serde_json::from_slice(&body).map_err(|error| {
        let detail =
            format!("the batch is not of the form {{\"ops\":[{{\"get\":{{…}}}}, …]}}: {error}");
        Problem::bad_request("invalid-batch", detail)
    })?;
    if ops.len() > OPERATIONS_MAX {
        return Err(Problem::batch_too_large(format!(
            "the batch has {} operations, at most {OPERATIONS_MAX} are accepted: send several",
            ops.len()
        )));
    }
    app.metrics.batches.increment();
    app.metrics.batch_operations.add(ops.len() as u64);
    let head = RequestHead { request_id: id, deadline: time::now() + read.timeout };
    let terms = Terms { app, head, read, write, answered: AtomicUsize::new(0) };
    let mut out = String::from(r#"{"results":["#);
    let (mut waiting, mut running) = (ops.into_iter(), FuturesOrdered::new());
    let mut comma = "";
    loop {
        while running.len() < AT_ONCE
            && let Some(operation) = waiting.next()
        {
            running.push_back(perform(&terms, operation));
        }
        let Some(result) = running.next().await else { break };
        out.push_str(comma);
        out.push_str(&result);
        comma = ",";
    }
    out.push_str("]}");
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/json")], Body::from(out)).into_response())
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("the batch is over the limit of {limit} bytes: send several");
    Problem::batch_too_large(detail).with("limit", limit)
}

/// One operation's result, as JSON.
async fn perform(terms: &Terms<'_>, operation: Operation<'_>) -> String {
    let result = match operation {
        Operation::Get(get) => read(terms, &get).await,
        Operation::Put(put) => write(terms, &put).await,
        Operation::Delete(delete) => remove(terms, &delete).await,
    };
    let result = match result {
        Ok(answer) => {
            format!(r#"{{"status":{},{}}}"#, answer.status().as_u16(), answer.fields())
        }
        Err(problem) => problem.body_with_context().to_string(),
    };
    terms.answered.fetch_add(result.len(), Ordering::Relaxed);
    result
}

async fn read(terms: &Terms<'_>, get: &Get) -> Result<Answer, Problem> {
    let key = named(&get.bucket, &get.key)?;
    if terms.answered.load(Ordering::Relaxed) >= BATCH_BYTES {
        let detail = "the values read before fill the answer: ask for this one in another batch";
        return Err(Problem::batch_too_large(detail.to_owned()));
    }
    in_time(terms, &key, terms.read.required)?;
    kv::read(terms.app, terms.head, &key, terms.read.wanted()).await
}

async fn write(terms: &Terms<'_>, put: &Put<'_>) -> Result<Answer, Problem> {
    let key = named(&put.bucket, &put.key)?;
    let (seen, newest_ms) = seen(put.context.as_deref(), &key)?;
    let content = kv::content_of(terms.app, &key, put.value.get().as_bytes())?;
    let ttl = put.ttl.map(query::ttl).transpose()?;
    let intent = Intent { seen, newest_ms, content, expires_at_ms: kv::expiry(ttl) };
    in_time(terms, &key, terms.write.required)?;
    kv::write(terms.app, terms.head, &key, intent, terms.write.wanted()).await
}

async fn remove(terms: &Terms<'_>, delete: &Delete) -> Result<Answer, Problem> {
    let key = named(&delete.bucket, &delete.key)?;
    let (seen, newest_ms) = seen(delete.context.as_deref(), &key)?;
    let intent = Intent { seen, newest_ms, content: Content::Tombstone, expires_at_ms: None };
    in_time(terms, &key, terms.write.required)?;
    kv::write(terms.app, terms.head, &key, intent, terms.write.wanted()).await
}

fn named(bucket: &str, name: &str) -> Result<Key, Problem> {
    Key::new(bucket, name).map_err(|error| Problem::bad_request("bad-key", error))
}

fn seen(token: Option<&str>, key: &Key) -> Result<(CausalContext, u64), Problem> {
    token.map_or_else(|| Ok(Default::default()), |token| kv::seen_by(token, key))
}

/// An operation whose turn comes after the deadline is not begun.
fn in_time(terms: &Terms<'_>, key: &Key, required: u8) -> Result<(), Problem> {
    if time::now() < terms.head.deadline {
        return Ok(());
    }
    let late = RequestError::DeadlineExceeded { required, received: 0, hinted: 0 };
    Err(Problem::from_request(&late, key))
}
