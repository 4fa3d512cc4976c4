//! The kernels' side of TCP: handshakes, segments, acknowledgements, retransmission, closing.
//!
//! ```text
//! client                         server
//!   Syn ------------------------>  listener? backlog?   (none: Reset)
//!   established <--------- SynAck  half-open
//!   Ack ------------------------>  established, to be accepted
//!   Data(seq, bytes, fin?) ----->  in order; Ack when a quarter of a buffer is free again
//! ```
//!
//! Handshake packets are sent again after 1, 2, 4, … s; data after 0.2, 0.4, 0.8, … s, the first
//! lost segment alone until something gets through. Whoever hears nothing for
//! [`give_up_after`](crate::tcp::TcpSpec::give_up_after) breaks its end with `TimedOut`.

use std::net::SocketAddr;

use super::address::{errno, serves};
use super::connection::{ConnId, Connection, Fin, Incoming, Outgoing, Segment, State};
use super::kernel::{Flight, Happening, Packet, Sent};
use crate::process::MachineId;
use crate::world::{Later, World};

/// Linux's smallest retransmission timeout.
const RETRANSMIT_NS: u64 = 200_000_000;
/// Linux's first timeout of a SYN.
const HANDSHAKE_NS: u64 = 1_000_000_000;
/// How often a SYN is answered again.
const SYN_ACK_RETRIES: u32 = 5;
/// Linux's `tcp_fin_timeout`: how long a closed connection waits for the peer to close too.
const ORPHAN_NS: u64 = 60_000_000_000;
/// How long a sender without room waits before it asks.
const PROBE_NS: u64 = 5_000_000_000;
/// The longest pause between two tries.
const RETRY_MAX_NS: u64 = 10_000_000_000;

/// From which machine to which a packet went.
type Route = (MachineId, MachineId);

impl World {
    /// Sends the n-th SYN of a connection and sees to it that there is a next one if needed.
    pub(crate) fn send_syn(&mut self, id: ConnId, retry: u32) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let (from, to) = (c.here, c.there);
        let (_, edge) = c.incoming.tell();
        let packet = Packet::Syn { source: c.local, target: c.remote, client: id, edge };
        let deadline = c.born + nanos(self.net.tcp.give_up_after);
        self.transmit(Flight { from, to, packet });
        let at_ns = (self.now() + backoff(HANDSHAKE_NS, retry)).min(deadline);
        self.schedule(at_ns, Later::Net(Happening::HandshakeRetry(id, retry + 1)));
    }

    fn send_syn_ack(&mut self, id: ConnId, retry: u32) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let Some(client) = c.peer else { return };
        let (from, to) = (c.here, c.there);
        let (_, edge) = c.incoming.tell();
        self.transmit(Flight { from, to, packet: Packet::SynAck { client, server: id, edge } });
        let at_ns = self.now() + backoff(HANDSHAKE_NS, retry);
        self.schedule(at_ns, Later::Net(Happening::HandshakeRetry(id, retry + 1)));
    }

    pub(crate) fn retry_handshake(&mut self, id: ConnId, retry: u32) {
        let now = self.now();
        let give_up = nanos(self.net.tcp.give_up_after);
        let Some(c) = self.net.connections.get(id) else { return };
        match c.state {
            State::SynSent if now >= c.born + give_up => self.time_out(id),
            State::SynSent => self.send_syn(id, retry),
            State::SynReceived(_) if retry > SYN_ACK_RETRIES => self.forget(id),
            State::SynReceived(_) => self.send_syn_ack(id, retry),
            State::Established | State::Broken => {}
        }
    }

    pub(crate) fn syn_arrives(
        &mut self,
        (from, to): Route,
        (source, target): (SocketAddr, SocketAddr),
        client: ConnId,
        edge: u64,
    ) {
        let key = (target.port(), source);
        if let Some(known) = self.net.host(to).passive.get(&key).copied() {
            match self.net.connections.get(known) {
                Some(c) if c.peer == Some(client) => {
                    if matches!(c.state, State::SynReceived(_)) {
                        self.send_syn_ack(known, SYN_ACK_RETRIES);
                    }
                    return;
                }
                // The peer's machine has forgotten the old one and uses its address again.
                Some(_) => self.reset_arrives(known),
                None => {}
            }
        }
        let listeners = self.net.host(to).listeners.get(&target.port()).cloned();
        let listener = listeners.unwrap_or_default().into_iter().find(|id| {
            let listener = self.net.listeners.get(*id);
            listener.is_some_and(|listener| serves(listener.local.ip(), target.ip()))
        });
        let Some(listener_id) = listener else {
            self.emit_of_machine(to, "tcp_refused", u64::from(target.port()), 0);
            self.transmit(Flight { from: to, to: from, packet: Packet::Reset { to: client } });
            return;
        };
        let backlog = self.net.tcp.backlog;
        let listener = self.net.listeners.get_mut(listener_id).expect("found just now");
        if listener.queue.len() + listener.half_open >= backlog {
            self.emit_of_machine(to, "tcp_backlog_full", u64::from(target.port()), 0);
            return;
        }
        listener.half_open += 1;
        let owner = listener.owner;
        let connection = Connection {
            owner: Some(owner),
            here: to,
            there: from,
            local: target,
            remote: source,
            peer: Some(client),
            state: State::SynReceived(listener_id),
            born: self.now(),
            error: None,
            reader: None,
            writer: None,
            out: Outgoing::new(edge),
            incoming: Incoming::new(self.net.tcp.receive_window_bytes),
        };
        let id = self.net.connections.insert(connection);
        self.net.host(to).passive.insert(key, id);
        self.send_syn_ack(id, 0);
    }

    pub(crate) fn syn_ack_arrives(
        &mut self,
        (from, to): Route,
        client: ConnId,
        server: ConnId,
        edge: u64,
    ) {
        let Some(c) = self.net.connections.get_mut(client).filter(|c| c.state != State::Broken)
        else {
            self.transmit(Flight { from: to, to: from, packet: Packet::Reset { to: server } });
            return;
        };
        if c.state == State::SynSent {
            c.state = State::Established;
            c.peer = Some(server);
            c.out.learn((0, edge));
            self.wake.extend(c.writer.take());
            let port = u64::from(c.remote.port());
            self.emit_of_machine(to, "tcp_connect", u64::from(from.0), port);
        }
        self.send_ack(client, 0);
    }

    fn establish(&mut self, id: ConnId) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let State::SynReceived(listener_id) = c.state else { return };
        c.state = State::Established;
        let (here, there, port) = (c.here, c.there, c.local.port());
        self.emit_of_machine(here, "tcp_accept", u64::from(there.0), u64::from(port));
        if let Some(listener) = self.net.listeners.get_mut(listener_id) {
            listener.half_open -= 1;
            listener.queue.push_back(id);
            listener.waiters.wake(&mut self.wake);
        }
    }

    /// Sends all that may be sent.
    pub(crate) fn pump(&mut self, id: ConnId) {
        let limit = self.net.tcp.segment_bytes;
        loop {
            let Some(c) = self.net.connections.get_mut(id) else { return };
            if c.state != State::Established {
                return;
            }
            let Some(segment) = c.out.next_segment(limit) else { break };
            self.send_segment(id, segment);
        }
        let now = self.now();
        let Some(c) = self.net.connections.get_mut(id) else { return };
        if c.out.is_held() && !c.out.probe_armed {
            c.out.probe_armed = true;
            self.schedule(now + PROBE_NS, Later::Net(Happening::Probe(id)));
        }
    }

    /// Sends a byte more than there is room for, so that silence is noticed.
    pub(crate) fn probe(&mut self, id: ConnId) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        c.out.probe_armed = false;
        if c.state == State::Established && c.out.is_held() {
            // While something is lost already its own retransmission does the asking.
            if c.out.lost.is_empty()
                && let Some(segment) = c.out.probe_segment()
            {
                self.send_segment(id, segment);
            }
            self.pump(id);
        }
    }

    fn send_segment(&mut self, id: ConnId, segment: Segment) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let Some(peer) = c.peer else { return };
        let (from, to) = (c.here, c.there);
        let (ack, edge) = c.incoming.tell();
        // The copy that stays here is a reference to the same bytes.
        let packet = Packet::Data { to: peer, from: id, segment: segment.clone(), ack, edge };
        if self.transmit(Flight { from, to, packet }) == Sent::Gone {
            self.unconfirmed(id, segment);
        }
    }

    fn send_ack(&mut self, id: ConnId, retry: u32) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let Some(peer) = c.peer else { return };
        let (from, to) = (c.here, c.there);
        let (ack, edge) = c.incoming.tell();
        let packet = Packet::Ack { to: peer, from: id, ack, edge };
        if self.transmit(Flight { from, to, packet }) == Sent::Flies {
            return;
        }
        let Some(c) = self.net.connections.get_mut(id) else { return };
        if !c.incoming.retry_armed {
            c.incoming.retry_armed = true;
            let at_ns = self.now() + backoff(RETRANSMIT_NS, retry);
            self.schedule(at_ns, Later::Net(Happening::AckRetry(id, retry + 1)));
        }
    }

    pub(crate) fn retry_ack(&mut self, id: ConnId, retry: u32) {
        if let Some(c) = self.net.connections.get_mut(id) {
            c.incoming.retry_armed = false;
            if c.state == State::Established {
                self.send_ack(id, retry);
            }
        }
    }

    /// Tells the peer what is free again, if that is worth a packet.
    pub(crate) fn tell_if_worthwhile(&mut self, id: ConnId) {
        let buffer = self.net.tcp.send_buffer_bytes;
        let worthwhile =
            |c: &Connection| c.state == State::Established && c.incoming.should_tell(buffer);
        if self.net.connections.get(id).is_some_and(worthwhile) {
            self.send_ack(id, 0);
        }
    }

    pub(crate) fn data_arrives(
        &mut self,
        (from, to): Route,
        (sender, receiver): (ConnId, ConnId),
        segment: Segment,
        ack: (u64, u64),
    ) {
        self.establish(receiver);
        let known = self.net.connections.get_mut(receiver);
        let Some(c) = known.filter(|c| c.state == State::Established) else {
            self.refuse((to, from), sender, segment);
            return;
        };
        if c.owner.is_none() && !segment.data.is_empty() {
            // Nobody will ever read this: the kernel says so.
            self.forget(receiver);
            self.refuse((to, from), sender, segment);
            return;
        }
        let copy = Segment { seq: segment.seq, data: segment.data.clone(), fin: segment.fin };
        if c.incoming.accept(segment) {
            self.wake.extend(c.reader.take());
        }
        self.learn(receiver, ack);
        if self.links.is_cut(to, from) {
            self.unconfirmed(sender, copy);
        } else {
            self.confirmed(sender, &copy);
        }
        self.tell_if_worthwhile(receiver);
        self.forget_if_done(receiver);
    }

    pub(crate) fn ack_arrives(
        &mut self,
        (from, to): Route,
        (sender, receiver): (ConnId, ConnId),
        ack: (u64, u64),
    ) {
        self.establish(receiver);
        if self.net.connections.get(receiver).is_none_or(|c| c.state == State::Broken) {
            self.transmit(Flight { from: to, to: from, packet: Packet::Reset { to: sender } });
            return;
        }
        self.learn(receiver, ack);
    }

    fn learn(&mut self, id: ConnId, ack: (u64, u64)) {
        let limit = self.net.tcp.send_buffer_bytes;
        let Some(c) = self.net.connections.get_mut(id) else { return };
        if !c.out.learn(ack) {
            return;
        }
        if c.out.room(limit) >= limit / 3 {
            self.wake.extend(c.writer.take());
        }
        self.pump(id);
    }

    /// Answers data for a connection that is no more.
    fn refuse(&mut self, (from, to): Route, sender: ConnId, segment: Segment) {
        if self.transmit(Flight { from, to, packet: Packet::Reset { to: sender } }) == Sent::Gone {
            self.unconfirmed(sender, segment);
        }
    }

    pub(crate) fn reset_arrives(&mut self, id: ConnId) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let over = c.incoming.fin && c.out.fin == Fin::Confirmed;
        if c.owner.is_none() || matches!(c.state, State::SynReceived(_)) {
            self.forget(id);
            return;
        }
        if over || c.state == State::Broken {
            return;
        }
        // As Linux does: after the peer's end of stream a reset means that writing is in vain.
        let error = match c.state {
            State::SynSent => errno::ECONNREFUSED,
            _ if c.incoming.fin => errno::EPIPE,
            State::SynReceived(_) | State::Established | State::Broken => errno::ECONNRESET,
        };
        c.break_with(error, &mut self.wake);
        let (here, there) = (c.here, c.there);
        self.emit_of_machine(here, "tcp_reset", u64::from(there.0), error.unsigned_abs().into());
    }

    /// The sender has no sign that `segment` arrived: its retransmission timer runs.
    pub(crate) fn unconfirmed(&mut self, sender: ConnId, segment: Segment) {
        let now = self.now();
        let Some(c) = self.net.connections.get_mut(sender) else { return };
        if c.state == State::Broken {
            return;
        }
        c.out.lost.insert(segment.seq, segment);
        c.out.stalled_since.get_or_insert(now);
        self.arm_retransmission(sender);
    }

    fn confirmed(&mut self, sender: ConnId, segment: &Segment) {
        let Some(c) = self.net.connections.get_mut(sender) else { return };
        c.out.lost.remove(&segment.seq);
        c.out.backoff = 0;
        c.out.stalled_since = None;
        if segment.fin {
            c.out.fin = Fin::Confirmed;
        }
        // The way is open again: what else was lost follows at once.
        for segment in std::mem::take(&mut c.out.lost).into_values() {
            self.send_again(sender, segment);
        }
        self.forget_if_done(sender);
    }

    fn arm_retransmission(&mut self, id: ConnId) {
        let give_up = nanos(self.net.tcp.give_up_after);
        let now = self.now();
        let Some(c) = self.net.connections.get_mut(id) else { return };
        if c.out.timer_armed || c.out.lost.is_empty() {
            return;
        }
        c.out.timer_armed = true;
        let limit = c.out.stalled_since.unwrap_or(now) + give_up;
        let at_ns = (now + backoff(RETRANSMIT_NS, c.out.backoff)).min(limit);
        self.schedule(at_ns, Later::Net(Happening::Retransmit(id)));
    }

    pub(crate) fn retransmit(&mut self, id: ConnId) {
        let give_up = nanos(self.net.tcp.give_up_after);
        let now = self.now();
        let Some(c) = self.net.connections.get_mut(id) else { return };
        c.out.timer_armed = false;
        if c.out.stalled_since.is_some_and(|since| now >= since + give_up) {
            self.time_out(id);
            return;
        }
        // The first alone, until something gets through; `confirmed` sends the rest.
        if let Some((_, segment)) = c.out.lost.pop_first() {
            c.out.backoff += 1;
            self.send_again(id, segment);
            self.arm_retransmission(id);
        }
    }

    fn send_again(&mut self, id: ConnId, segment: Segment) {
        let Some(c) = self.net.connections.get(id) else { return };
        let (here, there) = (c.here, c.there);
        self.emit_of_machine(here, "tcp_retransmit", u64::from(there.0), segment.seq);
        self.send_segment(id, segment);
    }

    fn time_out(&mut self, id: ConnId) {
        let Some(c) = self.net.connections.get_mut(id) else { return };
        let (here, there) = (c.here, c.there);
        let orphan = c.owner.is_none();
        c.break_with(errno::ETIMEDOUT, &mut self.wake);
        self.emit_of_machine(here, "tcp_timeout", u64::from(there.0), 0);
        if orphan {
            self.forget(id);
        }
    }

    /// Ends the outgoing stream after what was written.
    pub(crate) fn finish_writing(&mut self, id: ConnId) {
        if let Some(c) = self.net.connections.get_mut(id)
            && c.out.fin == Fin::Open
            && c.state == State::Established
        {
            c.out.fin = Fin::Queued;
            self.pump(id);
        }
    }

    /// Does what Linux does when the last handle closes: a reset if bytes were left unread, else
    /// an orderly end that the kernel sees to.
    pub(crate) fn close_connection(&mut self, id: ConnId) {
        let now = self.now();
        let Some(c) = self.net.connections.get_mut(id) else { return };
        if c.state != State::Established {
            self.forget(id);
            return;
        }
        if c.incoming.unread() > 0 {
            self.abort_connection(id);
            return;
        }
        c.owner = None;
        (c.reader, c.writer) = (None, None);
        self.finish_writing(id);
        self.schedule(now + ORPHAN_NS, Later::Net(Happening::Expire(id)));
        self.forget_if_done(id);
    }

    /// Resets the peer and forgets the connection.
    pub(crate) fn abort_connection(&mut self, id: ConnId) {
        if let Some(c) = self.net.connections.get(id)
            && let Some(to) = c.peer
        {
            let packet = Packet::Reset { to };
            self.transmit(Flight { from: c.here, to: c.there, packet });
        }
        self.forget(id);
    }

    fn forget_if_done(&mut self, id: ConnId) {
        let done =
            |c: &Connection| c.owner.is_none() && c.incoming.fin && c.out.fin == Fin::Confirmed;
        if self.net.connections.get(id).is_some_and(done) {
            self.forget(id);
        }
    }

    /// Takes a connection out of its machine's tables.
    pub(crate) fn forget(&mut self, id: ConnId) {
        let Some(c) = self.net.connections.remove(id) else { return };
        if let State::SynReceived(listener) = c.state
            && let Some(listener) = self.net.listeners.get_mut(listener)
        {
            listener.half_open -= 1;
        }
        let host = self.net.host(c.here);
        let key = (c.local.port(), c.remote);
        if host.passive.get(&key) == Some(&id) {
            host.passive.remove(&key);
        } else {
            host.active.remove(&c.local.port());
        }
    }
}

/// The pause before the next try after `retries`.
fn backoff(base: u64, retries: u32) -> u64 {
    base.saturating_mul(1 << retries.min(16)).min(RETRY_MAX_NS)
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 2)
}
