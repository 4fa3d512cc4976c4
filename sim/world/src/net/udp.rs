//! Datagrams: lost, doubled and reordered as their link has it, dropped when the receiver's queue
//! is full or when they are too large for a link between machines.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;

use super::address::{ToSocketAddrs, conflicts, errno, free_port, os_error, serves};
use super::kernel::{Flight, Packet};
use crate::process::{MachineId, ProcessId, when_alive};
use crate::slab::Id;
use crate::world::{self, Waiters, World};

pub(crate) type SocketId = Id<Socket>;

/// A datagram socket as its machine's kernel keeps it.
pub(crate) struct Socket {
    pub(crate) owner: ProcessId,
    local: SocketAddr,
    queue: VecDeque<(SocketAddr, Bytes)>,
    queued_bytes: usize,
    waiters: Waiters,
}

/// The largest payload that IPv4 can carry.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// The largest payload that an Ethernet frame carries: links between machines do not fragment.
const LINK_BYTES_MAX: usize = 1_472;
/// Linux's default receive buffer, with what it counts for each datagram on top of its bytes.
const QUEUE_BYTES_MAX: usize = 212_992;
const DATAGRAM_OVERHEAD: usize = 768;

/// A datagram socket.
#[derive(Debug)]
pub struct UdpSocket {
    id: SocketId,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds to the first of the addresses that is possible.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for address in addr.target().resolve().await? {
            match when_alive(|w, owner| w.bind_socket(owner, address)).await {
                Ok((id, local)) => return Ok(UdpSocket { id, local }),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// None in simulation.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Sends one datagram. That it was sent says nothing about its arrival.
    ///
    /// # Errors
    /// `EMSGSIZE` above 65,507 bytes; `InvalidInput` from a loopback address to another machine.
    pub async fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], target: A) -> io::Result<usize> {
        let target = target.target().resolve().await?.into_iter().next();
        let target = target
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to send to"))?;
        if buf.len() > DATAGRAM_BYTES_MAX {
            return Err(os_error(errno::EMSGSIZE));
        }
        world::with(|w| w.send_datagram(self.id, Bytes::copy_from_slice(buf), target))?;
        Ok(buf.len())
    }

    /// Waits for the next datagram and says how many bytes fitted and who sent it; the rest of it
    /// is gone. Cancel-safe.
    ///
    /// # Errors
    /// None in simulation.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| {
            world::with(|w| {
                let Some(socket) = w.net.sockets.get_mut(self.id) else { return Poll::Pending };
                let Some((source, data)) = socket.queue.pop_front() else {
                    socket.waiters.add(cx);
                    return Poll::Pending;
                };
                socket.queued_bytes -= data.len() + DATAGRAM_OVERHEAD;
                let len = data.len().min(buf.len());
                buf[..len].copy_from_slice(&data[..len]);
                Poll::Ready(Ok((len, source)))
            })
        })
        .await
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        world::with_if(|w| w.close_socket(self.id));
    }
}

impl World {
    fn bind_socket(
        &mut self,
        owner: ProcessId,
        address: SocketAddr,
    ) -> io::Result<(SocketId, SocketAddr)> {
        self.check_local(owner, address.ip())?;
        let sockets = &self.net.sockets;
        let host = &mut self.net.hosts[owner.machine.0 as usize];
        let mut local = address;
        if local.port() == 0 {
            let mut last = host.last_udp_port;
            local.set_port(free_port(&mut last, |port| host.sockets.contains_key(&port))?);
            host.last_udp_port = last;
        }
        let on_port = host.sockets.entry(local.port()).or_default();
        let bound = |id: &SocketId| {
            let other = sockets.get(*id).map(|socket| socket.local.ip());
            other.is_some_and(|ip| conflicts(ip, local.ip()))
        };
        if on_port.iter().any(bound) {
            return Err(os_error(errno::EADDRINUSE));
        }
        let id = self.net.sockets.insert(Socket {
            owner,
            local,
            queue: VecDeque::new(),
            queued_bytes: 0,
            waiters: Waiters::default(),
        });
        on_port.push(id);
        Ok((id, local))
    }

    fn send_datagram(&mut self, id: SocketId, data: Bytes, target: SocketAddr) -> io::Result<()> {
        let Some(socket) = self.net.sockets.get(id) else { return Ok(()) };
        let (here, local) = (socket.owner.machine, socket.local);
        let mut target = target;
        let source_ip = self.source_ip(here, target.ip());
        if target.ip().is_unspecified() {
            target.set_ip(source_ip);
        }
        let there = self.machine_at(here, target.ip());
        if local.ip().is_loopback() && there != Some(here) {
            return Err(os_error(errno::EINVAL));
        }
        let ip = if local.ip().is_unspecified() { source_ip } else { local.ip() };
        let source = SocketAddr::new(ip, local.port());
        let Some(there) = there else { return Ok(()) };
        if there != here && data.len() > LINK_BYTES_MAX {
            self.emit_of_machine(here, "datagram_too_large", u64::from(there.0), data.len() as u64);
            return Ok(());
        }
        let packet = Packet::Datagram { source, target, data };
        self.transmit(Flight { from: here, to: there, packet });
        Ok(())
    }

    pub(crate) fn datagram_arrives(
        &mut self,
        to: MachineId,
        source: SocketAddr,
        target: SocketAddr,
        data: Bytes,
    ) {
        let sockets = self.net.hosts[to.0 as usize].sockets.get(&target.port());
        let found = sockets.into_iter().flatten().copied().find(|id| {
            let socket = self.net.sockets.get(*id);
            socket.is_some_and(|socket| serves(socket.local.ip(), target.ip()))
        });
        let Some(socket) = found.and_then(|id| self.net.sockets.get_mut(id)) else {
            self.emit_of_machine(to, "datagram_to_closed_port", u64::from(target.port()), 0);
            return;
        };
        if socket.queued_bytes + data.len() + DATAGRAM_OVERHEAD > QUEUE_BYTES_MAX {
            self.emit_of_machine(to, "datagram_queue_full", u64::from(target.port()), 0);
            return;
        }
        socket.queued_bytes += data.len() + DATAGRAM_OVERHEAD;
        socket.queue.push_back((source, data));
        socket.waiters.wake(&mut self.wake);
    }

    pub(crate) fn close_socket(&mut self, id: SocketId) {
        let Some(socket) = self.net.sockets.remove(id) else { return };
        let host = self.net.host(socket.owner.machine);
        if let Some(on_port) = host.sockets.get_mut(&socket.local.port()) {
            on_port.retain(|other| *other != id);
            if on_port.is_empty() {
                host.sockets.remove(&socket.local.port());
            }
        }
    }
}
