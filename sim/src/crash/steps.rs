//! What a life does, drawn from a seed as plain data.

use std::time::Duration;

use starling::storage::{Options, SyncPolicy};

use crate::dice::Dice;

/// Keys that a run knows.
pub(super) const KEYS: u8 = 10;
/// Members that hints are kept for.
pub(super) const OWNERS: u8 = 2;

/// One step. Those that wait for nothing go on at once, so that writes meet in batches and flushes meet
/// writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Puts the next version; waits until it is durable, or does not.
    Put { key: u8, wait: bool },
    /// Removes the key.
    Remove { key: u8 },
    /// Keeps the next version of the key for a member.
    Hint { owner: u8, key: u8 },
    /// Forgets what is kept.
    HintEnd { owner: u8, key: u8 },
    /// Lets the background work.
    Rest { ms: u64 },
    /// Takes a snapshot, which seals the memtable, scans it, and holds it.
    Snapshot,
    /// Scans the snapshot that is held once more, and drops it.
    LetGo,
    /// Reads every key.
    Check,
    /// Puts every doubtful key again and trusts all.
    Trust,
    /// A bit of a table rots.
    Rot,
    /// Closes the engine and opens it again.
    Reopen,
}

/// The options of a run: tiny ones.
pub(super) fn options(dice: Dice) -> Options {
    let mut die = dice.stream("crash options", 0, 0);
    let lag = Duration::from_millis(die.within(1, 5));
    let interval = die.chance(15);
    Options {
        sync: if interval { SyncPolicy::Interval { lag } } else { SyncPolicy::Always },
        segment_bytes: 4096,
        memtable_bytes: die.pick(&[1024, 2048, 4096]),
        table_bytes: die.pick(&[1024, 4096]),
        block_bytes: 256,
        cache_bytes: die.pick(&[0, 2048]),
        batch_bytes_max: die.pick(&[4096, 16 << 10]),
        pending_bytes_max: 64 << 10,
        gather: Duration::from_micros(die.pick(&[0, 500])),
        prefill_bytes: die.pick(&[0, 0, 1024]),
        ..Options::default()
    }
}

/// The steps of life `life`.
pub(super) fn steps(dice: Dice, life: usize) -> Vec<Step> {
    let mut die = dice.stream("crash steps", life as u64, 0);
    let rots = die.chance(25);
    // Hints that fill the log's front and nothing else are what has it carried.
    let hints = die.pick(&[4, 12, 30]);
    let mut steps = Vec::new();
    for _ in 0..die.within(25, 45) {
        let (key, owner) = (die.index(KEYS.into()) as u8, die.index(OWNERS.into()) as u8);
        let step = match die.within(0, 99 + hints) {
            0..8 => Step::Remove { key },
            8..50 => Step::Put { key, wait: die.chance(40) },
            50..54 => Step::HintEnd { owner, key: key % 3 },
            54..70 => Step::Rest { ms: die.magnitude(1, 64) },
            70..76 => Step::Snapshot,
            76..80 => Step::LetGo,
            80..86 => Step::Check,
            86..89 => Step::Trust,
            89..93 if rots => Step::Rot,
            93..95 => Step::Reopen,
            100.. => Step::Hint { owner, key: key % 3 },
            _ => Step::Put { key, wait: false },
        };
        steps.push(step);
    }
    steps.push(Step::Rest { ms: 300 });
    if die.chance(50) {
        steps.push(Step::Reopen);
    }
    steps
}
