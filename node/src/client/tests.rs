//! The client against servers on loopback that keep, close, break and stall connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::net::TcpListener;

fn run<F: Future<Output = ()>>(test: F) {
    task::block_on(1, test).unwrap();
}

fn soon() -> Instant {
    time::now() + Duration::from_secs(5)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads one request, as far as the end of its headers and of its `Content-Length`.
async fn take_request(stream: &mut TcpStream) -> String {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the client closed in the middle of {text:?}");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// What hyper's own server, over [`HyperIo`], says of a request: its target, headers and body.
async fn echo(
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = |name| header_text(&head.headers, name).unwrap_or_default();
    let told = format!(
        "{} {} host={} type={} id={} length={}",
        head.method,
        head.uri,
        text(header::HOST),
        text(header::CONTENT_TYPE),
        text(REQUEST_ID),
        body.len()
    );
    let mut response = hyper::Response::new(Full::new(Bytes::from(told)));
    *response.status_mut() = hyper::StatusCode::MULTIPLE_CHOICES;
    if let Some(context) = head.headers.get(CAUSAL_CONTEXT) {
        response.headers_mut().insert(CAUSAL_CONTEXT, context.clone());
    }
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
    Ok(response)
}

#[test]
fn requests_and_answers_go_over_one_connection() {
    run(async {
        let (listener, address) = listen().await;
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(HyperIo::new(stream), service_fn(echo));
                task::spawn(served);
            }
        });
        let mut client = Client::new(address);
        let put = Request {
            request_id: Some("r-1".to_owned()),
            ..Request::put("/v1/kv/b/k?w=1", vec![b'1'; 300_000])
        };
        let answer = client.send(put.with_context(Some("tok".to_owned())), soon()).await.unwrap();
        let told =
            format!("PUT /v1/kv/b/k?w=1 host={address} type=application/json id=r-1 length=300000");
        assert_eq!(answer.body, told);
        assert_eq!((answer.status, answer.retry_after), (300, Some(7)));
        assert_eq!(answer.context.as_deref(), Some("tok"));
        for _ in 0..3 {
            let answer = client.send(Request::get("/x"), soon()).await.unwrap();
            assert_eq!(answer.body, format!("GET /x host={address} type= id= length=0"));
            assert_eq!((answer.context, answer.content_type), (None, None));
        }
        assert!(client.is_connected());
        assert_eq!(accepted.load(Ordering::Relaxed), 1, "connections");
        // As if it had rested for IDLE_MAX: its machine may have lost its power meanwhile.
        client.connection.as_mut().unwrap().stale_at = time::now();
        client.send(Request::get("/x"), soon()).await.unwrap();
        assert_eq!(accepted.load(Ordering::Relaxed), 2, "connections");
    });
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_closed_between_requests_is_opened_again() {
    run(async {
        let (listener, address) = listen().await;
        let server = task::spawn(async move {
            for _ in 0..50 {
                let (mut stream, _) = listener.accept().await.unwrap();
                take_request(&mut stream).await;
                stream.write_all(OK).await.unwrap();
            }
        });
        let mut client = Client::new(address);
        for _ in 0..50 {
            assert_eq!(client.send(Request::get("/"), soon()).await.unwrap().body, "ok");
            // Until the FIN was seen; a request sent before that may rightly break.
            while client.is_connected() {
                time::sleep(Duration::from_millis(1)).await;
            }
        }
        server.await.unwrap();
    });
}

#[test]
fn a_closed_port_says_that_nothing_was_sent() {
    run(async {
        let (listener, address) = listen().await;
        drop(listener);
        let error = Client::new(address).send(Request::get("/"), soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
        assert!(error.to_string().ends_with("is a node running there?"), "{error}");
    });
}

#[test]
fn a_connection_that_breaks_in_an_answer_leaves_the_outcome_unknown() {
    run(async {
        let (listener, address) = listen().await;
        let server = task::spawn(async move {
            for answer in [&b""[..], b"HTTP/1.1 200 O", &OK[..OK.len() - 1], b"SMTP?\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                take_request(&mut stream).await;
                stream.write_all(answer).await.unwrap();
            }
            let (mut stream, _) = listener.accept().await.unwrap();
            take_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        });
        let mut client = Client::new(address);
        for _ in 0..4 {
            let error = client.send(Request::get("/"), soon()).await.unwrap_err();
            assert!(matches!(error, ClientError::Broken { .. }), "{error}");
        }
        assert_eq!(client.send(Request::get("/"), soon()).await.unwrap().status, 200);
        server.await.unwrap();
    });
}

#[test]
fn the_deadline_ends_a_request_and_closes_its_connection() {
    run(async {
        let (listener, address) = listen().await;
        let mut client = Client::new(address);
        let server = task::spawn(async move {
            for part in [&b""[..], &OK[..OK.len() - 1]] {
                let (mut stream, _) = listener.accept().await.unwrap();
                take_request(&mut stream).await;
                stream.write_all(part).await.unwrap();
                let closed = stream.read(&mut [0]).await;
                assert_eq!(closed.unwrap_or_default(), 0, "the client closed");
            }
        });
        for _ in 0..2 {
            let deadline = time::now() + Duration::from_millis(50);
            let error = client.send(Request::get("/"), deadline).await.unwrap_err();
            assert!(matches!(error, ClientError::Deadline { sent: true, .. }), "{error}");
            assert!(time::now() >= deadline);
        }
        server.await.unwrap();
        let error = client.send(Request::get("/"), Instant::from_nanos(0)).await.unwrap_err();
        assert!(matches!(error, ClientError::Deadline { sent: false, .. }), "{error}");
    });
}

#[test]
fn a_dropped_client_closes_its_connection() {
    run(async {
        let (listener, address) = listen().await;
        let mut client = Client::new(address);
        let server = task::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            take_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            stream.read(&mut [0]).await.unwrap()
        });
        let answer = client.send(Request::get("/"), soon()).await;
        assert_eq!(answer.unwrap().status, 200);
        time::sleep(Duration::from_millis(10)).await;
        assert!(!server.is_finished(), "the connection is kept");
        drop(client);
        assert_eq!(server.await.unwrap(), 0);
    });
}

#[test]
fn an_answer_over_the_limit_is_refused() {
    run(async {
        let (listener, address) = listen().await;
        let chunked =
            b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n2\r\nok\r\n0\r\n\r\n";
        let server = task::spawn(async move {
            for answer in [OK, chunked] {
                let (mut stream, _) = listener.accept().await.unwrap();
                take_request(&mut stream).await;
                stream.write_all(answer).await.unwrap();
                stream.read(&mut [0]).await.unwrap_or_default();
            }
        });
        let mut client = Client::new(address).body_bytes_max(1);
        let error = client.send(Request::get("/"), soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::TooLarge { status: 200, .. }), "{error}");
        let mut client = client.body_bytes_max(3);
        let error = client.send(Request::get("/"), soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::TooLarge { status: 500, .. }), "{error}");
        server.await.unwrap();
    });
}

#[test]
fn chunks_are_put_together() {
    run(async {
        let (listener, address) = listen().await;
        task::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            take_request(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            for chunk in ["3\r\nabc\r\n", "1\r\nd\r\n", "2\r\nef\r\n", "0\r\n\r\n"] {
                stream.write_all(chunk.as_bytes()).await.unwrap();
                time::sleep(Duration::from_millis(1)).await;
            }
        });
        let answer = Client::new(address).send(Request::delete("/"), soon()).await;
        assert_eq!(answer.unwrap().body, "abcdef");
    });
}

#[test]
fn what_cannot_be_sent_is_said_before_connecting() {
    run(async {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        for request in [
            Request::get("/a b"),
            Request::get("/").with_context(Some("a\nb".to_owned())),
            Request { request_id: Some("\u{0}".to_owned()), ..Request::get("/") },
        ] {
            let error = Client::new(nowhere).send(request, soon()).await.unwrap_err();
            assert!(matches!(error, ClientError::Invalid { .. }), "{error}");
        }
    });
}

#[test]
fn targets_are_percent_encoded() {
    assert_eq!(kv_target("b", "k", &[]), "/v1/kv/b/k");
    assert_eq!(
        kv_target("b/1", "a/b c?é", &[("w", "1"), ("ttl", "5 s")]),
        "/v1/kv/b%2F1/a/b%20c%3F%C3%A9?w=1&ttl=5%20s"
    );
}
