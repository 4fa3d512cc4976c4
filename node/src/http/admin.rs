//! What an operator asks a node to do: so far, to make a snapshot of its data.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;

use super::App;
use super::cluster::{Json, as_json};
use super::problem::Problem;

/// 201 once the node's data, as it was at one moment, is whole and durable in the folder
/// `snapshots/{name}` of its data folder. It goes on if the client does not wait for it.
///
/// # Errors
/// 400: no such name can be. 409: it is there. 503: the node stops, makes another one, or cannot write.
pub async fn snapshot(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json), Problem> {
    let made = app.replica.engine().checkpoint(&name).await;
    let made = made.map_err(|error| Problem::from_checkpoint(&error))?;
    tracing::info!(folder = %made.folder.display(), tables = made.tables, "made a snapshot");
    let body = json!({
        "folder": made.folder.display().to_string(), "tables": made.tables, "bytes": made.bytes,
        "entries": made.entries, "hints": made.hints,
    });
    Ok((StatusCode::CREATED, as_json(&body)))
}
