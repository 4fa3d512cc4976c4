//! The ring as requests use it: who keeps a key, how to reach them, and whether they are there.
//!
//! Two things say whether a member is there. Gossip's belief, which several members share, is slow (seconds)
//! and sure; the connection to it is quick (a refused connection, a second of silence) and knows one
//! link alone. A member is *live* when neither speaks against it, and *down* when gossip says so. Requests go
//! to live members first, and to members that are down not at all.
//!
//! The ring never changes while a node runs; beliefs are one atomic each, so asking costs a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::hints::{Home, Owners};
use super::metrics::{KINDS, Metrics};
use crate::domain::key::Key;
use crate::domain::membership::Health;
use crate::domain::ring::{NodeIndex, PartitionId, Ring};
use crate::rpc::Peer;

/// See the module.
pub struct Cluster {
    me: Option<NodeIndex>,
    ring: Arc<Ring>,
    places: Vec<Place>,
    /// Rung whenever a belief changes.
    changed: Notify,
}

/// One member of the ring.
struct Place {
    /// `None`: this node itself.
    peer: Option<Peer>,
    health: AtomicU8,
}

impl Cluster {
    /// `ring` as the member called `name` sees it; a name that is not in it is a proxy's. `peer_of`
    /// gives the peer of every other member.
    pub fn new(name: &str, ring: Arc<Ring>, peer_of: impl Fn(&str) -> Option<Peer>) -> Self {
        let me = ring.index_of(name).filter(|&me| ring.member(me).vnodes > 0);
        let place = |member: &crate::domain::ring::Member| {
            let peer = (member.name != name).then(|| peer_of(&member.name)).flatten();
            assert!(peer.is_some() || member.name == name, "no peer for {}", member.name);
            Place { peer, health: AtomicU8::new(Health::Unknown as u8) }
        };
        let places = ring.members().iter().map(place).collect();
        Self { me, ring, places, changed: Notify::new() }
    }

    /// The ring.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// This node's place; `None`: it has none, being a proxy.
    pub fn me(&self) -> Option<NodeIndex> {
        self.me
    }

    /// How to reach a member; `None`: it is this node.
    pub fn peer(&self, node: NodeIndex) -> Option<&Peer> {
        self.places[usize::from(node.0)].peer.as_ref()
    }

    /// A member's name.
    pub fn name(&self, node: NodeIndex) -> &str {
        &self.ring.member(node).name
    }

    /// The partition of `key`.
    pub fn partition_of(&self, key: &Key) -> PartitionId {
        self.ring.partition_of(key.token())
    }

    /// The home replicas of `key`, primary first.
    pub fn home(&self, key: &Key) -> &[NodeIndex] {
        self.ring.home(self.partition_of(key))
    }

    /// The fallbacks of `key`, the first to ask first.
    pub fn fallbacks(&self, key: &Key) -> &[NodeIndex] {
        self.ring.fallbacks(self.partition_of(key))
    }

    /// True when gossip believes that the member is dead or has stopped.
    pub fn is_down(&self, node: NodeIndex) -> bool {
        let health = self.places[usize::from(node.0)].health.load(Ordering::Acquire);
        health == Health::Down as u8 || health == Health::Stopped as u8
    }

    /// True when gossip believes that the member is up, or no more than suspects it.
    pub fn is_believed_up(&self, node: NodeIndex) -> bool {
        let health = self.places[usize::from(node.0)].health.load(Ordering::Acquire);
        health == Health::Up as u8 || health == Health::Suspect as u8
    }

    /// True for this node, and for a member that is worth asking now.
    pub fn is_live(&self, node: NodeIndex) -> bool {
        match self.peer(node) {
            None => true,
            Some(peer) => !self.is_down(node) && (peer.is_usable() || peer.is_idle()),
        }
    }

    /// Gossip's belief about the member called `name`, from now on. A member that is no owner is not
    /// asked for anything, so beliefs about it are not kept here.
    pub fn believe(&self, name: &str, health: Health) {
        let Some(node) = self.ring.index_of(name) else { return };
        let place = &self.places[usize::from(node.0)];
        let before = place.health.swap(health as u8, Ordering::AcqRel);
        if before != health as u8 {
            if health == Health::Up
                && let Some(peer) = &place.peer
            {
                peer.hasten();
            }
            self.changed.notify_waiters();
        }
    }

    /// Completes when a belief changes after this was called.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The cluster as hinted handoff sees it.
pub struct Surroundings {
    /// Who is there.
    pub cluster: Arc<Cluster>,
    /// What clients feel.
    pub metrics: Arc<Metrics>,
}

impl Owners for Surroundings {
    fn is_member(&self, owner: &str) -> bool {
        self.cluster.ring.index_of(owner).is_some()
    }

    fn live_peer(&self, owner: &str) -> Option<Peer> {
        let node = self.cluster.ring.index_of(owner)?;
        self.cluster.peer(node).filter(|_| self.cluster.is_live(node)).cloned()
    }

    fn homes(&self, key: &Key) -> Vec<Home> {
        let home = |&node: &NodeIndex| match self.cluster.peer(node) {
            None => Home::Here,
            Some(peer) => Home::Peer { name: self.cluster.name(node).into(), peer: peer.clone() },
        };
        self.cluster.home(key).iter().map(home).collect()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.cluster.changed())
    }

    fn foreground_latency(&self) -> [Option<Duration>; KINDS] {
        self.metrics.foreground.smoothed(crate::runtime::time::now())
    }
}
