//! Records of the log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::storage::fuzzing::log_record(bytes);
});
