//! The machines of a run: nodes that are started, watched and started again, clients, and the
//! observer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use starling::client::{Client, Request};
use starling_world::link::{self, LinkSpec};
use starling_world::process::MachineId;
use starling_world::{clock, machine, task, time, trace};
use tokio::sync::{mpsc, oneshot};

use crate::history::{Disturbance, Endpoint, Fault, HintsLeft, Sample, View};
use crate::plan::{ClientNo, Link, NodeNo, Plan};

use super::founding::Founding;
use super::recorder::node_index;
use super::system::{Question, Site, System, Trees};
use super::{budget, lock};

/// Where nodes listen for clients.
pub(super) const HTTP_PORT: u16 = 7000;
/// Where nodes listen for each other.
pub(super) const RPC_PORT: u16 = 7001;

/// The networks of nodes, of clients, and of the observer.
const NODES: u8 = 0;
const CLIENTS: u8 = 1;
const OBSERVER: u8 = 2;

/// The machines of a run.
pub(super) struct Cluster {
    pub(super) plan: Arc<Plan>,
    system: Arc<dyn System>,
    nodes: Vec<MachineId>,
    clients: Vec<MachineId>,
    observer: MachineId,
    /// For each fault that an operator causes, by its place in the plan.
    operators: BTreeMap<usize, MachineId>,
    states: Mutex<Vec<NodeState>>,
    pub(super) down_log: Mutex<Vec<Disturbance>>,
    samples: Mutex<Vec<Sample>>,
    exits: mpsc::UnboundedSender<NodeNo>,
    pub(super) founding: Mutex<Founding>,
}

/// What the harness knows of a node.
#[derive(Default)]
struct NodeState {
    /// How many faults keep it down.
    held: u32,
    /// Since when no process of it runs, unless a fault's own entry says so.
    down_since: Option<u64>,
    questions: Option<mpsc::UnboundedSender<Question>>,
    /// Why its last process that ended by itself did.
    last_words: String,
}

/// How a node goes down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// Its process is killed.
    Kill,
    /// Its machine loses its power.
    Power,
    /// Its process is asked to stop, and stops when it has finished what it began.
    Stop,
}

impl Cluster {
    /// Adds the machines of `plan` to the world, with their links and clocks. Nothing runs yet.
    pub(super) fn build(plan: &Arc<Plan>, system: Arc<dyn System>) -> Arc<Self> {
        let nodes = plan.node_numbers().into_iter();
        let nodes: Vec<MachineId> =
            nodes.map(|n| machine::add(&n.to_string(), address(n))).collect();
        let clients = plan.client_numbers().into_iter();
        let clients: Vec<MachineId> =
            clients.map(|c| machine::add(&c.to_string(), host(CLIENTS, c.0))).collect();
        let observer = machine::add("observer", host(OBSERVER, 1));
        let faults = plan.faults.iter().enumerate();
        let operators = faults.filter(|(_, fault)| fault.what.is_operators()).map(|(place, _)| {
            let address = host(OBSERVER, place as u32 + 2);
            (place, machine::add(&format!("operator{place}"), address))
        });
        let operators = operators.collect();
        for (node, id) in plan.nodes.iter().zip(&nodes) {
            if node.drift_ppm != 0 {
                clock::drift(*id, node.drift_ppm as i32);
            }
        }
        let (exits, exited) = mpsc::unbounded_channel();
        let cluster = Arc::new(Self {
            plan: Arc::clone(plan),
            system,
            states: Mutex::new(nodes.iter().map(|_| NodeState::default()).collect()),
            nodes,
            clients,
            observer,
            operators,
            down_log: Mutex::default(),
            samples: Mutex::default(),
            exits,
            founding: Mutex::default(),
        });
        link::set_default(spec(plan.links.clients));
        for from in plan.node_numbers() {
            for to in plan.node_numbers().into_iter().filter(|to| *to != from) {
                link::set(
                    cluster.node_machine(from),
                    cluster.node_machine(to),
                    cluster.calm(from, to),
                );
            }
        }
        task::spawn(supervise(Arc::clone(&cluster), exited));
        task::spawn(sample(Arc::clone(&cluster)));
        cluster
    }

    /// What the link between two nodes is like when no fault is on it.
    pub(super) fn calm(&self, from: NodeNo, to: NodeNo) -> LinkSpec {
        let zone = |node: NodeNo| self.plan.nodes[node.0 as usize - 1].zone;
        let links = &self.plan.links;
        spec(if zone(from) == zone(to) { links.within_zone } else { links.across_zones })
    }

    pub(super) fn node_machine(&self, node: NodeNo) -> MachineId {
        self.nodes[node.0 as usize - 1]
    }

    pub(super) fn client_machine(&self, client: ClientNo) -> MachineId {
        self.clients[client.0 as usize - 1]
    }

    /// The machine of the client that looks after the cluster before and after the load.
    pub(super) fn observer(&self) -> MachineId {
        self.observer
    }

    /// The machine from which the fault at `place` is caused, which is an operator's.
    pub(super) fn operator_machine(&self, place: usize) -> MachineId {
        self.operators[&place]
    }

    /// Why the node's last process that ended by itself did.
    pub(super) fn last_words(&self, node: NodeNo) -> String {
        lock(&self.states)[node.0 as usize - 1].last_words.clone()
    }

    /// Where clients reach the node.
    pub(super) fn http_address(&self, node: NodeNo) -> SocketAddr {
        SocketAddr::new(address(node), HTTP_PORT)
    }

    /// Starts every node and waits until all are ready; says which are not in time.
    pub(super) async fn start_all(self: &Arc<Self>) -> Vec<String> {
        for state in lock(&self.states).iter_mut() {
            state.down_since = Some(0);
        }
        self.disturb_founding();
        for node in self.plan.node_numbers() {
            self.start(node);
        }
        let late = self.all_ready(budget::READY_MS).await;
        if !self.end_founding().await || !late.is_empty() {
            return late;
        }
        self.all_ready(budget::READY_MS).await
    }

    /// Keeps a node down from now on.
    pub(super) fn hold_down(&self, node: NodeNo, death: Death) {
        {
            let state = &mut lock(&self.states)[node.0 as usize - 1];
            state.held += 1;
            state.questions = None;
        }
        let machine = self.node_machine(node);
        match death {
            Death::Kill => machine::kill_process(machine),
            Death::Power => machine::power_loss(machine),
            Death::Stop => machine::ask_to_stop(machine),
        }
    }

    /// Ends one [`hold_down`](Cluster::hold_down); with the last one the node starts again.
    pub(super) fn release(self: &Arc<Self>, node: NodeNo) {
        let held = {
            let state = &mut lock(&self.states)[node.0 as usize - 1];
            state.held -= 1;
            state.held
        };
        if held == 0 {
            self.start(node);
        }
    }

    /// Starts a process of `node` unless one runs or a fault keeps it down.
    fn start(self: &Arc<Self>, node: NodeNo) {
        let id = self.node_machine(node);
        let (questions, asked) = mpsc::unbounded_channel();
        {
            let state = &mut lock(&self.states)[node.0 as usize - 1];
            if state.held > 0 || machine::is_running(id) {
                return;
            }
            state.questions = Some(questions);
            if let Some(start_ns) = state.down_since.take() {
                let fault = Fault::Down(Endpoint::Node(node_index(node)));
                let end_ns = starling_world::now();
                lock(&self.down_log).push(Disturbance { fault, start_ns, end_ns });
            }
        }
        let cluster = Arc::clone(self);
        let site = Site { plan: Arc::clone(&self.plan), node, questions: asked };
        machine::start(id, move || async move {
            let last_words = cluster.system.boot(site).await;
            cluster.ended(node, last_words);
        });
    }

    /// A node's process ends by itself.
    fn ended(&self, node: NodeNo, last_words: String) {
        trace::emit("node_ended", u64::from(node.0), 0);
        let state = &mut lock(&self.states)[node.0 as usize - 1];
        state.down_since = Some(starling_world::now());
        state.questions = None;
        state.last_words = last_words;
        // The run is over if nobody listens.
        self.exits.send(node).ok();
    }

    /// Waits until every node says that it is ready; says which do not in time.
    pub(super) async fn all_ready(self: &Arc<Self>, limit_ms: u64) -> Vec<String> {
        let (answer, answered) = oneshot::channel();
        let addresses: Vec<SocketAddr> =
            self.plan.node_numbers().into_iter().map(|n| self.http_address(n)).collect();
        machine::start(self.observer, move || async move {
            // The harness has given up waiting if nobody listens.
            answer.send(poll_ready(&addresses, limit_ms).await).ok();
        });
        let late = answered.await.expect("the observer's machine is never stopped");
        late.into_iter().map(|(at, heard)| self.complaint(NodeNo(at as u32 + 1), &heard)).collect()
    }

    fn complaint(&self, node: NodeNo, heard: &str) -> String {
        let state = &lock(&self.states)[node.0 as usize - 1];
        let words = if state.last_words.is_empty() {
            String::new()
        } else {
            format!("; its last process that ended by itself said: {}", state.last_words)
        };
        format!("node {node} is not ready in time: {heard}{words}")
    }

    /// The home replicas of each of `keys`, primary first, as the first node has it.
    pub(super) async fn homes(&self, keys: &[String]) -> Result<Vec<Vec<NodeNo>>, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(NodeNo(1), Question::Homes(keys.to_vec(), answer), answered).await
    }

    /// What `node` holds for each of `keys`, encoded.
    pub(super) async fn copies(
        &self,
        node: NodeNo,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(node, Question::Copies(keys, answer), answered).await
    }

    /// Whether `node` cannot vouch for some of what it holds.
    pub(super) async fn doubts(&self, node: NodeNo) -> Result<bool, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(node, Question::Doubts(answer), answered).await
    }

    /// Whether the trees of `node` are those of its data.
    pub(super) async fn trees(&self, node: NodeNo) -> Result<Trees, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(node, Question::Trees(answer), answered).await
    }

    /// What `node` lists of the cluster.
    pub(super) async fn view(&self, node: NodeNo) -> Result<View, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(node, Question::View(answer), answered).await
    }

    /// The hints that `node` holds.
    pub(super) async fn hints_left(&self, node: NodeNo) -> Result<Vec<HintsLeft>, String> {
        let (answer, answered) = oneshot::channel();
        let left = self.ask(node, Question::HintsLeft(answer), answered).await?;
        let holder = node_index(node);
        let row = |(owner, count)| HintsLeft { holder, owner: node_index(owner), count };
        Ok(left.into_iter().map(row).collect())
    }

    pub(super) async fn ask<T>(
        &self,
        node: NodeNo,
        question: Question,
        answered: oneshot::Receiver<T>,
    ) -> Result<T, String> {
        let asked = lock(&self.states)[node.0 as usize - 1]
            .questions
            .as_ref()
            .is_some_and(|questions| questions.send(question).is_ok());
        let limit = Duration::from_millis(budget::REPAIR_MS);
        match time::timeout(limit, answered).await {
            Ok(Ok(answer)) if asked => Ok(answer),
            Ok(_) => Err(format!("node {node} went away while it was looked into")),
            Err(_) => Err(format!("node {node} cannot be looked into: it does not answer")),
        }
    }

    /// How long nodes were down that no fault kept down, the start of the cluster included.
    pub(super) fn take_down_log(&self) -> Vec<Disturbance> {
        std::mem::take(&mut lock(&self.down_log))
    }

    /// The gauges that were sampled.
    pub(super) fn take_samples(&self) -> Vec<Sample> {
        std::mem::take(&mut lock(&self.samples))
    }

    async fn sample(&self, node: NodeNo) {
        let (answer, answered) = oneshot::channel();
        let asked = lock(&self.states)[node.0 as usize - 1].questions.clone();
        if asked.is_none_or(|questions| questions.send(Question::Gauges(answer)).is_err()) {
            return;
        }
        // A node that dies or stands still meanwhile is not sampled this time.
        let limit = Duration::from_millis(budget::SAMPLE_MS / 2);
        let Ok(Ok(gauges)) = time::timeout(limit, answered).await else { return };
        let at_ns = starling_world::now();
        lock(&self.samples).extend(gauges.into_iter().map(|gauge| Sample {
            at_ns,
            node: node_index(node),
            gauge: gauge.name.to_owned(),
            value: gauge.value,
            bound: gauge.bound,
        }));
    }
}

/// Reads the gauges of every node, again and again.
async fn sample(cluster: Arc<Cluster>) {
    loop {
        time::sleep(Duration::from_millis(budget::SAMPLE_MS)).await;
        for node in cluster.plan.node_numbers() {
            cluster.sample(node).await;
        }
    }
}

/// Starts nodes that ended by themselves again, after a while.
async fn supervise(cluster: Arc<Cluster>, mut exited: mpsc::UnboundedReceiver<NodeNo>) {
    while let Some(node) = exited.recv().await {
        let cluster = Arc::clone(&cluster);
        task::spawn(async move {
            time::sleep(Duration::from_millis(budget::RESTART_MS)).await;
            cluster.start(node);
        });
    }
}

/// Asks each of `addresses` until it is ready; gives the places of those that are not in time, with
/// what they said last.
async fn poll_ready(addresses: &[SocketAddr], limit_ms: u64) -> Vec<(usize, String)> {
    let deadline = time::now() + Duration::from_millis(limit_ms);
    let mut late = Vec::new();
    for (place, address) in addresses.iter().enumerate() {
        let mut client = Client::new(*address);
        loop {
            let limit = time::now() + Duration::from_secs(1);
            let heard = client.send(Request::get("/health/ready"), limit).await;
            let heard = match heard {
                Ok(response) if response.status == 200 => break,
                Ok(response) => String::from_utf8_lossy(&response.body).into_owned(),
                Err(error) => error.to_string(),
            };
            if time::now() >= deadline {
                late.push((place, heard));
                break;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    }
    late
}

/// The address of a node.
pub(super) fn address(node: NodeNo) -> IpAddr {
    host(NODES, node.0)
}

/// The address of the observer.
pub(super) fn observer_address() -> IpAddr {
    host(OBSERVER, 1)
}

/// The address of a machine in one of the networks 10.0.0.0/16, 10.1.0.0/16, …
fn host(network: u8, number: u32) -> IpAddr {
    let number = u16::try_from(number).expect("a network has room for 65,535 machines");
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, network, high, low])
}

fn spec(link: Link) -> LinkSpec {
    let share = |ppm: u32| f64::from(ppm) / 1e6;
    LinkSpec {
        delay_min: Duration::from_micros(link.delay_min_us),
        delay_max: Duration::from_micros(link.delay_max_us),
        loss: share(link.loss_ppm),
        duplicate: share(link.duplicate_ppm),
        reorder: share(link.reorder_ppm),
        datagram_loss: 0.0,
        datagram_duplicate: 0.0,
        bandwidth_bytes_per_s: link.bandwidth_bytes_per_s,
        quantiles: None,
        blocked: false,
        hold: false,
    }
}
