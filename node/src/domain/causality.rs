//! Who wrote what before what: actors, dots, and causal contexts.
//!
//! Every write to a key is named by a dot: (actor, counter). An actor is (node id, epoch); the
//! dots of one actor on one key are 1, 2, 3, … without gaps. A [`CausalContext`] is a set of dots:
//! a version vector for the gapless part, and a few dots above it (the "dot cloud").
//!
//! ```text
//! vector {A:3, B:1}  cloud {A:5}    =  A1 A2 A3 _ A5   B1
//! ```
//!
//! Plain vectors can't say "A5 but not A4". A client that wrote A5 blindly has seen just that: if its
//! next write claimed A4 too, it would wipe out a value that nobody has read. So contexts are exact.
//!
//! Sources: Preguiça et al., "Dotted Version Vectors" (2010); Almeida et al., "Delta State Replicated
//! Data Types" (2018), section 7.2, for the compressed set of dots.
//!
//! Invariants: the vector is sorted by actor and holds no zero; the cloud is sorted, and every dot
//! of it lies at least two above its actor's counter in the vector. One set has one form.

use std::fmt;

use super::codec::{DecodeError, Decoder, Encode};
use super::hash::Words;

/// A node's identity, minted at random with its data folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who mints dots: a node in one of its epochs. Epochs are never used twice, not even after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// Taken from the node's durable epoch counter, which follows the clock: see [`Actor::born_s`].
    pub epoch: u64,
}

/// Epochs of one second of time, as a power of two.
const EPOCHS_A_SECOND_BITS: u32 = 12;

/// Clocks are believed up to the year 4147.
const SECONDS_MAX: u64 = 1 << 36;

impl Actor {
    /// The lowest epoch of an actor that is born at `now_s`, in Unix seconds.
    pub fn epoch_at(now_s: u64) -> u64 {
        now_s.min(SECONDS_MAX) << EPOCHS_A_SECOND_BITS
    }

    /// When it was born by its node's clock, in Unix seconds, or later than that: epochs that are handed out faster than 4096 a second,
    /// and those after a clock that was set back, run ahead of the clock, never behind it.
    pub fn born_s(self) -> u64 {
        self.epoch >> EPOCHS_A_SECOND_BITS
    }

    /// One word for it, in the simulator's trace.
    pub fn word(self) -> u64 {
        self.node.0.wrapping_add(self.epoch)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.epoch)
    }
}

/// The name of one write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// 1 for the actor's first write of the key, and so on without gaps.
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.counter)
    }
}

/// A set of dots: those that somebody has seen.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct CausalContext {
    vector: Vec<(Actor, u64)>,
    cloud: Vec<Dot>,
}

impl CausalContext {
    /// The set of no dots.
    pub const fn new() -> Self {
        Self { vector: Vec::new(), cloud: Vec::new() }
    }

    /// True when no dot is in the set.
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty() && self.cloud.is_empty()
    }

    /// Pairs and single dots that the set takes to write down.
    pub fn len(&self) -> usize {
        self.vector.len() + self.cloud.len()
    }

    /// The counter up to which every dot of `actor` is in the set; 0 for none.
    pub fn counter(&self, actor: Actor) -> u64 {
        self.vector.binary_search_by_key(&actor, |p| p.0).map_or(0, |at| self.vector[at].1)
    }

    /// The actors in the set, in no order, some more than once.
    pub fn actors(&self) -> impl Iterator<Item = Actor> {
        self.vector.iter().map(|p| p.0).chain(self.cloud.iter().map(|d| d.actor))
    }

    /// The actors of `node` in the set, in no order, some more than once.
    pub fn actors_of(&self, node: NodeId) -> impl Iterator<Item = Actor> {
        self.actors().filter(move |a| a.node == node)
    }

    /// Takes out every dot of those actors that `gone` picks.
    pub fn drop_actors(&mut self, gone: impl Fn(Actor) -> bool) {
        self.vector.retain(|pair| !gone(pair.0));
        self.cloud.retain(|dot| !gone(dot.actor));
    }

    /// The actor of `node` with the highest epoch in the set.
    pub fn latest_actor_of(&self, node: NodeId) -> Option<Actor> {
        self.actors_of(node).max()
    }

    /// The highest counter of `actor` in the set, gaps or not; 0 for none.
    pub fn highest(&self, actor: Actor) -> u64 {
        let above = self.cloud.iter().filter(|d| d.actor == actor).map(|d| d.counter).max();
        above.unwrap_or(0).max(self.counter(actor))
    }

    /// True when `dot` is in the set.
    pub fn contains(&self, dot: Dot) -> bool {
        dot.counter <= self.counter(dot.actor) || self.cloud.binary_search(&dot).is_ok()
    }

    /// True when every dot of `other` is in this set.
    pub fn covers(&self, other: &CausalContext) -> bool {
        other.vector.iter().all(|&(actor, counter)| self.counter(actor) >= counter)
            && other.cloud.iter().all(|&dot| self.contains(dot))
    }

    /// True when every dot of `actor` in `other` is in this set.
    pub fn covers_actor(&self, other: &CausalContext, actor: Actor) -> bool {
        let mut dots = other.cloud.iter().filter(|dot| dot.actor == actor);
        self.counter(actor) >= other.counter(actor) && dots.all(|&dot| self.contains(dot))
    }

    /// Adds one dot.
    pub fn add(&mut self, dot: Dot) {
        assert!(dot.counter > 0, "dots count from one: {dot:?}");
        if self.contains(dot) {
            return;
        }
        if let Err(at) = self.cloud.binary_search(&dot) {
            self.cloud.insert(at, dot);
        }
        self.compact();
    }

    /// Adds every dot of `other`: the least set that covers both.
    pub fn join(&mut self, other: &CausalContext) {
        for &(actor, counter) in &other.vector {
            match self.vector.binary_search_by_key(&actor, |p| p.0) {
                Ok(at) => self.vector[at].1 = self.vector[at].1.max(counter),
                Err(at) => self.vector.insert(at, (actor, counter)),
            }
        }
        for &dot in &other.cloud {
            if let Err(at) = self.cloud.binary_search(&dot) {
                self.cloud.insert(at, dot);
            }
        }
        if !self.cloud.is_empty() {
            self.compact();
        }
    }

    /// Moves dots of the cloud that the vector reaches into it. The cloud is sorted by (actor,
    /// counter), so one pass is enough.
    fn compact(&mut self) {
        let mut cloud = std::mem::take(&mut self.cloud);
        cloud.retain(|&dot| {
            let at = self.vector.binary_search_by_key(&dot.actor, |p| p.0);
            let reached = at.map_or(0, |at| self.vector[at].1);
            // Not `reached + 1`: a vector from outside may reach the last counter there is.
            if dot.counter - 1 > reached {
                return true;
            }
            match at {
                Ok(at) => self.vector[at].1 = reached.max(dot.counter),
                Err(at) => self.vector.insert(at, (dot.actor, dot.counter)),
            }
            false
        });
        self.cloud = cloud;
    }

    /// Appends the set's one encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        out.put_varint(self.vector.len() as u64);
        for &(actor, counter) in &self.vector {
            encode_dot(Dot { actor, counter }, out);
        }
        out.put_varint(self.cloud.len() as u64);
        for dot in &self.cloud {
            encode_dot(*dot, out);
        }
    }

    /// The hash of `words` and of this set.
    pub fn hashed(&self, words: Words) -> Words {
        let vector = self.vector.iter().map(|&(actor, counter)| Dot { actor, counter });
        let hashed = vector.fold(words.with(self.vector.len() as u64), hash_dot);
        self.cloud.iter().copied().fold(hashed.with(self.cloud.len() as u64), hash_dot)
    }

    /// Takes a set off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not the one encoding of a set.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let pairs = from.count(10, "version vector")?;
        let mut set = Self { vector: Vec::with_capacity(pairs), cloud: Vec::new() };
        for _ in 0..pairs {
            let Dot { actor, counter } = decode_dot(from)?;
            if set.vector.last().is_some_and(|last| last.0 >= actor) {
                return Err(DecodeError::Invalid("version vector"));
            }
            set.vector.push((actor, counter));
        }
        let dots = from.count(10, "dots")?;
        for _ in 0..dots {
            let dot = decode_dot(from)?;
            let sorted = set.cloud.last().is_none_or(|last| *last < dot);
            if !sorted || dot.counter <= set.counter(dot.actor).saturating_add(1) {
                return Err(DecodeError::Invalid("dots"));
            }
            set.cloud.push(dot);
        }
        Ok(set)
    }
}

impl FromIterator<Dot> for CausalContext {
    fn from_iter<T: IntoIterator<Item = Dot>>(dots: T) -> Self {
        let mut set = Self::new();
        for dot in dots {
            set.add(dot);
        }
        set
    }
}

impl fmt::Debug for CausalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{")?;
        for (at, (actor, counter)) in self.vector.iter().enumerate() {
            write!(f, "{}{actor:?}:{counter}", if at > 0 { " " } else { "" })?;
        }
        for dot in &self.cloud {
            write!(f, " +{dot:?}")?;
        }
        write!(f, "}}")
    }
}

/// Appends a dot.
pub fn encode_dot(dot: Dot, out: &mut impl Encode) {
    out.put_u64(dot.actor.node.0);
    out.put_varint(dot.actor.epoch);
    out.put_varint(dot.counter);
}

/// The hash of `words` and of a dot.
pub fn hash_dot(words: Words, dot: Dot) -> Words {
    words.with(dot.actor.node.0).with(dot.actor.epoch).with(dot.counter)
}

/// Takes a dot off the front of `from`.
///
/// # Errors
/// [`DecodeError`] when the bytes are damaged or the counter is zero.
pub fn decode_dot(from: &mut Decoder<'_>) -> Result<Dot, DecodeError> {
    let node = NodeId(from.u64("node id")?);
    let epoch = from.varint("epoch")?;
    let counter = from.varint("counter")?;
    if counter == 0 {
        return Err(DecodeError::Invalid("counter"));
    }
    Ok(Dot { actor: Actor { node, epoch }, counter })
}
