//! Anti-entropy: how two home replicas find out what differs between them, and heal it, without a client.
//!
//! ```text
//!  each replica, per partition                     an exchange
//!  root = xor of all leaves                        roots          1 request for many partitions
//!  leaf = xor of the digests of its keys           nodes          128 hashes for each that differs
//!  digest = hash(key, object's digest)             keys           key lists of the leaves that differ
//!                                                  objects        both ways, those that differ alone
//! ```
//!
//! - [`tree`]: the tree of one partition. A write takes the digest of the old object out and puts that of
//!   the new one in, by XOR, so that order does not matter and nothing is read. A leaf is an arc of tokens, so
//!   its keys lie side by side on disk.
//! - [`holding`]: the tree while it is built by a scan and changed by writes at the same time, and which keys
//!   were written a moment ago.
//! - [`message`]: what is asked and answered. [`exchange`]: the asking side. [`answering`]: the other one.
//! - [`schedule`]: who is compared with whom and when; when a doubtful copy may be trusted again.
//!   [`throttle`]: how fast.
//!
//! What holds: equal contents are equal trees, whatever the order of writes; different contents are
//! equal trees by chance alone, once in 2^64. Trees only say where to look: what is shipped follows from the key
//! lists, which are read from the data, and is merged like any write. So a wrong tree costs work or time, never
//! a value.
//!
//! Sources: Merkle, "A Digital Signature Based on a Conventional Encryption Function" (1987); `DeCandia` et al.,
//! "Dynamo" (2007), 4.7; Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing: Incrementality
//! at Reduced Cost" (1997), for the XOR of digests. That one says too that XOR is not safe against somebody
//! who chooses the inputs; here a digest holds dots, which clients do not choose.

pub mod answering;
pub mod exchange;
pub mod holding;
pub mod message;
pub mod schedule;
pub mod throttle;
pub mod tree;
pub mod vouching;

#[cfg(test)]
mod tests;

use super::hash::Words;
use super::key::{Key, Token};
use super::object::Object;

/// What a key and the object under it add to a tree. Equal for equal objects, since an object's
/// [digest](Object::digest) follows from its one encoding.
pub fn digest(key: &Key, object: &Object) -> u64 {
    digest_of(key, object.digest())
}

/// [`digest`], for an object that has `object_digest`.
pub fn digest_of(key: &Key, object_digest: u64) -> u64 {
    mix(name_of(key), object_digest)
}

/// What stands for a key in digests: keys of one `{tag}` share a token.
fn name_of(key: &Key) -> u64 {
    Words::default().with_bytes(key.raw()).finish()
}

/// [`digest_of`] a key with this [name](name_of).
fn mix(name: u64, object_digest: u64) -> u64 {
    Words::default().with(name).with(object_digest).finish()
}

/// The arc of tokens that a partition is: 2^`bits` of them, from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    first: Token,
    bits: u32,
}

impl Section {
    /// The partition from `first` to `last`, both included.
    ///
    /// # Panics
    /// When that is no power of two of tokens, 2^[`LEVEL_MAX`](tree::LEVEL_MAX) or more, that begins at a multiple of itself.
    pub fn new(first: Token, last: Token) -> Self {
        let bits = (last.0 - first.0).count_ones();
        let low = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
        assert!(bits >= u32::from(tree::LEVEL_MAX), "{first} to {last} is too short");
        assert!(first.0 & low == 0 && first.0 | low == last.0, "{first} to {last} is no partition");
        Self { first, bits }
    }

    /// The first and the last token.
    pub fn tokens(&self) -> (Token, Token) {
        (self.first, Token(self.first.0 | u64::MAX.checked_shr(64 - self.bits).unwrap_or(0)))
    }

    /// The node of `level` that `token` lies under.
    pub fn node_of(&self, token: Token, level: u8) -> u32 {
        let inside = token.0 - self.first.0;
        inside.checked_shr(self.bits - u32::from(level)).unwrap_or(0) as u32
    }

    /// The first and the last token under the nodes `first` to `last` of `level`.
    pub fn tokens_of(&self, level: u8, first: u32, last: u32) -> (Token, Token) {
        let shift = self.bits - u32::from(level);
        let start = |node: u32| self.first.0 | u64::from(node).checked_shl(shift).unwrap_or(0);
        let width_minus_one = u64::MAX.checked_shr(64 - shift).unwrap_or(0);
        (Token(start(first)), Token(start(last) | width_minus_one))
    }
}
