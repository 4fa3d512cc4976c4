//! Entries for fuzzers: frames and messages of anybody who connects. Each function takes any bytes and
//! must come back. `tests/fuzz` drives them; the test below does a little on every run.

use super::frame::{FrameReader, PAYLOAD_BYTES_MAX};
use super::handshake::{HandshakeRefusal, Introduction};
use super::message::{decode_reply, decode_request};
use crate::runtime::time::Instant;

/// Deadlines count from it; they may be as far away as a message says.
const NOW: Instant = Instant::from_nanos(1);

/// A connection's bytes, cut into frames; each payload goes to every decoder.
pub fn frames(bytes: &[u8]) {
    let mut reader = FrameReader::new(PAYLOAD_BYTES_MAX);
    reader.push(bytes);
    while let Ok(Some(frame)) = reader.next_frame() {
        assert!(frame.payload.len() < bytes.len(), "a payload from nowhere");
        message(frame.payload);
    }
}

/// A payload, as each kind of frame.
pub fn message(payload: &[u8]) {
    decode_request(payload, NOW).ok();
    decode_reply(payload).ok();
    Introduction::decode(payload).ok();
    HandshakeRefusal::decode(payload).ok();
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::rpc::frame::{self, Kind};

    #[test]
    fn decoders_of_messages_come_back_from_any_short_bytes() {
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..30_000 {
            let len = dice.random_range(0..40);
            // Small numbers are kinds, counts and lengths more often than large ones are.
            let mut payload: Vec<u8> =
                (0..len).map(|_| dice.random::<u8>() >> dice.random_range(0u32..8)).collect();
            message(&payload);
            let mut bytes = Vec::new();
            frame::encode(Kind::Request, PAYLOAD_BYTES_MAX, &mut bytes, |out| {
                out.append(&mut payload)
            })
            .unwrap();
            frames(&bytes);
            let at = dice.random_range(0..bytes.len());
            bytes[at] ^= 1 << dice.random_range(0..8);
            frames(&bytes);
        }
    }
}
