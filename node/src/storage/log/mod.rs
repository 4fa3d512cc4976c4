//! The commit log: every accepted write, in order, in numbered segments.
//!
//! # Files
//!
//! A segment is a file `log-<10 digits>.log`, numbered from 1. Integers are big-endian. It starts
//! with a header:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `ff` `STARLOG` |
//! | 8 | 4 | format version, 1; magic, version and checksum stay where they are in every version |
//! | 12 | 4 | CRC-32 of bytes 0 to 11 and 16 to 71 |
//! | 16 | 8 | the segment's number, as in its name |
//! | 24 | 8 | the folder's id: that of the first node in it, see [`identity`](super::identity) |
//! | 32 | 8 | life: a random number that tells its bytes from those of any other file |
//! | 40 | 8 | follows: number of the segment before it; 0: none, the log starts here |
//! | 48 | 8 | where that segment ends: whatever stands there from this byte on is void |
//! | 56 | 8 | number of its first batch |
//! | 64 | 8 | born through: it exists once all batches through this one are in it |
//!
//! Batches follow without gaps, numbered 1, 2, 3, … through all segments:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `ff ba 7c 81`, which is in no UTF-8 text |
//! | 4 | 4 | CRC-32 of all that follows in this batch |
//! | 8 | 4 | length of the records in bytes |
//! | 12 | 4 | number of records |
//! | 16 | 8 | the batch's number |
//! | 24 | 8 | durable through: the last batch known to be durable when this one was written |
//! | 32 | 8 | the segment's life |
//! | 40 | 4 | 1: written when its segment was born; 0: written later |
//! | 44 | … | records |
//!
//! A record is a kind and its fields; keys and objects are as `domain` encodes them, a name is its length
//! as a varint and UTF-8:
//!
//! | kind | fields | meaning |
//! |---|---|---|
//! | 1 put | key, object | the node holds this object under the key from here on |
//! | 2 hint | owner's name, key, object, since (varint, Unix ms) | it keeps this object for that member from here on |
//! | 3 hint done | owner's name, key, digest (8 bytes) | the hint is void, if its object still has that digest |
//!
//! Puts and hints hold the whole object, merged with what was there before, so the later one wins and
//! replay merges nothing. A hint's end may be missing after a crash: then the hint is replayed to its
//! owner once more, which changes nothing there.
//!
//! Behind the last batch there may be zeros: space written ahead, so that syncs are cheap.
//!
//! # Rules
//!
//! **One at a time.** A batch is written and synced in one call; the next one is written after that
//! succeeded. It then declares the one before durable.
//!
//! **Birth.** A segment is created in one step together with the batches that made it necessary:
//! header, batches, sync, sync of the folder. Until it holds all of them it does not count. This is
//! how the log goes on when a segment is full, when the node starts, and when a write or sync failed:
//!
//! ```text
//! segment 4   [b 7][b 8][b 9?            sync of 9 failed: nothing from here on is trusted
//! segment 5   follows 4 up to here ─┘    [b 9][b 10] …    born through 9
//! ```
//!
//! A birth that fails is given up, and the next number tries the same.
//!
//! **Replay.** The tip is the segment with the highest number that was fully born; from it the
//! `follows` links lead back to the start. Every other segment is void. Up to where its successor
//! says that a segment ends, each byte must be right. In the tip, batches count up to the first that
//! is not valid. What stands behind it is a torn tail, unless a later valid batch declares the
//! missing one durable, or the tip's header is unreadable and a batch written after its birth is
//! there: that is damage, and the folder is not opened.
//!
//! **The front goes.** Once all puts of its first segments are in tables and all their hints were
//! logged again, the manifest says at which segment the log starts, and those
//! before it are removed. Replay then follows the links down to that one, which must be there; the puts of
//! batches that are in tables are left out. A batch counts as being in a table only once a later
//! batch proves it, so its number never comes again.
//!
//! **Nothing unproven is built on.** A valid batch of the tip that no other batch declares durable
//! may be in the operating system's cache alone, even after a sync that failed. Opening carries such
//! batches over into a new segment, and never appends to an old one. So a torn tail can't be
//! resurrected either: the new segment's header says where the old one ends.
//!
//! What it can't tell: bit rot in the very last batch before a crash looks like a torn write, and is
//! cut. An orderly close therefore ends with an empty batch that declares the last one durable.

pub(super) mod append;
pub(super) mod format;
pub(super) mod record;
pub(super) mod replay;
pub(super) mod walk;
mod window;

use std::path::{Path, PathBuf};

/// The path of segment `number` in `folder`.
pub(super) fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("log-{number:010}.log"))
}

/// The number of the segment that is called `name`; `None` when it is no segment.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".log")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = if plain { digits.parse().ok()? } else { return None };
    (number > 0 && number < u64::MAX / 2).then_some(number)
}
