//! The facade between Starling and the world it runs in: the only place in this crate that names
//! sockets, timers, tasks, files, clocks, signals or entropy.
//!
//! There are two worlds behind one set of signatures:
//!
//! | world | chosen by | made of |
//! |---|---|---|
//! | real | `cfg(not(madsim))` | tokio, `std::fs` on tokio's blocking pool, the OS clocks and entropy |
//! | simulated | `cfg(madsim)` | `starling-world`: packets, inodes, clocks and processes under one seed |
//!
//! The contract, the same in both, is written beside each item of [`real`](self) and held by the
//! conformance table (`tests/conformance`), whose every row runs in both worlds:
//!
//! - [`time`]: [`Instant`](time::Instant) never goes back; [`wall_clock_ms`](time::wall_clock_ms)
//!   may jump. A dropped sleep leaves nothing behind.
//! - [`task`]: a spawned task runs until done, aborted, or its process dies. Dropping its handle
//!   detaches it. A panic in any task ends the process.
//! - [`net`]: tokio's types and signatures. A dropped stream sends FIN (RST if unread data was
//!   left). `TcpStream` writes may be short; data leaves on write, `flush` is free.
//! - [`fs`]: what was written but not synced is lost with power. A new or renamed name is durable
//!   after [`sync_dir`](fs::sync_dir) of its folder. An operation whose future was dropped may or
//!   may not take effect. After a failed sync nothing written since the last good one can be
//!   trusted, not even if a later sync succeeds.
//! - [`rng`]: one generator per purpose, forked by name, so that a new draw in one place never
//!   moves the dice in another.
//! - [`signal`]: the request to stop.
//! - [`event`]: typed notes for the simulator's trace and counters; nothing at all in production.
//!
//! What this module does not do: decide anything. It has no policy, no retries, no defaults.

#[cfg(not(madsim))]
mod real;

#[cfg(not(madsim))]
pub use real::{event, fs, net, rng, signal, task, time};
#[cfg(madsim)]
pub use starling_world::{event, fs, net, rng, signal, task, time};
