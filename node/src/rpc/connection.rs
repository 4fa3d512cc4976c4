//! One incoming connection: its requests in, their replies out.
//!
//! The connection's task reads what has come, hands each request to the handler, and writes all replies
//! that were given at once together. Replies that come later are added by their own tasks. When the
//! caller reads slowly and replies pile up, no more of its requests are read until there is room: so
//! it holds up itself, and nobody else.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::frame::{self, FrameError, FrameReader, Kind};
use super::handshake::{self, HANDSHAKE_BYTES_MAX};
use super::identity::PeerInfo;
use super::lock;
use super::message::{self, Refusal, Reply, Request};
use super::outbox::{self, Outbox};
use super::server::{Handled, Inner, count};
use crate::domain::codec::DecodeError;
use crate::runtime::net::{OwnedReadHalf, TcpStream};
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, task};

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the caller closed it")]
    Closed,
    #[error("it failed: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a request was malformed: {0}")]
    Decode(#[from] DecodeError),
    #[error("a {0:?} frame came, which has no place here")]
    OutOfPlace(Kind),
    #[error("nothing moved for {} ms", .0.as_millis())]
    Idle(Duration),
}

/// Serves one connection to its end.
pub(super) async fn run(server: Arc<Inner>, mut stream: TcpStream, addr: SocketAddr) {
    let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
    let Some(peer) = welcome(&server, &mut stream, &mut frames, addr).await else { return };
    frames.set_payload_bytes_max(server.options.payload_bytes_max);
    let (mut read, mut write) = stream.into_split();
    let connection = Arc::new(Connection {
        server,
        peer,
        outgoing: Mutex::new(Outgoing {
            outbox: Outbox::default(),
            starved: false,
            closed: false,
            last_moved: time::now(),
        }),
        bell: Notify::new(),
        room: Notify::new(),
        waiting: AtomicUsize::new(0),
    });
    let end = tokio::select! {
        biased;
        end = connection.read_requests(&mut read, &mut frames) => end,
        error = outbox::write_batches(&mut write, &connection.bell, |b| connection.take(b)) => {
            End::Io(error)
        }
        end = connection.watch() => end,
        end = connection.say_goodbye() => end,
    };
    connection.close();
    let peer = &connection.peer.name;
    match end {
        End::Closed => tracing::debug!(%peer, %addr, "connection ended: {end}"),
        End::Io(_) | End::Idle(_) => tracing::info!(%peer, %addr, "connection ended: {end}"),
        End::Frame(_) | End::Decode(_) | End::OutOfPlace(_) => {
            count(&connection.server.counters.malformed);
            tracing::warn!(%peer, %addr, "closed a connection: {end}");
        }
    }
}

/// The handshake; `None` when the caller is not welcome, or takes too long.
async fn welcome(
    server: &Inner,
    stream: &mut TcpStream,
    frames: &mut FrameReader,
    addr: SocketAddr,
) -> Option<PeerInfo> {
    let limit = server.options.handshake_timeout;
    let shaken = async {
        stream.set_nodelay(true)?;
        handshake::answer(stream, frames, &server.local, addr, |name| server.admit(name)).await
    };
    let why = match time::timeout(limit, shaken).await {
        Ok(Ok(peer)) => {
            count(&server.counters.accepted);
            server.local.note_arrival(&peer.name);
            tracing::debug!(peer = %peer.name, node = %peer.sighting.node, %addr, "peer has called");
            return Some(peer);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("caller sent no hello within {} ms", limit.as_millis()),
    };
    count(&server.counters.refused);
    server.log_stranger(addr, why);
    None
}

struct Connection {
    server: Arc<Inner>,
    peer: PeerInfo,
    outgoing: Mutex<Outgoing>,
    /// Rung when there are replies to write.
    bell: Notify,
    /// Rung when there is room for replies again.
    room: Notify,
    /// Requests that wait inside the handler.
    waiting: AtomicUsize,
}

struct Outgoing {
    outbox: Outbox,
    /// Somebody waits for room.
    starved: bool,
    /// Nothing will be written any more.
    closed: bool,
    /// When bytes last came, or left.
    last_moved: Instant,
}

impl Connection {
    async fn read_requests(
        self: &Arc<Self>,
        read: &mut OwnedReadHalf,
        frames: &mut FrameReader,
    ) -> End {
        loop {
            if let Err(end) = self.read_batch(frames).await {
                return end;
            }
            match frames.fill(read).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Handles every whole request that has come, as far as there is room for replies.
    async fn read_batch(self: &Arc<Self>, frames: &mut FrameReader) -> Result<(), End> {
        let mut now = time::now();
        lock(&self.outgoing).last_moved = now;
        while let Some(frame) = frames.next_frame()? {
            match frame.kind {
                Kind::Request => {}
                kind @ (Kind::Hello
                | Kind::Welcome
                | Kind::Refused
                | Kind::Reply
                | Kind::Goodbye) => return Err(End::OutOfPlace(kind)),
            }
            if !self.dispatch(frame.payload, now)? {
                self.wait_for_room().await;
                now = time::now();
            }
        }
        Ok(())
    }

    /// Handles one request that came at `now`; false when no more should be read for now.
    fn dispatch(self: &Arc<Self>, payload: &[u8], now: Instant) -> Result<bool, DecodeError> {
        let counters = &self.server.counters;
        let (number, head, request) = message::decode_request(payload, now)?;
        if request == Request::Ping {
            return Ok(self.reply(number, &Reply::Pong));
        }
        count(&counters.requests);
        if head.deadline <= now {
            count(&counters.late);
            return Ok(true);
        }
        let work = match self.server.handler.handle(head, &self.peer, request) {
            Handled::Now(reply) => return Ok(self.reply(number, &reply)),
            Handled::Later(work) => work,
        };
        let Some(waiting) = Waiting::enter(self) else {
            count(&counters.overloaded);
            event::note("rpc_overloaded", 0, 0);
            let retry = self.server.options.overload_retry.as_millis();
            let retry_after_ms = u32::try_from(retry).unwrap_or(u32::MAX);
            return Ok(self.reply(number, &Reply::Refused(Refusal::Overloaded { retry_after_ms })));
        };
        task::spawn(async move {
            let reply = work.await;
            waiting.0.reply_later(number, head.deadline, &reply).await;
        });
        Ok(true)
    }

    /// Queues a reply, whatever is queued already; false when nothing should be added to it.
    fn reply(&self, number: u64, reply: &Reply) -> bool {
        let options = &self.server.options;
        let mut outgoing = lock(&self.outgoing);
        let frames = &mut outgoing.outbox.frames;
        let ring = frames.is_empty();
        message::encode_reply(number, reply, options.payload_bytes_max, frames);
        let room = outgoing.outbox.queued_bytes() < options.reply_bytes_max;
        drop(outgoing);
        if ring {
            self.bell.notify_one();
        }
        room
    }

    /// Queues a reply once there is room, unless that is too late.
    async fn reply_later(&self, number: u64, deadline: Instant, reply: &Reply) {
        loop {
            if time::now() >= deadline {
                count(&self.server.counters.late);
                return;
            }
            if self.has_room() {
                // Nothing is awaited in between, so at most one reply for each thread goes over.
                self.reply(number, reply);
                return;
            }
            self.wait_for_room().await;
        }
    }

    /// True when a reply may be queued, or the connection has ended and it no longer matters.
    fn has_room(&self) -> bool {
        let mut outgoing = lock(&self.outgoing);
        let bytes_max = self.server.options.reply_bytes_max;
        let room = outgoing.closed || outgoing.outbox.queued_bytes() < bytes_max;
        outgoing.starved |= !room;
        room
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Gives the writer all replies, and wakes whoever waited for room.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut outgoing = lock(&self.outgoing);
        let any = outgoing.outbox.take(batch);
        // The writer comes back only when its last batch has left.
        outgoing.last_moved = time::now();
        let bytes_max = self.server.options.reply_bytes_max;
        let room = outgoing.starved && outgoing.outbox.queued_bytes() < bytes_max;
        outgoing.starved &= !room;
        drop(outgoing);
        if room {
            self.room.notify_waiters();
        }
        any
    }

    /// Ends the connection when nothing has moved for too long.
    async fn watch(&self) -> End {
        let limit = self.server.options.idle_timeout;
        loop {
            let last = lock(&self.outgoing).last_moved;
            if time::now().since(last) >= limit {
                return End::Idle(limit);
            }
            time::sleep_until(last + limit).await;
        }
    }

    /// Tells the caller when the server drains; the caller then closes the connection.
    async fn say_goodbye(&self) -> End {
        self.server.draining().await;
        let said = frame::encode(Kind::Goodbye, 0, &mut lock(&self.outgoing).outbox.frames, |_| {});
        if let Err(error) = said {
            return error.into();
        }
        self.bell.notify_one();
        std::future::pending().await
    }

    fn close(&self) {
        let mut outgoing = lock(&self.outgoing);
        outgoing.closed = true;
        outgoing.outbox.clear();
        drop(outgoing);
        self.room.notify_waiters();
    }
}

/// A request's place among those that wait inside the handler.
struct Waiting(Arc<Connection>);

impl Waiting {
    /// A place, if there is one on this connection and in the server.
    fn enter(connection: &Arc<Connection>) -> Option<Self> {
        let options = &connection.server.options;
        let entered = Self(Arc::clone(connection));
        let here = connection.waiting.fetch_add(1, Ordering::AcqRel);
        let total = connection.server.waiting.fetch_add(1, Ordering::AcqRel);
        let fits = here < options.waiting_per_connection_max && total < options.waiting_total_max;
        fits.then_some(entered)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.server.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.server.note_end();
    }
}
