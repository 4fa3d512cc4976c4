//! Tests of causality as a whole: contexts, objects and minting together.
//!
//! - `history`: replicas, clients and crashes in one process, and what sets of writes say must hold;
//! - `laws`: merge laws, encodings and the promises to clients, over such histories;
//! - `contexts`: [`CausalContext`](super::causality::CausalContext) against a plain set of dots;
//! - `classic`: the cases that papers and other stores' bug reports tell.

mod classic;
mod contexts;
mod history;
mod laws;
