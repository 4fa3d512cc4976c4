//! Digests and what answers them.
//!
//! A digest tells stamps of all members whose hash lies from `first` to `last` around the circle of
//! hashes. For each of them the receiver
//!
//! | knows | does |
//! |---|---|
//! | an older heartbeat of that incarnation | takes the newer one: progress |
//! | a newer heartbeat | tells it |
//! | a newer incarnation | tells the whole record |
//! | no such member, or an older incarnation | asks for the record |
//! | a member in between that the digest lacks | tells the whole record |
//!
//! A newcomer's digest is one empty stretch all around, so every answer brings it as many records as
//! [`ANSWER_DATAGRAMS_MAX`] datagrams hold, from a random place on; it has them all after a few rounds.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rand::Rng;

use super::member::{Effects, Event, MEMBERS_MAX, MemberInfo};
use super::suspicion::Entry;
use super::wire::{
    Claim, Header, MESSAGE_BYTES_MAX, Message, Record, Stamp, Stamps, claim_bytes, record_bytes,
    stamp_bytes,
};
use super::{ANSWER_DATAGRAMS_MAX, Machine, hash_of};
use crate::runtime::time::Instant;

/// Bytes of a message around its lists: counts, base incarnation, range, flag.
const FRAME_BYTES: usize = 40;
/// So long after a new member was learned, one partner each interval gets digests of all members, not
/// of one stretch: there may be more to learn. Without it 1,000 nodes that start at once need 20 s
/// to know each other, since the last gaps are found by luck alone.
const LEARNING_INTERVALS: u32 = 4;
/// Records asked for at once.
const WANTS_MAX: usize = 80;

/// A digest as it came.
pub(super) struct Digest {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) stamps: Stamps,
}

/// Whether a digest leaves members out for want of room.
pub(super) fn is_partial(digest: &Message) -> bool {
    match digest {
        Message::Digest { first, last, .. } => last.wrapping_add(1) != *first,
        Message::News { .. }
        | Message::Ping { .. }
        | Message::Pong { .. }
        | Message::AskPing { .. } => false,
    }
}

/// What is told to one member.
#[derive(Default)]
pub(super) struct News {
    pub(super) stamps: Stamps,
    pub(super) wants: Vec<u64>,
    pub(super) records: Vec<Record>,
}

impl News {
    /// The message of it.
    pub(super) fn message(self, answers: bool, claims: Vec<Claim>) -> Message {
        let Self { stamps, wants, records } = self;
        Message::News { answers, stamps, wants, claims, records }
    }
}

/// How the news of a member compares with what is known.
pub(super) enum Compared {
    /// The same, or newer and now taken.
    Even,
    /// Older by this many steps of the heartbeat; this is known.
    Stale(u64, Stamp),
    /// An older incarnation.
    Outlived,
    /// A newer incarnation, or no such member here: the record is needed.
    Missing,
}

impl Machine {
    /// Compares a stamp of another member, and takes it where it is newer.
    pub(super) fn hear(
        &mut self,
        hash: u64,
        stamp: Stamp,
        now: Instant,
        out: &mut Effects,
    ) -> Compared {
        let Some(entry) = self.members.get_mut(hash) else { return Compared::Missing };
        let known = entry.record.stamp;
        if stamp.incarnation > known.incarnation {
            return Compared::Missing;
        }
        if stamp.incarnation < known.incarnation {
            return Compared::Outlived;
        }
        if stamp.beat < known.beat {
            let behind = known.beat.heartbeat() - stamp.beat.heartbeat();
            return Compared::Stale(behind, known);
        }
        if stamp.beat > known.beat {
            entry.record.stamp = stamp;
            self.progress(hash, stamp.beat, now, out);
        }
        Compared::Even
    }

    /// Takes what a header says of its sender. True if its record is needed.
    pub(super) fn greet(&mut self, header: &Header, now: Instant, out: &mut Effects) -> bool {
        if header.sender == self.own_hash {
            return header.announced && self.hear_own_name(header.stamp, None, now, out);
        }
        if !header.announced {
            return false;
        }
        let missing = matches!(self.hear(header.sender, header.stamp, now, out), Compared::Missing);
        if let Some(entry) = self.members.get_mut(header.sender)
            && !missing
            && header.stamp >= entry.record.stamp
        {
            entry.record.info.load = header.load;
            // A member that was only told of is heard for the first time, by its own datagram.
            if !entry.rhythm.heard && !header.stamp.beat.stopped() {
                self.progress(header.sender, header.stamp.beat, now, out);
            }
        }
        missing
    }

    /// The digest of this moment: all that fits, from a random place on.
    pub(super) fn digest(&self, now: Instant, rng: &mut impl Rng) -> Message {
        let from = rng.random();
        self.stretch((from, from), self.base(), self.claims(now, rng)).0
    }

    /// The lowest incarnation that is told of.
    fn base(&self) -> u64 {
        let all = self.members.values().map(|entry| entry.record.stamp.incarnation);
        all.filter(|incarnation| *incarnation > 0).min().unwrap_or(0)
    }

    /// Digests that tell of all members together, or of as many as one answer might.
    pub(super) fn digests_of_all(&self, rng: &mut impl Rng) -> Vec<Message> {
        let start = rng.random();
        let (mut digests, mut from, base) = (Vec::new(), Some(start), self.base());
        while let Some(at) = from.filter(|_| digests.len() < ANSWER_DATAGRAMS_MAX) {
            let (digest, next) = self.stretch((at, start), base, Vec::new());
            digests.push(digest);
            from = next;
        }
        digests
    }

    /// A digest of the members from one hash on to just before another, around the circle, as many
    /// as fit; and where to go on if not all do. No incarnation is below `base`.
    fn stretch(
        &self,
        (from, until): (u64, u64),
        base: u64,
        claims: Vec<Claim>,
    ) -> (Message, Option<u64>) {
        let (high, low) = if from < until {
            (self.members.range(from..until), self.members.range(..0))
        } else {
            (self.members.range(from..), self.members.range(..until))
        };
        let told = high.chain(low).map(|(hash, entry)| (hash, entry.record.stamp));
        let told = told.filter(|(_, stamp)| stamp.incarnation > 0);
        let mut room = MESSAGE_BYTES_MAX - FRAME_BYTES;
        room -= claims.iter().map(claim_bytes).sum::<usize>();
        let mut stamps = Stamps::new();
        let mut next = None;
        for (hash, stamp) in told {
            let bytes = stamp_bytes(stamp, base);
            if bytes > room {
                next = Some(hash);
                break;
            }
            room -= bytes;
            stamps.push((hash, stamp));
        }
        let last = next.unwrap_or(until).wrapping_sub(1);
        (Message::Digest { first: from, last, stamps, claims }, next)
    }

    /// Answers a digest. `unknown_sender`: the sender's own record is needed too.
    #[expect(clippy::too_many_arguments, reason = "who, what, when and where to are all needed")]
    pub(super) fn answer(
        &mut self,
        header: &Header,
        from: SocketAddr,
        digest: Digest,
        unknown_sender: bool,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Effects,
    ) {
        let Digest { first, last, mut stamps } = digest;
        stamps.sort_unstable();
        let lacking = self.lacking(header.sender, first, last, &stamps);
        let mut stale: Vec<(u64, u64, Stamp)> = Vec::new();
        let mut outlived: Vec<u64> = Vec::new();
        let mut wants: Vec<u64> = unknown_sender.then_some(header.sender).into_iter().collect();
        for (hash, stamp) in stamps {
            if hash == self.own_hash {
                if self.hear_own_name(stamp, None, now, out) {
                    wants.push(hash);
                }
                continue;
            }
            match self.hear(hash, stamp, now, out) {
                Compared::Even => {}
                Compared::Stale(behind, known) => stale.push((behind, hash, known)),
                Compared::Outlived => outlived.push(hash),
                Compared::Missing => wants.push(hash),
            }
        }
        // The most stale first: an older process, then what is not known at all; far heartbeats first.
        stale.sort_unstable_by_key(|&(behind, hash, _)| (std::cmp::Reverse(behind), hash));
        let mut hashes = outlived;
        let start = if lacking.is_empty() { 0 } else { rng.random_range(0..lacking.len()) };
        hashes.extend(lacking[start..].iter().chain(&lacking[..start]));
        let (yours, your_stamp) = self.about_sender(header);
        let mut told: Stamps = your_stamp.into_iter().collect();
        told.extend(stale.into_iter().map(|(_, hash, stamp)| (hash, stamp)));
        let parts = Parts { yours, stamps: told, wants, hashes };
        self.send_parts(from, true, parts, now, rng, out);
    }

    /// What the sender should know of its own name: a newer process's record, or a newer heartbeat.
    fn about_sender(&self, header: &Header) -> (Option<Record>, Option<(u64, Stamp)>) {
        let Some(known) = self.record_of(header.sender) else { return (None, None) };
        if known.stamp.incarnation > header.stamp.incarnation {
            (Some(known.clone()), None)
        } else if known.stamp > header.stamp {
            (None, Some((header.sender, known.stamp)))
        } else {
            (None, None)
        }
    }

    /// The record that this member would tell of a name; its own too, when it is announced.
    fn record_of(&self, hash: u64) -> Option<&Record> {
        if hash == self.own_hash {
            return self.is_member().then_some(&self.own);
        }
        let record = &self.members.get(hash)?.record;
        (record.stamp.incarnation > 0).then_some(record)
    }

    /// The members from `first` to `last` that `stamps`, sorted, has not; without the sender itself.
    fn lacking(&self, sender: u64, first: u64, last: u64, stamps: &[(u64, Stamp)]) -> Vec<u64> {
        let (low, high) = if first <= last {
            (self.members.range(first..=last), self.members.range(..0))
        } else {
            (self.members.range(..=last), self.members.range(first..))
        };
        let mut stamps = stamps.iter().map(|(hash, _)| *hash).peekable();
        let lacks = |&(hash, entry): &(u64, &Entry)| {
            while stamps.next_if(|told| *told < hash).is_some() {}
            let told = stamps.peek() == Some(&hash);
            !told && hash != sender && entry.record.stamp.incarnation > 0
        };
        low.chain(high).filter(lacks).map(|(hash, _)| hash).collect()
    }

    /// Takes news; asks for what is still missing and sends what was asked for.
    #[expect(clippy::too_many_arguments, reason = "who, what, when and where to are all needed")]
    pub(super) fn take_news(
        &mut self,
        header: &Header,
        from: SocketAddr,
        news: News,
        unknown_sender: bool,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Effects,
    ) {
        let mut wants: BTreeSet<u64> =
            unknown_sender.then_some(header.sender).into_iter().collect();
        for (hash, stamp) in news.stamps {
            let missing = if hash == self.own_hash {
                self.hear_own_name(stamp, None, now, out)
            } else {
                matches!(self.hear(hash, stamp, now, out), Compared::Missing)
            };
            if missing {
                wants.insert(hash);
            }
        }
        for record in news.records {
            wants.remove(&hash_of(&record.info.name));
            self.learn(record, header, now, out);
        }
        if !wants.is_empty() || !news.wants.is_empty() {
            let wants = wants.into_iter().collect();
            let parts = Parts { wants, hashes: news.wants, ..Parts::default() };
            self.send_parts(from, false, parts, now, rng, out);
        }
    }

    /// Takes a whole record.
    fn learn(&mut self, record: Record, header: &Header, now: Instant, out: &mut Effects) {
        let hash = hash_of(&record.info.name);
        if hash == self.own_hash {
            if record.info.name == self.own.info.name {
                self.hear_own_name(record.stamp, Some(&record), now, out);
            } else {
                self.counters.refused += 1;
            }
            return;
        }
        let by_itself = header.announced && header.sender == hash;
        let (name, beat) = (record.info.name.clone(), record.stamp.beat);
        let Some(entry) = self.members.get_mut(hash) else {
            if self.members.len() >= MEMBERS_MAX {
                self.counters.refused += 1;
                return;
            }
            let mut entry = Entry::new(record, now);
            entry.record.info.load = header.load;
            self.members.insert(hash, entry);
            self.agenda.insert((now, hash));
            self.learning_until = now + self.options.interval * LEARNING_INTERVALS;
            out.events.push(Event::Learned(name));
            if by_itself && !beat.stopped() {
                self.progress(hash, beat, now, out);
            }
            return;
        };
        if entry.record.info.name != name {
            self.counters.refused += 1;
            return;
        }
        if record.stamp.incarnation <= entry.record.stamp.incarnation {
            self.hear(hash, record.stamp, now, out);
            return;
        }
        // What was only remembered is no proof that anything started since.
        let first_told = entry.record.stamp.incarnation == 0;
        let restarted = !first_told && record.info.process != entry.record.info.process;
        // A generation that rises while the process runs is for those who will meet an older copy, and no event.
        let generation = record.info.generation;
        let changed = record.info != MemberInfo { generation, ..entry.record.info.clone() };
        entry.record = record;
        if restarted {
            out.events.push(Event::Restarted(name));
            entry.rhythm.heard_apart(now);
        } else if changed {
            out.events.push(Event::Changed(name));
        }
        if beat.stopped() || by_itself || !first_told {
            self.progress(hash, beat, now, out);
        }
    }

    /// Sends what there is to say in as few datagrams as it takes, 16 at most.
    fn send_parts(
        &mut self,
        to: SocketAddr,
        answers: bool,
        parts: Parts,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Effects,
    ) {
        let claims = if answers { self.claims(now, rng) } else { Vec::new() };
        let Parts { yours, mut stamps, mut wants, hashes } = parts;
        // A newcomer has to hear of its own name, and any of these datagrams may be the first.
        let own_bytes = yours.as_ref().map_or(0, record_bytes);
        let full = MESSAGE_BYTES_MAX - FRAME_BYTES - own_bytes;
        let mut room = full.saturating_sub(claims.iter().map(claim_bytes).sum());
        wants.truncate(WANTS_MAX.min(room / 8));
        room -= 8 * wants.len();
        let base = stamps.iter().map(|(_, stamp)| stamp.incarnation).min().unwrap_or(0);
        let mut fitting = 0;
        for &(_, stamp) in &stamps {
            let bytes = stamp_bytes(stamp, base);
            if bytes > room {
                break;
            }
            room -= bytes;
            fitting += 1;
        }
        stamps.truncate(fitting);
        let records = yours.iter().cloned().collect();
        let mut news = News { stamps, wants, records };
        let mut claims = Some(claims);
        let mut sent = 0;
        for hash in hashes {
            let Some(record) = self.record_of(hash).cloned() else { continue };
            let bytes = record_bytes(&record);
            if bytes > room {
                if bytes > full {
                    continue;
                }
                self.send(to, &news.message(answers, claims.take().unwrap_or_default()), out);
                let records = yours.iter().cloned().collect();
                (news, room) = (News { records, ..News::default() }, full);
                sent += 1;
                if sent == ANSWER_DATAGRAMS_MAX {
                    return;
                }
            }
            room -= bytes;
            news.records.push(record);
        }
        self.send(to, &news.message(answers, claims.take().unwrap_or_default()), out);
    }
}

/// What goes into the datagrams of one answer, in the order of their importance.
#[derive(Default)]
struct Parts {
    /// The record that holds the receiver's name, in every datagram.
    yours: Option<Record>,
    stamps: Stamps,
    wants: Vec<u64>,
    /// Whose records to send.
    hashes: Vec<u64>,
}
