//! What can go wrong with a table, and which keys it puts in doubt.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{Origin, TableId};
use crate::domain::key::Token;

/// Every token: what is in doubt when a whole table is. The manifest may know closer bounds.
pub const ALL_TOKENS: RangeInclusive<Token> = Token(0)..=Token(u64::MAX);

/// Why a table could not be written, opened or read. Reading changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no such file. All that the table held is in doubt.
    #[error("table {} is missing", .0.display())]
    Missing(PathBuf),
    /// The file is a table of another folder or another number: it was copied or renamed. All that
    /// the table held is in doubt.
    #[error(
        "table {} belongs elsewhere: it is table {} of folder {:016x}, not {} of {:016x}",
        path.display(), found.table.0, found.folder.0, expected.table.0, expected.folder.0
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Where it says that it belongs.
        found: Origin,
        /// What was asked for.
        expected: Origin,
    },
    /// The file was written by a newer release: use that one. Nothing is in doubt.
    #[error("table {} has format version {found}, this release reads version {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The highest version that this release reads.
        known: u32,
    },
    /// The bytes are not what was written. What the table holds of `tokens` is in doubt, and it will
    /// not come back: quarantine it, and heal from replicas.
    #[error("table {} is damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it the damaged part starts.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// What is in doubt.
        tokens: RangeInclusive<Token>,
    },
    /// The disk refused a read. What the table holds of `tokens` is in doubt until a later read gives it.
    #[error("cannot read table {} at byte {offset}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// From which byte on.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
        /// What is in doubt.
        tokens: RangeInclusive<Token>,
    },
    /// The disk refused a write or sync. The unfinished file is worth nothing: remove it, and write
    /// another table later.
    #[error("cannot {doing} table {}: {source}", path.display())]
    Write {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl TableError {
    /// The tokens that are in doubt; `None` when nothing is.
    pub fn doubtful(&self) -> Option<RangeInclusive<Token>> {
        match self {
            Self::Missing(_) | Self::Foreign { .. } => Some(ALL_TOKENS),
            Self::Damaged { tokens, .. } | Self::Unreadable { tokens, .. } => Some(tokens.clone()),
            Self::Version { .. } | Self::Write { .. } => None,
        }
    }
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
