//! Clients' writes: each takes a dot that was never used, and puts what it writes under it.

use std::sync::Arc;

use super::{Intent, Minted, Replica, ReplicaError, lock, now_s};
use crate::domain::causality::{Actor, CausalContext, Dot};
use crate::domain::key::Key;
use crate::domain::mint::{EpochsExhausted, Minter};
use crate::domain::object::{Object, Sibling, lww};
use crate::domain::policy::Policy;
use crate::runtime::{event, time};
use crate::storage::{Known, ReserveError};

/// Reserve the next block of epochs when so few are left.
const EPOCHS_LOW: u64 = 1 << 16;

/// What a write is minted on.
#[derive(Clone, Copy)]
struct Ground<'a> {
    /// All that is held of the key.
    state: Option<&'a Object>,
    /// Damage may have taken of it.
    doubtful: bool,
    /// No actor of an earlier epoch is gone on with.
    since: u64,
}

/// Where nothing is held, or nothing counts.
const BARE: Ground<'static> = Ground { state: None, doubtful: false, since: 0 };

impl Replica {
    /// Mints a dot for `intent` and logs the result. Only a home replica of the key may do this.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing was minted.
    pub async fn write(&self, key: &Key, intent: &Intent) -> Result<Minted, ReplicaError> {
        self.when_there_is_room(|| self.write_once(key, intent)).await
    }

    async fn write_once(&self, key: &Key, intent: &Intent) -> Result<Minted, ReplicaError> {
        self.keep_epochs_reserved().await?;
        let since = self.lock(key).await;
        let Known { object: state, doubtful } = self.engine.known(key).await?;
        self.check_siblings(state.as_deref(), &intent.seen)?;
        let ground = Ground { state: state.as_deref(), doubtful, since: *since };
        let (dot, object, context) = self.write_on(key, ground, intent).await?;
        let fresh = doubtful.then(|| alone(&object, dot, &intent.seen));
        let told = fresh.clone().unwrap_or_else(|| object.clone());
        let (before, recent_at) = (state.as_deref(), Some(time::now()));
        let ticket = self.trees.put(&self.engine, key, before, &object, recent_at, fresh)?;
        event::note("minted_under", key.token().0, dot.actor.word());
        event::note("dot_minted", key.token().0, dot.counter);
        Ok(Minted { object: told, context, ticket })
    }

    /// As a fallback that coordinates: mints a dot for `intent` on nothing, always with a fresh actor,
    /// and keeps the result as a hint for `owner`.
    ///
    /// # Errors
    /// [`ReplicaError`]; nothing was minted that anybody may have seen.
    pub async fn write_hinted(
        &self,
        key: &Key,
        intent: &Intent,
        owner: &str,
    ) -> Result<Minted, ReplicaError> {
        self.keep_epochs_reserved().await?;
        self.check_siblings(self.hinted(key).as_deref(), &intent.seen)?;
        let (dot, object, context) = self.write_on(key, BARE, intent).await?;
        let ticket = self.store_hint(owner, key, object.clone())?;
        event::note("minted_under", key.token().0, dot.actor.word());
        event::note("dot_minted", key.token().0, dot.counter);
        Ok(Minted { object, context, ticket })
    }

    /// Mints a dot, and writes `intent` on a copy of what it is minted on. Nothing is logged yet: the caller
    /// does so without another await, or the dot is lost (never used twice). Returns the dot, the object
    /// with the write in it, and the context for the client.
    async fn write_on(
        &self,
        key: &Key,
        ground: Ground<'_>,
        intent: &Intent,
    ) -> Result<(Dot, Arc<Object>, CausalContext), ReplicaError> {
        let policy = self.rules.policies.of(key.bucket());
        let now_ms = time::wall_clock_ms();
        let seen = lww::Seen { context: &intent.seen, newest_ms: intent.newest_ms };
        if policy == Policy::LastWrite {
            lww::check(ground.state, seen, now_ms, self.rules.skew_max_ms)?;
        }
        let dot = loop {
            match self.mint(ground, &intent.seen) {
                Ok(dot) => break dot,
                // The block ran out since it was last looked at.
                Err(EpochsExhausted) => self.reserve().await?,
            }
        };
        let sibling = Sibling {
            dot,
            content: intent.content.clone(),
            written_at_ms: match policy {
                Policy::Siblings => now_ms,
                Policy::LastWrite => lww::stamp(ground.state, seen, now_ms, dot),
            },
            expires_at_ms: intent.expires_at_ms,
        };
        let mut object = ground.state.cloned().unwrap_or_default();
        let mut context = object.write_under(policy, &intent.seen, sibling);
        let mut object = Arc::new(object);
        if self.prune(key, &mut object) && object.siblings().len() == 1 {
            context = object.context().clone();
        }
        Ok((dot, object, context))
    }

    fn check_siblings(
        &self,
        state: Option<&Object>,
        seen: &CausalContext,
    ) -> Result<(), ReplicaError> {
        let Some(object) = state else { return Ok(()) };
        let kept = object.siblings().iter().filter(|s| !seen.contains(s.dot)).count();
        if kept < self.rules.siblings_max {
            return Ok(());
        }
        event::note("too_many_siblings", 0, kept as u64);
        Err(ReplicaError::TooManySiblings {
            siblings: object.siblings().len(),
            limit: self.rules.siblings_max,
            context: object.context().clone(),
        })
    }

    /// Mints one dot. After a failure of the log, this process's older actors are retired first: a
    /// dot of theirs may have been sent without being durable here. On a state that is in doubt only
    /// actors go on that are younger than the last damage: it may have taken any dot of the others. Once something
    /// left doubt these are retired for good: other home replicas were heard, but a fallback may hold a dot as a hint.
    fn mint(&self, ground: Ground<'_>, seen: &CausalContext) -> Result<Dot, EpochsExhausted> {
        let mut minter = self.minter();
        let mut since = ground.since;
        if ground.doubtful {
            event::note("minted_in_doubt", 0, self.engine.damages());
            since = since.max(minter.doubted_before());
        }
        minter.mint_since(since, ground.state, seen)
    }

    /// To be called when the key under the lock that holds `since` has `after`, not minted here, in the place of `before`. What it knows
    /// of this node's own dots, and what was there did not, comes from a client or a replica that remembers what was forgotten
    /// here: it may be less than what was minted, so those actors are not gone on with, under any key of this lock.
    pub(super) fn learn(
        &self,
        key: &Key,
        since: &mut u64,
        before: Option<&Object>,
        after: &Object,
    ) {
        let minter = lock(&self.minter);
        if minter.is_news_of_itself(before, after) {
            *since = minter.next_epoch();
            event::note("own_actor_learned", key.token().0, *since);
        }
    }

    /// The minter, which knows of all failures, damage and trust so far.
    fn minter(&self) -> std::sync::MutexGuard<'_, Minter> {
        let mut minter = lock(&self.minter);
        minter.at(now_s());
        let failures = self.engine.failures();
        let mut known = lock(&self.failures_seen);
        if *known != failures {
            *known = failures;
            minter.retire();
            event::note("actor_retired", 0, failures);
        }
        let damages = self.engine.damages();
        let mut known = lock(&self.damages_seen);
        if *known != damages {
            *known = damages;
            minter.doubt();
        }
        let trusts = self.engine.trusts();
        let mut known = lock(&self.trusts_seen);
        if *known != trusts {
            *known = trusts;
            minter.retire_doubted();
        }
        minter
    }

    async fn keep_epochs_reserved(&self) -> Result<(), ReplicaError> {
        if lock(&self.minter).left() < EPOCHS_LOW {
            self.reserve().await?;
        }
        Ok(())
    }

    async fn reserve(&self) -> Result<(), ReserveError> {
        let _one_at_a_time = self.reserving.lock().await;
        if lock(&self.minter).left() >= EPOCHS_LOW {
            return Ok(());
        }
        let block = self.engine.reserve_epochs(Actor::epoch_at(now_s())).await?;
        lock(&self.minter).extend(block.through);
        Ok(())
    }
}

/// The write `dot` of `object` by itself: what a copy in doubt held before is not for others to hear of.
fn alone(object: &Object, dot: Dot, seen: &CausalContext) -> Arc<Object> {
    let mut alone = Object::new();
    if let Some(sibling) = object.sibling(dot) {
        alone.write(seen, sibling.clone());
    }
    Arc::new(alone)
}
