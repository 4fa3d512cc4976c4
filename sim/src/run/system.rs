//! What runs on the node machines: Starling's node, or a stand-in in tests of this module.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use starling::domain::causality::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::history::View;
use crate::plan::{NodeNo, Plan};

/// Makes nodes.
pub(super) trait System: Send + Sync + 'static {
    /// The main task of one process of one node: serves until it cannot, or is killed. Tells why it
    /// ended.
    fn boot(&self, site: Site) -> Pin<Box<dyn Future<Output = String> + Send>>;

    /// What its nodes are held to, beyond storing and answering.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }
}

/// What nodes are held to, beyond storing and answering.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// They gossip: they say who is up and who is down, and agree on it in the end.
    pub(super) gossips: bool,
    /// They stand in for each other, and keep hints.
    pub(super) hints: bool,
    /// They make their replicas equal without any client.
    pub(super) heals: bool,
}

/// What a node's process is given.
pub(super) struct Site {
    /// The plan.
    pub(super) plan: Arc<Plan>,
    /// Which node it is.
    pub(super) node: NodeNo,
    /// What the harness asks behind the node's back, to be answered from the node's own machine.
    pub(super) questions: mpsc::UnboundedReceiver<Question>,
}

/// What the harness asks a node behind its back.
pub(super) enum Question {
    /// The home replicas of each of these keys, primary first.
    Homes(Vec<String>, oneshot::Sender<Vec<Vec<NodeNo>>>),
    /// What the node holds for each of these keys, encoded.
    Copies(Vec<String>, oneshot::Sender<Vec<Option<Vec<u8>>>>),
    /// Its id.
    Id(oneshot::Sender<NodeId>),
    /// Whether it cannot vouch for some of what it holds. Asked only of nodes that heal.
    Doubts(oneshot::Sender<bool>),
    /// Whether its trees are those of its data. Asked only of nodes that heal.
    Trees(oneshot::Sender<Trees>),
    /// What it lists of the cluster. Asked only of nodes that gossip.
    View(oneshot::Sender<View>),
    /// For whom it holds hints, and how many. Asked only of nodes that keep any.
    HintsLeft(oneshot::Sender<Vec<(NodeNo, u64)>>),
    /// Its gauges.
    Gauges(oneshot::Sender<Vec<Gauge>>),
}

/// How the trees of a node's partitions stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Trees {
    /// So many are not built yet.
    pub(super) unready: u64,
    /// These are not the trees that a scan makes.
    pub(super) wrong: Vec<u32>,
}

/// What a gauge of a node reads, and what it is configured to stay within.
pub(super) struct Gauge {
    /// What is measured, with its unit.
    pub(super) name: &'static str,
    /// The reading.
    pub(super) value: u64,
    /// The bound.
    pub(super) bound: u64,
}
