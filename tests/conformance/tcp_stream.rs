//! Rows: bytes between two ends that are both alive.

use std::net::SocketAddr;
use std::time::Duration;

use starling::runtime::net::{TcpListener, TcpStream};
use starling::runtime::{task, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::row;
use crate::stage::{Stage, read_text};

/// Two ends of a fresh connection: who asked, who accepted.
pub(crate) async fn pair(stage: &Stage) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::new(stage.ip(), 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

#[test]
fn a_half_closed_connection_still_carries_the_other_way() {
    row(&["server: ask, end", "client: answer, end"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        notes.add(format!("server: {text}, end"));
        time::sleep(Duration::from_millis(20)).await;
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        notes.add(format!("client: {text}, end"));
    });
}

#[test]
fn the_end_comes_after_all_bytes_and_stays() {
    row(&["100000 bytes in order", "end", "end"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        let sent = (0..100_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
        let copy = sent.clone();
        let writer = task::spawn(async move { client.write_all(&copy).await });
        let mut received = vec![0; sent.len()];
        server.read_exact(&mut received).await.unwrap();
        writer.await.unwrap().unwrap();
        notes.add(format!(
            "{} bytes {}",
            received.len(),
            if received == sent { "in order" } else { "mixed up" }
        ));
        for _ in 0..2 {
            if server.read(&mut [0; 8]).await.unwrap() == 0 {
                notes.add("end");
            }
        }
    });
}

#[test]
fn reads_are_as_short_as_their_buffer() {
    row(&["abc", "def", "ghi", "j"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        client.write_all(b"abcdefghij").await.unwrap();
        time::sleep(Duration::from_millis(20)).await;
        for _ in 0..4 {
            let mut buf = [0; 3];
            let len = server.read(&mut buf).await.unwrap();
            notes.add(String::from_utf8_lossy(&buf[..len]));
        }
    });
}

#[test]
fn a_full_window_holds_the_writer_until_the_reader_reads() {
    let expected = ["writer blocked, more than 64 KiB on the way: true", "all bytes arrived: true"];
    row(&expected, async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        let chunk = vec![7; 16 * 1024];
        let mut written = 0;
        while let Ok(len) = time::timeout(Duration::from_millis(200), client.write(&chunk)).await {
            written += len.unwrap();
            assert!(written < 1 << 30, "nothing holds the writer");
        }
        let more = written > 64 * 1024;
        notes.add(format!("writer blocked, more than 64 KiB on the way: {more}"));
        let reader = task::spawn(async move {
            let mut all = 0;
            let mut buf = vec![0; 100_000];
            loop {
                match server.read(&mut buf).await.unwrap() {
                    0 => return all,
                    len => all += len,
                }
            }
        });
        client.write_all(&chunk).await.unwrap();
        client.shutdown().await.unwrap();
        let all = reader.await.unwrap();
        notes.add(format!("all bytes arrived: {}", all == written + chunk.len()));
    });
}

#[test]
fn halves_work_in_two_tasks_and_the_writing_half_ends_its_stream() {
    row(&["echoed: 50000", "read after own end: late"], async |stage, notes| {
        let (client, mut server) = pair(&stage).await;
        let (mut read, mut write) = client.into_split();
        let echo = task::spawn(async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            time::sleep(Duration::from_millis(20)).await;
            server.write_all(b"late").await.unwrap();
            all.len()
        });
        let writer = task::spawn(async move { write.write_all(&[1; 50_000]).await });
        writer.await.unwrap().unwrap();
        notes.add(format!("echoed: {}", echo.await.unwrap()));
        let mut text = String::new();
        read.read_to_string(&mut text).await.unwrap();
        notes.add(format!("read after own end: {text}"));
    });
}

#[test]
fn dropping_the_reading_half_alone_changes_nothing_for_the_writer() {
    row(&["after drop: ok", "peer reads: hello"], async |stage, notes| {
        let (client, mut server) = pair(&stage).await;
        let (read, mut write) = client.into_split();
        drop(read);
        server.write_all(b"nobody reads this").await.unwrap();
        time::sleep(Duration::from_millis(20)).await;
        notes.outcome("after drop", &write.write_all(b"hello").await);
        notes.add(format!("peer reads: {}", read_text(&mut server, 5).await));
    });
}

#[test]
fn nothing_can_be_written_after_the_own_end() {
    row(&["write: BrokenPipe", "shutdown again: ok", "read: late"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        client.shutdown().await.unwrap();
        notes.outcome("write", &client.write(b"x").await);
        notes.outcome("shutdown again", &client.shutdown().await);
        server.write_all(b"late").await.unwrap();
        notes.add(format!("read: {}", read_text(&mut client, 4).await));
    });
}

#[test]
fn a_write_of_nothing_is_no_end() {
    row(&["write: 0", "read: x"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        notes.add(format!("write: {}", client.write(b"").await.unwrap()));
        client.write_all(b"x").await.unwrap();
        notes.add(format!("read: {}", read_text(&mut server, 1).await));
    });
}

#[test]
fn a_dropped_read_loses_nothing() {
    row(&["timed out", "read: kept"], async |stage, notes| {
        let (mut client, mut server) = pair(&stage).await;
        let early = time::timeout(Duration::from_millis(20), server.read(&mut [0; 8])).await;
        notes.add(if early.is_err() { "timed out" } else { "read what nobody wrote" });
        client.write_all(b"kept").await.unwrap();
        notes.add(format!("read: {}", read_text(&mut server, 4).await));
    });
}
