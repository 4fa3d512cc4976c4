//! One large cluster of whole nodes at rest: does everybody find everybody, and is nobody taken for dead?
//!
//! ```text
//! all machines on at once        t = 0; each node knows the addresses of three seeds, and no more
//!   every node ready             its HTTP address serves
//!   every node has all up        within COMPLETE_WITHIN of the start
//! the end                        nobody was ever doubted; a write through one node is read through another
//! ```
//!
//! A plan has a handful of nodes, links of their own for each pair and an oracle of what clients saw; here there
//! are a thousand, whose links are alike, and what is asked is about members alone. So this is a run of its
//! own. It is judged by what nodes noted of each other, read out of the trace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use starling::client::{Client, Request, Response, kv_target};
use starling::config::{Advertise, Config};
use starling::domain::key::murmur3;
use starling::node::Node;
use starling_world::link::{self, LinkSpec};
use starling_world::process::MachineId;
use starling_world::trace::{Keep, Trace};
use starling_world::{machine, signal, time, trace};
use tokio::sync::oneshot;

use crate::plan::NodeNo;
use crate::report::{Report, Verdict};

use super::WALL_START_MS;
use super::cluster::{HTTP_PORT, RPC_PORT, address, observer_address};

/// How long it may take from the start until every node lists every other as up.
pub const COMPLETE_WITHIN: Duration = Duration::from_secs(15);

/// A node serves.
const READY: &str = "node_ready";

/// What nodes note of each other, and that they serve.
const KINDS: &[&str] = &["member_up", "member_suspect", "member_down", "member_stopped", READY];

/// How large, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// Of all that chance decides.
    pub seed: u64,
    /// Nodes, three at least.
    pub nodes: u32,
    /// Those of them that own data and found the ring, three at least; the others are proxies.
    pub owners: u32,
    /// Simulated seconds from the start to the end.
    pub seconds: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Calm {
    /// The verdict, and all else that any run reports.
    pub report: Report,
    /// When every node listed every other as up, in simulated time from the start; `None`: never.
    pub complete: Option<Duration>,
    /// When every node served; `None`: never.
    pub ready: Option<Duration>,
    /// Bytes of gossip that a node sent in a second, over all nodes and the whole run.
    pub gossip_bytes: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Simulated seconds since the start.
    pub seconds: u64,
    /// Nodes that serve.
    pub ready: u32,
}

/// Runs it; `progress` is called after every simulated second.
pub fn run(large: Large, progress: impl FnMut(Progress) + Send + 'static) -> Calm {
    assert!(large.owners >= 3 && large.nodes >= large.owners, "three owners at least: {large:?}");
    let config = starling_world::Config {
        seed: large.seed,
        wall_start_ms: WALL_START_MS,
        keep_trace: Keep::Kinds(KINDS),
    };
    let finished = starling_world::run(config, drive(large, progress));
    let Driven { served, gossip_bytes } = finished.output;
    let believed = believed(large, &finished.trace);
    let mut findings = Vec::new();
    if believed.ready.is_none() {
        findings.push(format!("not every node serves after {} s", large.seconds));
    }
    findings.extend(served.err());
    match believed.complete {
        None => findings.push(format!(
            "at the end {} of {} pairs of nodes do not list each other as up",
            believed.lacking,
            u64::from(large.nodes) * u64::from(large.nodes - 1)
        )),
        Some(complete) if complete > COMPLETE_WITHIN => findings.push(format!(
            "every node lists every other as up after {:.1} s: {} s were allowed",
            complete.as_secs_f64(),
            COMPLETE_WITHIN.as_secs()
        )),
        Some(_) => {}
    }
    let slow = !findings.is_empty();
    findings.extend(believed.mistakes.clone());
    let verdict = match (believed.mistakes.is_empty(), slow) {
        (false, _) => Verdict::Safety,
        (true, true) => Verdict::Liveness,
        (true, false) => Verdict::Ok,
    };
    let counters = finished.trace.counters().into_iter();
    let report = Report {
        digest: format!("{:032x}", finished.trace.digest()),
        simulated_ms: u64::try_from(finished.simulated.as_millis()).unwrap_or(u64::MAX),
        events: counters.map(|(kind, count)| (kind.to_owned(), count)).collect(),
        ..Report::broken(verdict, findings.join("\n"))
    };
    Calm { report, complete: believed.complete, ready: believed.ready, gossip_bytes }
}

/// What the harness saw.
struct Driven {
    /// Why the write at the end was not read again.
    served: Result<(), String>,
    gossip_bytes: u64,
}

/// What nodes tell the harness.
#[derive(Default)]
struct Told {
    ready: AtomicU32,
    gossip_bytes: AtomicU64,
}

async fn drive(large: Large, mut progress: impl FnMut(Progress) + Send + 'static) -> Driven {
    link::set_default(LinkSpec {
        delay_min: Duration::from_micros(200),
        delay_max: Duration::from_millis(2),
        ..LinkSpec::default()
    });
    let told = Arc::new(Told::default());
    // Machine numbers are those of the nodes: the harness is number 0.
    let nodes: Vec<NodeNo> = (1..=large.nodes).map(NodeNo).collect();
    let machines: Vec<MachineId> =
        nodes.iter().map(|node| machine::add(&node.to_string(), address(*node))).collect();
    let observer = machine::add("observer", observer_address());
    for (node, at) in nodes.iter().zip(&machines) {
        let (told, config) = (Arc::clone(&told), config(large, *node));
        machine::start(*at, move || live(config, told));
    }
    for seconds in 1..=large.seconds {
        time::sleep(Duration::from_secs(1)).await;
        progress(Progress { seconds, ready: told.ready.load(Ordering::Relaxed) });
    }
    let (answer, answered) = oneshot::channel();
    machine::start(observer, move || async move {
        // The harness waits below, so somebody listens.
        answer.send(write_and_read(large).await).ok();
    });
    let served = answered.await.expect("the observer's machine is never stopped");
    machines.iter().for_each(|at| machine::ask_to_stop(*at));
    time::sleep(Duration::from_millis(1)).await;
    let sent = told.gossip_bytes.load(Ordering::Relaxed);
    Driven { served, gossip_bytes: sent / (u64::from(large.nodes) * large.seconds.max(1)) }
}

/// One node's process, until the harness has seen enough. It says no goodbye: what others believe of it
/// is no longer asked.
async fn live(config: Config, told: Arc<Told>) {
    let name = config.node.clone();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => panic!("{name} cannot start: {error}"),
    };
    trace::emit(READY, 0, 0);
    told.ready.fetch_add(1, Ordering::Relaxed);
    // Signals cannot fail in the simulated world.
    signal::shutdown().await.ok();
    told.gossip_bytes.fetch_add(node.app().gossip.counters().sent_bytes, Ordering::Relaxed);
}

/// A founded cluster: the owners found the ring, everybody asks three of them.
fn config(large: Large, node: NodeNo) -> Config {
    let at = |node: u32, port: u16| SocketAddr::new(address(NodeNo(node)), port).to_string();
    let mut config = Config::new("large", &node.to_string(), Vec::new());
    config.data = "/data".into();
    (config.http, config.rpc) = (at(node.0, HTTP_PORT), at(node.0, RPC_PORT));
    config.advertise = Advertise { rpc: config.rpc.clone(), http: config.http.clone() };
    config.seeds = (1..=3).map(|seed| at(seed, RPC_PORT)).collect();
    config.founders = (1..=large.owners).map(|owner| NodeNo(owner).to_string()).collect();
    if node.0 > large.owners {
        config.vnodes = 0;
    }
    config
}

/// Writes a key through the last node, and reads it through the one in the middle.
async fn write_and_read(large: Large) -> Result<(), String> {
    let target = kv_target("large", "key", &[]);
    let value = Bytes::from_static(b"\"whole\"");
    let (writer, reader) = (large.nodes, large.nodes / 2);
    let put = ask(writer, Request::put(target.clone(), value.clone())).await?;
    if put.status >= 300 {
        return Err(format!("n{writer} answers a write with {}", put.status));
    }
    let got = ask(reader, Request::get(target)).await?;
    let body = String::from_utf8_lossy(&got.body).into_owned();
    let found = got.status == 200 && body.contains("whole");
    found.then_some(()).ok_or_else(|| format!("n{reader} answers {}: {body}", got.status))
}

async fn ask(node: u32, request: Request) -> Result<Response, String> {
    let mut client = Client::new(SocketAddr::new(address(NodeNo(node)), HTTP_PORT));
    let limit = time::now() + Duration::from_secs(5);
    client.send(request, limit).await.map_err(|error| format!("n{node} does not answer: {error}"))
}

/// What nodes believed of each other.
#[derive(Debug, Default)]
struct Believed {
    complete: Option<Duration>,
    ready: Option<Duration>,
    /// Pairs of which one does not list the other as up at the end.
    lacking: u64,
    /// Who took whom for dead or doubted it, some of them.
    mistakes: Vec<String>,
}

/// Mistakes that are told of.
const TOLD_MAX: usize = 10;

fn believed(large: Large, trace: &Trace) -> Believed {
    let nodes = large.nodes as usize;
    let word = |node: u32| murmur3(NodeNo(node).to_string().as_bytes()).0;
    let words: BTreeMap<u64, u32> = (1..=large.nodes).map(|node| (word(node), node)).collect();
    let mut up = vec![false; nodes * nodes];
    let (mut pairs, mut ready) = (0, 0);
    let mut believed = Believed::default();
    for event in trace.events() {
        let at = Duration::from_nanos(event.at_ns);
        let observer = event.process.machine.number();
        let subject = words.get(&event.a).copied().filter(|subject| *subject != observer);
        match (event.kind, subject) {
            (READY, _) => {
                ready += 1;
                believed.ready = (ready == large.nodes).then_some(at);
            }
            ("member_up", Some(subject)) => {
                let known = &mut up[(observer as usize - 1) * nodes + subject as usize - 1];
                if !std::mem::replace(known, true) {
                    pairs += 1;
                    believed.complete = Some(at);
                }
            }
            ("member_suspect" | "member_down" | "member_stopped", Some(subject)) => {
                if believed.mistakes.len() < TOLD_MAX {
                    let at = at.as_secs_f64();
                    let mistake =
                        format!("{at:.3} s: n{observer} notes {} of n{subject}", event.kind);
                    believed.mistakes.push(mistake);
                }
            }
            _ => {}
        }
    }
    believed.lacking = (nodes * (nodes - 1)) as u64 - pairs;
    believed.complete = believed.complete.filter(|_| believed.lacking == 0);
    believed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_nodes_find_each_other_and_stay_calm() {
        let large = Large { seed: 1, nodes: 60, owners: 5, seconds: 30 };
        let calm = run(large, |_| {});
        assert_eq!(calm.report.verdict, Verdict::Ok, "{}", calm.report.explanation);
        assert!(calm.complete.is_some() && calm.ready.is_some(), "{calm:?}");
        assert_eq!(calm.report.digest, run(large, |_| {}).report.digest);
    }

    #[test]
    fn all_may_own_data() {
        let calm = run(Large { seed: 2, nodes: 20, owners: 20, seconds: 20 }, |_| {});
        assert_eq!(calm.report.verdict, Verdict::Ok, "{}", calm.report.explanation);
    }

    /// Who was cut off by the end of the run is missed.
    #[test]
    fn too_short_a_run_says_who_is_missing() {
        let calm = run(Large { seed: 3, nodes: 30, owners: 3, seconds: 1 }, |_| {});
        assert_eq!(calm.report.verdict, Verdict::Liveness);
        assert!(calm.report.explanation.contains("pairs of nodes"), "{}", calm.report.explanation);
    }
}
