//! The log: replayed as a start does it, which says whether a node starts; then walked over, segment by
//! segment, which says what there is, and what else is damaged.

use std::path::{Path, PathBuf};

use super::{Finding, Outcome, Report};
use crate::domain::causality::NodeId;
use crate::runtime::fs::{File, OpenMode};
use crate::storage::doubt::TokenRange;
use crate::storage::hints::Hints;
use crate::storage::log::format::{Place, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::storage::log::record::Record;
use crate::storage::log::replay::{Replayed, replay};
use crate::storage::log::segment_path;
use crate::storage::log::walk::{Walked, walk};
use crate::storage::manifest::edit::State;
use crate::storage::opening::Files;

/// The folder's id, by the newest segment whose header is valid.
pub(super) async fn bears(dir: &Path, files: &Files) -> Option<NodeId> {
    for number in files.segments.iter().rev() {
        let path = segment_path(dir, *number);
        let Ok(file) = File::open(&path, OpenMode::Read).await else { continue };
        let Ok(bytes) = file.read_at(0, SEGMENT_HEADER_BYTES).await else { continue };
        if let Ok(header) = SegmentHeader::decode(&bytes) {
            return Some(header.folder);
        }
    }
    None
}

/// Checks the log. `state` is what the manifest says; `None`: it can't be read, so it is not known
/// where the log starts.
pub(super) async fn check(
    dir: &Path,
    id: NodeId,
    files: &Files,
    state: Option<&State>,
    report: &mut Report,
) {
    let replayed = match state {
        Some(state) => Some(replayed(dir, id, files, state, report).await),
        None => None,
    };
    let refused = report.findings.len();
    let mut segments = Vec::new();
    for number in &files.segments {
        let path = segment_path(dir, *number);
        match walk(&path, *number, id).await {
            Ok(walked) => segments.push((path, walked)),
            Err(error) if !matches!(replayed, Some(Some(_))) => {
                let same = report.findings[..refused].iter().any(|f| f.file == path);
                if !same {
                    report.refuse(&error, Some(TokenRange::ALL));
                }
            }
            // The start gets along without it.
            Err(_) => {}
        }
    }
    match replayed.flatten() {
        Some(replayed) => sound(&replayed, &segments, report),
        None => damaged(&segments, state.map_or(0, |state| state.log_start), report),
    }
    let (batches, records) = (&mut report.counts.batches, &mut report.counts.records);
    for (_, walked) in &segments {
        *batches += walked.batches;
        *records += walked.records;
        report.counts.log_bytes += walked.bytes;
        report.counts.segments += 1;
    }
}

/// Replays the log, and counts what it brings back; `None`: a start would be refused.
async fn replayed(
    dir: &Path,
    id: NodeId,
    files: &Files,
    state: &State,
    report: &mut Report,
) -> Option<Replayed> {
    let (mut hints, mut unflushed) = (Hints::default(), 0);
    let mut apply = |batch: u64, record: Record| match record {
        Record::Put { .. } => unflushed += u64::from(batch > state.flushed_through),
        Record::Hint { owner, key, object, since_ms } => {
            hints.insert(&owner, &key, object.into(), since_ms, batch);
        }
        Record::HintDone { owner, key, digest } => {
            hints.remove(&owner, &key, digest);
        }
    };
    let from = (state.log_start, state.flushed_through);
    let replayed = replay(dir, id, &files.segments, from, &mut apply).await;
    report.hints = hints.stats();
    report.counts.unflushed = unflushed;
    match replayed {
        Ok(replayed) => Some(replayed),
        Err(error) => {
            report.refuse(&error, Some(TokenRange::ALL));
            None
        }
    }
}

/// A start works: says what it will cut and remove.
fn sound(replayed: &Replayed, segments: &[(PathBuf, Walked)], report: &mut Report) {
    let (void, counted): (Vec<_>, Vec<_>) =
        segments.iter().partition(|(path, _)| replayed.void.contains(path));
    for (path, _) in void {
        report
            .notes
            .push(format!("{} no longer counts; the next start removes it", path.display()));
    }
    if let Some((path, tip)) = counted.last()
        && tip.torn_bytes > 0
    {
        report.notes.push(format!(
            "{} ends with {} bytes of a write that a crash tore, from byte {} on: it was not \
             confirmed, and the next start cuts it",
            path.display(),
            tip.torn_bytes,
            tip.end
        ));
    }
}

/// A start is refused, or the manifest can't be read: says what else is damaged.
fn damaged(segments: &[(PathBuf, Walked)], start: u64, report: &mut Report) {
    for (path, walked) in segments {
        let Some(header) = walked.header else { continue };
        if header.number < start {
            continue;
        }
        // What stands behind where the next segment says that this one ends is void.
        let followers = segments.iter().filter_map(|(_, other)| other.header);
        let end = followers
            .map(|other| other.follows)
            .filter(|follows| follows.segment == header.number)
            .map(|Place { offset, .. }| offset)
            .max();
        for gap in walked.gaps.iter().filter(|gap| end.is_none_or(|end| **gap < end)) {
            let known = |f: &Finding| f.file == *path && f.offset == Some(*gap);
            if report.findings.iter().any(known) {
                continue;
            }
            report.add(Finding {
                file: path.clone(),
                offset: Some(*gap),
                what: "a batch that was durable is not valid".to_owned(),
                doubtful: Some(TokenRange::ALL),
                outcome: Outcome::Refuses,
            });
        }
    }
}
