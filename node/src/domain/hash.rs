//! A hash of a few words, for digests that replicas compare and every write changes.
//!
//! murmur3, which places keys on the ring, wants bytes in one piece; what a digest is made of is a dozen numbers, and a write hashes
//! them several times. Each word is folded in by one multiplication of 64 by 64 bits whose two halves are
//! XORed (Wang, "wyhash", 2019), and murmur3's finaliser ends it. It is no defence against somebody who chooses the words.
//!
//! The same on every machine and in every release: nodes of different releases compare digests.

/// From the fractional part of the golden ratio.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// The fractional part of pi, which is odd as it must be.
const FACTOR: u64 = 0x243f_6a88_85a3_08d3;

/// The hash of the words so far.
#[derive(Clone, Copy, Debug)]
pub struct Words(u64);

impl Default for Words {
    /// Of no words.
    fn default() -> Self {
        Self(GOLDEN)
    }
}

impl Words {
    /// And `word`. Who hashes a list hashes its length too.
    #[must_use]
    pub fn with(self, word: u64) -> Self {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        // Without the sum a zero would stay a zero.
        Self((product as u64 ^ (product >> 64) as u64).wrapping_add(GOLDEN))
    }

    /// And the length of `bytes`, and they.
    #[must_use]
    pub fn with_bytes(self, bytes: &[u8]) -> Self {
        let mut words = self.with(bytes.len() as u64);
        let (full, rest) = bytes.as_chunks::<8>();
        for chunk in full {
            words = words.with(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words.with(u64::from_le_bytes(last))
    }

    /// 64 bits of which each depends on every bit of every word.
    #[must_use]
    pub fn finish(self) -> u64 {
        fmix64(self.0)
    }
}

/// The finaliser of murmur3 x64 128: every bit of the input changes every bit of the output.
pub(crate) fn fmix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(words: &[u64]) -> u64 {
        words.iter().fold(Words::default(), |hash, word| hash.with(*word)).finish()
    }

    #[test]
    fn it_is_the_same_in_every_release() {
        // Computed by a few lines of Python from the words above.
        assert_eq!(of(&[]), 0x9ca0_66f1_a4ab_2eea);
        assert_eq!(of(&[1, 2, 3]), 0x6832_3b8f_66e2_0090);
        assert_eq!(Words::default().with_bytes(b"bucket\0key").finish(), 0xca82_dfa7_62b5_0fda);
    }

    #[test]
    fn each_bit_of_each_word_changes_half_of_the_hash() {
        for len in 1..=12 {
            let words: Vec<u64> = (0..len).map(|n| n % 3).collect();
            let before = of(&words);
            for bit in 0..64 * words.len() {
                let mut other = words.clone();
                other[bit / 64] ^= 1 << (bit % 64);
                let changed = (before ^ of(&other)).count_ones();
                assert!((10..=54).contains(&changed), "bit {bit} of {len} words: {changed} bits");
            }
        }
    }

    #[test]
    fn small_numbers_do_not_collide_nor_crowd() {
        let (mut all, mut in_low_bits) = (BTreeSet::new(), [0u32; 256]);
        for a in 0..64 {
            for b in 0..64 {
                for c in 0..64 {
                    let hash = of(&[a, b << 12, c]);
                    assert!(all.insert(hash), "{a} {b} {c}");
                    in_low_bits[hash as usize % 256] += 1;
                }
            }
        }
        // 1,024 each if they were dealt out evenly; six standard deviations.
        assert!(in_low_bits.iter().all(|count| (832..=1216).contains(count)), "{in_low_bits:?}");
    }

    #[test]
    fn bytes_end_where_they_end() {
        let of = |bytes: &[u8]| Words::default().with_bytes(bytes).finish();
        let zeros = [0; 40];
        let hashes: BTreeSet<u64> = (0..=40).map(|len| of(&zeros[..len])).collect();
        assert_eq!(hashes.len(), 41);
        assert_ne!(of(b"12345678a"), of(b"12345678b"));
    }
}
