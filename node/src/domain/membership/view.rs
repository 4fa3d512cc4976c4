//! What an operator is shown: each belief with its reasons.

use std::sync::Arc;
use std::time::Duration;

use super::member::{Health, MemberInfo, Standing};
use super::suspicion::{Doubt, Entry};
use super::{Machine, hash_of};
use crate::runtime::time::Instant;

/// What is known and believed of one member at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// What it says of itself.
    pub info: MemberInfo,
    /// What is believed of it.
    pub health: Health,
    /// Since when.
    pub since: Instant,
    /// Its heartbeat as last heard; 0 if it was never told of.
    pub heartbeat: u64,
    /// How long ago it advanced here; since the member was learned, if it never did.
    pub heartbeat_age: Duration,
    /// How strange that silence is: -log10 of its chance. 0 if it was never heard.
    pub phi: f64,
    /// Grows with each restart and each change of address.
    pub incarnation: u64,
    /// The live members that suspect it now, this one included, by name.
    pub suspected_by: Vec<Arc<str>>,
    /// Why this is believed, in words for an operator.
    pub reasons: String,
    /// Whether it is this process itself.
    pub is_self: bool,
}

impl Machine {
    /// All members, this one included, by name.
    pub fn members(&self, now: Instant) -> Vec<View> {
        let mut views: Vec<View> =
            self.members.values().map(|entry| self.look(entry, now)).collect();
        views.push(self.look_at_self(now));
        views.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        views
    }

    /// One member.
    pub fn view(&self, name: &str, now: Instant) -> Option<View> {
        if name == &*self.own.info.name {
            return Some(self.look_at_self(now));
        }
        self.members.get(hash_of(name)).map(|entry| self.look(entry, now))
    }

    /// What is believed of a member; [`Health::Unknown`] of one that nobody told of.
    pub fn health(&self, name: &str) -> Health {
        if name == &*self.own.info.name {
            return self.own_health();
        }
        self.members.get(hash_of(name)).map_or(Health::Unknown, |entry| entry.health)
    }

    fn own_health(&self) -> Health {
        if self.own.stamp.beat.stopped() { Health::Stopped } else { Health::Up }
    }

    fn look_at_self(&self, now: Instant) -> View {
        let standing = match self.standing() {
            Standing::Joining => "joining: listens before it announces itself".to_owned(),
            Standing::Member => "this process".to_owned(),
            Standing::Outdated { generation } => {
                format!(
                    "not announced: its data folder is known in generation {generation} already"
                )
            }
            Standing::NameTaken { gossip } => {
                format!("not announced: a live process at {gossip} holds this name")
            }
        };
        let strain = match self.strain {
            0 => String::new(),
            n => format!("; was late {n} times of late, so it holds suspicions back"),
        };
        View {
            info: self.own.info.clone(),
            health: self.own_health(),
            since: self.claimant.began().unwrap_or(now),
            heartbeat: self.own.stamp.beat.heartbeat(),
            heartbeat_age: Duration::ZERO,
            phi: 0.0,
            incarnation: self.own.stamp.incarnation,
            suspected_by: Vec::new(),
            reasons: standing + &strain,
            is_self: true,
        }
    }

    fn look(&self, entry: &Entry, now: Instant) -> View {
        let stamp = entry.record.stamp;
        let name_of = |hash: u64| self.members.get(hash).map(|e| e.record.info.name.clone());
        let reporters = self.reporters(entry, now);
        let mut suspected_by: Vec<Arc<str>> = reporters.into_iter().filter_map(name_of).collect();
        if entry.doubt == Doubt::Counted {
            suspected_by.push(self.own.info.name.clone());
        }
        suspected_by.sort();
        View {
            info: entry.record.info.clone(),
            health: entry.health,
            since: entry.since,
            heartbeat: stamp.beat.heartbeat(),
            heartbeat_age: now.since(entry.rhythm.last),
            phi: self.detector.phi(&entry.rhythm, now),
            incarnation: stamp.incarnation,
            reasons: self.reasons(entry, &suspected_by, now),
            suspected_by,
            is_self: false,
        }
    }

    fn reasons(&self, entry: &Entry, suspected_by: &[Arc<str>], now: Instant) -> String {
        let silence = now.since(entry.rhythm.last).as_secs_f64();
        let patience = self.detector.patience(&entry.rhythm).as_secs_f64();
        let phi = self.detector.phi(&entry.rhythm, now);
        let mut text = match entry.health {
            Health::Stopped => return "said goodbye".to_owned(),
            Health::Unknown => format!("known for {silence:.1} s, never heard"),
            Health::Up if silence <= patience => format!("heartbeat {silence:.1} s ago"),
            Health::Up | Health::Suspect | Health::Down => {
                format!("silent for {silence:.1} s (phi {phi:.1}, {patience:.1} s would be usual)")
            }
        };
        text += match entry.doubt {
            Doubt::None => "",
            Doubt::Asked { .. } => "; a ping is under way",
            Doubt::AskedOthers { .. } => "; no answer to a ping, others are asked to try",
            Doubt::Counted => "; no answer to pings, neither direct nor through others",
        };
        if !suspected_by.is_empty() {
            text += &format!("; suspected by {}", suspected_by.join(", "));
        }
        let needed = self.reporters_needed();
        if entry.health == Health::Suspect && suspected_by.len() < needed {
            text += &format!("; down when {needed} live members suspect it");
        }
        text
    }
}
