//! The faults of a run: begins them, ends them, and keeps the log that the oracle excuses by.
//!
//! Faults may overlap. What a link, a disk or a process suffers follows from the set of faults that
//! are on it now and is worked out afresh whenever one begins or ends, so that the end of one never
//! heals what another still breaks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use starling_world::link::{self, LinkSpec};
use starling_world::task::{self, JoinHandle};
use starling_world::{clock, disk, machine, time, trace};
use tokio::sync::oneshot;

use crate::history::{ClientId, Disturbance, Endpoint, Fault as Felt};
use crate::plan::{At, ClientNo, Fault, FaultKind, Link, Machine, NodeNo, Plan};

use super::cluster::Cluster;
use super::lock;
use super::recorder::node_index;

/// The faults of a run.
pub(super) struct Weather {
    plan: Arc<Plan>,
    cluster: Arc<Cluster>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that are on, by their place in the plan, with the time when they began.
    active: BTreeMap<usize, u64>,
    /// Set when healing begins: events that come later strike no more.
    over: bool,
    log: Vec<Disturbance>,
    counts: BTreeMap<String, u64>,
}

impl Weather {
    pub(super) fn new(plan: &Arc<Plan>, cluster: &Arc<Cluster>) -> Self {
        Self { plan: Arc::clone(plan), cluster: Arc::clone(cluster), state: Mutex::default() }
    }

    /// Has each fault begin and end in its time, counted from `start_ns`.
    pub(super) fn begin(self: &Arc<Self>, start_ns: u64) -> Vec<JoinHandle<()>> {
        (0..self.plan.faults.len())
            .map(|place| task::spawn(Arc::clone(self).one(place, start_ns)))
            .collect()
    }

    async fn one(self: Arc<Self>, place: usize, start_ns: u64) {
        let fault = &self.plan.faults[place];
        match &fault.at {
            At::Ms(ms) => {
                let at_ns = start_ns + ms * 1_000_000;
                let wait_ns = at_ns.saturating_sub(starling_world::now());
                time::sleep(Duration::from_nanos(wait_ns)).await;
                self.strike(place);
            }
            At::On(trigger) => {
                let (tell, struck) = oneshot::channel();
                let machine = match trigger.machine {
                    Machine::Node(node) => self.cluster.node_machine(node),
                    Machine::Client(client) => self.cluster.client_machine(client),
                };
                let weather = Arc::clone(&self);
                let at_once = trigger.after_us == 0;
                trace::on(machine, trigger.event.name(), trigger.count, move || {
                    if at_once {
                        weather.strike(place);
                    }
                    tell.send(()).ok();
                });
                // An error says that the event never came and the run is over.
                struck.await.ok();
                if !at_once {
                    time::sleep(Duration::from_micros(trigger.after_us)).await;
                    self.strike(place);
                }
            }
        }
        time::sleep(Duration::from_millis(fault.for_ms)).await;
        self.lift(place);
    }

    /// Ends all faults, those that have not begun included.
    pub(super) fn end(&self, tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            task.abort();
        }
        let active: Vec<usize> = {
            let mut state = lock(&self.state);
            state.over = true;
            state.active.keys().copied().collect()
        };
        for place in active {
            self.lift(place);
        }
    }

    /// How often each kind of fault began.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.state).counts.clone()
    }

    /// Everything that went wrong, by the plan or by itself.
    pub(super) fn take_log(&self) -> Vec<Disturbance> {
        let mut log = std::mem::take(&mut lock(&self.state).log);
        log.extend(self.cluster.take_down_log());
        log.extend(self.rough_links());
        log.sort_by_key(|disturbance| (disturbance.start_ns, disturbance.end_ns));
        log
    }

    fn strike(&self, place: usize) {
        let fault = &self.plan.faults[place];
        {
            let mut state = lock(&self.state);
            if state.over {
                return;
            }
            state.active.insert(place, starling_world::now());
            *state.counts.entry(fault.what.name().to_owned()).or_default() += 1;
        }
        trace::emit("fault_begins", u64::from(fault.id), 0);
        self.change(fault, true);
    }

    fn lift(&self, place: usize) {
        let fault = &self.plan.faults[place];
        let Some(start_ns) = lock(&self.state).active.remove(&place) else { return };
        trace::emit("fault_ends", u64::from(fault.id), 0);
        self.change(fault, false);
        let end_ns = starling_world::now();
        let felt = self.felt(&fault.what);
        let entries = felt.into_iter().map(|fault| Disturbance { fault, start_ns, end_ns });
        lock(&self.state).log.extend(entries);
    }

    /// Puts into effect that `fault` began (it is among the active ones) or ended (it is not).
    fn change(&self, fault: &Fault, begins: bool) {
        let machine = |node: &NodeNo| self.cluster.node_machine(*node);
        match &fault.what {
            FaultKind::Partition { .. }
            | FaultKind::OneWay { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::ZoneSplit { .. }
            | FaultKind::SlowLink { .. }
            | FaultKind::LossyLink { .. } => self.set_links(),
            FaultKind::Crash { node } => self.set_down(std::slice::from_ref(node), false, begins),
            FaultKind::PowerLoss { nodes } => self.set_down(nodes, true, begins),
            FaultKind::Pause { node } => self.set_pause(*node),
            FaultKind::ClockDrift { node, .. } => self.set_drift(*node),
            FaultKind::ClockStep { node, ms } => {
                clock::step(machine(node), if begins { *ms } else { -ms });
            }
            FaultKind::SlowDisk { node, .. } => self.set_disk_speed(*node),
            FaultKind::FailingFsync { node, count } => {
                disk::fail_syncs(machine(node), if begins { u64::from(*count) } else { 0 });
            }
            FaultKind::DiskFull { node, .. } => self.set_disk_room(*node),
        }
    }

    fn active(&self) -> Vec<&FaultKind> {
        let places: Vec<usize> = lock(&self.state).active.keys().copied().collect();
        places.into_iter().map(|place| &self.plan.faults[place].what).collect()
    }

    fn set_links(&self) {
        let active = self.active();
        for (from, to) in self.node_pairs() {
            let mut spec = self.cluster.calm(from, to);
            for kind in &active {
                self.worsen(&mut spec, kind, from, to);
            }
            link::set(self.cluster.node_machine(from), self.cluster.node_machine(to), spec);
        }
        for node in self.plan.node_numbers() {
            let cut = active.iter().any(
                |kind| matches!(kind, FaultKind::Isolate { node: n, clients: true } if *n == node),
            );
            let machine = self.cluster.node_machine(node);
            for client in self.plan.client_numbers() {
                let client = self.cluster.client_machine(client);
                link::block(machine, client, cut);
                link::block(client, machine, cut);
            }
        }
    }

    /// What `kind` does to the link from one node to another.
    fn worsen(&self, spec: &mut LinkSpec, kind: &FaultKind, a: NodeNo, b: NodeNo) {
        if self.cuts(kind, a, b) {
            spec.blocked = true;
        }
        if let FaultKind::SlowLink { from, to, extra_ms } = kind
            && (*from, *to) == (a, b)
        {
            spec.delay_min += Duration::from_millis(*extra_ms);
            spec.delay_max += Duration::from_millis(2 * extra_ms);
        }
        if let FaultKind::LossyLink { from, to, loss_ppm } = kind
            && (*from, *to) == (a, b)
        {
            spec.loss = spec.loss.max(f64::from(*loss_ppm) / 1e6);
        }
    }

    /// Whether `kind` cuts the link from `a` to `b`.
    fn cuts(&self, kind: &FaultKind, a: NodeNo, b: NodeNo) -> bool {
        let zone = |node: NodeNo| self.plan.nodes[node.0 as usize - 1].zone;
        let splits = |part: &dyn Fn(NodeNo) -> bool| part(a) != part(b);
        if let FaultKind::Partition { side } = kind {
            splits(&|node| side.contains(&node))
        } else if let FaultKind::OneWay { from, to } = kind {
            from.contains(&a) && to.contains(&b)
        } else if let FaultKind::Isolate { node: alone, .. } = kind {
            splits(&|node| node == *alone)
        } else if let FaultKind::ZoneSplit { zone: cut } = kind {
            splits(&|node| zone(node) == *cut)
        } else {
            false
        }
    }

    fn set_down(&self, nodes: &[NodeNo], power: bool, begins: bool) {
        for node in nodes {
            if begins {
                self.cluster.hold_down(*node, power);
            } else {
                self.cluster.release(*node);
                // It starts into what else is on.
                self.set_pause(*node);
            }
        }
    }

    fn set_pause(&self, node: NodeNo) {
        let paused = |kind: &&FaultKind| matches!(kind, FaultKind::Pause { node: n } if *n == node);
        if self.active().iter().any(paused) {
            machine::pause(self.cluster.node_machine(node));
        } else {
            machine::resume(self.cluster.node_machine(node));
        }
    }

    fn set_drift(&self, node: NodeNo) {
        const MOST: i64 = 100_000;
        let mut drift = self.plan.nodes[node.0 as usize - 1].drift_ppm;
        for kind in self.active() {
            if let FaultKind::ClockDrift { node: n, ppm } = kind
                && *n == node
            {
                drift += ppm;
            }
        }
        clock::drift(self.cluster.node_machine(node), drift.clamp(-MOST, MOST) as i32);
    }

    fn set_disk_speed(&self, node: NodeNo) {
        let mut slowest = 1;
        for kind in self.active() {
            if let FaultKind::SlowDisk { node: n, factor } = kind
                && *n == node
            {
                slowest = slowest.max(*factor);
            }
        }
        disk::slow(self.cluster.node_machine(node), f64::from(slowest));
    }

    fn set_disk_room(&self, node: NodeNo) {
        let machine = self.cluster.node_machine(node);
        let mut capacity: Option<u64> = None;
        for kind in self.active() {
            if let FaultKind::DiskFull { node: n, room_bytes } = kind
                && *n == node
            {
                let limit = disk::used(machine) + room_bytes;
                capacity = Some(capacity.map_or(limit, |other| other.min(limit)));
            }
        }
        disk::limit_capacity(machine, capacity);
    }

    fn node_pairs(&self) -> Vec<(NodeNo, NodeNo)> {
        let nodes = self.plan.node_numbers();
        let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    /// What a fault means to requests.
    fn felt(&self, kind: &FaultKind) -> Vec<Felt> {
        let at = |node: &NodeNo| Endpoint::Node(node_index(*node));
        match kind {
            FaultKind::Isolate { node, clients: true } => vec![Felt::Isolated(at(node))],
            FaultKind::Partition { .. }
            | FaultKind::OneWay { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::ZoneSplit { .. } => self
                .node_pairs()
                .into_iter()
                .filter(|(a, b)| self.cuts(kind, *a, *b))
                .map(|(a, b)| Felt::LinkCut { from: at(&a), to: at(&b) })
                .collect(),
            FaultKind::SlowLink { from, to, .. } | FaultKind::LossyLink { from, to, .. } => {
                vec![Felt::LinkBad { from: at(from), to: at(to) }]
            }
            FaultKind::Crash { node } => vec![Felt::Down(at(node))],
            FaultKind::PowerLoss { nodes } => {
                nodes.iter().map(|node| Felt::PowerLoss(at(node))).collect()
            }
            FaultKind::Pause { node } => vec![Felt::Paused(at(node))],
            FaultKind::ClockDrift { node, .. } | FaultKind::ClockStep { node, .. } => {
                vec![Felt::ClockWrong(at(node))]
            }
            FaultKind::SlowDisk { node, .. }
            | FaultKind::FailingFsync { node, .. }
            | FaultKind::DiskFull { node, .. } => vec![Felt::DiskTrouble(at(node))],
        }
    }

    /// Links that are bad all the time, by the plan's own links.
    fn rough_links(&self) -> Vec<Disturbance> {
        let rough = |link: Link| {
            link.loss_ppm > 0 || link.reorder_ppm > 0 || link.bandwidth_bytes_per_s.is_some()
        };
        let links = &self.plan.links;
        let mut bad = Vec::new();
        if rough(links.within_zone) || rough(links.across_zones) {
            let at = |node| Endpoint::Node(node_index(node));
            bad.extend(self.node_pairs().into_iter().map(|(a, b)| (at(a), at(b))));
        }
        if rough(links.clients) {
            // The observer is a client too, with the number after the last.
            let observer = ClientNo(self.plan.clients.len() as u32 + 1);
            for client in self.plan.client_numbers().into_iter().chain([observer]) {
                let client = Endpoint::Client(ClientId(client.0 - 1));
                for node in self.plan.node_numbers() {
                    let node = Endpoint::Node(node_index(node));
                    bad.extend([(client, node), (node, client)]);
                }
            }
        }
        let end_ns = starling_world::now();
        bad.into_iter()
            .map(|(from, to)| Disturbance {
                fault: Felt::LinkBad { from, to },
                start_ns: 0,
                end_ns,
            })
            .collect()
    }
}
