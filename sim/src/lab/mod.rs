//! The detector laboratory: how good is our failure detector, beside the two that Rust programs
//! would otherwise take?
//!
//! ```text
//! seed ──course──> Course ──arena + subject──> Outcome ──judge──> figures ──experiment──> table
//! ```
//!
//! N machines stand in an [`arena`]: one heap of (time, event), no threads, no clock, no node. Each
//! machine runs a [`Subject`]: the protocol under test as a pure machine, fed time, datagrams and
//! randomness. What goes wrong is a [`course`]: crashes, restarts, pauses, cut links, loss; plain
//! data, drawn from the seed before the run, so that every subject runs the same one. The arena
//! records each change of each belief, and the [`judge`] compares the record with the truth, which
//! it reads off the course.
//!
//! | subject | what it is |
//! |---|---|
//! | [`starling`] | `starling::domain::membership`, as the node runs it, with either rule |
//! | `foca` | SWIM with indirect probes (foca 2.0), `Config::new_lan` (feature `compare`) |
//! | `chitchat` | gossip and phi accrual (chitchat 0.13), its defaults (feature `compare`) |
//!
//! What is counted, so that everybody is measured alike:
//!
//! - A *detection* is the time from a crash until an observer that lives believes the member down
//!   for good; an *agreement* is that of the last observer. What is never believed is *missed*.
//! - A *mistake* is a change from up (or suspect) to down by an observer that runs, about a member
//!   that runs. A paused member runs: a store that takes it for dead moves its work for nothing.
//! - *Back* is the time from a restart until an observer that took the member for down has it up.
//! - Bytes are those of the datagrams' payload, without UDP's and IP's headers.
//!
//! The numbers say nothing of sockets, schedulers and garbage on a wire; other tests do.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use ::starling::runtime::time::Instant;
use rand_chacha::ChaCha8Rng;

pub mod arena;
pub mod course;
pub mod experiment;
pub mod judge;
pub mod network;
pub mod starling;
pub mod table;

#[cfg(feature = "compare")]
pub mod chitchat;
#[cfg(feature = "compare")]
pub mod foca;

#[cfg(test)]
mod tests;

/// One of the machines of a run, counted from 0.
pub type Place = usize;

/// What one member believes of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Belief {
    /// Not known to exist, or told of and never heard.
    #[default]
    Unknown,
    /// Alive.
    Up,
    /// In doubt; still used. Not every protocol has this.
    Suspect,
    /// Dead: its work goes elsewhere.
    Down,
}

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: Place,
    /// What the receiving subject gets.
    pub content: Vec<u8>,
    /// What it would weigh on a wire, in bytes. The length of `content`, unless a subject cannot
    /// give its bytes away.
    pub bytes: usize,
}

/// What a subject did in one step.
#[derive(Debug, Default)]
pub struct Outbox {
    datagrams: VecDeque<(Place, Vec<u8>, usize)>,
    beliefs: Vec<(Place, Belief)>,
}

impl Outbox {
    /// Sends `content` to `to`.
    pub fn send(&mut self, to: Place, content: Vec<u8>) {
        let bytes = content.len();
        self.datagrams.push_back((to, content, bytes));
    }

    /// Sends `content` to `to`, where it counts as `bytes`.
    pub fn send_as(&mut self, to: Place, content: Vec<u8>, bytes: usize) {
        self.datagrams.push_back((to, content, bytes));
    }

    /// Says what the subject believes of `other` from now on. Saying it again changes nothing.
    pub fn believe(&mut self, other: Place, belief: Belief) {
        self.beliefs.push((other, belief));
    }
}

/// A protocol under test, at one machine, from one start of it to its crash.
pub trait Subject {
    /// When [`tick`](Self::tick) wants to be called next.
    fn next_tick(&self) -> Instant;

    /// Does what is due at `now`. Called late after a pause, as a process that was stopped would.
    fn tick(&mut self, now: Instant, rng: &mut ChaCha8Rng, out: &mut Outbox);

    /// Takes a datagram.
    fn receive(
        &mut self,
        now: Instant,
        from: Place,
        content: &[u8],
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    );
}

/// What a subject is told at its start.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its machine.
    pub place: Place,
    /// How many machines there are. For protocols that are configured with it.
    pub members: usize,
    /// Whom it may ask for the others; itself is not among them, so the first member of all has
    /// none.
    pub seeds: Vec<Place>,
    /// How often this machine started before.
    pub starts: u64,
    /// The time.
    pub now: Instant,
    /// Randomness of its own, the same for a place and start whatever the subject.
    pub rng: ChaCha8Rng,
}

/// Makes subjects of one kind.
pub trait Factory {
    /// The subject's name, for tables.
    fn name(&self) -> &'static str;

    /// Its settings in a few words, for the table's foot.
    fn settings(&self) -> String;

    /// The most members that it can be run with here, and why not more; `None`: no limit.
    fn limit(&self) -> Option<(usize, &'static str)> {
        None
    }

    /// How much slower it is to simulate than a plain machine: where mistakes are counted for long,
    /// or at many members, its time is that much shorter, and its row says so.
    fn slowness(&self) -> u64 {
        1
    }

    /// Starts one, cold: it remembers nothing of earlier starts.
    fn start(&self, seat: Seat) -> Box<dyn Subject>;
}

/// The port of every member.
const PORT: u16 = 7_000;

const NET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);

/// The address of a machine, for subjects that know others by theirs.
pub fn address_of(place: Place) -> SocketAddr {
    let host = u32::try_from(place).expect("machines are few");
    (Ipv4Addr::from(u32::from(NET) + host), PORT).into()
}

/// The machine with that address, which must be one that [`address_of`] gave.
pub fn place_of(address: SocketAddr) -> Place {
    let SocketAddr::V4(address) = address else { panic!("{address} is no machine's address") };
    usize::try_from(u32::from(*address.ip()) - u32::from(NET)).expect("an index fits")
}
