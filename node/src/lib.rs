//! Starling: a Dynamo-style key-value store. See the README for what it promises.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod domain;
pub mod http;
pub mod rpc;
pub mod runtime;
pub mod storage;
