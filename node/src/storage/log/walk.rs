//! Walking over a segment as it stands: all of its valid batches, whatever lies between them.
//!
//! [Replay](super::replay) says whether the log can be opened and stops at the first damage. This says
//! how much else is damaged, for people who decide what to do; nothing is ever built on it.

use std::path::Path;

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::replay::{batch_at, next_magic, read_header};
use super::window::Window;
use crate::domain::causality::NodeId;
use crate::storage::error::OpenError;

/// Gaps of a segment beyond this many are not told one by one.
const GAPS_MAX: usize = 100;

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Walked {
    /// `None`: it is not valid. Then no batches are looked for.
    pub(in crate::storage) header: Option<SegmentHeader>,
    /// Bytes of the file.
    pub(in crate::storage) bytes: u64,
    /// Valid batches of this segment.
    pub(in crate::storage) batches: u64,
    /// Their records.
    pub(in crate::storage) records: u64,
    /// Where bytes that are no batch start, between two that are valid; the first ones.
    pub(in crate::storage) gaps: Vec<u64>,
    /// Where the last valid batch ends.
    pub(in crate::storage) end: u64,
    /// Bytes behind it, up to the last one that is not zero.
    pub(in crate::storage) torn_bytes: u64,
}

/// Walks over segment `number` at `path`, of the folder whose id is `id`. Changes nothing.
///
/// # Errors
/// [`OpenError`]: it is no segment of this folder, or the disk refused.
pub(in crate::storage) async fn walk(
    path: &Path,
    number: u64,
    id: NodeId,
) -> Result<Walked, OpenError> {
    let mut file = Window::open(path).await?;
    let mut walked = Walked { bytes: file.len(), ..Walked::default() };
    let Some(header) = read_header(&mut file, number, id).await? else { return Ok(walked) };
    walked.header = Some(header);
    walked.end = SEGMENT_HEADER_BYTES as u64;
    loop {
        if let Some((batch, _)) = batch_at(&mut file, walked.end).await?
            && batch.life == header.life
        {
            walked.batches += 1;
            walked.records += u64::from(batch.records);
            walked.end += batch.total_bytes() as u64;
            continue;
        }
        match behind(&mut file, walked.end, header.life).await? {
            Behind::Batch(at) => {
                if walked.gaps.len() < GAPS_MAX {
                    walked.gaps.push(walked.end);
                }
                walked.end = at;
            }
            Behind::Nothing { torn_bytes } => {
                walked.torn_bytes = torn_bytes;
                return Ok(walked);
            }
        }
    }
}

/// What stands behind the end of valid batches.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// Another one, at this offset.
    Batch(u64),
    /// None; so many bytes are something else.
    Nothing { torn_bytes: u64 },
}

async fn behind(file: &mut Window, from: u64, life: u64) -> Result<Behind, OpenError> {
    let (mut at, mut content_end) = (from, from);
    while let Some(found) = next_magic(file, at, &mut content_end).await? {
        if batch_at(file, found).await?.is_some_and(|(batch, _)| batch.life == life) {
            return Ok(Behind::Batch(found));
        }
        at = found + 1;
    }
    Ok(Behind::Nothing { torn_bytes: content_end - from })
}
