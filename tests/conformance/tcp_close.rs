//! Rows: how connections end.

use std::net::SocketAddr;
use std::time::Duration;

use starling::runtime::net::{TcpListener, TcpStream};
use starling::runtime::time;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Part, read_text};
use crate::tcp_stream::pair;
use crate::{Notes, row};

/// Long enough for a packet and its answer, in both worlds.
async fn a_moment() {
    time::sleep(Duration::from_millis(30)).await;
}

/// Notes what a read gives: a length or an error.
async fn note_read(notes: &Notes, what: &str, stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]).await {
        Ok(len) => notes.add(format!("{what}: {len}")),
        Err(e) => notes.add(format!("{what}: {:?}", e.kind())),
    }
}

#[test]
fn writes_after_the_peer_closed_fail_from_the_second_on() {
    let expected = ["first: ok", "second: BrokenPipe", "third: BrokenPipe", "read: 0"];
    row(&expected, async |stage, notes| {
        let (mut client, server) = pair(&stage).await;
        drop(server);
        a_moment().await;
        notes.outcome("first", &client.write(b"into the void").await);
        a_moment().await;
        notes.outcome("second", &client.write(b"x").await);
        notes.outcome("third", &client.write(b"x").await);
        note_read(&notes, "read", &mut client).await;
    });
}

#[test]
fn closing_with_unread_bytes_resets_the_peer() {
    let expected = ["read: ConnectionReset", "read again: 0", "write: BrokenPipe"];
    row(&expected, async |stage, notes| {
        let (mut client, server) = pair(&stage).await;
        client.write_all(b"never read").await.unwrap();
        a_moment().await;
        drop(server);
        a_moment().await;
        note_read(&notes, "read", &mut client).await;
        note_read(&notes, "read again", &mut client).await;
        notes.outcome("write", &client.write(b"x").await);
    });
}

#[test]
fn a_write_may_learn_of_the_reset_first() {
    let expected = ["write: ConnectionReset", "write again: BrokenPipe", "read: 0"];
    row(&expected, async |stage, notes| {
        let (mut client, server) = pair(&stage).await;
        client.write_all(b"never read").await.unwrap();
        a_moment().await;
        drop(server);
        a_moment().await;
        notes.outcome("write", &client.write(b"x").await);
        notes.outcome("write again", &client.write(b"x").await);
        note_read(&notes, "read", &mut client).await;
    });
}

#[test]
fn bytes_that_came_before_a_reset_can_still_be_read() {
    row(&["read: 4", "then: ConnectionReset", "then: 0"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        server.write_all(b"last").await.unwrap();
        client.write_all(b"never read").await.unwrap();
        a_moment().await;
        drop(server);
        a_moment().await;
        note_read(&notes, "read", &mut client).await;
        note_read(&notes, "then", &mut client).await;
        note_read(&notes, "then", &mut client).await;
    });
}

#[test]
fn both_ends_may_close_at_once() {
    let expected = ["client: 0", "server: 0", "client again: 0", "server again: 0"];
    row(&expected, async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        note_read(&notes, "client", &mut client).await;
        note_read(&notes, "server", &mut server).await;
        a_moment().await;
        note_read(&notes, "client again", &mut client).await;
        note_read(&notes, "server again", &mut server).await;
    });
}

#[test]
fn unsent_bytes_arrive_though_the_writer_has_closed() {
    row(&["3000000 bytes and the end"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        let reader = starling::runtime::task::spawn(async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.map(|_| all.len())
        });
        client.write_all(&vec![1; 3_000_000]).await.unwrap();
        drop(client);
        notes.add(format!("{} bytes and the end", reader.await.unwrap().unwrap()));
    });
}

/// A peer's process that is killed while we wait for more: its kernel closes for it.
#[test]
fn a_killed_peer_ends_its_stream() {
    row(&["hello", "after kill: 0"], async |mut stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let mut peer = stage.peer(Part::SayHello, listener.local_addr().unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        notes.add(read_text(&mut stream, 5).await);
        let waiting = starling::runtime::task::spawn(async move {
            a_moment().await;
            peer.kill();
        });
        note_read(&notes, "after kill", &mut stream).await;
        waiting.await.unwrap();
    });
}

#[test]
fn a_peer_killed_with_unread_bytes_resets() {
    let expected = ["hello", "after kill: ConnectionReset", "write: BrokenPipe"];
    row(&expected, async |mut stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let mut peer = stage.peer(Part::SayHello, listener.local_addr().unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        notes.add(read_text(&mut stream, 5).await);
        stream.write_all(b"never read").await.unwrap();
        a_moment().await;
        peer.kill();
        note_read(&notes, "after kill", &mut stream).await;
        notes.outcome("write", &stream.write(b"x").await);
    });
}

#[test]
fn a_peer_that_is_asked_to_stop_can_say_goodbye() {
    row(&["ready", "bye", "end: 0"], async |mut stage, notes| {
        let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
        let peer = stage.peer(Part::StopWhenAsked, listener.local_addr().unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        notes.add(read_text(&mut stream, 5).await);
        peer.ask_to_stop();
        notes.add(read_text(&mut stream, 3).await);
        note_read(&notes, "end", &mut stream).await;
    });
}
