//! What damage did not touch of the keys that it puts in doubt.
//!
//! When a block, or a table, turns out to be damaged, its range of tokens is in doubt, and whatever nobody else vouches for in it will be let
//! go: it may be an older state of the key that the damage has brought to light. But an object in a memtable, or in a younger table than
//! the damaged one, is none: it was written on top of what the table held while that could be read. It may be the only copy
//! of a write that was acked by this node alone. So these objects are kept as fresh writes are ([`ITSELF`]), whole, until the range is
//! trusted.
//!
//! ```text
//! damage met ─ in doubt for reads ─ younger objects to the log, as hints ─ in doubt in the manifest
//! ```
//!
//! Nothing may be settled in between ([`Shared::salvaged`]). A crash in between leaves no doubt behind: the damage is met again.
//! What was in doubt before is left out, since it may have been written on an older state already.
//!
//! Limits: where there is no room for more hints, or the log takes none, the rest is not kept; a start that finds a table lost writes
//! down the doubt first, so a crash within that start costs what this would have kept.

use std::ops::Bound;
use std::sync::Arc;

use super::doubt::{Doubts, TokenRange};
use super::error::WriteError;
use super::hints::ITSELF;
use super::merge::Merge;
use super::queue::Shared;
use super::version::{Version, View};
use crate::domain::key::{Key, Token};
use crate::domain::object::Object;
use crate::runtime::{event, task, time};

/// Entries between two looks at the rest of the world, and what they may weigh in bytes.
const STEP: usize = 64;
const STEP_BYTES: u64 = 64 << 10;

/// Damage that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// What it puts in doubt.
    pub(super) range: TokenRange,
    /// The level of the damaged table.
    pub(super) level: u8,
    /// Its number.
    pub(super) table: u64,
}

impl Shared {
    /// Takes note of damage: its range is in doubt when this returns, and soon in the manifest.
    pub(super) fn damaged(self: &Arc<Self>, damage: &[Damage]) {
        let ranges: Vec<TokenRange> = damage.iter().map(|damage| damage.range).collect();
        let Some((before, new)) = self.doubt(&ranges) else { return };
        let (shared, damage) = (self.clone(), damage.to_vec());
        drop(task::spawn(async move {
            salvage(&shared, &before, &damage).await;
            shared.end_salvage(&new);
        }));
    }
}

/// Keeps what `damage` did not touch, of keys that were not in doubt `before`.
pub(super) async fn salvage(shared: &Arc<Shared>, before: &Doubts, damage: &[Damage]) {
    for damage in damage {
        if let Err(error) = salvage_from(shared, before, *damage).await {
            let (first, last) = (damage.range.first.0, damage.range.last.0);
            tracing::warn!(first, last, %error, "what was written since a damaged table cannot be told from what the damage brought to light");
        }
    }
}

async fn salvage_from(
    shared: &Arc<Shared>,
    before: &Doubts,
    damage: Damage,
) -> Result<(), WriteError> {
    let keep = |key: &Key, encoded: &[u8]| {
        // Bytes with a right checksum that are no object were written by another release.
        let object = Object::from_bytes(encoded).unwrap_or_default();
        if object.is_empty() || before.contains(key.token()) {
            return Ok(());
        }
        match shared.put_hint(ITSELF, key, Arc::new(object), time::wall_clock_ms()) {
            Ok(_soon_durable) => event::note("object_salvaged", key.token().0, damage.table),
            // A smaller one may find room.
            Err(WriteError::FreshFull { .. }) => {
                shared.count_unsalvaged();
                event::note("object_unsalvaged", key.token().0, damage.table);
                tracing::warn!(%key, "what was written since a table was damaged is not kept as fresh: raise hints.bytes_max");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let mut from = Bound::Included(Key::lowest(damage.range.first));
    let to = match damage.range.last.0.checked_add(1) {
        Some(behind) => Bound::Excluded(Key::lowest(Token(behind))),
        None => Bound::Unbounded,
    };
    let start = from.clone();
    loop {
        let range = (from.as_ref(), to.as_ref());
        let step = shared.step(range, STEP, STEP_BYTES).ok_or(WriteError::Closed)?;
        for (key, encoded) in &step.entries {
            keep(key, encoded)?;
        }
        match step.entries.into_iter().next_back() {
            Some((last, _)) if step.more => from = Bound::Excluded(last),
            Some(_) | None => break,
        }
        task::yield_now().await;
    }
    // What was sealed meanwhile is here.
    let view = younger(&shared.view(), damage);
    let (mut merge, mut count) = (Merge::of_view(&view, Vec::new(), &start, to), 0_usize);
    while let Ok(Some((key, encoded))) = merge.next().await {
        keep(&key, &encoded)?;
        count += 1;
        if count.is_multiple_of(STEP) {
            task::yield_now().await;
        }
    }
    shared.damaged(&merge.damage);
    Ok(())
}

/// What lies before the damaged table in `view`.
fn younger(view: &View, damage: Damage) -> View {
    let mut version = Version::default();
    let is_younger = |level: usize, id: u64| match level.cmp(&usize::from(damage.level)) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal => level == 0 && id > damage.table,
        std::cmp::Ordering::Greater => false,
    };
    for (level, tables) in view.version.levels.iter().enumerate() {
        let young = tables.iter().filter(|live| is_younger(level, live.meta.id));
        young.for_each(|live| version.add(live.clone()));
    }
    View { sealed: view.sealed.clone(), version: version.into(), doubts: view.doubts.clone() }
}
