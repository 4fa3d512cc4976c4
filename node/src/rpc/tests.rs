//! Both sides over real loopback sockets. Nothing sleeps to wait for something: tests wait for the
//! thing itself.

mod admission;
mod bounds;
mod calls;
mod ending;
mod lazy;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::frame::{self, FrameReader, Kind, PAYLOAD_BYTES_MAX};
use super::handshake::{self, HANDSHAKE_BYTES_MAX, HandshakeRefusal};
use super::identity::{LocalInfo, PeerInfo};
use super::message::{self, Refusal, Reply, Request, RequestHead};
use super::{
    CallError, Handled, Handler, NotSent, Options, Peer, PeerState, Peers, Server, ServerCounters,
};
use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
use crate::domain::key::Key;
use crate::domain::object::{Content, Object, Sibling};
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::time;

fn run<T>(test: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    task::block_on(1, async { time::timeout(limit, test).await.expect("the test got stuck") })
        .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = time::now() + Duration::from_secs(20);
    while !holds() {
        assert!(time::now() < deadline, "never came true: {what}");
        time::sleep(Duration::from_millis(1)).await;
    }
}

fn local(name: &str) -> LocalInfo {
    LocalInfo::new("test", name, NodeId(u64::from(name.as_bytes()[1])), 1)
}

fn head(limit: Duration) -> RequestHead {
    RequestHead { request_id: 77, deadline: time::now() + limit }
}

fn long() -> RequestHead {
    head(Duration::from_secs(30))
}

fn key(name: impl ToString) -> Key {
    Key::new("b", &name.to_string()).unwrap()
}

fn fetch(name: impl ToString) -> Request {
    Request::Fetch { key: key(name), known: None }
}

fn object(value: Vec<u8>) -> Arc<Object> {
    let dot = Dot { actor: Actor { node: NodeId(1), epoch: 1 }, counter: 1 };
    let content = Content::Value(value.into());
    let new = Sibling { dot, content, written_at_ms: 1, expires_at_ms: None };
    let mut object = Object::new();
    object.write(&CausalContext::new(), new);
    Arc::new(object)
}

/// Limits that a test can wait for.
fn quick() -> Options {
    Options {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(10),
        ..Options::default()
    }
}

type Answer = dyn Fn(RequestHead, &PeerInfo, Request) -> Handled + Send + Sync;

struct Scripted {
    answer: Box<Answer>,
}

impl Handler for Scripted {
    fn handle(&self, head: RequestHead, from: &PeerInfo, request: Request) -> Handled {
        (self.answer)(head, from, request)
    }

    fn is_member(&self, name: &str) -> bool {
        name != "n9"
    }
}

/// A server "n2" that answers with a closure.
struct Running {
    server: Server,
    addr: String,
    shutdown: Arc<Notify>,
    done: JoinHandle<()>,
}

async fn server_at(
    addr: &str,
    options: Options,
    answer: impl Fn(RequestHead, &PeerInfo, Request) -> Handled + Send + Sync + 'static,
) -> Running {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let handler = Arc::new(Scripted { answer: Box::new(answer) });
    let server = Server::new(&local("n2"), handler, options);
    let shutdown = Arc::new(Notify::new());
    let (runner, stop) = (server.clone(), Arc::clone(&shutdown));
    let done = task::spawn(async move { runner.serve(listener, stop.notified()).await });
    Running { server, addr, shutdown, done }
}

async fn server(
    options: Options,
    answer: impl Fn(RequestHead, &PeerInfo, Request) -> Handled + Send + Sync + 'static,
) -> Running {
    server_at("127.0.0.1:0", options, answer).await
}

fn stored(_: RequestHead, _: &PeerInfo, _: Request) -> Handled {
    Handled::Now(Reply::Stored)
}

fn never(_: RequestHead, _: &PeerInfo, _: Request) -> Handled {
    Handled::Later(Box::pin(std::future::pending()))
}

/// "n1", who calls one peer at `addr` and takes it for "n2".
fn caller(addr: &str, options: Options) -> (Peers, Peer) {
    let peers = Peers::start(&local("n1"), vec![("n2".to_owned(), addr.to_owned())], options);
    let peer = peers.get("n2").unwrap();
    (peers, peer)
}

async fn connected(addr: &str, options: Options) -> (Peers, Peer) {
    let (peers, peer) = caller(addr, options);
    assert!(peer.wait_usable(time::now() + Duration::from_secs(20)).await, "{:?}", peer.status());
    (peers, peer)
}

/// The called side by hand: whatever it does after the handshake is up to the test.
async fn accept_by_hand(listener: &TcpListener) -> (TcpStream, FrameReader) {
    let (mut stream, addr) = listener.accept().await.unwrap();
    let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
    let admit = |_: &str| Ok(());
    handshake::answer(&mut stream, &mut frames, &local("n2"), addr, admit).await.unwrap();
    frames.set_payload_bytes_max(PAYLOAD_BYTES_MAX);
    (stream, frames)
}

/// The calling side by hand.
async fn call_by_hand(addr: &str) -> (TcpStream, FrameReader) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
    let to = addr.parse().unwrap();
    handshake::call(&mut stream, &mut frames, &local("n1"), "n2", to).await.unwrap();
    frames.set_payload_bytes_max(PAYLOAD_BYTES_MAX);
    (stream, frames)
}

fn request_frame(number: u64, remaining: Duration, request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    message::encode_request(number, 1, remaining, request, PAYLOAD_BYTES_MAX, &mut out).unwrap();
    out
}

/// Reads until a request that is no ping has come.
async fn next_request(stream: &mut TcpStream, frames: &mut FrameReader) {
    loop {
        while let Some(frame) = frames.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::Request);
            let (_, _, request) = message::decode_request(frame.payload, time::now()).unwrap();
            if request != Request::Ping {
                return;
            }
        }
        assert_ne!(frames.fill(stream).await.unwrap(), 0, "closed");
    }
}

async fn next_reply(stream: &mut TcpStream, frames: &mut FrameReader) -> Option<(u64, Reply)> {
    loop {
        if let Some(frame) = frames.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::Reply);
            return Some(message::decode_reply(frame.payload).unwrap());
        }
        // A connection that was cut off may end either way.
        if frames.fill(stream).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
