//! The run's dice: every consumer has a stream of its own, keyed by what it is for.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::world;

/// The generator that [`fork`] returns.
pub type Rng = ChaCha8Rng;

/// A fresh generator for one `purpose`. In simulation its numbers follow from the run's seed, the
/// machine, the process's start, the purpose and how often this process asked for the purpose
/// before, and from nothing else.
pub fn fork(purpose: &str) -> Rng {
    world::with(|w| {
        let process = w.current();
        let machine = &mut w.machines[process.machine.0 as usize];
        let ordinal = machine.forks.entry(purpose.to_owned()).or_default();
        *ordinal += 1;
        let key = [u64::from(process.machine.0), u64::from(process.epoch), *ordinal];
        let mut name = String::from("fork/");
        name.push_str(purpose);
        stream(w.seed, &name, &key)
    })
}

/// The stream `name` of the entity `key` in the run of `seed`.
pub(crate) fn stream(seed: u64, name: &str, key: &[u64]) -> Rng {
    let mut state = absorb(0x5374_6172_6c69_6e67, seed);
    for byte in name.bytes() {
        state = absorb(state, u64::from(byte));
    }
    // The length separates the name from the key: ("a", [98]) is not ("ab", []).
    state = absorb(state, name.len() as u64 | 1 << 63);
    for word in key {
        state = absorb(state, *word);
    }
    let mut bytes = [0u8; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        state = absorb(state, 0);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// One number for the stream `name`, for generators that take a short seed.
pub(crate) fn number(seed: u64, name: &str, key: &[u64]) -> u64 {
    use rand_chacha::rand_core::RngCore;
    stream(seed, name, key).next_u64()
}

/// One step of SplitMix64 (Steele, Lea and Flood 2014) with `word` mixed in.
const fn absorb(state: u64, word: u64) -> u64 {
    let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_name_and_key() {
        let all = [
            number(1, "a", &[1]),
            number(2, "a", &[1]),
            number(1, "b", &[1]),
            number(1, "a", &[2]),
            number(1, "a", &[1, 0]),
            number(1, "a", &[]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "draw {i} repeats");
        }
        assert_eq!(number(1, "a", &[1]), all[0]);
    }
}
