//! What is believed of each member, and the evidence for it.
//!
//! ```text
//!   own doubt:   none -> asked -> asked others -> counted       any advance: back to none
//!   reports:     reporter -> (the target's stamp, the reporter's heartbeat at that time)
//! ```
//!
//! A report counts while all of this holds: the reporter is up here; the report's stamp is no older
//! than what is known here (else the reporter only lacks news); and it is renewed: it ends
//! [`REPORT_BEATS`] of the reporter's heartbeats, or as many intervals, after it was last made. It
//! carries the reporter's heartbeat, so being passed around does not renew it.
//!
//! Down is sticky: it ends with an advance, not with the end of a report.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use super::Machine;
use super::member::{Effects, Event, Health};
use super::phi::{Detector, Rhythm};
use super::wire::{Beat, Claim, Record, Stamp, claim_bytes};
use crate::runtime::time::Instant;

/// How long a report counts after it was made, in heartbeats of the reporter and in intervals.
const REPORT_BEATS: u32 = 8;
/// Reports kept of one member, and passed on of one member.
const REPORTS_MAX: usize = 16;
const REPORTS_TOLD_MAX: usize = 3;
/// Bytes of one datagram that suspicions may take.
const CLAIMS_BYTES_MAX: usize = 400;
/// A member that was heard so lately, in intervals, is not down, whatever others report.
const SILENCE_MIN: u32 = 2;

/// How far this member has come in doubting another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubt {
    /// Nothing strange.
    None,
    /// A ping is under way.
    Asked { until: Instant },
    /// Others were asked to ping it.
    AskedOthers { until: Instant },
    /// Nobody got an answer: this member suspects, and says so.
    Counted,
}

/// What another member said.
#[derive(Clone, Copy, Debug)]
struct Report {
    stamp: Stamp,
    /// The reporter's heartbeat when it said so.
    as_of: u64,
    /// When that was first heard here.
    at: Instant,
}

/// All that is known of one other member.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) rhythm: Rhythm,
    /// The patience with it, and the last advance that it follows from: the watch asks ten times between
    /// two advances, and of every member.
    patience: Option<((Instant, bool), Duration)>,
    pub(super) doubt: Doubt,
    /// Somebody found it unreachable: ask soon.
    pub(super) hurried: bool,
    pub(super) health: Health,
    pub(super) since: Instant,
    /// When the watch looks at it next.
    pub(super) turn: Instant,
    reports: BTreeMap<u64, Report>,
}

impl Entry {
    /// Of a member that was just learned.
    pub(super) fn new(record: Record, now: Instant) -> Self {
        let health = if record.stamp.beat.stopped() { Health::Stopped } else { Health::Unknown };
        Self {
            record,
            rhythm: Rhythm::new(now),
            patience: None,
            doubt: Doubt::None,
            hurried: false,
            health,
            since: now,
            turn: now,
            reports: BTreeMap::new(),
        }
    }

    /// How long its silence is taken calmly.
    pub(super) fn patience(&mut self, detector: &Detector) -> Duration {
        let heard = (self.rhythm.last, self.rhythm.heard);
        match self.patience {
            Some((then, patience)) if then == heard => patience,
            Some(_) | None => {
                let patience = detector.patience(&self.rhythm);
                self.patience = Some((heard, patience));
                patience
            }
        }
    }

    /// Drops the own doubt.
    pub(super) fn calm_down(&mut self) {
        self.doubt = Doubt::None;
        self.hurried = false;
    }

    /// Drops all evidence: it moved.
    pub(super) fn clear(&mut self) {
        self.calm_down();
        self.reports.clear();
    }
}

impl Machine {
    /// What this member believes now; says so if that is new.
    pub(super) fn set_health(
        &mut self,
        hash: u64,
        health: Health,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(entry) = self.members.get_mut(hash) else { return };
        if entry.health == health {
            return;
        }
        entry.health = health;
        entry.since = now;
        let name = entry.record.info.name.clone();
        match health {
            Health::Unknown => {}
            Health::Up => out.events.push(Event::Up(name)),
            Health::Suspect => out.events.push(Event::Suspected(name)),
            Health::Down => {
                self.counters.downs += 1;
                out.events.push(Event::Down(name));
            }
            Health::Stopped => out.events.push(Event::Stopped(name)),
        }
    }

    /// Its stamp advanced, by `beat` at least: it lives, or it has stopped.
    pub(super) fn progress(&mut self, hash: u64, beat: Beat, now: Instant, out: &mut Effects) {
        let Some(entry) = self.members.get_mut(hash) else { return };
        entry.clear();
        self.suspects.remove(&hash);
        if beat.stopped() {
            self.set_health(hash, Health::Stopped, now, out);
        } else {
            entry.rhythm.advance(now, &self.detector);
            // Nearly always it is up already, and this is done for every member each interval.
            if entry.health != Health::Up {
                self.set_health(hash, Health::Up, now, out);
            }
        }
    }

    /// Takes what another member reports or passes on.
    pub(super) fn take_claims(&mut self, claims: Vec<Claim>, now: Instant, out: &mut Effects) {
        for claim in claims {
            let known: Vec<(u64, u64)> = claim
                .reporters
                .iter()
                .filter(|(reporter, as_of)| {
                    let beats = |entry: &Entry| entry.record.stamp.beat.heartbeat();
                    self.members.get(*reporter).map(beats).is_some_and(|heartbeat| {
                        heartbeat <= as_of.saturating_add(u64::from(REPORT_BEATS))
                    })
                })
                .copied()
                .collect();
            let Some(entry) = self.members.get_mut(claim.target) else { continue };
            if claim.stamp < entry.record.stamp || entry.health == Health::Stopped {
                continue;
            }
            for (reporter, as_of) in known {
                let full = entry.reports.len() >= REPORTS_MAX;
                let old = entry.reports.get(&reporter);
                if reporter == claim.target
                    || old.is_some_and(|old| old.as_of >= as_of)
                    || (old.is_none() && full)
                {
                    continue;
                }
                entry.reports.insert(reporter, Report { stamp: claim.stamp, as_of, at: now });
            }
            if !entry.reports.is_empty() {
                self.suspects.insert(claim.target);
            }
            self.judge(claim.target, now, out);
        }
    }

    /// The other members whose reports on `entry` count now.
    pub(super) fn reporters(&self, entry: &Entry, now: Instant) -> Vec<u64> {
        let counts = |&(reporter, report): &(&u64, &Report)| {
            let live = self.members.get(*reporter).is_some_and(|reporter| {
                let heartbeat = reporter.record.stamp.beat.heartbeat();
                reporter.health == Health::Up
                    && heartbeat <= report.as_of.saturating_add(u64::from(REPORT_BEATS))
            });
            live && report.stamp >= entry.record.stamp && !self.is_over(report, now)
        };
        entry.reports.iter().filter(counts).map(|(&reporter, _)| reporter).collect()
    }

    fn is_over(&self, report: &Report, now: Instant) -> bool {
        now.since(report.at) > self.options.interval * REPORT_BEATS
    }

    /// How many members must suspect at once: two, but one where there are but two. One that was listed
    /// and never heard counts among them, and so does one that is down or has stopped: it may come back,
    /// and until then one bad link is not told from a death.
    pub(super) fn reporters_needed(&self) -> usize {
        let others = self.members.len().max(self.options.members_min.saturating_sub(1));
        if others < 2 { 1 } else { 2 }
    }

    /// Draws the conclusion from the evidence.
    pub(super) fn judge(&mut self, hash: u64, now: Instant, out: &mut Effects) {
        let Some(entry) = self.members.get(hash) else { return };
        if matches!(entry.health, Health::Down | Health::Stopped) {
            return;
        }
        let own = entry.doubt == Doubt::Counted;
        let reporters = self.reporters(entry, now).len() + usize::from(own);
        let silent = now.since(entry.rhythm.last) >= self.options.interval * SILENCE_MIN;
        // After a pause of this process, reports come out of the socket that are as old as the pause: whom
        // they were about may be back. `review` looks again when the rest has been read.
        let settled = now >= self.calm_until;
        let calm = if entry.rhythm.heard { Health::Up } else { Health::Unknown };
        let health = if reporters >= self.reporters_needed() && silent && settled {
            Health::Down
        } else if own {
            Health::Suspect
        } else {
            calm
        };
        self.set_health(hash, health, now, out);
    }

    /// Each interval: drops what is over, and judges those whom anybody suspects or suspected.
    pub(super) fn review(&mut self, now: Instant, out: &mut Effects) {
        let span: Duration = self.options.interval * REPORT_BEATS;
        for hash in self.suspects.clone() {
            let Some(entry) = self.members.get_mut(hash) else { continue };
            entry.reports.retain(|_, report| now.since(report.at) <= span);
            if entry.reports.is_empty() && entry.doubt != Doubt::Counted {
                self.suspects.remove(&hash);
            }
            self.judge(hash, now, out);
        }
    }

    /// The suspicions to tell, own and others', as many as fit; when they do not, a random stretch.
    pub(super) fn claims(&self, now: Instant, rng: &mut impl Rng) -> Vec<Claim> {
        let mut claims = Vec::new();
        if self.suspects.is_empty() {
            return claims;
        }
        let from: u64 = rng.random();
        let cycle = self.suspects.range(from..).chain(self.suspects.range(..from));
        let mut bytes = 0;
        for &target in cycle {
            let Some(claim) = self.members.get(target).and_then(|e| self.claim(target, e, now))
            else {
                continue;
            };
            bytes += claim_bytes(&claim);
            if bytes > CLAIMS_BYTES_MAX {
                break;
            }
            claims.push(claim);
        }
        claims
    }

    fn claim(&self, target: u64, entry: &Entry, now: Instant) -> Option<Claim> {
        let mut reporters = Vec::new();
        if entry.doubt == Doubt::Counted && self.is_member() {
            reporters.push((self.own_hash, self.own.stamp.beat.heartbeat()));
        }
        // The latest first: those are the furthest from their end.
        let counting = self.reporters(entry, now);
        let mut others: Vec<(u64, &Report)> = counting
            .iter()
            .filter_map(|r| entry.reports.get(r).map(|report| (*r, report)))
            .collect();
        others.sort_by_key(|(_, report)| std::cmp::Reverse(report.at));
        reporters
            .extend(others.iter().take(REPORTS_TOLD_MAX).map(|(r, report)| (*r, report.as_of)));
        let stamp = entry.record.stamp;
        (!reporters.is_empty()).then_some(Claim { target, stamp, reporters })
    }
}
