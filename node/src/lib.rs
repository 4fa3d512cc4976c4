//! Starling: a Dynamo-style key-value store. See the README for what it promises.
#![forbid(unsafe_code)]

pub mod domain;
pub mod rpc;
pub mod runtime;
