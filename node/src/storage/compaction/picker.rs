//! Which tables to merge next: from their sizes and keys alone. The rules are in the [parent](super).

use crate::domain::key::Key;
use crate::storage::manifest::edit::LEVELS;

/// How much larger a level is than the one above it.
const FANOUT: u64 = 4;
/// Level 0 is not merged with fewer tables.
const LEVEL0_MIN: usize = 2;
/// Level 0 is merged with so many in any case.
pub(super) const LEVEL0_FULL: usize = 8;

/// A table, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u64,
    pub(super) first: Key,
    pub(super) last: Key,
    pub(super) bytes: u64,
    /// A block of it is damaged.
    pub(super) sick: bool,
}

/// Tables to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The level of the upper tables.
    pub(super) from: usize,
    /// The level of the lower tables, and of what comes out.
    pub(super) to: usize,
    /// Newest first, where they overlap.
    pub(super) upper: Vec<u64>,
    /// In key order.
    pub(super) lower: Vec<u64>,
}

/// The next job among `levels` (level 0 newest first, the others by key), if there is one.
/// `memtable_bytes` is about what a table of level 0 has; `after` is, for each level, the last key of the
/// table that was merged last, so that all of them get their turn.
pub(super) fn pick(
    levels: &[Vec<Piece>],
    memtable_bytes: u64,
    after: &[Option<Key>],
) -> Option<Job> {
    assert_eq!((levels.len(), after.len()), (LEVELS, LEVELS), "all levels are given");
    let targets = targets(levels, memtable_bytes);
    let base = base(levels, &targets, memtable_bytes);
    if levels[0].iter().any(|piece| piece.sick) {
        return Some(level0(levels, base));
    }
    let sick = |level: usize| levels[level].iter().find(|p| p.sick).map(|p| (level, p.id));
    if let Some((level, id)) = (1..LEVELS).find_map(sick) {
        return Some(Job { from: level, to: level, upper: vec![id], lower: Vec::new() });
    }
    let (tables, bytes) = (levels[0].len(), size(&levels[0]));
    let grown = bytes.saturating_mul(FANOUT) >= size(&levels[base]);
    if tables >= LEVEL0_FULL || (tables >= LEVEL0_MIN && grown) {
        return Some(level0(levels, base));
    }
    // The one that is over its target by the largest share.
    let over = (1..LEVELS - 1).filter(|level| size(&levels[*level]) > targets[*level]);
    let share =
        |level: &usize| u128::from(size(&levels[*level])) * 1000 / u128::from(targets[*level]);
    let level = over.max_by_key(share)?;
    let turn = |piece: &&Piece| after[level].as_ref().is_none_or(|key| piece.first > *key);
    let piece = levels[level].iter().find(turn).or(levels[level].first())?;
    let lower = overlapping(&levels[level + 1], &piece.first, &piece.last);
    Some(Job { from: level, to: level + 1, upper: vec![piece.id], lower })
}

/// All of level 0 into the base.
fn level0(levels: &[Vec<Piece>], base: usize) -> Job {
    let upper = levels[0].iter().map(|piece| piece.id).collect();
    let first = levels[0].iter().map(|piece| &piece.first).min();
    let last = levels[0].iter().map(|piece| &piece.last).max();
    let lower = match (first, last) {
        (Some(first), Some(last)) => overlapping(&levels[base], first, last),
        (None, _) | (_, None) => Vec::new(),
    };
    Job { from: 0, to: base, upper, lower }
}

fn overlapping(level: &[Piece], first: &Key, last: &Key) -> Vec<u64> {
    let apart = |piece: &&Piece| piece.first <= *last && piece.last >= *first;
    level.iter().filter(apart).map(|piece| piece.id).collect()
}

fn size(level: &[Piece]) -> u64 {
    level.iter().map(|piece| piece.bytes).sum()
}

/// What each level may have; the last one may have anything.
fn targets(levels: &[Vec<Piece>], memtable_bytes: u64) -> Vec<u64> {
    let mut targets = vec![1; LEVELS];
    // Before the last level is large its size says nothing.
    let least = FANOUT * LEVEL0_FULL as u64 * memtable_bytes;
    targets[LEVELS - 1] = size(&levels[LEVELS - 1]).max(least);
    for level in (0..LEVELS - 1).rev() {
        targets[level] = (targets[level + 1] / FANOUT).max(1);
    }
    targets
}

/// The level that level 0 is merged into: the lowest that level 0 can have a quarter of, or the highest
/// that has anything in it.
fn base(levels: &[Vec<Piece>], targets: &[u64], memtable_bytes: u64) -> usize {
    let large = FANOUT * LEVEL0_FULL as u64 * memtable_bytes;
    let mut base = LEVELS - 1;
    while base > 1 && targets[base] > large {
        base -= 1;
    }
    (1..base).find(|level| !levels[*level].is_empty()).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LAST: usize = LEVELS - 1;
    const NONE: [Option<Key>; LEVELS] = [const { None }; LEVELS];

    /// Keys in their order on the ring.
    fn keys() -> Vec<Key> {
        let mut keys: Vec<_> = (0..100).map(|n| Key::new("b", &format!("{n}")).unwrap()).collect();
        keys.sort();
        keys
    }

    fn piece(id: u64, keys_at: Range<usize>, bytes: u64) -> Piece {
        let keys = keys();
        let (first, last) = (keys[keys_at.start].clone(), keys[keys_at.end - 1].clone());
        Piece { id, first, last, bytes, sick: false }
    }

    fn levels(some: Vec<(usize, Vec<Piece>)>) -> Vec<Vec<Piece>> {
        let mut levels = vec![Vec::new(); LEVELS];
        for (level, pieces) in some {
            levels[level] = pieces;
        }
        levels
    }

    fn flushed(ids: Range<u64>) -> Vec<Piece> {
        ids.rev().map(|id| piece(id, 0..100, 64 * MIB)).collect()
    }

    fn job(from: usize, to: usize, upper: &[u64], lower: &[u64]) -> Option<Job> {
        Some(Job { from, to, upper: upper.to_vec(), lower: lower.to_vec() })
    }

    #[test]
    fn level_0_is_merged_once_it_has_a_quarter_of_the_base() {
        let large = |bytes| vec![piece(1, 0..50, bytes / 2), piece(2, 50..100, bytes / 2)];
        let pick_of = |count: u64, base: u64| {
            let mut all = levels(vec![(0, flushed(10..10 + count))]);
            if base > 0 {
                all[LAST] = large(base);
            }
            pick(&all, 64 * MIB, &NONE)
        };
        assert_eq!(pick_of(0, 0), None);
        assert_eq!(pick_of(1, 0), None, "one table is as good as a level");
        assert_eq!(pick_of(2, 0), job(0, LAST, &[11, 10], &[]));
        assert_eq!(pick_of(1, 100 * MIB), None);
        assert_eq!(pick_of(2, 512 * MIB), job(0, LAST, &[11, 10], &[1, 2]));
        assert_eq!(pick_of(2, 514 * MIB), None);
        assert_eq!(pick_of(3, 514 * MIB), job(0, LAST, &[12, 11, 10], &[1, 2]));
        assert_eq!(pick_of(7, 2000 * MIB), None);
        let full = pick_of(8, 2048 * MIB).unwrap();
        assert_eq!((full.to, full.upper.len()), (LAST, 8));
    }

    #[test]
    fn past_32_memtables_there_is_a_level_in_between() {
        let all = levels(vec![(0, flushed(10..18)), (LAST, vec![piece(1, 0..100, 3000 * MIB)])]);
        let job = pick(&all, 64 * MIB, &NONE).unwrap();
        assert_eq!((job.from, job.to, job.lower), (0, LAST - 1, vec![]));
        // A level that has something in it is used, although it would not be needed.
        let all = levels(vec![(0, flushed(10..18)), (4, vec![piece(1, 0..100, MIB)])]);
        let job = pick(&all, 64 * MIB, &NONE).unwrap();
        assert_eq!((job.from, job.to, job.lower), (0, 4, vec![1]));
    }

    #[test]
    fn a_level_over_its_target_gives_one_table_after_the_other() {
        let upper = (0..10).map(|n| piece(10 + n as u64, n * 10..n * 10 + 10, 80 * MIB)).collect();
        let lower = (0..5).map(|n| piece(50 + n as u64, n * 20..n * 20 + 20, 600 * MIB)).collect();
        let all = levels(vec![(LAST - 1, upper), (LAST, lower)]);
        let mut after = NONE;
        let mut picked = Vec::new();
        for _ in 0..11 {
            let job = pick(&all, 64 * MIB, &after).unwrap();
            assert_eq!((job.from, job.to), (LAST - 1, LAST));
            let upper = all[LAST - 1].iter().find(|piece| piece.id == job.upper[0]).unwrap();
            after[LAST - 1] = Some(upper.last.clone());
            picked.push((job.upper[0], job.lower));
        }
        let expected = (0..11).map(|n| (10 + n % 10, vec![50 + n % 10 / 2]));
        assert_eq!(picked, expected.collect::<Vec<_>>());
        let within = levels(vec![
            (LAST - 1, vec![piece(1, 0..100, 750 * MIB)]),
            (LAST, vec![piece(2, 0..100, 3000 * MIB)]),
        ]);
        assert_eq!(pick(&within, 64 * MIB, &NONE), None);
    }

    #[test]
    fn a_sick_table_comes_before_all_else() {
        let sick = |id, keys| Piece { sick: true, ..piece(id, keys, MIB) };
        let mut all = levels(vec![
            (0, flushed(10..18)),
            (LAST, vec![piece(1, 0..50, MIB), sick(2, 50..100)]),
        ]);
        assert_eq!(pick(&all, 64 * MIB, &NONE), job(LAST, LAST, &[2], &[]));
        // Of level 0, where they overlap, none can be rewritten alone.
        all[0] = vec![piece(11, 0..10, MIB), sick(10, 5..20)];
        assert_eq!(pick(&all, 64 * MIB, &NONE), job(0, LAST, &[11, 10], &[1]));
    }

    /// Merges as the worker would, by bytes alone: overwrites at random, so that what is merged
    /// into the last level leaves its size as it was.
    #[test]
    fn overwriting_twice_the_data_writes_each_byte_less_than_eight_times() {
        for data in [500 * MIB, 1000 * MIB, 1900 * MIB] {
            let mut all = levels(vec![(LAST, vec![piece(1, 0..100, data)])]);
            let (mut written, mut id, mut most) = (0, 10, 0);
            let flushes = 2 * data / (64 * MIB);
            for _ in 0..flushes {
                all[0].insert(0, piece(id, 0..100, 64 * MIB));
                id += 1;
                // The log and the flush.
                written += 2 * 64 * MIB;
                most = most.max(all.iter().map(|level| size(level)).sum());
                while let Some(job) = pick(&all, 64 * MIB, &NONE) {
                    assert_eq!((job.from, job.to), (0, LAST));
                    all[0].clear();
                    written += data;
                }
            }
            let user = flushes * 64 * MIB;
            assert!(written <= 8 * user, "{data}: {}", written * 10 / user);
            assert!(most * 10 <= 15 * data, "{data}: {most}");
        }
    }
}
