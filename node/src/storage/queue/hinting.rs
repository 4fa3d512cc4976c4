//! Hints in the shared state: each change goes into memory and into the log in one step, under the
//! same lock as the data.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Shared, State, Ticket, record_bytes_max};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::event;
use crate::storage::Options;
use crate::storage::doubt::TokenRange;
use crate::storage::error::WriteError;
use crate::storage::hints::{Hint, HintStats, ITSELF, Position};
use crate::storage::log::record::{RECORD_OVERHEAD_BYTES, Record};

/// Hints that one hold of the lock copies or forgets at most.
const HINT_STEP: usize = 256;

/// Bytes of hints that one hold of the lock logs again, about.
const CARRY_STEP_BYTES: usize = 128 << 10;

/// A hint as it is to become.
struct Grown<'a> {
    owner: &'a str,
    key: &'a Key,
    object: Arc<Object>,
    since_ms: u64,
}

impl Grown<'_> {
    /// Bytes that its record takes, at most.
    fn bytes_max(&self) -> usize {
        self.owner.len() + record_bytes_max(self.key, &self.object)
    }
}

impl State {
    /// What is kept for `owner` under `key` with `object` merged into it; `None`: that is in it already.
    fn grown<'a>(
        &self,
        owner: &'a str,
        key: &'a Key,
        object: Arc<Object>,
        now_ms: u64,
    ) -> Option<Grown<'a>> {
        let Some(held) = self.hints.get(owner, key) else {
            return Some(Grown { owner, key, object, since_ms: now_ms });
        };
        let mut merged = Object::clone(&held.object);
        // The age never goes back with a clock that was set back.
        let since_ms = held.since_ms.max(now_ms);
        merged.merge(&object).then(|| Grown { owner, key, object: Arc::new(merged), since_ms })
    }

    /// # Errors
    /// [`WriteError::HintsFull`], [`WriteError::FreshFull`].
    fn hint_fits(&self, hint: &Grown<'_>, options: &Options) -> Result<(), WriteError> {
        let (bytes, limit) = (self.hints.bytes_beside(hint.owner), options.hint_bytes_max);
        if self.hints.bytes_with(hint.owner, hint.key, &hint.object) > limit.max(bytes) {
            let itself = hint.owner == ITSELF;
            let refused = if itself {
                WriteError::FreshFull { bytes, limit }
            } else {
                WriteError::HintsFull { bytes, limit }
            };
            return Err(refused);
        }
        Ok(())
    }

    /// Appends the hint to the open batch and puts it in the place of what was there. True when the writer must hear of it.
    fn hint(&mut self, hint: Grown<'_>, options: &Options) -> bool {
        let bytes_max = hint.bytes_max();
        let Grown { owner, key, object, since_ms } = hint;
        let push = |out: &mut BytesMut| Record::encode_hint(owner, key, &object, since_ms, out);
        let ring = self.push(bytes_max, true, options, push);
        let batch = self.open.number;
        self.hints.insert(owner, key, object, since_ms, batch);
        ring
    }
}

impl Shared {
    /// Merges `object` into what is kept for `owner` under `key`, or changes nothing.
    pub(in crate::storage) fn put_hint(
        self: &Arc<Self>,
        owner: &str,
        key: &Key,
        object: Arc<Object>,
        now_ms: u64,
    ) -> Result<Ticket, WriteError> {
        let mut state = self.state();
        let Some(hint) = state.grown(owner, key, object, now_ms) else {
            if state.closing {
                return Err(WriteError::Closed);
            }
            let batch = state.awaited_through();
            drop(state);
            return Ok(Ticket { shared: self.clone(), batch });
        };
        state.admit(&[hint.bytes_max()], &self.options)?;
        state.hint_fits(&hint, &self.options)?;
        if state.shorten_log(&self.options) {
            self.graveyard.bell.notify_one();
        }
        let ring = state.hint(hint, &self.options);
        Ok(self.pushed(state, ring))
    }

    /// Puts `object` under `key`, and merges `fresh` into what is kept of it [for this copy itself](ITSELF): both, or nothing changes. A
    /// dot that is kept there and not in the copy would be minted again. `fresh` comes first in the log.
    pub(in crate::storage) fn put_fresh(
        self: &Arc<Self>,
        key: &Key,
        object: &Object,
        fresh: Arc<Object>,
        now_ms: u64,
    ) -> Result<Ticket, WriteError> {
        let mut state = self.state();
        let hint = state.grown(ITSELF, key, fresh, now_ms);
        let hint_bytes = hint.as_ref().map_or(0, Grown::bytes_max);
        state.admit(&[hint_bytes, record_bytes_max(key, object)], &self.options)?;
        if let Some(hint) = &hint
            && let Err(refused) = state.hint_fits(hint, &self.options)
        {
            state.stats.fresh_refused += 1;
            return Err(refused);
        }
        if state.make_room(key, object, &self.options)? {
            self.graveyard.bell.notify_one();
        }
        let hinted = hint.is_some_and(|hint| state.hint(hint, &self.options));
        let put = state.put(key, object, true, &self.options);
        Ok(self.pushed(state, hinted || put))
    }

    /// Forgets the hint if its object still has `digest`; true when it did.
    pub(in crate::storage) fn remove_hint(
        &self,
        owner: &str,
        key: &Key,
        digest: u64,
    ) -> Result<bool, WriteError> {
        let mut state = self.state();
        let (removed, ring) = self.end_hint(&mut state, owner, key, digest)?;
        drop(state);
        if ring {
            self.work.notify_one();
        }
        Ok(removed)
    }

    /// Forgets the hints for other members that are older than `older_than_ms`, or all hints; how many.
    pub(in crate::storage) fn expire_hints(&self, older_than_ms: Option<u64>) -> u64 {
        let mut expired = 0;
        loop {
            let mut state = self.state();
            let stale = state.hints.stale(older_than_ms, HINT_STEP);
            let mut rings = false;
            let mut ended = 0;
            for (owner, Hint { key, object, .. }) in &stale {
                let end = self.end_hint(&mut state, owner, key, object.digest());
                let Ok((true, ring)) = end else { break };
                event::note("hint_expired", key.token().0, name_token(owner));
                ended += 1;
                rings |= ring;
            }
            drop(state);
            if rings {
                self.work.notify_one();
            }
            expired += ended as u64;
            // Fewer than asked for: there are no more, or the log takes no more now.
            if ended < HINT_STEP {
                return expired;
            }
        }
    }

    /// Forgets a hint; whether it was the one, and whether the writer must hear of it.
    ///
    /// # Errors
    /// [`WriteError`]: the log cannot note the end now, so the hint is kept. Else others would take its room, and a
    /// restart, which brings it back, would find more than there may be.
    fn end_hint(
        &self,
        state: &mut State,
        owner: &str,
        key: &Key,
        digest: u64,
    ) -> Result<(bool, bool), WriteError> {
        let bytes_max = RECORD_OVERHEAD_BYTES + owner.len() + key.size_bytes();
        state.admit(&[bytes_max], &self.options)?;
        if !state.hints.remove(owner, key, digest) {
            return Ok((false, false));
        }
        let push = |out: &mut BytesMut| Record::encode_hint_done(owner, key, digest, out);
        Ok((true, state.push(bytes_max, false, &self.options, push)))
    }

    /// Hints of `owner` behind `after`, until they weigh `limit_bytes`; one at least, if there is one.
    pub(in crate::storage) fn hints_of(
        &self,
        owner: &str,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Vec<Hint> {
        self.state().hints.page(owner, after, limit_bytes as u64, HINT_STEP)
    }

    pub(in crate::storage) fn hint(&self, owner: &str, key: &Key) -> Option<Hint> {
        self.state().hints.get(owner, key)
    }

    /// Which of `ranges` hold the key of a hint.
    pub(in crate::storage) fn hinted_ranges(&self, ranges: &[TokenRange]) -> Vec<bool> {
        let state = self.state();
        let holds = |range: &TokenRange| state.hints.holds(range.first, range.last);
        ranges.iter().map(holds).collect()
    }

    pub(in crate::storage) fn hinted(&self, key: &Key) -> Option<Arc<Object>> {
        self.state().hints.merged(key)
    }

    pub(in crate::storage) fn hint_owners(&self) -> Vec<HintStats> {
        let mut stats = self.state().hints.stats();
        stats.retain(|stats| &*stats.owner != ITSELF);
        stats
    }
}

/// Hints in a log that loses its front.
impl Shared {
    /// The lowest and the highest batch of the log that holds a hint, durable or not, among some of
    /// the hints behind `after`; and where to go on (`None`: these were the last). Batches only rise, so
    /// the lowest of all such answers is never too high.
    pub(in crate::storage) fn hinting_batches(
        &self,
        after: Option<&Position>,
    ) -> ((u64, u64), Option<Position>) {
        let some = self.state().hints.walk(after, HINT_STEP);
        let oldest = some.iter().map(|(_, batch)| *batch).min().unwrap_or(u64::MAX);
        let newest = some.iter().map(|(_, batch)| *batch).max().unwrap_or(0);
        let more = some.len() == HINT_STEP;
        ((oldest, newest), some.into_iter().next_back().map(|(last, _)| last).filter(|_| more))
    }

    /// Logs some of the hints behind `after` again that a batch below `below` holds, so that the log
    /// may lose it; and where to go on (`None`: these were the last).
    ///
    /// # Errors
    /// [`WriteError`]: not now; those that were carried are.
    pub(in crate::storage) fn carry_hints(
        &self,
        after: Option<&Position>,
        below: u64,
    ) -> Result<Option<Position>, WriteError> {
        let mut state = self.state();
        let some = state.hints.walk(after, HINT_STEP);
        let more = some.len() == HINT_STEP;
        let (mut ring, mut last, mut bytes) = (false, None, 0);
        for (position, batch) in some {
            if bytes > CARRY_STEP_BYTES {
                break;
            }
            let (owner, key) = &position;
            if batch < below
                && let Some(Hint { object, since_ms, .. }) = state.hints.get(owner, key)
            {
                let bytes_max = owner.len() + record_bytes_max(key, &object);
                state.admit(&[bytes_max], &self.options)?;
                let push =
                    |out: &mut BytesMut| Record::encode_hint(owner, key, &object, since_ms, out);
                ring |= state.push(bytes_max, false, &self.options, push);
                let batch = state.open.number;
                state.hints.carried(&position, batch);
                bytes += bytes_max;
            }
            last = Some(position);
        }
        drop(state);
        if ring {
            self.work.notify_one();
        }
        Ok(last.filter(|_| more || bytes > CARRY_STEP_BYTES))
    }
}

/// How events name a member.
fn name_token(name: &str) -> u64 {
    crate::domain::key::murmur3(name.as_bytes()).0
}
