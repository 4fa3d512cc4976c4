//! One end of a TCP connection, as the kernel of its machine keeps it.
//!
//! The outgoing stream is numbered from 0; the end of the stream counts as one more byte, as in
//! TCP. Positions: `acked <= next`, and nothing is sent past `peer_edge`. The incoming stream is
//! put together in order; what comes early waits, what comes again is dropped.
//!
//! Where this differs from TCP on the wire, and why it does not show: the world knows which
//! packets arrived, so nothing is acknowledged one by one. An acknowledgement is sent when it
//! frees a good part of a buffer, and rides on data otherwise. What did not arrive, or could not be
//! acknowledged because the way back is cut, goes to `lost`, where the sender's retransmission
//! timer with its backoff and its limit works as usual.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::address::errno::EPIPE;
use super::listener::ListenerId;
use crate::process::{MachineId, ProcessId};
use crate::slab::Id;

pub(crate) type ConnId = Id<Connection>;

/// A run of bytes of a stream, and whether the stream ends after it.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u64,
    pub(crate) data: Bytes,
    pub(crate) fin: bool,
}

impl Segment {
    const fn end(&self) -> u64 {
        self.seq + self.data.len() as u64 + self.fin as u64
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Asked for, not answered.
    SynSent,
    /// Granted by a listener, not confirmed.
    SynReceived(ListenerId),
    /// Bytes may flow.
    Established,
    /// Reset by the peer, or given up.
    Broken,
}

/// How far the end of the outgoing stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    /// There may be more bytes.
    Open,
    /// Goes out after the bytes before it.
    Queued,
    /// Sent.
    Sent,
    /// The peer has it.
    Confirmed,
}

/// One end of a connection.
pub(crate) struct Connection {
    /// Who holds it; `None` once nobody does and the kernel finishes it alone.
    pub(crate) owner: Option<ProcessId>,
    pub(crate) here: MachineId,
    pub(crate) there: MachineId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) peer: Option<ConnId>,
    pub(crate) state: State,
    /// When it was asked for, in simulated nanoseconds.
    pub(crate) born: u64,
    pub(crate) error: Option<i32>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) out: Outgoing,
    pub(crate) incoming: Incoming,
}

/// The outgoing stream.
pub(crate) struct Outgoing {
    unsent: VecDeque<Bytes>,
    unsent_bytes: usize,
    next: u64,
    acked: u64,
    peer_edge: u64,
    pub(crate) fin: Fin,
    /// Sent and not known to have arrived, by position.
    pub(crate) lost: BTreeMap<u64, Segment>,
    /// Retransmissions in a row without any success.
    pub(crate) backoff: u32,
    /// Since when nothing has got through.
    pub(crate) stalled_since: Option<u64>,
    pub(crate) timer_armed: bool,
    pub(crate) probe_armed: bool,
}

/// The incoming stream.
pub(crate) struct Incoming {
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    expected: u64,
    early: BTreeMap<u64, Segment>,
    pub(crate) fin: bool,
    window: usize,
    told_ack: u64,
    told_edge: u64,
    pub(crate) retry_armed: bool,
}

impl Connection {
    /// Waits for something to read.
    pub(crate) fn wait_to_read(&mut self, cx: &Context<'_>) {
        wait(&mut self.reader, cx);
    }

    /// Waits for room to write, or for the connection to be established.
    pub(crate) fn wait_to_write(&mut self, cx: &Context<'_>) {
        wait(&mut self.writer, cx);
    }

    /// What a read finds besides bytes: an error once, then the end; pending while there may be
    /// more.
    pub(crate) fn poll_end(&mut self) -> Poll<Result<(), i32>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        if self.incoming.fin || self.state == State::Broken {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Whether bytes may be written; an error is told once, to whoever asks first.
    pub(crate) fn check_writable(&mut self) -> Result<(), i32> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.state == State::Broken || self.out.fin != Fin::Open {
            return Err(EPIPE);
        }
        Ok(())
    }

    /// Ends it for good with an error for its holder.
    pub(crate) fn break_with(&mut self, error: i32, wake: &mut Vec<Waker>) {
        self.state = State::Broken;
        self.error = Some(error);
        self.out.unsent.clear();
        self.out.unsent_bytes = 0;
        self.out.lost.clear();
        self.incoming.early.clear();
        self.wake_both(wake);
    }

    pub(crate) fn wake_both(&mut self, wake: &mut Vec<Waker>) {
        wake.extend(self.reader.take());
        wake.extend(self.writer.take());
    }
}

impl Outgoing {
    pub(crate) const fn new(peer_edge: u64) -> Self {
        Self {
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            next: 0,
            acked: 0,
            peer_edge,
            fin: Fin::Open,
            lost: BTreeMap::new(),
            backoff: 0,
            stalled_since: None,
            timer_armed: false,
            probe_armed: false,
        }
    }

    /// Room for more bytes in a buffer of `limit`.
    pub(crate) const fn room(&self, limit: usize) -> usize {
        let held = self.unsent_bytes as u64 + (self.next - self.acked);
        limit.saturating_sub(held as usize)
    }

    /// Puts bytes at the end of the stream.
    pub(crate) fn push(&mut self, data: Bytes) {
        self.unsent_bytes += data.len();
        self.unsent.push_back(data);
    }

    /// Takes what may be sent next, at most `limit` bytes.
    pub(crate) fn next_segment(&mut self, limit: usize) -> Option<Segment> {
        let window = self.peer_edge.saturating_sub(self.next);
        self.take(limit, usize::try_from(window).unwrap_or(usize::MAX))
    }

    /// True when there are bytes to send and the peer has no room for them.
    pub(crate) fn is_held(&self) -> bool {
        self.unsent_bytes > 0 && self.peer_edge <= self.next
    }

    /// Takes one byte, whatever room the peer has.
    pub(crate) fn probe_segment(&mut self) -> Option<Segment> {
        self.take(1, 1)
    }

    fn take(&mut self, limit: usize, window: usize) -> Option<Segment> {
        let seq = self.next;
        let data = match self.unsent.front_mut() {
            Some(_) if window == 0 => return None,
            Some(front) if front.len() > limit.min(window) => front.split_to(limit.min(window)),
            Some(_) => self.unsent.pop_front().unwrap_or_default(),
            None => Bytes::new(),
        };
        self.unsent_bytes -= data.len();
        let fin = self.fin == Fin::Queued && self.unsent.is_empty();
        if data.is_empty() && !fin {
            return None;
        }
        if fin {
            self.fin = Fin::Sent;
        }
        let segment = Segment { seq, data, fin };
        self.next = segment.end();
        Some(segment)
    }

    /// Learns what the peer has and how much it has room for. True when that was news.
    pub(crate) fn learn(&mut self, (ack, edge): (u64, u64)) -> bool {
        let news = ack > self.acked || edge > self.peer_edge;
        self.acked = self.acked.max(ack.min(self.next));
        self.peer_edge = self.peer_edge.max(edge);
        news
    }
}

impl Incoming {
    pub(crate) const fn new(window: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            ready_bytes: 0,
            expected: 0,
            early: BTreeMap::new(),
            fin: false,
            window,
            told_ack: 0,
            told_edge: window as u64,
            retry_armed: false,
        }
    }

    /// Bytes that wait for the reader.
    pub(crate) const fn unread(&self) -> usize {
        self.ready_bytes
    }

    /// Takes in a segment. True when the reader has something new.
    pub(crate) fn accept(&mut self, segment: Segment) -> bool {
        if segment.seq > self.expected {
            self.early.insert(segment.seq, segment);
            return false;
        }
        if segment.end() <= self.expected {
            return false;
        }
        assert_eq!(segment.seq, self.expected, "segments are sent again as they were");
        self.append(segment);
        while let Some(first) = self.early.first_entry() {
            if *first.key() > self.expected {
                break;
            }
            let segment = first.remove();
            if segment.seq == self.expected {
                self.append(segment);
            }
        }
        true
    }

    fn append(&mut self, segment: Segment) {
        self.expected = segment.end();
        self.fin |= segment.fin;
        self.ready_bytes += segment.data.len();
        if !segment.data.is_empty() {
            self.ready.push_back(segment.data);
        }
    }

    /// Moves up to `limit` ready bytes to the reader.
    pub(crate) fn read(&mut self, limit: usize, mut give: impl FnMut(&[u8])) {
        let mut left = limit;
        while left > 0 {
            let Some(front) = self.ready.front_mut() else { break };
            let take = left.min(front.len());
            give(&front[..take]);
            bytes::Buf::advance(front, take);
            if front.is_empty() {
                self.ready.pop_front();
            }
            self.ready_bytes -= take;
            left -= take;
        }
    }

    /// What to tell the peer: received up to here, and room up to there.
    pub(crate) fn tell(&mut self) -> (u64, u64) {
        self.told_ack = self.expected;
        self.told_edge = self.told_edge.max(self.edge());
        (self.told_ack, self.told_edge)
    }

    /// True when the peer should be told without waiting for data to ride on: a good part of its
    /// buffer, or of this one, has become free.
    pub(crate) fn should_tell(&self, peer_buffer: usize) -> bool {
        let step = (self.window.min(peer_buffer) as u64 / 4).max(1);
        self.expected - self.told_ack >= step
            || self.edge() - self.told_edge.min(self.edge()) >= step
    }

    const fn edge(&self) -> u64 {
        self.expected + self.window.saturating_sub(self.ready_bytes) as u64
    }
}

fn wait(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        Some(_) | None => *slot = Some(cx.waker().clone()),
    }
}
