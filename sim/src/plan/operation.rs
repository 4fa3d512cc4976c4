//! What clients do.

use serde::{Deserialize, Serialize};

use super::{ClientNo, NodeNo};

/// One thing that a client does. Its value, if it writes one, names the operation and is unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its number among all operations of the plan; removing others does not change it.
    pub id: u32,
    /// When it begins; later if the client is still busy with the one before.
    pub at_ms: u64,
    /// Who does it.
    pub client: ClientNo,
    /// Which node is asked first.
    pub node: NodeNo,
    /// Bucket and key, with a slash between them.
    pub key: String,
    /// What is done.
    pub action: Action,
    /// How long a value that it writes is to live, in seconds; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// R for reads, W for writes (an update uses it for both); `None`: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Whether fallbacks may stand in for home replicas; `None`: the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
}

/// What an operation does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Reads.
    Get,
    /// Writes a value.
    Put {
        /// The value's size, about.
        bytes: u64,
        /// What the write claims to have seen.
        context: Context,
    },
    /// Reads, then writes a value under the context that it read, if the read succeeded.
    Update {
        /// The value's size, about.
        bytes: u64,
    },
    /// Lists the keys of the tag in its key's name, page by page.
    List {
        /// Items of a page at the most.
        limit: u64,
        /// From the last to the first.
        reverse: bool,
    },
    /// Deletes.
    Delete {
        /// What the deletion claims to have seen.
        context: Context,
    },
}

/// Which context goes with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// None: a blind write, concurrent with all others.
    None,
    /// The last one that this client received for the key, however old; none if it never did.
    Last,
}

/// How many replicas have to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One.
    One,
    /// More than half of N.
    Quorum,
    /// All N.
    All,
    /// So many.
    Count(u32),
}

impl Action {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Get => "get",
            Action::Put { context: Context::None, .. } => "put",
            Action::Put { context: Context::Last, .. } => "put_with_context",
            Action::Update { .. } => "update",
            Action::List { .. } => "list",
            Action::Delete { .. } => "delete",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Level::One => f.write_str("one"),
            Level::Quorum => f.write_str("quorum"),
            Level::All => f.write_str("all"),
            Level::Count(count) => write!(f, "{count}"),
        }
    }
}
