//! The network between machines: a directed link for each pair, each with its own faults and its
//! own dice, so that what happens on one link moves no draw on another.
//!
//! A link keeps the order of its packets unless it is told to reorder. A machine talks to itself
//! without faults. The dice give the same number of draws for every packet, whatever its fate.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use crate::net::kernel::Flight;
use crate::process::MachineId;
use crate::rng::{self, Rng};
use crate::world::{self, World};

/// How one direction of one pair of machines behaves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// The quickest a packet arrives.
    pub delay_min: Duration,
    /// The slowest. Fifteen packets of sixteen stay within the first eighth of the range, the
    /// others are spread over all of it: a long tail.
    pub delay_max: Duration,
    /// How long packets take beyond `delay_min`, in nanoseconds, in place of what `delay_max` says: the quantiles of a measured
    /// distribution at equal steps from 0 to 1, two at least, with straight lines between them.
    #[serde(skip)]
    pub quantiles: Option<&'static [u64]>,
    /// The share of packets that vanish: 0 to 1.
    pub loss: f64,
    /// The share of packets that arrive twice.
    pub duplicate: f64,
    /// The share of packets that may be overtaken, by up to twice `delay_max` and a millisecond.
    pub reorder: f64,
    /// The share of datagrams that vanish, if that is more than `loss`; connections do not feel it.
    pub datagram_loss: f64,
    /// The share of datagrams that arrive twice, if that is more than `duplicate`.
    pub datagram_duplicate: f64,
    /// How fast packets leave; `None`: at once. They queue up before it, in order, without limit.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Every packet vanishes, without a word to either side.
    pub blocked: bool,
    /// Packets are kept back until this is false again.
    pub hold: bool,
}

impl Default for LinkSpec {
    /// A quiet local network: 100 µs to 1 ms, no faults.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_millis(1),
            quantiles: None,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            datagram_loss: 0.0,
            datagram_duplicate: 0.0,
            bandwidth_bytes_per_s: None,
            blocked: false,
            hold: false,
        }
    }
}

/// Sets what every link is like that was not set by itself.
pub fn set_default(spec: LinkSpec) {
    world::with(|w| {
        w.links.default = spec;
        w.release_held();
    });
}

/// Sets one direction between two machines.
pub fn set(from: MachineId, to: MachineId, spec: LinkSpec) {
    update(from, to, |current| *current = spec);
}

/// Changes one direction between two machines, starting from what it is now.
pub fn update(from: MachineId, to: MachineId, change: impl FnOnce(&mut LinkSpec)) {
    world::with(|w| {
        let default = w.links.default;
        let link = w.links.link(from, to);
        change(link.spec.get_or_insert(default));
        w.release_held();
    });
}

/// Blocks or opens one direction between two machines.
pub fn block(from: MachineId, to: MachineId, blocked: bool) {
    update(from, to, |spec| spec.blocked = blocked);
}

/// What one direction between two machines is like now.
pub fn get(from: MachineId, to: MachineId) -> LinkSpec {
    world::with(|w| w.links.spec(from, to))
}

/// All links.
pub(crate) struct Links {
    seed: u64,
    default: LinkSpec,
    links: BTreeMap<(MachineId, MachineId), Link>,
}

struct Link {
    /// `None`: like the default.
    spec: Option<LinkSpec>,
    dice: Rng,
    /// When the last packet has left, in simulated nanoseconds.
    idle_at: u64,
    /// When the last packet that keeps the order arrives.
    last_arrival: u64,
    held: Vec<Flight>,
}

/// What becomes of a packet.
pub(crate) enum Fate {
    /// It arrives at this simulated time, and perhaps once more.
    Arrives(u64, Option<u64>),
    Lost,
    Blocked,
    Held,
}

/// Packets that one link keeps back at most; the rest is lost.
const HELD_MAX: usize = 4096;
const LOOPBACK_DELAY_NS: u64 = 10_000;
/// What headers add to a packet on the wire: Ethernet, IP and TCP.
const HEADER_BYTES: u64 = 66;

/// A packet, as far as its link cares.
#[derive(Clone, Copy)]
pub(crate) struct Parcel {
    /// Payload bytes.
    pub(crate) bytes: usize,
    /// Whether it is a datagram: those have shares of their own.
    pub(crate) datagram: bool,
}

impl Links {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, default: LinkSpec::default(), links: BTreeMap::new() }
    }

    fn link(&mut self, from: MachineId, to: MachineId) -> &mut Link {
        let seed = self.seed;
        self.links.entry((from, to)).or_insert_with(|| Link {
            spec: None,
            dice: rng::stream(seed, "link", &[u64::from(from.0), u64::from(to.0)]),
            idle_at: 0,
            last_arrival: 0,
            held: Vec::new(),
        })
    }

    fn spec(&self, from: MachineId, to: MachineId) -> LinkSpec {
        self.links.get(&(from, to)).and_then(|link| link.spec).unwrap_or(self.default)
    }

    /// True while nothing that is sent now arrives before somebody changes the link.
    pub(crate) fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        let spec = self.spec(from, to);
        from != to && (spec.blocked || spec.hold)
    }

    /// Decides what becomes of a packet that is sent now.
    pub(crate) fn judge(
        &mut self,
        from: MachineId,
        to: MachineId,
        parcel: Parcel,
        now: u64,
    ) -> Fate {
        if from == to {
            return Fate::Arrives(now + LOOPBACK_DELAY_NS, None);
        }
        let default = self.default;
        let link = self.link(from, to);
        let spec = link.spec.unwrap_or(default);
        let (first, second, third) =
            (link.dice.next_u64(), link.dice.next_u64(), link.dice.next_u64());
        if spec.blocked {
            return Fate::Blocked;
        }
        if spec.hold {
            return Fate::Held;
        }
        if let Some(rate) = spec.bandwidth_bytes_per_s {
            let wire = (parcel.bytes as u64 + HEADER_BYTES) * 1_000_000_000 / rate.max(1);
            link.idle_at = link.idle_at.max(now) + wire;
        } else {
            link.idle_at = now;
        }
        let (loss, duplicate) = if parcel.datagram {
            (spec.loss.max(spec.datagram_loss), spec.duplicate.max(spec.datagram_duplicate))
        } else {
            (spec.loss, spec.duplicate)
        };
        if chance(low(first), loss) {
            return Fate::Lost;
        }
        let mut arrival = link.idle_at + delay(&spec, second);
        if chance(high(first), spec.reorder) {
            arrival += scale(2 * nanos(spec.delay_max) + 1_000_000, low(third));
        } else {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        let again = chance(high(third), duplicate);
        Fate::Arrives(arrival, again.then(|| arrival + delay(&spec, second.rotate_left(32))))
    }
}

impl World {
    /// Keeps a packet back until its link lets go.
    pub(crate) fn hold(&mut self, flight: Flight) {
        let held = &mut self.links.link(flight.from, flight.to).held;
        if held.len() < HELD_MAX {
            held.push(flight);
        }
    }

    /// Sends what was held on links that hold no more.
    fn release_held(&mut self) {
        let default = self.links.default;
        let mut free = Vec::new();
        for link in self.links.links.values_mut() {
            if !link.spec.unwrap_or(default).hold {
                free.append(&mut link.held);
            }
        }
        for flight in free {
            self.transmit(flight);
        }
    }
}

fn delay(spec: &LinkSpec, draw: u64) -> u64 {
    if let Some(quantiles) = spec.quantiles {
        return nanos(spec.delay_min) + quantile(quantiles, high(draw));
    }
    let (base, range) =
        (nanos(spec.delay_min), nanos(spec.delay_max.saturating_sub(spec.delay_min)));
    let range = if draw.is_multiple_of(16) { range } else { range / 8 };
    base + scale(range, high(draw))
}

/// What a 32-bit draw picks from a distribution with these quantiles.
fn quantile(quantiles: &[u64], draw: u64) -> u64 {
    let place = draw * (quantiles.len() as u64).saturating_sub(1);
    let at = high(place) as usize;
    match (quantiles.get(at), quantiles.get(at + 1)) {
        (Some(below), Some(above)) => below + scale(above.saturating_sub(*below), low(place)),
        (Some(last), None) => *last,
        (None, _) => 0,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 16)
}

/// The part of `range` that a 32-bit draw picks.
fn scale(range: u64, draw: u64) -> u64 {
    u64::try_from((u128::from(range) * u128::from(draw)) >> 32).unwrap_or(range)
}

/// True for a `share` of all 32-bit draws.
fn chance(draw: u64, share: f64) -> bool {
    share > 0.0 && (draw as f64) < share * 4_294_967_296.0
}

const fn low(draw: u64) -> u64 {
    draw & 0xffff_ffff
}

const fn high(draw: u64) -> u64 {
    draw >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MachineId = MachineId(1);
    const B: MachineId = MachineId(2);

    fn arrivals(spec: LinkSpec, packets: u64) -> (Vec<u64>, usize) {
        arrivals_of(spec, packets, false)
    }

    fn arrivals_of(spec: LinkSpec, packets: u64, datagram: bool) -> (Vec<u64>, usize) {
        let parcel = Parcel { bytes: 934, datagram };
        let mut links = Links::new(7);
        links.default = spec;
        let (mut times, mut twice) = (Vec::new(), 0);
        for n in 0..packets {
            if let Fate::Arrives(at, again) = links.judge(A, B, parcel, n * 10_000) {
                times.push(at);
                twice += usize::from(again.is_some());
            }
        }
        (times, twice)
    }

    #[test]
    fn a_link_keeps_order_and_bounds_unless_told_otherwise() {
        let (times, twice) = arrivals(LinkSpec::default(), 10_000);
        assert_eq!((times.len(), twice), (10_000, 0));
        assert!(times.is_sorted());
        let (times, _) = arrivals(LinkSpec { reorder: 0.1, ..LinkSpec::default() }, 10_000);
        assert!(!times.is_sorted());
    }

    #[test]
    fn shares_come_out_as_asked() {
        let spec = LinkSpec { loss: 0.1, duplicate: 0.05, ..LinkSpec::default() };
        let (times, twice) = arrivals(spec, 100_000);
        assert!((89_000..91_000).contains(&times.len()), "{} arrived", times.len());
        assert!((4_100..4_900).contains(&twice), "{twice} arrived twice");
    }

    #[test]
    fn quantiles_are_met() {
        const QUANTILES: &[u64] = &[0, 100, 200, 1_000_000];
        let quiet = LinkSpec { delay_min: Duration::from_micros(5), ..LinkSpec::default() };
        let spec = LinkSpec { quantiles: Some(QUANTILES), ..quiet };
        let delays: Vec<u64> = (0..30_000).map(|n| delay(&spec, rng_draw(n))).collect();
        let below = |limit: u64| delays.iter().filter(|delay| **delay < 5_000 + limit).count();
        for (limit, wanted) in
            [(100, 10_000), (200, 20_000), (500_100, 25_000), (1_000_001, 30_000)]
        {
            assert!(below(limit).abs_diff(wanted) < 400, "{} below {limit}", below(limit));
        }
        assert_eq!((quantile(QUANTILES, 0), quantile(&[7], 1 << 31)), (0, 7));
    }

    fn rng_draw(n: u64) -> u64 {
        rng::stream(1, "test", &[n]).next_u64()
    }

    #[test]
    fn datagrams_have_shares_of_their_own() {
        let spec = LinkSpec { datagram_loss: 0.1, datagram_duplicate: 0.05, ..LinkSpec::default() };
        let (times, twice) = arrivals(spec, 10_000);
        assert_eq!((times.len(), twice), (10_000, 0), "connections do not feel it");
        let (times, twice) = arrivals_of(spec, 100_000, true);
        assert!((89_000..91_000).contains(&times.len()), "{} arrived", times.len());
        assert!((4_100..4_900).contains(&twice), "{twice} arrived twice");
        let (times, _) = arrivals_of(LinkSpec { loss: 0.5, ..spec }, 100_000, true);
        assert!((48_000..52_000).contains(&times.len()), "{} arrived", times.len());
    }

    #[test]
    fn bandwidth_spaces_packets() {
        let spec = LinkSpec { bandwidth_bytes_per_s: Some(1_000_000), ..LinkSpec::default() };
        let (times, _) = arrivals(spec, 1_000);
        // 1,000 packets of 1,000 bytes on the wire take a second at a megabyte a second.
        assert!((1_000_000_000..1_002_000_000).contains(times.last().unwrap()));
    }
}
