//! `cargo sim`.
fn main() {}
