//! The words of membership: a member, what is believed of it, what the machine is told and tells.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::causality::NodeId;

/// The most members that one machine knows. More are refused and counted.
pub const MEMBERS_MAX: usize = 4096;
/// The longest text of a [`MemberInfo`], in bytes: so one member always fits one datagram.
pub const TEXT_BYTES_MAX: usize = 200;

/// What a process says of itself. All of it may change while the name stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// The configured name: the member. Its place on the ring follows the name.
    pub name: Arc<str>,
    /// The id of its data folder.
    pub node: NodeId,
    /// The generation of the data folder: rises with each start, and while the process runs.
    pub generation: u64,
    /// Drawn at random by each start: tells two processes of one name apart.
    pub process: u64,
    /// UDP, where others reach its gossip.
    pub gossip: SocketAddr,
    /// `host:port` of its rpc server.
    pub rpc: Arc<str>,
    /// `host:port` of its HTTP server.
    pub http: Arc<str>,
    /// Members of one zone fail together; may be empty.
    pub zone: Arc<str>,
    /// May be empty.
    pub datacenter: Arc<str>,
    /// Points on the ring; 0 for a proxy, which owns nothing.
    pub vnodes: u32,
    /// How busy it is, such as requests in flight. For information: it travels with each datagram
    /// that the member sends itself, so only those that hear it directly know it freshly.
    pub load: u32,
}

/// A text of a [`MemberInfo`] that no datagram carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} has {bytes} bytes: use {least} to {TEXT_BYTES_MAX}")]
pub struct TextLength {
    /// Which text.
    pub what: &'static str,
    /// How long it is.
    pub bytes: usize,
    /// The fewest bytes allowed.
    pub least: usize,
}

impl MemberInfo {
    /// Whether every text has a length that gossip can carry.
    ///
    /// # Errors
    /// [`TextLength`] for the first one that has not. A machine whose own texts are too long is
    /// never learned by others, so check what comes from a configuration.
    pub fn check(&self) -> Result<(), TextLength> {
        let texts = [
            ("name", &self.name, 1),
            ("rpc address", &self.rpc, 0),
            ("http address", &self.http, 0),
            ("zone", &self.zone, 0),
            ("datacenter", &self.datacenter, 0),
        ];
        for (what, text, least) in texts {
            if !(least..=TEXT_BYTES_MAX).contains(&text.len()) {
                return Err(TextLength { what, bytes: text.len(), least });
            }
        }
        Ok(())
    }
}

/// When a silent member becomes a suspect.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// Phi accrual: when a silence so long has a chance below 10^-threshold by what was seen so far.
    Phi {
        /// 8 is usual. Lower is faster and asks more often for nothing.
        threshold: f64,
    },
    /// After so many intervals without a heartbeat.
    Count {
        /// 3 is usual.
        missed: u32,
    },
}

/// What a machine is set up with. All times but the interval are multiples of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name. Datagrams of other clusters are dropped.
    pub cluster: String,
    /// What all members share, to authenticate datagrams; none: only damage is noticed.
    pub secret: Option<Vec<u8>>,
    /// The time between two heartbeats of one member.
    pub interval: Duration,
    /// To how many random live members a digest goes each interval.
    pub fanout: usize,
    /// When a silent member becomes a suspect.
    pub rule: Rule,
    /// So many members there are at least, this one included, heard of or not.
    pub members_min: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster: "starling".to_owned(),
            secret: None,
            interval: Duration::from_secs(1),
            fanout: 3,
            rule: Rule::Phi { threshold: 8.0 },
            members_min: 1,
        }
    }
}

/// What this member believes of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// Remembered or told of, never heard.
    Unknown,
    /// Its heartbeat advances.
    Up,
    /// Silent, and no answer to a ping, neither direct nor through others.
    Suspect,
    /// Suspected by enough live members at once.
    Down,
    /// It said goodbye.
    Stopped,
}

impl Health {
    /// The word for an operator.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Stopped => "stopped",
        }
    }
}

/// How this process stands in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It listens, and has not announced itself yet.
    Joining,
    /// It is the member of its name.
    Member,
    /// Somebody knows its data folder in a generation as new as its own, or newer: the folder was
    /// rolled back or copied. Not announced until [`renew`](super::Machine::renew) gives it a new id.
    Outdated {
        /// The generation that is known.
        generation: u64,
    },
    /// A live process holds its name. Not announced as long as that process lives.
    NameTaken {
        /// Where the other is.
        gossip: SocketAddr,
    },
}

/// What changed, by the member's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A member was heard of for the first time.
    Learned(Arc<str>),
    /// What it says of itself changed, such as its address.
    Changed(Arc<str>),
    /// Another process has the name: it restarted. Its id may be another.
    Restarted(Arc<str>),
    /// Now [`Health::Up`].
    Up(Arc<str>),
    /// Now [`Health::Suspect`].
    Suspected(Arc<str>),
    /// Now [`Health::Down`].
    Down(Arc<str>),
    /// Now [`Health::Stopped`].
    Stopped(Arc<str>),
    /// This process stands otherwise.
    Standing(Standing),
}

/// What the machine wants done and tells.
#[derive(Clone, Default, Debug)]
pub struct Effects {
    /// To send, each at most 1,400 bytes. Any of them may be lost.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// What has happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of them, without headers of UDP and IP.
    pub sent_bytes: u64,
    /// Datagrams received, all of them.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Dropped: no gossip, another version, or damaged.
    pub malformed: u64,
    /// Dropped: of another cluster.
    pub foreign: u64,
    /// Dropped: of this cluster by name, without its secret.
    pub unauthenticated: u64,
    /// Members refused: over [`MEMBERS_MAX`], or with the same hash as another name.
    pub refused: u64,
    /// Direct pings to silent members.
    pub probes: u64,
    /// Pings asked of others, since a direct one had no answer.
    pub indirect_probes: u64,
    /// Own suspicions that counted.
    pub suspicions: u64,
    /// Members taken for down.
    pub downs: u64,
    /// Times that this process noticed to have been paused or starved.
    pub pauses: u64,
    /// Times that the own incarnation was raised above another process's of the same name.
    pub raises: u64,
}
