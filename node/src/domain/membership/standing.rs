//! Who has a name: how a process becomes its member, and what it does about others of that name.
//!
//! A process first listens. It sends digests that do not announce it, and whoever answers tells what
//! is known of its name:
//!
//! | known of the name | then |
//! |---|---|
//! | nothing, or nobody answers for one interval | member |
//! | this folder, in an older generation: its own former process | member, with a higher incarnation |
//! | this folder, as new or newer: a copy, or rolled back | [`Standing::Outdated`] |
//! | another folder | watch its heartbeat for four intervals |
//! | ... which advances three times: it lives | [`Standing::NameTaken`], and watch on |
//! | ... which does not: it is gone, the machine has a new disk | member, with a higher incarnation |
//!
//! A member that hears of another process of its name with an incarnation as high as its own goes
//! above it, once: a claimant that listens sees that as life. Two that announced one name in two
//! parts of a divided cluster both do that when the parts meet. Then the one that was born later, by
//! the wall clocks, gives way after three rounds.

use super::Machine;
use super::member::{Effects, Event, Standing};
use super::wire::{Record, Stamp};
use crate::runtime::time::Instant;

/// Advances that prove a process alive, and the intervals in which they have to come.
const LIFE_SIGNS: u32 = 3;
const WATCHED_INTERVALS: u32 = 4;

/// Another process of this name.
#[derive(Clone, Debug)]
struct Rival {
    record: Record,
    /// Advances of its stamp since `since`.
    advances: u32,
    since: Instant,
}

/// How far this process has come in claiming its name.
#[derive(Debug)]
pub(super) struct Claimant {
    standing: Standing,
    /// When it began to listen: with the first tick.
    began: Option<Instant>,
    answered: bool,
    rival: Option<Rival>,
}

impl Default for Claimant {
    fn default() -> Self {
        Self { standing: Standing::Joining, began: None, answered: false, rival: None }
    }
}

impl Claimant {
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// When it began to listen.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// What is known of whoever held the name.
    pub(super) fn known(&self) -> Stamp {
        self.rival.as_ref().map(|rival| rival.record.stamp).unwrap_or_default()
    }

    /// A member answered.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// The folder has a new id. Whoever held the name has another one now.
    pub(super) fn renewed(&mut self) {
        if matches!(self.standing, Standing::Outdated { .. }) {
            self.standing = Standing::Joining;
        }
    }
}

impl Machine {
    fn stand(&mut self, standing: Standing, out: &mut Effects) {
        if self.claimant.standing != standing {
            self.claimant.standing = standing;
            out.events.push(Event::Standing(standing));
        }
    }

    /// Decides whether the time of listening is over.
    pub(super) fn settle(&mut self, now: Instant, out: &mut Effects) {
        let began = *self.claimant.began.get_or_insert(now);
        match self.claimant.standing {
            Standing::Member | Standing::Outdated { .. } => return,
            Standing::Joining | Standing::NameTaken { .. } => {}
        }
        let interval = self.options.interval;
        let alone = self.seeds.is_empty() && self.members.is_empty();
        if !alone && !self.claimant.answered && now < began + interval {
            return;
        }
        if let Some(rival) = &mut self.claimant.rival
            && rival.record.info.node != self.own.info.node
        {
            let lives = rival.advances >= LIFE_SIGNS;
            if !lives && now < rival.since + interval * WATCHED_INTERVALS {
                return;
            }
            if lives {
                // Watched anew, so that the name is free some time after the other is gone.
                (rival.advances, rival.since) = (0, now);
                let gossip = rival.record.info.gossip;
                self.stand(Standing::NameTaken { gossip }, out);
                return;
            }
        }
        if let Some(rival) = self.claimant.rival.take() {
            self.raise_above(rival.record.stamp.incarnation);
        }
        self.stand(Standing::Member, out);
    }

    /// Somebody tells of the own name. True if the record is needed to know which process it is.
    pub(super) fn hear_own_name(
        &mut self,
        stamp: Stamp,
        record: Option<&Record>,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let member = self.is_member();
        // News of the own former processes is no news, once this one has announced itself.
        if member && stamp <= self.own.stamp {
            return false;
        }
        if let Some(rival) = &mut self.claimant.rival
            && rival.record.stamp.incarnation == stamp.incarnation
            && !member
        {
            if stamp.beat > rival.record.stamp.beat {
                rival.record.stamp = stamp;
                rival.advances += 1;
            }
            self.settle(now, out);
            return false;
        }
        let known = self.claimant.known();
        let Some(record) = record else { return stamp > known || member };
        if record.info.process == self.own.info.process || (!member && stamp < known) {
            return false;
        }
        self.meet(record, now, out);
        false
    }

    /// Another process of this name, in an incarnation that was not known.
    fn meet(&mut self, record: &Record, now: Instant, out: &mut Effects) {
        let same_process = |rival: &&Rival| rival.record.info.process == record.info.process;
        let met = self.claimant.rival.as_ref().filter(same_process);
        let (advances, since) = met.map_or((0, now), |rival| (rival.advances + 1, rival.since));
        let own = &self.own;
        let outdated =
            record.info.node == own.info.node && record.info.generation >= own.info.generation;
        let elder = (record.born, record.info.process) < (own.born, own.info.process);
        self.claimant.rival = Some(Rival { record: record.clone(), advances, since });
        if outdated {
            let generation = record.info.generation;
            self.stand(Standing::Outdated { generation }, out);
        } else if self.is_member() {
            self.raise_above(record.stamp.incarnation);
            self.counters.raises += 1;
            if advances >= LIFE_SIGNS && elder {
                self.stand(Standing::NameTaken { gossip: record.info.gossip }, out);
            }
        } else {
            self.settle(now, out);
        }
    }
}
