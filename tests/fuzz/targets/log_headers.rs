//! Headers of log segments and batches, and the records behind them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::storage::fuzzing::log_headers(bytes);
});
