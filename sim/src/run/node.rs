//! Starling's own node on a machine of the run.

use std::future::Future;
use std::pin::Pin;

use starling::config::{Advertise, Config, Conflicts, Detector, Member, Sync};
use starling::domain::key::Key;
use starling::domain::membership;
use starling::domain::quorum;
use starling::node::Node;
use starling::storage::Engine;
use starling_world::signal;
use tokio::sync::mpsc;

use crate::history::{Health, Listed, View};
use crate::plan::{self, Founding, Level, NodeNo, Plan, Settings};

use super::budget;
use super::cluster::{HTTP_PORT, RPC_PORT, address};
use super::recorder::node_index;
use super::samples;
use super::system::{Abilities, Question, Site, System, Trees};

/// Phi from which on a node is suspected, where a plan says `phi`: the node's default.
const PHI: u32 = 8;
/// Missed beats after which a node is suspected, where a plan says `count`: the node's default.
const MISSED_BEATS: u32 = 3;

/// Starling's own node.
pub(super) struct Starling;

impl System for Starling {
    fn boot(&self, site: Site) -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(async move {
            let node = match Node::start(config(&site.plan, site.node)).await {
                Ok(node) => node,
                Err(error) => return format!("it cannot start: {error}"),
            };
            serve(&node, site.questions).await;
            node.stop().await;
            "it was asked to stop".to_owned()
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities { gossips: true, hints: true, heals: true }
    }
}

/// Lets the node serve, and answers questions on its machine, until it is asked to stop.
async fn serve(node: &Node, mut questions: mpsc::UnboundedReceiver<Question>) {
    let mut stop = std::pin::pin!(signal::shutdown());
    loop {
        tokio::select! {
            biased;
            // Signals cannot fail in the simulated world.
            _ = &mut stop => return,
            Some(question) = questions.recv() => answer(node, question).await,
        }
    }
}

/// What the plan's settings mean to one node. All else is as in production.
fn config(plan: &Plan, node: NodeNo) -> Config {
    let settings = &plan.settings;
    let members = plan.node_numbers().into_iter().map(|n| member(plan, n));
    let mut config = match &plan.founding {
        None => Config::new("sim", &node.to_string(), members.collect()),
        Some(founding) => founded(plan, founding, node),
    };
    config.data = "/data".into();
    config.ring.partitions = settings.partitions;
    config.ring.vnodes = settings.vnodes;
    config.replication.n = settings.replicas as u8;
    config.replication.r = quorum(settings.read_quorum);
    config.replication.w = quorum(settings.write_quorum);
    config.timeouts.request_ms = settings.request_timeout_ms;
    config.timeouts.request_max_ms = budget::request_max_ms(plan);
    config.limits.pair_bytes = settings.pair_bytes_max as usize;
    config.limits.siblings = settings.siblings_max as usize;
    config.buckets =
        settings.last_write.iter().map(|bucket| (bucket.clone(), Conflicts::Lww)).collect();
    // Clocks that are wrong by a day excuse nothing.
    config.limits.lww_skew_ms = 31_536_000_000;
    config.limits.siblings_warn = config.limits.siblings.div_ceil(2).max(2);
    set_rare(&mut config, settings);
    config.storage.sync = if settings.sync_always { Sync::Always } else { Sync::Interval };
    config.storage.segment_bytes = settings.segment_bytes;
    // So small that each run seals, flushes and compacts.
    config.storage.memtable_bytes = settings.segment_bytes.clamp(4096, 32 << 10);
    config.storage.table_bytes = config.storage.memtable_bytes;
    (config.storage.block_bytes, config.storage.cache_bytes) = (512, 32 << 10);
    config
}

/// What most plans leave as it is.
fn set_rare(config: &mut Config, settings: &Settings) {
    if let Some(engine) = settings.engine {
        config.storage.memtable_bytes = engine.memtable_bytes;
        config.storage.table_bytes = engine.table_bytes;
        config.storage.block_bytes = engine.block_bytes;
        config.storage.cache_bytes = engine.cache_bytes;
    }
    if let Some(most) = settings.requests_in_flight_max {
        config.limits.requests_in_flight = most as usize;
    }
    if let Some((actors, age_s)) = settings.pruning {
        (config.limits.vector_actors, config.limits.vector_age_s) = (actors, age_s);
    }
    if let Some(bytes) = settings.peer_queue_bytes {
        config.limits.peer_queue_bytes = bytes as usize;
    }
    if let Some(bytes) = settings.hint_bytes_max {
        config.hints.bytes_max = bytes;
    }
    if let Some(most) = settings.peer_requests_max {
        config.limits.peer_requests = most as usize;
    }
    if let Some(ms) = settings.http_idle_ms {
        config.timeouts.idle_ms = ms;
    }
    if let Some(ms) = settings.gossip_interval_ms {
        config.gossip.interval_ms = ms;
    }
    match settings.detector {
        Some(plan::Detector::Phi) => config.gossip.detector = Detector::Phi(PHI),
        Some(plan::Detector::Count) => config.gossip.detector = Detector::Count(MISSED_BEATS),
        None => {}
    }
    if let Some(ms) = settings.anti_entropy_ms {
        config.anti_entropy.period_ms = ms;
    }
    if let Some(age_s) = settings.hint_age_s {
        config.hints.age_s = age_s;
    }
}

/// What a node is told of the others before it heard of them: addresses of some, and the names that make
/// the ring.
fn founded(plan: &Plan, founding: &Founding, node: NodeNo) -> Config {
    let mut config = Config::new("sim", &node.to_string(), Vec::new());
    let own = member(plan, node);
    (config.http, config.rpc) = (own.http.clone(), own.rpc.clone());
    config.advertise = Advertise { rpc: own.rpc, http: own.http };
    (config.zone, config.vnodes) = (own.zone, own.vnodes);
    config.seeds = founding.seeds.iter().map(|seed| at(*seed, RPC_PORT)).collect();
    config.founders = plan.owners().iter().map(NodeNo::to_string).collect();
    config
}

fn at(node: NodeNo, port: u16) -> String {
    std::net::SocketAddr::new(address(node), port).to_string()
}

fn member(plan: &Plan, node: NodeNo) -> Member {
    let mut member = Member::new(&node.to_string(), at(node, RPC_PORT), at(node, HTTP_PORT));
    let planned = &plan.nodes[node.0 as usize - 1];
    member.zone = format!("z{}", planned.zone);
    member.vnodes = if planned.proxy { 0 } else { plan.settings.vnodes };
    member
}

const fn quorum(level: Level) -> quorum::Level {
    match level {
        Level::One => quorum::Level::One,
        Level::Quorum => quorum::Level::Quorum,
        Level::All => quorum::Level::All,
        Level::Count(count) => quorum::Level::Count(count as u8),
    }
}

/// Answers one question of the harness, past all of the node's services.
async fn answer(node: &Node, question: Question) {
    // Nobody waits for an answer that comes too late.
    match question {
        Question::Homes(keys, answer) => {
            let ring = node.ring();
            let homes = |name: &String| {
                let home = ring.home(ring.partition_of(key(name).token()));
                home.iter().map(|at| node_no(&ring.member(*at).name)).collect()
            };
            answer.send(keys.iter().map(homes).collect()).ok();
        }
        Question::View(answer) => {
            answer.send(view(node)).ok();
        }
        Question::HintsLeft(answer) => {
            let held = node.storage().hint_owners();
            let rows = held.iter().map(|row| (node_no(&row.owner), row.count));
            answer.send(rows.collect()).ok();
        }
        Question::Gauges(answer) => {
            answer.send(samples::gauges(node)).ok();
        }
        Question::Id(answer) => {
            answer.send(node.storage().identity().node).ok();
        }
        Question::Doubts(answer) => {
            answer.send(!node.app().anti_entropy.doubtful().is_empty()).ok();
        }
        Question::Trees(answer) => {
            answer.send(trees(node).await).ok();
        }
        Question::Copies(keys, answer) => {
            answer.send(copies(&node.storage(), &keys).await).ok();
        }
    }
}

/// What the node lists of the cluster.
fn view(node: &Node) -> View {
    let listed = |view: membership::View| Listed {
        name: view.info.name.to_string(),
        health: match view.health {
            membership::Health::Unknown => Health::Unknown,
            membership::Health::Up => Health::Up,
            membership::Health::Suspect => Health::Suspect,
            membership::Health::Down => Health::Down,
            membership::Health::Stopped => Health::Stopped,
        },
        incarnation: view.incarnation,
    };
    let members = node.app().gossip.members().into_iter().map(listed).collect();
    let own = node_no(&node.app().config.node);
    View { node: node_index(own), members, ring: node.ring().digest() }
}

/// Holds each tree against a scan.
async fn trees(node: &Node) -> Trees {
    let (engine, trees) = (node.storage(), node.app().replica.trees());
    let mut found = Trees::default();
    for partition in trees.partitions() {
        match trees.is_right(&engine, partition).await {
            Ok(Some(true)) => {}
            Ok(Some(false)) => found.wrong.push(partition),
            // What cannot be read now is read later.
            Ok(None) | Err(_) => found.unready += 1,
        }
    }
    found
}

/// What `engine` holds for each of `keys`, encoded.
pub(super) async fn copies(engine: &Engine, keys: &[String]) -> Vec<Option<Vec<u8>>> {
    let mut copies = Vec::with_capacity(keys.len());
    for name in keys {
        copies.push(copy(engine, &key(name)).await);
    }
    copies
}

async fn copy(engine: &Engine, key: &Key) -> Option<Vec<u8>> {
    let object = engine.known(key).await.ok()?.object?;
    let mut bytes = Vec::new();
    object.encode(&mut bytes);
    Some(bytes)
}

fn key(name: &str) -> Key {
    let (bucket, name) = name.split_once('/').expect("a plan's keys hold a slash");
    Key::new(bucket, name).expect("a plan's keys are valid")
}

fn node_no(name: &str) -> NodeNo {
    NodeNo::try_from(name.to_owned()).expect("members are named like the plan's nodes")
}
