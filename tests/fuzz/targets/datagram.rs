//! Gossip datagrams.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    starling::domain::membership::fuzzing::datagram(bytes);
});
