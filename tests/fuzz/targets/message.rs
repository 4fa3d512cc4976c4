//! Messages of a connection, without their frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::rpc::fuzzing::message(bytes);
});
