//! Keys in conflict, found by reading this node's data: for an operator who looks for writers that send no contexts.
//!
//! Of its home partitions a node reads those whose first live home replica it is, as far as it knows. So the members
//! together name each key once, and a member that is away is stood in for. While beliefs about who is there differ, a
//! key may be named twice, or not at all; so may one whose other copies are newer.
//!
//! An answer reads [`READ_BYTES`] at the most and then says where it stopped, so nobody waits long and nothing is held.

use std::ops::Bound;

use super::anti_entropy::trees::up_to;
use super::cluster::Cluster;
use crate::domain::key::Key;
use crate::domain::ring::PartitionId;
use crate::storage::{Engine, ReadError};

/// What one answer reads of the data, at about the most.
pub const READ_BYTES: usize = 4 << 20;
/// What is read of it at a time.
const STEP_BYTES: usize = 64 << 10;

/// A key with more than one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Key,
    /// How many values a read shows.
    pub siblings: usize,
    /// Bytes of all that is held for it.
    pub bytes: usize,
    /// When the last of them was written, in Unix milliseconds.
    pub written_at_ms: u64,
}

/// A part of the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order of partitions.
    pub conflicts: Vec<Conflict>,
    /// The last key that was looked at; `None`: nothing is left.
    pub next: Option<Key>,
}

/// The conflicts behind `after` (`None`: from the start), of one bucket or of all: `limit` at the most, and perhaps fewer
/// although there are more.
///
/// # Errors
/// [`ReadError`].
pub async fn page(
    engine: &Engine,
    cluster: &Cluster,
    bucket: Option<&str>,
    after: Option<Key>,
    limit: usize,
    now_ms: u64,
) -> Result<Page, ReadError> {
    let ring = cluster.ring();
    let first = after.as_ref().map_or(0, |key| ring.partition_of(key.token()).0);
    let mut page = Page::default();
    let mut left = READ_BYTES;
    for partition in (first..ring.partitions()).map(PartitionId) {
        let live = |&&node: &&_| cluster.is_live(node);
        if cluster.me().is_none() || ring.home(partition).iter().find(live).copied() != cluster.me()
        {
            continue;
        }
        let (first, last) = ring.token_range(partition);
        let lowest = Key::lowest(first);
        let mut from = match &after {
            Some(after) if *after > lowest => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(lowest),
        };
        loop {
            let entries = engine.scan(from, up_to(last), STEP_BYTES).await?;
            let Some((end, _)) = entries.last() else { break };
            from = Bound::Excluded(end.clone());
            for (key, object) in entries {
                left = left.saturating_sub(key.size_bytes() + object.size_bytes());
                let siblings = object.shown(now_ms).len();
                if siblings > 1 && bucket.is_none_or(|bucket| bucket == key.bucket()) {
                    let written = object.siblings().iter().map(|sibling| sibling.written_at_ms);
                    page.conflicts.push(Conflict {
                        key: key.clone(),
                        siblings,
                        bytes: object.size_bytes(),
                        written_at_ms: written.max().unwrap_or_default(),
                    });
                }
                if page.conflicts.len() == limit || left == 0 {
                    page.next = Some(key);
                    return Ok(page);
                }
            }
        }
    }
    Ok(page)
}
