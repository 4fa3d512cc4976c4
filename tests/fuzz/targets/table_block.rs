//! Blocks of tables, packed and unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::storage::fuzzing::table_block(bytes);
});
