//! Every request's way in: numbered, refused when the node is over capacity, timed, counted.
//!
//! ```text
//! /v1/kv/…   straight to [`kv`]: matched by hand, since these requests are what a node is for, and a
//!            router's boxes and captures would cost each of them about a tenth of its processor time
//! the rest   through axum's router
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use tower_service::Service;

use super::problem::Problem;
use super::{App, REQUEST_ID, batch, kv, list};
use crate::runtime::time;

/// What answers the requests of a connection. Clones are the same.
#[derive(Clone)]
pub struct Site {
    /// Answers requests for keys; `None`: there are none, all go to the router.
    app: Option<Arc<App>>,
    rest: Router,
}

impl Site {
    /// A node that serves: its keys, and `rest` for all other paths.
    pub fn of_node(app: Arc<App>, rest: Router) -> Self {
        Self { app: Some(app), rest }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response {
        match &self.app {
            Some(app) => admit(app, &self.rest, request).await,
            None => route(&self.rest, request).await,
        }
    }
}

impl From<Router> for Site {
    fn from(rest: Router) -> Self {
        Self { app: None, rest }
    }
}

async fn route(router: &Router, request: Request<Incoming>) -> Response {
    let answered: Result<Response, Infallible> = router.clone().call(request.map(Body::new)).await;
    match answered {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn admit(app: &Arc<App>, rest: &Router, request: Request<Incoming>) -> Response {
    let id = app.request_id(&request);
    tracing::debug!(request_id = id, method = %request.method(), path = request.uri().path(), "request");
    let mut response = if request.uri().path() == batch::PATH {
        let in_flight = InFlight::enter(&app.in_flight);
        match in_flight.before < app.config.limits.requests_in_flight {
            true => {
                batch::answer(app, id, request).await.unwrap_or_else(IntoResponse::into_response)
            }
            false => overloaded(app),
        }
    } else if let Some(bucket) = kv::bucket_of(request.uri().path()) {
        let in_flight = InFlight::enter(&app.in_flight);
        match in_flight.before < app.config.limits.requests_in_flight {
            true => list::answer(app, id, bucket, request.method(), request.uri().query())
                .await
                .unwrap_or_else(IntoResponse::into_response),
            false => overloaded(app),
        }
    } else if kv::is_key(request.uri().path()) {
        let started = time::now();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let in_flight = InFlight::enter(&app.in_flight);
        let response = if in_flight.before < app.config.limits.requests_in_flight {
            kv::answer(app, id, request).await.unwrap_or_else(IntoResponse::into_response)
        } else {
            overloaded(app)
        };
        let histogram = if reads { &app.metrics.get_seconds } else { &app.metrics.put_seconds };
        let now = time::now();
        histogram.record(now.since(started));
        app.metrics.foreground.note(now, reads, now.since(started));
        response
    } else {
        let _in_flight = InFlight::enter(&app.in_flight);
        route(rest, request).await
    };
    app.metrics.http_requests.increment();
    tracing::debug!(request_id = id, status = response.status().as_u16(), "answer");
    response.headers_mut().insert(REQUEST_ID, hex(id));
    response
}

fn overloaded(app: &App) -> Response {
    app.metrics.http_overloaded.increment();
    Problem::overloaded(Duration::from_secs(1)).into_response()
}

/// The id as 16 hex digits.
fn hex(id: u64) -> HeaderValue {
    let digit = |at: usize| b"0123456789abcdef"[(id >> (60 - 4 * at)) as usize & 15];
    let text: [u8; 16] = std::array::from_fn(digit);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// Counts a request for as long as it is being answered, however it ends.
struct InFlight<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_digits() {
        assert_eq!(hex(0), "0000000000000000");
        assert_eq!(hex(0x0123_4567_89ab_cdef), "0123456789abcdef");
    }
}
