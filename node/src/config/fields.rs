//! The table of every field: its path, what is allowed, its default and what it means. Reading,
//! suggestions, environment variables and `starling config --example` all follow from it.
//!
//! A unit stands last in a name. `members[]` stands for every entry of the list, `buckets{}` for every bucket.

use std::fmt;

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its path from the root of the file.
    pub path: &'static str,
    /// What is allowed.
    pub kind: Kind,
    /// What it is when the file does not say.
    pub default: Default,
    /// What it means, in a line for operators.
    pub about: &'static str,
}

/// What a field may hold. Its `Display` is the "allowed" of an error message.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A name: letters, digits, `-`, `_` and `.`.
    Name,
    /// A path of the file system.
    Path,
    /// `host:port`.
    Address,
    /// A whole number.
    Number {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A power of two.
    PowerOfTwo {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// How many replicas must answer.
    Quorum,
    /// Names, as a list or separated by commas.
    Names,
    /// `host:port`s, as a list or separated by commas.
    Addresses,
    /// Any text up to 256 bytes, or none.
    Secret,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What a field is when the file does not say.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// The file must say.
    Required,
    /// This number.
    Number(u64),
    /// This text.
    Text(&'static str),
    /// Whatever the field at this path is.
    SameAs(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Name => f.write_str("1 to 64 letters, digits, \"-\", \"_\" or \".\""),
            Kind::Path => f.write_str("a path"),
            Kind::Address => f.write_str("host:port, such as 10.0.0.5:7001"),
            Kind::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
            Kind::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Kind::Quorum => f.write_str("one, quorum, all, or a number from 1 to replication.n"),
            Kind::Names => f.write_str("a list of names"),
            Kind::Addresses => f.write_str("a list of host:port, such as [10.0.0.5:7001]"),
            Kind::Secret => f.write_str("text of at most 256 bytes"),
            Kind::Choice([first @ .., last]) => write!(f, "{} or {last}", first.join(", ")),
            Kind::Choice([]) => f.write_str("nothing"),
        }
    }
}

/// Every field, in the order of the printed example.
pub const FIELDS: &[Field] = &[
    field("cluster", Kind::Name, Default::Required, "the cluster's name; strangers are refused"),
    field(
        "node",
        Kind::Name,
        Default::Required,
        "this node's name; its place on the ring follows from it",
    ),
    field(
        "data",
        Kind::Path,
        Default::Text("./starling-data"),
        "the folder that this node keeps its data in; never shared",
    ),
    field(
        "http",
        Kind::Address,
        Default::SameAs("members[].http"),
        "where this node listens for clients",
    ),
    field(
        "rpc",
        Kind::Address,
        Default::SameAs("members[].rpc"),
        "where this node listens for other nodes",
    ),
    field(
        "threads",
        Kind::Number { min: 0, max: 1024 },
        Default::Number(0),
        "worker threads; 0: one for each core",
    ),
    field(
        "zone",
        Kind::Name,
        Default::Text("default"),
        "this node's zone, unless it stands among members; replicas go to distinct zones",
    ),
    field(
        "datacenter",
        Kind::Name,
        Default::Text("default"),
        "this node's datacenter; told to the others",
    ),
    field(
        "vnodes",
        Kind::Number { min: 0, max: 4096 },
        Default::SameAs("ring.vnodes"),
        "this node's points on the ring, unless it stands among members; 0: a proxy",
    ),
    field(
        "seeds",
        Kind::Addresses,
        Default::Text("[]"),
        "where members may be found by gossip (their rpc addresses); names may resolve to several",
    ),
    field(
        "founders",
        Kind::Names,
        Default::Text("[]"),
        "who makes the ring, in place of members: the node serves once gossip has found them all",
    ),
    field(
        "members[].name",
        Kind::Name,
        Default::Required,
        "its place on the ring follows from its name",
    ),
    field("members[].rpc", Kind::Address, Default::Required, "where other nodes reach it"),
    field("members[].http", Kind::Address, Default::Required, "where clients reach it"),
    field(
        "members[].zone",
        Kind::Name,
        Default::Text("default"),
        "replicas go to distinct zones where possible",
    ),
    field(
        "members[].vnodes",
        Kind::Number { min: 0, max: 4096 },
        Default::SameAs("ring.vnodes"),
        "its points on the ring; 0: it owns nothing and only coordinates",
    ),
    field(
        "advertise.rpc",
        Kind::Address,
        Default::SameAs("rpc"),
        "where other nodes reach this one, over TCP and UDP; say it if rpc is 0.0.0.0",
    ),
    field(
        "advertise.http",
        Kind::Address,
        Default::SameAs("http"),
        "where clients reach this one; say it if http is 0.0.0.0",
    ),
    field(
        "ring.partitions",
        Kind::PowerOfTwo { min: 1, max: 65_536 },
        Default::Number(1024),
        "equal parts of the ring; never change it once there is data",
    ),
    field(
        "ring.vnodes",
        Kind::Number { min: 1, max: 4096 },
        Default::Number(256),
        "points on the ring of a member that does not say",
    ),
    field(
        "replication.n",
        Kind::Number { min: 1, max: 15 },
        Default::Number(3),
        "replicas of each key",
    ),
    field(
        "replication.r",
        Kind::Quorum,
        Default::Text("quorum"),
        "replies a read waits for, unless it says with ?r=",
    ),
    field(
        "replication.w",
        Kind::Quorum,
        Default::Text("quorum"),
        "acks a write waits for, unless it says with ?w=",
    ),
    field(
        "gossip.interval_ms",
        Kind::Number { min: 100, max: 60_000 },
        Default::Number(1_000),
        "between two heartbeats; every time of the failure detector is a multiple of it",
    ),
    field(
        "gossip.fanout",
        Kind::Number { min: 1, max: 16 },
        Default::Number(3),
        "members that each round tells the news to",
    ),
    field(
        "gossip.detector",
        Kind::Choice(&["phi", "count"]),
        Default::Text("phi"),
        "suspect by phi accrual, or after a number of missed beats",
    ),
    field(
        "gossip.phi_threshold",
        Kind::Number { min: 1, max: 100 },
        Default::Number(8),
        "phi: suspect from here on; more is slower and surer",
    ),
    field(
        "gossip.missed_beats",
        Kind::Number { min: 2, max: 100 },
        Default::Number(3),
        "count: suspect after so many intervals without a beat",
    ),
    field(
        "gossip.secret",
        Kind::Secret,
        Default::Text("\"\""),
        "the same on every node: gossip without it is dropped; none: gossip is not authenticated",
    ),
    field(
        "timeouts.request_ms",
        Kind::Number { min: 1, max: 60_000 },
        Default::Number(5_000),
        "a request, unless it says with ?timeout_ms=",
    ),
    field(
        "timeouts.request_max_ms",
        Kind::Number { min: 1, max: 60_000 },
        Default::Number(60_000),
        "the most that a request may ask for with ?timeout_ms=",
    ),
    field(
        "timeouts.connect_ms",
        Kind::Number { min: 1, max: 60_000 },
        Default::Number(1_000),
        "connecting to another node",
    ),
    field(
        "timeouts.header_read_ms",
        Kind::Number { min: 1, max: 600_000 },
        Default::Number(10_000),
        "reading a request's headers",
    ),
    field(
        "timeouts.body_read_ms",
        Kind::Number { min: 1, max: 600_000 },
        Default::Number(30_000),
        "reading a request's body",
    ),
    field(
        "timeouts.write_ms",
        Kind::Number { min: 1, max: 600_000 },
        Default::Number(10_000),
        "a client taking a part of an answer",
    ),
    field(
        "timeouts.idle_ms",
        Kind::Number { min: 1, max: 3_600_000 },
        Default::Number(60_000),
        "a client's connection between two requests",
    ),
    field(
        "timeouts.drain_ms",
        Kind::Number { min: 0, max: 600_000 },
        Default::Number(10_000),
        "requests under way when the node is told to stop; it goes as soon as none is left",
    ),
    field(
        "limits.pair_bytes",
        Kind::Number { min: 1, max: super::PAIR_BYTES_MAX as u64 },
        Default::Number(10_240),
        "bucket, key and value together; more is refused with 413",
    ),
    field(
        "limits.siblings",
        Kind::Number { min: 1, max: 10_000 },
        Default::Number(100),
        "concurrent values of a key; more is refused with 409",
    ),
    field(
        "limits.siblings_warn",
        Kind::Number { min: 2, max: 10_000 },
        Default::Number(25),
        "concurrent values of a key from which on writes are counted and logged",
    ),
    field(
        "limits.vector_actors",
        Kind::Number { min: 2, max: 10_000 },
        Default::Number(50),
        "actors that a key's context keeps beside those of its values; the same on all nodes",
    ),
    field(
        "limits.vector_age_s",
        Kind::Number { min: 1, max: 31_536_000 },
        Default::Number(86_400),
        "age from which on more actors than that are dropped; the same on all nodes",
    ),
    field(
        "limits.lww_skew_ms",
        Kind::Number { min: 1, max: 31_536_000_000 },
        Default::Number(86_400_000),
        "a context from further ahead of this node's clock is refused where the last write wins",
    ),
    field(
        "limits.connections",
        Kind::Number { min: 1, max: 1_000_000 },
        Default::Number(4_096),
        "open connections of clients",
    ),
    field(
        "limits.requests_in_flight",
        Kind::Number { min: 1, max: 1_000_000 },
        Default::Number(1_024),
        "client requests under way at one time; more is refused with 503",
    ),
    field(
        "limits.header_bytes",
        Kind::Number { min: 8_192, max: 1_048_576 },
        Default::Number(16_384),
        "a request's line and headers",
    ),
    field(
        "limits.peer_queue_bytes",
        Kind::Number { min: 65_536, max: 1_073_741_824 },
        Default::Number(16_777_216),
        "what waits to be sent to one other node",
    ),
    field(
        "limits.peer_requests",
        Kind::Number { min: 1, max: 1_000_000 },
        Default::Number(8_192),
        "requests of other nodes under way at one time; more is refused",
    ),
    field(
        "storage.sync",
        Kind::Choice(&["always", "interval"]),
        Default::Text("always"),
        "ack a write after its fsync (always), or up to 10 ms before it (interval)",
    ),
    field(
        "storage.segment_bytes",
        Kind::Number { min: 4_096, max: 1_073_741_824 },
        Default::Number(67_108_864),
        "the commit log begins a new file after this much",
    ),
    field(
        "storage.memtable_bytes",
        Kind::Number { min: 4_096, max: 68_719_476_736 },
        Default::Number(41_943_040),
        "new objects in memory; then they become a table, while two more of these may fill",
    ),
    field(
        "storage.table_bytes",
        Kind::Number { min: 4_096, max: 1_073_741_824 },
        Default::Number(33_554_432),
        "a table that compaction writes is finished after this much",
    ),
    field(
        "storage.block_bytes",
        Kind::Number { min: 256, max: 1_048_576 },
        Default::Number(4_096),
        "a block of a table: what reading one key unpacks",
    ),
    field(
        "storage.cache_bytes",
        Kind::Number { min: 0, max: 68_719_476_736 },
        Default::Number(67_108_864),
        "unpacked blocks of tables kept in memory",
    ),
    field(
        "storage.gather_us",
        Kind::Number { min: 0, max: 100_000 },
        Default::Number(2_000),
        "how long the commit log waits for company before an fsync",
    ),
    field(
        "hints.bytes_max",
        Kind::Number { min: 4_096, max: 68_719_476_736 },
        Default::Number(268_435_456),
        "writes kept for members that are away; past it such a write is not acked here. What a copy in doubt must keep for itself has as much again",
    ),
    field(
        "hints.age_s",
        Kind::Number { min: 1, max: 31_536_000 },
        Default::Number(10_800),
        "a hint older than this is dropped; anti-entropy brings its owner what it lacks",
    ),
    field(
        "anti_entropy.period_ms",
        Kind::Number { min: 100, max: 86_400_000 },
        Default::Number(60_000),
        "each pair of replicas compares each partition at least this often",
    ),
    field(
        "anti_entropy.bytes_per_s",
        Kind::Number { min: 65_536, max: 10_737_418_240 },
        Default::Number(33_554_432),
        "what healing moves at the most; it slows down while clients wait",
    ),
    field(
        "buckets{}.conflicts",
        Kind::Choice(&["siblings", "lww"]),
        Default::Text("siblings"),
        "concurrent values of a key: keep all, or the last write wins; set it before the bucket is used",
    ),
    field(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Default::Text("text"),
        "lines for people, or one JSON object a line",
    ),
    field(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Default::Text("info"),
        "the least severe lines that are written",
    ),
];

const fn field(path: &'static str, kind: Kind, default: Default, about: &'static str) -> Field {
    Field { path, kind, default, about }
}

/// The field at `path`, with `[]` for any index.
pub(super) fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// The names that may stand directly under `section` (empty: the root), in order, each once.
pub(super) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for field in FIELDS {
        let rest = match section {
            "" => Some(field.path),
            _ => field.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let Some(rest) = rest else { continue };
        let name = rest.split(['.', '[', '{']).next().unwrap_or(rest);
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    names
}

/// A whole configuration file with every field, its default and its meaning. It is valid as it
/// stands: the first of three nodes on one machine.
pub fn example() -> String {
    let mut out = String::from(
        "# Starling: the configuration of one node. Every field is shown with its default; what has\n\
         # one may be left out. An environment variable overrides a field: STARLING_HTTP,\n\
         # STARLING_STORAGE__SYNC (two underscores for each dot).\n",
    );
    let mut section = "";
    for field in FIELDS {
        let (group, name) = field.path.split_once('.').unwrap_or(("", field.path));
        if group != section {
            section = group;
            match group {
                "members[]" => out.push_str(MEMBERS_EXAMPLE),
                "buckets{}" => out.push_str(BUCKETS_EXAMPLE),
                _ => out.push_str(&format!("\n{group}:\n")),
            }
        }
        let about = format!("{} [{}]", field.about, field.kind);
        let line = match (group, field.default) {
            ("members[]" | "buckets{}", default) => {
                let default = match default {
                    Default::Required => "required".to_owned(),
                    Default::Number(number) => number.to_string(),
                    Default::Text(text) => text.to_owned(),
                    Default::SameAs(path) => format!("as {path}"),
                };
                format!("  #   {name}: {about}; {default}\n")
            }
            ("", Default::Required) => {
                let value = if name == "node" { "a" } else { "demo" };
                format!("\n# {about}\n{name}: {value}\n")
            }
            ("", Default::SameAs(path)) => {
                format!("\n# {about}; as {path}\n# {name}: {}\n", own_value(name))
            }
            ("", Default::Number(value)) => format!("\n# {about}\n# {name}: {value}\n"),
            ("", Default::Text(value)) => format!("\n# {about}\n# {name}: {value}\n"),
            (_, Default::Number(value)) => format!("  # {about}\n  {name}: {value}\n"),
            (_, Default::Text(value)) => format!("  # {about}\n  {name}: {value}\n"),
            (_, Default::SameAs(path)) => {
                format!("  # {about}; as {path}\n  # {name}: {}\n", own_value(name))
            }
            (_, Default::Required) => format!("  # {about}; required\n  {name}:\n"),
        };
        out.push_str(&line);
    }
    out
}

fn own_value(name: &str) -> &'static str {
    match name {
        "http" => "127.0.0.1:8001",
        "rpc" => "127.0.0.1:7001",
        _ => "256",
    }
}

const BUCKETS_EXAMPLE: &str = "
# Buckets that differ from the default, by name; the same on every node.
# buckets:
#   sessions: { conflicts: lww }
";

const MEMBERS_EXAMPLE: &str = "
# Every node of the cluster; the same list on every node. Or leave it out, and say founders and seeds.
members:
  - { name: a, rpc: 127.0.0.1:7001, http: 127.0.0.1:8001, zone: rack-1 }
  - { name: b, rpc: 127.0.0.1:7002, http: 127.0.0.1:8002, zone: rack-2 }
  - { name: c, rpc: 127.0.0.1:7003, http: 127.0.0.1:8003, zone: rack-3 }
";
