//! The storage engine at every point at which power can go.
//!
//! ```text
//! seed ──> options, steps ──life──> a copy of the disk after every call that changed it
//!                                       │ what a crash there may leave, by the disk's rules
//!                                       ▼
//!                        reopen ──> what is found ──> held against what was put
//! ```
//!
//! A [`life`] opens the engine in the folder that the life before left, does some dozen steps (puts, hints,
//! snapshots, doubt, an orderly end) with options so small that each life flushes and compacts, and ends.
//! The disk is copied after every single call that changed it, whatever task made it: at the boundary of
//! every write, sync, creation and removal, opening included. At each of these moments
//!
//! - **power goes**: of what was not synced survives all, nothing, or a part; each part that can stand
//!   by itself where they are few, else some that are drawn;
//! - **the process is killed**: everything survives, but nothing became durable by that;
//!
//! and the engine is opened again and must hold what [`expect`] says. During every so many of these
//! openings power goes once more. Then one of the outcomes is where the next life goes on.
//!
//! All of it follows from the seed. What this does not do: failing disks (the swarm has them), and more
//! than one folder.
//!
//! Source of the method: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014).

mod expect;
mod life;
mod points;
mod steps;

use std::collections::BTreeMap;

pub use points::explore;

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Lives that were led.
    pub lives: u64,
    /// Moments between two changes of a disk.
    pub moments: u64,
    /// Openings after a loss of power, no two alike at one moment.
    pub power_losses: u64,
    /// Openings after the process was killed.
    pub kills: u64,
    /// Openings after power was lost during an opening.
    pub second_crashes: u64,
    /// How often each kind of event came in lives and openings.
    pub events: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Openings after any crash.
    pub fn points(&self) -> u64 {
        self.power_losses + self.kills + self.second_crashes
    }

    /// Adds what another run tried.
    pub fn add(&mut self, other: &Tally) {
        self.lives += other.lives;
        self.moments += other.moments;
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.second_crashes += other.second_crashes;
        for (kind, count) in &other.events {
            *self.events.entry(kind).or_default() += count;
        }
    }

    /// How often `kind` came.
    pub fn count(&self, kind: &str) -> u64 {
        self.events.get(kind).copied().unwrap_or(0)
    }
}

/// A crash after which the engine held what it must not, or did not open.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}, life {life}, after change {moment} of the disk ({doing}), {crash}: {wrong}")]
pub struct Finding {
    /// What it follows from.
    pub seed: u64,
    /// Which life, from 0.
    pub life: usize,
    /// After which change of the disk in it, from 1; 0: in the life itself.
    pub moment: usize,
    /// The step that was under way.
    pub doing: String,
    /// How it crashed, and what was kept.
    pub crash: String,
    /// What was wrong.
    pub wrong: String,
}
