//! The bare target: axum, a map in memory, nothing else. What a node could reach if it did no work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use clap::Args;

use super::BenchError;
use crate::http::server::{Limits, Server};
use crate::runtime::net::TcpListener;
use crate::service::metrics::Metrics;

/// Serve the bench's bare target.
#[derive(Args, Debug, Clone)]
pub(crate) struct BareArgs {
    /// Where to listen, host:port.
    #[arg(long)]
    listen: String,
    /// Worker threads; 0: one for each core.
    #[arg(long, default_value_t = 1)]
    pub(super) threads: usize,
}

type Map = Arc<Mutex<BTreeMap<(String, String), Bytes>>>;

/// Serves until the process ends.
pub(super) async fn serve(args: BareArgs) -> Result<(), BenchError> {
    let listener = TcpListener::bind(&args.listen).await?;
    let router = Router::new()
        .route("/v1/kv/{bucket}/{key}", get(read).put(write))
        .route("/health/ready", get(|| async { "ready\n" }))
        .with_state(Map::default());
    let minute = Duration::from_secs(60);
    let limits = Limits {
        connections: 4096,
        head_bytes: 1 << 16,
        idle: minute,
        head: minute,
        write: minute,
    };
    let server = Server::start(listener, router.into(), limits, Arc::new(Metrics::default()));
    if let Err(error) = crate::runtime::signal::shutdown().await {
        tracing::warn!(%error, "no signal handler");
    }
    server.stop(Duration::ZERO).await;
    Ok(())
}

async fn read(
    State(map): State<Map>,
    Path(key): Path<(String, String)>,
) -> Result<Bytes, StatusCode> {
    let map = map.lock().unwrap_or_else(PoisonError::into_inner);
    map.get(&key).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn write(State(map): State<Map>, Path(key): Path<(String, String)>, value: Bytes) {
    let value = Bytes::copy_from_slice(&value);
    map.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
}
