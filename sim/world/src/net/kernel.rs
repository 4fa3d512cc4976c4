//! Packets between machines: sending, fates, arrival, and what a machine's end does to its sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::connection::{ConnId, Connection, Segment};
use super::listener::{Listener, ListenerId};
use super::udp::{Socket, SocketId};
use crate::link::{Fate, Parcel};
use crate::process::{MachineId, ProcessId};
use crate::rng::{self, Rng};
use crate::slab::Slab;
use crate::tcp::TcpSpec;
use crate::world::{Later, World};

/// All sockets of all machines.
pub(crate) struct Net {
    pub(crate) tcp: TcpSpec,
    pub(crate) by_ip: BTreeMap<IpAddr, MachineId>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) connections: Slab<Connection>,
    pub(crate) listeners: Slab<Listener>,
    pub(crate) sockets: Slab<Socket>,
    /// Where reads and writes are cut short.
    pub(crate) dice: Rng,
}

/// One machine's ports.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) listeners: BTreeMap<u16, Vec<ListenerId>>,
    pub(crate) sockets: BTreeMap<u16, Vec<SocketId>>,
    /// Ports of connections that started here.
    pub(crate) active: BTreeSet<u16>,
    /// Connections that were accepted here, by own port and peer.
    pub(crate) passive: BTreeMap<(u16, SocketAddr), ConnId>,
    pub(crate) last_tcp_port: u16,
    pub(crate) last_udp_port: u16,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            tcp: TcpSpec::default(),
            by_ip: BTreeMap::new(),
            hosts: vec![Host::default()],
            connections: Slab::new(),
            listeners: Slab::new(),
            sockets: Slab::new(),
            dice: rng::stream(seed, "short-io", &[]),
        }
    }

    pub(crate) fn add_host(&mut self, id: MachineId, ip: IpAddr) {
        self.by_ip.insert(ip, id);
        self.hosts.push(Host::default());
    }

    pub(crate) fn host(&mut self, machine: MachineId) -> &mut Host {
        &mut self.hosts[machine.0 as usize]
    }
}

/// Something the network will do.
pub(crate) enum Happening {
    /// A packet arrives.
    Arrival(Box<Flight>),
    /// A SYN, or the answer to one, had no answer for a while: the n-th retry.
    HandshakeRetry(ConnId, u32),
    /// A sender's retransmission timer ends.
    Retransmit(ConnId),
    /// A sender whose peer had no room left asks whether it still lives.
    Probe(ConnId),
    /// An acknowledgement was lost: the n-th retry.
    AckRetry(ConnId, u32),
    /// A connection that nobody holds any more has waited long enough for its peer.
    Expire(ConnId),
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: MachineId,
    pub(crate) to: MachineId,
    pub(crate) packet: Packet,
}

/// What machines send each other. A connection's end is named by its id where TCP would look it up
/// by addresses: ids are never reused, so a packet for a dead one finds nothing.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// Asks for a connection.
    Syn { source: SocketAddr, target: SocketAddr, client: ConnId, edge: u64 },
    /// Grants it.
    SynAck { client: ConnId, server: ConnId, edge: u64 },
    /// Bytes, the end of the bytes, or both.
    Data { to: ConnId, from: ConnId, segment: Segment, ack: u64, edge: u64 },
    /// Received up to `ack`; there is room up to `edge`.
    Ack { to: ConnId, from: ConnId, ack: u64, edge: u64 },
    /// There is no such connection, or no more.
    Reset { to: ConnId },
    /// One datagram.
    Datagram { source: SocketAddr, target: SocketAddr, data: Bytes },
}

/// How a packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It will arrive.
    Flies,
    /// It will not, or nobody knows when.
    Gone,
}

impl Packet {
    /// Payload bytes.
    fn len(&self) -> usize {
        match self {
            Packet::Data { segment, .. } => segment.data.len(),
            Packet::Datagram { data, .. } => data.len(),
            Packet::Syn { .. }
            | Packet::SynAck { .. }
            | Packet::Ack { .. }
            | Packet::Reset { .. } => 0,
        }
    }

    /// Its kind and its place in its stream, for the trace.
    fn label(&self) -> u64 {
        let (kind, number) = match self {
            Packet::Syn { target, .. } => (1, u64::from(target.port())),
            Packet::SynAck { .. } => (2, 0),
            Packet::Data { segment, .. } => (3, segment.seq),
            Packet::Ack { ack, .. } => (4, *ack),
            Packet::Reset { .. } => (5, 0),
            Packet::Datagram { target, .. } => (6, u64::from(target.port())),
        };
        kind << 56 | (number & 0x00ff_ffff_ffff_ffff)
    }
}

impl World {
    /// Sends a packet. The sender's kernel is told its fate, so that retransmission needs no timer
    /// for what arrives.
    pub(crate) fn transmit(&mut self, flight: Flight) -> Sent {
        let bytes = flight.packet.len();
        let (from, to) = (flight.from, flight.to);
        let route = u64::from(to.0) << 32 | bytes as u64;
        let label = flight.packet.label();
        let datagram = matches!(flight.packet, Packet::Datagram { .. });
        match self.links.judge(from, to, Parcel { bytes, datagram }, self.now()) {
            Fate::Arrives(at_ns, again) => {
                self.emit_of_machine(from, "packet_sent", route, label);
                if let Some(again) = again {
                    self.emit_of_machine(from, "packet_duplicated", route, label);
                    let copy = Happening::Arrival(Box::new(flight.clone()));
                    self.schedule(again, Later::Net(copy));
                }
                self.schedule(at_ns, Later::Net(Happening::Arrival(Box::new(flight))));
                return Sent::Flies;
            }
            Fate::Lost => self.emit_of_machine(from, "packet_lost", route, label),
            Fate::Blocked => self.emit_of_machine(from, "packet_blocked", route, label),
            Fate::Held => {
                self.emit_of_machine(from, "packet_held", route, label);
                self.hold(flight);
            }
        }
        Sent::Gone
    }

    /// Has the network do what was scheduled.
    pub(crate) fn net_happens(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(flight) => self.arrive(*flight),
            Happening::HandshakeRetry(id, retry) => self.retry_handshake(id, retry),
            Happening::Retransmit(id) => self.retransmit(id),
            Happening::Probe(id) => self.probe(id),
            Happening::AckRetry(id, retry) => self.retry_ack(id, retry),
            Happening::Expire(id) => self.forget(id),
        }
    }

    fn arrive(&mut self, flight: Flight) {
        let Flight { from, to, packet } = flight;
        let route = u64::from(from.0) << 32 | packet.len() as u64;
        if !self.machines[to.0 as usize].powered {
            self.emit_of_machine(to, "packet_to_dead_machine", route, packet.label());
            if let Packet::Data { from, segment, .. } = packet {
                self.unconfirmed(from, segment);
            }
            return;
        }
        self.emit_of_machine(to, "packet_delivered", route, packet.label());
        match packet {
            Packet::Syn { source, target, client, edge } => {
                self.syn_arrives((from, to), (source, target), client, edge);
            }
            Packet::SynAck { client, server, edge } => {
                self.syn_ack_arrives((from, to), client, server, edge);
            }
            Packet::Data { to: id, from: peer, segment, ack, edge } => {
                self.data_arrives((from, to), (peer, id), segment, (ack, edge));
            }
            Packet::Ack { to: id, from: peer, ack, edge } => {
                self.ack_arrives((from, to), (peer, id), (ack, edge));
            }
            Packet::Reset { to: id } => self.reset_arrives(id),
            Packet::Datagram { source, target, data } => {
                self.datagram_arrives(to, source, target, data);
            }
        }
    }

    /// Closes what a dead process left open, as its machine's kernel does.
    pub(crate) fn net_process_died(&mut self, process: ProcessId) {
        for id in self.net.listeners.ids_where(|listener| listener.owner == process) {
            self.close_listener(id);
        }
        for id in self.net.connections.ids_where(|c| c.owner == Some(process)) {
            self.close_connection(id);
        }
        for id in self.net.sockets.ids_where(|socket| socket.owner == process) {
            self.close_socket(id);
        }
    }

    /// Forgets everything that a machine's kernel knew, without a word to anybody.
    pub(crate) fn net_power_loss(&mut self, machine: MachineId) {
        for id in self.net.connections.ids_where(|c| c.here == machine) {
            self.net.connections.remove(id);
        }
        for id in self.net.listeners.ids_where(|l| l.owner.machine == machine) {
            self.net.listeners.remove(id);
        }
        for id in self.net.sockets.ids_where(|s| s.owner.machine == machine) {
            self.net.sockets.remove(id);
        }
        let host = self.net.host(machine);
        *host = Host {
            last_tcp_port: host.last_tcp_port,
            last_udp_port: host.last_udp_port,
            ..Host::default()
        };
    }
}
