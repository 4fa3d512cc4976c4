//! What a node answers before it serves: that it lives, and what it waits for.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::ops;
use super::problem::Problem;

/// Says, in words that follow "the node does not serve:", what a node waits for.
pub type Reason = Arc<dyn Fn() -> String + Send + Sync>;

/// The routes that connections get: at first those of a node that does not serve yet.
#[derive(Clone)]
pub struct Front {
    waiting: Router,
    serving: Arc<OnceLock<Router>>,
}

impl Front {
    /// Until [`serve`](Self::serve) every request but liveness is refused with 503 and the reason.
    pub fn waiting(reason: Reason) -> Self {
        let refuse = move || {
            let reason = reason.clone();
            async move { refusal(&reason()) }
        };
        let waiting = Router::new().route("/health/live", get(ops::live)).fallback(refuse);
        Self { waiting, serving: Arc::default() }
    }

    /// From now on new connections get `router`.
    pub fn serve(&self, router: Router) {
        // Whoever comes second finds the node serving.
        let _already = self.serving.set(router);
    }

    /// What a connection that is accepted now gets.
    pub(super) fn current(&self) -> Router {
        self.serving.get().unwrap_or(&self.waiting).clone()
    }
}

impl From<Router> for Front {
    /// Serves at once.
    fn from(router: Router) -> Self {
        let serving = OnceLock::from(router.clone());
        Self { waiting: router, serving: Arc::new(serving) }
    }
}

/// The connection closes: the next one may find the node serving.
fn refusal(reason: &str) -> Response {
    let mut response = Problem::not_ready(reason).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
