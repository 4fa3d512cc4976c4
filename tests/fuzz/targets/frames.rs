//! Frames of a connection, and the messages in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::rpc::fuzzing::frames(bytes);
});
