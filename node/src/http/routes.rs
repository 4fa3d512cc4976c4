//! Every route there is, in one table: what the router serves, and what [`openapi`](super::openapi) tells of it.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, get, post};

use super::problem::Problem;
use super::query::{self, Operation};
use super::{App, admin, batch, cluster, openapi, ops};

/// What one method does at one path.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// As axum writes it: `{name}` is one segment, `{*name}` the rest.
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// Names of query parameters, as errors list them; empty: none is allowed, or none is looked at.
    pub(super) query: &'static str,
    /// The JSON that is sent; `None`: nothing is.
    pub(super) body: Option<&'static str>,
    /// Takes and gives a causal context in a header.
    pub(super) contexts: bool,
    /// Statuses other than problems, and what they mean.
    pub(super) answers: &'static [(u16, &'static str)],
    /// Statuses of problems.
    pub(super) problems: &'static [u16],
    /// Who answers; `None`: [`site`](super::site) does, before the router is asked.
    handler: Option<fn() -> MethodRouter<Arc<App>>>,
}

const READ: &[(u16, &str)] = &[
    (200, "the value's own bytes"),
    (300, "concurrent values, and the context that covers them all"),
];
const WRITTEN: &[(u16, &str)] =
    &[(200, "written: the context, who acked it, and how many siblings there are now")];
const OF_READS: &[u16] = &[400, 404, 429, 503, 504];
const OF_WRITES: &[u16] = &[400, 408, 409, 413, 429, 503, 504];

const fn key(
    method: &'static str,
    summary: &'static str,
    operation: Operation,
    answers: &'static [(u16, &'static str)],
    problems: &'static [u16],
) -> Route {
    let (path, query) = ("/v1/kv/{bucket}/{*key}", operation.allowed());
    Route {
        method,
        path,
        summary,
        query,
        body: None,
        contexts: true,
        answers,
        problems,
        handler: None,
    }
}

const fn shows(
    path: &'static str,
    summary: &'static str,
    query: &'static str,
    problems: &'static [u16],
    handler: fn() -> MethodRouter<Arc<App>>,
) -> Route {
    let (body, contexts, answers, handler) =
        (None, false, &[(200, "what is asked for")], Some(handler));
    Route { method: "get", path, summary, query, body, contexts, answers, problems, handler }
}

/// All of them, in the order in which people are told.
pub(super) const ROUTES: &[Route] = &[
    key("get", "Read a key", Operation::Read, READ, OF_READS),
    key("head", "Read a key without its value", Operation::Read, READ, OF_READS),
    Route {
        body: Some("any JSON document"),
        ..key("put", "Write a key", Operation::Put, WRITTEN, OF_WRITES)
    },
    key("delete", "Delete a key", Operation::Delete, WRITTEN, OF_WRITES),
    Route {
        method: "get",
        path: "/v1/kv/{bucket}",
        summary: "List the keys of one {tag}, in order",
        query: query::LISTING,
        body: None,
        contexts: false,
        answers: &[(200, "a page of items, and where the next one starts")],
        problems: &[400, 429, 503, 504],
        handler: None,
    },
    Route {
        method: "post",
        path: batch::PATH,
        summary: "Read, write and delete many keys, each for itself",
        query: "",
        body: Some("{\"ops\": [{\"get\": …}, {\"put\": …}, {\"delete\": …}]}"),
        contexts: false,
        answers: &[(200, "one result for each, with a status of its own")],
        problems: &[400, 408, 413, 429, 503],
        handler: None,
    },
    shows("/v1/cluster", "The members, and what is believed of them", "", &[503], || {
        get(cluster::members)
    }),
    shows("/v1/cluster/ring", "Every partition and its nodes", "", &[503], || get(cluster::ring)),
    shows("/v1/cluster/where/{bucket}/{*key}", "Where a key lives", "", &[400, 503], || {
        get(cluster::locate)
    }),
    shows("/v1/cluster/hints", "What is kept for members that are away", "", &[503], || {
        get(cluster::hints)
    }),
    shows("/v1/cluster/repair", "How replicas are compared and healed", "", &[503], || {
        get(cluster::repair)
    }),
    shows(
        "/v1/cluster/conflicts",
        "Keys with concurrent values",
        query::CONFLICTS,
        &[400, 503],
        || get(cluster::conflicts),
    ),
    Route {
        method: "post",
        path: "/v1/admin/snapshots/{name}",
        summary: "Make a consistent copy of this node's data",
        query: "",
        body: None,
        contexts: false,
        answers: &[(201, "it is whole and durable")],
        problems: &[400, 409, 503],
        handler: Some(|| post(admin::snapshot)),
    },
    Route {
        method: "post",
        path: "/v1/admin/repair",
        summary: "Compare this node's partitions with the other replicas now",
        query: query::PARTITION,
        body: None,
        contexts: false,
        answers: &[(202, "it was begun: /v1/cluster/repair tells how it goes")],
        problems: &[400, 503],
        handler: Some(|| post(admin::repair)),
    },
    shows("/health/live", "Whether the process works", "", &[], || get(ops::live)),
    shows("/health/ready", "Whether the node serves, or why not", "", &[503], || get(ops::ready)),
    shows("/metrics", "OpenMetrics text", "", &[503], || get(ops::metrics)),
    shows(openapi::PATH, "This description", "", &[], || get(openapi::document)),
];

/// All routes but those that [`site`](super::site) answers itself.
pub fn router(app: Arc<App>) -> Router {
    let served = ROUTES.iter().filter_map(|route| Some((route.path, route.handler?)));
    served
        .fold(Router::new(), |router, (path, handler)| router.route(path, handler()))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_route)
        .with_state(app)
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::no_such_route(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::wrong_method(&method, uri.path())
}
