//! The tree of one partition, as an array of leaves.
//!
//! Every inner node is the XOR of the leaves under it, so only leaves are stored, and the tree of depth d
//! can be asked for any level up to d: replicas whose trees differ in depth compare at the lower one.
//!
//! Depth follows the number of keys ([`bits_for`]): a leaf holds 64 keys at the most until the tree is 14
//! deep (a million keys), and more after that. A tree takes 8 bytes a leaf, and has 128 leaves from the start
//! ([`BITS_MIN`]), whatever depth it is compared at: to make it deeper takes a scan of all keys.
//!
//! | keys of a partition | up to 64 | 1,024 | 8,192 | 131,072 | 1,048,576 and more |
//! |---|---|---|---|---|---|
//! | depth | 0 | 4 | 7 | 11 | 14 |
//! | bytes of its tree | 1,024 | 1,024 | 1,024 | 16 Ki | 128 Ki |
//!
//! So a node of three with Q=1024 and N=3, which holds all 1,024 partitions, pays 1 MiB for up to 8 million
//! keys, 16 MiB for 134 million, and 128 MiB at the very most: 2 bytes a key and less, but for the first million. What a
//! [holding](super::holding) has beside its tree is 1 KiB at the most, and only while there are writes.

/// No tree is deeper.
pub const LEVEL_MAX: u8 = 14;

/// An exchange goes down in steps of so many levels: 128 hashes, 1 KiB, for a node that differs.
pub const LEVEL_STEP: u8 = 7;

/// A leaf is to hold so many keys at the most.
pub const LEAF_KEYS: u64 = 64;

/// No tree has fewer than 2^7 leaves. Growing from 0 by way of 4 meant two scans of all data while a cluster was
/// filled, which took a fifth of the CPU from requests; 1 KiB a partition is cheap beside that.
pub const BITS_MIN: u8 = LEVEL_STEP;

/// The depths that trees have.
const DEPTHS: [u8; 5] = [0, 4, 7, 11, LEVEL_MAX];

/// How deep the tree of so many keys is.
pub fn bits_for(keys: u64) -> u8 {
    DEPTHS.into_iter().find(|bits| keys <= LEAF_KEYS << bits).unwrap_or(LEVEL_MAX)
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    bits: u8,
    keys: u64,
    root: u64,
    leaves: Box<[u64]>,
}

impl Tree {
    /// The tree of no keys, of depth `bits`.
    ///
    /// # Panics
    /// Beyond [`LEVEL_MAX`].
    pub fn new(bits: u8) -> Self {
        assert!(bits <= LEVEL_MAX, "no tree is {bits} deep");
        Self { bits, keys: 0, root: 0, leaves: vec![0; 1 << bits].into() }
    }

    /// The tree of no keys, for about `keys` of them.
    pub fn for_keys(keys: u64) -> Self {
        Self::new(bits_for(keys).max(BITS_MIN))
    }

    /// It has 2^`bits` leaves.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// How deep it is worth comparing with another one: few keys are listed at once.
    pub fn depth(&self) -> u8 {
        bits_for(self.keys).min(self.bits)
    }

    /// True when it has too few leaves for its keys.
    pub fn is_too_small(&self) -> bool {
        self.bits < bits_for(self.keys)
    }

    /// How many keys are in it.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The XOR of everything in it; 0 for nothing.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The XOR of everything in a leaf.
    pub fn leaf(&self, leaf: u32) -> u64 {
        self.leaves[leaf as usize]
    }

    /// Takes the digest `old` out of a leaf and puts `new` in; `None`: the key was, or is, not there.
    pub fn change(&mut self, leaf: u32, old: Option<u64>, new: Option<u64>) {
        let delta = old.unwrap_or(0) ^ new.unwrap_or(0);
        self.leaves[leaf as usize] ^= delta;
        self.root ^= delta;
        self.keys = (self.keys + u64::from(new.is_some())).saturating_sub(u64::from(old.is_some()));
    }

    /// The hashes of all nodes of level `to` under node `parent` of `level`; `None`: the tree is not so deep, or has no such node.
    pub fn children(&self, level: u8, parent: u32, to: u8) -> Option<Vec<u64>> {
        if level > to || to > self.bits || u64::from(parent) >= 1 << level {
            return None;
        }
        let width = 1usize << (self.bits - to);
        let count = 1usize << (to - level);
        let from = parent as usize * count * width;
        let leaves = &self.leaves[from..from + count * width];
        Some(
            leaves
                .chunks(width)
                .map(|under| under.iter().fold(0, |xor, leaf| xor ^ leaf))
                .collect(),
        )
    }
}
