//! Sets of small numbers, one bit each.
//!
//! The oracle asks "is this write in that context" millions of times a sweep; contexts are sets of a
//! key's writes, counted from zero. A set grows on its own, and a missing word means zeros.

/// A set of small numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Adds everything in `other`.
    pub(super) fn add(&mut self, other: &Bits) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Keeps only what `other` holds as well.
    pub(super) fn keep(&mut self, other: &Bits) {
        self.0.truncate(other.0.len());
        for (word, only) in self.0.iter_mut().zip(&other.0) {
            *word &= only;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    fn numbers(bits: &Bits) -> Vec<usize> {
        (0..1_000).filter(|&at| bits.contains(at)).collect()
    }

    fn set(of: &[usize]) -> Bits {
        let mut bits = Bits::default();
        of.iter().for_each(|&at| bits.insert(at));
        bits
    }

    #[test]
    fn a_set_of_numbers_behaves_like_one() {
        let mut bits = set(&[0, 63, 64, 200]);
        assert!(bits.contains(63) && !bits.contains(65) && !bits.contains(100_000));
        bits.add(&set(&[65, 300]));
        assert_eq!(numbers(&bits), [0, 63, 64, 65, 200, 300]);
        bits.keep(&set(&[63, 65, 66]));
        assert_eq!(numbers(&bits), [63, 65]);
        assert!(!bits.contains(300), "a shorter set cuts the longer one");
    }
}
