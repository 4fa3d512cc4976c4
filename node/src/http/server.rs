//! The accept loop and the life of a connection.
//!
//! Each connection is one task with hyper's HTTP/1.1 state machine: keep-alive, pipelining, bounded
//! heads. What hyper leaves to its caller is done here without a timer per request: the connection
//! notes when it last changed phase, and one sweep a second closes those that were too slow.
//!
//! | phase | since | closed after |
//! |---|---|---|
//! | idle | the last answer left | `timeouts.idle_ms` |
//! | head | the first byte of a request | `timeouts.header_read_ms` |
//! | handling | the head is complete | never: requests have deadlines of their own |
//! | writing | the client's window is full | `timeouts.write_ms` |
//!
//! Stopping: no new connections; idle ones close; busy ones finish their request and close; after
//! `timeouts.drain_ms` the rest is cut.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, Semaphore};

use super::io::HyperIo;
use super::site::Site;
use super::waiting::Front;
use crate::config::Config;
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::time::Instant;
use crate::runtime::{event, task, time};
use crate::service::metrics::Metrics;

/// Pause after an accept that failed (out of descriptors, say), so as not to spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long a connection may stay in each phase.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's accept queue.
    pub connections: usize,
    /// Bytes of a request's line and headers; more is 431.
    pub head_bytes: usize,
    /// Without a request.
    pub idle: Duration,
    /// From a head's first byte to its last.
    pub head: Duration,
    /// With an answer that the client does not take.
    pub write: Duration,
}

impl Limits {
    /// The limits that `config` sets.
    pub fn from_config(config: &Config) -> Self {
        Self {
            connections: config.limits.connections,
            head_bytes: config.limits.header_bytes,
            idle: Duration::from_millis(config.timeouts.idle_ms),
            head: Duration::from_millis(config.timeouts.header_read_ms),
            write: Duration::from_millis(config.timeouts.write_ms),
        }
    }
}

/// Serves HTTP on one listener until told to stop.
pub struct Server {
    connections: Arc<Connections>,
    accepting: task::JoinHandle<()>,
    sweeping: task::JoinHandle<()>,
}

impl Server {
    /// Starts to accept connections and to answer their requests by what `front` has for them.
    pub fn start(
        listener: TcpListener,
        front: Front,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let connections = Arc::new(Connections::default());
        let accepting =
            task::spawn(accept(listener, front, limits, connections.clone(), metrics.clone()));
        let sweeping = task::spawn(sweep(connections.clone(), limits, metrics));
        Self { connections, accepting, sweeping }
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.lock().open.len()
    }

    /// Stops accepting, lets requests under way finish for at most `drain`, then cuts what is left.
    pub async fn stop(self, drain: Duration) {
        self.accepting.abort();
        self.connections.order_all(Order::Drain);
        let emptied = time::timeout(drain, self.connections.emptied()).await;
        if emptied.is_err() {
            tracing::warn!(left = self.connections(), "drain time is over: cutting connections");
            self.connections.order_all(Order::Cut);
        }
        self.sweeping.abort();
    }
}

async fn accept(
    listener: TcpListener,
    front: Front,
    limits: Limits,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection: trying again");
                time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection is gone already");
            continue;
        }
        metrics.http_connections.increment();
        let (site, entry) = (front.current(), connections.enter());
        task::spawn(async move {
            let _permit = permit;
            serve(stream, &site, limits.head_bytes, &entry.connection).await;
        });
    }
}

/// Answers the requests of one connection until it closes or is told to.
async fn serve(stream: TcpStream, site: &Site, head_bytes: usize, connection: &Arc<Connection>) {
    let io = HyperIo::new(Watched { stream, connection: connection.clone() });
    let service = service_fn(|request: hyper::Request<Incoming>| {
        connection.enter(Phase::Handling);
        async move {
            let answer = site.answer(request).await;
            connection.enter(Phase::Idle);
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(head_bytes)
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            biased;
            outcome = serving.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "HTTP connection ended");
                }
                return;
            }
            () = connection.ordered.notified() => match connection.order() {
                Order::Drain => serving.as_mut().graceful_shutdown(),
                Order::Cut => return,
                Order::None => {}
            }
        }
    }
}

/// Once a second, closes the connections that stayed too long in a phase.
async fn sweep(connections: Arc<Connections>, limits: Limits, metrics: Arc<Metrics>) {
    loop {
        time::sleep(SWEEP_EVERY).await;
        let now = time::now();
        for connection in connections.all() {
            let (phase, since) = connection.phase();
            let (allowed, order) = match phase {
                Phase::Idle => (limits.idle, Order::Drain),
                Phase::Head => (limits.head, Order::Cut),
                Phase::Writing => (limits.write, Order::Cut),
                Phase::Handling => continue,
            };
            if now.since(since) > allowed {
                metrics.http_timeouts.increment();
                event::note("http_connection_timed_out", 0, phase as u64);
                connection.tell(order);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle = 0,
    Head = 1,
    Handling = 2,
    Writing = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    None = 0,
    Drain = 1,
    Cut = 2,
}

/// What the sweep and the stop need to know of one connection.
#[derive(Debug)]
struct Connection {
    /// Microseconds of the monotonic clock, shifted left by two; the phase below.
    phase: AtomicU64,
    order: AtomicU8,
    ordered: Notify,
}

impl Connection {
    fn new() -> Self {
        let this =
            Self { phase: AtomicU64::new(0), order: AtomicU8::new(0), ordered: Notify::new() };
        this.enter(Phase::Idle);
        this
    }

    fn enter(&self, phase: Phase) {
        let us = time::now().as_nanos() / 1000;
        self.phase.store(us << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> (Phase, Instant) {
        let bits = self.phase.load(Ordering::Relaxed);
        let phase = match bits & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Handling,
            _ => Phase::Writing,
        };
        (phase, Instant::from_nanos((bits >> 2) * 1000))
    }

    fn order(&self) -> Order {
        match self.order.load(Ordering::Relaxed) {
            0 => Order::None,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Relaxed);
        self.ordered.notify_one();
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    order: u8,
    open: BTreeMap<u64, Arc<Connection>>,
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Entry {
        let connection = Arc::new(Connection::new());
        let mut open = self.lock();
        let id = open.next;
        open.next += 1;
        open.open.insert(id, connection.clone());
        if open.order > 0 {
            // Accepted while stopping: it gets the order that the others got.
            connection.tell(Order::Drain);
        }
        Entry { id, connection, all: self.clone() }
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().open.values().cloned().collect()
    }

    fn order_all(&self, order: Order) {
        let mut open = self.lock();
        open.order = open.order.max(order as u8);
        for connection in open.open.values() {
            connection.tell(order);
        }
    }

    async fn emptied(&self) {
        loop {
            let closed = self.closed.notified();
            if self.lock().open.is_empty() {
                return;
            }
            closed.await;
        }
    }
}

/// A connection's place in the list; leaves it when dropped.
struct Entry {
    id: u64,
    connection: Arc<Connection>,
    all: Arc<Connections>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().open.remove(&self.id);
        self.all.closed.notify_one();
    }
}

/// A stream that notes the phases that only its bytes show: a head begun, a client not reading.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.connection.phase().0 == Phase::Idle {
            self.connection.enter(Phase::Head);
        }
        read
    }
}

impl Watched {
    fn wrote<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match (&outcome, self.connection.phase().0) {
            (Poll::Pending, Phase::Idle | Phase::Head) => self.connection.enter(Phase::Writing),
            (Poll::Ready(_), Phase::Writing) => self.connection.enter(Phase::Idle),
            (Poll::Pending, Phase::Handling | Phase::Writing)
            | (Poll::Ready(_), Phase::Idle | Phase::Head | Phase::Handling) => {}
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
