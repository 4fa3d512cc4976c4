//! What a node answers before it serves: that it lives, and what it waits for.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::ops;
use super::problem::Problem;
use super::site::Site;

/// Says, in words that follow "the node does not serve:", what a node waits for.
pub type Reason = Arc<dyn Fn() -> String + Send + Sync>;

/// What connections get: at first a node that does not serve yet.
#[derive(Clone)]
pub struct Front {
    waiting: Site,
    serving: Arc<OnceLock<Site>>,
}

impl Front {
    /// Until [`serve`](Self::serve) every request but liveness is refused with 503 and the reason.
    pub fn waiting(reason: Reason) -> Self {
        let refuse = move || {
            let reason = reason.clone();
            async move { refusal(&reason()) }
        };
        let waiting = Router::new().route("/health/live", get(ops::live)).fallback(refuse);
        Self { waiting: waiting.into(), serving: Arc::default() }
    }

    /// From now on new connections get `site`.
    pub fn serve(&self, site: Site) {
        // Whoever comes second finds the node serving.
        let _already = self.serving.set(site);
    }

    /// What a connection that is accepted now gets.
    pub(super) fn current(&self) -> Site {
        self.serving.get().unwrap_or(&self.waiting).clone()
    }
}

impl From<Router> for Front {
    /// Serves at once.
    fn from(router: Router) -> Self {
        let site = Site::from(router);
        Self { serving: Arc::new(OnceLock::from(site.clone())), waiting: site }
    }
}

/// The connection closes: the next one may find the node serving.
fn refusal(reason: &str) -> Response {
    let mut response = Problem::not_ready(reason).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
