//! Checking a data folder that no node has open: every byte that a checksum covers, and whether the files
//! fit together.
//!
//! ```text
//! lock ──► identity ──► manifest ──► each table, block by block ──► log, segment by segment ──► report
//!                           └ names tables and the log's start
//! ```
//!
//! The rules of [opening](super) are asked, not written again: the same functions find the manifest,
//! open the tables and replay the log. So what the report says about the next start is what will
//! happen. Beyond that it looks at what a start leaves alone: the blocks of tables, and damage behind the first
//! one of a log.
//!
//! Invariants:
//! - Nothing in the folder changes: not the generation, no orphan goes, no torn tail is cut. A folder
//!   without the file of the lock gets none.
//! - No bytes make it panic, and it takes memory for one table's index, one segment's piece and the hints.
//! - What it finds is bounded ([`FINDINGS_MAX`]); beyond that it counts.
//!
//! What it can't tell is what the [log](super::log) can't either: whether the last, unproven batch was torn
//! by a crash or rotted later.

mod log;
mod tables;

use std::path::{Path, PathBuf};

use super::doubt::TokenRange;
use super::engine::{LOCK, lock};
use super::error::OpenError;
use super::hints::HintStats;
use super::identity::{self, Identity, Seen};
use super::manifest::edit::State;
use super::manifest::{manifest_path, read as manifest};
use super::opening::Files;
use super::table::{TableId, table_path};
use crate::domain::causality::NodeId;
use crate::runtime::fs::{self, DirEntry};

/// So many findings are kept one by one; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// What becomes of a finding when a node starts, or runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing is lost: a filter is damaged, so reads of a table take longer until it is rewritten.
    Slows,
    /// The node starts. What is damaged is in doubt, and other replicas heal it.
    Heals,
    /// The node starts, and nothing notices. Reads may give less than there was.
    Unnoticed,
    /// The disk refused a read. What was not read is unknown.
    Unreadable,
    /// The node does not start: what is lost is not known.
    Refuses,
    /// The node does not start: a newer release wrote the file.
    RefusesNewer,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Where in it the damaged part starts, in bytes; `None`: it is about the whole file.
    pub offset: Option<u64>,
    /// What is wrong, in words.
    pub what: String,
    /// The tokens of the keys that may have lost something; `None`: no key has.
    pub doubtful: Option<TokenRange>,
    /// What follows.
    pub outcome: Outcome,
}

/// How a folder is, in one word. Its order is that of gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// What is wrong is healed once the node runs.
    Heals,
    /// Somebody has to do something first.
    Refuses,
}

/// What the folder holds, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tables that the manifest names.
    pub tables: u64,
    /// Bytes of their files.
    pub table_bytes: u64,
    /// Sound blocks in them.
    pub blocks: u64,
    /// Entries in those. A key counts once for each table that holds it.
    pub entries: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of their files.
    pub log_bytes: u64,
    /// Valid batches in them.
    pub batches: u64,
    /// Records of those.
    pub records: u64,
    /// Puts that only the log holds.
    pub unflushed: u64,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The node that lives here; `None`: that can't be read.
    pub identity: Option<Identity>,
    /// Its cluster.
    pub cluster: Option<String>,
    /// No node was ever here.
    pub empty: bool,
    /// What there is.
    pub counts: Counts,
    /// Hints that are kept, by owner.
    pub hints: Vec<HintStats>,
    /// What the node itself knows to be in doubt; replicas heal it.
    pub doubts: Vec<TokenRange>,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub unlisted: u64,
    /// What is as it should be and yet worth a line: leftovers of a crash, files of others.
    pub notes: Vec<String>,
    worst: Option<Outcome>,
}

impl Report {
    /// How the folder is.
    pub fn verdict(&self) -> Verdict {
        match self.worst {
            None => Verdict::Healthy,
            Some(Outcome::Slows | Outcome::Heals) => Verdict::Heals,
            Some(
                Outcome::Unnoticed | Outcome::Unreadable | Outcome::Refuses | Outcome::RefusesNewer,
            ) => Verdict::Refuses,
        }
    }

    /// Takes note of a finding.
    pub(crate) fn add(&mut self, finding: Finding) {
        self.worst = self.worst.max(Some(finding.outcome));
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.unlisted += 1;
        }
    }

    /// Adds what keeps a node from starting.
    fn refuse(&mut self, error: &OpenError, doubtful: Option<TokenRange>) {
        let (file, offset, what, outcome) = match error {
            OpenError::Damaged { file, offset, what } => {
                (file, Some(*offset), (*what).to_owned(), Outcome::Refuses)
            }
            OpenError::Version { file, found, known } => {
                let what = format!("it has format version {found}, this release reads {known}");
                (file, None, what, Outcome::RefusesNewer)
            }
            OpenError::Disk { doing, path, source } => {
                (path, None, format!("cannot {doing} it: {source}"), Outcome::Unreadable)
            }
            OpenError::Locked(folder) | OpenError::ForeignCluster { folder, .. } => {
                (folder, None, error.to_string(), Outcome::Refuses)
            }
            OpenError::Options(what) => {
                (&PathBuf::new(), None, (*what).to_owned(), Outcome::Refuses)
            }
        };
        self.add(Finding { file: file.clone(), offset, what, doubtful, outcome });
    }
}

/// Checks the folder `dir`. A node that has it open is an error; while this runs, none can open it.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::Disk`] when the folder itself can't be read.
pub async fn check(dir: &Path) -> Result<Report, OpenError> {
    let entries = fs::read_dir(dir).await.map_err(OpenError::disk("list", dir))?;
    // Where its file is missing nobody holds the lock, and taking it would make the file.
    let had_lock = entries.iter().any(|entry| entry.name == LOCK);
    let _lock = if had_lock { Some(lock(dir).await?) } else { None };
    let files = Files::of(&entries);
    let mut report = Report::default();
    strangers(&entries, &mut report);

    let id = whose(dir, &files, &mut report).await;
    if let Some(id) = id {
        let state = manifest_of(dir, id, &files, &mut report).await;
        if let Some(state) = &state {
            tables::check(dir, id, state, &mut report).await;
            orphans(dir, &files, state, &mut report);
        }
        log::check(dir, id, &files, state.as_ref(), &mut report).await;
    }
    if !had_lock && has_lock(dir).await? {
        // A node started meanwhile, so what was found may be what it was changing.
        return Err(OpenError::Locked(dir.to_path_buf()));
    }
    Ok(report)
}

async fn has_lock(dir: &Path) -> Result<bool, OpenError> {
    let entries = fs::read_dir(dir).await.map_err(OpenError::disk("list", dir))?;
    Ok(entries.iter().any(|entry| entry.name == LOCK))
}

/// The id that the folder's files bear; `None`: there is nothing to go by.
async fn whose(dir: &Path, files: &Files, report: &mut Report) -> Option<NodeId> {
    let path = dir.join(identity::FILE);
    match identity::look(dir).await {
        Ok(Some(Seen { identity, folder, cluster })) => {
            report.identity = Some(identity);
            report.cluster = Some(cluster);
            return Some(folder);
        }
        Ok(None) if !files.any() => {
            report.empty = true;
            return None;
        }
        Ok(None) if let Ok(Some(seen)) = identity::look_at_marker(dir).await => {
            report.cluster = Some(seen.cluster);
            report
                .notes
                .push("it is a snapshot: whoever starts on it gets a new node id".to_owned());
            return Some(seen.folder);
        }
        Ok(None) => {
            report.refuse(&OpenError::damaged(&path, 0, "it is missing, and data is there"), None);
        }
        Err(error) => report.refuse(&error, None),
    }
    let id = log::bears(dir, files).await;
    report.notes.push(match id {
        Some(_) => "the folder's id was taken from its log, to check the rest".to_owned(),
        None => "without the folder's id the rest was not checked".to_owned(),
    });
    id
}

/// What the manifest says; `None`: that can't be known, so neither tables nor the log's start are.
async fn manifest_of(dir: &Path, id: NodeId, files: &Files, report: &mut Report) -> Option<State> {
    let found = match manifest::find(dir, id, &files.manifests).await {
        Ok(found) => found,
        Err(error) => {
            report.refuse(&error, Some(TokenRange::ALL));
            return None;
        }
    };
    let last = manifest_path(dir, files.manifests.last().copied().unwrap_or(1));
    if found.state.is_none() && !files.tables.is_empty() {
        let what = "no manifest is whole, and tables are there";
        report.refuse(&OpenError::damaged(&last, 0, what), Some(TokenRange::ALL));
        return None;
    }
    if files.manifests.len() > 1 {
        let count = files.manifests.len() - 1;
        report
            .notes
            .push(format!("{count} manifests are left of a crash; the next start removes them"));
    }
    match manifest::torn_tail(dir, &files.manifests).await {
        Ok(None) => {}
        Ok(Some((path, at, bytes))) => report.notes.push(format!(
            "{} ends with {bytes} bytes of an edit that is not whole, from byte {at} on: a crash \
             tore it, or it rotted; the next start goes on without it",
            path.display()
        )),
        Err(error) => report.refuse(&error, Some(TokenRange::ALL)),
    }
    let state = found.state.unwrap_or_default();
    report.doubts = state.doubts.ranges().to_vec();
    Some(state)
}

/// Tables that the manifest does not name.
fn orphans(dir: &Path, files: &Files, state: &State, report: &mut Report) {
    for id in files.tables.iter().filter(|id| !state.tables.contains_key(id)) {
        let path = table_path(dir, TableId(*id));
        report.notes.push(format!(
            "{} is in no manifest: a crash left it, and the next start removes it",
            path.display()
        ));
    }
}

/// Files that are none of the engine's.
fn strangers(entries: &[DirEntry], report: &mut Report) {
    let temporary = |name: &str| [identity::TEMP, identity::MARKER_TEMP].contains(&name);
    for entry in entries {
        if !entry.is_dir && temporary(&entry.name) {
            report.notes.push(format!("{} is left of a crash, and does not count", entry.name));
        }
    }
}
