//! Every error's document (RFC 9457), in one place: status, stable type, one sentence on what to do.

use std::fmt::Display;
use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::CAUSAL_CONTEXT;
use crate::domain::context_token;
use crate::domain::key::Key;
use crate::service::coordinator::RequestError;
use crate::storage::{CheckpointError, ReadError};

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    fields: Map<String, Value>,
    retry_after: Option<Duration>,
    context: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Display) -> Self {
        Self {
            status,
            kind,
            detail: detail.to_string(),
            fields: Map::new(),
            retry_after: None,
            context: None,
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// 400: a key, parameter or header is wrong.
    pub fn bad_request(kind: &'static str, detail: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    /// 400: the body is not JSON, first noticed at byte `offset`.
    pub fn invalid_json(offset: usize, what: impl Display) -> Self {
        let detail =
            format!("the body is not JSON: {what} at byte {offset}: send one JSON document");
        Self::new(StatusCode::BAD_REQUEST, "invalid-json", detail).with("offset", offset)
    }

    /// 413: nothing was stored.
    pub fn pair_too_large(limit: usize) -> Self {
        let detail = format!(
            "key and value together are over the limit of {limit} bytes: store less, or raise limits.pair_bytes"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "pair-too-large", detail).with("limit", limit)
    }

    /// 413: a batch, or its answer, is over a limit.
    pub fn batch_too_large(detail: String) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "batch-too-large", detail)
    }

    /// 408: the body did not arrive in time; nothing was stored.
    pub fn body_too_slow(allowed: Duration) -> Self {
        let detail =
            format!("the body did not arrive within {} ms: send it faster", allowed.as_millis());
        Self::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail)
    }

    /// 503: refused before any work.
    pub fn overloaded(after: Duration) -> Self {
        let detail =
            "the node is over capacity and did nothing: try again after the time in Retry-After";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "over-capacity", detail).retry_after(after)
    }

    /// 503: the node does not serve yet, or no longer.
    pub fn not_ready(why: &str) -> Self {
        let detail = format!("the node does not serve: {why}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
            .retry_after(Duration::from_secs(1))
    }

    /// 503: this node cannot read its data.
    pub fn unreadable(error: &ReadError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage-unavailable", error)
            .retry_after(Duration::from_secs(1))
    }

    /// What a snapshot that was not made says: 400 or 409 for its name, else 503.
    pub fn from_checkpoint(error: &CheckpointError) -> Self {
        let (status, kind) = match error {
            CheckpointError::Name => (StatusCode::BAD_REQUEST, "snapshot-name"),
            CheckpointError::Exists(_) => (StatusCode::CONFLICT, "snapshot-exists"),
            CheckpointError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "snapshot-busy"),
            CheckpointError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            CheckpointError::Disk { .. } => (StatusCode::SERVICE_UNAVAILABLE, "snapshot-failed"),
        };
        Self::new(status, kind, error)
    }

    /// 404: no such route.
    pub fn no_such_route(path: &str) -> Self {
        let detail = format!("there is nothing at {path}: keys are at /v1/kv/{{bucket}}/{{key}}");
        Self::new(StatusCode::NOT_FOUND, "no-such-route", detail)
    }

    /// 405; the router adds `Allow`.
    pub fn wrong_method(method: &Method, path: &str) -> Self {
        let detail = format!("{path} does not take {method}: use a method named in Allow");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
    }

    /// 404 of a key: nothing is there, or only a tombstone whose context is given.
    pub fn no_such_key(key: &Key, context: Option<String>) -> Self {
        let detail = format!("there is no value under {key}");
        let mut problem = Self::new(StatusCode::NOT_FOUND, "no-such-key", detail);
        problem.context = context;
        problem
    }

    /// What a failed request for `key` says to its client.
    pub fn from_request(error: &RequestError, key: &Key) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let counted = |status, kind, required: u8, received: u8, hinted: u8| {
            Self::new(status, kind, error)
                .with("required", required)
                .with("received", received)
                .with("hinted", hinted)
                .with("outcome", "unknown")
                .retry_after(Duration::from_secs(1))
        };
        match error {
            RequestError::QuorumUnmet { required, received, hinted } => {
                counted(unavailable, "quorum-unmet", *required, *received, *hinted)
            }
            RequestError::DeadlineExceeded { required, received, hinted } => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                counted(status, "deadline-exceeded", *required, *received, *hinted)
            }
            RequestError::TooManySiblings { limit, context } => {
                let token = context_token::encode(context, 0, key);
                let mut problem = Self::new(StatusCode::CONFLICT, "too-many-siblings", error)
                    .with("limit", *limit)
                    .with("context", token.clone());
                problem.context = Some(token);
                problem
            }
            RequestError::TooFarAhead(ahead) => Self::bad_request("bad-context", ahead),
            RequestError::Overloaded { retry_after_ms } => {
                Self::overloaded(Duration::from_millis(*retry_after_ms))
            }
            RequestError::PairTooLarge { limit } => Self::pair_too_large(*limit),
            RequestError::Storage(_) => Self::new(unavailable, "storage-unavailable", error)
                .retry_after(Duration::from_secs(1)),
        }
    }

    /// The response, with an `Allow` of these methods.
    pub(super) fn allowing(self, methods: &'static str) -> Response {
        let mut response = self.into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        response
    }

    /// The document, with what would be the response's `Causal-Context`.
    pub fn body_with_context(&self) -> Value {
        let mut body = self.body();
        if let Some(token) = &self.context {
            body["context"] = json!(token);
        }
        body
    }

    /// The document.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), json!(self.kind));
        body.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        body.extend(self.fields.clone());
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(token) = self.context.and_then(|token| HeaderValue::try_from(token).ok()) {
            headers.insert(CAUSAL_CONTEXT, token);
        }
        response
    }
}
