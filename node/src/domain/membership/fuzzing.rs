//! Entries for fuzzers: a datagram of anybody who knows the port.

use super::seal::Seal;
use super::wire::decode;

/// A datagram, as it comes and with its seal made right. It must come back.
pub fn datagram(bytes: &[u8]) {
    let open = Seal::new(None);
    // Some bytes of this cluster, so that decoding does not end with its name.
    let cluster = bytes
        .get(3..11)
        .and_then(|eight| eight.first_chunk())
        .map_or(0, |b| u64::from_be_bytes(*b));
    decode(cluster, bytes, &open).ok();
    let mut sealed = bytes.to_vec();
    open.close(&mut sealed);
    decode(cluster, &sealed, &open).ok();
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn any_short_datagram_comes_back() {
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..30_000 {
            let len = dice.random_range(0..60);
            let mut bytes: Vec<u8> =
                (0..len).map(|_| dice.random::<u8>() >> dice.random_range(0u32..8)).collect();
            if let Some(front) = bytes.first_chunk_mut::<3>() {
                *front = [0xf5, b'G', 1];
            }
            datagram(&bytes);
        }
    }
}
