//! Context tokens of clients.
#![no_main]

use starling::domain::context_token::decode;
use starling::domain::key::Key;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let key = Key::new("b", "k").expect("both names are valid");
    decode(text, &key).ok();
});
