//! What an operator asks a node to do: to make a snapshot of its data, to compare it with other replicas.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use serde_json::json;

use super::App;
use super::cluster::{Json, as_json};
use super::problem::Problem;
use super::query;

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

/// 202: the home partitions of this node, or the one that `?partition=` names, are compared with every other home
/// replica now; `GET /v1/cluster/repair` says when that is done.
///
/// # Errors
/// 400: the parameter is none, or this node is no home replica of the partition.
pub async fn repair(State(app): State<Arc<App>>, uri: Uri) -> Result<(StatusCode, Json), Problem> {
    let partition = query::partition(uri.query())?;
    if !app.anti_entropy.ask(partition) {
        let detail = "this node is no home replica of that partition: see /v1/cluster/ring";
        return Err(Problem::bad_request("bad-parameter", detail));
    }
    Ok((StatusCode::ACCEPTED, as_json(&json!({"partition": partition}))))
}
