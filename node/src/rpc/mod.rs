//! Calls between nodes: typed requests with deadlines over one connection to each peer.
//!
//! ```text
//!   n1                                       n2
//!   Peers ── Peer "n2" ── connection ──────► serve ── Handler        n1 asks n2
//!   Handler ── serve ◄────── connection ──── Peer "n1" ── Peers      n2 asks n1
//! ```
//!
//! - [`message`]: what can be asked and answered; [`frame`]: how that becomes bytes;
//!   [`handshake`]: who may ask; [`identity`]: who is who.
//! - `peers`, `peer`, `link`: the asking side. Each peer has one connection at a time, made and made
//!   again by a task of its own. [`Peer::call`] encodes the request at the end of the peer's outbox
//!   and returns a future of the reply.
//! - `server`, `connection`: the answering side. A handler answers at once where it can, so that a
//!   batch of requests is read, handled and answered by one task with one read and one write.
//!
//! Every connection is one task that reads, writes and keeps time. What has gathered while it was away
//! is written with one call, so the cost of a system call is shared by all requests under load, and a
//! lone request waits for nobody.
//!
//! What holds:
//!
//! - A call ends at its deadline at the latest, whatever the peer does, and when its connection is
//!   lost. [`CallError::was_sent`] says whether the peer may have done what it was asked.
//! - Requests leave in the order of the calls; replies come in any order, each to its own call.
//! - Everything is bounded: calls, bytes queued either way, requests inside the handler, connections,
//!   frames. At a bound the newcomer is refused, and that is counted.
//! - Bytes from outside never panic: a connection that sends nonsense is closed, with a logged reason.
//! - Deadlines travel as the time that remains. A request that is late already isn't handled, and a
//!   reply that is late isn't sent; work in progress is the handler's, who knows the deadline.
//!
//! What it does not do: retry (a caller knows what is safe to repeat), choose peers, encrypt, or prove
//! who somebody is.

pub mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
pub mod identity;
pub mod message;

mod changes;
mod connection;
mod link;
mod options;
mod outbox;
mod peer;
mod peers;
mod pending;
mod server;

pub use options::Options;
pub use peer::{Call, CallError, NotSent, Peer, PeerCounters, PeerState, PeerStatus};
pub use peers::Peers;
pub use server::{Handled, Handler, Server, ServerCounters, serve};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex that guards plain data. A panic under it ends the process, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;
