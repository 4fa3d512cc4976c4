//! Few tests on true sockets and files: three nodes in this process, asked over HTTP.
//!
//! They wait on conditions, never on the clock. What needs faults is tested in simulation.
#![cfg(not(madsim))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod contract;
mod errors;
mod many;
mod membership;
mod places;
mod repair;
mod server;
mod wait;
