//! The harness.

pub mod history;
