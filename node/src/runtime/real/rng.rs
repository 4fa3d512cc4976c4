//! Entropy of the operating system.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The generator that [`fork`] returns.
pub type Rng = ChaCha8Rng;

/// A fresh generator for one `purpose`. In simulation its numbers follow from the run's seed, the
/// machine, the process's start and the purpose, and from nothing else.
pub fn fork(purpose: &str) -> Rng {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .unwrap_or_else(|e| panic!("the operating system gave no entropy for {purpose}: {e}"));
    ChaCha8Rng::from_seed(seed)
}
