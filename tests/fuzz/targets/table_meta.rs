//! Footer, properties, index and filter of tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::storage::fuzzing::table_meta(bytes);
});
