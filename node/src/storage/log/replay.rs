//! Reading the log back: which segments count, where the log ends, what is damage and what is a
//! torn tail. The rules are in the [parent](super).

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, Batch, BatchHeader, NoHeader, Place, SEGMENT_HEADER_BYTES,
    SEGMENT_VERSION, SegmentHeader, decode_records,
};
use super::record::Record;
use super::segment_path;
use super::window::Window;
use crate::domain::causality::NodeId;
use crate::runtime::event;
use crate::storage::error::OpenError;

/// What the log held, and how to go on.
#[derive(Debug)]
pub(in crate::storage) struct Replayed {
    /// Where the proven part ends.
    pub(in crate::storage) end: Place,
    /// Its last batch; 0 for none.
    pub(in crate::storage) durable_through: u64,
    /// The batches behind it: valid, but perhaps in the operating system's cache alone.
    pub(in crate::storage) unproven: Vec<Batch>,
    /// Files that are void once a new segment was born.
    pub(in crate::storage) void: Vec<PathBuf>,
    /// Higher than the number of any file in the folder.
    pub(in crate::storage) next_segment: u64,
    /// The segments that the proven part is made of, oldest first.
    pub(in crate::storage) segments: Vec<Segment>,
}

/// A segment of the proven part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Segment {
    pub(in crate::storage) number: u64,
    pub(in crate::storage) first_batch: u64,
    /// Up to where it counts.
    pub(in crate::storage) bytes: u64,
}

/// Reads the segments called `numbers` (sorted) in `folder`, whose id is `id`, from segment `start` on
/// (0: from the first), and gives every record that counts to `apply`, oldest first, with the number of its batch.
/// Batches through `flushed_through` are in tables too, so their numbers must not come again: an empty one
/// of them is carried over like others. Changes nothing on disk.
///
/// # Errors
/// [`OpenError::Damaged`], [`OpenError::Version`], [`OpenError::Disk`].
pub(in crate::storage) async fn replay(
    folder: &Path,
    id: NodeId,
    numbers: &[u64],
    (start, flushed_through): (u64, u64),
    apply: &mut impl FnMut(u64, Record),
) -> Result<Replayed, OpenError> {
    let next_segment = numbers.last().map_or(1, |last| last + 1);
    let mut replayed = Replayed {
        end: Place::START,
        durable_through: 0,
        unproven: Vec::new(),
        void: Vec::new(),
        next_segment,
        segments: Vec::new(),
    };
    let path = |number: u64| segment_path(folder, number);
    let counting = &numbers[numbers.partition_point(|number| *number < start)..];
    let Some((tip, proven)) = find_tip(folder, id, counting).await? else {
        if start > 0 || flushed_through > 0 {
            return Err(OpenError::damaged(&path(start.max(1)), 0, "the segment is missing"));
        }
        replayed.void = numbers.iter().map(|n| path(*n)).collect();
        return Ok(replayed);
    };
    let chain = chain_to(folder, id, counting, start, &tip).await?;
    for pair in chain.windows(2) {
        let (segment, successor) = (&pair[0], &pair[1]);
        let until = Until { offset: successor.follows.offset, batch: successor.first_batch - 1 };
        read_sealed(&path(segment.number), segment, until, apply).await?;
        let (number, first_batch) = (segment.number, segment.first_batch);
        replayed.segments.push(Segment { number, first_batch, bytes: until.offset });
    }
    replayed.unproven = read_tip(&path(tip.number), &tip, proven, apply).await?;
    // The empty batch of an orderly close has said what it had to say.
    let said = |batch: &mut Batch| batch.records == 0 && batch.number > flushed_through;
    while replayed.unproven.pop_if(said).is_some() {}
    replayed.durable_through = proven.batch;
    let valid_through = proven.batch + replayed.unproven.len() as u64;
    if valid_through < flushed_through {
        let what = "the log ends before what is in tables";
        return Err(OpenError::damaged(&path(tip.number), proven.offset, what));
    }
    // A tip that proves nothing is replaced by the next segment, which then follows the same place.
    // But for the first one, whose number the manifest knows.
    if proven.batch < tip.first_batch && tip.number != start {
        replayed.end = tip.follows;
    } else {
        replayed.end = Place { segment: tip.number, offset: proven.offset };
        let (number, first_batch) = (tip.number, tip.first_batch);
        replayed.segments.push(Segment { number, first_batch, bytes: proven.offset });
    }
    let kept = &replayed.segments;
    let is_void = |n: &&u64| !kept.iter().any(|segment| segment.number == **n);
    replayed.void = numbers.iter().filter(is_void).map(|n| path(*n)).collect();
    Ok(replayed)
}

/// How far something reaches: up to this offset, and through this batch.
#[derive(Clone, Copy, Debug)]
struct Until {
    offset: u64,
    batch: u64,
}

/// The newest segment that was fully born, and how far it is proven.
async fn find_tip(
    folder: &Path,
    id: NodeId,
    numbers: &[u64],
) -> Result<Option<(SegmentHeader, Until)>, OpenError> {
    for number in numbers.iter().rev() {
        let mut file = Window::open(&segment_path(folder, *number)).await?;
        if let Some(tip) = examine(&mut file, *number, id).await? {
            return Ok(Some(tip));
        }
        event::note("unborn_segment_dropped", 0, *number);
    }
    Ok(None)
}

/// Looks at a segment that nothing follows. `None`: it was not fully born, so it does not count.
async fn examine(
    file: &mut Window,
    number: u64,
    id: NodeId,
) -> Result<Option<(SegmentHeader, Until)>, OpenError> {
    let Some(header) = read_header(file, number, id).await? else {
        let rest = survey(file, 0, None).await?;
        if rest.written_after_birth {
            return Err(OpenError::damaged(file.path(), 0, "the segment's header is not valid"));
        }
        return Ok(None);
    };
    let start = SEGMENT_HEADER_BYTES as u64;
    let mut valid = Until { offset: start, batch: header.first_batch - 1 };
    let mut proven = valid;
    let mut ends = Vec::new();
    while let Some((batch, _)) = next_batch(file, &header, valid).await? {
        valid.offset += batch.total_bytes() as u64;
        valid.batch = batch.number;
        ends.push(valid);
        // A batch names one that stands before it, so its end was seen.
        if let Some(end) = ends.iter().rev().find(|end| end.batch == batch.durable_through) {
            proven = *end;
        }
        ends.retain(|end| end.batch >= proven.batch);
    }
    let rest = survey(file, valid.offset, Some(header.life)).await?;
    let what = "a batch that was durable is not valid";
    if valid.batch < header.born_through {
        return if rest.written_after_birth {
            Err(OpenError::damaged(file.path(), valid.offset, what))
        } else {
            Ok(None)
        };
    }
    if rest.durable_through.is_some_and(|through| through > valid.batch) {
        return Err(OpenError::damaged(file.path(), valid.offset, what));
    }
    if rest.torn_bytes > 0 {
        event::note("torn_tail_cut", 0, rest.torn_bytes);
        tracing::info!(
            file = %file.path().display(), offset = valid.offset, bytes = rest.torn_bytes,
            "cut a write that a crash had torn"
        );
    }
    Ok(Some((header, proven)))
}

/// The headers from segment `start` (0: from the one that follows none) to `tip`.
async fn chain_to(
    folder: &Path,
    id: NodeId,
    numbers: &[u64],
    start: u64,
    tip: &SegmentHeader,
) -> Result<Vec<SegmentHeader>, OpenError> {
    let mut chain = vec![*tip];
    let follows = |header: &SegmentHeader| {
        if header.number == start { 0 } else { header.follows.segment.max(start) }
    };
    let mut next = follows(tip);
    while next > 0 {
        let path = segment_path(folder, next);
        if numbers.binary_search(&next).is_err() {
            return Err(OpenError::damaged(&path, 0, "the segment is missing"));
        }
        let mut file = Window::open(&path).await?;
        let header = read_header(&mut file, next, id).await?;
        let what = "the segment's header is not valid";
        let header = header.ok_or_else(|| OpenError::damaged(&path, 0, what))?;
        // Each link leads to a lower number (checked with the header), so this ends.
        next = follows(&header);
        chain.push(header);
    }
    chain.reverse();
    Ok(chain)
}

/// The header, if it is valid; damage if it is another segment's.
pub(super) async fn read_header(
    file: &mut Window,
    number: u64,
    id: NodeId,
) -> Result<Option<SegmentHeader>, OpenError> {
    let bytes = file.bytes(0, SEGMENT_HEADER_BYTES).await?;
    let damaged = |what| Err(OpenError::damaged(file.path(), 0, what));
    match SegmentHeader::decode(&bytes) {
        Ok(header) if header.number != number => damaged("its name is not that of its header"),
        Ok(header) if header.folder != id => damaged("it belongs to another folder"),
        Ok(header) => Ok(Some(header)),
        Err(NoHeader::Unreadable) => Ok(None),
        Err(NoHeader::Version(found)) => Err(OpenError::Version {
            file: file.path().to_path_buf(),
            found,
            known: SEGMENT_VERSION,
        }),
    }
}

/// Applies a segment that another one follows: all of it must be right.
async fn read_sealed(
    path: &Path,
    header: &SegmentHeader,
    until: Until,
    apply: &mut impl FnMut(u64, Record),
) -> Result<(), OpenError> {
    let mut file = Window::open(path).await?;
    let mut at = Until { offset: SEGMENT_HEADER_BYTES as u64, batch: header.first_batch - 1 };
    let mut records = 0;
    while at.offset < until.offset {
        let next = next_batch(&mut file, header, at).await?;
        let what = "a batch that was durable is not valid";
        let (batch, bytes) = next.ok_or_else(|| OpenError::damaged(path, at.offset, what))?;
        decode(path, at.offset, &batch, &bytes, apply)?;
        records += u64::from(batch.records);
        at.offset += batch.total_bytes() as u64;
        at.batch = batch.number;
    }
    if at.offset != until.offset || at.batch != until.batch {
        return Err(OpenError::damaged(
            path,
            at.offset,
            "it does not end where its successor says",
        ));
    }
    event::note("segment_replayed", 0, records);
    Ok(())
}

/// Applies the segment that nothing follows; returns its batches that are not proven durable.
async fn read_tip(
    path: &Path,
    header: &SegmentHeader,
    proven: Until,
    apply: &mut impl FnMut(u64, Record),
) -> Result<Vec<Batch>, OpenError> {
    let mut file = Window::open(path).await?;
    let mut at = Until { offset: SEGMENT_HEADER_BYTES as u64, batch: header.first_batch - 1 };
    let (mut records, mut unproven) = (0, Vec::new());
    while let Some((batch, bytes)) = next_batch(&mut file, header, at).await? {
        decode(path, at.offset, &batch, &bytes, apply)?;
        records += u64::from(batch.records);
        if batch.number > proven.batch {
            let buffer = bytes[..].into();
            unproven.push(Batch { number: batch.number, records: batch.records, buffer });
        }
        at.offset += batch.total_bytes() as u64;
        at.batch = batch.number;
    }
    event::note("segment_replayed", 0, records);
    Ok(unproven)
}

fn decode(
    path: &Path,
    offset: u64,
    header: &BatchHeader,
    batch: &Bytes,
    apply: &mut impl FnMut(u64, Record),
) -> Result<(), OpenError> {
    let what = "a batch holds records that this release does not know";
    decode_records(header, batch, apply).map_err(|_| OpenError::damaged(path, offset, what))
}

/// The batch that must come at `at.offset`, after batch `at.batch`; `None` if it is not there.
async fn next_batch(
    file: &mut Window,
    segment: &SegmentHeader,
    at: Until,
) -> Result<Option<(BatchHeader, Bytes)>, OpenError> {
    let found = batch_at(file, at.offset).await?;
    Ok(found.filter(|(batch, _)| {
        batch.life == segment.life
            && batch.number == at.batch + 1
            && batch.durable_through < batch.number
            && batch.at_birth == (batch.number <= segment.born_through)
    }))
}

/// The batch at `offset`, whoever wrote it; `None` if its checksum is not right.
pub(super) async fn batch_at(
    file: &mut Window,
    offset: u64,
) -> Result<Option<(BatchHeader, Bytes)>, OpenError> {
    let Some(header) = BatchHeader::decode(&file.bytes(offset, BATCH_HEADER_BYTES).await?) else {
        return Ok(None);
    };
    if header.total_bytes() as u64 > file.len().saturating_sub(offset) {
        return Ok(None);
    }
    let bytes = file.bytes(offset, header.total_bytes()).await?;
    Ok(header.matches(&bytes).then_some((header, bytes)))
}

/// What stands behind the end of the valid batches.
#[derive(Debug, Default)]
struct Rest {
    /// Bytes up to the last one that is not zero.
    torn_bytes: u64,
    /// The highest batch that a valid one declares durable.
    durable_through: Option<u64>,
    /// One of the valid ones was written after its segment's birth.
    written_after_birth: bool,
}

/// Searches the file from `from` to its end for valid batches of `life` (`None`: of any).
async fn survey(file: &mut Window, from: u64, life: Option<u64>) -> Result<Rest, OpenError> {
    let mut rest = Rest::default();
    let (mut at, mut content_end) = (from, from);
    while let Some(found) = next_magic(file, at, &mut content_end).await? {
        at = found + 1;
        let batch = batch_at(file, found).await?.map(|(header, _)| header);
        let Some(batch) = batch.filter(|batch| life.is_none_or(|life| batch.life == life)) else {
            continue;
        };
        rest.durable_through = rest.durable_through.max(Some(batch.durable_through));
        rest.written_after_birth |= !batch.at_birth;
        // The bytes of a batch are not zero at its front, so it is counted as torn from there.
        at = found + batch.total_bytes() as u64;
        content_end = at;
    }
    rest.torn_bytes = content_end - from;
    Ok(rest)
}

/// Where a batch may begin, at `from` or behind it; `None`: nowhere. `content_end` rises to behind the last byte on the way
/// that is not zero.
pub(super) async fn next_magic(
    file: &mut Window,
    from: u64,
    content_end: &mut u64,
) -> Result<Option<u64>, OpenError> {
    let mut at = from;
    while at < file.len() {
        let piece = file.piece(at).await?;
        if piece.is_empty() {
            break;
        }
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            *content_end = at + last as u64 + 1;
        }
        let magic = piece.windows(BATCH_MAGIC.len()).position(|bytes| bytes == BATCH_MAGIC);
        if let Some(found) = magic {
            return Ok(Some(at + found as u64));
        }
        // A magic that the piece's end cuts in two is found from its first byte next time.
        let last = at + piece.len() as u64 == file.len();
        let overlap = if last { 0 } else { BATCH_MAGIC.len() - 1 };
        at += (piece.len() - overlap.min(piece.len() - 1)) as u64;
    }
    Ok(None)
}
