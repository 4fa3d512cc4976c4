//! When a tombstone may be forgotten: by proof that nothing is left which it would have to cover. Time alone never forgets one.
//!
//! An object is *spent* once every sibling of it is a tombstone or a value that has expired: no reader sees anything of it. It is
//! still needed, since its context says what it covers. An expired value is not rewritten as a tombstone: it is treated as one, so
//! replicas differ in nothing, and each judges by its own clock alone when it is asked.
//!
//! ```text
//! driver: the first home replica of the partition          every owner of the ring
//!   candidates, from its trees' writes and scans
//!   ── question: keys and digests, partitions ───────────▶ homes: which do you hold exactly, spent, on disk, not in doubt?
//!                                                          all:   for which of these partitions do you keep no hint, on disk?
//!   ... each member runs on for a quiet time, and raises the generation of its folder ...
//!   ── the same question ────────────────────────────────▶ all the same, and each one the same process as before
//!   ── forget ───────────────────────────────────────────▶ homes: remove, if it is still exactly that
//! ```
//!
//! # Why nothing comes back
//!
//! What a spent object `T` covers could be in five places, and each is shut:
//!
//! 1. **A home replica.** Each holds `T` and nothing else, durably, at both times. A home that is down, in doubt or being rebuilt says
//!    nothing, and then nothing is forgotten, however long that takes.
//! 2. **A hint.** Every owner of the ring, up or not, has to say that it keeps none for the partition, and that their ends are in
//!    its synced log: else a restart would bring one back.
//! 3. **A message, or a request that has read an old object and may send it.** Both end within the quiet time, which is counted in the
//!    *running* time of each member, a clock that stands still while its process does (see [`Round`]). A member that was
//!    paused has not run, so what waits in its sockets is read, or its connections are closed, before it has run for so long. A
//!    member that was started again is another process: its connections and requests died with the old one. The quiet time is
//!    the longest request, and the call that may follow it ([`CALLS`]); then the silence after which a receiver closes a
//!    connection. What began after the first question has read `T`, or a hint that the second question would still find.
//! 4. **An old disk.** A folder that was rolled back, restored or damaged is in doubt. One that was copied before the first question
//!    is known to be older by its generation, which each member has raised since, durably, and has told by gossip within the
//!    quiet time; one that was copied later has `T`. A copy in doubt is no part of any
//!    proof, tells nobody what it held before, and is measured against the others before it is trusted again:
//!    [`merkle::vouching`](super::merkle::vouching). Its hints from before are dropped.
//! 5. **A member that owns nothing** (a proxy) keeps nothing, and a process of it that stands still has requests whose deadlines have passed
//!    when it goes on. It is not asked.
//!
//! A replica that misses the last message, or a crash that undoes a removal, leaves `T` behind: an exchange gives it to the others
//! again, and the next round forgets it. `T` covers what it covered, so that brings nothing back.
//!
//! What is removed leaves no state, so the next write of the key mints with a fresh actor ([`mint`](super::mint)): a client that comes
//! back with an old context has not seen it.
//!
//! Known limits: a rolled-back folder is trusted if all who answer while it starts have missed the last generation: they were cut off
//! from gossip for the whole quiet time, or all were started since. A process that answers the second question and is paused again before it reads on, for longer than the whole quiet
//! time, could still send what it had read before. And two copies of one partition in doubt at one time can vouch for each
//! other where no third one is there.
//!
//! Sources: Golding, "Weak-Consistency Group Communication and Membership" (1992), for death certificates that are dropped once all
//! have acknowledged them; Demers et al., "Epidemic Algorithms for Replicated Database Maintenance" (1987), 2, for what time-outs cost.

pub mod candidates;
pub mod message;
mod round;

use std::time::Duration;

pub use round::{Candidate, Proven, Round, entries};

/// The calls that may follow a request's own deadline: a copy that is placed, a read that is repaired, a question of an
/// exchange. None takes longer.
pub const CALLS: Duration = Duration::from_secs(5);

/// After so long without a sign of life a receiver closes a connection.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How long every member must run on between the two questions, when the longest request may take `request_max`.
pub fn quiet(request_max: Duration) -> Duration {
    request_max + CALLS + SILENCE
}

/// A clock that stands still while its process does: each beat counts for no more than [`BEAT`] twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningTime {
    ran: Duration,
}

/// How often [`RunningTime`] is to be told of the time.
pub const BEAT: Duration = Duration::from_millis(200);

impl RunningTime {
    /// So much time has passed since the last beat.
    pub fn beat(&mut self, passed: Duration) {
        self.ran += passed.min(BEAT * 2);
    }

    /// For how long the process has run.
    pub fn ran(&self) -> Duration {
        self.ran
    }
}
