//! What happened in a run, as its clients saw it: the evidence that the oracle judges.
//!
//! One [`Operation`] is one HTTP request of one client: what it asked, when, and what it heard. To that come
//! the things that only the harness knows: which faults it injected when ([`Disturbance`]), what the home
//! replicas hold after healing ([`FinalState`]) and sampled gauges ([`Sample`]). All of it is plain data
//! and goes into failure reports as JSON.
//!
//! Rules for whoever records:
//!
//! - All times are nanoseconds of *simulated true time*, the same clock for all machines.
//! - An operation's id is its index in [`History::ops`]: take it when the request starts. A request that
//!   nobody answered by the end of the run is [`Outcome::Unknown`]. So operations stand in order of their
//!   start; one that was answered took some time, be it a nanosecond.
//! - Every logical write has a [`ValueId`] of its own, and its bytes are unlike any other's. A retry is a
//!   new operation with the same `ValueId` and `retry_of` set.
//! - Values are recognised by their whole bytes. Whatever was read that nobody ever sent goes to
//!   [`Got::strange`].
//! - When in doubt between [`Outcome::Refused`] and [`Outcome::Unknown`], it is unknown: a refusal is a proof.
//!
//! What this does not hold: dots, vectors, tokens, or any other thing from inside the store.

mod membership;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use membership::{
    Belief, Ending, Health, HintDeed, HintStep, Hints, HintsLeft, Life, Listed, Membership, View,
};

/// An operation: its index in [`History::ops`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct OpId(pub u32);

/// A client machine: its index in the plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ClientId(pub u32);

/// A node: its index in the plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeIndex(pub u32);

/// A key: its index in [`History::keys`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KeyIndex(pub u32);

/// A logical write's value. Retries share it; nothing else does, not even on another key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ValueId(pub u64);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

// Plans count nodes and clients from one, and so does what people read.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0 + 1)
    }
}

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0 + 1)
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Node(node) => node.fmt(f),
            Endpoint::Client(client) => client.fmt(f),
        }
    }
}

/// Everything the oracle is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// The client operations, the final reads among them.
    pub history: History,
    /// One for each key that any operation touched; or none at all, for a run that was cut short.
    pub finals: Vec<FinalState>,
    /// What home replicas hold when every hint is delivered, before the final reads repair anything: one for each
    /// key and home replica, or none at all.
    #[serde(default)]
    pub unrepaired: Vec<Unrepaired>,
    /// Every fault that the plan injected, with the time until its effect was undone.
    pub disturbances: Vec<Disturbance>,
    /// Gauges of the nodes, as sampled through the run.
    pub samples: Vec<Sample>,
    /// What nodes believed of each other; `None`: they do not gossip.
    pub membership: Option<Membership>,
    /// What became of hints; `None`: nodes keep none.
    pub hints: Option<Hints>,
    /// When nodes forgot what they held of a key because it was deleted, or had expired, everywhere.
    #[serde(default)]
    pub forgotten: Vec<(KeyIndex, u64)>,
    /// What of a key nodes could not keep of writes that came after a damage and before they met it, for want of room.
    #[serde(default)]
    pub unsalvaged: Vec<(KeyIndex, NodeIndex, u64)>,
    /// The old actors that nodes dropped from the context of a key.
    #[serde(default)]
    pub pruned: Vec<Pruned>,
    /// What the cluster was configured to promise.
    pub rules: Rules,
}

/// An actor that some node dropped from the context of a key, so that its dots may be taken for news.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pruned {
    /// The key.
    pub key: KeyIndex,
    /// When it was first dropped.
    pub from_ns: u64,
    /// When dots were minted under it, for that key or another one with its token.
    pub minted_ns: Vec<u64>,
}

/// What the clients did and heard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// The keys in use.
    pub keys: Vec<KeyInfo>,
    /// Every operation; `ops[i].id` is `i`.
    pub ops: Vec<Operation>,
}

/// A key and where it lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyInfo {
    /// `bucket/key`, for people.
    pub name: String,
    /// Its home replicas, primary first. Membership is static in a run.
    pub homes: Vec<NodeIndex>,
    /// Who may stand in for them when a sloppy write finds too few; empty: nobody does.
    #[serde(default)]
    pub fallbacks: Vec<NodeIndex>,
    /// Of concurrent values the last one wins.
    #[serde(default)]
    pub last_write: bool,
}

/// One request of one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Its index in [`History::ops`].
    pub id: OpId,
    /// Who asked.
    pub client: ClientId,
    /// The node that was asked.
    pub node: NodeIndex,
    /// About which key.
    pub key: KeyIndex,
    /// What was asked.
    pub kind: Kind,
    /// With which parameters.
    pub asked: Asked,
    /// The earlier operation on the same key whose returned token went along; `None`: no token.
    pub context_from: Option<OpId>,
    /// The attempt that this one repeats; `None`: a first attempt.
    pub retry_of: Option<OpId>,
    /// When the client began (before it connected).
    pub start_ns: u64,
    /// When it had the whole answer, or gave up.
    pub end_ns: u64,
    /// What it heard.
    pub outcome: Outcome,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Reads.
    Get,
    /// Writes the value.
    Put {
        /// What it writes.
        value: ValueId,
    },
    /// Deletes what the context covers, or adds a tombstone beside it.
    Delete,
}

impl Operation {
    /// True when it was answered with enough acks.
    pub const fn is_acked(&self) -> bool {
        matches!(self.outcome, Outcome::Acked { .. })
    }
}

/// The parameters of a request, resolved to numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// R of a read, W of a write.
    pub need: u8,
    /// N of the key.
    pub n: u8,
    /// Whether fallbacks may stand in for home replicas.
    pub sloppy: bool,
    /// How long the client waited at the most, and the deadline that it sent along.
    pub timeout_ns: u64,
    /// How long the value is to live, from when a node takes the request; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ns: Option<u64>,
}

/// What a client heard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// An answered GET: 200, 300 or 404.
    Got(Got),
    /// An answered PUT or DELETE: 200.
    Acked {
        /// Siblings that the coordinator held after the write.
        siblings: u32,
        /// Acks asked for.
        required: u8,
        /// Acks counted, fallbacks included.
        received: u8,
        /// Those of them that are fallbacks.
        hinted: u8,
    },
    /// Provably not executed, now or later.
    Refused {
        /// The HTTP status; `None`: no request was sent (the connection was refused, or never opened).
        status: Option<u16>,
    },
    /// Nobody knows whether it was, or will be, executed (a GET: it just failed).
    Unknown {
        /// 503 or 504; `None`: the connection broke, or the client gave up.
        status: Option<u16>,
        /// The body's `required`, when it had one.
        required: Option<u8>,
        /// The body's `received`, when it had one.
        received: Option<u8>,
    },
}

/// What a GET showed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Got {
    /// The values as shown, duplicates included.
    pub values: Vec<ValueId>,
    /// Values that match nothing that any client ever sent, shortened for people.
    pub strange: Vec<String>,
    /// Whether a deleted sibling was shown beside them (300).
    pub deleted_shown: bool,
    /// Whether a token came along. A 404 with one says that a tombstone is known.
    pub context: bool,
    /// A listing passed over the key: there is nothing, or it is deleted.
    #[serde(default)]
    pub passed_over: bool,
}

/// A key after healing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinalState {
    /// Which key.
    pub key: KeyIndex,
    /// The last GET of it with `r=all` and `sloppy=false`, begun after every other operation on the key had
    /// begun and was answered (if it ever was).
    pub read: OpId,
    /// What each home replica holds once that read's repair has settled, encoded; `None`: nothing.
    pub copies: Vec<ReplicaCopy>,
}

/// One replica's copy of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaCopy {
    /// The home replica.
    pub node: NodeIndex,
    /// Its object in the store's one encoding; `None`: it holds nothing for the key.
    pub bytes: Option<Vec<u8>>,
}

/// What one home replica would show of a key, if it alone were asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unrepaired {
    /// The home replica.
    pub node: NodeIndex,
    /// Which key.
    pub key: KeyIndex,
    /// What it would show.
    pub got: Got,
}

/// A machine of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Endpoint {
    /// A node's machine.
    Node(NodeIndex),
    /// A client's machine.
    Client(ClientId),
}

/// One injected fault, from its start until the effect is over.
///
/// The start of the cluster is one as well: each node is `Down` from 0 until it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disturbance {
    /// What went wrong.
    pub fault: Fault,
    /// When it began.
    pub start_ns: u64,
    /// When it was over: for a machine that must restart, when its process was started again.
    pub end_ns: u64,
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// The process is gone: crashed, or not started yet. What it handed to the system stays.
    Down(Endpoint),
    /// The machine lost its power: what was not synced may be gone.
    PowerLoss(Endpoint),
    /// The machine's disk became a copy of itself as it was at the start of this; it was put back at the end, and its node knows
    /// that it is an older one.
    RolledBack(Endpoint),
    /// Some of what the machine had stored from the start of this to its end is gone, and its node may not know: what it
    /// answers may count.
    Forgotten(Endpoint),
    /// At the start of this some of what the machine had stored was damaged; at its end it had exchanged all of it
    /// with the other replicas. In between its answers may count for no R; its acks count for W.
    Damaged(Endpoint),
    /// The machine stands still.
    Paused(Endpoint),
    /// All links of the machine are cut, both ways.
    Isolated(Endpoint),
    /// Slow disk, failing fsync or full disk.
    DiskTrouble(Endpoint),
    /// The machine's wall clock is wrong. It excuses nothing: no answer may depend on it.
    ClockWrong(Endpoint),
    /// Nothing passes in this direction.
    LinkCut {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
    /// Slow, lossy, duplicating, reordering or narrow in this direction.
    LinkBad {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
    /// Not quite clean in this direction, all the time: a little loss or reordering, or a limit to what
    /// fits through. Requests may feel it; nobody may be taken for dead because of it.
    LinkRough {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
    /// A few datagrams are lost or doubled in this direction. It excuses nothing: neither a request nor a
    /// mistake about who is alive.
    DatagramsRough {
        /// The sender.
        from: Endpoint,
        /// The receiver.
        to: Endpoint,
    },
}

/// One gauge of one node at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at_ns: u64,
    /// Which node.
    pub node: NodeIndex,
    /// What was measured, with its unit: `rpc_in_flight`, `siblings_max`, `memtable_bytes` …
    pub gauge: String,
    /// The reading.
    pub value: u64,
    /// The configured bound; the reading may equal it.
    pub bound: u64,
}

/// What the cluster was configured to promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Acks wait for fsync (`sync: always`). When false, a power loss or a disk in trouble may take
    /// what was acked up to `sync_lag_ns` before it.
    pub sync_always: bool,
    /// How far fsync may be behind acks under `sync: interval`.
    pub sync_lag_ns: u64,
    /// How long after a fault ended its effects may be felt: the reconnect backoff at its longest, plus
    /// a retransmission timeout, plus a restarted process's replay of its log.
    pub recovery_ns: u64,
    /// How long a silent peer may pass for alive: after this, requests are no longer sent to it.
    pub detection_ns: u64,
    /// What a coordinator or a forwarding node spends on one replica that does not answer, before it
    /// turns to the next.
    pub failover_ns: u64,
    /// What a request takes at the most when nothing is wrong.
    pub service_ns: u64,
    /// Client requests that a node answers at one time; it may refuse more.
    pub in_flight_max: u64,
    /// Limits are so tight that nodes may refuse each other's requests, or close a connection just as a
    /// client uses it: no failed request is held against them.
    pub tight: bool,
    /// Siblings that a key may have before writes are refused; `None`: not told.
    pub siblings_max: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            sync_always: true,
            sync_lag_ns: SECOND / 100,
            recovery_ns: 10 * SECOND,
            detection_ns: 10 * SECOND,
            failover_ns: SECOND,
            service_ns: SECOND,
            in_flight_max: u64::MAX,
            tight: false,
            siblings_max: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_survives_json() {
        let op = Operation {
            id: OpId(0),
            client: ClientId(1),
            node: NodeIndex(2),
            key: KeyIndex(0),
            kind: Kind::Put { value: ValueId(u64::MAX) },
            asked: Asked { need: 2, n: 3, sloppy: true, timeout_ns: 5, ttl_ns: Some(7) },
            context_from: None,
            retry_of: None,
            start_ns: 1,
            end_ns: u64::MAX,
            outcome: Outcome::Unknown { status: Some(503), required: Some(2), received: None },
        };
        let read = Got { strange: vec!["\u{7f}\"".into()], ..Got::default() };
        let fault = Fault::LinkCut {
            from: Endpoint::Client(ClientId(1)),
            to: Endpoint::Node(NodeIndex(0)),
        };
        let copy = ReplicaCopy { node: NodeIndex(0), bytes: Some(vec![0, 255]) };
        let got = Operation { id: OpId(1), outcome: Outcome::Got(read), ..op.clone() };
        let evidence = Evidence {
            history: History { keys: Vec::new(), ops: vec![op, got] },
            unrepaired: vec![Unrepaired {
                node: NodeIndex(0),
                key: KeyIndex(0),
                got: Got::default(),
            }],
            finals: vec![FinalState { key: KeyIndex(0), read: OpId(1), copies: vec![copy] }],
            disturbances: vec![Disturbance { fault, start_ns: 0, end_ns: 9 }],
            samples: Vec::new(),
            membership: Some(Membership::default()),
            hints: Some(Hints::default()),
            forgotten: vec![(KeyIndex(0), 6)],
            unsalvaged: vec![(KeyIndex(0), NodeIndex(1), 7)],
            pruned: vec![Pruned { key: KeyIndex(0), from_ns: 7, minted_ns: vec![3] }],
            rules: Rules::default(),
        };
        let text = serde_json::to_string(&evidence).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
    }
}
