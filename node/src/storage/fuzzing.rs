//! Entries for fuzzers: the decoders of this floor, on bytes that anybody may have made.
//!
//! Each function takes any bytes and must come back. What it decodes, it encodes again where a value
//! has one encoding only. `tests/fuzz` drives them with libFuzzer; the test below drives them a little
//! on every run, with bytes that are almost right.

use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::log::format::{BATCH_HEADER_BYTES, BatchHeader, SegmentHeader, decode_records};
use super::log::record::Record;
use super::manifest::read;
use crate::domain::causality::NodeId;
use crate::domain::codec::Decoder;

pub use super::table::fuzzing::{table_block, table_meta};

/// A record of the log.
pub fn log_record(bytes: &[u8]) {
    let mut from = Decoder::new(bytes);
    let Ok(record) = Record::decode(&mut from) else { return };
    let mut again = BytesMut::new();
    match &record {
        Record::Put { key, object } => Record::encode_put(key, &object.to_bytes(), &mut again),
        Record::Hint { owner, key, object, since_ms } => {
            Record::encode_hint(owner, key, object, *since_ms, &mut again);
        }
        Record::HintDone { owner, key, digest } => {
            Record::encode_hint_done(owner, key, *digest, &mut again);
        }
    }
    assert!(bytes.starts_with(&again), "one record, two encodings: {record:?}");
}

/// The headers of segments and batches, and the records behind the latter.
pub fn log_headers(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert!(header.first_batch <= header.born_through + 1, "{header:?}");
    }
    if let Some(header) = BatchHeader::decode(bytes)
        && bytes.len() >= BATCH_HEADER_BYTES
    {
        let batch = Bytes::copy_from_slice(bytes);
        let mut records = 0u64;
        let done = decode_records(&header, &batch, &mut |_, _| records += 1);
        assert!(done.is_err() || records == u64::from(header.records), "{records} records");
    }
}

/// A manifest, whole.
pub fn manifest(bytes: &[u8]) {
    let found = read::read(Path::new("manifest"), bytes, 1, NodeId(1));
    if let Ok(Some(state)) = found {
        assert!(state.levels().is_ok(), "levels that overlap were let through");
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::domain::key::Key;
    use crate::domain::object::Object;

    /// A put, a hint and its end, each with an object that has seen nothing.
    fn records() -> Vec<BytesMut> {
        let (key, object) = (Key::new("b", "k{t}").unwrap(), Object::new());
        let mut records = vec![BytesMut::new(); 3];
        Record::encode_put(&key, &object.to_bytes(), &mut records[0]);
        Record::encode_hint("n2", &key, &object, 300, &mut records[1]);
        Record::encode_hint_done("n2", &key, 77, &mut records[2]);
        records
    }

    #[test]
    fn decoders_of_the_log_come_back_from_almost_right_bytes() {
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        let seeds = records();
        for seed in &seeds {
            assert!(Record::decode(&mut Decoder::new(seed)).is_ok(), "a seed is no record");
        }
        for round in 0..30_000 {
            let mut bytes = seeds[round % seeds.len()].to_vec();
            for _ in 0..dice.random_range(1..4) {
                let at = dice.random_range(0..bytes.len());
                bytes[at] = dice.random();
            }
            bytes.truncate(dice.random_range(0..=bytes.len()));
            log_record(&bytes);
            let mut batch = vec![0; BATCH_HEADER_BYTES];
            batch[..4].copy_from_slice(&super::super::log::format::BATCH_MAGIC);
            batch[15] = dice.random_range(0..4);
            batch.extend_from_slice(&bytes);
            log_headers(&batch);
        }
    }
}
