//! What nodes said of each other, and of hints, in a run: the evidence for points 8, 9 and 10.
//!
//! All of it comes from the nodes' typed events and from what each lists when it is asked at the end, so
//! it is *claims*: the oracle holds them against what the harness did to machines and links, never
//! against each other's reasons. Times are nanoseconds of simulated true time.

use serde::{Deserialize, Serialize};

use super::{KeyIndex, NodeIndex};

/// What nodes believed of each other. Only of runs whose nodes gossip.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    /// Every process of every node, in the order of their starts.
    pub lives: Vec<Life>,
    /// Every change of a belief that a node noted, in the order of their times.
    pub beliefs: Vec<Belief>,
    /// What each node lists after healing, in the order of the nodes; empty: they were not asked, since
    /// the run was cut short.
    pub views: Vec<View>,
    /// How many members the cluster has, proxies included.
    pub members: u32,
    /// When the run was over: what happened later is not known.
    pub end_ns: u64,
    /// Within this, a node that is gone is down at every other that is well.
    pub down_within_ns: u64,
    /// How late a packet may arrive on a slow link.
    pub late_ns: u64,
}

/// One process of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Whose.
    pub node: NodeIndex,
    /// When it was started.
    pub start_ns: u64,
    /// When it ended, and how; `None`: it lived to the end of the run.
    pub end: Option<(u64, Ending)>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ending {
    /// By itself, or because it was asked to: it may have said goodbye.
    Exit,
    /// It was killed, or its machine lost its power: nobody was told.
    Killed,
}

/// From `at_ns` on, `observer` takes `subject` for this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Belief {
    /// Who believes it. A belief ends with the process that holds it.
    pub observer: NodeIndex,
    /// Of whom.
    pub subject: NodeIndex,
    /// Since when.
    pub at_ns: u64,
    /// What.
    pub state: Health,
}

/// What a node may be taken for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Health {
    /// Told of, never heard.
    Unknown,
    /// Alive.
    Up,
    /// Silent, but that is one's own impression.
    Suspect,
    /// Dead, as several found.
    Down,
    /// Gone after a goodbye.
    Stopped,
}

/// What one node lists of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Who lists it.
    pub node: NodeIndex,
    /// The members by name, itself among them.
    pub members: Vec<Listed>,
    /// One word for its partition table.
    pub ring: u64,
}

/// One row of a [`View`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The member's name.
    pub name: String,
    /// What it is taken for.
    pub health: Health,
    /// Which of its processes is meant.
    pub incarnation: u64,
}

/// What became of hints. Only of runs whose nodes keep any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hints {
    /// What nodes noted, in the order of their times.
    pub steps: Vec<HintStep>,
    /// What is still held after healing; `None`: nodes were not asked, since the run was cut short.
    pub left: Option<Vec<HintsLeft>>,
    /// How old a hint must be before it is dropped.
    pub age_ns: u64,
    /// How long after its note a hint is in the log at the latest, where disks are well.
    pub durable_ns: u64,
}

/// One thing that a node did with a hint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HintStep {
    /// When.
    pub at_ns: u64,
    /// Who holds, or held, the hint.
    pub holder: NodeIndex,
    /// For whom.
    pub owner: NodeIndex,
    /// Of which key. Keys that share a token are told by the first of them.
    pub key: KeyIndex,
    /// What.
    pub what: HintDeed,
}

/// What nodes do with hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HintDeed {
    /// Took it, or merged it into one that it held.
    Stored,
    /// Dropped it after its owner's durable ack.
    Delivered,
    /// Dropped it because of its age.
    Expired,
    /// Dropped it after it gave the object to all who own the key now.
    Reresolved,
}

/// Hints that a node holds for an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HintsLeft {
    /// Who holds them.
    pub holder: NodeIndex,
    /// For whom.
    pub owner: NodeIndex,
    /// How many.
    pub count: u64,
}
