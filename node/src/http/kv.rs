//! `/v1/kv/{bucket}/{key}`: one key at a time. Batches and listings read, write and show keys with the same functions.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;

use super::date::rfc3339;
use super::problem::Problem;
use super::query::{self, Operation, Parameters};
use super::{App, CAUSAL_CONTEXT};
use crate::domain::causality::CausalContext;
use crate::domain::context_token;
use crate::domain::key::Key;
use crate::domain::object::{Content, Object, Sibling};
use crate::domain::policy::Policy;
use crate::rpc::message::{RequestHead, WriteReply};
use crate::runtime::time;
use crate::service::coordinator::Wanted;
use crate::service::replica::{Intent, pair_bytes};

const PREFIX: &str = "/v1/kv/";

fn key_of(uri: &Uri) -> Result<Key, Problem> {
    query::key_of(uri.path().strip_prefix(PREFIX).unwrap_or_default())
}

fn parameters(app: &App, uri: &Uri, operation: Operation) -> Result<Parameters, Problem> {
    let replicas = app.coordinator.cluster().ring().n() as u8;
    query::parse(uri.query(), operation, &app.config, replicas)
}

fn head(id: u64, parameters: &Parameters) -> RequestHead {
    RequestHead { request_id: id, deadline: time::now() + parameters.timeout }
}

/// True when `path` names a bucket and something in it.
pub fn is_key(path: &str) -> bool {
    let names = path.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
    names.is_some_and(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
}

/// The bucket, still percent-encoded, when `path` names one and no key.
pub fn bucket_of(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX).filter(|bucket| !bucket.is_empty() && !bucket.contains('/'))
}

/// Answers a request for a key.
///
/// # Errors
/// 400, 404, 405, 408, 409, 413, 503, 504 as the contract says.
pub(super) async fn answer(
    app: &App,
    id: u64,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    match *request.method() {
        Method::GET | Method::HEAD => get(app, id, request.uri()).await,
        Method::PUT => put(app, id, request).await,
        Method::DELETE => delete(app, id, request.uri(), request.headers()).await,
        _ => {
            let (method, path) = (request.method(), request.uri().path());
            Ok(Problem::wrong_method(method, path).allowing("GET,HEAD,PUT,DELETE"))
        }
    }
}

async fn get(app: &App, id: u64, uri: &Uri) -> Result<Response, Problem> {
    let key = key_of(uri)?;
    let parameters = parameters(app, uri, Operation::Read)?;
    Ok(read(app, head(id, &parameters), &key, parameters.wanted()).await?.into_response())
}

/// Reads `key`.
///
/// # Errors
/// 404, 503, 504.
pub(super) async fn read(
    app: &App,
    head: RequestHead,
    key: &Key,
    wanted: Wanted,
) -> Result<Answer, Problem> {
    let read = app.coordinator.read(head, key, wanted).await;
    match read.map_err(|error| Problem::from_request(&error, key))? {
        None => Err(Problem::no_such_key(key, None)),
        Some(object) => show(app, key, &object),
    }
}

async fn put(app: &App, id: u64, request: Request<Incoming>) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let key = key_of(&parts.uri)?;
    let parameters = parameters(app, &parts.uri, Operation::Put)?;
    let (seen, newest_ms) = context_of(&parts.headers, &key)?;
    let head = head(id, &parameters);
    let limit = app.config.limits.pair_bytes;
    let allowed = Duration::from_millis(app.config.timeouts.body_read_ms);
    let value = read_body(body, limit, allowed, Problem::pair_too_large).await?;
    let content = content_of(app, &key, &value)?;
    let intent = Intent { seen, newest_ms, content, expires_at_ms: expiry(parameters.ttl) };
    Ok(write(app, head, &key, intent, parameters.wanted()).await?.into_response())
}

/// `value` as it is to be stored under `key`.
///
/// # Errors
/// 413: the pair is too large. 400: it is not JSON.
pub(super) fn content_of(app: &App, key: &Key, value: &[u8]) -> Result<Content, Problem> {
    let limit = app.config.limits.pair_bytes;
    // Copied, so that what is kept does not pin the connection's read buffer.
    let value = Bytes::copy_from_slice(value);
    if pair_bytes(key, &value) > limit {
        return Err(Problem::pair_too_large(limit));
    }
    check_json(&value)?;
    Ok(Content::Value(value))
}

/// When what is written now with this time to live expires, in Unix milliseconds.
pub(super) fn expiry(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| time::wall_clock_ms().saturating_add(ttl.as_millis() as u64))
}

/// Writes a tombstone.
async fn delete(app: &App, id: u64, uri: &Uri, headers: &HeaderMap) -> Result<Response, Problem> {
    let key = key_of(uri)?;
    let parameters = parameters(app, uri, Operation::Delete)?;
    let (seen, newest_ms) = context_of(headers, &key)?;
    let intent = Intent { seen, newest_ms, content: Content::Tombstone, expires_at_ms: None };
    Ok(write(app, head(id, &parameters), &key, intent, parameters.wanted()).await?.into_response())
}

/// Writes `intent` under `key`.
///
/// # Errors
/// 400, 409, 413, 503, 504.
pub(super) async fn write(
    app: &App,
    head: RequestHead,
    key: &Key,
    intent: Intent,
    wanted: Wanted,
) -> Result<Answer, Problem> {
    let written = app.coordinator.write(head, key, intent, wanted).await;
    let reply = written.map_err(|error| Problem::from_request(&error, key))?;
    let WriteReply { context, newest_ms, siblings, required, received, hinted } = reply;
    let token = context_token::encode(&context, newest_ms, key);
    let body = format!(
        r#"{{"context":"{token}","acks":{{"required":{required},"received":{received},"hinted":{hinted}}},"siblings":{siblings}}}"#
    );
    Ok(Answer { what: What::Written(body), token })
}

fn context_of(headers: &HeaderMap, key: &Key) -> Result<(CausalContext, u64), Problem> {
    let Some(header) = headers.get(CAUSAL_CONTEXT) else { return Ok(Default::default()) };
    // Bytes that are not text are no token either, so the decoder says what is wrong.
    seen_by(header.to_str().unwrap_or("\u{fffd}"), key)
}

/// What a client's token for `key` says.
///
/// # Errors
/// 400.
pub(super) fn seen_by(token: &str, key: &Key) -> Result<(CausalContext, u64), Problem> {
    context_token::decode(token, key)
        .map_err(|error| Problem::bad_request("bad-context", format!("Causal-Context: {error}")))
}

/// A body of at most `limit` bytes, that comes within `allowed`; else what `too_large` says.
///
/// # Errors
/// 400, 408, 413.
pub(super) async fn read_body(
    body: Incoming,
    limit: usize,
    allowed: Duration,
    too_large: impl Fn(usize) -> Problem,
) -> Result<Bytes, Problem> {
    let mut collecting = Box::pin(Limited::new(body, limit).collect());
    // Most bodies arrive with their head; only the others need a timer.
    let collected = match (&mut collecting).now_or_never() {
        Some(collected) => collected,
        None => time::timeout(allowed, collecting)
            .await
            .map_err(|time::Elapsed| Problem::body_too_slow(allowed))?,
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large(limit)),
        Err(error) => {
            let detail = format!("the body could not be read: {error}");
            Err(Problem::bad_request("bad-body", detail))
        }
    }
}

fn check_json(value: &[u8]) -> Result<(), Problem> {
    if let Err(error) = std::str::from_utf8(value) {
        return Err(Problem::invalid_json(error.valid_up_to(), "bytes that are not UTF-8"));
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(value) {
        Ok(_) => Ok(()),
        Err(error) => {
            let lines = value.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1));
            let before = lines.map(<[u8]>::len).sum::<usize>();
            let offset = (before + error.column().saturating_sub(1)).min(value.len());
            // serde_json appends the line and column; the offset says it better.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            Err(Problem::invalid_json(offset, what))
        }
    }
}

/// The token of a read that found `object`.
fn token_of(app: &App, key: &Key, object: &Object) -> String {
    let newest_ms = match app.replica.rules().policies.of(key.bucket()) {
        Policy::Siblings => 0,
        Policy::LastWrite => object.newest_ms(),
    };
    context_token::encode(object.context(), newest_ms, key)
}

/// What a request for a key is answered with, if it is no problem.
#[derive(Debug)]
pub(super) struct Answer {
    what: What,
    token: String,
}

#[derive(Debug)]
enum What {
    /// One value.
    Value(Bytes),
    /// More than one, as the answer's body.
    Siblings(String),
    /// A write, as the answer's body.
    Written(String),
}

impl Answer {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = match self.what {
            What::Value(value) => Body::from(value),
            What::Siblings(body) | What::Written(body) => body.into(),
        };
        respond(status, body, &self.token)
    }

    /// The fields of a JSON object that say the same, without its braces: `"value":…,"context":…` and the like.
    pub(super) fn fields(&self) -> String {
        match &self.what {
            What::Value(value) => {
                // Stored values are valid JSON and so valid UTF-8: they were checked when written.
                let value = String::from_utf8_lossy(value);
                format!(r#""value":{value},"context":"{}""#, self.token)
            }
            What::Siblings(body) | What::Written(body) => {
                let inside = body.strip_prefix('{').and_then(|body| body.strip_suffix('}'));
                inside.unwrap_or_default().to_owned()
            }
        }
    }

    /// The status of a request that has this answer.
    pub(super) fn status(&self) -> StatusCode {
        match self.what {
            What::Value(_) | What::Written(_) => StatusCode::OK,
            What::Siblings(_) => StatusCode::MULTIPLE_CHOICES,
        }
    }
}

/// One value, siblings, or nothing.
///
/// # Errors
/// 404.
pub(super) fn show(app: &App, key: &Key, object: &Object) -> Result<Answer, Problem> {
    let token = token_of(app, key, object);
    match object.shown(time::wall_clock_ms()).as_slice() {
        [] | [(_, None)] => Err(Problem::no_such_key(key, Some(token))),
        [(_, Some(value))] => Ok(Answer { what: What::Value((*value).clone()), token }),
        siblings => {
            app.metrics.conflicts.increment();
            Ok(Answer { what: What::Siblings(conflict_body(siblings, &token)), token })
        }
    }
}

fn conflict_body(siblings: &[(&Sibling, Option<&Bytes>)], token: &str) -> String {
    let mut body = String::from(r#"{"siblings":["#);
    for (at, (sibling, value)) in siblings.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let written_at = rfc3339(sibling.written_at_ms);
        let what = match value {
            // Stored values are valid JSON and so valid UTF-8: they were checked when written.
            Some(value) => format!(r#""value":{}"#, String::from_utf8_lossy(value)),
            None => r#""deleted":true"#.to_owned(),
        };
        let _infallible = write!(body, r#"{comma}{{{what},"written_at":"{written_at}"}}"#);
    }
    let _infallible = write!(body, r#"],"context":"{token}"}}"#);
    body
}

fn respond(status: StatusCode, body: Body, token: &str) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(token) = HeaderValue::try_from(token) {
        headers.insert(CAUSAL_CONTEXT, token);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_name_the_byte() {
        let offset = |text: &str| match check_json(text.as_bytes()) {
            Ok(()) => None,
            Err(problem) => problem.body()["offset"].as_u64(),
        };
        assert_eq!(offset(r#"{"a":[1,2.5e3,null,"ü"]}"#), None);
        assert_eq!(offset("  7 "), None);
        assert_eq!(offset("{\"a\":\n  x}"), Some(8));
        assert_eq!(offset("[1,]"), Some(3));
        assert_eq!(offset(""), Some(0));
        assert_eq!(offset("1 2"), Some(2));
        assert!(check_json(b"\"a\xff\"").unwrap_err().body()["offset"] == 2);
    }
}
