//! A plan: all that one run will do, as plain data.
//!
//! ```text
//! seed ──draw──> Plan ──run──> Report          cargo sim sweep, cargo sim replay 17
//!                 │  ▲
//!               JSON file                      cargo sim plan 17 > x.json, cargo sim replay x.json
//! ```
//!
//! A plan holds every machine, setting, link, operation and fault, so it can be read, cut down by
//! hand or by `minimize`, and kept in `seeds/` after the drawing of plans has changed. Times count
//! from the moment when every node was ready for the first time. Numbers are whole, and units stand
//! last in their names. Unknown fields are refused: a plan that means something else than it says
//! would be worse than none.
//!
//! What a plan does not hold: what chance decides while it runs (packet delays, which unsynced
//! writes survive a power loss). Those follow from `seed` and from the name of what they concern.

mod draw;
mod fault;
mod json;
mod operation;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use draw::{SMALLEST, draw};
pub use fault::{At, Damage, Fault, FaultKind, Kept, Machine, Moment, Trigger};
pub use json::PlanError;
pub use operation::{Action, Context, Level, Operation};

/// The version of the format. Files of another version are refused.
pub const VERSION: u32 = 1;

/// All that one run will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The format's version: [`VERSION`].
    pub version: u32,
    /// The seed it was drawn from, and of all that chance decides while it runs.
    pub seed: u64,
    /// Why the plan is kept, for files in `seeds/`; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// What was found when this plan was run, in files written for failing seeds; a replay says
    /// whether it still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// How long it runs.
    pub length: Length,
    /// The nodes, in the order of their numbers: the first is n1.
    pub nodes: Vec<NodePlan>,
    /// The settings that all nodes share.
    pub settings: Settings,
    /// How the cluster comes into being; `None`: every node is told of all, in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<Founding>,
    /// What links are like when no fault is on them.
    pub links: Links,
    /// The clients, in the order of their numbers: the first is c1.
    pub clients: Vec<ClientPlan>,
    /// What goes wrong, in the order of their ids.
    pub faults: Vec<Fault>,
    /// What clients do, in the order of their moments.
    pub operations: Vec<Operation>,
}

/// What was found when a plan was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The verdict's name: `ok`, `safety`, `liveness`, `crash`.
    pub verdict: String,
    /// The trace's digest, unless the run never got to its end. Any change of the node's code
    /// changes it, so plans kept in `seeds/` leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The run's length, in simulated milliseconds from the moment when every node was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Length {
    /// When the last fault ends, clients stop and healing begins.
    pub faults_ms: u64,
    /// The run lasts until here at least; longer if healing needs it.
    pub total_ms: u64,
}

/// A node's number: n1, n2, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeNo(pub u32);

/// A client's number: c1, c2, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClientNo(pub u32);

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// Its zone, from 1.
    pub zone: u32,
    /// How fast its clock runs beside true time, in millionths; 0: exactly true.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drift_ppm: i64,
    /// True: it owns nothing and only coordinates.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy: bool,
}

/// The settings that all nodes share; the rest keep the node's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// N: how many replicas a key has.
    pub replicas: u32,
    /// R, for requests that name none.
    pub read_quorum: Level,
    /// W, for requests that name none.
    pub write_quorum: Level,
    /// Q: how many partitions the ring has; a power of two.
    pub partitions: u32,
    /// Points that a node puts on the ring.
    pub vnodes: u32,
    /// True: a write is acked after its fsync. False: before it (`sync: interval`), so a power loss
    /// may take what was acked in the last moments.
    pub sync_always: bool,
    /// A request's default deadline.
    pub request_timeout_ms: u64,
    /// Where the commit log starts a new segment.
    pub segment_bytes: u64,
    /// What the storage engine's memory and tables may have; `None`: the node's defaults, with which no run
    /// makes a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSettings>,
    /// The largest key and value together.
    pub pair_bytes_max: u64,
    /// The most siblings that a key may have before writes are refused.
    pub siblings_max: u32,
    /// Actors that a context keeps beside those of live siblings, and seconds after which it loses more; `None`: the node's defaults,
    /// which no run reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<(usize, u64)>,
    /// The buckets where the last write wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_write: Vec<String>,
    /// The most client requests that a node answers at one time; it refuses more. `None`: the node's
    /// default, which no plan's clients can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_in_flight_max: Option<u32>,
    /// How often a node raises its heartbeat and gossips; `None`: the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gossip_interval_ms: Option<u64>,
    /// How a silent node is told from a slow one; `None`: the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<Detector>,
    /// How old a hint may become, in seconds; `None`: the node's default, which no run reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint_age_s: Option<u64>,
    /// Within how many milliseconds each pair of replicas compares each partition; `None`: the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_entropy_ms: Option<u64>,
    /// The most bytes of hints that a node keeps; `None`: the node's default, which no plan's clients can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint_bytes_max: Option<u64>,
    /// The most requests of other nodes that a node works on at one time; it refuses more. `None`: the node's
    /// default, which no plan's clients can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_requests_max: Option<u32>,
    /// The most bytes that wait to be sent to one other node; `None`: the node's default, which no
    /// plan's clients can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_queue_bytes: Option<u64>,
    /// How long a client's connection may rest; `None`: the node's default, which no run reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_idle_ms: Option<u64>,
}

/// The storage engine's sizes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// A memtable that has so much becomes a table.
    pub memtable_bytes: u64,
    /// So large is a table that compaction writes.
    pub table_bytes: u64,
    /// So large is a table's block.
    pub block_bytes: u64,
    /// So much of unpacked blocks is kept.
    pub cache_bytes: u64,
}

/// A cluster whose owners find each other by gossip and make the ring once all were heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Whose addresses every node is told.
    pub seeds: Vec<NodeNo>,
    /// Who loses its power meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub power_losses: Vec<FoundingLoss>,
}

/// A node that loses its power while the cluster is founded: right after its `count`th `event`. It is spared
/// if every node was ready before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundingLoss {
    /// Who.
    pub node: NodeNo,
    /// After which of its doings.
    pub event: Moment,
    /// After how many of them since the start; from 1.
    pub count: u64,
    /// How long it has no power.
    pub for_ms: u64,
}

/// How a silent node is told from a slow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// By how unlikely its silence is, from the beats before.
    Phi,
    /// By so many beats that did not come.
    Count,
}

/// What links are like when no fault is on them, by the machines at their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Between nodes of one zone.
    pub within_zone: Link,
    /// Between nodes of different zones.
    pub across_zones: Link,
    /// Between clients and nodes.
    pub clients: Link,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The shortest time a packet takes.
    pub delay_min_us: u64,
    /// The longest time a packet takes.
    pub delay_max_us: u64,
    /// Packets lost, of a million.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub loss_ppm: u32,
    /// Packets that arrive twice, of a million.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub duplicate_ppm: u32,
    /// Packets that others may overtake, of a million.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub reorder_ppm: u32,
    /// What fits through it; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<u64>,
}

/// One client: it does its operations one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// How often it repeats a write whose outcome it does not know, with the same value.
    pub retries: u32,
    /// How long it waits before a repetition.
    pub retry_pause_ms: u64,
    /// True: the repetition goes to the next node. False: to the same one.
    pub retry_elsewhere: bool,
    /// How long it waits for an answer before it gives up.
    pub patience_ms: u64,
    /// So many of its reads and writes that are due within a second go in one batch; `None`: each goes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_max: Option<u32>,
}

impl Plan {
    /// The numbers of all nodes, ascending.
    pub fn node_numbers(&self) -> Vec<NodeNo> {
        (1..).map(NodeNo).take(self.nodes.len()).collect()
    }

    /// The numbers of all clients, ascending.
    pub fn client_numbers(&self) -> Vec<ClientNo> {
        (1..).map(ClientNo).take(self.clients.len()).collect()
    }

    /// The numbers of the nodes that keep data, ascending.
    pub fn owners(&self) -> Vec<NodeNo> {
        let numbered = self.node_numbers().into_iter().zip(&self.nodes);
        numbered.filter(|(_, node)| !node.proxy).map(|(number, _)| number).collect()
    }

    /// All keys that operations touch, sorted, each once.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.operations.iter().map(|op| op.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl Settings {
    /// Whether nodes may refuse what they are asked only because a limit is tiny.
    pub fn is_tight(&self) -> bool {
        self.peer_queue_bytes.is_some()
            || self.http_idle_ms.is_some()
            || self.hint_bytes_max.is_some()
            || self.peer_requests_max.is_some()
    }

    /// How many replicas `level` asks for.
    pub fn count(&self, level: Level) -> u32 {
        match level {
            Level::One => 1,
            Level::Quorum => self.replicas / 2 + 1,
            Level::All => self.replicas,
            Level::Count(count) => count,
        }
    }
}

impl std::fmt::Display for NodeNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl std::fmt::Display for ClientNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{}", self.0)
    }
}

fn numbered(text: &str, letter: char) -> Result<u32, String> {
    let number = text.strip_prefix(letter).and_then(|digits| digits.parse().ok());
    number.filter(|n| *n > 0).ok_or_else(|| format!("\"{text}\" is not of the form {letter}1"))
}

impl TryFrom<String> for NodeNo {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        numbered(&text, 'n').map(Self)
    }
}

impl TryFrom<String> for ClientNo {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        numbered(&text, 'c').map(Self)
    }
}

impl From<NodeNo> for String {
    fn from(node: NodeNo) -> String {
        node.to_string()
    }
}

impl From<ClientNo> for String {
    fn from(client: ClientNo) -> String {
        client.to_string()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}
