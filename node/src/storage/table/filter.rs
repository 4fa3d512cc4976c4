//! The Bloom filter of a table: says for certain that a key is not there, or that it may be.
//!
//! Bloom 1970, with two hashes instead of seven: the i-th bit of a key is h1 + i h2 modulo the number of
//! bits, which loses nothing worth measuring (Kirsch & Mitzenmacher, "Less Hashing, Same Performance",
//! 2006, section 3). Ten bits a key and seven probes: 0.8 % false positives (a test measures it).
//!
//! **Hashes.** A key's token is 64 bits of murmur3 already, and free. But keys with one `{tag}` share
//! a token, so the CRC-32 of the name goes in as well, and murmur3's finaliser mixes both:
//!
//! ```text
//! h1 = fmix64(token ^ crc32(bucket 0x00 name) * 0x9e3779b97f4a7c15)
//! h2 = fmix64(h1 + 0x9e3779b97f4a7c15) | 1
//! ```
//!
//! **Folding.** A writer knows an upper bound of its entries alone. As the number of bits is even, the
//! filter of half as many bits is the OR of the two halves: what was too large is folded in the end.

use crate::domain::hash::{GOLDEN, fmix64};
use crate::domain::key::Key;

const BITS_PER_KEY: u64 = 10;
/// ln 2 * [`BITS_PER_KEY`], rounded: the number that gives the fewest false positives.
const PROBES: u8 = 7;
/// More probes than any writer ever used: the filter is damaged, or would be slow.
const PROBES_MAX: u8 = 32;
/// The size is a multiple of it, so that it can be halved a few times.
const GRAIN_BYTES: u64 = 16;

/// The two hashes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    h1: u64,
    h2: u64,
}

impl Hashes {
    pub(super) fn new(key: &Key) -> Self {
        let name = u64::from(crc32fast::hash(key.raw()));
        let h1 = fmix64(key.token().0 ^ name.wrapping_mul(GOLDEN));
        Self { h1, h2: fmix64(h1.wrapping_add(GOLDEN)) | 1 }
    }
}

/// A filter, while it is filled and ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    probes: u8,
    bits: Box<[u8]>,
}

impl Filter {
    /// An empty filter for at most so many keys.
    pub(super) fn new(keys_max: u64) -> Self {
        let bytes = (keys_max.max(1).saturating_mul(BITS_PER_KEY) / 8 + 1)
            .next_multiple_of(GRAIN_BYTES) as usize;
        Self { probes: PROBES, bits: vec![0; bytes].into() }
    }

    pub(super) fn insert(&mut self, hashes: Hashes) {
        let len = self.bits.len() as u64 * 8;
        for bit in probes(hashes, len, self.probes) {
            self.bits[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }

    /// False when no key with these hashes was inserted.
    pub(super) fn may_hold(&self, hashes: Hashes) -> bool {
        let len = self.bits.len() as u64 * 8;
        probes(hashes, len, self.probes)
            .all(|bit| self.bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1)
    }

    /// Halves the filter as often as leaves ten bits for each of the `keys` that were inserted.
    pub(super) fn fold(&mut self, keys: u64) {
        while self.bits.len().is_multiple_of(2)
            && self.bits.len() as u64 * 4 >= keys.max(1).saturating_mul(BITS_PER_KEY)
        {
            let (low, high) = self.bits.split_at(self.bits.len() / 2);
            self.bits = low.iter().zip(high).map(|(a, b)| a | b).collect();
        }
    }

    /// What it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bits.len()
    }

    /// Appends the section of the file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.probes);
        out.extend_from_slice(&self.bits);
    }

    /// Reads a section; `None` when it is none, or has no filter.
    pub(super) fn decode(section: &[u8]) -> Option<Self> {
        let (&probes, bits) = section.split_first()?;
        let valid = (1..=PROBES_MAX).contains(&probes) && !bits.is_empty();
        valid.then(|| Self { probes, bits: bits.into() })
    }
}

/// The places of a key's bits among `len`.
fn probes(hashes: Hashes, len: u64, count: u8) -> impl Iterator<Item = u64> {
    let (mut at, step) = (hashes.h1 % len, hashes.h2 % len);
    (0..count).map(move |_| {
        let bit = at;
        at = if at >= len - step { at - (len - step) } else { at + step };
        bit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(n: u64, name: &str) -> Hashes {
        Hashes::new(&Key::new("bucket", &name.replace('#', &n.to_string())).unwrap())
    }

    /// False positives per thousand of `asked` keys, of a filter of `keys` keys made for `keys_max`.
    fn per_mille(keys: u64, keys_max: u64, name: &str) -> f64 {
        let mut filter = Filter::new(keys_max);
        (0..keys).for_each(|n| filter.insert(hashes(n, name)));
        filter.fold(keys);
        assert!(
            (0..keys).all(|n| filter.may_hold(hashes(n, name))),
            "a key that is there is denied"
        );
        let asked = 100_000;
        let wrong = (keys..keys + asked).filter(|n| filter.may_hold(hashes(*n, name))).count();
        wrong as f64 * 1000.0 / asked as f64
    }

    #[test]
    fn false_positives_stay_below_15_per_mille() {
        for name in
            ["key-#", "{one tag}-#", "a long name that is the same for all of them, but for #"]
        {
            for (keys, keys_max) in
                [(20_000, 20_000), (20_000, 39_000), (20_000, 200_000), (777, 777)]
            {
                let rate = per_mille(keys, keys_max, name);
                assert!(rate < 15.0, "{name}: {rate} of 1000, {keys} keys, room for {keys_max}");
            }
        }
        // It is a filter at all, and not a large one: no rate is as good as none.
        assert!(per_mille(20_000, 20_000, "key-#") > 2.0);
    }

    #[test]
    fn folding_leaves_ten_bits_a_key_and_less_than_twice_that() {
        for (keys, keys_max) in [(1000, 1000), (1000, 1999), (1000, 5000), (1, 1), (1, 1000)] {
            let mut filter = Filter::new(keys_max);
            filter.fold(keys);
            let bits = filter.bytes() as u64 * 8;
            assert!(bits >= keys * 10, "{bits} bits for {keys}");
            let folds_at_most = GRAIN_BYTES.trailing_zeros();
            let bound = (keys * 20 + 256).max(((keys_max * 10) >> folds_at_most) + 16);
            assert!(bits <= bound, "{bits} bits for {keys} of {keys_max}");
        }
    }

    #[test]
    fn the_encoding_comes_back_and_what_is_no_filter_is_refused() {
        let mut filter = Filter::new(5);
        (0..5).for_each(|n| filter.insert(hashes(n, "#")));
        let mut section = Vec::new();
        filter.encode(&mut section);
        assert_eq!(Filter::decode(&section), Some(filter));
        for bad in [&b""[..], b"\x07", b"\x00abc", b"\xffabc"] {
            assert_eq!(Filter::decode(bad), None);
        }
    }
}
