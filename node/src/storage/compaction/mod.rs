//! Compaction: tables are merged into fewer, so that reads look into few places and what was replaced
//! stops taking room.
//!
//! # Shape: leveled
//!
//! ```text
//! level 0   [ newest ][      ][      ]     whole memtables, overlapping; 2 to 8
//! level 5   [  ][  ][  ]                   a quarter of level 6 at most: only once level 6 is large
//! level 6   [  ][  ][  ][  ][  ][  ]       what nothing lies below
//! ```
//!
//! Each level but 0 holds each key once, in tables that do not overlap, so a read looks into one table a
//! level, and its filter keeps it out of most. **Each level holds at most a quarter of the next**, so
//! what was replaced but still takes room is at most 1/4 + 1/16 + … = 1/3 of the data: space stays
//! below 1.5. Tiers of equal tables would write less, and keep several versions of everything.
//!
//! Level 0 is merged into the first level that is in use, the *base*, once it has a quarter of the
//! base's bytes: each byte that is flushed then costs about four that are merged, plus one for the log
//! and one for the flush. As long as the data is within 32 memtables the base is level 6, the only
//! other one, so random overwrites cost about 6 bytes for each. When it grows past that, the base
//! moves up a level, so that level 0 never needs more than 8 tables; each such level costs four more.
//! Sources: O'Neil et al., "The Log-Structured Merge-Tree" (1996); Dong et al., "Optimizing Space
//! Amplification in `RocksDB`" (2017), for sizes that follow from the last level's.
//!
//! # Work
//!
//! [`picker`] chooses a job from the sizes alone; [`worker`] carries it out, one at a time:
//!
//! - In parts. A part ends where an input table of the lower level does; its outputs take the place of
//!   those inputs in one edit of the manifest. The upper inputs stay until the job ends: for keys
//!   of finished parts they hold what the outputs hold, or older. So a job needs no room beside
//!   a part's, and what a crash or the end interrupts is lost up to a part only.
//! - In steps of a few milliseconds, with pauses that [`pace`] finds from how long clients wait.
//! - Damaged blocks are left out: their ranges are in doubt before the inputs go. A table with such a
//!   block is rewritten before all else, so that it is met once.
//!
//! What is dropped: versions that a newer one of the same key replaces, and the marker of a key that was
//! [removed](crate::storage::Engine::remove), once no deeper level has a table that may hold the key: so no older version
//! shines through. The upper inputs, which hold the marker too, stay until the last of the older versions among the inputs is gone. A
//! tombstone is a value like any other here; it is forgotten by proof alone ([`domain::forgetting`](crate::domain::forgetting)).

mod pace;
pub(super) mod picker;
mod worker;

pub(super) use self::worker::run;
