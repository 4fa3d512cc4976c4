//! What goes wrong with a device, when it is told to, and how often it did.
//!
//! Each kind has its own dice, drawn from (seed, kind, how many came before), so that taking one
//! fault out of a plan leaves the others as they were.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::names::Body;
use super::{Disk, OpenMode, Part, SECTOR_BYTES, Unit};

/// Linux's error numbers, as `std::fs` reports them.
pub(super) mod errno {
    pub(in crate::disk) const EPERM: i32 = 1;
    pub(in crate::disk) const ENOENT: i32 = 2;
    pub(in crate::disk) const EIO: i32 = 5;
    pub(in crate::disk) const EBADF: i32 = 9;
    pub(in crate::disk) const EWOULDBLOCK: i32 = 11;
    pub(in crate::disk) const EEXIST: i32 = 17;
    pub(in crate::disk) const ENOTDIR: i32 = 20;
    pub(in crate::disk) const EISDIR: i32 = 21;
    pub(in crate::disk) const EINVAL: i32 = 22;
    pub(in crate::disk) const EFBIG: i32 = 27;
    pub(in crate::disk) const ENOSPC: i32 = 28;
    pub(in crate::disk) const ENAMETOOLONG: i32 = 36;
    pub(in crate::disk) const ENOTEMPTY: i32 = 39;
}

pub(super) fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// How often what happened on one disk, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were tried.
    pub writes: u64,
    /// Syncs of files and folders that succeeded.
    pub syncs: u64,
    /// Times that everything was written back because too much waited for a sync.
    pub write_backs: u64,
    /// Syncs that failed with EIO.
    pub sync_errors: u64,
    /// Reads that failed with EIO.
    pub read_errors: u64,
    /// Writes that failed with EIO.
    pub write_errors: u64,
    /// Calls that failed with `StorageFull`.
    pub full: u64,
    /// Writes that the device acknowledged and lost.
    pub lost_writes: u64,
    /// Bits that rotted.
    pub rotten: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Units of unsynced change that a loss of power or a failed sync destroyed.
    pub lost_units: u64,
}

/// A bit that rotted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotten {
    /// The file.
    pub path: PathBuf,
    /// The byte in it.
    pub offset: u64,
    /// The bit in the byte.
    pub bit: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Faults {
    seed: u64,
    drawn: [u64; 3],
    pub(super) capacity: Option<u64>,
    /// What the next loss of power keeps; none: dice decide.
    pub(super) kept_at_power_loss: Option<BTreeSet<Unit>>,
    syncs: u64,
    reads: u64,
    writes: u64,
    lost_writes: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Sync,
    Write,
    PowerLoss,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Faults {
            seed,
            drawn: [0; 3],
            capacity: None,
            kept_at_power_loss: None,
            syncs: 0,
            reads: 0,
            writes: 0,
            lost_writes: 0,
        }
    }

    pub(super) fn dice(&mut self, kind: Kind) -> ChaCha8Rng {
        let drawn = &mut self.drawn[kind as usize];
        *drawn += 1;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((kind as u64) << 56 | *drawn);
        rng
    }

    pub(super) fn sync_fails(&mut self) -> Option<SyncDice> {
        take_one(&mut self.syncs).then(|| SyncDice::new(self.dice(Kind::Sync)))
    }

    pub(super) fn read_fails(&mut self) -> bool {
        take_one(&mut self.reads)
    }

    /// How many of `len` bytes got through before the write failed, if it is to fail.
    pub(super) fn write_fails(&mut self, len: usize) -> Option<usize> {
        take_one(&mut self.writes).then(|| {
            let mut rng = self.dice(Kind::Write);
            if rng.random_bool(0.5) { 0 } else { rng.random_range(0..=len) }
        })
    }

    pub(super) fn write_is_lost(&mut self) -> bool {
        take_one(&mut self.lost_writes)
    }
}

/// Counts down. `u64::MAX` means until told otherwise.
fn take_one(left: &mut u64) -> bool {
    let any = *left > 0;
    if any && *left != u64::MAX {
        *left -= 1;
    }
    any
}

/// Which dirty pages of a sync that failed had reached the platter: none at all half of the time.
pub(super) struct SyncDice {
    rng: ChaCha8Rng,
    reached: f64,
    forgets: bool,
}

impl SyncDice {
    fn new(mut rng: ChaCha8Rng) -> Self {
        let reached = if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..1.0) };
        let forgets = rng.random_bool(0.25);
        SyncDice { rng, reached, forgets }
    }

    pub(super) fn keeps(&mut self, part: Part) -> bool {
        match part {
            Part::Sector(_) => self.rng.random_bool(self.reached),
            Part::Name | Part::Length => false,
        }
    }

    pub(super) fn forgets_pages(&self) -> bool {
        self.forgets
    }
}

impl Disk {
    /// Makes the next `times` syncs of files or folders fail with EIO (`u64::MAX`: all, until set
    /// again). A failed sync of a file drops its dirty pages: no later sync brings them back, though
    /// readers may see them until power goes. (As Linux does; Rebello et al., "Can Applications
    /// Recover from fsync Failures?", ATC 2020.)
    pub fn fail_syncs(&mut self, times: u64) {
        self.faults.syncs = times;
    }

    /// Makes the next `times` reads fail with EIO (`u64::MAX`: all, until set again).
    pub fn fail_reads(&mut self, times: u64) {
        self.faults.reads = times;
    }

    /// Makes the next `times` writes fail with EIO, some after a part of their bytes (`u64::MAX`:
    /// all, until set again).
    pub fn fail_writes(&mut self, times: u64) {
        self.faults.writes = times;
    }

    /// Makes the device acknowledge the next `times` writes and their syncs without ever storing
    /// them (`u64::MAX`: all, until set again).
    pub fn lose_writes(&mut self, times: u64) {
        self.faults.lost_writes = times;
    }

    /// Limits the sum of the lengths of all files, in bytes. What is there already stays.
    pub fn limit_capacity(&mut self, bytes: Option<u64>) {
        self.faults.capacity = bytes;
    }

    /// Ends every fault: a healthy disk of any capacity. What was lost or has rotted stays so.
    pub fn heal(&mut self) {
        self.fail_syncs(0);
        self.fail_reads(0);
        self.fail_writes(0);
        self.lose_writes(0);
        self.limit_capacity(None);
        self.slow(1.0);
        self.stall_until(0);
    }

    /// Flips one bit at rest, in a file below `prefix`, each byte as likely as another. It stays
    /// flipped until overwritten. `None` when no byte below `prefix` is durable.
    pub fn rot(&mut self, prefix: &Path, rng: &mut impl Rng) -> Option<Rotten> {
        let files = self.files_below(prefix);
        let total: u64 = files.iter().map(|(_, _, durable)| *durable).sum();
        let mut at = (total > 0).then(|| rng.random_range(0..total))?;
        let bit = rng.random_range(0..8u8);
        for (path, id, durable) in files {
            if at >= durable {
                at -= durable;
                continue;
            }
            if let Body::File(file) = &mut self.inode_mut(id).body {
                file.flip(at as usize, bit);
            }
            self.counters.rotten += 1;
            return Some(Rotten { path, offset: at, bit });
        }
        None
    }

    /// Takes the file's name away, now and after any crash, together with changes of the same name before it.
    ///
    /// # Errors
    /// As of [`Disk::remove_file`].
    pub fn lose(&mut self, path: &Path) -> io::Result<()> {
        self.remove_file(path)?;
        let dir = self.name_of(path)?.dir;
        self.sync_names(dir);
        Ok(())
    }

    /// Cuts the file to `len` bytes at rest, and what was not synced with it.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `IsADirectory`.
    pub fn cut(&mut self, path: &Path, len: u64) -> io::Result<()> {
        let file = self.open(path, OpenMode::ReadWrite)?;
        if self.len(file)? > len {
            self.set_len(file, len)?;
            self.settle_file(file)?;
        }
        self.close(file);
        Ok(())
    }

    /// What happened on this disk so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

const _: () = assert!(SECTOR_BYTES.is_power_of_two());
