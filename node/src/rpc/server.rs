//! The answering side of a node: accepts connections, and drains them when asked to stop.
//!
//! To drain means: accept nothing more, tell every caller goodbye, and go on answering what was asked
//! already. A caller that hears goodbye sends nothing new here and closes once its last answer has
//! come, so nothing in flight is cut off. A caller that cannot be reached hears nothing and never closes:
//! it is cut off soon after the last work ended, so that a node without its peers stops as promptly as
//! one among them. Work that does not end is cut off after [`Options::drain_timeout`].

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::connection;
use super::handshake::HandshakeRefusal;
use super::identity::{LocalInfo, PeerInfo};
use super::lock;
use super::message::{Reply, Request, RequestHead};
use super::options::Options;
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::time::{self, Instant};

/// How long a failed accept (no file handles left, say) makes us wait.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The same stranger is logged aloud once in so long; callers knock every second or two.
const STRANGER_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, which `from` has sent, or returns the work of doing so. Called on the
    /// connection's own task: it must not take long. [`Request::Ping`] never comes here.
    fn handle(&self, head: RequestHead, from: &PeerInfo, request: Request) -> Handled;

    /// True when the cluster has a member of this name: others are refused. Everybody is one, unless
    /// the handler knows better.
    fn is_member(&self, name: &str) -> bool {
        !name.is_empty()
    }
}

/// How a request was handled.
pub enum Handled {
    /// Here is the answer: it leaves with those of the other requests that came together.
    Now(Reply),
    /// The answer needs waiting for. The work runs as a task of its own to its end, past its deadline
    /// too if it doesn't look. When too much is waiting already the future is dropped unpolled and the
    /// caller told so: it must not have begun anything.
    Later(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

/// Events of a node's answering side since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Handshakes that succeeded.
    pub accepted: u64,
    /// Connections that were refused, or never finished their handshake.
    pub refused: u64,
    /// Requests that came, pings not counted.
    pub requests: u64,
    /// Requests refused because too many were waiting.
    pub overloaded: u64,
    /// Requests that came, or replies that were ready, past their deadline; both are dropped.
    pub late: u64,
    /// Connections closed because what came on them made no sense.
    pub malformed: u64,
    /// Connections that are open now.
    pub connections: usize,
    /// Requests that wait inside the handler now.
    pub waiting: usize,
}

/// The answering side of a node. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) local: LocalInfo,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) options: Options,
    pub(super) counters: Counters,
    pub(super) connections: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    draining: AtomicBool,
    /// Rung once for all connections when draining begins.
    drain: Notify,
    /// Rung when a connection or a request has ended while draining.
    ended: Notify,
    last_stranger: Mutex<Option<(String, Instant)>>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) malformed: AtomicU64,
}

/// Adds one to a counter.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Serves calls that come to `listener` until `shutdown` completes, then drains; see [`Server`].
pub async fn serve(
    listener: TcpListener,
    local: &LocalInfo,
    handler: Arc<dyn Handler>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    Server::new(local, handler, options).serve(listener, shutdown).await;
}

impl Server {
    /// A server that introduces itself as `local` and lets `handler` answer.
    ///
    /// # Panics
    /// When `options` contradict each other.
    pub fn new(local: &LocalInfo, handler: Arc<dyn Handler>, options: Options) -> Self {
        options.check();
        let inner = Inner {
            local: local.clone(),
            handler,
            options,
            counters: Counters::default(),
            connections: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            ended: Notify::new(),
            last_stranger: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What has happened so far.
    pub fn counters(&self) -> ServerCounters {
        let Inner { counters, connections, waiting, .. } = &*self.inner;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerCounters {
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            requests: read(&counters.requests),
            overloaded: read(&counters.overloaded),
            late: read(&counters.late),
            malformed: read(&counters.malformed),
            connections: connections.load(Ordering::Relaxed),
            waiting: waiting.load(Ordering::Relaxed),
        }
    }

    /// Serves calls that come to `listener` until `shutdown` completes, then drains. When it returns
    /// every connection is closed. Dropping the future stops accepting and leaves connections open.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut tasks: Vec<JoinHandle<()>> = Vec::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => tasks.extend(self.start(stream, addr)),
                Err(error) => {
                    tracing::warn!("cannot accept a connection, trying again: {error}");
                    time::sleep(ACCEPT_RETRY).await;
                }
            }
            tasks.retain(|task| !task.is_finished());
        }
        drop(listener);
        self.drain().await;
        tasks.iter().for_each(JoinHandle::abort);
    }

    /// Starts the task of one connection; `None` when there are far too many. A few more than the limit
    /// are let in so that they can be told.
    fn start(&self, stream: TcpStream, addr: SocketAddr) -> Option<JoinHandle<()>> {
        let inner = &self.inner;
        let open = Open::new(inner);
        if inner.connections.load(Ordering::Relaxed) > 2 * inner.options.connections_max {
            tracing::warn!(%addr, "dropped a connection: far too many are open");
            count(&inner.counters.refused);
            return None;
        }
        let inner = Arc::clone(inner);
        Some(task::spawn(async move {
            connection::run(inner, stream, addr).await;
            drop(open);
        }))
    }

    /// Says goodbye on all connections, and waits for running requests and then for callers to end, but
    /// not for ever.
    async fn drain(&self) {
        let inner = &self.inner;
        inner.draining.store(true, Ordering::Release);
        inner.drain.notify_waiters();
        let give_up = time::now() + inner.options.drain_timeout;
        let mut quiet_since: Option<Instant> = None;
        loop {
            let ended = inner.ended.notified();
            let connections = inner.connections.load(Ordering::Acquire);
            let waiting = inner.waiting.load(Ordering::Acquire);
            if connections == 0 && waiting == 0 {
                return;
            }
            let until = if waiting > 0 {
                quiet_since = None;
                give_up
            } else {
                let quiet_since = *quiet_since.get_or_insert_with(time::now);
                (quiet_since + inner.options.goodbye_timeout).min(give_up)
            };
            if time::timeout_at(until, ended).await.is_err() {
                tracing::warn!(connections, waiting, "cut off callers that did not finish in time");
                return;
            }
        }
    }
}

impl Inner {
    /// Completes when the server begins to drain.
    pub(super) async fn draining(&self) {
        let drain = self.drain.notified();
        tokio::pin!(drain);
        drain.as_mut().enable();
        if !self.draining.load(Ordering::Acquire) {
            drain.await;
        }
    }

    /// Whether a caller of this name may come in.
    pub(super) fn admit(&self, name: &str) -> Result<(), HandshakeRefusal> {
        if self.draining.load(Ordering::Acquire) {
            return Err(HandshakeRefusal::Stopping);
        }
        if !self.handler.is_member(name) {
            return Err(HandshakeRefusal::UnknownMember);
        }
        if self.connections.load(Ordering::Relaxed) > self.options.connections_max {
            return Err(HandshakeRefusal::TooManyConnections);
        }
        Ok(())
    }

    /// Logs a failed handshake: aloud, unless the same was just said.
    pub(super) fn log_stranger(&self, addr: SocketAddr, why: String) {
        let now = time::now();
        let mut last = lock(&self.last_stranger);
        let known = last
            .as_ref()
            .is_some_and(|(said, at)| *said == why && now.since(*at) < STRANGER_LOG_INTERVAL);
        if known {
            tracing::debug!(%addr, "{why}");
        } else {
            tracing::warn!(%addr, "{why}");
            *last = Some((why, now));
        }
    }

    /// Something has ended: whoever drains looks again.
    pub(super) fn note_end(&self) {
        if self.draining.load(Ordering::Acquire) {
            self.ended.notify_one();
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Inner>);

impl Open {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.connections.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.note_end();
    }
}
