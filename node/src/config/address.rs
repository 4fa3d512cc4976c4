//! A host and a port, as people write them: `10.0.0.5:7001`, `db-1.internal:7001`, `[::1]:7001`.
//! The host is kept as it was written; turning it into a socket's address is the runtime's work.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host, by name or IP address, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A DNS name or an IP address; an IPv6 address stands here without its brackets.
    pub host: String,
    /// The port; 0, when listening, lets the system choose.
    pub port: u16,
}

/// The text is not a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not host:port, such as 10.0.0.5:7001")]
pub struct NotHostPort;

impl HostPort {
    /// The address, if the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl FromStr for HostPort {
    type Err = NotHostPort;

    fn from_str(text: &str) -> Result<HostPort, NotHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(NotHostPort)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { port.parse().map_err(|_| NotHostPort)? } else { Err(NotHostPort)? };
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').ok_or(NotHostPort)?;
                address.parse::<Ipv6Addr>().map_err(|_| NotHostPort)?;
                address
            }
            None => host,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let name = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
        if name || host.parse::<Ipv6Addr>().is_ok() && text.starts_with('[') {
            Ok(HostPort { host: host.to_owned(), port })
        } else {
            Err(NotHostPort)
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> HostPort {
        HostPort { host: address.ip().to_string(), port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_the_same() {
        for text in ["10.0.0.5:7001", "db-1.internal:0", "[::1]:65535", "localhost:80"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let v6: SocketAddr = "[::1]:9".parse().unwrap();
        assert_eq!(HostPort::from(v6).socket_addr(), Some(v6));
        assert_eq!("localhost:80".parse::<HostPort>().unwrap().socket_addr(), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":1",
            "a",
            "a:",
            "a:b",
            "a:65536",
            "a:+1",
            "::1:80",
            "[::1:80",
            "[a]:80",
            "a b:1",
            "http://a:1",
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(NotHostPort), "{text}");
        }
    }
}
