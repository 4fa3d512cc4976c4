//! Sockets of the operating system, under tokio's own names.

pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub use tokio::net::{TcpListener, TcpStream, UdpSocket};

use std::io;
use std::net::SocketAddr;

/// The addresses of `host` (`name:port`, or an IP literal with a port), in the resolver's order.
///
/// # Errors
/// When the name does not resolve.
pub async fn lookup_host(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(host).await?.collect())
}
