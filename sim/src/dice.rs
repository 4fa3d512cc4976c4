//! Numbers that follow from a seed and a name, and from nothing else.
//!
//! A run draws thousands of numbers. If they came from one generator, taking one fault or one
//! operation out of a plan would move all that come after it, and a smaller plan would be another
//! story. So every draw has a generator of its own, a ChaCha8 stream whose key spells out (seed,
//! stream, entity, ordinal): "fault, of no entity, the 3rd", "operation, of client 2, the 17th".

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The root of all draws of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// The dice of run `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The generator for draw `ordinal` that concerns `entity`, for one purpose.
    pub fn stream(self, purpose: &str, entity: u64, ordinal: u64) -> Die {
        let mut key = [0u8; 32];
        for (part, word) in
            key.chunks_exact_mut(8).zip([self.seed, fnv1a(purpose), entity, ordinal])
        {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Die { rng: ChaCha8Rng::from_seed(key) }
    }
}

/// One generator, with the few shapes of draw that plans need. Whole numbers only: their draws are
/// the same on every platform.
#[derive(Clone, Debug)]
pub struct Die {
    rng: ChaCha8Rng,
}

impl Die {
    /// The generator itself, for code that draws its own shapes.
    pub fn into_rng(self) -> ChaCha8Rng {
        self.rng
    }

    /// A number in `low..=high`, all equally likely.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "cannot draw from {low}..={high}");
        self.rng.random_range(low..=high)
    }

    /// A number in `low..=high` whose order of magnitude is uniform: small ones as often as large.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "cannot draw a magnitude from {low}..={high}");
        let doublings = u64::from((high / low).ilog2());
        let step = self.within(0, doublings);
        let floor = low << step;
        self.within(floor, (floor.saturating_mul(2) - 1).min(high))
    }

    /// True `percent` times out of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(1, 100) <= percent
    }

    /// One of `choices`.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        assert!(!choices.is_empty(), "cannot pick from nothing");
        choices[self.index(choices.len())].clone()
    }

    /// An index below `len`, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.within(0, len as u64 - 1)).expect("an index fits its own type")
    }

    /// One of `choices`, each as often as its weight says.
    pub fn weighted<T: Clone>(&mut self, choices: &[(u64, T)]) -> T {
        let total: u64 = choices.iter().map(|(weight, _)| weight).sum();
        assert!(total > 0, "cannot pick where every weight is 0");
        let mut left = self.within(1, total);
        for (weight, choice) in choices {
            if left <= *weight {
                return choice.clone();
            }
            left -= weight;
        }
        unreachable!("the weights add up to {total}")
    }

    /// Each of `choices` with an even chance, in their order.
    pub fn subset<T: Clone>(&mut self, choices: &[T]) -> Vec<T> {
        choices.iter().filter(|_| self.chance(50)).cloned().collect()
    }

    /// `count` different ones of `choices`, in their order.
    pub fn sample<T: Clone>(&mut self, choices: &[T], count: usize) -> Vec<T> {
        assert!(count <= choices.len(), "cannot take {count} of {}", choices.len());
        let mut wanted = count;
        let mut taken = Vec::with_capacity(count);
        for (seen, choice) in choices.iter().enumerate() {
            if wanted > 0 && self.index(choices.len() - seen) < wanted {
                taken.push(choice.clone());
                wanted -= 1;
            }
        }
        taken
    }
}

/// FNV-1a: one word that stands for a text; here the purpose in a key, elsewhere a digest.
pub(crate) fn fnv1a(text: &str) -> u64 {
    fnv1a_bytes(text.as_bytes())
}

/// [`fnv1a`] of bytes.
pub(crate) fn fnv1a_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_in_every_part_of_their_name() {
        let first = |seed, purpose, entity, ordinal| {
            Dice::new(seed).stream(purpose, entity, ordinal).within(0, u64::MAX)
        };
        let base = first(1, "op", 2, 3);
        assert_eq!(base, first(1, "op", 2, 3));
        for other in
            [first(2, "op", 2, 3), first(1, "po", 2, 3), first(1, "op", 3, 3), first(1, "op", 2, 2)]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn draws_stay_within_their_bounds_and_reach_them() {
        let mut die = Dice::new(7).stream("test", 0, 0);
        let mut seen = [0u32; 5];
        for _ in 0..500 {
            let n = die.magnitude(3, 100);
            assert!((3..=100).contains(&n), "{n}");
            assert_eq!(die.sample(&[1, 2, 3, 4, 5], 3).len(), 3);
            seen[die.weighted(&[(1, 0usize), (0, 1), (3, 2)])] += 1;
            seen[3 + usize::from(die.chance(50))] += 1;
        }
        assert_eq!(seen[1], 0, "a weight of 0 is never picked");
        assert!(seen[2] > 2 * seen[0], "{seen:?}");
        assert!(seen[3] > 150 && seen[4] > 150, "{seen:?}");
    }
}
