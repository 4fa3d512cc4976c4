//! What faults do to links, worked out from all that are on.

use std::time::Duration;

use starling_world::link::{self, LinkSpec};

use crate::plan::{FaultKind, NodeNo};

use super::Weather;

impl Weather {
    /// Makes every link what the faults that are on make of it.
    pub(super) fn set_links(&self) {
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
        if let FaultKind::LossyDatagrams { loss_ppm, duplicate_ppm } = kind {
            spec.datagram_loss = spec.datagram_loss.max(f64::from(*loss_ppm) / 1e6);
            spec.datagram_duplicate = spec.datagram_duplicate.max(f64::from(*duplicate_ppm) / 1e6);
        }
        if let FaultKind::LossyLink { from, to, loss_ppm } = kind
            && (*from, *to) == (a, b)
        {
            spec.loss = spec.loss.max(f64::from(*loss_ppm) / 1e6);
        }
    }

    /// Whether `kind` cuts the link from `a` to `b`.
    pub(super) fn cuts(&self, kind: &FaultKind, a: NodeNo, b: NodeNo) -> bool {
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
        } else if let FaultKind::FlappingLink { from, to, .. } = kind {
            (a, b) == (*from, *to) || (a, b) == (*to, *from)
        } else {
            false
        }
    }

    /// Every two nodes, both ways.
    pub(super) fn node_pairs(&self) -> Vec<(NodeNo, NodeNo)> {
        let nodes = self.plan.node_numbers();
        let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a != b).collect()
    }
}
