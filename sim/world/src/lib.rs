//! Simulated machines.

pub mod disk;
