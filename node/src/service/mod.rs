//! The tasks that drive the domain's decisions over storage and rpc.
//!
//! ```text
//!  http ──▶ coordinator ──▶ replica ──▶ storage
//!               │  ▲
//!               ▼  │ Replicate, Fetch, Write
//!              rpc ──▶ other nodes' peer_service ──▶ their replica, or their coordinator
//! ```
//!
//! Each piece of mutable state has one owner:
//!
//! | state | owner |
//! |---|---|
//! | objects, log, node identity | [`storage`](crate::storage) |
//! | the order of changes of one key; the minting actor | [`replica`] |
//! | connections to peers | [`rpc`](crate::rpc) |
//! | members, heartbeats, suspicions | [`gossip`], in its machine |
//! | what is believed of the ring's members | [`cluster`] |
//! | who makes the ring, on disk | [`roster`] |
//! | hints on their way to their owners | [`hints`] |
//! | trees of home partitions; when each was compared with whom | [`anti_entropy`] |
//! | rounds of forgetting tombstones; running time | [`forgetting`] |
//! | the generation of the folder, once it serves | [`generation`] |
//! | counts | [`metrics`] |
//!
//! A service performs effects and decides nothing that the domain could decide.

pub mod anti_entropy;
pub mod cluster;
pub mod conflicts;
pub mod coordinator;
pub mod forgetting;
pub mod generation;
pub mod gossip;
pub mod hints;
pub mod metrics;
pub mod peer_service;
pub mod replica;
pub mod roster;
