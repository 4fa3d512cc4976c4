//! Starling: a Dynamo-style key-value store. The README says what it promises.
//!
//! Floors, top to bottom; imports only go down (`tests/tidy.rs` checks):
//!
//! | floor | modules | what lives there |
//! |---|---|---|
//! | 5 | [`cli`], [`node`] | the binary's commands; one node put together |
//! | 4 | [`http`], [`client`] | routes, status codes, headers; the client |
//! | 3 | [`service`] | coordinator, replica: the tasks that drive floors 1 and 2 |
//! | 2 | [`storage`], [`rpc`] | commit log and memtable; frames, peers, server |
//! | 1 | [`domain`], [`config`] | pure values and decisions |
//! | 0 | [`runtime`] | the facade over the real or the simulated world |
#![forbid(unsafe_code)]

#[cfg(not(madsim))]
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod http;
pub mod logging;
pub mod node;
pub mod rpc;
pub mod runtime;
pub mod service;
pub mod storage;
