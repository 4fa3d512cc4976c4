//! How the kernels of the simulated machines do TCP: sizes and patience, for the harness to set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::world;

/// The settings that all connections share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSpec {
    /// Bytes that one connection takes from its writer before the peer has acknowledged them.
    pub send_buffer_bytes: usize,
    /// Bytes that one connection keeps for its reader.
    pub receive_window_bytes: usize,
    /// The most that one packet carries.
    pub segment_bytes: usize,
    /// Connections that wait to be accepted, and half-open ones, on one listener at most; a SYN
    /// beyond is dropped.
    pub backlog: usize,
    /// How long a connection, or an attempt at one, goes without an answer before it is given up
    /// with `TimedOut`.
    pub give_up_after: Duration,
    /// The share of reads and writes that are cut short although more was possible: 0 to 1.
    pub short_io: f64,
}

impl Default for TcpSpec {
    fn default() -> Self {
        Self {
            send_buffer_bytes: 256 * 1024,
            receive_window_bytes: 256 * 1024,
            segment_bytes: 16 * 1024,
            backlog: 1024,
            give_up_after: Duration::from_secs(15),
            short_io: 0.0,
        }
    }
}

/// Sets how TCP behaves from now on. Connections that exist keep the window that they announced.
///
/// # Panics
/// When a size is zero.
pub fn set(spec: TcpSpec) {
    let sizes =
        [spec.send_buffer_bytes, spec.receive_window_bytes, spec.segment_bytes, spec.backlog];
    assert!(!sizes.contains(&0), "no size may be zero: {spec:?}");
    world::with(|w| w.net.tcp = spec);
}
