//! The world's own tests: what only it can show, since no kernel loses power on request.
#![cfg(madsim)]

mod common;
mod determinism;
mod machines;
mod network;
