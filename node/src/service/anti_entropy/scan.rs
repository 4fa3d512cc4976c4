//! What this replica holds in a region, read from the data.

use std::ops::Bound;

use super::stride::Stride;
use super::trees::{Trees, up_to};
use crate::domain::key::{Key, Token};
use crate::domain::merkle::answering::Held;
use crate::domain::merkle::message::{KEYS_MAX, OBJECTS_BYTES, Region};
use crate::runtime::time;
use crate::storage::{Engine, ReadError, TokenRange};

/// A page that one scan reads: at once if it is in memory.
const PAGE_BYTES: usize = 32 << 10;

/// The entries of `region`, in order: [`KEYS_MAX`] or about [`OBJECTS_BYTES`] at the most, and whether there is more of it
/// behind them. Nothing for a partition that is not kept here.
///
/// # Errors
/// [`ReadError`].
pub(super) async fn held(
    engine: &Engine,
    trees: &Trees,
    partition: u32,
    region: &Region,
) -> Result<(Vec<Held>, bool), ReadError> {
    let Some(section) = trees.with(partition, |holding| *holding.section()) else {
        return Ok((Vec::new(), false));
    };
    let (mut held, mut bytes): (Vec<Held>, usize) = (Vec::new(), 0);
    let doubts = doubts_of(engine, section.tokens());
    let (mut cut, mut stride) = (false, Stride::default());
    'spans: for (first, last) in &region.spans {
        let (first, last) = section.tokens_of(region.level, *first, *last);
        let Some((mut from, to)) = bounds(region, Key::lowest(first), up_to(last)) else {
            continue;
        };
        loop {
            let page = engine.scan(from, to.clone(), PAGE_BYTES).await?;
            stride.did(PAGE_BYTES).await;
            let Some((end, _)) = page.last() else { break };
            from = Bound::Excluded(end.clone());
            for (key, object) in page {
                if held.len() == KEYS_MAX || bytes >= OBJECTS_BYTES {
                    cut = true;
                    break 'spans;
                }
                bytes += key.size_bytes() + object.size_bytes();
                let doubtful = is_doubtful(&doubts, key.token());
                held.push(Held { key, object, recent: false, doubtful });
            }
        }
    }
    let now = time::now();
    trees.with(partition, |holding| {
        for entry in &mut held {
            entry.recent = holding.is_recent(now, &entry.key);
        }
    });
    Ok((held, cut))
}

/// What of the tokens from `first` to `last` is in doubt.
pub(super) fn doubts_of(engine: &Engine, (first, last): (Token, Token)) -> Vec<TokenRange> {
    let mut doubts = engine.doubts();
    doubts.retain(|doubt| doubt.overlaps(&TokenRange { first, last }));
    doubts
}

pub(super) fn is_doubtful(doubts: &[TokenRange], token: Token) -> bool {
    doubts.iter().any(|doubt| doubt.contains(token))
}

/// The part of a span that lies in the region; `None`: nothing of it does.
fn bounds(region: &Region, first: Key, end: Bound<Key>) -> Option<(Bound<Key>, Bound<Key>)> {
    let is_before_end = |key: &Key| match &end {
        Bound::Excluded(end) => key < end,
        Bound::Included(end) => key <= end,
        Bound::Unbounded => true,
    };
    let from = match &region.after {
        Some(after) if !is_before_end(after) => return None,
        Some(after) if *after >= first => Bound::Excluded(after.clone()),
        Some(_) | None => Bound::Included(first.clone()),
    };
    match &region.through {
        Some(through) if *through < first || region.after.as_ref() >= Some(through) => None,
        Some(through) if is_before_end(through) => Some((from, Bound::Included(through.clone()))),
        Some(_) | None => Some((from, end)),
    }
}
