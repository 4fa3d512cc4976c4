//! What the HTTP server does with clients that are fast, slow, or rude.

use std::time::Duration;

use starling::client::Request;
use starling::runtime::net::TcpStream;
use starling::runtime::{task, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cluster::{Cluster, story};
use super::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

async fn connect(cluster: &Cluster) -> TcpStream {
    TcpStream::connect(cluster.addresses[0]).await.unwrap()
}

/// Reads until the server closes; an error counts as closed, with what came before it.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = time::timeout(LIMIT, stream.read_to_end(&mut all)).await;
    assert!(read.is_ok(), "the server kept the connection open");
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    story(async {
        let cluster = Cluster::start(1, |_| {}).await;
        let mut stream = connect(&cluster).await;
        let put = |value: u8| {
            format!("PUT /v1/kv/b/k{value} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n{value}")
        };
        let get = |value: u8, more: &str| {
            format!("GET /v1/kv/b/k{value} HTTP/1.1\r\nhost: x\r\n{more}\r\n")
        };
        let all = [put(1), put(2), get(1, ""), get(2, "connection: close\r\n")].concat();
        stream.write_all(all.as_bytes()).await.unwrap();
        let answers = rest(&mut stream).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
        let bodies: Vec<&str> = answers
            .split("\r\n\r\n")
            .skip(1)
            .filter_map(|part| part.split("HTTP/1.1").next())
            .collect();
        assert_eq!(bodies[2..], ["1", "2"], "{answers}");
        cluster.stop().await;
    });
}

#[test]
fn a_head_that_never_ends_and_an_idle_connection_are_closed() {
    story(async {
        let cluster = Cluster::start(1, |config| {
            config.timeouts.header_read_ms = 200;
            config.timeouts.idle_ms = 200;
        })
        .await;
        let mut slow = connect(&cluster).await;
        slow.write_all(b"GET /health/live HTTP/1.1\r\nho").await.unwrap();
        assert_eq!(rest(&mut slow).await, "");
        let mut idle = connect(&cluster).await;
        assert_eq!(rest(&mut idle).await, "");
        assert_eq!(cluster.send(0, Request::get("/health/live")).await.status, 200);
        cluster.stop().await;
    });
}

#[test]
fn a_body_that_never_ends_is_refused() {
    story(async {
        let cluster = Cluster::start(1, |config| config.timeouts.body_read_ms = 200).await;
        let mut stream = connect(&cluster).await;
        let part = "PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n\"half";
        stream.write_all(part.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        cluster.stop().await;
    });
}

#[test]
fn a_head_over_the_limit_is_431_and_garbage_is_400() {
    story(async {
        let cluster = Cluster::start(1, |config| config.limits.header_bytes = 8192).await;
        let mut large = connect(&cluster).await;
        let head = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(20_000));
        // The server may close before it took all of it.
        let _closed = large.write_all(head.as_bytes()).await;
        let answer = rest(&mut large).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        let mut garbage = connect(&cluster).await;
        garbage.write_all(b"\x16\x03\x01\x02\x00\x01\r\n\r\n").await.unwrap();
        let answer = rest(&mut garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(cluster.send(0, Request::get("/health/live")).await.status, 200);
        cluster.stop().await;
    });
}

#[test]
fn a_stop_lets_the_request_under_way_finish_and_closes_idle_connections() {
    story(async {
        let mut cluster = Cluster::start(1, |_| {}).await;
        let mut idle = connect(&cluster).await;
        let mut busy = connect(&cluster).await;
        let head = "PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n";
        busy.write_all(head.as_bytes()).await.unwrap();
        until("the request is under way", async || {
            if cluster.nodes[0].app().in_flight() > 0 { Ok(()) } else { Err("none is".to_owned()) }
        })
        .await;
        let address = cluster.addresses[0];
        let node = cluster.nodes.remove(0);
        let stopping = task::spawn(node.stop());
        assert_eq!(rest(&mut idle).await, "");
        until("it takes no new connection", async || {
            let taken = TcpStream::connect(address).await;
            taken.map_or(Ok(()), |_| Err("it took one".to_owned()))
        })
        .await;
        busy.write_all(b"1").await.unwrap();
        let answer = rest(&mut busy).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        stopping.await.unwrap();
    });
}
