//! One peer as callers see it: calls, usability, status.
//!
//! All of a peer's state is one [`Channel`] behind one lock, which callers and the peer's connection
//! task share: a call takes a slot, encodes its request at the end of the outbox and rings the
//! writer, all under one short lock and without an allocation of its own. The channel outlives
//! connections; [`link`](super::link) moves it from one to the next.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use super::changes::Changes;
use super::identity::{LocalInfo, PeerInfo};
use super::link::{Line, LinkError};
use super::lock;
use super::message::{self, Reply, Request, RequestHead};
use super::options::Options;
use super::outbox::Outbox;
use super::pending::{Outcome, Pending};
use crate::runtime::event;
use crate::runtime::time::{self, Instant};

/// Why a call came back without a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request never left this node: whoever was to do it has not.
    #[error(transparent)]
    NotSent(#[from] NotSent),
    /// The connection was lost while the request was on its way: it may have been done.
    #[error("connection was lost before the answer came: {0}")]
    Lost(Arc<str>),
    /// The deadline passed without an answer: the request may have been done, or still be.
    #[error("no answer came before the deadline")]
    Deadline,
}

impl CallError {
    /// True when the peer may have done what it was asked, or may do so yet.
    pub fn was_sent(&self) -> bool {
        match self {
            CallError::NotSent(_) => false,
            CallError::Lost(_) | CallError::Deadline => true,
        }
    }
}

/// Why a request never left this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// There is no connection at present; another peer may do.
    #[error("peer is not connected")]
    NotConnected,
    /// As many calls or bytes as allowed wait for this peer: shed load, or ask another.
    #[error("too many requests wait for this peer already")]
    QueueFull,
    /// The deadline had passed before the call.
    #[error("the deadline had passed already")]
    DeadlinePassed,
    /// The request is larger than a frame may be.
    #[error("request is larger than the limit of {max} bytes")]
    TooLarge {
        /// The limit, in bytes.
        max: usize,
    },
    /// The connection was lost while the request was still queued here.
    #[error("connection was lost before the request left: {0}")]
    ConnectionLost(Arc<str>),
}

/// What the connection to a peer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Being made.
    Connecting,
    /// Up, and the peer answers.
    Usable,
    /// Up, but the peer hasn't answered for a while. Calls are still taken.
    Silent,
    /// The peer is about to stop: open calls end, new ones are refused.
    Leaving,
    /// Not there; the next attempt comes by itself.
    Down,
    /// Not connected, as nobody needs it; the next call connects
    /// ([`Options::idle_after`](super::Options::idle_after)).
    Idle,
    /// Given up for good: the calling side was stopped.
    Stopped,
}

/// A peer's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The configured member name.
    pub name: Arc<str>,
    /// The address at present, `host:port`.
    pub addr: Arc<str>,
    /// What the connection is at.
    pub state: PeerState,
    /// Since when; `Down` and `Connecting` count as one.
    pub since: Instant,
    /// Why the last connection or attempt failed; `None`: none has.
    pub last_error: Option<Arc<str>>,
    /// Round trip of pings, averaged over the last eight or so; `None`: not measured yet.
    pub rtt: Option<Duration>,
    /// Who answered the last handshake; `None`: nobody has yet.
    pub info: Option<PeerInfo>,
    /// Calls without an answer.
    pub in_flight: usize,
    /// Bytes that have yet to reach the operating system.
    pub queued_bytes: usize,
    /// What has happened so far.
    pub counters: PeerCounters,
}

/// Events of one peer since this process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Handshakes that succeeded.
    pub connects: u64,
    /// Requests that were queued.
    pub calls: u64,
    /// Replies that reached their call.
    pub replies: u64,
    /// Calls refused because there was no connection.
    pub not_connected: u64,
    /// Calls refused at the bound on calls or bytes.
    pub queue_full: u64,
    /// Calls that ended at their deadline.
    pub deadlines: u64,
    /// Calls that ended with their connection.
    pub lost: u64,
}

/// A member of the cluster that requests can be sent to. Clones are the same peer.
#[derive(Clone)]
pub struct Peer {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {} at {}", self.shared.name, self.shared.addr())
    }
}

impl Peer {
    /// The configured member name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// True when there is a connection and the peer gives signs of life. Costs one load.
    pub fn is_usable(&self) -> bool {
        self.shared.usable.load(Ordering::Acquire)
    }

    /// True when it is not connected only because nobody needed it. Costs one load.
    pub fn is_idle(&self) -> bool {
        self.shared.idle.load(Ordering::Acquire)
    }

    /// Where it is from now on, `host:port`: the next attempt to connect goes there, at once if there
    /// is no connection. One that is up stays up.
    pub fn set_address(&self, addr: &str) {
        let mut known = lock(&self.shared.addr);
        if **known != *addr {
            *known = addr.into();
            drop(known);
            self.hasten();
        }
    }

    /// It is believed to be there: a wait for the next attempt to connect ends now.
    pub fn hasten(&self) {
        self.shared.hasten.notify_one();
    }

    /// Calls without an answer.
    pub fn in_flight(&self) -> usize {
        lock(&self.shared.channel).pending.waiting()
    }

    /// Sends `request`. It is encoded and queued here and now, so requests leave in the order of the
    /// calls; the future waits for the reply. Dropping the future forgets the call, not the request.
    ///
    /// # Errors
    /// [`CallError`], at `head.deadline` at the latest.
    pub fn call(&self, head: RequestHead, request: &Request) -> Call {
        let state = match self.shared.begin_call(time::now(), head, request) {
            Ok(number) => CallState::Waiting(number),
            Err(error) => CallState::Failed(error),
        };
        Call { shared: Arc::clone(&self.shared), state }
    }

    /// A snapshot for people.
    pub fn status(&self) -> PeerStatus {
        let channel = lock(&self.shared.channel);
        PeerStatus {
            name: Arc::clone(&self.shared.name),
            addr: self.shared.addr(),
            state: channel.state,
            since: channel.since,
            last_error: channel.last_error.clone(),
            rtt: channel.rtt,
            info: channel.info.clone(),
            in_flight: channel.pending.waiting(),
            queued_bytes: channel.outbox.queued_bytes(),
            counters: channel.counters,
        }
    }

    /// Waits until the peer is usable, or `deadline`; true when it is. Connects an idle one.
    pub async fn wait_usable(&self, deadline: Instant) -> bool {
        if self.is_idle() {
            self.shared.wanted.notify_one();
        }
        let usable = async {
            let mut version = self.shared.changes.version();
            while !self.is_usable() {
                version = self.shared.changes.after(version).await;
            }
        };
        time::timeout_at(deadline, usable).await.is_ok()
    }
}

/// What callers and the connection's task share.
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    addr: Mutex<Arc<str>>,
    pub(super) local: LocalInfo,
    pub(super) options: Arc<Options>,
    pub(super) usable: AtomicBool,
    pub(super) idle: AtomicBool,
    pub(super) channel: Mutex<Channel>,
    /// Rung when frames are there to be written.
    pub(super) bell: Notify,
    /// Rung when a deadline is earlier than the time that the timekeeper sleeps until.
    pub(super) rearm: Notify,
    /// Rung when an idle peer is needed.
    pub(super) wanted: Notify,
    /// Rung when waiting for the next attempt to connect makes no sense any more.
    pub(super) hasten: Notify,
    /// Rung once: no more connections.
    pub(super) stop: Notify,
    pub(super) changes: Arc<Changes>,
}

/// A peer's state, behind its lock.
pub(super) struct Channel {
    pub(super) state: PeerState,
    pub(super) since: Instant,
    /// The connection's times; there while there is one.
    pub(super) line: Option<Line>,
    pub(super) outbox: Outbox,
    pub(super) pending: Pending,
    /// When the last call began, or the connection did.
    pub(super) last_used: Instant,
    /// What the timekeeper sleeps until.
    pub(super) armed: Instant,
    pub(super) last_error: Option<Arc<str>>,
    pub(super) rtt: Option<Duration>,
    pub(super) info: Option<PeerInfo>,
    pub(super) counters: PeerCounters,
}

impl Shared {
    pub(super) fn new(
        name: &str,
        addr: &str,
        local: LocalInfo,
        options: Arc<Options>,
        changes: Arc<Changes>,
    ) -> Self {
        let since = time::now();
        let idle = options.idle_after.is_some();
        let channel = Channel {
            state: if idle { PeerState::Idle } else { PeerState::Connecting },
            since,
            line: None,
            outbox: Outbox::default(),
            pending: Pending::default(),
            last_used: since,
            armed: since,
            last_error: None,
            rtt: None,
            info: None,
            counters: PeerCounters::default(),
        };
        Self {
            name: name.into(),
            addr: Mutex::new(addr.into()),
            local,
            options,
            usable: AtomicBool::new(false),
            idle: AtomicBool::new(idle),
            channel: Mutex::new(channel),
            bell: Notify::new(),
            rearm: Notify::new(),
            wanted: Notify::new(),
            hasten: Notify::new(),
            stop: Notify::new(),
            changes,
        }
    }

    /// The address at present.
    pub(super) fn addr(&self) -> Arc<str> {
        Arc::clone(&lock(&self.addr))
    }

    /// Takes a slot and queues the request; its number, or why not.
    fn begin_call(
        &self,
        now: Instant,
        head: RequestHead,
        request: &Request,
    ) -> Result<u64, CallError> {
        if head.deadline <= now {
            return Err(NotSent::DeadlinePassed.into());
        }
        let options = &self.options;
        let mut guard = lock(&self.channel);
        let channel = &mut *guard;
        if !matches!(channel.state, PeerState::Usable | PeerState::Silent) {
            channel.counters.not_connected += 1;
            if channel.state == PeerState::Idle {
                self.wanted.notify_one();
            }
            return Err(NotSent::NotConnected.into());
        }
        if channel.pending.len() >= options.in_flight_max
            || channel.outbox.queued_bytes() >= options.queue_bytes_max
        {
            channel.counters.queue_full += 1;
            event::note("rpc_queue_full", 0, 0);
            return Err(NotSent::QueueFull.into());
        }
        let ring = channel.outbox.frames.is_empty();
        let number = channel.pending.insert(head.deadline, channel.outbox.position());
        let encoded = message::encode_request(
            number,
            head.request_id,
            head.deadline.since(now),
            request,
            options.payload_bytes_max,
            &mut channel.outbox.frames,
        );
        if encoded.is_err() {
            channel.pending.forget(number);
            return Err(NotSent::TooLarge { max: options.payload_bytes_max }.into());
        }
        channel.counters.calls += 1;
        channel.last_used = now;
        let rearm = head.deadline < channel.armed;
        if rearm {
            channel.armed = head.deadline;
        }
        drop(guard);
        if ring {
            self.bell.notify_one();
        }
        if rearm {
            self.rearm.notify_one();
        }
        Ok(number)
    }

    /// Moves to `state`, and tells whoever waits for a change of usability.
    pub(super) fn enter(&self, channel: &mut Channel, state: PeerState, now: Instant) {
        let gone =
            |state| matches!(state, PeerState::Connecting | PeerState::Down | PeerState::Idle);
        if !(gone(channel.state) && gone(state)) {
            channel.since = now;
        }
        channel.state = state;
        let usable = state == PeerState::Usable;
        self.idle.store(state == PeerState::Idle, Ordering::Release);
        if self.usable.swap(usable, Ordering::AcqRel) != usable {
            self.changes.bump();
        }
    }

    /// The connection, or the attempt to make one, has ended: every call on it ends too.
    pub(super) fn down(&self, error: &LinkError, state: PeerState, now: Instant) {
        let reason: Arc<str> = Arc::from(format!("peer {}: {error}", self.name));
        let mut wakers = Vec::new();
        let mut channel = lock(&self.channel);
        let taken = channel.outbox.taken();
        let lost = channel.pending.waiting();
        let fail = |position| {
            if position < taken {
                CallError::Lost(Arc::clone(&reason))
            } else {
                NotSent::ConnectionLost(Arc::clone(&reason)).into()
            }
        };
        channel.pending.fail_all(fail, &mut wakers);
        channel.outbox.clear();
        channel.counters.lost += lost as u64;
        let was_up = channel.line.take().is_some();
        let news = was_up || channel.last_error.as_deref() != Some(&*reason);
        channel.last_error = Some(Arc::clone(&reason));
        self.enter(&mut channel, state, now);
        drop(channel);
        wakers.into_iter().for_each(std::task::Waker::wake);
        if was_up {
            event::note("rpc_lost", 0, lost as u64);
        }
        if news && state == PeerState::Down {
            tracing::warn!(peer = %self.name, addr = %self.addr(), lost, "{reason}");
        } else {
            tracing::debug!(peer = %self.name, addr = %self.addr(), "{reason}");
        }
    }
}

/// A call on its way: resolves to the reply. Does nothing by being dropped but to forget the call.
#[must_use = "the request is queued already, but only the future tells what came of it"]
pub struct Call {
    shared: Arc<Shared>,
    state: CallState,
}

enum CallState {
    Failed(CallError),
    Waiting(u64),
    Ended,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call of peer {}", self.shared.name)
    }
}

impl Future for Call {
    type Output = Result<Reply, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = match &self.state {
            CallState::Waiting(number) => {
                let mut channel = lock(&self.shared.channel);
                std::task::ready!(channel.pending.poll(*number, cx))
            }
            CallState::Failed(error) => Err(error.clone()),
            CallState::Ended => return Poll::Pending,
        };
        self.state = CallState::Ended;
        Poll::Ready(outcome)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let CallState::Waiting(number) = self.state {
            lock(&self.shared.channel).pending.forget(number);
        }
    }
}
