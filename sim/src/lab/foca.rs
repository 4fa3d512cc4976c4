//! foca's machine in the laboratory: SWIM with its extensions, as `Config::new_lan` has them.
//!
//! foca asks for timers and keeps no clock, so this adapter keeps the timers, in the order that
//! foca's own agent example keeps them. An identity is that of the example too: an address, and a
//! number that grows when the member rejoins. Nobody can join through an announcement that was lost,
//! so a member that knows nobody announces itself once a second.
//!
//! foca tells of members up and down, not of suspects, so here nobody is ever a suspect.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{
    Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer,
};
use rand::RngCore as _;
use rand_0_10::TryRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use starling::runtime::time::Instant;

use super::{Belief, Factory, Outbox, Place, Seat, Subject, address_of, place_of};

/// How often a member that knows nobody announces itself.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

/// Makes foca's machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct FocaFactory;

impl Factory for FocaFactory {
    fn name(&self) -> &'static str {
        "foca"
    }

    fn settings(&self) -> String {
        "foca 2.0.0, Config::new_lan(members): probe every 1 s, answer within 0.5 s, 3 indirect \
         probes, suspect to down after 4 s up to 10 members and 8 s at 100, gossip every 0.2 s to 3; \
         identities renew themselves"
            .to_owned()
    }

    fn start(&self, seat: Seat) -> Box<dyn Subject> {
        let members = u32::try_from(seat.members).ok().and_then(NonZeroU32::new);
        let config = Config::new_lan(members.expect("a run has members, and not very many"));
        // A thousand numbers to each start: an identity may renew itself so often before the next.
        let own = Id { addr: address_of(seat.place), bump: seat.starts * 1_000 };
        let machine = Foca::new(own, config, OldRng(seat.rng), PostcardCodec);
        let timers = Timers { now: seat.now, heap: BinaryHeap::new(), order: 0 };
        Box::new(FocaSubject { machine, timers, seeds: seat.seeds, announce_at: seat.now })
    }
}

/// Who a member is: where, and which of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    addr: SocketAddr,
    bump: u64,
}

impl Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { addr: self.addr, bump: self.bump.wrapping_add(1) })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

/// The laboratory's generator behind the traits of foca's version of rand.
struct OldRng(ChaCha8Rng);

impl TryRng for OldRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

/// Timers by time, then by foca's own order, then by age.
struct Timers {
    now: Instant,
    heap: BinaryHeap<Reverse<(Instant, Timer<Id>, u64)>>,
    order: u64,
}

/// What foca calls while it works: straight into the laboratory's hands.
struct Hands<'a> {
    timers: &'a mut Timers,
    out: &'a mut Outbox,
}

impl Runtime<Id> for Hands<'_> {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) => self.out.believe(place_of(id.addr), Belief::Up),
            Notification::MemberDown(id) => self.out.believe(place_of(id.addr), Belief::Down),
            Notification::Rename(..)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.out.send(place_of(to.addr), data.to_vec());
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.order += 1;
        self.timers.heap.push(Reverse((self.timers.now + after, event, self.timers.order)));
    }
}

struct FocaSubject {
    machine: Foca<Id, PostcardCodec, OldRng, NoCustomBroadcast>,
    timers: Timers,
    seeds: Vec<Place>,
    announce_at: Instant,
}

impl FocaSubject {
    fn announce(&mut self, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        self.announce_at = self.timers.now + ANNOUNCE_EVERY;
        if self.machine.num_members() > 0 || self.seeds.is_empty() {
            return;
        }
        let pick = rng.next_u64() % self.seeds.len() as u64;
        let seed = self.seeds[usize::try_from(pick).expect("below a length")];
        let dst = Id { addr: address_of(seed), bump: 0 };
        let hands = Hands { timers: &mut self.timers, out };
        self.machine.announce(dst, hands).expect("an announcement fits into a datagram");
    }
}

impl Subject for FocaSubject {
    fn next_tick(&self) -> Instant {
        let timer = self.timers.heap.peek().map(|Reverse((at, ..))| *at);
        timer.map_or(self.announce_at, |at| at.min(self.announce_at))
    }

    fn tick(&mut self, now: Instant, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        self.timers.now = now;
        while let Some(Reverse((at, ..))) = self.timers.heap.peek() {
            if *at > now {
                break;
            }
            let Some(Reverse((_, timer, _))) = self.timers.heap.pop() else { break };
            let hands = Hands { timers: &mut self.timers, out };
            // It documents its errors as harmless; its own example logs them and goes on.
            drop(self.machine.handle_timer(timer, hands));
        }
        if self.announce_at <= now {
            self.announce(rng, out);
        }
    }

    fn receive(
        &mut self,
        now: Instant,
        _from: Place,
        content: &[u8],
        _rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        self.timers.now = now;
        let hands = Hands { timers: &mut self.timers, out };
        drop(self.machine.handle_data(content, hands));
    }
}
