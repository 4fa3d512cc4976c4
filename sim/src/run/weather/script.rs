//! Faults in several steps, and nodes that go down and come back.
//!
//! A node stays down as long as any fault keeps it down; each fault's own part is written into the log
//! when it lets go.

use std::time::Duration;

use starling_world::{disk, machine, time};

use crate::history::{Disturbance, Endpoint, Fault as Felt};
use crate::plan::{FaultKind, NodeNo};
use crate::run::cluster::Death;
use crate::run::lock;
use crate::run::recorder::node_index;

use super::Weather;

/// How often it is looked whether a node that was asked to stop has.
pub(super) const LOOK: Duration = Duration::from_millis(10);

impl Weather {
    /// What a fault does between its beginning and its end. Never returns: the caller ends it.
    pub(super) async fn play(&self, place: usize) {
        let what = &self.plan.faults[place].what;
        if let FaultKind::FlappingLink { period_ms, .. } = what {
            self.flap(place, Duration::from_millis(period_ms / 2)).await;
        } else if let FaultKind::RollingRestart { nodes, pause_ms } = what {
            self.restart_in_turn(place, nodes, Duration::from_millis(*pause_ms)).await;
        } else if let FaultKind::FullRestart { order, pause_ms } = what {
            for node in order {
                time::sleep(Duration::from_millis(*pause_ms)).await;
                self.bring_up(place, *node);
            }
        } else if let FaultKind::RolledBackDisk { node, restarted } = what {
            let third = Duration::from_millis(self.plan.faults[place].for_ms / 3);
            self.roll_back(place, *node, *restarted, third).await;
        } else if let FaultKind::RestoredSnapshot { node } = what {
            let third = Duration::from_millis(self.plan.faults[place].for_ms / 3);
            self.restore(place, *node, third).await;
        } else if let FaultKind::Snapshot { node, power_after_us } = what {
            self.take_snapshot(place, *node, power_after_us.map(Duration::from_micros)).await;
        } else if let FaultKind::DamagedFile { node, file, how } = what {
            self.damage_file(place, *node, *file, *how).await;
        }
        std::future::pending().await
    }

    /// The disk of `node` becomes the copy of it that is taken now; the node stays down after that.
    async fn roll_back(&self, place: usize, node: NodeNo, restarted: bool, third: Duration) {
        let machine = self.cluster.node_machine(node);
        let (copy, start_ns) = (disk::snapshot(machine), starling_world::now());
        time::sleep(third).await;
        if restarted {
            self.take_down(place, node, Death::Kill);
            time::sleep(LOOK).await;
            self.bring_up(place, node);
        }
        time::sleep(third).await;
        self.take_down(place, node, Death::Kill);
        disk::restore(machine, &copy);
        let at = Endpoint::Node(node_index(node));
        // A copy of the last process is what a node finds that just died: only one of an earlier process is told by its generation.
        let fault = if restarted { Felt::RolledBack(at) } else { Felt::Forgotten(at) };
        let end_ns = starling_world::now();
        lock(&self.state).log.push(Disturbance { fault, start_ns, end_ns });
    }

    /// Empties the disk of `node`: it is a copy of what it was before anything was written.
    pub(super) fn wipe(&self, node: NodeNo) {
        disk::wipe(self.cluster.node_machine(node));
        let fault = Felt::RolledBack(Endpoint::Node(node_index(node)));
        let end_ns = starling_world::now();
        lock(&self.state).log.push(Disturbance { fault, start_ns: 0, end_ns });
    }

    /// What damage means: from its moment until the replicas have exchanged everything, which they have now.
    pub(super) fn damages(&self) -> Vec<Disturbance> {
        let end_ns = starling_world::now();
        let damaged = std::mem::take(&mut lock(&self.state).damaged);
        let felt = |(node, start_ns)| {
            let fault = Felt::Damaged(Endpoint::Node(node_index(node)));
            Disturbance { fault, start_ns, end_ns }
        };
        damaged.into_iter().map(felt).collect()
    }

    async fn flap(&self, place: usize, half: Duration) {
        loop {
            time::sleep(half).await;
            {
                let resting = &mut lock(&self.state).resting;
                if !resting.remove(&place) {
                    resting.insert(place);
                }
            }
            self.set_links();
        }
    }

    async fn restart_in_turn(&self, place: usize, nodes: &[NodeNo], pause: Duration) {
        for node in nodes {
            self.take_down(place, *node, Death::Stop);
            while machine::is_running(self.cluster.node_machine(*node)) {
                time::sleep(LOOK).await;
            }
            time::sleep(pause).await;
            self.bring_up(place, *node);
            time::sleep(pause).await;
        }
    }

    /// Keeps `node` down on behalf of a fault.
    pub(super) fn take_down(&self, place: usize, node: NodeNo, death: Death) {
        let since = lock(&self.state).held.insert((place, node), starling_world::now());
        match since {
            // A plan may name a node twice.
            Some(since) => {
                lock(&self.state).held.insert((place, node), since);
            }
            None => self.cluster.hold_down(node, death),
        }
    }

    /// Lets go of `node`, if the fault keeps it down.
    pub(super) fn bring_up(&self, place: usize, node: NodeNo) {
        let Some(start_ns) = lock(&self.state).held.remove(&(place, node)) else { return };
        self.cluster.release(node);
        // It starts into what else is on.
        self.set_pause(node);
        let at = Endpoint::Node(node_index(node));
        let what = &self.plan.faults[place].what;
        let power = matches!(what, FaultKind::PowerLoss { .. } | FaultKind::Snapshot { .. });
        let fault = if power { Felt::PowerLoss(at) } else { Felt::Down(at) };
        let end_ns = starling_world::now();
        lock(&self.state).log.push(Disturbance { fault, start_ns, end_ns });
    }
}
