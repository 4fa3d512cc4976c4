//! Who is home replica of what: the nearest pairs of partition and node first, within the bounds.
//!
//! All pairs (partition, node) are sorted by how far clockwise from the partition's start the node's
//! nearest point lies, and taken in that order while the partition wants a replica and the node has
//! room. First every partition gets as many zones as it can have, then the rest. No pair of partition
//! and node would both rather have each other, so there is one result (Gale and Shapley's stable
//! matching), and a node that joins disturbs others only where somebody was full.
//!
//! Near the bound a partition can be left with none but full nodes to choose from. Then room is made:
//! a full node passes one of its partitions on to a node with room, over as few hands as possible.

use std::collections::VecDeque;

use super::shares::Shares;
use super::{Member, partition_start, points};

/// The preference lists of all partitions, one after another, as indexes into `nodes`.
pub(super) fn preference_lists(
    nodes: &[&Member],
    shares: &Shares,
    partitions: u32,
    n: usize,
) -> Vec<u16> {
    let mut pairs = distances(nodes, partitions);
    pairs.sort_unstable();
    let mut table = Table {
        shares,
        home: vec![Vec::with_capacity(n); partitions as usize],
        load: vec![0; nodes.len()],
        walks: walks(&pairs, partitions as usize),
    };
    table.fill(&pairs, shares.spread);
    table.fill(&pairs, n);
    table.into_lists()
}

/// How far apart a partition and a node are, partition, node.
type Pair = (u64, u32, u16);

fn distances(nodes: &[&Member], partitions: u32) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(nodes.len() * partitions as usize);
    for (node, member) in nodes.iter().enumerate() {
        let points = points::of_member(&member.name, member.vnodes);
        for partition in 0..partitions {
            let start = partition_start(partition, partitions);
            pairs.push((points::distance(&points, start), partition, node as u16));
        }
    }
    pairs
}

/// The nodes of each partition, nearest first.
fn walks(sorted: &[Pair], partitions: usize) -> Vec<Vec<u16>> {
    let mut walks = vec![Vec::with_capacity(sorted.len() / partitions); partitions];
    for &(_, partition, node) in sorted {
        walks[partition as usize].push(node);
    }
    walks
}

struct Table<'a> {
    shares: &'a Shares,
    home: Vec<Vec<u16>>,
    load: Vec<u32>,
    walks: Vec<Vec<u16>>,
}

impl Table<'_> {
    /// Gives every partition home replicas until it has `wanted`.
    fn fill(&mut self, sorted: &[Pair], wanted: usize) {
        for &(_, partition, node) in sorted {
            let at = partition as usize;
            if self.home[at].len() < wanted && self.has_room(node) && self.fits(at, None, node) {
                self.home[at].push(node);
                self.load[usize::from(node)] += 1;
            }
        }
        for at in 0..self.home.len() {
            while self.home[at].len() < wanted {
                self.make_room(at);
            }
        }
    }

    fn has_room(&self, node: u16) -> bool {
        self.load[usize::from(node)] < self.shares.capacity[usize::from(node)]
    }

    /// May `node` become a home replica of `partition`, in the place of `gone` if that is given?
    /// Not if it is one already, nor if the partition would lie in fewer zones than it can.
    fn fits(&self, partition: usize, gone: Option<u16>, node: u16) -> bool {
        let home = &self.home[partition];
        if home.contains(&node) {
            return false;
        }
        let zone_of = |node: u16| self.shares.zone[usize::from(node)];
        let mut zones: Vec<usize> = home
            .iter()
            .filter(|&&other| Some(other) != gone)
            .map(|&other| zone_of(other))
            .collect();
        zones.push(zone_of(node));
        let replicas = zones.len();
        zones.sort_unstable();
        zones.dedup();
        zones.len() >= replicas.min(self.shares.spread)
    }

    /// Gives `partition` one more home replica although all that fit are full: searches, breadth
    /// first, for a chain of nodes each of which takes a partition over from the one before.
    fn make_room(&mut self, partition: usize) {
        // For each node that was reached: from whom it would take over which partition.
        let mut reached: Vec<Option<Step>> = vec![None; self.load.len()];
        let mut queue = VecDeque::new();
        for &node in &self.walks[partition] {
            if self.fits(partition, None, node) {
                reached[usize::from(node)] = Some(Step { partition, from: None });
                queue.push_back(node);
            }
        }
        let nearest = queue.front().copied();
        while let Some(node) = queue.pop_front() {
            if self.has_room(node) {
                return self.pass_on(&reached, node);
            }
            for at in 0..self.home.len() {
                if !self.home[at].contains(&node) || on_chain(&reached, node, at) {
                    continue;
                }
                for &next in &self.walks[at] {
                    let new = reached[usize::from(next)].is_none();
                    if new && self.fits(at, Some(node), next) {
                        reached[usize::from(next)] = Some(Step { partition: at, from: Some(node) });
                        queue.push_back(next);
                    }
                }
            }
        }
        // No chain ends in room: zones and copies win over balance.
        let node = nearest.expect("n is at most the nodes, and spread at most their zones");
        self.home[partition].push(node);
        self.load[usize::from(node)] += 1;
    }

    /// Carries the chain out that ends at `last`, which has room.
    fn pass_on(&mut self, reached: &[Option<Step>], last: u16) {
        self.load[usize::from(last)] += 1;
        let mut node = last;
        while let Some(Step { partition, from }) = reached[usize::from(node)] {
            let home = &mut self.home[partition];
            let Some(from) = from else {
                home.push(node);
                return;
            };
            for holder in home.iter_mut().filter(|holder| **holder == from) {
                *holder = node;
            }
            node = from;
        }
    }

    /// Home replicas in walking order, then all others in walking order.
    fn into_lists(self) -> Vec<u16> {
        let mut lists = Vec::with_capacity(self.walks.len() * self.load.len());
        for (home, mut walk) in self.home.into_iter().zip(self.walks) {
            // The sort is stable: within each part the order of the walk stays.
            walk.sort_by_key(|node| !home.contains(node));
            lists.extend(walk);
        }
        lists
    }
}

/// One hand-over: the partition, and the node that gives it away (`None`: it is short of a replica).
#[derive(Clone, Copy)]
struct Step {
    partition: usize,
    from: Option<u16>,
}

/// Does the chain that led to `node` change `partition` already? Two changes of one partition were
/// not checked against each other.
fn on_chain(reached: &[Option<Step>], node: u16, partition: usize) -> bool {
    let mut node = Some(node);
    while let Some(step) = node.and_then(|node| reached[usize::from(node)]) {
        if step.partition == partition {
            return true;
        }
        node = step.from;
    }
    false
}
