//! Sockets of the simulated machines, under tokio's own names: the handles that programs hold.
//!
//! `kernel` carries packets between machines, `connection` is one end of a TCP connection as
//! its machine's kernel keeps it, `tcp` the kernels' side of TCP; `stream`, `listener` and
//! `udp` are what programs hold.

pub(crate) mod address;
pub(crate) mod connection;
pub(crate) mod kernel;
pub(crate) mod listener;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod udp;

pub use address::{ToSocketAddrs, lookup_host};
pub use listener::TcpListener;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
pub use udp::UdpSocket;
