//! Who talks to whom: this process's own identity, its peers', and what each has seen of the other.
//!
//! A node's id and generation live in its data folder; its generation rises at every start, and now and then while the process runs. A folder
//! that was rolled back to an older copy would start with a generation that others have seen already,
//! under another process's nonce. So each side of a handshake tells the other the newest generation
//! that it knows of it; [`LocalInfo::is_outdated_by`] judges the answer.
//!
//! What is remembered lives in memory: it is evidence, not state, and whoever forgets it merely can't
//! warn. It is bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rand::RngCore;

use super::changes::Changes;
use super::handshake::NAME_BYTES_MAX;
use super::lock;
use crate::domain::causality::NodeId;
use crate::runtime::rng;

/// Names and ids that are remembered at most; each is one place in a map.
const REMEMBERED_MAX: usize = 4096;

/// One process as others have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The id of its data folder.
    pub node: NodeId,
    /// The folder's generation when the process began to serve.
    pub generation: u64,
    /// The process's own random number.
    pub process: u64,
}

/// This process, as it introduces itself. Clones share one memory of who was met.
#[derive(Clone)]
pub struct LocalInfo {
    cluster: Arc<str>,
    name: Arc<str>,
    sighting: Sighting,
    policies: u64,
    met: Arc<Mutex<Met>>,
    /// Rung when somebody has called us.
    arrivals: Arc<Changes>,
}

impl fmt::Debug for LocalInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, name, sighting, policies: _, met: _, arrivals: _ } = self;
        write!(f, "{name} of {cluster}: {sighting:?}")
    }
}

impl LocalInfo {
    /// The process of member `name` of `cluster` whose folder holds `node` and `generation`. Draws
    /// the process's nonce.
    ///
    /// # Panics
    /// When a name is longer than [`NAME_BYTES_MAX`], which no peer would accept.
    pub fn new(cluster: &str, name: &str, node: NodeId, generation: u64) -> Self {
        assert!(cluster.len() <= NAME_BYTES_MAX, "cluster name is too long: {cluster}");
        assert!(name.len() <= NAME_BYTES_MAX, "member name is too long: {name}");
        let process = rng::fork("rpc process nonce").next_u64();
        let sighting = Sighting { node, generation, process };
        let (met, arrivals) = Default::default();
        Self { cluster: cluster.into(), name: name.into(), sighting, policies: 0, met, arrivals }
    }

    /// The same, with the [digest](crate::domain::policy::Policies::digest) of its conflict policies. Nodes with others
    /// are refused.
    pub fn with_policies(self, digest: u64) -> Self {
        Self { policies: digest, ..self }
    }

    /// The digest of its conflict policies.
    pub fn policies(&self) -> u64 {
        self.policies
    }

    /// The cluster's name: nodes of another are strangers.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The member's configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id, generation and nonce.
    pub fn sighting(&self) -> Sighting {
        self.sighting
    }

    /// True when `seen` proves that another process has run with this node's id and a generation as
    /// new as this one's, or newer: the folder is an older copy, or is used twice.
    pub fn is_outdated_by(&self, seen: &Sighting) -> bool {
        let own = &self.sighting;
        seen.node == own.node && seen.generation >= own.generation && seen.process != own.process
    }

    /// The process that was last seen under a member's `name`; `None`: nobody since this start.
    pub fn last_seen(&self, name: &str) -> Option<Sighting> {
        lock(&self.met).by_name.get(name).map(|member| member.last)
    }

    /// The newest generation seen of `node`, and the first process that showed it.
    pub fn newest_of(&self, node: NodeId) -> Option<Sighting> {
        lock(&self.met).by_node.get(&node).copied()
    }

    /// Remembers that member `name` was seen.
    pub(super) fn meet(&self, name: &str, seen: Sighting) {
        let mut met = lock(&self.met);
        met.by_name.entry(name.to_owned()).or_insert(Member { last: seen, arrivals: 0 }).last =
            seen;
        let newest = met.by_node.entry(seen.node).or_insert(seen);
        // Of two processes with one generation the first is kept: the other is told of it.
        if newest.generation < seen.generation {
            *newest = seen;
        }
        if met.by_name.len() > REMEMBERED_MAX {
            met.by_name.pop_first();
        }
        if met.by_node.len() > REMEMBERED_MAX {
            met.by_node.pop_first();
        }
    }

    /// Member `name` has called us: it is there, whatever our own attempts to call it say.
    pub(super) fn note_arrival(&self, name: &str) {
        if let Some(member) = lock(&self.met).by_name.get_mut(name) {
            member.arrivals += 1;
        }
        self.arrivals.bump();
    }

    /// How often member `name` has called us.
    pub(super) fn arrivals(&self, name: &str) -> u64 {
        lock(&self.met).by_name.get(name).map_or(0, |member| member.arrivals)
    }

    /// Waits until member `name` has called us more or less often than `seen`.
    pub(super) async fn arrival(&self, name: &str, seen: u64) {
        let mut version = self.arrivals.version();
        while self.arrivals(name) == seen {
            version = self.arrivals.after(version).await;
        }
    }
}

#[derive(Default)]
struct Met {
    by_name: BTreeMap<String, Member>,
    by_node: BTreeMap<NodeId, Sighting>,
}

struct Member {
    last: Sighting,
    /// How often it has called us.
    arrivals: u64,
}

/// The other side of a handshake that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its configured member name.
    pub name: Arc<str>,
    /// Its id, generation and nonce.
    pub sighting: Sighting,
    /// Where its end of the connection is.
    pub addr: SocketAddr,
    /// The newest that it had seen of us before this connection; `None`: nothing. Judge it with
    /// [`LocalInfo::is_outdated_by`].
    pub saw_us: Option<Sighting>,
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;

    fn seen(node: u64, generation: u64, process: u64) -> Sighting {
        Sighting { node: NodeId(node), generation, process }
    }

    #[test]
    fn the_newest_generation_and_its_first_process_are_kept() {
        let local = LocalInfo::new("c", "n1", NodeId(1), 5);
        local.meet("n2", seen(2, 4, 40));
        local.meet("n2", seen(2, 7, 70));
        local.meet("n2", seen(2, 7, 71));
        local.meet("n2", seen(2, 3, 30));
        assert_eq!(local.newest_of(NodeId(2)), Some(seen(2, 7, 70)));
        assert_eq!(local.last_seen("n2"), Some(seen(2, 3, 30)));
        assert_eq!(local.last_seen("n3"), None);
    }

    #[test]
    fn a_rolled_back_or_doubled_folder_is_noticed() {
        let local = LocalInfo::new("c", "n1", NodeId(1), 5);
        let own = local.sighting();
        assert!(!local.is_outdated_by(&own), "that is this very process");
        assert!(!local.is_outdated_by(&seen(1, 4, 9)), "an earlier start of this folder");
        assert!(local.is_outdated_by(&seen(1, 5, own.process ^ 1)), "the same start twice");
        assert!(local.is_outdated_by(&seen(1, 6, own.process ^ 1)), "a start that we forgot");
        assert!(!local.is_outdated_by(&seen(2, 9, 9)), "the folder that was here before");
    }

    #[test]
    fn memory_is_bounded() {
        let local = LocalInfo::new("c", "n1", NodeId(1), 5);
        for i in 0..REMEMBERED_MAX as u64 + 10 {
            local.meet(&format!("n{i}"), seen(i, 1, 1));
        }
        assert_eq!(lock(&local.met).by_name.len(), REMEMBERED_MAX);
        assert_eq!(lock(&local.met).by_node.len(), REMEMBERED_MAX);
    }
}
