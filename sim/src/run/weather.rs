//! The faults of a run: begins them, ends them, and keeps the log that the oracle excuses by.
//!
//! Faults may overlap. What a link, a disk or a process suffers follows from the set of faults that
//! are on it now and is worked out afresh whenever one begins or ends, so that the end of one never
//! heals what another still breaks.

mod felt;
mod folder;
mod links;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use starling_world::task::{self, JoinHandle};
use starling_world::{clock, disk, machine, time, trace};
use tokio::sync::oneshot;

use crate::history::Disturbance;
use crate::plan::{At, Damage, Fault, FaultKind, Machine, NodeNo, Plan};

use folder::Taken;
pub(super) use folder::{snapshot_folder, snapshot_name};

use super::cluster::{Cluster, Death};
use super::lock;

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
    /// Those of them that do nothing just now: links that flap, while they are whole.
    resting: BTreeSet<usize>,
    /// The nodes that each keeps down, and since when.
    held: BTreeMap<(usize, NodeNo), u64>,
    /// Set when healing begins: events that come later strike no more.
    over: bool,
    log: Vec<Disturbance>,
    /// Who lost something, and when.
    damaged: Vec<(NodeNo, u64)>,
    /// Snapshots that were asked for.
    snapshots: Vec<Taken>,
    /// What an operator met and should not have, a sentence each.
    wrong: Vec<String>,
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
        let over = Duration::from_millis(fault.for_ms);
        time::timeout(over, self.play(place)).await.ok();
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
        log.extend(self.damages());
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
        self.change(place, true);
    }

    fn lift(&self, place: usize) {
        let fault = &self.plan.faults[place];
        let start_ns = {
            let mut state = lock(&self.state);
            state.resting.remove(&place);
            state.active.remove(&place)
        };
        let Some(start_ns) = start_ns else { return };
        trace::emit("fault_ends", u64::from(fault.id), 0);
        self.change(place, false);
        let end_ns = starling_world::now();
        let felt = self.felt(&fault.what);
        let entries = felt.into_iter().map(|fault| Disturbance { fault, start_ns, end_ns });
        lock(&self.state).log.extend(entries);
    }

    /// Puts into effect that a fault began (it is among the active ones) or ended (it is not).
    fn change(&self, place: usize, begins: bool) {
        let fault: &Fault = &self.plan.faults[place];
        let machine = |node: &NodeNo| self.cluster.node_machine(*node);
        match &fault.what {
            FaultKind::Partition { .. }
            | FaultKind::OneWay { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::ZoneSplit { .. }
            | FaultKind::SlowLink { .. }
            | FaultKind::LossyLink { .. }
            | FaultKind::FlappingLink { .. }
            | FaultKind::LossyDatagrams { .. } => self.set_links(),
            FaultKind::Crash { node } | FaultKind::Away { node } => {
                self.set_down(place, std::slice::from_ref(node), Death::Kill, begins);
            }
            FaultKind::CrashMinority { nodes } | FaultKind::FullRestart { order: nodes, .. } => {
                self.set_down(place, nodes, Death::Kill, begins);
            }
            // Its script takes the node down.
            FaultKind::RolledBackDisk { node, .. }
            | FaultKind::RestoredSnapshot { node }
            | FaultKind::DamagedFile { node, .. }
            | FaultKind::Snapshot { node, .. } => {
                if !begins {
                    self.set_down(place, std::slice::from_ref(node), Death::Kill, false);
                }
            }
            FaultKind::WipedDisk { node } => {
                self.set_down(place, std::slice::from_ref(node), Death::Kill, begins);
                if begins {
                    self.wipe(*node);
                }
            }
            FaultKind::PowerLoss { nodes } => self.set_down(place, nodes, Death::Power, begins),
            // Its nodes are stopped one by one, by its script; at its end none stays so.
            FaultKind::RollingRestart { nodes, .. } if begins => {
                debug_assert!(!nodes.is_empty(), "a rolling restart of nobody");
            }
            FaultKind::RollingRestart { nodes, .. } => {
                self.set_down(place, nodes, Death::Stop, false);
            }
            FaultKind::Pause { node } => self.set_pause(*node),
            FaultKind::PauseMany { nodes } => nodes.iter().for_each(|n| self.set_pause(*n)),
            FaultKind::ClockDrift { node, .. } => self.set_drift(*node),
            FaultKind::ClockStep { node, ms } => {
                clock::step(machine(node), if begins { *ms } else { -ms });
            }
            FaultKind::SlowDisk { node, .. } => self.set_disk_speed(*node),
            FaultKind::FailingFsync { node, count } => {
                disk::fail_syncs(machine(node), if begins { u64::from(*count) } else { 0 });
            }
            FaultKind::FailingReads { node, count } => {
                disk::fail_reads(machine(node), if begins { u64::from(*count) } else { 0 });
            }
            FaultKind::FailingWrites { node, count } => {
                disk::fail_writes(machine(node), if begins { u64::from(*count) } else { 0 });
            }
            FaultKind::DiskFull { node, .. } => self.set_disk_room(*node),
            FaultKind::DamagedTable { node, how } => {
                // What is open is read on; a process that starts anew misses it.
                if matches!(how, Damage::Cut | Damage::Gone) {
                    self.set_down(place, std::slice::from_ref(node), Death::Kill, begins);
                }
                if begins {
                    self.damage(fault.id, *node, *how);
                }
            }
        }
    }

    /// What is on and does something now.
    fn active(&self) -> Vec<&FaultKind> {
        let state = lock(&self.state);
        let places = state.active.keys().filter(|place| !state.resting.contains(place));
        places.map(|place| &self.plan.faults[*place].what).collect()
    }

    fn set_down(&self, place: usize, nodes: &[NodeNo], death: Death, begins: bool) {
        for node in nodes {
            if begins {
                self.take_down(place, *node, death);
            } else {
                self.bring_up(place, *node);
            }
        }
    }

    fn set_pause(&self, node: NodeNo) {
        let paused = |kind: &&FaultKind| {
            matches!(kind, FaultKind::Pause { node: n } if *n == node)
                || matches!(kind, FaultKind::PauseMany { nodes } if nodes.contains(&node))
        };
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
}
