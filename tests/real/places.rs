//! Addresses for nodes that start later, or again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems give to clients (from 32768 on Linux, from 49152 elsewhere): no connection that is opened before
/// the node is there, or while it is down, can take its place.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// An address on loopback that nobody listens at, and that no other call in this process gives out. Processes that run at once begin
/// at different places.
pub(crate) fn free() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(101);
    for _ in PORTS {
        let step = u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let at = first.wrapping_add(step) % PORTS.len() as u32;
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + at as u16));
        if TcpListener::bind(place).is_ok() {
            return place;
        }
    }
    panic!("every port of {PORTS:?} is taken");
}
