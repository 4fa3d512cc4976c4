//! The real world: thin names over tokio, `std::fs` and the operating system.

pub mod event;
pub mod fs;
pub mod net;
pub mod rng;
pub mod signal;
pub mod task;
pub mod time;
