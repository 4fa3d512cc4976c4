//! What happens in a run: plain data, drawn from a seed before anything runs.

use std::time::Duration;

use starling::runtime::time::Instant;

use crate::dice::Dice;

use super::Place;
use super::network::Network;

/// When every run begins. Not 0, so that a subject may look back.
pub const BEGIN: Instant = Instant::from_nanos(1_000_000_000_000);

/// Something that happens to machines or links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Incident {
    /// The machine dies without a word.
    Crash(Place),
    /// The machine that died starts again, and remembers nothing.
    Restart(Place),
    /// The machine's process is stopped: it sends nothing, its datagrams wait.
    Pause(Place),
    /// The stopped process goes on, late.
    Resume(Place),
    /// Nothing passes from the one to the other.
    Cut(Place, Place),
    /// What was cut passes again.
    Heal(Place, Place),
}

/// All that one run will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// Where every draw comes from.
    pub seed: u64,
    /// How many machines.
    pub members: usize,
    /// How many of them, the first ones, are seeds to all.
    pub seeds: usize,
    /// Within what time of [`BEGIN`] the machines start.
    pub spread: Duration,
    /// What comes before this is not measured: the time to find each other and to learn rhythms.
    pub warm_up: Duration,
    /// How long the run is, the warm-up included.
    pub length: Duration,
    /// The network.
    pub network: Network,
    /// What happens when, in order.
    pub incidents: Vec<(Instant, Incident)>,
}

impl Course {
    /// A run in which nothing happens: two seeds, starts within a second, two minutes to warm up,
    /// then `measured`.
    pub fn quiet(seed: u64, members: usize, measured: Duration) -> Self {
        let warm_up = Duration::from_secs(120);
        Self {
            seed,
            members,
            seeds: 2.min(members),
            spread: Duration::from_secs(1),
            warm_up,
            length: warm_up + measured,
            network: Network::default(),
            incidents: Vec::new(),
        }
    }

    /// When measuring begins.
    pub fn measured_from(&self) -> Instant {
        BEGIN + self.warm_up
    }

    /// When the run ends.
    pub fn end(&self) -> Instant {
        BEGIN + self.length
    }

    /// One random member dies at a random moment of ten seconds, and comes back after `away`.
    pub fn with_crash(mut self, away: Duration) -> Self {
        let mut die = Dice::new(self.seed).stream("lab crash", 0, 0);
        let victim = die.index(self.members);
        let at = self.measured_from() + Duration::from_millis(die.within(0, 9_999));
        self.incidents.push((at, Incident::Crash(victim)));
        self.incidents.push((at + away, Incident::Restart(victim)));
        self
    }

    /// Every minute one random member stops for `pause`, at a random moment of the minute.
    pub fn with_pauses(mut self, pause: Duration) -> Self {
        let mut die = Dice::new(self.seed).stream("lab pauses", 0, 0);
        let minute = Duration::from_secs(60);
        assert!(pause < minute / 2, "a pause of {pause:?} may not end before the next");
        let room_ms = u64::try_from((minute - pause).as_millis()).expect("a minute is short");
        let mut from = self.measured_from();
        while from + minute <= self.end() {
            let at = from + Duration::from_millis(die.within(0, room_ms - 1));
            let place = die.index(self.members);
            self.incidents.push((at, Incident::Pause(place)));
            self.incidents.push((at + pause, Incident::Resume(place)));
            from = from + minute;
        }
        self
    }

    /// One random member cannot hear one other, all the time.
    pub fn with_bad_link(mut self) -> Self {
        let (from, to) = self.two();
        self.incidents.push((self.measured_from(), Incident::Cut(from, to)));
        self
    }

    /// Between two random members nothing passes for `half`, then everything for as long, and so on.
    pub fn with_flapping_link(mut self, half: Duration) -> Self {
        let (one, other) = self.two();
        let mut at = self.measured_from();
        let mut cut = true;
        while at < self.end() {
            for (from, to) in [(one, other), (other, one)] {
                let incident = if cut { Incident::Cut(from, to) } else { Incident::Heal(from, to) };
                self.incidents.push((at, incident));
            }
            cut = !cut;
            at = at + half;
        }
        self
    }

    fn two(&self) -> (Place, Place) {
        let mut die = Dice::new(self.seed).stream("lab link", 0, 0);
        let one = die.index(self.members);
        let other = (one + 1 + die.index(self.members - 1)) % self.members;
        (one, other)
    }
}
