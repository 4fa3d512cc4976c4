//! The disk of one simulated machine: inodes, folders, a page cache, and what a loss of power, a
//! failing device or a full one does to them.
//!
//! [`Disk`] is plain data. It knows no time, no executor and no machine, and draws its dice from its
//! own seed, so every rule of it is tested by itself. The facade (`crate::fs`) puts latency and the
//! crash fence around it, and the harness reaches it through the functions of this module that
//! take a machine.
//!
//! ```text
//!   paths ──> live names ──> inode ──> page cache      what running processes see
//!                  │ journal             │ pending     what a crash may keep, in parts
//!             durable names          durable bytes     what is left when power goes
//! ```
//!
//! Why a model of our own and not turmoil-fs: its handles follow paths and not inodes, so a file
//! that was removed or renamed while open is another file than on Linux; its unsynced writes survive
//! as prefixes only; its sync cannot fail, its rot heals on the next read, and its errors have
//! other kinds than the kernel's. Those are the very things that a store gets wrong.
//!
//! Invariants:
//! - what was synced without error is there after any loss of power, until it is overwritten;
//! - what was not is its older self, its newer self, zeros where the file grew, or a mixture by
//!   sectors; never the bytes of another file;
//! - an inode lives while a name, a handle or an unsynced change refers to it;
//! - the death of a process loses nothing and frees its handles and locks;
//! - no handle outlives the process that opened it;
//! - what waits for a sync is bounded ([`PENDING_BYTES_MAX`]): past that it is written back, as a
//!   kernel does.
//!
//! What it does not have: symbolic links, permissions, times, removal of folders, more than one process at a
//! time, and garbage collection of blocks (a capacity counts the lengths of files).

#[cfg(madsim)]
mod control;
mod crash;
mod faults;
mod file;
mod inspect;
mod model;
mod names;
#[cfg(test)]
mod tests;
mod timing;

#[cfg(madsim)]
pub use control::{
    counters, cut, dump, fail_reads, fail_syncs, fail_writes, heal, keep_at_next_power_loss,
    limit_capacity, lose, lose_writes, pending, put, restore, rot, slow, snapshot, stall, used,
    watch, wipe,
};

pub use crash::{Part, Unit};
pub use faults::{Counters, Rotten};
pub use file::Fate;
pub use inspect::{DumpEntry, Snapshot};
pub use model::{Disk, HandleId, Synced};
pub use timing::Work;

/// What the device writes in one piece, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// The most bytes of data that may wait for a sync on one disk, before all are written back.
pub const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The most changes that may wait for a sync on one disk, before all are written back.
pub const PENDING_OPS_MAX: usize = 65_536;

/// The longest file, in bytes. One that would be longer fails with `FileTooLarge`.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    ReadWrite,
    /// Read and write; the file must not exist. Its name is durable after its folder was synced.
    CreateNew,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last component of its path.
    pub name: String,
    /// True for a folder.
    pub is_dir: bool,
    /// Its size in bytes; 0 for a folder.
    pub len: u64,
}
