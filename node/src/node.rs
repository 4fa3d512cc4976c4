//! One node, put together: storage, replica, peers, coordinator, servers.
//!
//! ```text
//! start:  lock folder ─ replay log ─ listen ─ gossip: am I who I was? who else is there? ─ ring
//!         ─ reserve epochs ─ dial peers ─ ready
//! stop:   not ready ─ say goodbye ─ drain http and rpc ─ hang up on peers ─ flush and close the log
//! ```
//!
//! Goodbye comes first: from then on nobody sends new work here, and nobody has to suspect this node. Then
//! nothing new is accepted, and what runs may finish: each request by its own deadline, all of them
//! within `timeouts.drain_ms`. A node that is cut off from its peers does not wait for them: their
//! connections are given [a second](rpc::Options::goodbye_timeout) to close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, future};

use rand::RngCore;

use crate::config::{self, Config};
use crate::domain::forgetting::{CALLS, quiet};
use crate::domain::membership::{self, Machine, MemberInfo, Rule, Standing};
use crate::domain::ring::{Member, Ring, RingError};
use crate::http::server::{Limits, Server};
use crate::http::site::Site;
use crate::http::waiting::{Front, Reason};
use crate::http::{App, Background, router};
use crate::rpc::identity::LocalInfo;
use crate::rpc::{self, Peers};
use crate::runtime::net::{self, TcpListener, UdpSocket};
use crate::runtime::{event, rng, task, time};
use crate::service::anti_entropy::trees::Trees;
use crate::service::anti_entropy::{self, AntiEntropy};
use crate::service::cluster::{Cluster, Surroundings};
use crate::service::coordinator::{Coordinator, Patience};
use crate::service::forgetting::{self, Forgetting};
use crate::service::generation::{Generation, Pace};
use crate::service::gossip::Gossip;
use crate::service::hints::{self, Handoff};
use crate::service::metrics::Metrics;
use crate::service::peer_service::PeerService;
use crate::service::replica::{Replica, WriteRules};
use crate::service::roster;
use crate::storage::{self, Engine, OpenError, ReserveError, SyncPolicy};

/// Rings of at most so many members are a full mesh of connections.
const MESH_MAX: usize = 64;

/// Else a connection that nobody used for so long is let go.
const IDLE_AFTER: Duration = Duration::from_secs(60);

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
    /// The data folder is not this node's.
    #[error("cannot use the data folder: {0}")]
    Claim(#[from] storage::ClaimError),
    /// No epochs could be reserved.
    #[error("cannot reserve write epochs in the data folder: {0}")]
    Epochs(#[from] ReserveError),
    /// A rolled-back folder could not take a new id.
    #[error("the data folder is an older copy, and cannot take a new id: {0}")]
    Renew(#[from] storage::RenewError),
    /// A rolled-back folder could not be put in doubt.
    #[error("the data folder is an older copy, and that cannot be written down: {0}")]
    Doubt(#[from] storage::ReadError),
    /// The members make no ring.
    #[error("the members make no ring: {0}")]
    Ring(#[from] RingError),
    /// The remembered members can't be read or written.
    #[error("cannot remember the members: {0}")]
    Roster(#[from] roster::RosterError),
    /// A live process has the node's name.
    #[error(
        "a live process at {other} is {name} already: give this node another name, or stop that one first"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other gossips.
        other: SocketAddr,
    },
    /// A listener can't be bound.
    #[error("cannot listen on {address} for {what}: {source}: is another process using it?")]
    Listen {
        /// http or rpc.
        what: &'static str,
        /// The address.
        address: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A running node.
pub struct Node {
    app: Arc<App>,
    engine: Engine,
    http: Server,
    rpc: RpcServer,
    peers: Peers,
    /// Keeps the remembered members up to date.
    following: task::JoinHandle<()>,
    drain: Duration,
}

impl Node {
    /// Starts a node and returns once it serves. Until then, which may take as long as its founders
    /// do, its HTTP address says what it waits for. Dropping the future gives the start up.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let engine = open_storage(&config).await?;
        let rpc_listener = listen("rpc", &config.rpc).await?;
        let gossip = start_gossip(&config, &engine, &rpc_listener).await?;
        let metrics = Arc::new(Metrics::default());
        let front = Front::waiting(reason_to_wait(&config, &gossip));
        let http_listener = listen("http", &config.http).await?;
        let limits = Limits::from_config(&config);
        let http = Server::start(http_listener, front.clone(), limits, metrics.clone());

        join(&config, &engine, &gossip).await?;
        let (ring, founders) = find_ring(&config, &gossip).await?;
        let (ring, data) = (Arc::new(ring), config.data.clone());
        let replica = start_replica(&config, &engine, &ring).await?;
        let local = local_info(&config, &engine);
        let peers = dial(&config, &gossip, &ring, &local);
        let cluster = Arc::new(Cluster::new(&config.node, ring, |name| peers.get(name)));
        gossip.tell(cluster.clone(), peers.clone());
        let coordinator = Arc::new(Coordinator::new(
            cluster.clone(),
            replica.clone(),
            metrics.clone(),
            Patience::default(),
        ));
        let handoff = start_handoff(&config, &replica, &cluster, &metrics);
        let anti_entropy = start_anti_entropy(&config, &replica, &cluster, &metrics);
        let forgetting = start_forgetting(&config, &replica, &cluster, &metrics, &gossip);
        let service = PeerService::new(
            replica.clone(),
            coordinator.clone(),
            gossip.clone(),
            (anti_entropy.answering().clone(), forgetting.answering().clone()),
            metrics.clone(),
            config.limits.pair_bytes,
        );
        let rpc = RpcServer::start(rpc_listener, &local, service, &config);
        let drain = Duration::from_millis(config.timeouts.drain_ms);
        let following = task::spawn(roster::follow(data, founders, gossip.clone()));
        let background = Background { handoff, anti_entropy, forgetting };
        let app = Arc::new(App::new(config, coordinator, replica, gossip, background, metrics));
        front.serve(Site::of_node(app.clone(), router(app.clone())));
        app.set_ready(true);
        tracing::info!(node = %app.config.node, http = %app.config.http, rpc = %app.config.rpc, "ready");
        Ok(Self { app, engine, http, rpc, peers, following, drain })
    }

    /// Serves until `shutdown` completes, then lets requests under way finish, and closes the log.
    /// Afterwards everything acked is durable under either sync policy.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.stop().await;
    }

    /// Stops gracefully, within `timeouts.drain_ms` and the time that the disk takes.
    pub async fn stop(self) {
        tracing::info!(node = %self.app.config.node, "stopping");
        self.app.set_ready(false);
        self.app.gossip.stop().await;
        self.app.handoff.stop().await;
        self.app.anti_entropy.stop().await;
        self.app.forgetting.stop().await;
        // Side by side: one after the other they would take the time twice. The node's own calls to
        // peers stay open meanwhile, since what runs may need them.
        future::join(self.http.stop(self.drain), self.rpc.stop()).await;
        self.peers.stop();
        // Before the folder is let go: another process may open it then.
        self.following.abort();
        let _ended = self.following.await;
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
        self.app.coordinator.cluster().ring()
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

async fn start_gossip(
    config: &Config,
    engine: &Engine,
    listener: &TcpListener,
) -> Result<Gossip, StartError> {
    let no_address =
        |source| StartError::Listen { what: "gossip", address: config.rpc.clone(), source };
    let bound = listener.local_addr().map_err(no_address)?;
    let socket = UdpSocket::bind(bound).await.map_err(no_address)?;
    let own = own_info(config, engine, bound).await.map_err(no_address)?;
    let mut machine = Machine::new(own, time::wall_clock_ms(), gossip_options(config), time::now());
    for member in roster::load(&config.data).await? {
        machine.remember(member);
    }
    let others = config.members.iter().filter(|member| member.name != config.node);
    let mut seeds: Vec<String> = config.seeds.clone();
    seeds.extend(others.map(|member| member.rpc.clone()));
    seeds.retain(|seed| *seed != config.advertise.rpc);
    Ok(Gossip::start(socket, machine, seeds).await)
}

/// What this node says of itself; `bound` is where it listens for other nodes.
async fn own_info(config: &Config, engine: &Engine, bound: SocketAddr) -> io::Result<MemberInfo> {
    let mut own = config.own();
    if own.rpc.ends_with(":0") {
        own.rpc = bound.to_string();
    }
    let addresses = net::lookup_host(&own.rpc).await?;
    let identity = engine.identity();
    Ok(MemberInfo {
        name: own.name.into(),
        node: identity.node,
        generation: identity.generation,
        process: rng::fork("process nonce").next_u64(),
        gossip: addresses.first().copied().unwrap_or(bound),
        rpc: own.rpc.into(),
        http: own.http.into(),
        zone: own.zone.into(),
        datacenter: config.datacenter.as_str().into(),
        vnodes: own.vnodes,
        load: 0,
    })
}

fn gossip_options(config: &Config) -> membership::Options {
    let secret = &config.gossip.secret;
    membership::Options {
        cluster: config.cluster.clone(),
        secret: (!secret.is_empty()).then(|| secret.clone().into()),
        interval: Duration::from_millis(config.gossip.interval_ms),
        fanout: config.gossip.fanout,
        rule: match config.gossip.detector {
            config::Detector::Phi(threshold) => Rule::Phi { threshold: f64::from(threshold) },
            config::Detector::Count(missed) => Rule::Count { missed },
        },
        members_min: config.ring_names().len(),
    }
}

/// Waits until this process is the member of its name. A data folder that was rolled back to an
/// older copy takes a new id first: with the old one it would use dots twice.
async fn join(config: &Config, engine: &Engine, gossip: &Gossip) -> Result<(), StartError> {
    loop {
        match gossip.standing().await {
            Standing::Member => return Ok(()),
            Standing::NameTaken { gossip } => {
                return Err(StartError::NameTaken { name: config.node.clone(), other: gossip });
            }
            Standing::Outdated { generation } => {
                // Doubted first: a new id without doubt would vouch for an old copy.
                engine.doubt_all().await?;
                // What it kept for others then may have been handed over, deleted and forgotten since. Whoever wrote it has
                // W copies without this one.
                let dropped = engine.drop_hints().await.map_err(|_| storage::ReadError::Closed)?;
                event::note("old_hints_dropped", 0, dropped);
                let renewed = engine.renew_identity().await?;
                event::note("identity_renewed", 0, renewed.generation);
                tracing::warn!(
                    known = generation, id = %renewed.node,
                    "the data folder is an older copy of one that the others know: it takes a new id"
                );
                gossip.renew(renewed.node, renewed.generation);
            }
            Standing::Joining => {}
        }
    }
}

/// The ring: of the listed members, or of the founders, once all of them were heard of, here or by
/// an earlier process of this folder. And the founders, as they are remembered; none when they are listed.
async fn find_ring(
    config: &Config,
    gossip: &Gossip,
) -> Result<(Ring, Vec<MemberInfo>), StartError> {
    let mut founders = Vec::new();
    let members: Vec<Member> = if config.members.is_empty() {
        let remembered = roster::load(&config.data).await?;
        let mut infos = gossip.infos(&config.founders).await;
        for info in &mut infos {
            // What the ring was first made with stays.
            if let Some(first) = remembered.iter().find(|member| member.name == info.name) {
                (info.zone, info.vnodes) = (first.zone.clone(), first.vnodes);
            }
        }
        roster::save(&config.data, &infos).await.map_err(roster::RosterError::from)?;
        let member = |info: &MemberInfo| Member {
            name: info.name.to_string(),
            zone: info.zone.to_string(),
            vnodes: info.vnodes,
        };
        let members = infos.iter().map(member).collect();
        founders = infos;
        members
    } else {
        let member = |m: &config::Member| Member {
            name: m.name.clone(),
            zone: m.zone.clone(),
            vnodes: m.vnodes,
        };
        config.members.iter().map(member).collect()
    };
    let ring = Ring::build(&members, config.ring.partitions, usize::from(config.replication.n))?;
    Ok((ring, founders))
}

/// What the HTTP address says until the node serves.
fn reason_to_wait(config: &Config, gossip: &Gossip) -> Reason {
    let (gossip, founders) = (gossip.clone(), config.founders.clone());
    Arc::new(move || match gossip.missing(&founders)[..] {
        [] => "it is joining the cluster".to_owned(),
        ref missing => format!(
            "the ring is made once all founders were heard of; not yet: {}; see seeds",
            missing.join(", ")
        ),
    })
}

async fn start_replica(
    config: &Config,
    engine: &Engine,
    ring: &Ring,
) -> Result<Arc<Replica>, ReserveError> {
    let me = ring.index_of(&config.node).filter(|&me| ring.member(me).vnodes > 0);
    let trees = me.map_or_else(Trees::none, |me| Trees::new(ring, me, engine));
    let rules = WriteRules {
        siblings_max: config.limits.siblings,
        siblings_warn: config.limits.siblings_warn,
        skew_max_ms: config.limits.lww_skew_ms,
        policies: config.policies(),
    };
    Ok(Arc::new(Replica::start_with(engine.clone(), rules, Arc::new(trees)).await?))
}

fn start_anti_entropy(
    config: &Config,
    replica: &Arc<Replica>,
    cluster: &Arc<Cluster>,
    metrics: &Arc<Metrics>,
) -> AntiEntropy {
    let options = anti_entropy::Options {
        period: Duration::from_millis(config.anti_entropy.period_ms),
        bytes_per_s: config.anti_entropy.bytes_per_s,
        ..anti_entropy::Options::default()
    };
    AntiEntropy::start(replica.clone(), cluster.clone(), metrics.clone(), options)
}

fn start_forgetting(
    config: &Config,
    replica: &Arc<Replica>,
    cluster: &Arc<Cluster>,
    metrics: &Arc<Metrics>,
    gossip: &Gossip,
) -> Forgetting {
    let options = forgetting::Options {
        quiet: quiet(Duration::from_millis(config.timeouts.request_max_ms)),
        ask_timeout: CALLS,
    };
    // Every member hears of each raise, so the more there are the less often each may.
    let many = 1 + cluster.ring().members().len() as u32 / 16;
    let pace = Pace {
        least: Forgetting::look(options.quiet) * many,
        most: Duration::from_millis(config.anti_entropy.period_ms),
    };
    let generation = Generation::new(replica.engine().clone(), gossip.clone(), pace);
    Forgetting::start(replica.clone(), cluster.clone(), metrics.clone(), generation, options)
}

fn start_handoff(
    config: &Config,
    replica: &Arc<Replica>,
    cluster: &Arc<Cluster>,
    metrics: &Arc<Metrics>,
) -> Handoff {
    let options = hints::Options {
        max_age: Duration::from_secs(config.hints.age_s),
        ..hints::Options::default()
    };
    let owners = Surroundings { cluster: cluster.clone(), metrics: metrics.clone() };
    Handoff::start(replica.clone(), Arc::new(owners), metrics.clone(), options)
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
    let options = storage_options(config);
    let engine = Engine::open(&config.data, &config.cluster, options).await.map_err(|source| {
        StartError::Storage { path: config.data.display().to_string(), source }
    })?;
    engine.claim(&config.node).await?;
    Ok(engine)
}

fn storage_options(config: &Config) -> storage::Options {
    let sync = match config.storage.sync {
        config::Sync::Always => SyncPolicy::Always,
        config::Sync::Interval => SyncPolicy::Interval { lag: storage::SYNC_LAG_MAX },
    };
    storage::Options {
        sync,
        segment_bytes: config.storage.segment_bytes,
        memtable_bytes: config.storage.memtable_bytes,
        table_bytes: config.storage.table_bytes,
        block_bytes: config.storage.block_bytes as usize,
        cache_bytes: config.storage.cache_bytes,
        gather: Duration::from_micros(config.storage.gather_us),
        hint_bytes_max: config.hints.bytes_max,
        born_doubtful: true,
        ..storage::Options::default()
    }
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen { what, address: address.to_owned(), source })
}

fn local_info(config: &Config, engine: &Engine) -> LocalInfo {
    let identity = engine.identity();
    let local = LocalInfo::new(&config.cluster, &config.node, identity.node, identity.generation);
    local.with_policies(config.policies().digest())
}

fn rpc_options(config: &Config) -> rpc::Options {
    rpc::Options {
        connect_timeout: Duration::from_millis(config.timeouts.connect_ms),
        queue_bytes_max: config.limits.peer_queue_bytes,
        waiting_total_max: config.limits.peer_requests,
        drain_timeout: Duration::from_millis(config.timeouts.drain_ms),
        ..rpc::Options::default()
    }
}

/// Peers of every other member of the ring. In a large ring, and from a proxy, they are connected
/// when needed: so that nobody holds thousands of connections.
fn dial(config: &Config, gossip: &Gossip, ring: &Ring, local: &LocalInfo) -> Peers {
    let members = gossip.members();
    let address = |name: &str| {
        let heard = members.iter().find(|view| *view.info.name == *name);
        let listed = config.members.iter().find(|member| member.name == name);
        let listed = listed.map(|member| member.rpc.clone());
        listed.or_else(|| heard.map(|view| view.info.rpc.to_string()))
    };
    let others = ring.members().iter().filter(|member| member.name != config.node);
    let addresses = others.filter_map(|m| Some((m.name.clone(), address(&m.name)?))).collect();
    let sparse = config.own().vnodes == 0 || ring.members().len() > MESH_MAX;
    let options = rpc::Options { idle_after: sparse.then_some(IDLE_AFTER), ..rpc_options(config) };
    Peers::start(local, addresses, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What benchmarks of the engine alone measure is what a node runs.
    #[test]
    fn a_node_opens_its_engine_with_the_defaults_of_the_engine() {
        let config = Config::new("demo", "a", Vec::new());
        let expected = storage::Options { born_doubtful: true, ..storage::Options::default() };
        assert_eq!(storage_options(&config), expected);
    }
}
