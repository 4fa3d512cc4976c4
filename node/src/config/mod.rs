//! What one node is told: its YAML file, with overrides from the environment, as a [`Config`].
//!
//! The file is judged as a whole. Every mistake is reported at once, each with its path, what was
//! found there and what is allowed; an unknown field is a mistake, and so is an environment
//! variable that starts with `STARLING_` and names no field. What each field means, its default and
//! its limits stand in one place, the table in [`fields`], from which
//! `starling config --example` is printed.
//!
//! One file can serve a whole cluster: `node` can come from `STARLING_NODE`, and the listen
//! addresses default to the node's own entry in `members`.
//!
//! Reading the file and the environment is left to the caller: [`Config::from_yaml`] is a pure
//! function. Programs that make configurations in code start from [`Config::new`] and may call
//! [`Config::check`].

pub mod address;
pub mod fields;
pub mod mistakes;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use mistakes::{ConfigErrors, Mistake};

use crate::domain::object::pruning::Pruning;
use crate::domain::policy::Policies;
use crate::domain::quorum::Level;

/// The largest value that `limits.pair_bytes` may be set to.
pub const PAIR_BYTES_MAX: usize = 1024 * 1024;

/// The most buckets that a file may name.
pub const BUCKETS_MAX: usize = 1024;

/// The most members of a cluster.
pub const MEMBERS_MAX: usize = 1024;

/// Everything a node is told. [`fields`] says what each field means and what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The cluster's name. Nodes of different clusters refuse each other.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// The folder of everything that this node keeps.
    pub data: PathBuf,
    /// Where clients are listened for, as `host:port`.
    pub http: String,
    /// Where other nodes are listened for, as `host:port`.
    pub rpc: String,
    /// Worker threads; 0: one for each core.
    pub threads: usize,
    /// This node's zone and points on the ring, unless it stands among [`Config::members`].
    pub zone: String,
    /// See [`Config::zone`].
    pub vnodes: u32,
    /// This node's datacenter.
    pub datacenter: String,
    /// Where members may be found by gossip.
    pub seeds: Vec<String>,
    /// The names that make the ring, when [`Config::members`] is empty.
    pub founders: Vec<String>,
    /// Every node that makes the ring, in the order of the file. Empty: see [`Config::founders`].
    pub members: Vec<Member>,
    /// Where this node is reached.
    pub advertise: Advertise,
    /// How the ring is cut.
    pub ring: Ring,
    /// How many replicas, and how many of them must answer.
    pub replication: Replication,
    /// How members hear of each other.
    pub gossip: Gossip,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much of things there may be.
    pub limits: Limits,
    /// How data is kept.
    pub storage: Storage,
    /// Writes kept for members that are away.
    pub hints: Hints,
    /// How replicas heal each other.
    pub anti_entropy: AntiEntropy,
    /// What is logged, and how.
    pub log: Log,
    /// What becomes of concurrent values, of the buckets that say so.
    pub buckets: BTreeMap<String, Conflicts>,
}

/// What becomes of concurrent values of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflicts {
    /// All are kept until a client resolves them.
    Siblings,
    /// The last write wins.
    Lww,
}

/// Where this node is reached, as `host:port`.
#[derive(Clone, Debug, PartialEq)]
pub struct Advertise {
    /// By other nodes, over TCP and UDP.
    pub rpc: String,
    /// By clients.
    pub http: String,
}

/// How members hear of each other.
#[derive(Clone, PartialEq)]
pub struct Gossip {
    /// Milliseconds between two heartbeats.
    pub interval_ms: u64,
    /// Members that each round tells the news to.
    pub fanout: usize,
    /// When a member is suspected.
    pub detector: Detector,
    /// Shared by the cluster; empty: gossip is not authenticated.
    pub secret: String,
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { interval_ms, fanout, detector, secret } = self;
        let secret = if secret.is_empty() { "none" } else { "set" };
        write!(f, "Gossip {{ {interval_ms} ms, fanout {fanout}, {detector:?}, secret: {secret} }}")
    }
}

/// When a member is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// By phi accrual, from this threshold on.
    Phi(u32),
    /// After so many intervals without a beat.
    Count(u32),
}

/// Writes kept for members that are away.
#[derive(Clone, Debug, PartialEq)]
pub struct Hints {
    /// Bytes of them at most.
    pub bytes_max: u64,
    /// Seconds after which one is dropped.
    pub age_s: u64,
}

/// How replicas heal each other.
#[derive(Clone, Debug, PartialEq)]
pub struct AntiEntropy {
    /// Milliseconds within which each pair of replicas compares each partition.
    pub period_ms: u64,
    /// Bytes of objects that a node moves for it in a second, at the most.
    pub bytes_per_s: u64,
}

/// One node of the cluster, as the others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name, unique in the cluster. Its place on the ring follows from it.
    pub name: String,
    /// Where the other nodes reach it, as `host:port`.
    pub rpc: String,
    /// Where clients reach it, as `host:port`.
    pub http: String,
    /// Its zone: replicas of a key are kept in distinct zones where possible.
    pub zone: String,
    /// How many points it has on the ring; 0: it owns nothing and only coordinates (a proxy).
    pub vnodes: u32,
}

/// How the ring is cut. The same on every node, for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Ring {
    /// Equal parts of the ring; a power of two.
    pub partitions: u32,
    /// Points on the ring of a member that does not say.
    pub vnodes: u32,
}

/// How many replicas, and how many of them must answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Home replicas of each key.
    pub n: u8,
    /// Replies that a read waits for, unless the request says.
    pub r: Level,
    /// Acks that a write waits for, unless the request says.
    pub w: Level,
}

/// How long things may take, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// A request, unless it says with `?timeout_ms=`.
    pub request_ms: u64,
    /// The most that a request may ask for with `?timeout_ms=`.
    pub request_max_ms: u64,
    /// Connecting to another node.
    pub connect_ms: u64,
    /// From the first byte of a request to the end of its headers.
    pub header_read_ms: u64,
    /// From the end of a request's headers to the end of its body.
    pub body_read_ms: u64,
    /// A client taking a part of an answer.
    pub write_ms: u64,
    /// A client's connection between two requests.
    pub idle_ms: u64,
    /// Requests that are under way when the node is told to stop.
    pub drain_ms: u64,
}

/// How much of things there may be. Past a limit the node refuses, and counts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a key, its bucket and its value together.
    pub pair_bytes: usize,
    /// Siblings of a key that a client's write may make.
    pub siblings: usize,
    /// Siblings of a key from which on a write is counted and logged.
    pub siblings_warn: usize,
    /// Actors without a live value that a key's context keeps, the youngest so many. The same on all nodes.
    pub vector_actors: usize,
    /// Seconds from which on more actors than that are dropped. The same on all nodes.
    pub vector_age_s: u64,
    /// Milliseconds that a context may be ahead of this node's clock where the last write wins.
    pub lww_skew_ms: u64,
    /// Open connections of clients.
    pub connections: usize,
    /// Client requests under way at one time.
    pub requests_in_flight: usize,
    /// Bytes of a request's line and headers.
    pub header_bytes: usize,
    /// Bytes that wait to be sent to one other node.
    pub peer_queue_bytes: usize,
    /// Requests of other nodes under way at one time.
    pub peer_requests: usize,
}

/// How data is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// When a write is acked.
    pub sync: Sync,
    /// Bytes of a commit log segment, after which the next is begun.
    pub segment_bytes: u64,
    /// Bytes of new objects in memory, after which they become a table on disk; up to two more of
    /// these may wait for that.
    pub memtable_bytes: u64,
    /// Bytes of a table that compaction writes.
    pub table_bytes: u64,
    /// Bytes of a block of a table: what reading one key unpacks.
    pub block_bytes: u64,
    /// Bytes of unpacked blocks in memory.
    pub cache_bytes: u64,
    /// Microseconds that the commit log waits for more writes before it syncs; 0: none.
    pub gather_us: u64,
}

/// When a write is acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// After it is on the disk: it survives power loss.
    Always,
    /// Before it is: with the power, or the process, of every replica at most 10 ms of acked writes
    /// are lost, and what the disk takes longer than 5 ms for.
    Interval,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The shape of a line.
    pub format: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How severe a log line is. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// The node cannot do what it is for.
    Error,
    /// Something is wrong, and the node copes.
    Warn,
    /// Starts, stops, and changes in the cluster.
    Info,
    /// Each request.
    Debug,
    /// Each step of each request.
    Trace,
}

impl Config {
    /// The configuration of `node` with all defaults. It listens where its entry in `members` says
    /// that it is reached (on loopback, at any port, if it has none).
    pub fn new(cluster: &str, node: &str, members: Vec<Member>) -> Config {
        let mut config = read::defaults();
        if let Some(own) = members.iter().find(|member| member.name == node) {
            config.http = own.http.clone();
            config.rpc = own.rpc.clone();
        }
        config.advertise = Advertise { rpc: config.rpc.clone(), http: config.http.clone() };
        cluster.clone_into(&mut config.cluster);
        node.clone_into(&mut config.node);
        config.members = members;
        config
    }

    /// Reads a configuration from YAML text. `env` is the process's environment: of it, the
    /// variables that start with `STARLING_` override single fields, with `__` for the dots of the
    /// path (`STARLING_STORAGE__SYNC=interval`, `STARLING_MEMBERS__0__ZONE=east`).
    ///
    /// # Errors
    /// Every mistake in the text and the variables, together.
    pub fn from_yaml(text: &str, env: &BTreeMap<String, String>) -> Result<Config, ConfigErrors> {
        read::from_yaml(text, env)
    }

    /// Checks what holds between fields: that the node has a place, that no two members share a
    /// name or an address, that enough members can hold the replicas, and the like. What
    /// [`Config::from_yaml`] returned has passed.
    ///
    /// # Errors
    /// Every mistake, together.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut mistakes = mistakes::Mistakes::default();
        read::check(self, &mut mistakes);
        mistakes.into_result(())
    }

    /// This node's own entry in `members`.
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.name == self.node)
    }

    /// This node as the others see it.
    pub fn own(&self) -> Member {
        let (zone, vnodes) = match self.own_member() {
            Some(own) => (own.zone.clone(), own.vnodes),
            None => (self.zone.clone(), self.vnodes),
        };
        let Advertise { rpc, http } = self.advertise.clone();
        Member { name: self.node.clone(), rpc, http, zone, vnodes }
    }

    /// The conflict policy of every bucket, and how contexts are kept short.
    pub fn policies(&self) -> Policies {
        let lww = self.buckets.iter().filter(|(_, conflicts)| **conflicts == Conflicts::Lww);
        let Limits { vector_actors: actors_max, vector_age_s: age_s, .. } = self.limits;
        Policies::new(lww.map(|(name, _)| name.clone())).with_pruning(Pruning { actors_max, age_s })
    }

    /// The names that make the ring.
    pub fn ring_names(&self) -> Vec<&str> {
        if self.members.is_empty() {
            return self.founders.iter().map(String::as_str).collect();
        }
        self.members.iter().map(|member| member.name.as_str()).collect()
    }
}

impl Member {
    /// A member in the default zone with the default number of vnodes.
    /// The addresses are `host:port`.
    pub fn new(name: &str, rpc: impl Into<String>, http: impl Into<String>) -> Member {
        read::default_member(name, rpc.into(), http.into())
    }
}
