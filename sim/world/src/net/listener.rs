//! Listening sockets.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use super::address::{ToSocketAddrs, conflicts, errno, free_port, os_error};
use super::connection::ConnId;
use super::stream::TcpStream;
use crate::process::{ProcessId, when_alive};
use crate::slab::Id;
use crate::world::{self, Waiters, World};

pub(crate) type ListenerId = Id<Listener>;

/// A listening socket as its machine's kernel keeps it.
pub(crate) struct Listener {
    pub(crate) owner: ProcessId,
    pub(crate) local: SocketAddr,
    /// Established and not yet accepted.
    pub(crate) queue: VecDeque<ConnId>,
    /// Connections whose client has not confirmed yet.
    pub(crate) half_open: usize,
    pub(crate) waiters: Waiters,
}

/// A socket that accepts connections. Closed when dropped: what was not accepted is reset.
#[derive(Debug)]
pub struct TcpListener {
    id: ListenerId,
    local: SocketAddr,
}

impl TcpListener {
    /// Listens on the first of the addresses that is possible.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for address in addr.target().resolve().await? {
            match when_alive(|w, owner| w.listen(owner, address)).await {
                Ok((id, local)) => return Ok(TcpListener { id, local }),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// None in simulation.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Waits for the next connection. Cancel-safe: a connection is handed out or stays.
    ///
    /// # Errors
    /// None in simulation.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            world::with(|w| {
                let Some(listener) = w.net.listeners.get_mut(self.id) else {
                    return Poll::Pending;
                };
                while let Some(id) = listener.queue.pop_front() {
                    if let Some(c) = w.net.connections.get(id) {
                        let stream = TcpStream::held(id, c.local, c.remote);
                        return Poll::Ready(Ok((stream, c.remote)));
                    }
                }
                listener.waiters.add(cx);
                Poll::Pending
            })
        })
        .await
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        world::with_if(|w| w.close_listener(self.id));
    }
}

impl World {
    fn listen(
        &mut self,
        owner: ProcessId,
        address: SocketAddr,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        self.check_local(owner, address.ip())?;
        let listeners = &self.net.listeners;
        let host = &mut self.net.hosts[owner.machine.0 as usize];
        let mut local = address;
        if local.port() == 0 {
            let mut last = host.last_tcp_port;
            let taken = |port| host.active.contains(&port) || host.listeners.contains_key(&port);
            local.set_port(free_port(&mut last, taken)?);
            host.last_tcp_port = last;
        }
        let on_port = host.listeners.entry(local.port()).or_default();
        let bound = |id: &ListenerId| {
            let other = listeners.get(*id).map(|listener| listener.local.ip());
            other.is_some_and(|ip| conflicts(ip, local.ip()))
        };
        if on_port.iter().any(bound) {
            return Err(os_error(errno::EADDRINUSE));
        }
        let id = self.net.listeners.insert(Listener {
            owner,
            local,
            queue: VecDeque::new(),
            half_open: 0,
            waiters: Waiters::default(),
        });
        on_port.push(id);
        Ok((id, local))
    }

    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.net.listeners.remove(id) else { return };
        let host = self.net.host(listener.owner.machine);
        if let Some(on_port) = host.listeners.get_mut(&listener.local.port()) {
            on_port.retain(|other| *other != id);
            if on_port.is_empty() {
                host.listeners.remove(&listener.local.port());
            }
        }
        for waiting in listener.queue {
            self.abort_connection(waiting);
        }
        let half_open = super::connection::State::SynReceived(id);
        for waiting in self.net.connections.ids_where(|c| c.state == half_open) {
            self.forget(waiting);
        }
    }
}
