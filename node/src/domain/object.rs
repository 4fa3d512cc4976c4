//! What a replica holds for a key: siblings under a causal context.
//!
//! An [`Object`] is a set of siblings, each under its dot, and the context of every dot it has seen.
//! A dot that is in the context but names no sibling was superseded. Two replicas merge by:
//!
//! ```text
//! keep a sibling   if both have it
//!                  or one has it and the other's context does not know its dot
//! context          the union
//! ```
//!
//! Merge is commutative, associative and idempotent (property tests), so replicas that have seen the
//! same writes are byte-equal, whatever the order. Source: Bieniusa et al., "An Optimized
//! Conflict-free Replicated Set" (2012), applied to dotted version vectors.
//!
//! Invariants: siblings are sorted by dot, no two share one, and the context knows each.

pub mod lww;
pub mod pruning;

use bytes::Bytes;

use super::causality::{CausalContext, Dot, decode_dot, encode_dot, hash_dot};
use super::codec::{DecodeError, Decoder, Encode};
use super::hash::Words;

/// What a write put there.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Content {
    /// A JSON document, byte for byte as the client sent it.
    Value(Bytes),
    /// Deleted.
    Tombstone,
}

/// One live version of an object.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Sibling {
    /// The write's name.
    pub dot: Dot,
    /// What it wrote.
    pub content: Content,
    /// The coordinator's wall clock at the write, in Unix milliseconds. Shown, and compared only where the last write
    /// wins ([`lww`]).
    pub written_at_ms: u64,
    /// From this moment (Unix milliseconds) reads hide it; `None`: never.
    pub expires_at_ms: Option<u64>,
}

impl Sibling {
    /// The value that a reader at `now_ms` sees; `None` for a tombstone or when expired.
    pub fn visible(&self, now_ms: u64) -> Option<&Bytes> {
        match &self.content {
            Content::Value(bytes) if self.expires_at_ms.is_none_or(|at| now_ms < at) => Some(bytes),
            Content::Value(_) | Content::Tombstone => None,
        }
    }
}

/// Siblings and the context of all that they supersede.
#[derive(Clone, PartialEq, Eq, Default, Debug, Hash)]
pub struct Object {
    context: CausalContext,
    siblings: Vec<Sibling>,
}

/// The first byte of an encoded object: the format's version.
const FORMAT: u8 = 1;
/// Set in a sibling's byte of kind when a value follows; clear for a tombstone.
const HAS_VALUE: u8 = 1;
/// Set in a sibling's byte of kind when an expiry follows.
const EXPIRES: u8 = 2;

impl Object {
    /// An object that has seen no write.
    pub const fn new() -> Self {
        Self { context: CausalContext::new(), siblings: Vec::new() }
    }

    /// True when it has seen no write.
    pub fn is_empty(&self) -> bool {
        self.context.is_empty()
    }

    /// Every dot it has seen, superseded or live.
    pub fn context(&self) -> &CausalContext {
        &self.context
    }

    /// The live versions, sorted by dot.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// From when on no reader sees anything of it, in Unix milliseconds: 0 when all its siblings are tombstones, else when the last value
    /// expires; `None`: never.
    pub fn spent_at_ms(&self) -> Option<u64> {
        let spent = |sibling: &Sibling| match &sibling.content {
            Content::Tombstone => Some(0),
            Content::Value(_) => sibling.expires_at_ms,
        };
        self.siblings.iter().map(spent).try_fold(0, |latest, at| Some(latest.max(at?)))
    }

    /// Adds the write `new`: it replaces exactly the siblings that `seen` covers and stands beside
    /// the others. Returns the context to hand to the writer: what it had seen, and its own write.
    ///
    /// # Panics
    /// When the dot was seen before: a dot names one write, ever.
    pub fn write(&mut self, seen: &CausalContext, new: Sibling) -> CausalContext {
        let dot = new.dot;
        assert!(!self.context.contains(dot), "dot {dot:?} minted twice");
        assert!(!seen.contains(dot), "dot {dot:?} was seen before it was minted");
        self.siblings.retain(|s| !seen.contains(s.dot));
        self.insert(new);
        self.context.join(seen);
        self.context.add(dot);
        self.check();
        if self.siblings.len() == 1 {
            // All else that the object knows is superseded, so the short form is safe.
            return self.context.clone();
        }
        let mut known = seen.clone();
        known.add(dot);
        known
    }

    /// Merges `other` into `self`; true when `self` changed.
    pub fn merge(&mut self, other: &Object) -> bool {
        if self == other || (self.context.covers(&other.context) && !self.has_stale(other)) {
            return false;
        }
        if self.is_empty() {
            self.clone_from(other);
            return true;
        }
        self.siblings.retain(|s| !other.context.contains(s.dot) || other.sibling(s.dot).is_some());
        for sibling in &other.siblings {
            if !self.context.contains(sibling.dot) {
                self.insert(sibling.clone());
            }
        }
        self.context.join(&other.context);
        self.check();
        true
    }

    /// What a reader at `now_ms` (Unix milliseconds) is shown: each distinct value, and `None` for a tombstone that
    /// stands beside them. Equal values are shown once, since a client's retry may have made two; what expired is not.
    pub fn shown(&self, now_ms: u64) -> Vec<(&Sibling, Option<&Bytes>)> {
        let mut shown: Vec<(&Sibling, Option<&Bytes>)> = Vec::new();
        for sibling in &self.siblings {
            let value = sibling.visible(now_ms);
            let expired = value.is_none() && sibling.content != Content::Tombstone;
            if !expired && !shown.iter().any(|(_, other)| *other == value) {
                shown.push((sibling, value));
            }
        }
        shown
    }

    /// The sibling under `dot`.
    pub fn sibling(&self, dot: Dot) -> Option<&Sibling> {
        self.siblings.binary_search_by_key(&dot, |s| s.dot).ok().map(|at| &self.siblings[at])
    }

    /// True when `other` knows that a sibling of `self` is superseded.
    fn has_stale(&self, other: &Object) -> bool {
        let gone = |s: &Sibling| other.context.contains(s.dot) && other.sibling(s.dot).is_none();
        self.siblings.iter().any(gone)
    }

    fn insert(&mut self, sibling: Sibling) {
        if let Err(at) = self.siblings.binary_search_by_key(&sibling.dot, |s| s.dot) {
            self.siblings.insert(at, sibling);
        }
    }

    fn check(&self) {
        debug_assert!(self.siblings.windows(2).all(|w| w[0].dot < w[1].dot), "unsorted {self:?}");
        assert!(
            self.siblings.iter().all(|s| self.context.contains(s.dot)),
            "sibling unknown to its context: {self:?}"
        );
    }

    /// Bytes that the encoding takes, at most (for buffers and budgets).
    pub fn size_bytes(&self) -> usize {
        // A varint takes up to 10 bytes, a dot a node id and two of them.
        const DOT: usize = 28;
        const HEAD: usize = 1 + 3 * 10;
        const SIBLING: usize = DOT + 1 + 3 * 10;
        let content = |s: &Sibling| match &s.content {
            Content::Value(bytes) => SIBLING + bytes.len(),
            Content::Tombstone => SIBLING,
        };
        HEAD + DOT * self.context.len() + self.siblings.iter().map(content).sum::<usize>()
    }

    /// Appends the object's one encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        out.put_u8(FORMAT);
        self.context.encode(out);
        out.put_varint(self.siblings.len() as u64);
        for sibling in &self.siblings {
            encode_dot(sibling.dot, out);
            out.put_varint(sibling.written_at_ms);
            let (value, kind) = match &sibling.content {
                Content::Value(bytes) => (Some(bytes), HAS_VALUE),
                Content::Tombstone => (None, 0),
            };
            out.put_u8(kind | if sibling.expires_at_ms.is_some() { EXPIRES } else { 0 });
            if let Some(at) = sibling.expires_at_ms {
                out.put_varint(at);
            }
            if let Some(bytes) = value {
                out.put_block(bytes);
            }
        }
    }

    /// 64 bits that tell this object from others of its key: a [hash](super::hash) of its context and of its
    /// siblings' dots. A dot names one write for ever, so equal dots are equal contents and the
    /// values themselves need not be read. Different objects agree by chance alone, one pair in 2^64.
    pub fn digest(&self) -> u64 {
        let words = self.context.hashed(Words::default()).with(self.siblings.len() as u64);
        self.siblings.iter().map(|sibling| sibling.dot).fold(words, hash_dot).finish()
    }

    /// The object's one encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size_bytes());
        self.encode(&mut bytes);
        bytes
    }

    /// The object whose encoding `bytes` are, with nothing behind it.
    ///
    /// # Errors
    /// As of [`decode`](Self::decode).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let object = Self::decode(&mut from)?;
        from.finish().map(|()| object)
    }

    /// Takes an object off the front of `from`. Values are copied, so that what is kept never pins
    /// the buffer it came in.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not the one encoding of an object.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        if from.u8("object format")? != FORMAT {
            return Err(DecodeError::Invalid("object format"));
        }
        let context = CausalContext::decode(from)?;
        let count = from.count(12, "siblings")?;
        let mut siblings: Vec<Sibling> = Vec::with_capacity(count);
        for _ in 0..count {
            let sibling = decode_sibling(from)?;
            let sorted = siblings.last().is_none_or(|last| last.dot < sibling.dot);
            if !sorted || !context.contains(sibling.dot) {
                return Err(DecodeError::Invalid("siblings"));
            }
            siblings.push(sibling);
        }
        Ok(Self { context, siblings })
    }
}

fn decode_sibling(from: &mut Decoder<'_>) -> Result<Sibling, DecodeError> {
    let dot = decode_dot(from)?;
    let written_at_ms = from.varint("write time")?;
    let kind = from.u8("content")?;
    if kind & !(HAS_VALUE | EXPIRES) != 0 {
        return Err(DecodeError::Invalid("content"));
    }
    let expires_at_ms = if kind & EXPIRES != 0 { Some(from.varint("expiry")?) } else { None };
    let content = if kind & HAS_VALUE != 0 {
        Content::Value(from.owned_block("value")?)
    } else {
        Content::Tombstone
    };
    Ok(Sibling { dot, content, written_at_ms, expires_at_ms })
}
