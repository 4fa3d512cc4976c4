//! TCP connections as programs hold them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::address::{ToSocketAddrs, errno, free_port, os_error};
use super::connection::{ConnId, Connection, Incoming, Outgoing, State};
use crate::process::{MachineId, ProcessId, when_alive};
use crate::world::{self, World};

/// A TCP connection. Closed when dropped: an orderly end, or a reset if unread bytes were left.
#[derive(Debug)]
pub struct TcpStream {
    end: End,
}

/// The reading half of a [`TcpStream`]. The connection closes with the later half.
#[derive(Debug)]
pub struct OwnedReadHalf {
    end: Arc<End>,
}

/// The writing half of a [`TcpStream`]. Dropping it ends the outgoing stream.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    end: Arc<End>,
}

impl TcpStream {
    /// Connects to the first of the addresses that answers.
    ///
    /// # Errors
    /// `ConnectionRefused` by a live machine without a listener; `TimedOut` when nobody answers
    /// for [`give_up_after`](crate::tcp::TcpSpec::give_up_after).
    pub async fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        for address in addr.target().resolve().await? {
            // Closed again if this future is dropped on the way.
            let stream = TcpStream { end: when_alive(|w, owner| w.open(owner, address)).await? };
            match poll_fn(|cx| stream.end.poll_connected(cx)).await {
                Ok(()) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    pub(crate) const fn held(id: ConnId, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { end: End { id, local, remote } }
    }

    /// The peer's address.
    ///
    /// # Errors
    /// None in simulation.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.end.remote)
    }

    /// The own address.
    ///
    /// # Errors
    /// None in simulation.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.end.local)
    }

    /// Does nothing: the simulated kernel never waits for more bytes before it sends.
    ///
    /// # Errors
    /// None in simulation.
    pub fn set_nodelay(&self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }

    /// Splits it in halves that can live in different tasks.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let end = Arc::new(self.end);
        (OwnedReadHalf { end: end.clone() }, OwnedWriteHalf { end })
    }
}

macro_rules! addresses {
    ($half:ty) => {
        impl $half {
            /// The peer's address.
            ///
            /// # Errors
            /// None in simulation.
            pub fn peer_addr(&self) -> io::Result<SocketAddr> {
                Ok(self.end.remote)
            }

            /// The own address.
            ///
            /// # Errors
            /// None in simulation.
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                Ok(self.end.local)
            }
        }
    };
}

addresses!(OwnedReadHalf);
addresses!(OwnedWriteHalf);

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        world::with_if(|w| w.finish_writing(self.end.id));
    }
}

macro_rules! reads {
    ($stream:ty) => {
        impl AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.end.poll_read(cx, buf)
            }
        }
    };
}

macro_rules! writes {
    ($stream:ty) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.end.poll_write(cx, &[io::IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.end.poll_write(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            /// Free: data leaves on write.
            fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                world::with(|w| w.finish_writing(self.end.id));
                Poll::Ready(Ok(()))
            }
        }
    };
}

reads!(TcpStream);
reads!(OwnedReadHalf);
writes!(TcpStream);
writes!(OwnedWriteHalf);

/// One end of a connection, closed when dropped. In a dead process its id leads nowhere, and
/// whatever is asked of it stays pending: the asking task is about to be dropped.
#[derive(Debug)]
struct End {
    id: ConnId,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Drop for End {
    fn drop(&mut self) {
        world::with_if(|w| w.close_connection(self.id));
    }
}

impl End {
    fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        world::with(|w| {
            let Some(c) = w.net.connections.get_mut(self.id) else { return Poll::Pending };
            match (c.state, c.error.take()) {
                (_, Some(error)) => Poll::Ready(Err(os_error(error))),
                (State::Established, None) => Poll::Ready(Ok(())),
                (State::SynSent | State::SynReceived(_) | State::Broken, None) => {
                    c.wait_to_write(cx);
                    Poll::Pending
                }
            }
        })
    }

    fn poll_read(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        world::with(|w| {
            let limit = w.cut_short(buf.remaining());
            let Some(c) = w.net.connections.get_mut(self.id) else { return Poll::Pending };
            if c.incoming.unread() > 0 {
                c.incoming.read(limit, |bytes| buf.put_slice(bytes));
                w.tell_if_worthwhile(self.id);
                return Poll::Ready(Ok(()));
            }
            let end = c.poll_end();
            if end.is_pending() {
                c.wait_to_read(cx);
            }
            end.map_err(os_error)
        })
    }

    fn poll_write(&self, cx: &Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        world::with(|w| {
            let limit = w.cut_short(wanted);
            let buffer = w.net.tcp.send_buffer_bytes;
            let Some(c) = w.net.connections.get_mut(self.id) else { return Poll::Pending };
            if let Err(error) = c.check_writable() {
                return Poll::Ready(Err(os_error(error)));
            }
            let room = c.out.room(buffer).min(limit);
            if wanted == 0 {
                return Poll::Ready(Ok(0));
            }
            if room == 0 {
                c.wait_to_write(cx);
                return Poll::Pending;
            }
            c.out.push(gather(bufs, room));
            w.pump(self.id);
            Poll::Ready(Ok(room))
        })
    }
}

/// The first `len` bytes of all buffers together.
fn gather(bufs: &[io::IoSlice<'_>], len: usize) -> Bytes {
    let mut all = BytesMut::with_capacity(len);
    for buf in bufs {
        let take = buf.len().min(len - all.len());
        all.extend_from_slice(&buf[..take]);
    }
    all.freeze()
}

impl World {
    /// Sends the first SYN to `remote` and says what was opened.
    fn open(&mut self, owner: ProcessId, remote: SocketAddr) -> io::Result<End> {
        if owner == ProcessId::HARNESS {
            return Err(os_error(errno::ENETUNREACH));
        }
        let mut remote = remote;
        let source = self.source_ip(owner.machine, remote.ip());
        if remote.ip().is_unspecified() {
            remote.set_ip(source);
        }
        let there = self.machine_at(owner.machine, remote.ip());
        let host = &mut self.net.hosts[owner.machine.0 as usize];
        let mut port = host.last_tcp_port;
        let taken = |port| host.active.contains(&port) || host.listeners.contains_key(&port);
        free_port(&mut port, taken)?;
        host.last_tcp_port = port;
        host.active.insert(port);
        let local = SocketAddr::new(source, port);
        let id = self.net.connections.insert(Connection {
            owner: Some(owner),
            here: owner.machine,
            // An address that belongs to nobody is one that never answers.
            there: there.unwrap_or(MachineId::HARNESS),
            local,
            remote,
            peer: None,
            state: State::SynSent,
            born: self.now(),
            error: None,
            reader: None,
            writer: None,
            out: Outgoing::new(0),
            incoming: Incoming::new(self.net.tcp.receive_window_bytes),
        });
        self.send_syn(id, 0);
        Ok(End { id, local, remote })
    }

    /// How many of `len` bytes a read or write may move now.
    fn cut_short(&mut self, len: usize) -> usize {
        let share = self.net.tcp.short_io;
        if share > 0.0 && len > 1 && self.net.dice.random_bool(share.min(1.0)) {
            self.net.dice.random_range(1..len)
        } else {
            len
        }
    }
}
