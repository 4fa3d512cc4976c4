//! What can go wrong on this floor. Each variant says whether state changed and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::table::TableError;

/// Why a folder could not be opened. Nothing that was durable in it has changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict themselves: fix the configuration.
    #[error("storage options are not valid: {0}")]
    Options(&'static str),
    /// Another process, or another engine of this one, has the folder open: stop it first.
    #[error("data folder {} is in use by another process: stop it, or choose another folder", .0.display())]
    Locked(PathBuf),
    /// The folder belongs to a node of another cluster: fix the configuration.
    #[error(
        "data folder {} belongs to cluster {found:?}, not {expected:?}: choose another folder, or \
         correct the cluster's name", folder.display()
    )]
    ForeignCluster {
        /// The data folder.
        folder: PathBuf,
        /// The name stored in it.
        found: String,
        /// The name that was asked for.
        expected: String,
    },
    /// Bytes that were durable are not what was written. Serving without them would be silent loss.
    #[error(
        "{} is damaged at byte {offset}: {what}; restore the folder from a copy of it, or move it \
         away and start empty, and the node gets its data from its replicas", file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The file was written by a newer release: use that one.
    #[error("{} has format version {found}, this release reads version {known}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this release writes.
        known: u32,
    },
    /// The disk refused: look at `source`, then open again.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Disk { doing, path, source }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: &'static str) -> Self {
        Self::Damaged { file: file.to_path_buf(), offset, what }
    }
}

/// Why a write was refused, or can't be confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// From `put`: nothing changed. From `close`: what was accepted is not all durable. The disk
    /// fails; the engine tries on by itself. Count this replica as absent and try later.
    #[error("the log cannot be written, retrying: {reason}")]
    Stalled {
        /// What failed, on which file.
        reason: Arc<str>,
    },
    /// Nothing changed. The disk is slower than the writers: try later.
    #[error("{pending} bytes wait for the disk, the limit is {limit}: try later")]
    PendingFull {
        /// Bytes accepted and not yet durable.
        pending: usize,
        /// The most that may be.
        limit: usize,
    },
    /// Nothing changed. Tables are written more slowly than memory fills: await
    /// [`Engine::room`](super::Engine::room), or try later.
    #[error("{bytes} bytes wait in memory to be written to tables: try later")]
    Overloaded {
        /// What all memtables weigh now.
        bytes: u64,
    },
    /// Nothing changed. As much is kept for other members as may be: they must come back first.
    #[error(
        "hints are full at {bytes} bytes, the limit is {limit}: raise it, or bring their owners back"
    )]
    HintsFull {
        /// What all hints weigh now.
        bytes: u64,
        /// The most that they may.
        limit: u64,
    },
    /// Nothing changed. As much is kept for [this copy itself](super::ITSELF) as may be: first it must be in doubt no more.
    #[error(
        "writes that are kept apart while this copy is in doubt take {bytes} bytes, the limit is {limit} (hints.bytes_max): \
         raise it, or bring the other home replicas back, which end the doubt"
    )]
    FreshFull {
        /// What they weigh now.
        bytes: u64,
        /// The most that they may.
        limit: u64,
    },
    /// Nothing changed, and never will: the record is larger than a batch may be.
    #[error("the object takes {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The most that the record might take.
        bytes: usize,
        /// The largest record.
        limit: usize,
    },
    /// From `put`: nothing changed. From a ticket: whether the write is durable is unknown. The
    /// engine was closed.
    #[error("the storage engine is closed")]
    Closed,
}

/// Why a read has no answer. Reads change nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The engine was closed.
    #[error("the storage engine is closed")]
    Closed,
    /// A file that held the key was damaged: what is still known may lack what was confirmed. Ask
    /// other replicas; see [`Engine::known`](super::Engine::known).
    #[error("the key lies in a range that was damaged and is not healed yet")]
    Doubtful,
    /// The disk refused: try again later.
    #[error("{reason}")]
    Disk {
        /// What failed, on which file.
        reason: Arc<str>,
    },
}

impl ReadError {
    pub(super) fn disk(error: &TableError) -> Self {
        Self::Disk { reason: error.to_string().into() }
    }
}

/// Why no epochs were reserved. None was handed out; a later call never repeats one.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The engine was closed.
    #[error("the storage engine is closed")]
    Closed,
    /// The disk refused: mint nothing, try again later.
    #[error("cannot reserve epochs in {}: {source}", path.display())]
    Disk {
        /// The identity file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl From<ReserveError> for RenewError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Closed => Self::Closed,
            ReserveError::Disk { path, source } => Self::Disk { path, source },
        }
    }
}

/// Why a folder is not this member's. Nothing in it has changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another member's data lives there: under this name it would be in the wrong place on the ring, and its dots
    /// would be used twice if that member lives. Fix the configuration.
    #[error(
        "data folder {} belongs to the node {found:?}, not {expected:?}: choose another folder, or correct the node's \
         name", folder.display()
    )]
    Foreign {
        /// The data folder.
        folder: PathBuf,
        /// The name stored in it.
        found: String,
        /// The name that was asked for.
        expected: String,
    },
    /// Fix the configuration.
    #[error("a node's name has 1 to 1024 bytes")]
    Name,
    /// The engine was closed.
    #[error("the storage engine is closed")]
    Closed,
    /// The disk refused: try again later.
    #[error("cannot write the node's name to {}: {source}", path.display())]
    Disk {
        /// The identity file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why the folder has no new node id. This process goes on with the old one, or better not at all; the
/// next start may find either, and nothing was ever minted under the new one.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The engine was closed.
    #[error("the storage engine is closed")]
    Closed,
    /// The disk refused: mint nothing, try again later.
    #[error("cannot write a new node id to {}: {source}", path.display())]
    Disk {
        /// The identity file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}
