//! The bytes of one file, twice: as its readers see them and as the platter holds them.
//!
//! `cached` is the page cache, which every read and write goes to. `durable` is what is left when
//! power goes. Between them lies the ordered list of what was changed and not synced. A sync plays
//! that list onto `durable`; a loss of power plays any part of it that a real disk could have
//! reached. A read therefore never looks at the list, and an append costs its own bytes.
//!
//! What may survive a loss of power, per change, each on its own:
//! - the *length*: changes of length survive as a prefix of their order, since a filesystem journals
//!   them in order;
//! - each *sector* of the data: a sector is written whole, with all that the page cache held in it,
//!   so a later write of a sector survives only if the earlier ones did. What is written beyond
//!   a cut, or into the sector that it cut, survives only if the cut did: its blocks hang off the
//!   metadata that the cut wrote.
//!
//! Where the length survived and the data did not, the file holds zeros or its older bytes, never
//! those of another file.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::{Part, SECTOR_BYTES};

/// The granule of the page cache: what one uncached read brings in, as read-ahead does.
const PAGE_BYTES: u64 = 16 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct FileBody {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pending: Vec<Op>,
    /// Bytes of data in `pending`.
    dirty_bytes: usize,
    /// One bit for each page that is in memory.
    warm: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Op {
    seq: u64,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// `data` at `offset`; `grows` when it moved the end of the file.
    Write { offset: usize, data: Bytes, grows: bool },
    /// The end of the file moved down to this length.
    Cut(usize),
    /// The end of the file moved up to this length; zeros in between.
    Grow(usize),
}

/// How many units of pending change a crash or a failed sync kept and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Units that were made durable.
    pub kept: u64,
    /// Units that are gone.
    pub lost: u64,
}

impl Fate {
    pub(super) fn count(&mut self, kept: bool) {
        if kept {
            self.kept += 1;
        } else {
            self.lost += 1;
        }
    }

    pub(super) fn add(&mut self, other: Fate) {
        self.kept += other.kept;
        self.lost += other.lost;
    }
}

impl FileBody {
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Bytes {
        let range = clip(offset, len, self.cached.len());
        self.warm_up(&range);
        Bytes::copy_from_slice(&self.cached[range])
    }

    /// Writes into the page cache. The caller has checked the limits. `durable_later` is false for
    /// a write that the disk will silently lose.
    pub(super) fn write(&mut self, seq: u64, offset: usize, data: Bytes, durable_later: bool) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        let grows = end > self.cached.len();
        if grows {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(&data);
        self.warm_up(&(offset..end));
        if durable_later {
            self.dirty_bytes += data.len();
            self.pending.push(Op { seq, change: Change::Write { offset, data, grows } });
        } else if grows {
            self.pending.push(Op { seq, change: Change::Grow(end) });
        }
    }

    pub(super) fn set_len(&mut self, seq: u64, len: usize) {
        let before = self.cached.len();
        if len == before {
            return;
        }
        self.cached.resize(len, 0);
        let change = if len < before { Change::Cut(len) } else { Change::Grow(len) };
        self.pending.push(Op { seq, change });
    }

    /// How many bytes and how many changes wait for a sync.
    pub(super) fn dirty(&self) -> (usize, usize) {
        (self.dirty_bytes, self.pending.len())
    }

    /// Makes everything durable; says how many changes that were.
    pub(super) fn sync(&mut self) -> usize {
        for op in &self.pending {
            match &op.change {
                Change::Write { offset, data, .. } => {
                    let end = offset + data.len();
                    if end > self.durable.len() {
                        self.durable.resize(end, 0);
                    }
                    self.durable[*offset..end].copy_from_slice(data);
                }
                Change::Cut(len) => self.durable.truncate(*len),
                Change::Grow(len) => self.durable.resize(self.durable.len().max(*len), 0),
            }
        }
        let count = self.pending.len();
        self.pending.clear();
        self.dirty_bytes = 0;
        count
    }

    /// Makes the length durable and the sectors that `offset..offset + len` touches; what else was written
    /// waits on, unless the file was cut meanwhile: then all of it is made durable, which is allowed and
    /// simple. Says how many changes are no longer waiting.
    pub(super) fn sync_range(&mut self, offset: usize, len: usize) -> usize {
        if self.pending.iter().any(|op| matches!(op.change, Change::Cut(_))) {
            return self.sync();
        }
        let (from, to) = (offset / SECTOR_BYTES, (offset + len).div_ceil(SECTOR_BYTES));
        let (from, to) = (from * SECTOR_BYTES, to * SECTOR_BYTES);
        let before = self.pending.len();
        let mut waiting = Vec::new();
        for op in std::mem::take(&mut self.pending) {
            match op.change {
                Change::Cut(_) => unreachable!("looked for above"),
                Change::Grow(len) => self.durable.resize(self.durable.len().max(len), 0),
                Change::Write { offset, data, .. } => {
                    let end = offset + data.len();
                    self.durable.resize(self.durable.len().max(end), 0);
                    let (first, last) = (from.clamp(offset, end), to.clamp(offset, end));
                    self.durable[first..last].copy_from_slice(&data[first - offset..last - offset]);
                    self.dirty_bytes -= last - first;
                    for part in [offset..first, last..end].into_iter().filter(|p| !p.is_empty()) {
                        let data = data.slice(part.start - offset..part.end - offset);
                        let change = Change::Write { offset: part.start, data, grows: false };
                        waiting.push(Op { seq: op.seq, change });
                    }
                }
            }
        }
        self.pending = waiting;
        before.saturating_sub(self.pending.len())
    }

    /// Lists every unit of change that waits for a sync.
    pub(super) fn units(&self, mut each: impl FnMut(u64, Part)) {
        for op in &self.pending {
            if changes_length(&op.change) {
                each(op.seq, Part::Length);
            }
            if let Change::Write { offset, data, .. } = &op.change {
                for sector in sectors(*offset, data.len()) {
                    each(op.seq, Part::Sector(sector as u64));
                }
            }
        }
    }

    /// Plays onto the durable bytes the units that `keep` wants and that can stand without those
    /// it does not want, and forgets the rest. The page cache is left alone.
    pub(super) fn settle(&mut self, mut keep: impl FnMut(u64, Part) -> bool) -> Fate {
        let mut fate = Fate::default();
        let mut lengths_stand = true;
        let mut lost_cut = usize::MAX;
        let mut lost_sectors = BTreeSet::new();
        self.dirty_bytes = 0;
        for op in std::mem::take(&mut self.pending) {
            if changes_length(&op.change) {
                lengths_stand = keep(op.seq, Part::Length) && lengths_stand;
                fate.count(lengths_stand);
            }
            match op.change {
                Change::Cut(len) if lengths_stand => self.durable.truncate(len),
                Change::Cut(len) => lost_cut = lost_cut.min(len),
                Change::Grow(len) if lengths_stand => {
                    self.durable.resize(self.durable.len().max(len), 0);
                }
                Change::Grow(_) => {}
                Change::Write { offset, data, grows } => {
                    let end = offset + data.len();
                    if grows && lengths_stand {
                        self.durable.resize(self.durable.len().max(end), 0);
                    }
                    for sector in sectors(offset, data.len()) {
                        let from = offset.max(sector * SECTOR_BYTES);
                        let to = end.min((sector + 1) * SECTOR_BYTES);
                        let kept = keep(op.seq, Part::Sector(sector as u64))
                            && (sector + 1) * SECTOR_BYTES <= lost_cut
                            && !lost_sectors.contains(&sector);
                        fate.count(kept);
                        if kept {
                            let to = to.min(self.durable.len()).max(from);
                            if from < self.durable.len() {
                                self.durable[from..to]
                                    .copy_from_slice(&data[from - offset..to - offset]);
                            }
                        } else {
                            lost_sectors.insert(sector);
                        }
                    }
                }
            }
        }
        fate
    }

    /// A sync that failed: what `keep` wants reached the platter before the error, the other dirty
    /// pages are marked clean and will never be written. The length stays dirty. With `forget` the
    /// page cache goes back to the platter's bytes, else it still shows what was lost.
    pub(super) fn fail_sync(
        &mut self,
        seq: u64,
        forget: bool,
        keep: impl FnMut(u64, Part) -> bool,
    ) -> Fate {
        let fate = self.settle(keep);
        let (len, durable) = (self.cached.len(), self.durable.len());
        if forget {
            self.cached.clone_from(&self.durable);
            self.cached.resize(len, 0);
        }
        if len != durable {
            let change = if len < durable { Change::Cut(len) } else { Change::Grow(len) };
            self.pending.push(Op { seq, change });
        }
        fate
    }

    /// Power is back: the page cache is empty, so readers see what is durable.
    pub(super) fn forget_cache(&mut self) {
        assert!(self.pending.is_empty(), "a crash decides every pending change");
        self.cached.clone_from(&self.durable);
        self.warm.clear();
    }

    /// Flips one bit at rest. Readers see it too, unless a newer write hides it.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        let mask = 1 << bit;
        let hidden = self.pending.iter().any(|op| match &op.change {
            Change::Write { offset: at, data, .. } => (*at..at + data.len()).contains(&offset),
            Change::Cut(_) | Change::Grow(_) => false,
        });
        let seen = self.cached.get(offset) == self.durable.get(offset);
        self.durable[offset] ^= mask;
        if seen && !hidden {
            self.cached[offset] ^= mask;
        }
    }

    /// True when a read of this range needs nothing from the platter.
    pub(super) fn is_warm(&self, offset: u64, len: usize) -> bool {
        pages(&clip(offset, len, self.cached.len()))
            .all(|page| self.warm.get(page / 64).is_some_and(|bits| bits >> (page % 64) & 1 == 1))
    }

    fn warm_up(&mut self, range: &Range<usize>) {
        for page in pages(range) {
            if self.warm.len() <= page / 64 {
                self.warm.resize(page / 64 + 1, 0);
            }
            self.warm[page / 64] |= 1 << (page % 64);
        }
    }
}

/// The part of `offset..offset + len` that lies within a file of `end` bytes.
fn clip(offset: u64, len: usize, end: usize) -> Range<usize> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(end);
    from..from.saturating_add(len).min(end)
}

fn changes_length(change: &Change) -> bool {
    match change {
        Change::Write { grows, .. } => *grows,
        Change::Cut(_) | Change::Grow(_) => true,
    }
}

fn sectors(offset: usize, len: usize) -> Range<usize> {
    offset / SECTOR_BYTES..(offset + len).div_ceil(SECTOR_BYTES)
}

fn pages(range: &Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    let page = PAGE_BYTES as usize;
    range.start / page..range.end.div_ceil(page)
}
