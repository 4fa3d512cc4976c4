//! Loss of power: which unsynced changes survive.
//!
//! Every unsynced change is a set of [`Unit`]s, and any set of them may survive that can stand by
//! itself. [`Disk::pending`] lists them and [`Disk::crash_keeping`] keeps a chosen set, so a test can
//! try every crash point there is; [`Disk::power_loss`] draws one.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::faults::Kind;
use super::names::{Body, DirBody, InodeId, ROOT};
use super::{Disk, Fate};

/// The smallest piece of an unsynced change that survives or is lost as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// The number of the call that made the change; later calls have larger ones.
    pub op: u64,
    /// Which part of it.
    pub part: Part,
}

/// The part of a change that a [`Unit`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A change of names: a file or folder made, renamed or removed.
    Name,
    /// A file's new length.
    Length,
    /// The bytes of one sector of a file, by the sector's number.
    Sector(u64),
}

/// How a loss of power picks what survives.
#[derive(Clone, Copy, Debug)]
enum Survival {
    /// Nothing was under way.
    Nothing,
    /// All was written, only the answer is missing.
    Everything,
    /// What came before this call, and parts of it.
    UpTo(u64),
    /// Each unit by itself.
    Coin(f64),
}

impl Disk {
    /// Every unit of change that is not durable, in the order of the calls.
    pub fn pending(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> =
            self.journal.iter().map(|entry| Unit { op: entry.seq, part: Part::Name }).collect();
        for inode in self.inodes.values() {
            if let Body::File(file) = &inode.body {
                file.units(|op, part| units.push(Unit { op, part }));
            }
        }
        units.sort();
        units
    }

    /// Power goes: of what was not synced, a set drawn by the disk's own dice survives. All handles
    /// are void.
    pub fn power_loss(&mut self) -> Fate {
        if let Some(kept) = self.faults.kept_at_power_loss.take() {
            return self.crash_keeping(&kept);
        }
        let mut rng = self.faults.dice(Kind::PowerLoss);
        self.power_loss_by(&mut rng)
    }

    /// [`Disk::power_loss`] with other dice.
    pub fn power_loss_by(&mut self, rng: &mut impl Rng) -> Fate {
        let survival = match rng.random_range(0..8u8) {
            0 | 1 => Survival::Nothing,
            2 => Survival::Everything,
            3 | 4 => {
                let pending = self.pending();
                let last = pending.len().saturating_sub(1);
                let at = rng.random_range(0..=last);
                Survival::UpTo(pending.get(at).map_or(0, |unit| unit.op))
            }
            _ => Survival::Coin(rng.random_range(0.05..0.95)),
        };
        self.crash(|unit| match survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::UpTo(op) => unit.op < op || unit.op == op && rng.random_bool(0.5),
            Survival::Coin(kept) => rng.random_bool(kept),
        })
    }

    /// Has the next [`Disk::power_loss`] keep exactly `kept`, as [`Disk::crash_keeping`] does.
    pub fn keep_at_next_power_loss(&mut self, kept: BTreeSet<Unit>) {
        self.faults.kept_at_power_loss = Some(kept);
    }

    /// Power goes, and of what was not synced exactly `kept` survives, less the units that cannot
    /// stand without one that is not in it. All handles are void.
    pub fn crash_keeping(&mut self, kept: &BTreeSet<Unit>) -> Fate {
        self.crash(|unit| kept.contains(&unit))
    }

    pub(super) fn crash(&mut self, mut keep: impl FnMut(Unit) -> bool) -> Fate {
        self.process_died();
        let mut fate = Fate::default();
        for inode in self.inodes.values_mut() {
            if let Body::File(file) = &mut inode.body {
                fate.add(file.settle(|op, part| keep(Unit { op, part })));
            }
        }
        fate.add(self.settle_names(|op| keep(Unit { op, part: Part::Name })));
        self.read_back();
        self.counters.power_losses += 1;
        self.counters.lost_units += fate.lost;
        fate
    }

    /// Starts again from what is durable: live names are the durable ones, caches are empty, and
    /// what no name leads to is gone.
    pub(super) fn read_back(&mut self) {
        let mut found = BTreeMap::new();
        self.reach(ROOT, &mut found);
        self.inodes.retain(|id, _| found.contains_key(id));
        for (id, inode) in &mut self.inodes {
            inode.links = found.get(id).copied().unwrap_or(0);
            inode.opens = 0;
            inode.pins = if *id == ROOT { 0 } else { inode.links };
            inode.freed = false;
            inode.locked = false;
            match &mut inode.body {
                Body::File(file) => file.forget_cache(),
                Body::Dir(DirBody { live, durable }) => live.clone_from(durable),
            }
        }
        self.start_over();
    }

    /// Counts the durable names of all that a durable path leads to.
    fn reach(&self, id: InodeId, found: &mut BTreeMap<InodeId, u32>) {
        let names = found.entry(id).or_insert(0);
        *names += 1;
        let first = *names == 1;
        assert!(first || !self.inode(id).is_dir(), "a folder has one durable name at most");
        if let Body::Dir(dir) = &self.inode(id).body {
            for child in dir.durable.values() {
                self.reach(*child, found);
            }
        }
    }
}
