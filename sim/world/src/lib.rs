//! Simulated machines: network, clocks, processes and disks under one seed, on madsim's executor.
//!
//! Under `cfg(madsim)` this crate is what stands behind the node's runtime facade; under any other
//! configuration it is empty, so that no simulation code can reach a production build.
//!
//! Two kinds of code call it:
//!
//! - the **node**, through `time`, `task`, `net`, `fs`, `rng`, `signal` and `event`,
//!   whose signatures are those of the node's real world, to the letter;
//! - the **harness**, through `run`, `machine`, `link`, `clock`, `tcp`, `disk` and `trace`.
//!
//! # How it works
//!
//! A run is one thread, one `run` call, one `World` in a thread-local. Everything that
//! happens later is an entry of one queue ordered by (simulated time, order of scheduling): packets
//! in flight, timers, retransmissions. One driver task sleeps on madsim's clock until the earliest
//! entry, handles what is due and wakes whom it concerns. Streams, sleeps and files are plain ids
//! into the world, so that a future that outlives its process finds nothing behind its ids.
//!
//! # Invariants
//!
//! - Equal seeds and equal programs give equal `trace` digests, whatever the environment: no
//!   address, hash order, task id or host clock enters the world.
//! - The **crash fence**: a dead process (killed, exited, without power) is cut off from disk and
//!   network before its futures are dropped, so that late destructors touch nothing.
//! - The world is never borrowed while a waker is called.
//!
//! # What it does not do
//!
//! It runs no second thread, models no congestion control and no routing, and trusts the code that
//! it runs: this is a test bed, not a sandbox.

#[cfg(madsim)]
pub mod clock;
#[cfg(any(madsim, test))]
pub mod disk;
#[cfg(madsim)]
pub mod event;
#[cfg(madsim)]
pub mod fs;
#[cfg(madsim)]
pub mod link;
#[cfg(madsim)]
pub mod machine;
#[cfg(madsim)]
pub mod net;
#[cfg(madsim)]
pub mod process;
#[cfg(madsim)]
pub mod rng;
#[cfg(madsim)]
pub mod signal;
#[cfg(madsim)]
mod slab;
#[cfg(madsim)]
pub mod task;
#[cfg(madsim)]
pub mod tcp;
#[cfg(madsim)]
pub mod time;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod world;

#[cfg(madsim)]
pub use world::{Config, Finished, now, run};
