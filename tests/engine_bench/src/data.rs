//! Keys and values: the same for both engines, from a seed.

use std::sync::Arc;

use bytes::Bytes;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const VALUE_BYTES: usize = 1000;

/// Dice that fall the same way each time.
pub fn dice(purpose: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(purpose)
}

/// The name of pair `at`: 24 bytes.
pub fn name(at: u32) -> String {
    format!("key-{:020}", u64::from(at) * 7919)
}

/// The name of a pair that was never written.
pub fn absent(at: u32) -> String {
    format!("key-{:020}", u64::from(at) * 7919 + 1)
}

/// `0..pairs` in random order.
pub fn shuffled(pairs: u32, purpose: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..pairs).collect();
    order.shuffle(&mut dice(purpose));
    order
}

/// Documents as applications write them: known field names, words, numbers. They pack to about
/// half of their size.
#[derive(Clone)]
pub struct Values {
    pool: Arc<[Bytes]>,
    next: usize,
}

impl Values {
    pub fn new(purpose: u64) -> Self {
        let mut dice = dice(purpose);
        Self { pool: (0..4096).map(|_| document(&mut dice)).collect(), next: 0 }
    }

    /// The same documents, from another one on: writers share them, since making them takes longer than
    /// writing them.
    pub fn from(&self, next: u32) -> Self {
        Self { pool: self.pool.clone(), next: next as usize }
    }

    /// In a buffer of its own, as a request brings it.
    pub fn next(&mut self) -> Bytes {
        self.next = (self.next + 1) % self.pool.len();
        Bytes::copy_from_slice(&self.pool[self.next])
    }
}

fn document(dice: &mut ChaCha8Rng) -> Bytes {
    const WORDS: [&str; 16] = [
        "ring", "token", "quorum", "hint", "gossip", "replica", "vector", "sibling", "merkle",
        "segment", "commit", "bloom", "block", "level", "memory", "starling",
    ];
    let mut text = format!(
        r#"{{"id":"{:016x}","user":{},"created":{},"tags":["#,
        dice.random::<u64>(),
        dice.random_range(0..1_000_000),
        dice.random_range(1_600_000_000u64..1_800_000_000)
    );
    text.push_str(r#"],"body":""#);
    while text.len() < VALUE_BYTES - 24 {
        if dice.random_bool(0.5) {
            text.push_str(WORDS[dice.random_range(0..WORDS.len())]);
        } else {
            text.push_str(&format!("{:08x}", dice.random::<u32>()));
        }
        text.push(' ');
    }
    text.truncate(VALUE_BYTES - 2);
    while text.len() < VALUE_BYTES - 2 {
        text.push('.');
    }
    text.push_str("\"}");
    text.into()
}
