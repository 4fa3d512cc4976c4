//! Several ordered sources read as one: each key once, as its newest source has it.
//!
//! Objects stay encoded, as memtables and tables hold them. Sources are given newest first. A linear search for the lowest head is enough: there are a dozen of
//! them at most, and most comparisons end at the token.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::memtable::Memtable;
use super::salvage::Damage;
use super::table::{Cursor, TableError};
use super::version::{Live, Sealed, View, damage};
use crate::domain::key::Key;

/// Entries of a memtable that are copied at a time.
const MEMORY_STEP: usize = 64;

/// One ordered source.
#[derive(Debug)]
enum Source {
    /// Entries at hand.
    Copied(VecDeque<(Key, Bytes)>),
    /// A sealed memtable, read from `from` on.
    Sealed { sealed: Arc<Sealed>, from: Option<Bound<Key>>, at_hand: VecDeque<(Key, Bytes)> },
    /// Tables that do not overlap, in key order.
    Tables { left: VecDeque<Live>, from: Bound<Key>, open: Option<Box<(Live, Cursor)>> },
}

impl Source {
    async fn next(&mut self, met: &mut Vec<Damage>) -> Result<Option<(Key, Bytes)>, TableError> {
        match self {
            Self::Copied(entries) => Ok(entries.pop_front()),
            Self::Sealed { sealed, from, at_hand } => {
                if at_hand.is_empty() {
                    refill(&sealed.memtable, from, at_hand);
                }
                Ok(at_hand.pop_front())
            }
            Self::Tables { left, from, open } => loop {
                let Some((live, cursor)) = open.as_deref_mut() else {
                    let Some(live) = left.pop_front() else { return Ok(None) };
                    let cursor = live.file.table.cursor(from.as_ref());
                    *open = Some(Box::new((live, cursor)));
                    continue;
                };
                match cursor.next().await {
                    Ok(Some(entry)) => return Ok(Some((entry.key, entry.object))),
                    Ok(None) => *open = None,
                    // The cursor stands behind the block now.
                    Err(error) => met.push(damage(live, error)?),
                }
            },
        }
    }
}

fn refill(
    memtable: &Memtable,
    from: &mut Option<Bound<Key>>,
    at_hand: &mut VecDeque<(Key, Bytes)>,
) {
    let Some(start) = from.take() else { return };
    let mut page = Vec::with_capacity(MEMORY_STEP);
    memtable.page((start.as_ref(), Bound::Unbounded), MEMORY_STEP, u64::MAX, &mut page);
    if page.len() == MEMORY_STEP {
        *from = page.last().map(|(key, _)| Bound::Excluded(key.clone()));
    }
    at_hand.extend(page);
}

/// A merging scan.
#[derive(Debug)]
pub(super) struct Merge {
    /// Newest first, each with its next entry.
    sources: Vec<(Source, Option<(Key, Bytes)>)>,
    to: Bound<Key>,
    started: bool,
    /// Damage that was met; whoever scans takes note of it.
    pub(super) damage: Vec<Damage>,
}

impl Merge {
    fn new(sources: Vec<Source>, to: Bound<Key>) -> Self {
        let sources = sources.into_iter().map(|source| (source, None)).collect();
        Self { sources, to, started: false, damage: Vec::new() }
    }

    /// A scan of `view` between two keys, with `newer` before all of it.
    pub(super) fn of_view(
        view: &View,
        newer: Vec<(Key, Bytes)>,
        from: &Bound<Key>,
        to: Bound<Key>,
    ) -> Self {
        let mut sources = vec![Source::Copied(newer.into())];
        sources.extend(view.sealed.iter().map(|sealed| Source::Sealed {
            sealed: sealed.clone(),
            from: Some(from.clone()),
            at_hand: VecDeque::new(),
        }));
        let levels = &view.version.levels;
        let first = levels.first().into_iter().flatten();
        sources.extend(first.map(|live| tables(std::slice::from_ref(live), from, &to)));
        sources.extend(levels.iter().skip(1).map(|level| tables(level, from, &to)));
        Self::new(sources, to)
    }

    /// A scan of all of these tables: the groups newest first, each in key order without overlap.
    pub(super) fn of_tables(groups: &[Vec<Live>]) -> Self {
        let all = Bound::Unbounded;
        let sources = groups.iter().map(|group| tables(group, &all, &Bound::Unbounded));
        Self::new(sources.collect(), Bound::Unbounded)
    }

    /// The next key and the object of its newest source, encoded; `None` at the end.
    ///
    /// # Errors
    /// [`TableError::Unreadable`]: the scan cannot go on. Damage is no error: what it hits is left
    /// out, and is in [`damage`](Self::damage).
    pub(super) async fn next(&mut self) -> Result<Option<(Key, Bytes)>, TableError> {
        if !self.started {
            for (source, head) in &mut self.sources {
                *head = source.next(&mut self.damage).await?;
            }
            self.started = true;
        }
        let heads = self.sources.iter().enumerate();
        let heads = heads.filter_map(|(at, (_, head))| head.as_ref().map(|(key, _)| (key, at)));
        // Of equal keys the first source is the newest.
        let Some((lowest, newest)) = heads.min() else { return Ok(None) };
        if !within(lowest, &self.to) {
            return Ok(None);
        }
        let lowest = lowest.clone();
        let mut found = None;
        for (at, (source, head)) in self.sources.iter_mut().enumerate().skip(newest) {
            if head.as_ref().is_some_and(|(key, _)| *key == lowest) {
                let taken = std::mem::replace(head, source.next(&mut self.damage).await?);
                if at == newest {
                    found = taken;
                }
            }
        }
        Ok(found)
    }
}

/// Those tables of a level that may hold something between the bounds, as a source.
fn tables(level: &[Live], from: &Bound<Key>, to: &Bound<Key>) -> Source {
    let ends_before = |live: &&Live| match from {
        Bound::Unbounded => false,
        Bound::Included(key) => live.meta.last < *key,
        Bound::Excluded(key) => live.meta.last <= *key,
    };
    let left = level.iter().skip_while(ends_before).take_while(|live| within(&live.meta.first, to));
    Source::Tables { left: left.cloned().collect(), from: from.clone(), open: None }
}

fn within(key: &Key, to: &Bound<Key>) -> bool {
    match to {
        Bound::Unbounded => true,
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
    }
}
