//! Starling's own node on a machine of the run.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use starling::config::{Config, Member, Sync};
use starling::domain::key::Key;
use starling::domain::quorum;
use starling::domain::ring::Ring;
use starling::http::App;
use starling::node::Node;
use starling::storage::{self, Engine};
use starling_world::{signal, task};
use tokio::sync::mpsc;

use crate::plan::{Level, NodeNo, Plan};

use super::cluster::{HTTP_PORT, RPC_PORT, address};
use super::system::{Gauge, Question, Site, System};

/// Starling's own node.
pub(super) struct Starling;

impl System for Starling {
    fn boot(&self, site: Site) -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(async move {
            let node = match Node::start(config(&site.plan, site.node)).await {
                Ok(node) => node,
                Err(error) => return format!("it cannot start: {error}"),
            };
            let (ring, app) = (Arc::clone(node.ring()), Arc::clone(node.app()));
            task::spawn(answer(site.questions, node.storage(), ring, app));
            node.run_until(async {
                // Signals cannot fail in the simulated world.
                signal::shutdown().await.ok();
            })
            .await;
            "it was asked to stop".to_owned()
        })
    }
}

/// What the plan's settings mean to one node. All else is as in production.
fn config(plan: &Plan, node: NodeNo) -> Config {
    let settings = &plan.settings;
    let members = plan.node_numbers().into_iter().map(|n| member(plan, n)).collect();
    let mut config = Config::new("sim", &node.to_string(), members);
    config.data = "/data".into();
    config.ring.partitions = settings.partitions;
    config.ring.vnodes = settings.vnodes;
    config.replication.n = settings.replicas as u8;
    config.replication.r = quorum(settings.read_quorum);
    config.replication.w = quorum(settings.write_quorum);
    config.timeouts.request_ms = settings.request_timeout_ms;
    config.limits.pair_bytes = settings.pair_bytes_max as usize;
    config.limits.siblings = settings.siblings_max as usize;
    config.storage.sync = if settings.sync_always { Sync::Always } else { Sync::Interval };
    config.storage.segment_bytes = settings.segment_bytes;
    config
}

fn member(plan: &Plan, node: NodeNo) -> Member {
    let at = |port: u16| std::net::SocketAddr::new(address(node), port).to_string();
    let mut member = Member::new(&node.to_string(), at(RPC_PORT), at(HTTP_PORT));
    member.zone = format!("z{}", plan.nodes[node.0 as usize - 1].zone);
    member.vnodes = plan.settings.vnodes;
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

/// Answers the harness's questions from the node's own machine, past all of its services.
async fn answer(
    mut questions: mpsc::UnboundedReceiver<Question>,
    engine: Engine,
    ring: Arc<Ring>,
    app: Arc<App>,
) {
    while let Some(question) = questions.recv().await {
        // Nobody waits for an answer that comes too late.
        match question {
            Question::Homes(keys, answer) => {
                let homes = |name: &String| {
                    let home = ring.home(ring.partition_of(key(name).token()));
                    home.iter().map(|at| node_no(&ring.member(*at).name)).collect()
                };
                answer.send(keys.iter().map(homes).collect()).ok();
            }
            Question::Gauges(answer) => {
                answer.send(gauges(&app, &engine)).ok();
            }
            Question::Copies(keys, answer) => {
                let mut copies = Vec::with_capacity(keys.len());
                for name in &keys {
                    copies.push(copy(&engine, &key(name)).await);
                }
                answer.send(copies).ok();
            }
        }
    }
}

fn gauges(app: &App, engine: &Engine) -> Vec<Gauge> {
    let (stats, config) = (engine.stats(), &app.config);
    let gauge = |name, value, bound| Gauge { name, value, bound };
    let pending_max = storage::Options::default().pending_bytes_max as u64;
    vec![
        gauge("memtable_bytes", stats.memtable_bytes, config.storage.memtable_bytes_max),
        gauge("log_pending_bytes", stats.pending_bytes, pending_max),
        gauge(
            "http_requests_in_flight",
            app.in_flight() as u64,
            config.limits.requests_in_flight as u64,
        ),
    ]
}

async fn copy(engine: &Engine, key: &Key) -> Option<Vec<u8>> {
    let object = engine.get(key).await.ok().flatten()?;
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
