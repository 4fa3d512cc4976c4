//! The datagrams: how they look, and how they are read without trust.
//!
//! | bytes | what |
//! |---|---|
//! | 2 | magic `f5 47` |
//! | 1 | version, 1 |
//! | 8 | hash of the cluster's name |
//! | 1 | kind; the highest bit says that the sender has announced itself |
//! | 8 | hash of the sender's name |
//! | 8 | nonce of the sender's process |
//! | varints | the sender's incarnation, beat, load |
//! | | the message |
//! | 16 or 4 | the seal (the sibling module `seal`) |
//!
//! A *beat* is a heartbeat and one bit, set when the member stopped: `heartbeat * 2 + stopped`. A
//! *stamp* is (incarnation, beat). Stamps of one name only grow, and each is given by the member
//! itself, so the higher one is the newer news, whoever tells it. News that only a heartbeat moved
//! takes 8 bytes of hash and some 6 to 8 of stamp: incarnations are written above the lowest of the
//! datagram.
//!
//! Decoding never panics, and never keeps more than the datagram holds. Every datagram carries its
//! sender's own stamp in the header, so an answer is progress by itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BufMut;

use super::member::{MemberInfo, TEXT_BYTES_MAX};
use super::seal::{SEAL_BYTES_MAX, Seal};
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder, Encode};

/// The longest datagram: fits an Ethernet frame, with room for tunnels.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1400;
/// What a message may take: the rest is header (at its longest) and seal.
pub(super) const MESSAGE_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES_MAX - SEAL_BYTES_MAX;
const HEADER_BYTES_MAX: usize = 2 + 1 + 8 + 1 + 8 + 8 + 10 + 10 + 5;
const MAGIC: [u8; 2] = [0xf5, b'G'];
const VERSION: u8 = 1;
const ANNOUNCED: u8 = 0x80;
/// Larger counters are never sent in earnest; refusing them keeps sums from overflowing.
const COUNTER_MAX: u64 = 1 << 62;

/// A heartbeat, and whether the member has stopped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Beat(u64);

impl Beat {
    pub(super) fn heartbeat(self) -> u64 {
        self.0 >> 1
    }

    pub(super) fn stopped(self) -> bool {
        self.0 & 1 == 1
    }

    pub(super) fn next(self) -> Self {
        Self((self.0 | 1) + 1)
    }

    pub(super) fn stop(self) -> Self {
        Self(self.0 | 1)
    }
}

/// Which news of a member: the higher the newer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Stamp {
    pub(super) incarnation: u64,
    pub(super) beat: Beat,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Hash of its name.
    pub(super) sender: u64,
    pub(super) process: u64,
    /// Whether the sender is the member of its name. If not, it only asks, and the stamp is what it
    /// knows of whoever held its name.
    pub(super) announced: bool,
    pub(super) stamp: Stamp,
    pub(super) load: u32,
}

/// All that is told of a member. Sent when the other has no record of it, or an older incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) info: MemberInfo,
    pub(super) stamp: Stamp,
    /// The wall clock at the start of the process, in ms: decides which of two processes that both
    /// announced one name gives way.
    pub(super) born: u64,
}

/// Who suspects a member, and on what grounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    /// Hash of the suspect's name.
    pub(super) target: u64,
    /// The latest that the reporters heard of it. Whoever knows better need not listen.
    pub(super) stamp: Stamp,
    /// Hash of the reporter's name, and its own heartbeat when it last said so.
    pub(super) reporters: Vec<(u64, u64)>,
}

/// The members of a digest or of an answer, by hash.
pub(super) type Stamps = Vec<(u64, Stamp)>;

/// What a datagram says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// Sent each interval to a few: all that the sender knows from hash `first` to hash `last`, so
    /// that gaps are seen too. Answered by `News`. A lost one is made good by the next.
    Digest { first: u64, last: u64, stamps: Stamps, claims: Vec<Claim> },
    /// Answers a digest (`answers`) with what is known better, and asks for what is known worse; or
    /// brings what such an answer asked for. A lost one is made good by the next digest.
    News {
        answers: bool,
        stamps: Stamps,
        wants: Vec<u64>,
        claims: Vec<Claim>,
        records: Vec<Record>,
    },
    /// Sent to a silent member, which raises its heartbeat and sends `Pong`. If lost, others are asked.
    Ping { origin: u64 },
    /// The answer of `target`. Whoever gets it for another `origin` passes it on.
    Pong { origin: u64, target: u64, stamp: Stamp },
    /// Asks the receiver to ping `target` for the sender. Two are asked, so one may be lost.
    AskPing { target: u64 },
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dropped {
    Malformed,
    Foreign,
    Unauthenticated,
}

/// The bytes of a datagram.
pub(super) fn encode(cluster: u64, header: &Header, message: &Message, seal: &Seal) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u64(cluster);
    let kind = match message {
        Message::Digest { .. } => 0,
        Message::News { .. } => 1,
        Message::Ping { .. } => 2,
        Message::Pong { .. } => 3,
        Message::AskPing { .. } => 4,
    };
    out.put_u8(kind | if header.announced { ANNOUNCED } else { 0 });
    out.put_u64(header.sender);
    out.put_u64(header.process);
    put_stamp(&mut out, header.stamp);
    out.put_varint(u64::from(header.load));
    put_message(&mut out, message);
    seal.close(&mut out);
    assert!(out.len() <= DATAGRAM_BYTES_MAX, "a datagram of {} bytes", out.len());
    out
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Digest { first, last, stamps, claims } => {
            out.put_u64(*first);
            out.put_u64(*last);
            put_stamps(out, stamps);
            put_claims(out, claims);
        }
        Message::News { answers, stamps, wants, claims, records } => {
            out.put_u8(u8::from(*answers));
            put_stamps(out, stamps);
            out.put_varint(wants.len() as u64);
            wants.iter().for_each(|&hash| out.put_u64(hash));
            put_claims(out, claims);
            out.put_varint(records.len() as u64);
            records.iter().for_each(|record| put_record(out, record));
        }
        Message::Ping { origin } => out.put_u64(*origin),
        Message::Pong { origin, target, stamp } => {
            out.put_u64(*origin);
            out.put_u64(*target);
            put_stamp(out, *stamp);
        }
        Message::AskPing { target } => out.put_u64(*target),
    }
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    out.put_varint(stamp.incarnation);
    out.put_varint(stamp.beat.0);
}

fn put_stamps(out: &mut Vec<u8>, stamps: &[(u64, Stamp)]) {
    let base = stamps.iter().map(|(_, stamp)| stamp.incarnation).min().unwrap_or(0);
    out.put_varint(base);
    out.put_varint(stamps.len() as u64);
    for &(hash, stamp) in stamps {
        out.put_u64(hash);
        out.put_varint(stamp.incarnation - base);
        out.put_varint(stamp.beat.0);
    }
}

fn put_claims(out: &mut Vec<u8>, claims: &[Claim]) {
    out.put_varint(claims.len() as u64);
    for claim in claims {
        out.put_u64(claim.target);
        put_stamp(out, claim.stamp);
        out.put_varint(claim.reporters.len() as u64);
        for &(reporter, as_of) in &claim.reporters {
            out.put_u64(reporter);
            out.put_varint(as_of);
        }
    }
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    let info = &record.info;
    out.put_block(info.name.as_bytes());
    out.put_u64(info.node.0);
    out.put_varint(info.generation);
    out.put_u64(info.process);
    match info.gossip.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(info.gossip.port());
    for text in [&info.rpc, &info.http, &info.zone, &info.datacenter] {
        out.put_block(text.as_bytes());
    }
    out.put_varint(u64::from(info.vnodes));
    out.put_varint(u64::from(info.load));
    put_stamp(out, record.stamp);
    out.put_varint(record.born);
}

/// Bytes of a varint.
pub(super) fn varint_bytes(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Bytes that an entry of a digest takes, with incarnations written above `base` or any lower one.
pub(super) fn stamp_bytes(stamp: Stamp, base: u64) -> usize {
    8 + varint_bytes(stamp.incarnation.saturating_sub(base)) + varint_bytes(stamp.beat.0)
}

/// Bytes that a claim takes.
pub(super) fn claim_bytes(claim: &Claim) -> usize {
    let reporters: usize = claim.reporters.iter().map(|r| 8 + varint_bytes(r.1)).sum();
    20 + varint_bytes(claim.stamp.beat.0) + reporters
}

/// Bytes that a record takes.
pub(super) fn record_bytes(record: &Record) -> usize {
    let mut out = Vec::with_capacity(128);
    put_record(&mut out, record);
    out.len()
}

/// What a datagram says, if it is one of this cluster's.
///
/// # Errors
/// [`Dropped`]; nothing else is known of it then, and it is safe to forget.
pub(super) fn decode(
    cluster: u64,
    bytes: &[u8],
    seal: &Seal,
) -> Result<(Header, Message), Dropped> {
    let mut front = Decoder::new(bytes);
    let known = front.take(2, "magic") == Ok(&MAGIC) && front.u8("version") == Ok(VERSION);
    let theirs = front.u64("cluster").map_err(|_| Dropped::Malformed)?;
    if !known || bytes.len() > DATAGRAM_BYTES_MAX {
        return Err(Dropped::Malformed);
    }
    let seal_fits = seal.open(bytes);
    if theirs != cluster {
        // Without a secret a damaged cluster hash is told from a foreign one by the checksum.
        let damaged = !seal.is_secret() && seal_fits.is_none();
        return Err(if damaged { Dropped::Malformed } else { Dropped::Foreign });
    }
    let bad_seal = if seal.is_secret() { Dropped::Unauthenticated } else { Dropped::Malformed };
    let body = seal_fits.ok_or(bad_seal)?;
    let mut decoder = Decoder::new(body);
    read(&mut decoder).ok().filter(|_| decoder.finish().is_ok()).ok_or(Dropped::Malformed)
}

fn read(from: &mut Decoder<'_>) -> Result<(Header, Message), DecodeError> {
    from.take(11, "front")?;
    let kind = from.u8("kind")?;
    let header = Header {
        sender: from.u64("sender")?,
        process: from.u64("process")?,
        announced: kind & ANNOUNCED != 0,
        stamp: stamp(from)?,
        load: narrow(from.varint("load")?, "load")?,
    };
    let message = match kind & !ANNOUNCED {
        0 => Message::Digest {
            first: from.u64("first")?,
            last: from.u64("last")?,
            stamps: stamps(from)?,
            claims: claims(from)?,
        },
        1 => {
            let answers = match from.u8("answers")? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::Invalid("answers")),
            };
            Message::News {
                answers,
                stamps: stamps(from)?,
                wants: list(from, 8, |from| from.u64("want"))?,
                claims: claims(from)?,
                records: list(from, 30, record)?,
            }
        }
        2 => Message::Ping { origin: from.u64("origin")? },
        3 => Message::Pong {
            origin: from.u64("origin")?,
            target: from.u64("target")?,
            stamp: stamp(from)?,
        },
        4 => Message::AskPing { target: from.u64("target")? },
        _ => return Err(DecodeError::Invalid("kind")),
    };
    Ok((header, message))
}

fn list<'a, T>(
    from: &mut Decoder<'a>,
    each: usize,
    item: impl Fn(&mut Decoder<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = from.count(each, "list")?;
    (0..count).map(|_| item(from)).collect()
}

fn counter(from: &mut Decoder<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let value = from.varint(what)?;
    if value > COUNTER_MAX { Err(DecodeError::Invalid(what)) } else { Ok(value) }
}

fn narrow(value: u64, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(value).map_err(|_| DecodeError::Invalid(what))
}

fn stamp(from: &mut Decoder<'_>) -> Result<Stamp, DecodeError> {
    Ok(Stamp { incarnation: counter(from, "incarnation")?, beat: Beat(counter(from, "beat")?) })
}

fn stamps(from: &mut Decoder<'_>) -> Result<Stamps, DecodeError> {
    let base = counter(from, "base")?;
    list(from, 10, |from| {
        let hash = from.u64("hash")?;
        let above = stamp(from)?;
        let incarnation = base + above.incarnation;
        if incarnation > COUNTER_MAX {
            return Err(DecodeError::Invalid("incarnation"));
        }
        Ok((hash, Stamp { incarnation, ..above }))
    })
}

fn claims(from: &mut Decoder<'_>) -> Result<Vec<Claim>, DecodeError> {
    list(from, 11, |from| {
        Ok(Claim {
            target: from.u64("target")?,
            stamp: stamp(from)?,
            reporters: list(from, 9, |from| Ok((from.u64("reporter")?, counter(from, "as of")?)))?,
        })
    })
}

fn text(from: &mut Decoder<'_>, what: &'static str) -> Result<Arc<str>, DecodeError> {
    let text = from.str(what)?;
    if text.len() > TEXT_BYTES_MAX { Err(DecodeError::Invalid(what)) } else { Ok(text.into()) }
}

fn record(from: &mut Decoder<'_>) -> Result<Record, DecodeError> {
    let name = text(from, "name")?;
    if name.is_empty() {
        return Err(DecodeError::Invalid("name"));
    }
    let node = NodeId(from.u64("node id")?);
    let generation = counter(from, "generation")?;
    let process = from.u64("process")?;
    let ip: IpAddr = match from.u8("family")? {
        4 => <[u8; 4]>::try_from(from.take(4, "address")?)
            .map_err(|_| DecodeError::Invalid("address"))?
            .into(),
        6 => <[u8; 16]>::try_from(from.take(16, "address")?)
            .map_err(|_| DecodeError::Invalid("address"))?
            .into(),
        _ => return Err(DecodeError::Invalid("family")),
    };
    let port = u16::from_be_bytes([from.u8("port")?, from.u8("port")?]);
    let info = MemberInfo {
        name,
        node,
        generation,
        process,
        gossip: SocketAddr::new(ip, port),
        rpc: text(from, "rpc")?,
        http: text(from, "http")?,
        zone: text(from, "zone")?,
        datacenter: text(from, "datacenter")?,
        vnodes: narrow(from.varint("vnodes")?, "vnodes")?,
        load: narrow(from.varint("load")?, "load")?,
    };
    Ok(Record { info, stamp: stamp(from)?, born: counter(from, "born")? })
}
