//! What nodes ask of each other, and what they answer.
//!
//! A request frame's payload is the caller's number for it, then the head, then the body; a reply's
//! is that number and the body. Numbers are the caller's own business: the other side sends them back
//! as they are.
//!
//! ```text
//! request   number u64 | request id u64 | remaining ms varint | tag u8 | fields
//! reply     number u64 | tag u8 | fields
//! ```
//!
//! Keys, objects and contexts have the encodings of [`domain`](crate::domain), and every message has
//! exactly one. Deadlines travel as the time that remains, since clocks differ.

use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;

use super::frame::{self, FrameError, Kind};
use super::handshake::NAME_BYTES_MAX;
use crate::domain::causality::CausalContext;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::forgetting::message as forgetting;
use crate::domain::key::Key;
use crate::domain::listing::{Listing, Page};
use crate::domain::merkle::message::{Answer, Ask};
use crate::domain::object::{Content, Object};
use crate::runtime::time::Instant;

/// Set in a write's flags when a value follows; clear for a tombstone.
const HAS_VALUE: u8 = 1;
/// Set in a write's flags when an expiry follows.
const EXPIRES: u8 = 2;
/// Set in a write's flags when a fallback's ack counts.
const SLOPPY: u8 = 4;
/// Set in a write's flags when the receiver is to coordinate as a fallback.
const FALLBACK: u8 = 8;

/// Set in a write's flags when the highest stamp in its context follows.
const STAMPED: u8 = 16;

/// What goes with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Names the client's request in the logs of every node that it touches.
    pub request_id: u64,
    /// When the answer stops being of use, by this machine's monotonic clock.
    pub deadline: Instant,
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// From a write's coordinator, or as read repair: merge `object` into what you hold for `key` and
    /// answer once a client may hear of it. A lost copy costs an ack; repeating it is harmless.
    Replicate {
        /// The key.
        key: Key,
        /// All that the sender holds for it.
        object: Arc<Object>,
    },
    /// From who kept `object` for this member: merge it into what you hold for `key` and answer once that is on disk,
    /// whatever your policy of syncing, since the sender forgets it then. Repeating it is harmless.
    HandOver {
        /// The key.
        key: Key,
        /// All that the sender kept for it.
        object: Arc<Object>,
    },
    /// From a read's coordinator: what do you hold for `key`? Changes nothing.
    Fetch {
        /// The key.
        key: Key,
        /// The [digest](Object::digest) of what the asker holds: an equal object isn't sent.
        /// `None`: it holds nothing, or wants the object anyway.
        known: Option<u64>,
    },
    /// From a write's coordinator to a fallback: keep `object` for the member `owner`, who could not
    /// take it, and answer once a client may hear of it. A lost copy costs an ack; repeating it is harmless.
    Hint {
        /// The name of the member that it is for.
        owner: Arc<str>,
        /// The key.
        key: Key,
        /// All that the sender holds for it.
        object: Arc<Object>,
    },
    /// From a read's coordinator to a fallback: what do you keep for others under `key`? Changes nothing.
    FetchHinted {
        /// The key.
        key: Key,
    },
    /// From a node that is no home replica, to one that is: coordinate this write. A lost one, or a
    /// lost answer, leaves the outcome unknown; repeating it may add a sibling.
    Write(WriteRequest),
    /// From another home replica, to compare and heal a partition. What is put is merged; the rest changes nothing. A lost
    /// one costs a retry, and repeating it is harmless.
    Exchange {
        /// The [digest](crate::domain::ring::Ring::digest) of the asker's ring: partitions mean the same only on the same ring.
        ring: u64,
        /// The question.
        ask: Ask,
    },
    /// From the first home replica of some partitions to an owner of the ring: what stands in the way of forgetting tombstones there; or forget
    /// them. A lost one costs a round.
    Forgetting {
        /// As for an exchange.
        ring: u64,
        /// The question.
        question: forgetting::Question,
    },
    /// From the coordinator of a listing: which keys with a prefix do you hold? Changes nothing.
    List(Listing),
    /// Are you there? Answered by the server itself; no handler sees it.
    Ping,
}

/// A client's PUT or DELETE on its way to its coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// The key.
    pub key: Key,
    /// The context that the client sent; empty without one.
    pub seen: CausalContext,
    /// No write in it has a higher stamp, in Unix milliseconds; 0: it does not say.
    pub newest_ms: u64,
    /// The new value, or a tombstone.
    pub content: Content,
    /// When the value expires, in Unix milliseconds; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// How many durable acks the client wants.
    pub w: u8,
    /// Whether a fallback's ack counts.
    pub sloppy: bool,
    /// Whether the receiver is to coordinate as a fallback, since the sender can reach no home replica.
    pub fallback: bool,
}

/// The answer to one [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Replicate`, `HandOver` and `Hint`: merged, and as safe as they ask.
    Stored,
    /// To `Fetch` and `FetchHinted`: this is held.
    Found(Arc<Object>),
    /// To `Fetch`: the same is held as the asker's digest says.
    Same,
    /// To `Fetch` and `FetchHinted`: nothing is held.
    Absent,
    /// To `Write`: done, with enough acks.
    Written(WriteReply),
    /// To `Exchange`.
    Exchanged {
        /// The clients of this node wait longer than they have to: ask more slowly.
        crowded: bool,
        /// The answer.
        answer: Answer,
    },
    /// To `Forgetting`.
    Forgetting(forgetting::Answer),
    /// To `List`.
    Listed(Page),
    /// To `Ping`.
    Pong,
    /// To anything: not done, or not known to be done, and why.
    Refused(Refusal),
}

/// What a coordinator says of a write that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteReply {
    /// For the client: what it had seen, and its own write.
    pub context: CausalContext,
    /// No write in it has a higher stamp, in Unix milliseconds; 0 where siblings are kept.
    pub newest_ms: u64,
    /// Siblings that the key has now.
    pub siblings: u32,
    /// Acks that were asked for.
    pub required: u8,
    /// Acks that came in time.
    pub received: u8,
    /// Those among them that came from fallbacks.
    pub hinted: u8,
}

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too much is going on; nothing was begun.
    #[error("node is overloaded: try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// The node can't write to its disk at present; the write may or may not live on there.
    #[error("node cannot store: {reason}")]
    StorageStalled {
        /// What the storage says.
        reason: String,
    },
    /// The node is no home replica of the key: the asker's view of the ring is another. Nothing was begun.
    #[error("node is no home replica of the key")]
    NotHome,
    /// The write would leave more siblings than allowed; nothing was stored. Read, merge, and write
    /// with the context.
    #[error("key has {limit} siblings already: write with the context of a read")]
    TooManySiblings {
        /// What the key's siblings are covered by.
        context: CausalContext,
        /// How many siblings a key may have.
        limit: u32,
    },
    /// Too few replicas could be reached; the write lives on where it was stored.
    #[error("only {received} of {required} required replicas answered")]
    QuorumUnmet {
        /// Acks that were asked for.
        required: u8,
        /// Acks that came.
        received: u8,
        /// Those among them that came from fallbacks.
        hinted: u8,
    },
    /// Too few replicas answered before the deadline; the write lives on where it was stored.
    #[error("only {received} of {required} required replicas answered in time")]
    DeadlineExceeded {
        /// Acks that were asked for.
        required: u8,
        /// Acks that came.
        received: u8,
        /// Those among them that came from fallbacks.
        hinted: u8,
    },
    /// Key and value, or an answer's object, are larger than a limit; nothing was stored.
    #[error("pair is larger than {limit} bytes")]
    PairTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The write's context is stamped too far in the future; nothing was stored.
    #[error("context is {ahead_ms} ms ahead of the node's clock")]
    TooFarAhead {
        /// How far.
        ahead_ms: u64,
    },
    /// The node is starting or stopping; nothing was begun.
    #[error("node is starting or stopping")]
    Unready,
    /// To `Fetch`: damage took part of what was held, so what is left is no answer.
    #[error("node cannot vouch for its copy, which was damaged")]
    Doubtful {
        /// The [digest](Object::digest) of what is left; `None`: nothing is.
        held: Option<u64>,
    },
}

/// Appends a request frame to `out`.
pub(super) fn encode_request(
    number: u64,
    request_id: u64,
    remaining: Duration,
    request: &Request,
    payload_bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    // Rounded up: a receiver that starts a moment too late does no harm, but one that is told "0 ms"
    // drops what could have been answered.
    let remaining_ms = remaining.as_micros().div_ceil(1000);
    frame::encode(Kind::Request, payload_bytes_max, out, |out| {
        out.put_u64(number);
        out.put_u64(request_id);
        out.put_varint(u64::try_from(remaining_ms).unwrap_or(u64::MAX));
        request.encode(out);
    })
}

/// Reads the payload of a request frame that came at `now`: the caller's number, head and body.
pub(super) fn decode_request(
    payload: &[u8],
    now: Instant,
) -> Result<(u64, RequestHead, Request), DecodeError> {
    let mut from = Decoder::new(payload);
    let number = from.u64("number")?;
    let request_id = from.u64("request id")?;
    let remaining = Duration::from_millis(from.varint("remaining time")?);
    let request = Request::decode(&mut from)?;
    from.finish()?;
    Ok((number, RequestHead { request_id, deadline: now + remaining }, request))
}

/// Appends a reply frame to `out`. A reply over the limit becomes a refusal that says so.
pub(super) fn encode_reply(
    number: u64,
    reply: &Reply,
    payload_bytes_max: usize,
    out: &mut Vec<u8>,
) {
    let put = |reply: &Reply, out: &mut Vec<u8>| {
        frame::encode(Kind::Reply, payload_bytes_max, out, |out| {
            out.put_u64(number);
            reply.encode(out);
        })
    };
    if put(reply, out).is_err() {
        let refusal = Refusal::PairTooLarge { limit: payload_bytes_max as u64 };
        put(&Reply::Refused(refusal), out).expect("a refusal of some 20 bytes fits in any frame");
    }
}

/// Reads the payload of a reply frame: the number that the request had, and the body.
pub(super) fn decode_reply(payload: &[u8]) -> Result<(u64, Reply), DecodeError> {
    let mut from = Decoder::new(payload);
    let number = from.u64("number")?;
    let reply = Reply::decode(&mut from)?;
    from.finish()?;
    Ok((number, reply))
}

impl Request {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Ping => out.put_u8(0),
            Request::Replicate { key, object } => {
                out.put_u8(1);
                key.encode(out);
                object.encode(out);
            }
            Request::Fetch { key, known: None } => {
                out.put_u8(2);
                key.encode(out);
            }
            Request::Fetch { key, known: Some(digest) } => {
                out.put_u8(3);
                key.encode(out);
                out.put_u64(*digest);
            }
            Request::Write(write) => {
                out.put_u8(4);
                write.encode(out);
            }
            Request::Hint { owner, key, object } => {
                out.put_u8(5);
                out.put_block(owner.as_bytes());
                key.encode(out);
                object.encode(out);
            }
            Request::FetchHinted { key } => {
                out.put_u8(6);
                key.encode(out);
            }
            Request::List(listing) => {
                out.put_u8(10);
                listing.encode(out);
            }
            Request::Exchange { ring, ask } => {
                out.put_u8(7);
                out.put_u64(*ring);
                ask.encode(out);
            }
            Request::HandOver { key, object } => {
                out.put_u8(8);
                key.encode(out);
                object.encode(out);
            }
            Request::Forgetting { ring, question } => {
                out.put_u8(9);
                out.put_u64(*ring);
                question.encode(out);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("request tag")? {
            0 => Request::Ping,
            1 => {
                let key = Key::decode(from)?;
                Request::Replicate { key, object: Arc::new(Object::decode(from)?) }
            }
            2 => Request::Fetch { key: Key::decode(from)?, known: None },
            3 => Request::Fetch { key: Key::decode(from)?, known: Some(from.u64("digest")?) },
            4 => Request::Write(WriteRequest::decode(from)?),
            5 => {
                let owner = from.str("owner")?;
                if owner.is_empty() || owner.len() > NAME_BYTES_MAX {
                    return Err(DecodeError::Invalid("owner"));
                }
                let key = Key::decode(from)?;
                Request::Hint { owner: owner.into(), key, object: Arc::new(Object::decode(from)?) }
            }
            6 => Request::FetchHinted { key: Key::decode(from)? },
            7 => Request::Exchange { ring: from.u64("ring")?, ask: Ask::decode(from)? },
            10 => Request::List(Listing::decode(from)?),
            8 => {
                let key = Key::decode(from)?;
                Request::HandOver { key, object: Arc::new(Object::decode(from)?) }
            }
            9 => Request::Forgetting {
                ring: from.u64("ring")?,
                question: forgetting::Question::decode(from)?,
            },
            _ => return Err(DecodeError::Invalid("request tag")),
        })
    }
}

impl WriteRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        self.key.encode(out);
        self.seen.encode(out);
        let value = match &self.content {
            Content::Value(bytes) => Some(bytes),
            Content::Tombstone => None,
        };
        let flag = |holds: bool, bit: u8| if holds { bit } else { 0 };
        let flags = flag(self.sloppy, SLOPPY)
            | flag(self.fallback, FALLBACK)
            | flag(value.is_some(), HAS_VALUE)
            | flag(self.expires_at_ms.is_some(), EXPIRES)
            | flag(self.newest_ms > 0, STAMPED);
        out.put_slice(&[self.w, flags]);
        if self.newest_ms > 0 {
            out.put_varint(self.newest_ms);
        }
        if let Some(at) = self.expires_at_ms {
            out.put_varint(at);
        }
        if let Some(bytes) = value {
            out.put_block(bytes);
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let key = Key::decode(from)?;
        let seen = CausalContext::decode(from)?;
        let w = from.u8("w")?;
        let flags = from.u8("flags of a write")?;
        if flags & !(SLOPPY | FALLBACK | HAS_VALUE | EXPIRES | STAMPED) != 0 {
            return Err(DecodeError::Invalid("flags of a write"));
        }
        let newest_ms = if flags & STAMPED != 0 { from.varint("newest stamp")? } else { 0 };
        if flags & STAMPED != 0 && newest_ms == 0 {
            return Err(DecodeError::Invalid("newest stamp"));
        }
        let (sloppy, fallback) = (flags & SLOPPY != 0, flags & FALLBACK != 0);
        let expires_at_ms = if flags & EXPIRES != 0 { Some(from.varint("expiry")?) } else { None };
        let content = if flags & HAS_VALUE != 0 {
            Content::Value(from.owned_block("value")?)
        } else {
            Content::Tombstone
        };
        Ok(WriteRequest { key, seen, newest_ms, content, expires_at_ms, w, sloppy, fallback })
    }
}

impl Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Pong => out.put_u8(0),
            Reply::Stored => out.put_u8(1),
            Reply::Found(object) => {
                out.put_u8(2);
                object.encode(out);
            }
            Reply::Same => out.put_u8(3),
            Reply::Absent => out.put_u8(4),
            Reply::Written(written) => {
                out.put_u8(5);
                written.context.encode(out);
                out.put_varint(written.newest_ms);
                out.put_varint(u64::from(written.siblings));
                out.put_slice(&[written.required, written.received, written.hinted]);
            }
            Reply::Listed(page) => {
                out.put_u8(9);
                page.encode(out);
            }
            Reply::Refused(refusal) => {
                out.put_u8(6);
                refusal.encode(out);
            }
            Reply::Exchanged { crowded, answer } => {
                out.put_slice(&[7, u8::from(*crowded)]);
                answer.encode(out);
            }
            Reply::Forgetting(answer) => {
                out.put_u8(8);
                answer.encode(out);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("reply tag")? {
            0 => Reply::Pong,
            1 => Reply::Stored,
            2 => Reply::Found(Arc::new(Object::decode(from)?)),
            3 => Reply::Same,
            4 => Reply::Absent,
            5 => Reply::Written(WriteReply {
                context: CausalContext::decode(from)?,
                newest_ms: from.varint("newest stamp")?,
                siblings: varint_u32(from, "siblings")?,
                required: from.u8("required")?,
                received: from.u8("received")?,
                hinted: from.u8("hinted")?,
            }),
            6 => Reply::Refused(Refusal::decode(from)?),
            7 => {
                let crowded = match from.u8("crowded")? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Invalid("crowded")),
                };
                Reply::Exchanged { crowded, answer: Answer::decode(from)? }
            }
            8 => Reply::Forgetting(forgetting::Answer::decode(from)?),
            9 => Reply::Listed(Page::decode(from)?),
            _ => return Err(DecodeError::Invalid("reply tag")),
        })
    }
}

impl Refusal {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Refusal::Overloaded { retry_after_ms } => {
                out.put_u8(0);
                out.put_varint(u64::from(*retry_after_ms));
            }
            Refusal::StorageStalled { reason } => {
                out.put_u8(1);
                out.put_block(reason.as_bytes());
            }
            Refusal::NotHome => out.put_u8(2),
            Refusal::TooManySiblings { context, limit } => {
                out.put_u8(3);
                context.encode(out);
                out.put_varint(u64::from(*limit));
            }
            Refusal::QuorumUnmet { required, received, hinted } => {
                out.put_slice(&[4, *required, *received, *hinted]);
            }
            Refusal::DeadlineExceeded { required, received, hinted } => {
                out.put_slice(&[5, *required, *received, *hinted]);
            }
            Refusal::PairTooLarge { limit } => {
                out.put_u8(6);
                out.put_varint(*limit);
            }
            Refusal::Unready => out.put_u8(7),
            Refusal::Doubtful { held: None } => out.put_u8(8),
            Refusal::Doubtful { held: Some(digest) } => {
                out.put_u8(9);
                out.put_u64(*digest);
            }
            Refusal::TooFarAhead { ahead_ms } => {
                out.put_u8(10);
                out.put_varint(*ahead_ms);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("refusal tag")? {
            0 => Refusal::Overloaded { retry_after_ms: varint_u32(from, "retry after")? },
            1 => Refusal::StorageStalled { reason: from.str("reason")?.to_owned() },
            2 => Refusal::NotHome,
            3 => Refusal::TooManySiblings {
                context: CausalContext::decode(from)?,
                limit: varint_u32(from, "sibling limit")?,
            },
            4 => Refusal::QuorumUnmet {
                required: from.u8("required")?,
                received: from.u8("received")?,
                hinted: from.u8("hinted")?,
            },
            5 => Refusal::DeadlineExceeded {
                required: from.u8("required")?,
                received: from.u8("received")?,
                hinted: from.u8("hinted")?,
            },
            6 => Refusal::PairTooLarge { limit: from.varint("pair limit")? },
            7 => Refusal::Unready,
            8 => Refusal::Doubtful { held: None },
            9 => Refusal::Doubtful { held: Some(from.u64("digest")?) },
            10 => Refusal::TooFarAhead { ahead_ms: from.varint("skew")? },
            _ => return Err(DecodeError::Invalid("refusal tag")),
        })
    }
}

fn varint_u32(from: &mut Decoder<'_>, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(from.varint(what)?).map_err(|_| DecodeError::Invalid(what))
}

#[cfg(test)]
mod tests;
