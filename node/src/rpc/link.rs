//! The task that keeps one peer connected: connect, shake hands, run, and again after a while.
//!
//! The wait between attempts doubles, and ends early when the peer calls us: then it is there. So after
//! a restart both directions are up as soon as one is.
//!
//! A running connection is three things at once in one task: it reads replies, writes what callers
//! have queued, and keeps time. Whichever ends first ends the connection, and with it every call.
//!
//! Signs of life: every second the peer gets a ping, so a peer that lives is heard every second. One
//! that isn't is first *silent* (not usable), then dead. Both limits count from the last byte heard, but
//! a ping must have had its time too, and begins it anew when the timekeeper itself comes late: when this
//! process was held up, old silence means nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::Rng;

use super::frame::{FrameError, FrameReader, Kind};
use super::handshake::{self, HANDSHAKE_BYTES_MAX, HandshakeError, HandshakeRefusal};
use super::identity::PeerInfo;
use super::lock;
use super::message::{self, Request};
use super::options::Options;
use super::outbox;
use super::peer::{PeerState, Shared};
use crate::domain::codec::DecodeError;
use crate::runtime::net::{self, OwnedReadHalf, TcpStream};
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, rng};

/// Addresses of one name that are tried, at most.
const ADDRESSES_MAX: usize = 8;
/// The number of the connection's own ping; calls never have it.
const PING: u64 = 0;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot resolve the address: {0}")]
    Resolve(io::Error),
    #[error("the address resolves to nothing")]
    NoAddress,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot connect within {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no end of the handshake within {} ms", .0.as_millis())]
    HandshakeTimeout(Duration),
    #[error("connection failed: {0}")]
    Io(io::Error),
    #[error("connection was closed by the peer")]
    Closed,
    #[error("connection was closed: {0}")]
    Frame(#[from] FrameError),
    #[error("connection was closed over a malformed reply: {0}")]
    Decode(#[from] DecodeError),
    #[error("connection was closed over a {0:?} frame, which has no place here")]
    OutOfPlace(Kind),
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("nobody has needed it for {} ms", .0.as_millis())]
    Idle(Duration),
    #[error("the peer is stopping")]
    Leaving,
    #[error("this node is stopping")]
    Stopped,
}

/// The times of a running connection.
pub(super) struct Line {
    last_heard: Instant,
    next_ping: Instant,
    /// When the ping that is under way was sent.
    ping_sent: Option<Instant>,
}

/// Keeps the peer connected until it is stopped.
pub(super) async fn run(shared: Arc<Shared>) {
    tokio::select! {
        biased;
        () = shared.stop.notified() => {}
        () = keep_connected(&shared) => {}
    }
    shared.down(&LinkError::Stopped, PeerState::Stopped, time::now());
}

async fn keep_connected(shared: &Shared) {
    let Options { backoff_min, backoff_max, .. } = *shared.options;
    let mut dice = rng::fork(&format!("rpc backoff of {}", shared.name));
    let mut backoff = backoff_min;
    loop {
        if shared.options.idle_after.is_some() {
            shared.enter(&mut lock(&shared.channel), PeerState::Idle, time::now());
            shared.wanted.notified().await;
        }
        let arrivals = shared.local.arrivals(&shared.name);
        shared.enter(&mut lock(&shared.channel), PeerState::Connecting, time::now());
        let error = match connect(shared).await {
            Err(error) => error,
            Ok((stream, frames, info)) => {
                let since = time::now();
                shared.up(info, since);
                let error = converse(shared, stream, frames).await;
                if time::now().since(since) >= backoff_max {
                    backoff = backoff_min;
                }
                error
            }
        };
        // Whoever wanted this connection has had it, or has heard.
        let _served = shared.wanted.notified().now_or_never();
        if let LinkError::Idle(_) = error {
            shared.down(&error, PeerState::Idle, time::now());
            continue;
        }
        shared.down(&error, PeerState::Down, time::now());
        if is_mistake(&error) {
            // Somebody has to change a configuration first.
            backoff = backoff_max;
        }
        let whole = u64::try_from(backoff.as_nanos()).unwrap_or(u64::MAX);
        let wait = Duration::from_nanos(dice.random_range(whole / 2..=whole));
        let arrival = shared.local.arrival(&shared.name, arrivals);
        let reason_to_hope = async {
            tokio::select! {
                biased;
                () = arrival => {}
                () = shared.hasten.notified() => {}
            }
        };
        backoff = match time::timeout(wait, reason_to_hope).await {
            // The peer has called us meanwhile, or others have heard of it: no reason to wait.
            Ok(()) => backoff_min,
            Err(_) => (backoff * 2).min(backoff_max),
        };
    }
}

/// True for what trying again soon will not mend.
fn is_mistake(error: &LinkError) -> bool {
    let LinkError::Handshake(HandshakeError::Refused(refusal)) = error else { return false };
    !matches!(refusal, HandshakeRefusal::Stopping | HandshakeRefusal::TooManyConnections)
}

async fn connect(shared: &Shared) -> Result<(TcpStream, FrameReader, PeerInfo), LinkError> {
    let options = &shared.options;
    let (limit, handshake_limit) = (options.connect_timeout, options.handshake_timeout);
    let resolved = time::timeout(handshake_limit, net::lookup_host(&shared.addr())).await;
    let resolved = resolved.unwrap_or_else(|elapsed| Err(io::Error::other(elapsed)));
    let mut last = LinkError::NoAddress;
    for addr in resolved.map_err(LinkError::Resolve)?.into_iter().take(ADDRESSES_MAX) {
        let mut stream = match time::timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                last = LinkError::Connect(error);
                continue;
            }
            Err(_) => {
                last = LinkError::ConnectTimeout(limit);
                continue;
            }
        };
        stream.set_nodelay(true).map_err(LinkError::Io)?;
        let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
        let called = handshake::call(&mut stream, &mut frames, &shared.local, &shared.name, addr);
        let info = time::timeout(handshake_limit, called).await;
        let info = info.map_err(|_| LinkError::HandshakeTimeout(handshake_limit))??;
        frames.set_payload_bytes_max(options.payload_bytes_max);
        return Ok((stream, frames, info));
    }
    Err(last)
}

/// Runs a connection until it ends.
async fn converse(shared: &Shared, stream: TcpStream, mut frames: FrameReader) -> LinkError {
    let (mut read, mut write) = stream.into_split();
    let take = |batch: &mut Vec<u8>| lock(&shared.channel).outbox.take(batch);
    tokio::select! {
        biased;
        error = read_replies(shared, &mut read, &mut frames) => error,
        error = outbox::write_batches(&mut write, &shared.bell, take) => LinkError::Io(error),
        error = keep_time(shared) => error,
    }
}

async fn read_replies(
    shared: &Shared,
    read: &mut OwnedReadHalf,
    frames: &mut FrameReader,
) -> LinkError {
    loop {
        match read_batch(shared, frames) {
            Ok(()) => {}
            Err(error) => return error,
        }
        match frames.fill(read).await {
            Ok(0) => return LinkError::Closed,
            Ok(_) => shared.heard(time::now()),
            Err(error) => return LinkError::Io(error),
        }
    }
}

/// Hands out every whole frame that has come.
fn read_batch(shared: &Shared, frames: &mut FrameReader) -> Result<(), LinkError> {
    while let Some(frame) = frames.next_frame()? {
        match frame.kind {
            Kind::Reply => shared.on_reply(frame.payload)?,
            Kind::Goodbye => shared.on_goodbye(),
            kind @ (Kind::Hello | Kind::Welcome | Kind::Refused | Kind::Request) => {
                return Err(LinkError::OutOfPlace(kind));
            }
        }
    }
    if shared.has_left() { Err(LinkError::Leaving) } else { Ok(()) }
}

/// Ends calls at their deadlines, asks for signs of life and judges them.
async fn keep_time(shared: &Shared) -> LinkError {
    loop {
        let next = match shared.tick(time::now()) {
            Ok(next) => next,
            Err(error) => return error,
        };
        tokio::select! {
            biased;
            () = shared.rearm.notified() => {}
            () = time::sleep_until(next) => {}
        }
    }
}

impl Shared {
    /// The handshake has succeeded.
    fn up(&self, info: PeerInfo, now: Instant) {
        tracing::info!(peer = %self.name, node = %info.sighting.node,
            generation = info.sighting.generation, addr = %info.addr, "connected to peer");
        event::note("rpc_connected", 0, info.sighting.generation);
        let mut channel = lock(&self.channel);
        channel.line = Some(Line { last_heard: now, next_ping: now, ping_sent: None });
        channel.info = Some(info);
        channel.last_used = now;
        channel.counters.connects += 1;
        self.enter(&mut channel, PeerState::Usable, now);
    }

    fn heard(&self, now: Instant) {
        let mut channel = lock(&self.channel);
        if let Some(line) = &mut channel.line {
            line.last_heard = now;
        }
        if channel.state == PeerState::Silent {
            self.enter(&mut channel, PeerState::Usable, now);
        }
    }

    fn on_reply(&self, payload: &[u8]) -> Result<(), LinkError> {
        let (number, reply) = message::decode_reply(payload)?;
        if number == PING {
            self.on_pong(time::now());
            return Ok(());
        }
        let mut channel = lock(&self.channel);
        channel.counters.replies += 1;
        let waker = channel.pending.complete(number, Ok(reply));
        drop(channel);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn on_pong(&self, now: Instant) {
        let mut guard = lock(&self.channel);
        let channel = &mut *guard;
        let Some(line) = &mut channel.line else { return };
        let Some(sent) = line.ping_sent.take() else { return };
        line.next_ping = (sent + self.options.ping_interval).max(now);
        let sample = now.since(sent);
        channel.rtt = Some(channel.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    fn on_goodbye(&self) {
        tracing::info!(peer = %self.name, "peer is stopping");
        self.enter(&mut lock(&self.channel), PeerState::Leaving, time::now());
    }

    /// True when the peer is about to stop and nobody waits for it any longer.
    fn has_left(&self) -> bool {
        let channel = lock(&self.channel);
        channel.state == PeerState::Leaving && channel.pending.waiting() == 0
    }

    /// Does what is due at `now`; says when to come again, or why the connection has ended.
    fn tick(&self, now: Instant) -> Result<Instant, LinkError> {
        let mut wakers = Vec::new();
        let mut guard = lock(&self.channel);
        let channel = &mut *guard;
        let waiting = channel.pending.waiting();
        let deadline = channel.pending.expire(now, &mut wakers);
        let expired = waiting - channel.pending.waiting();
        channel.counters.deadlines += expired as u64;
        let next = self.judge(channel, now);
        if let Ok(next) = &next {
            channel.armed = deadline.map_or(*next, |deadline| deadline.min(*next));
        }
        let armed = channel.armed;
        let left = channel.state == PeerState::Leaving && channel.pending.waiting() == 0;
        drop(guard);
        if expired > 0 {
            event::note("rpc_deadline", 0, expired as u64);
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        if left { Err(LinkError::Leaving) } else { next.map(|_| armed) }
    }

    /// Asks for a sign of life when it is time to, and judges how long there was none.
    fn judge(
        &self,
        channel: &mut super::peer::Channel,
        now: Instant,
    ) -> Result<Instant, LinkError> {
        let Options { ping_interval, silent_after, dead_after, idle_after, .. } = *self.options;
        if let Some(limit) = idle_after
            && channel.pending.waiting() == 0
            && now.since(channel.last_used) >= limit
        {
            return Err(LinkError::Idle(limit));
        }
        let Some(line) = &mut channel.line else { return Err(LinkError::Closed) };
        if now.since(channel.armed) > ping_interval / 2 {
            line.ping_sent = line.ping_sent.map(|_| now);
        }
        let Some(sent) = line.ping_sent else {
            if now < line.next_ping {
                return Ok(line.next_ping);
            }
            line.ping_sent = Some(now);
            let limit = now + (silent_after - ping_interval);
            let (frames, max) = (&mut channel.outbox.frames, self.options.payload_bytes_max);
            message::encode_request(PING, 0, dead_after, &Request::Ping, max, frames)?;
            self.bell.notify_one();
            return Ok(limit);
        };
        let due = |after: Duration| (line.last_heard + after).max(sent + (after - ping_interval));
        if now >= due(dead_after) {
            return Err(LinkError::Silent(now.since(line.last_heard)));
        }
        if now < due(silent_after) {
            return Ok(due(silent_after));
        }
        let next = due(dead_after);
        if channel.state == PeerState::Usable {
            tracing::warn!(peer = %self.name, "peer is silent");
            event::note("rpc_silent", 0, 0);
            self.enter(channel, PeerState::Silent, now);
        }
        Ok(next)
    }
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use crate::domain::causality::NodeId;
    use crate::rpc::changes::Changes;
    use crate::rpc::identity::{LocalInfo, Sighting};
    use crate::runtime::task;

    #[test]
    fn silence_is_judged_by_pings_that_had_their_time() {
        let second = |s: f64| Instant::from_nanos((s * 1e9) as u64);
        // No time passes here, but waking someone needs a runtime.
        let judged = task::block_on(1, async {
            let local = LocalInfo::new("c", "n1", NodeId(1), 1);
            let (options, changes) = (Arc::new(Options::default()), Arc::new(Changes::default()));
            let shared = Shared::new("n2", "127.0.0.1:1", local, options, changes);
            let sighting = Sighting { node: NodeId(2), generation: 1, process: 1 };
            let addr = "127.0.0.1:1".parse().unwrap();
            shared.up(PeerInfo { name: "n2".into(), sighting, addr, saw_us: None }, second(10.0));
            let mut lines = Vec::new();
            // The process is held up from 10 s to 14 s, with a ping under way.
            for now in [10.0, 14.0, 14.5, 16.0] {
                let next = shared.tick(second(now));
                let state = lock(&shared.channel).state;
                let next = next.map(|next| next.as_nanos() as f64 / 1e9);
                lines.push(format!("{now} s: {state:?}, {next:?}"));
            }
            lines.join("\n")
        });
        insta::assert_snapshot!(judged.unwrap(), @r#"
        10 s: Usable, Ok(10.5)
        14 s: Usable, Ok(14.5)
        14.5 s: Silent, Ok(16.0)
        16 s: Silent, Err(Silent(6s))
        "#);
    }
}
