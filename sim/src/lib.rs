//! The harness: whole Starling clusters under seeded faults, judged by what their clients saw.

pub mod dice;
pub mod plan;
