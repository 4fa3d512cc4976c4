//! What a fault means to requests and to beliefs: the entries by which the oracle excuses.

use crate::history::{ClientId, Disturbance, Endpoint, Fault as Felt};
use crate::plan::{ClientNo, FaultKind, Link, NodeNo};
use crate::run::recorder::node_index;

use super::Weather;

/// Up to so many datagrams of a million may be lost, and nobody may be taken for dead: the detector's
/// promise is one of a hundred.
const DATAGRAM_LOSS_PPM_FREE: u32 = 10_000;

impl Weather {
    /// What a fault means to requests.
    pub(super) fn felt(&self, kind: &FaultKind) -> Vec<Felt> {
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
            FaultKind::FlappingLink { from, to, .. } => {
                let (from, to) = (at(from), at(to));
                vec![Felt::LinkBad { from, to }, Felt::LinkBad { from: to, to: from }]
            }
            FaultKind::LossyDatagrams { loss_ppm, .. } => self
                .node_pairs()
                .into_iter()
                .map(|(a, b)| (at(&a), at(&b)))
                .map(|(from, to)| match *loss_ppm {
                    ..=DATAGRAM_LOSS_PPM_FREE => Felt::DatagramsRough { from, to },
                    _ => Felt::LinkBad { from, to },
                })
                .collect(),
            // They are written down node by node, as each goes down and comes back, or is rolled back.
            FaultKind::RolledBackDisk { .. }
            | FaultKind::WipedDisk { .. }
            | FaultKind::RestoredSnapshot { .. }
            | FaultKind::DamagedTable { .. }
            | FaultKind::DamagedFile { .. } => Vec::new(),
            FaultKind::Snapshot { .. }
            | FaultKind::Crash { .. }
            | FaultKind::PowerLoss { .. }
            | FaultKind::Away { .. }
            | FaultKind::CrashMinority { .. }
            | FaultKind::RollingRestart { .. }
            | FaultKind::FullRestart { .. } => Vec::new(),
            FaultKind::Pause { node } => vec![Felt::Paused(at(node))],
            FaultKind::PauseMany { nodes } => {
                nodes.iter().map(|node| Felt::Paused(at(node))).collect()
            }
            FaultKind::ClockDrift { node, .. } | FaultKind::ClockStep { node, .. } => {
                vec![Felt::ClockWrong(at(node))]
            }
            FaultKind::SlowDisk { node, .. }
            | FaultKind::FailingFsync { node, .. }
            | FaultKind::FailingReads { node, .. }
            | FaultKind::FailingWrites { node, .. }
            | FaultKind::DiskFull { node, .. } => vec![Felt::DiskTrouble(at(node))],
        }
    }

    /// Links that are rough all the time, by the plan's own links.
    pub(super) fn rough_links(&self) -> Vec<Disturbance> {
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
                fault: Felt::LinkRough { from, to },
                start_ns: 0,
                end_ns,
            })
            .collect()
    }
}
