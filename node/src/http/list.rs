//! `GET /v1/kv/{bucket}?prefix=…`: the keys of one `{tag}` that begin with a prefix, in order, with their values.
//!
//! An answer is a page: at most `limit` items, or about [`PAGE_BYTES`] of them, and `next`, the key behind which the next
//! page begins (`start=`). What is deleted or expired is not shown, so a page may have fewer items than were asked for, or
//! none, although there is a next one: a page looks at [`ROUNDS`] pages of the replicas at the most.

use std::fmt::Write as _;

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problem::Problem;
use super::query::{self, PAGE_MAX};
use super::{App, kv};
use crate::rpc::message::RequestHead;
use crate::runtime::time;

/// Bytes of values on a page, at about the most.
pub const PAGE_BYTES: usize = 1 << 20;
/// Pages that replicas are asked for at the most, when what they hold is not to be shown.
pub const ROUNDS: usize = 8;

/// Answers a request for a listing of `bucket`, as it stands in the path.
///
/// # Errors
/// 400, 405, 503, 504.
pub(super) async fn answer(
    app: &App,
    id: u64,
    bucket: &str,
    method: &Method,
    query: Option<&str>,
) -> Result<Response, Problem> {
    if *method != Method::GET {
        return Ok(Problem::wrong_method(method, "a bucket").allowing("GET"));
    }
    let bucket = query::bucket_of(bucket)?;
    let replicas = app.coordinator.cluster().ring().n() as u8;
    let (mut listing, limit, parameters) = query::listing(&bucket, query, &app.config, replicas)?;
    let head = RequestHead { request_id: id, deadline: time::now() + parameters.timeout };
    let mut out = String::from(r#"{"items":["#);
    let mut items = 0;
    let mut next = None;
    for _ in 0..ROUNDS {
        listing.entries = limit.saturating_sub(items).min(PAGE_MAX) as u32;
        listing.bytes = PAGE_BYTES.saturating_sub(out.len()) as u32;
        let merged = app.coordinator.list(head, &listing, parameters.required).await;
        let merged = merged.map_err(|error| Problem::from_request(&error, &listing.prefix))?;
        for (key, answer) in &merged.entries {
            let Some(object) = &answer.object else { continue };
            // A problem says that there is nothing to show.
            let Ok(shown) = kv::show(app, key, object) else { continue };
            let comma = if items == 0 { "" } else { "," };
            let name = json!(key.name());
            let _infallible = write!(out, r#"{comma}{{"key":{name},{}}}"#, shown.fields());
            items += 1;
        }
        next = merged.through;
        match &next {
            Some(last) if items < limit && out.len() < PAGE_BYTES => {
                listing = listing.behind(last.clone());
            }
            Some(_) | None => break,
        }
    }
    let next = json!(next.map(|key| key.name().to_owned()));
    let _infallible = write!(out, r#"],"next":{next}}}"#);
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/json")], out).into_response())
}
