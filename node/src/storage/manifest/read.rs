//! Finding the manifest that counts, and reading it. The rules are in the [parent](super).

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::edit::State;
use super::format::{EDIT_MAGIC, Edit, HEADER_BYTES, Header, MANIFEST_VERSION, NoHeader};
use super::manifest_path;
use crate::domain::causality::NodeId;
use crate::runtime::event;
use crate::runtime::fs::{File, OpenMode};
use crate::storage::error::OpenError;

/// What the folder's manifests held, and how to go on.
#[derive(Debug)]
pub(in crate::storage) struct Found {
    /// `None`: no manifest was ever born here.
    pub(in crate::storage) state: Option<State>,
    /// Files that are void once a new manifest was born.
    pub(in crate::storage) void: Vec<PathBuf>,
    /// Higher than the number of any file in the folder.
    pub(in crate::storage) next_number: u64,
}

/// Reads the newest manifest that was born among those called `numbers` (sorted). Changes nothing.
///
/// # Errors
/// [`OpenError::Damaged`], [`OpenError::Version`], [`OpenError::Disk`].
pub(in crate::storage) async fn find(
    folder: &Path,
    id: NodeId,
    numbers: &[u64],
) -> Result<Found, OpenError> {
    let mut found = Found {
        state: None,
        void: numbers.iter().map(|number| manifest_path(folder, *number)).collect(),
        next_number: numbers.last().map_or(1, |last| last + 1),
    };
    for number in numbers.iter().rev() {
        let path = manifest_path(folder, *number);
        let bytes = read_whole(&path).await?;
        found.state = read(&path, &bytes, *number, id)?;
        if found.state.is_some() {
            break;
        }
        event::note("unborn_manifest_dropped", 0, *number);
    }
    Ok(found)
}

async fn read_whole(path: &Path) -> Result<Bytes, OpenError> {
    let file = File::open(path, OpenMode::Read).await.map_err(OpenError::disk("open", path))?;
    let len = file.len().await.map_err(OpenError::disk("read", path))?;
    // A manifest is written anew when it grows; one that fits no memory is none.
    let len = usize::try_from(len).map_err(|_| OpenError::damaged(path, 0, "it is too large"))?;
    file.read_at(0, len).await.map_err(OpenError::disk("read", path))
}

/// The state that the manifest in `bytes` amounts to; `None`: it was not born.
///
/// # Errors
/// [`OpenError::Damaged`], [`OpenError::Version`].
pub(in crate::storage) fn read(
    path: &Path,
    bytes: &[u8],
    number: u64,
    id: NodeId,
) -> Result<Option<State>, OpenError> {
    let damaged = |offset: usize, what| Err(OpenError::damaged(path, offset as u64, what));
    let header = match Header::decode(bytes) {
        Ok(header) if header.number != number => {
            return damaged(0, "its name is not that of its header");
        }
        Ok(header) if header.folder != id => return damaged(0, "it belongs to another folder"),
        Ok(header) => header,
        Err(NoHeader::Unreadable) if highest_edit(bytes, None) > 1 => {
            return damaged(0, "the manifest's header is not valid");
        }
        Err(NoHeader::Unreadable) => return Ok(None),
        Err(NoHeader::Version(found)) => {
            let file = path.to_path_buf();
            return Err(OpenError::Version { file, found, known: MANIFEST_VERSION });
        }
    };
    let (mut state, mut at, mut last) = (State::default(), HEADER_BYTES, 0);
    while let Some(edit) = Edit::at_front(&bytes[at..])
        && edit.number == last + 1
        && edit.life == header.life
    {
        if edit.changes(|change| state.apply(change)).is_err() {
            return damaged(at, "an edit holds changes that this release does not know");
        }
        at += edit.total_bytes();
        last = edit.number;
    }
    // Edits are written one at a time, each after the one before was synced: a later one that is
    // valid says that this one was there.
    if highest_edit(&bytes[at..], Some(header.life)) > last + 1 {
        return damaged(at, "an edit that was durable is not valid");
    }
    if last == 0 {
        return Ok(None);
    }
    if bytes[at..].iter().any(|byte| *byte != 0) {
        event::note("torn_edit_cut", 0, (bytes.len() - at) as u64);
        tracing::info!(file = %path.display(), offset = at, "cut an edit that a crash had torn");
    }
    if state.levels().is_err() {
        return damaged(at, "its edits contradict each other");
    }
    Ok(Some(state))
}

/// The highest number of any valid edit of `life` (`None`: of any) in `bytes`; 0 for none.
fn highest_edit(bytes: &[u8], life: Option<u64>) -> u64 {
    let (mut at, mut highest) = (0, 0);
    while let Some(found) =
        bytes[at..].windows(EDIT_MAGIC.len()).position(|window| window == EDIT_MAGIC)
    {
        at += found;
        match Edit::at_front(&bytes[at..]) {
            Some(edit) if life.is_none_or(|life| edit.life == life) => {
                highest = highest.max(edit.number);
                at += edit.total_bytes();
            }
            Some(_) | None => at += 1,
        }
    }
    highest
}

/// What stands behind the last valid edit of the manifest that counts, if that is not all zeros: its
/// file, where, and how many bytes. A crash tore it, or after a crash the last edit rotted: nothing tells. After an
/// orderly close that edit is empty, and nothing is lost with it.
///
/// # Errors
/// [`OpenError::Disk`].
pub(in crate::storage) async fn torn_tail(
    folder: &Path,
    numbers: &[u64],
) -> Result<Option<(PathBuf, u64, u64)>, OpenError> {
    for number in numbers.iter().rev() {
        let path = manifest_path(folder, *number);
        let bytes = read_whole(&path).await?;
        let Ok(header) = Header::decode(&bytes) else { continue };
        let (mut at, mut last) = (HEADER_BYTES, 0);
        while let Some(edit) = Edit::at_front(&bytes[at..])
            && edit.number == last + 1
            && edit.life == header.life
        {
            at += edit.total_bytes();
            last = edit.number;
        }
        if last > 0 {
            let torn = bytes[at..].iter().any(|byte| *byte != 0);
            return Ok(torn.then(|| (path, at as u64, (bytes.len() - at) as u64)));
        }
    }
    Ok(None)
}
