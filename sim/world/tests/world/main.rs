//! The world's own tests: what only it can show, since no kernel loses power on request.
#![cfg(madsim)]
// `cfg(test)` holds for the whole program; said of each module, it tells the lints so.

#[cfg(test)]
mod common;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod machines;
#[cfg(test)]
mod network;
