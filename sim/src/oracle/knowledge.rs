//! What each token of a key covers, as far as clients can tell.
//!
//! The store hands out opaque tokens. From the outside we know this much of their meaning (it is the
//! store's contract, see DESIGN.md "Data model"; nothing of the node's code is used):
//!
//! - Each *attempt* (a PUT or DELETE request that may have been executed) makes at most one write.
//! - A write supersedes what the token in its request covers, and nothing else.
//! - Whatever a replica knows of a key is *downward closed*: with a write it knows what that write
//!   superseded. What it knows and does not show was superseded by a write that it knows as well.
//!   Supersession has no cycles, so each such chain ends in a write that is shown. Hence the one fact
//!   on which the whole oracle rests:
//!
//! ```text
//! what a reply knows  =  the writes shown, and what their requests' tokens covered
//! ```
//!
//! - The token of an acked write covers that write and what its request's token covered. (The store may
//!   return a shorter form that names more when one sibling is left; by the fact above it covers the same.)
//!
//! - A write that was refused at the limit of siblings is told a token of all that its coordinator knows. Nothing of that is
//!   shown, so it surely covers nothing, and may cover all that had begun.
//!
//! - Where the last write wins, a reply shows one write, and what it knows beside that was superseded by nobody's token. So its
//!   upper bound is all that had begun, unless it shows nothing. The lower bound is as before: a write that a
//!   token covers loses against the one that was sent with it, whatever the clocks say.
//!
//! Three things hide which writes a reply shows: retries put equal bytes under two writes, tombstones all
//! look alike, and an unanswered attempt may take effect at any later time, or never. So each set of
//! writes is kept as two: [`Known::must`] is surely in it, [`Known::may`] is all that can be. A check that
//! accuses because something *was* covered asks `must`; one that accuses because something was *not*
//! covered asks `may`. Either way the accusation is sound.
//!
//! For one item shown (a value, or "deleted") by a reply that ended at time t, the candidates are the
//! attempts of that item that began before t and were not refused. At least one of them is live in the
//! reply. So: `may` gains all candidates and what they may have seen; `must` gains what all of them must
//! have seen and, when there is just one, that one.
//!
//! Two things are known without being shown, and `may` gains them:
//!
//! - A value that was written with a time to live, once it may have expired.
//! - What a delete, or such a value, had seen, once the nodes noted that they forgot the key: a tombstone that nothing needs any more is
//!   not even known ([`Evidence::forgotten`]). Before that note nothing is excused by it. `must` needs no care: what was
//!   forgotten must not come back.
//!
//! Cost: one pass over the events of a key in order of time, each a few unions of bit sets.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use super::pruning;
use crate::history::{
    Disturbance, Endpoint, Evidence, Fault, Got, HintDeed, History, KeyIndex, Kind, NodeIndex,
    OpId, Operation, Outcome,
};
use crate::history::{Rules, ValueId};

/// What a reader can tell apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Item {
    /// These bytes.
    Value(ValueId),
    /// Deleted; by which delete, nobody sees.
    Deleted,
}

/// A set of a key's attempts that is known up to two bounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Surely in the set.
    pub(super) must: Bits,
    /// Everything that can be in the set.
    pub(super) may: Bits,
}

/// A write request that was not refused.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) op: &'a Operation,
    pub(super) item: Item,
    /// What its request's token covered.
    pub(super) seen: Known,
    /// It was acked, and the ack holds for good (see [`Rules::sync_always`]).
    pub(super) acked: bool,
    /// Home replicas that acked it and did not forget it; 0 when not acked.
    pub(super) home_acks: u8,
    /// Home replicas that have it once hints are delivered: a fallback's ack is for one that did not ack itself.
    pub(super) copies: u8,
    /// From when on some replica may take it for news though what it holds has replaced it, since it no longer
    /// knows the actor; `None`: none ever does.
    pub(super) pruned_ns: Option<u64>,
}

/// An answered GET.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) op: &'a Operation,
    pub(super) got: &'a Got,
    /// What it showed, each item once.
    pub(super) items: Vec<Item>,
    /// Attempts that began before it ended: the first so many.
    pub(super) horizon: usize,
    /// What its token covers.
    pub(super) token: Known,
}

/// A write that was refused because the key has too many siblings.
#[derive(Debug)]
pub(super) struct Crowded<'a> {
    pub(super) op: &'a Operation,
    /// What its request's token covered.
    pub(super) seen: Known,
    /// Attempts that began before it ended: the first so many.
    pub(super) horizon: usize,
}

/// All that can be known of one key.
#[derive(Debug)]
pub(super) struct KeyView<'a> {
    pub(super) key: KeyIndex,
    /// Of concurrent values the last one wins.
    pub(super) last_write: bool,
    /// In order of their start.
    pub(super) attempts: Vec<Attempt<'a>>,
    /// In order of their end.
    pub(super) readings: Vec<Reading<'a>>,
    /// In order of their end.
    pub(super) crowded: Vec<Crowded<'a>>,
    /// The reading after healing, an index into `readings`.
    pub(super) last: Option<usize>,
    /// Attempts that may be known without being shown, with the time from which on that is so.
    hidden: Vec<(u64, usize)>,
    by_item: BTreeMap<Item, Vec<usize>>,
    by_op: BTreeMap<OpId, Place>,
}

/// Where an operation ended up in a [`KeyView`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Attempt(usize),
    Reading(usize),
    Crowded(usize),
}

impl<'a> KeyView<'a> {
    /// Works through the operations of `key`. The history must be well formed.
    pub(super) fn new(evidence: &'a Evidence, key: KeyIndex, ops: &[&'a Operation]) -> Self {
        let mut view = KeyView {
            key,
            last_write: evidence.history.keys.get(key.0 as usize).is_some_and(|k| k.last_write),
            attempts: Vec::new(),
            readings: Vec::new(),
            crowded: Vec::new(),
            last: None,
            hidden: Vec::new(),
            by_item: BTreeMap::new(),
            by_op: BTreeMap::new(),
        };
        for event in events(&evidence.history, ops) {
            match event {
                Event::Begins(op, item) => view.begin(evidence, op, item),
                Event::Answered(op, got) => view.answer(op, got),
                Event::Refused(op) => view.refuse(op),
            }
        }
        let last = evidence.finals.iter().find(|f| f.key == key).map(|f| f.read);
        view.last = last.and_then(|read| match view.by_op.get(&read) {
            Some(Place::Reading(at)) => Some(*at),
            Some(Place::Attempt(_) | Place::Crowded(_)) | None => None,
        });
        view
    }

    /// True when the attempt number `at` may be shown again at `at_ns` for the sake of pruning, whatever has replaced it.
    pub(super) fn is_pruned(&self, at: usize, at_ns: u64) -> bool {
        self.attempts[at].pruned_ns.is_some_and(|from_ns| from_ns <= at_ns)
    }

    /// The attempts that can stand behind `item` in a reply with this horizon.
    pub(super) fn candidates(&self, item: Item, horizon: usize) -> &[usize] {
        let all = self.by_item.get(&item).map_or(&[][..], Vec::as_slice);
        &all[..all.partition_point(|&at| at < horizon)]
    }

    /// What each of `candidates` must have seen: whichever was shown, this was superseded.
    pub(super) fn seen_by_all(&self, candidates: &[usize]) -> Bits {
        let mut each = candidates.iter().map(|&at| &self.attempts[at].seen.must);
        let mut common = each.next().cloned().unwrap_or_default();
        each.for_each(|seen| common.keep(seen));
        common
    }

    /// Who may stand behind `items`, for stories: a few are enough.
    pub(super) fn writers(&self, items: &[Item], horizon: usize) -> impl Iterator<Item = OpId> {
        let of = move |&item| self.candidates(item, horizon).iter().take(2);
        items.iter().flat_map(of).take(6).map(|&at| self.attempts[at].op.id)
    }

    fn begin(&mut self, evidence: &Evidence, op: &'a Operation, item: Item) {
        let at = self.attempts.len();
        let seen = op.context_from.map_or_else(Known::default, |from| self.token(from));
        let (acked, home_acks, copies) = match op.outcome {
            Outcome::Acked { received, hinted, .. } => {
                let lost = damaged(evidence, op);
                let (undone, forgotten) = rolled_back(evidence, op, hinted);
                let home_acks = received.saturating_sub(hinted);
                let undone = undone.saturating_add(lost).saturating_add(forgotten);
                let expired = hinted > 0 && expired_since(evidence, op);
                let copies = if expired { home_acks } else { received };
                let copies = copies.saturating_sub(undone);
                let home_acks = home_acks.saturating_sub(forgotten);
                (copies > 0 && !at_risk(evidence, op), home_acks, copies)
            }
            Outcome::Got(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => (false, 0, 0),
        };
        let pruned_ns = pruning::from_ns(evidence, op);
        self.attempts.push(Attempt { op, item, seen, acked, home_acks, copies, pruned_ns });
        self.by_item.entry(item).or_default().push(at);
        self.hidden.extend(hidden_from(evidence, op, item).map(|from_ns| (from_ns, at)));
        if op.asked.ttl_ns.is_some() {
            // A key whose values have all expired is shown like one that was deleted.
            self.by_item.entry(Item::Deleted).or_default().push(at);
        }
        self.by_op.insert(op.id, Place::Attempt(at));
    }

    fn answer(&mut self, op: &'a Operation, got: &'a Got) {
        let horizon = self.attempts.len();
        let mut items = items(got);
        // A key that a listing passes over is deleted, or nothing is known of it.
        if got.passed_over && !self.candidates(Item::Deleted, horizon).is_empty() {
            items.push(Item::Deleted);
        }
        let token = self.knows(&items, horizon, op.end_ns);
        self.by_op.insert(op.id, Place::Reading(self.readings.len()));
        self.readings.push(Reading { op, got, items, horizon, token });
    }

    fn refuse(&mut self, op: &'a Operation) {
        let seen = op.context_from.map_or_else(Known::default, |from| self.token(from));
        self.by_op.insert(op.id, Place::Crowded(self.crowded.len()));
        self.crowded.push(Crowded { op, seen, horizon: self.attempts.len() });
    }

    /// What a home replica knows that shows this after every request.
    pub(super) fn known_by(&self, got: &Got) -> Known {
        self.knows(&items(got), self.attempts.len(), u64::MAX)
    }

    fn knows(&self, items: &[Item], horizon: usize, at_ns: u64) -> Known {
        let mut token = Known::default();
        for &item in items {
            let candidates = self.candidates(item, horizon);
            token.must.add(&self.seen_by_all(candidates));
            if let &[only] = candidates {
                token.must.insert(only);
            }
            for &at in candidates {
                token.may.insert(at);
                token.may.add(&self.attempts[at].seen.may);
            }
        }
        let hidden = self.hidden.iter().filter(|(from_ns, at)| *from_ns <= at_ns && *at < horizon);
        let mut shows = !items.is_empty();
        for &(_, at) in hidden {
            token.may.insert(at);
            token.may.add(&self.attempts[at].seen.may);
            shows = true;
        }
        // What stays, or stayed until it was forgotten, may have won over any other.
        if self.last_write && shows {
            (0..horizon).for_each(|at| token.may.insert(at));
        }
        token
    }

    /// What the token that `op` returned covers.
    fn token(&self, op: OpId) -> Known {
        match self.by_op.get(&op) {
            Some(&Place::Reading(at)) => self.readings[at].token.clone(),
            Some(&Place::Attempt(at)) => {
                let mut known = self.attempts[at].seen.clone();
                known.must.insert(at);
                known.may.insert(at);
                if self.last_write {
                    (0..self.attempts.len()).for_each(|at| known.may.insert(at));
                }
                known
            }
            Some(&Place::Crowded(at)) => {
                let mut known = Known::default();
                (0..self.crowded[at].horizon).for_each(|attempt| known.may.insert(attempt));
                known
            }
            None => Known::default(),
        }
    }
}

/// What a reply shows, each item once. A 404 with a token shows that the key is deleted.
fn items(got: &Got) -> Vec<Item> {
    let mut items: Vec<Item> = got.values.iter().map(|&v| Item::Value(v)).collect();
    if got.deleted_shown || (got.values.is_empty() && got.strange.is_empty() && got.context) {
        items.push(Item::Deleted);
    }
    items.sort_unstable();
    items.dedup();
    items
}

/// By so much the clocks of machines may differ that were never wrong: they drift by less than a thousandth.
pub(super) const CLOCK_SKEW_NS: u64 = 100_000_000;

/// True when the clock of some machine was wrong at some time.
pub(super) fn has_wrong_clock(evidence: &Evidence) -> bool {
    evidence.disturbances.iter().any(|d| matches!(d.fault, Fault::ClockWrong(_)))
}

/// From when on a write may be known and not shown, without being superseded; `None`: never.
fn hidden_from(evidence: &Evidence, op: &Operation, item: Item) -> Option<u64> {
    let expires_ns = op.asked.ttl_ns.map(|ttl_ns| match has_wrong_clock(evidence) {
        true => op.start_ns,
        false => (op.start_ns + ttl_ns).saturating_sub(CLOCK_SKEW_NS),
    });
    let notes = evidence.forgotten.iter().filter(|(key, at)| *key == op.key && *at >= op.start_ns);
    let forgotten_ns = notes.map(|(_, at)| *at).min().filter(|_| item == Item::Deleted);
    expires_ns.or(forgotten_ns)
}

/// Under `sync: interval`, acks may run ahead of the log: a power loss soon after an ack may undo it, and so
/// may the end of the process, since the write need not have been handed to the system, or a disk in trouble (a failed fsync drops what was not written yet, a slow one is further behind).
/// Such a write is treated like one that was never answered.
fn at_risk(evidence: &Evidence, op: &Operation) -> bool {
    let Rules { sync_always, sync_lag_ns, .. } = evidence.rules;
    let synced_ns = op.end_ns.saturating_add(sync_lag_ns);
    let undoes = |d: &Disturbance| match d.fault {
        Fault::PowerLoss(_) | Fault::Down(_) => (op.start_ns..=synced_ns).contains(&d.start_ns),
        Fault::DiskTrouble(_) => d.start_ns <= synced_ns && d.end_ns >= op.start_ns,
        Fault::Paused(_)
        | Fault::Isolated(_)
        | Fault::RolledBack(_)
        | Fault::Forgotten(_)
        | Fault::Damaged(_)
        | Fault::ClockWrong(_)
        | Fault::LinkCut { .. }
        | Fault::LinkBad { .. }
        | Fault::LinkRough { .. }
        | Fault::DatagramsRough { .. } => false,
    };
    !sync_always && evidence.disturbances.iter().any(undoes)
}

/// How many of its acks a disk that was rolled back, or forgot something, may have undone: one each time, since a node acks
/// a write once, for itself or for another. What was acked before the copy was taken is in the copy, unless a
/// fallback held it, which may have handed it over since. Reads know of the first kind all the same: the node answers none
/// with what it has until it has heard from the others.
fn rolled_back(evidence: &Evidence, op: &Operation, hinted: u8) -> (u8, u8) {
    let acked_ns = op.end_ns.saturating_add(evidence.rules.sync_lag_ns);
    let late = |d: &&Disturbance| d.end_ns >= op.start_ns && (hinted > 0 || d.start_ns <= acked_ns);
    let count = |of: fn(Fault) -> bool| {
        let undoes = evidence.disturbances.iter().filter(late).filter(|d| of(d.fault));
        u8::try_from(undoes.count()).unwrap_or(u8::MAX)
    };
    let (rolled_back, forgotten) = (
        |fault| matches!(fault, Fault::RolledBack(_)),
        |fault| matches!(fault, Fault::Forgotten(_)),
    );
    (count(rolled_back), count(forgotten))
}

/// How many of its acks damage may have undone: one each time. Reads know it all the same, since the damaged
/// replica's answers count for no R until it has heard from the others. Damage that is older undoes one where the node noted, when it
/// met it, that it had no room for what it had been written since.
fn damaged(evidence: &Evidence, op: &Operation) -> u8 {
    let since = |d: &Disturbance| d.start_ns >= op.start_ns;
    let of = |d: &Disturbance| {
        if let Fault::Damaged(Endpoint::Node(node)) = d.fault { Some(node) } else { None }
    };
    let felt = || evidence.disturbances.iter().filter(|d| since(d)).filter_map(of);
    let notes = evidence.unsalvaged.iter().filter(|note| note.0 == op.key && note.2 >= op.start_ns);
    let unsalvaged: BTreeSet<NodeIndex> = notes.map(|note| note.1).collect();
    let older = unsalvaged.iter().filter(|node| !felt().any(|other| other == **node));
    u8::try_from(felt().count() + older.count()).unwrap_or(u8::MAX)
}

/// Hints of its key expired after it began: what fallbacks held of it may have been too old.
fn expired_since(evidence: &Evidence, op: &Operation) -> bool {
    // Keys that share a tag share a token, and are told by one of them.
    let tag = |key: KeyIndex| {
        let name = evidence.history.keys.get(key.0 as usize).map_or("", |info| info.name.as_str());
        name.split_once('}').map_or(name, |(tag, _)| tag)
    };
    let steps = evidence.hints.iter().flat_map(|hints| &hints.steps);
    let mut late = steps.filter(|s| s.what == HintDeed::Expired && s.at_ns >= op.start_ns);
    late.any(|step| tag(step.key) == tag(op.key))
}

enum Event<'a> {
    Begins(&'a Operation, Item),
    Answered(&'a Operation, &'a Got),
    /// For too many siblings.
    Refused(&'a Operation),
}

/// The starts of attempts and the ends of answered reads and of refusals that carry a token, in order of time. At one instant: starts come
/// first, since a reply that ends then may show them; but a start whose token came at that very
/// instant must come after its source.
fn events<'a>(history: &History, ops: &[&'a Operation]) -> Vec<Event<'a>> {
    let mut events = Vec::with_capacity(ops.len());
    for &op in ops {
        let source = op.context_from.and_then(|from| history.ops.get(from.0 as usize));
        let turn = if source.is_some_and(|s| s.end_ns >= op.start_ns) { 2 } else { 0 };
        match (&op.kind, &op.outcome) {
            (Kind::Put { .. } | Kind::Delete, Outcome::Refused { status: Some(409) }) => {
                events.push((op.end_ns, 1, op.id, Event::Refused(op)));
            }
            (_, Outcome::Refused { .. }) | (Kind::Get, Outcome::Unknown { .. }) => {}
            (_, Outcome::Got(got)) => {
                events.push((op.end_ns, 1, op.id, Event::Answered(op, got)));
            }
            (Kind::Get, Outcome::Acked { .. }) => {}
            (Kind::Put { value }, Outcome::Acked { .. } | Outcome::Unknown { .. }) => {
                let begins = Event::Begins(op, Item::Value(*value));
                events.push((op.start_ns, turn, op.id, begins));
            }
            (Kind::Delete, Outcome::Acked { .. } | Outcome::Unknown { .. }) => {
                events.push((op.start_ns, turn, op.id, Event::Begins(op, Item::Deleted)));
            }
        }
    }
    events.sort_by_key(|&(time, turn, id, _)| (time, turn, id));
    events.into_iter().map(|(_, _, _, event)| event).collect()
}
