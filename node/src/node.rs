//! One node, put together: storage, replica, peers, coordinator, servers.
//!
//! ```text
//! start:  lock folder ─ replay log ─ reserve epochs ─ bind rpc ─ dial peers ─ bind http ─ ready
//! stop:   not ready ─ drain http ─ drain rpc ─ flush and close the log
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::config::{self, Config};
use crate::domain::ring::{Member, Ring, RingError};
use crate::http::server::{Limits, Server};
use crate::http::{App, router};
use crate::rpc::identity::LocalInfo;
use crate::rpc::{self, Peers};
use crate::runtime::net::TcpListener;
use crate::runtime::task;
use crate::service::coordinator::{Coordinator, Patience};
use crate::service::metrics::Metrics;
use crate::service::peer_service::PeerService;
use crate::service::replica::Replica;
use crate::storage::{self, Engine, OpenError, ReserveError, SyncPolicy};

/// Why a node did not start. Nothing was served; the data folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be opened.
    #[error("cannot open the data folder {path}: {source}")]
    Storage {
        /// The folder.
        path: String,
        /// What is wrong with it.
        source: OpenError,
    },
    /// No epochs could be reserved.
    #[error("cannot reserve write epochs in the data folder: {0}")]
    Epochs(#[from] ReserveError),
    /// The members make no ring.
    #[error("the members make no ring: {0}")]
    Ring(#[from] RingError),
    /// The node is not among the members.
    #[error("node {0} is not among the members: add it to members, or correct node")]
    NotAMember(String),
    /// A listener can't be bound.
    #[error("cannot listen on {address} for {what}: {source}: is another process using it?")]
    Listen {
        /// http or rpc.
        what: &'static str,
        /// The address.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// A running node.
pub struct Node {
    app: Arc<App>,
    engine: Engine,
    ring: Arc<Ring>,
    http: Server,
    rpc: RpcServer,
    peers: Peers,
    drain: Duration,
}

impl Node {
    /// Starts a node and returns once it serves.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let ring = Arc::new(ring_of(&config)?);
        let me = ring
            .index_of(&config.node)
            .ok_or_else(|| StartError::NotAMember(config.node.clone()))?;
        let engine = open_storage(&config).await?;
        let replica = Arc::new(Replica::start(engine.clone(), config.limits.siblings).await?);
        let metrics = Arc::new(Metrics::default());

        let rpc_listener = listen("rpc", &config.rpc).await?;
        let local = local_info(&config, &engine);
        let peers = dial(&config, &local);
        let by_index = ring.members().iter().map(|member| peers.get(&member.name)).collect();
        let coordinator = Arc::new(Coordinator::new(
            me,
            ring.clone(),
            by_index,
            replica.clone(),
            metrics.clone(),
            Patience::default(),
        ));
        let service = PeerService::new(
            replica.clone(),
            coordinator.clone(),
            metrics.clone(),
            config.limits.pair_bytes,
        );
        let rpc = RpcServer::start(rpc_listener, &local, service, &config);

        let http_listener = listen("http", &config.http).await?;
        let limits = Limits::from_config(&config);
        let drain = Duration::from_millis(config.timeouts.drain_ms);
        let app = Arc::new(App::new(config, coordinator, replica, metrics.clone()));
        let http = Server::start(http_listener, router(app.clone()), limits, metrics);
        app.set_ready(true);
        tracing::info!(node = %app.config.node, http = %app.config.http, rpc = %app.config.rpc, "ready");
        Ok(Self { app, engine, ring, http, rpc, peers, drain })
    }

    /// Serves until `shutdown` completes, then lets requests under way finish, and closes the log.
    /// Afterwards everything acked is durable under either sync policy.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.stop().await;
    }

    /// Stops gracefully.
    pub async fn stop(self) {
        tracing::info!(node = %self.app.config.node, "stopping");
        self.app.set_ready(false);
        self.http.stop(self.drain).await;
        self.peers.stop();
        self.rpc.stop().await;
        if let Err(error) = self.engine.close().await {
            tracing::error!(%error, "the log was not flushed: what was not acked may be lost");
        }
        tracing::info!(node = %self.app.config.node, "stopped");
    }

    /// The storage engine, for those who look from outside (the simulator's oracle).
    pub fn storage(&self) -> Engine {
        self.engine.clone()
    }

    /// The ring.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The handlers' state.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// HTTP connections open now.
    pub fn http_connections(&self) -> usize {
        self.http.connections()
    }
}

/// The ring that a configuration's members make.
///
/// # Errors
/// [`RingError`].
pub fn ring_of(config: &Config) -> Result<Ring, RingError> {
    let members: Vec<Member> = config
        .members
        .iter()
        .map(|m| Member { name: m.name.clone(), zone: m.zone.clone(), vnodes: m.vnodes })
        .collect();
    Ring::build(&members, config.ring.partitions, usize::from(config.replication.n))
}

/// The task that answers peers, and the way to stop it.
struct RpcServer {
    stop: tokio::sync::oneshot::Sender<()>,
    serving: task::JoinHandle<()>,
}

impl RpcServer {
    fn start(
        listener: TcpListener,
        local: &LocalInfo,
        service: PeerService,
        config: &Config,
    ) -> Self {
        let server = rpc::Server::new(local, Arc::new(service), rpc_options(config));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = task::spawn(async move {
            // An error says that the sender was dropped, which means the same.
            let shutdown = stopped.map(|_| ());
            server.serve(listener, shutdown).await;
        });
        Self { stop, serving }
    }

    async fn stop(self) {
        // Both can only fail when the task has ended already.
        let _ended = self.stop.send(());
        let _ended = self.serving.await;
    }
}

async fn open_storage(config: &Config) -> Result<Engine, StartError> {
    let options = storage_options(&config.storage);
    Engine::open(&config.data, &config.cluster, options)
        .await
        .map_err(|source| StartError::Storage { path: config.data.display().to_string(), source })
}

fn storage_options(config: &config::Storage) -> storage::Options {
    let sync = match config.sync {
        config::Sync::Always => SyncPolicy::Always,
        config::Sync::Interval => SyncPolicy::Interval { every: storage::SYNC_INTERVAL_MAX },
    };
    storage::Options {
        sync,
        segment_bytes: config.segment_bytes,
        memtable_bytes_max: config.memtable_bytes_max,
        gather: Duration::from_micros(config.gather_us),
        ..storage::Options::default()
    }
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen { what, address: address.to_owned(), source })
}

fn local_info(config: &Config, engine: &Engine) -> LocalInfo {
    let identity = engine.identity();
    LocalInfo::new(&config.cluster, &config.node, identity.node, identity.generation)
}

fn rpc_options(config: &Config) -> rpc::Options {
    rpc::Options {
        connect_timeout: Duration::from_millis(config.timeouts.connect_ms),
        queue_bytes_max: config.limits.peer_queue_bytes,
        drain_timeout: Duration::from_millis(config.timeouts.drain_ms),
        ..rpc::Options::default()
    }
}

fn dial(config: &Config, local: &LocalInfo) -> Peers {
    let others = config.members.iter().filter(|m| m.name != config.node);
    let addresses = others.map(|m| (m.name.clone(), m.rpc.clone())).collect();
    Peers::start(local, addresses, rpc_options(config))
}
