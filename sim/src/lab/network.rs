//! The network between the machines: delay, loss, copies, and links cut one way.
//!
//! Delays are drawn from 0.25 to 16 ms, each order of magnitude as likely as the next: mostly 1 to 4
//! ms, now and then much more, and so datagrams overtake each other. Loss and copies are
//! independent from datagram to datagram. A cut link drops everything in its direction; what was
//! sent before arrives.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dice::Die;

use super::Place;

/// The shortest and the longest delay, in µs.
const DELAY_US: (u64, u64) = (250, 16_000);

/// How a network treats datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Of a thousand datagrams, how many are lost.
    pub lost_per_mille: u64,
    /// Of a thousand datagrams that are not lost, how many arrive twice.
    pub twice_per_mille: u64,
}

/// A network at work.
#[derive(Debug)]
pub(super) struct Links {
    network: Network,
    cut: BTreeSet<(Place, Place)>,
    die: Die,
}

impl Links {
    pub(super) const fn new(network: Network, die: Die) -> Self {
        Self { network, cut: BTreeSet::new(), die }
    }

    /// Cuts, or heals, the way from one machine to another.
    pub(super) fn set_cut(&mut self, from: Place, to: Place, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// How long a datagram takes: `None` if it is lost, and the second time if it arrives twice.
    ///
    /// Draws the same numbers whatever the links, so that a cut moves no other datagram's dice.
    pub(super) fn fate(&mut self, from: Place, to: Place) -> [Option<Duration>; 2] {
        let lost = self.die.within(1, 1_000) <= self.network.lost_per_mille;
        let twice = self.die.within(1, 1_000) <= self.network.twice_per_mille;
        let delay = self.delay();
        if lost || self.cut.contains(&(from, to)) {
            return [None, None];
        }
        [Some(delay), if twice { Some(self.delay()) } else { None }]
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.die.magnitude(DELAY_US.0, DELAY_US.1))
    }
}
