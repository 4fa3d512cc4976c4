//! Rows: datagrams.

use std::net::SocketAddr;
use std::time::Duration;

use starling::runtime::net::UdpSocket;
use starling::runtime::time;

use crate::row;
use crate::stage::Stage;

async fn socket(stage: &Stage) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn datagrams_keep_their_boundaries_and_name_their_sender() {
    row(&["one, from a: true", "", "three"], async |stage, notes| {
        let ((a, a_address), (b, b_address)) = (socket(&stage).await, socket(&stage).await);
        for text in ["one", "", "three"] {
            a.send_to(text.as_bytes(), b_address).await.unwrap();
        }
        let mut buf = [0; 64];
        let (len, from) = b.recv_from(&mut buf).await.unwrap();
        let text = String::from_utf8_lossy(&buf[..len]).into_owned();
        notes.add(format!("{text}, from a: {}", from == a_address));
        for _ in 0..2 {
            let (len, _) = b.recv_from(&mut buf).await.unwrap();
            notes.add(String::from_utf8_lossy(&buf[..len]));
        }
    });
}

#[test]
fn a_datagram_larger_than_the_buffer_is_cut() {
    row(&["hel", "next"], async |stage, notes| {
        let ((a, _), (b, b_address)) = (socket(&stage).await, socket(&stage).await);
        a.send_to(b"hello", b_address).await.unwrap();
        a.send_to(b"next", b_address).await.unwrap();
        for size in [3, 8] {
            let mut buf = vec![0; size];
            let (len, _) = b.recv_from(&mut buf).await.unwrap();
            notes.add(String::from_utf8_lossy(&buf[..len]));
        }
    });
}

#[test]
fn a_closed_port_swallows_datagrams() {
    let expected = ["first: ok", "second: ok", "receive: deadline passed"];
    row(&expected, async |stage, notes| {
        let ((a, _), (b, b_address)) = (socket(&stage).await, socket(&stage).await);
        drop(b);
        notes.outcome("first", &a.send_to(b"x", b_address).await);
        time::sleep(Duration::from_millis(20)).await;
        notes.outcome("second", &a.send_to(b"x", b_address).await);
        let mut buf = [0; 8];
        let answer = time::timeout(Duration::from_millis(50), a.recv_from(&mut buf)).await;
        notes.add(format!("receive: {}", answer.unwrap_err()));
    });
}

#[test]
fn a_datagram_has_a_largest_size() {
    row(&["65507: ok", "65508: Uncategorized"], async |stage, notes| {
        let ((a, _), (_b, b_address)) = (socket(&stage).await, socket(&stage).await);
        for size in [65_507, 65_508] {
            notes.outcome(&size.to_string(), &a.send_to(&vec![0; size], b_address).await);
        }
    });
}

#[test]
fn a_dropped_receive_loses_nothing() {
    row(&["timed out", "kept", "also kept"], async |stage, notes| {
        let ((a, _), (b, b_address)) = (socket(&stage).await, socket(&stage).await);
        let mut buf = [0; 16];
        let early = time::timeout(Duration::from_millis(20), b.recv_from(&mut buf)).await;
        notes.add(if early.is_err() { "timed out" } else { "received what nobody sent" });
        for text in ["kept", "also kept"] {
            a.send_to(text.as_bytes(), b_address).await.unwrap();
        }
        for _ in 0..2 {
            let (len, _) = b.recv_from(&mut buf).await.unwrap();
            notes.add(String::from_utf8_lossy(&buf[..len]));
        }
    });
}

#[test]
fn a_full_queue_drops_the_latest() {
    row(&["some lost: true", "first ones in order: true"], async |stage, notes| {
        let ((a, _), (b, b_address)) = (socket(&stage).await, socket(&stage).await);
        for n in 0..2_000_u32 {
            let mut data = vec![0; 1_000];
            data[..4].copy_from_slice(&n.to_le_bytes());
            a.send_to(&data, b_address).await.unwrap();
        }
        let mut received = Vec::new();
        let mut buf = [0; 1_000];
        while time::timeout(Duration::from_millis(50), b.recv_from(&mut buf)).await.is_ok() {
            received.push(u32::from_le_bytes([buf[0], buf[1], buf[2], buf[3]]));
        }
        notes.add(format!("some lost: {}", received.len() < 2_000));
        let in_order = received.iter().copied().eq(0..u32::try_from(received.len()).unwrap());
        notes.add(format!("first ones in order: {in_order}"));
    });
}

#[test]
fn a_port_in_use_is_free_again_when_its_socket_is_dropped() {
    row(&["second: AddrInUse", "after drop: ok"], async |stage, notes| {
        let (first, address) = socket(&stage).await;
        notes.outcome("second", &UdpSocket::bind(address).await);
        drop(first);
        notes.outcome("after drop", &UdpSocket::bind(address).await);
    });
}
