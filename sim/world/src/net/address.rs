//! Addresses: names to addresses, addresses to machines, ports that are free.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use rand::Rng as _;

use crate::process::{MachineId, ProcessId};
use crate::world::{self, World};

/// Error numbers of Linux, so that kinds come out as they do there.
pub(crate) mod errno {
    pub(crate) const EPIPE: i32 = 32;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EMSGSIZE: i32 = 90;
    pub(crate) const EADDRINUSE: i32 = 98;
    pub(crate) const EADDRNOTAVAIL: i32 = 99;
    pub(crate) const ENETUNREACH: i32 = 101;
    pub(crate) const ECONNRESET: i32 = 104;
    pub(crate) const ETIMEDOUT: i32 = 110;
    pub(crate) const ECONNREFUSED: i32 = 111;
}

/// The error of that number.
pub(crate) fn os_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// What [`TcpStream::connect`](super::TcpStream::connect) and the `bind`s take: an address, or a
/// name with a port.
pub trait ToSocketAddrs {
    /// The address, or the text to look up.
    fn target(&self) -> Target;
}

/// What stands behind a [`ToSocketAddrs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// `name:port`.
    Name(String),
}

impl Target {
    pub(crate) async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Target::Address(address) => Ok(vec![address]),
            Target::Name(name) => lookup_host(&name).await,
        }
    }
}

impl ToSocketAddrs for SocketAddr {
    fn target(&self) -> Target {
        Target::Address(*self)
    }
}

impl ToSocketAddrs for SocketAddrV4 {
    fn target(&self) -> Target {
        Target::Address((*self).into())
    }
}

impl ToSocketAddrs for SocketAddrV6 {
    fn target(&self) -> Target {
        Target::Address((*self).into())
    }
}

impl ToSocketAddrs for (IpAddr, u16) {
    fn target(&self) -> Target {
        Target::Address((*self).into())
    }
}

impl ToSocketAddrs for (Ipv4Addr, u16) {
    fn target(&self) -> Target {
        Target::Address((*self).into())
    }
}

impl ToSocketAddrs for (&str, u16) {
    fn target(&self) -> Target {
        Target::Name(format!("{}:{}", self.0, self.1))
    }
}

impl ToSocketAddrs for str {
    fn target(&self) -> Target {
        Target::Name(self.to_owned())
    }
}

impl ToSocketAddrs for String {
    fn target(&self) -> Target {
        Target::Name(self.clone())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    fn target(&self) -> Target {
        (**self).target()
    }
}

/// Microseconds that looking up a name takes.
const LOOKUP_US: std::ops::Range<u64> = 100..1_000;

/// The addresses of `host` (`name:port`, or an IP literal with a port), in the resolver's order.
/// In simulation names are those of machines, and `localhost`.
///
/// # Errors
/// When the name does not resolve.
pub async fn lookup_host(host: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(literal) = host.parse::<SocketAddr>() {
        return Ok(vec![literal]);
    }
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let (name, port) = host.rsplit_once(':').ok_or_else(|| invalid("invalid socket address"))?;
    let port = port.parse::<u16>().map_err(|_| invalid("invalid port value"))?;
    let delay_us = world::with(|w| {
        let process = w.current();
        w.machines[process.machine.0 as usize].dice.random_range(LOOKUP_US)
    });
    crate::time::sleep(Duration::from_micros(delay_us)).await;
    let found = world::with(|w| match name {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => w.machines.iter().skip(1).find(|machine| machine.name == name).map(|m| m.ip),
    });
    match found {
        Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        None => Err(io::Error::other(format!("no address is known for {name}"))),
    }
}

impl World {
    /// The machine that `ip` means on `here`.
    pub(crate) fn machine_at(&self, here: MachineId, ip: IpAddr) -> Option<MachineId> {
        if ip.is_loopback() || ip.is_unspecified() {
            return Some(here);
        }
        self.net.by_ip.get(&ip).copied()
    }

    /// The address that `here` talks to `ip` from.
    pub(crate) fn source_ip(&self, here: MachineId, ip: IpAddr) -> IpAddr {
        if ip.is_loopback() || ip.is_unspecified() {
            return IpAddr::V4(Ipv4Addr::LOCALHOST);
        }
        self.machines[here.0 as usize].ip
    }

    /// Checks that the process may bind to `ip`.
    pub(crate) fn check_local(&self, process: ProcessId, ip: IpAddr) -> io::Result<()> {
        if process == ProcessId::HARNESS {
            return Err(os_error(errno::ENETUNREACH));
        }
        let own = self.machines[process.machine.0 as usize].ip;
        if ip.is_unspecified() || ip.is_loopback() || ip == own {
            return Ok(());
        }
        Err(os_error(errno::EADDRNOTAVAIL))
    }
}

/// True when a socket bound to `bound` gets what is sent to `wanted`.
pub(crate) fn serves(bound: IpAddr, wanted: IpAddr) -> bool {
    bound.is_unspecified() || bound == wanted
}

/// True when sockets of one port cannot be bound to both.
pub(crate) fn conflicts(one: IpAddr, other: IpAddr) -> bool {
    one.is_unspecified() || other.is_unspecified() || one == other
}

/// Linux's range of ports that it picks by itself.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The next port after `last` that is not `taken`.
///
/// # Errors
/// `AddrInUse` when all are.
pub(crate) fn free_port(last: &mut u16, taken: impl Fn(u16) -> bool) -> io::Result<u16> {
    for _ in EPHEMERAL {
        *last = if EPHEMERAL.contains(last) && *last < *EPHEMERAL.end() {
            *last + 1
        } else {
            *EPHEMERAL.start()
        };
        if !taken(*last) {
            return Ok(*last);
        }
    }
    Err(os_error(errno::EADDRINUSE))
}
