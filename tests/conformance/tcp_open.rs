//! Rows: how connections begin, or do not.

use std::net::SocketAddr;
use std::time::Duration;

use starling::runtime::net::{TcpListener, TcpStream, lookup_host};
use starling::runtime::{task, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Part, read_text};
use crate::{outcome, row};

#[test]
fn connect_to_a_closed_port() {
    row(&["connect: ConnectionRefused"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        notes.outcome("connect", &TcpStream::connect(address).await);
    });
}

#[test]
fn connect_to_a_dead_machine_is_silence() {
    row(&["connect: deadline passed"], async |mut stage, notes| {
        let address = stage.dead_address().await;
        let attempt = TcpStream::connect(address);
        let elapsed = time::timeout(Duration::from_millis(500), attempt).await.unwrap_err();
        notes.add(format!("connect: {elapsed}"));
    });
}

#[test]
fn an_address_in_use_is_free_again_when_its_listener_is_dropped() {
    row(&["second: AddrInUse", "wildcard: AddrInUse", "after drop: ok"], async |stage, notes| {
        let first = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = first.local_addr().unwrap();
        notes.outcome("second", &TcpListener::bind(address).await);
        let wildcard = SocketAddr::from(([0, 0, 0, 0], address.port()));
        notes.outcome("wildcard", &TcpListener::bind(wildcard).await);
        drop(first);
        notes.outcome("after drop", &TcpListener::bind(address).await);
    });
}

#[test]
fn an_address_of_another_machine_cannot_be_bound() {
    row(&["bind: AddrNotAvailable"], async |_stage, notes| {
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        notes.outcome("bind", &TcpListener::bind(foreign).await);
    });
}

#[test]
fn port_zero_picks_different_ports() {
    row(&["different: true, zero: false"], async |stage, notes| {
        let any = SocketAddr::new(stage.ip(), 0);
        let (one, two) = (TcpListener::bind(any).await, TcpListener::bind(any).await);
        let ports = [one, two].map(|l| l.unwrap().local_addr().unwrap().port());
        notes.add(format!("different: {}, zero: {}", ports[0] != ports[1], ports.contains(&0)));
    });
}

#[test]
fn a_wildcard_listener_answers_on_every_own_address() {
    row(&["own: ok", "loopback: ok"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = TcpStream::connect(SocketAddr::new(stage.ip(), port)).await;
        notes.outcome("own", &own);
        let loopback = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
        notes.outcome("loopback", &loopback);
    });
}

#[test]
fn connections_wait_to_be_accepted_with_their_bytes() {
    row(&["connected 3", "accepted 0", "accepted 1", "accepted 2"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for n in 0..3 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&[b'0' + n]).await.unwrap();
            clients.push(client);
        }
        notes.add(format!("connected {}", clients.len()));
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            notes.add(format!("accepted {}", read_text(&mut stream, 1).await));
        }
    });
}

#[test]
fn both_ends_agree_on_their_addresses() {
    row(&["true", "true", "true"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, from) = listener.accept().await.unwrap();
        notes.add((client.local_addr().unwrap() == from).to_string());
        notes.add((server.peer_addr().unwrap() == from).to_string());
        notes.add((client.peer_addr().unwrap() == server.local_addr().unwrap()).to_string());
    });
}

#[test]
fn a_dropped_listener_resets_what_it_has_not_accepted() {
    row(&["read: ConnectionReset", "connect: ConnectionRefused"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        // Until the server's side is established too.
        time::sleep(Duration::from_millis(20)).await;
        drop(listener);
        notes.outcome("read", &client.read(&mut [0; 8]).await);
        notes.outcome("connect", &TcpStream::connect(address).await);
    });
}

/// Over loopback the kernel completes the handshake within the first poll, so that the listener
/// may see a connection that ends at once; over a network it may see nothing. Either way the next
/// one works.
#[test]
fn a_dropped_attempt_to_connect_leaves_the_listener_usable() {
    row(&["polled and dropped", "next: hi"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let attempt = TcpStream::connect(address);
        drop(time::timeout(Duration::ZERO, attempt).await);
        notes.add("polled and dropped");
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hi").await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = [0; 2];
            if let Ok(2) = stream.read(&mut text).await {
                notes.add(format!("next: {}", String::from_utf8_lossy(&text)));
                break;
            }
        }
    });
}

#[test]
fn accept_is_cancel_safe() {
    row(&["timed out", "accepted: ok"], async |stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let early = time::timeout(Duration::from_millis(20), listener.accept()).await;
        notes.add(if early.is_err() { "timed out" } else { "accepted what nobody opened" });
        let client = task::spawn(TcpStream::connect(address));
        notes.add(format!("accepted: {}", outcome(&listener.accept().await)));
        drop(client.await);
    });
}

#[test]
fn a_restarted_peer_is_refused_and_then_reached() {
    let expected = ["greeted: hello", "killed: ConnectionRefused", "again: hello"];
    row(&expected, async |mut stage, notes| {
        let address = stage.peer_address();
        let mut peer = stage.peer(Part::Greet, address);
        let mut stream = patiently(address).await;
        notes.add(format!("greeted: {}", read_text(&mut stream, 5).await));
        peer.kill();
        notes.outcome("killed", &TcpStream::connect(address).await);
        peer.start_again();
        let mut stream = patiently(address).await;
        notes.add(format!("again: {}", read_text(&mut stream, 5).await));
    });
}

/// Connects as soon as somebody listens.
async fn patiently(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[test]
fn an_address_literal_needs_no_resolver() {
    row(&["[127.0.0.1:80]", "no port: InvalidInput"], async |_stage, notes| {
        notes.add(format!("{:?}", lookup_host("127.0.0.1:80").await.unwrap()));
        notes.outcome("no port", &lookup_host("127.0.0.1").await);
    });
}
