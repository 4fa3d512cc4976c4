//! The manifest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::storage::fuzzing::manifest(bytes);
});
