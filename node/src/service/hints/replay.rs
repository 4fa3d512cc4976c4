//! The one task that replays hints: chooses owners, sends what their pacers allow, forgets what was
//! acked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rand::RngCore;

use super::{Home, Options, Owners, Progress, Shared, owner_token};
use crate::domain::hint::{Courtesy, Pacer, Sent, is_crowded};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::rpc::{Call, CallError, Peer};
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, rng};
use crate::service::metrics::{KINDS, Metrics};
use crate::service::replica::{Replica, ReplicaError};
use crate::storage::{Hint, WriteError};

/// After a look at everything, news waits so long for more of its kind.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// Hints are read from the engine in pages of about so many bytes.
const PAGE_BYTES: usize = 64 << 10;
/// Client latencies that differ by less do not differ.
const COURTESY_NOISE: Duration = Duration::from_micros(500);

/// See the module.
pub(super) struct Replay {
    shared: Arc<Shared>,
    owners: Arc<dyn Owners>,
    metrics: Arc<Metrics>,
    options: Options,
    sessions: BTreeMap<Arc<str>, Session>,
    /// The owner whose turn came last.
    last_turn: Option<Arc<str>>,
    courtesy: [Courtesy; KINDS],
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
    flying_bytes: usize,
    request_ids: rng::Rng,
    checked_at: Instant,
    /// Something may have changed since then.
    news: bool,
}

/// What goes on with one owner.
struct Session {
    route: Route,
    pacer: Pacer,
    /// Its turn has come.
    active: bool,
    /// A page of its hints, from before `after`.
    page: VecDeque<Hint>,
    after: Option<Key>,
    flying: BTreeSet<Key>,
    /// Since when it is not in the ring.
    absent_since: Option<Instant>,
}

enum Route {
    /// Nowhere, for now.
    Waiting,
    /// To the owner.
    Owner(Peer),
    /// To the home replicas of each key.
    Homes,
}

/// A hint that came back from its way.
struct Landed {
    owner: Arc<str>,
    key: Key,
    digest: u64,
    bytes: usize,
    sent: Sent,
    re_resolved: bool,
    result: Result<(), DeliveryError>,
}

/// Why a hint is not known to be where it belongs. It is kept, and sent again.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the answer is to another question")]
    Strange,
    #[error("the ring has no home replica for the key")]
    Homeless,
    #[error(transparent)]
    Here(#[from] ReplicaError),
    #[error("this node's log did not make it durable in time")]
    Late,
}

impl Session {
    fn new(options: &Options) -> Self {
        Self {
            route: Route::Waiting,
            pacer: Pacer::new(options.pace),
            active: false,
            page: VecDeque::new(),
            after: None,
            flying: BTreeSet::new(),
            absent_since: None,
        }
    }

    fn state(&self, now: Instant) -> &'static str {
        match self.route {
            Route::Waiting => "waiting",
            Route::Owner(_) | Route::Homes if self.pacer.paused_until(now).is_some() => "paused",
            Route::Owner(_) if self.active => "replaying",
            Route::Homes if self.active => "re-resolving",
            Route::Owner(_) | Route::Homes => "queued",
        }
    }

    /// True when it could use a turn.
    fn is_ready(&self, now: Instant) -> bool {
        let leads_somewhere = match self.route {
            Route::Waiting => false,
            Route::Owner(_) | Route::Homes => true,
        };
        leads_somewhere && self.pacer.paused_until(now).is_none()
    }

    /// Gives its turn away. What is on its way goes on.
    fn rest(&mut self) {
        self.active = false;
        self.page.clear();
        self.after = None;
    }
}

impl Replay {
    pub(super) fn new(
        shared: Arc<Shared>,
        owners: Arc<dyn Owners>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        Self {
            shared,
            owners,
            metrics,
            options,
            sessions: BTreeMap::new(),
            last_turn: None,
            courtesy: std::array::from_fn(|_| Courtesy::new(COURTESY_NOISE)),
            flying: FuturesUnordered::new(),
            flying_bytes: 0,
            request_ids: rng::fork("handoff-request-id"),
            checked_at: time::now(),
            news: true,
        }
    }

    /// Replays until it is told to stop.
    pub(super) async fn run(mut self) {
        let owners = self.owners.clone();
        let shared = self.shared.clone();
        let mut changed = owners.changed();
        loop {
            let now = time::now();
            if now >= self.next_check() {
                self.check(now);
            }
            self.send_all(now);
            let wake_at = self.wake_at(now);
            tokio::select! {
                biased;
                () = shared.stop.notified() => return,
                Some(landed) = self.flying.next() => {
                    self.land(landed);
                    // Acks come many at once: one look at the owners is enough for all.
                    while let Some(Some(landed)) = self.flying.next().now_or_never() {
                        self.land(landed);
                    }
                }
                () = &mut changed => {
                    changed = owners.changed();
                    self.news = true;
                }
                () = shared.poke.notified() => self.news = true,
                () = time::sleep_until(wake_at) => {}
            }
        }
    }

    fn replica(&self) -> &Arc<Replica> {
        &self.shared.replica
    }

    fn next_check(&self) -> Instant {
        let wait = if self.news { NEWS_PAUSE } else { self.options.check_interval };
        self.checked_at + wait
    }

    /// When something is to be done that nobody tells of.
    fn wake_at(&self, now: Instant) -> Instant {
        let paused = self.sessions.values().filter_map(|session| session.pacer.paused_until(now));
        let active = self.sessions.values().filter(|session| session.active);
        let paced = active.filter_map(|session| session.pacer.paced_until(now));
        paused.chain(paced).chain([self.next_check()]).min().unwrap_or(now)
    }

    /// Drops what is too old, and looks at who has hints and where each owner is.
    fn check(&mut self, now: Instant) {
        (self.checked_at, self.news) = (now, false);
        self.expire();
        let kept = self.replica().engine().hint_owners();
        for stats in &kept {
            if !self.sessions.contains_key(&stats.owner) {
                self.sessions.insert(stats.owner.clone(), Session::new(&self.options));
            }
        }
        let has_hints: BTreeSet<&Arc<str>> = kept.iter().map(|stats| &stats.owner).collect();
        self.sessions
            .retain(|owner, session| has_hints.contains(owner) || !session.flying.is_empty());
        for (owner, session) in &mut self.sessions {
            session.route = if self.owners.is_member(owner) {
                session.absent_since = None;
                let route = self.owners.live_peer(owner).map_or(Route::Waiting, Route::Owner);
                let came_back =
                    matches!((&session.route, &route), (Route::Waiting, Route::Owner(_)));
                if let Some(stats) = kept.iter().find(|stats| came_back && stats.owner == *owner) {
                    let away_ms = time::wall_clock_ms().saturating_sub(stats.oldest_ms);
                    session.pacer.spread(stats.count, Duration::from_millis(away_ms));
                }
                route
            } else {
                let since = *session.absent_since.get_or_insert(now);
                let gone = now.since(since) >= self.options.absent_for;
                if gone { Route::Homes } else { Route::Waiting }
            };
        }
        self.publish(now);
    }

    fn expire(&self) {
        let max_age_ms = u64::try_from(self.options.max_age.as_millis()).unwrap_or(u64::MAX);
        let older_than_ms = time::wall_clock_ms().saturating_sub(max_age_ms);
        let expired = self.replica().engine().expire_hints(older_than_ms);
        if expired > 0 {
            self.metrics.hints_expired.add(expired);
            tracing::warn!(
                expired,
                max_age_ms,
                "dropped hints that were too old: anti-entropy brings their owners what they lack"
            );
        }
    }

    fn publish(&self, now: Instant) {
        let progress = self.sessions.iter().map(|(owner, session)| {
            (owner.clone(), Progress { state: session.state(now), pacer: session.pacer.clone() })
        });
        *self.shared.progress() = progress.collect();
    }

    /// Gives turns to owners, and sends what may be sent.
    fn send_all(&mut self, now: Instant) {
        let mut turns = 0;
        for session in self.sessions.values_mut() {
            if session.active && !session.is_ready(now) {
                session.rest();
            }
            turns += usize::from(session.active);
        }
        let active =
            |(owner, session): (&Arc<str>, &Session)| session.active.then(|| owner.clone());
        for owner in self.sessions.iter().filter_map(active).collect::<Vec<_>>() {
            turns -= usize::from(!self.send_to(&owner, now));
        }
        // Those behind the last one come first; each is tried once.
        let last = self.last_turn.clone();
        let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.sessions.range::<Arc<str>, _>((from, Bound::Unbounded));
        let behind = behind.map(|(owner, _)| owner.clone());
        let all = self.sessions.keys().cloned();
        let order: Vec<Arc<str>> = behind.chain(all).take(self.sessions.len()).collect();
        for owner in order {
            if turns >= self.options.owners_max {
                break;
            }
            let Some(session) = self.sessions.get_mut(&owner) else { continue };
            if session.active || !session.is_ready(now) {
                continue;
            }
            session.active = true;
            self.last_turn = Some(owner.clone());
            turns += usize::from(self.send_to(&owner, now));
        }
    }

    /// Sends what may be sent to an owner whose turn it is. False when there is nothing left to send
    /// or to wait for: then it has given its turn away.
    fn send_to(&mut self, owner: &Arc<str>, now: Instant) -> bool {
        loop {
            let Some(session) = self.sessions.get_mut(owner) else { return false };
            if !session.pacer.may_send(now) || !has_room(&self.options, self.flying_bytes) {
                return true;
            }
            let Some(hint) = next_hint(&self.shared.replica, owner, session) else {
                if session.flying.is_empty() {
                    session.rest();
                }
                return session.active;
            };
            let sent = session.pacer.sent(now);
            session.flying.insert(hint.key.clone());
            self.launch(owner, hint, sent, now);
        }
    }

    /// Puts a hint on its way.
    fn launch(&mut self, owner: &Arc<str>, hint: Hint, sent: Sent, now: Instant) {
        let homes = self.owners.homes(&hint.key);
        let is_owner = |home: &Home| match home {
            Home::Here => false,
            Home::Peer { name, .. } => name == owner,
        };
        let route = self.sessions.get(owner).map(|session| &session.route);
        let to_owner = match route {
            Some(Route::Owner(peer)) if homes.iter().any(is_owner) => Some(peer),
            Some(_) | None => None,
        };
        let head = RequestHead {
            request_id: self.request_ids.next_u64(),
            deadline: now + self.options.ack_timeout,
        };
        let Hint { key, object, .. } = hint;
        let request = Request::HandOver { key: key.clone(), object: object.clone() };
        let re_resolved = to_owner.is_none();
        let digest = object.digest();
        let bytes = key.size_bytes() + object.size_bytes();
        let calls: Vec<Call> = match to_owner {
            Some(peer) => vec![peer.call(head, &request)],
            None => homes.iter().filter_map(|home| home.call(head, &request)).collect(),
        };
        let here = re_resolved && homes.iter().any(|home| matches!(home, Home::Here));
        let here = here.then(|| (self.replica().clone(), object));
        let owner = owner.clone();
        self.flying_bytes += bytes;
        self.flying.push(Box::pin(async move {
            let result = deliver(calls, here, &key, head.deadline).await;
            Landed { owner, key, digest, bytes, sent, re_resolved, result }
        }));
    }

    /// Takes note of an answer, and forgets the hint if it is where it belongs.
    fn land(&mut self, landed: Landed) {
        let Landed { owner, key, digest, bytes, sent, re_resolved, result } = landed;
        let now = time::now();
        self.flying_bytes -= bytes;
        let crowded = is_crowded(&mut self.courtesy, now, self.owners.foreground_latency());
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        session.flying.remove(&key);
        let engine = self.shared.replica.engine();
        let forget = |()| engine.remove_hint(&owner, &key, digest).map_err(here_failed);
        match result.and_then(forget) {
            Ok(forgotten) => {
                session.pacer.delivered(now, sent, crowded);
                if !forgotten {
                    // It grew meanwhile, so it has another digest: it stays, and is sent again.
                    return;
                }
            }
            Err(error) => {
                session.pacer.failed(now, sent);
                tracing::debug!(%owner, %key, %error, "a hint was not delivered, and is kept");
                return;
            }
        }
        self.metrics.hints_delivered.increment();
        let (token, owner) = (key.token().0, owner_token(&owner));
        if re_resolved {
            self.metrics.hints_reresolved.increment();
            event::note("hint_reresolved", token, owner);
        } else {
            event::note("hint_delivered", token, owner);
        }
    }
}

/// True when another hint may be put on its way.
fn has_room(options: &Options, flying_bytes: usize) -> bool {
    flying_bytes == 0 || flying_bytes < options.in_flight_bytes_max
}

/// The next hint behind those that were sent. `None`: that was the last one; those that grew or failed
/// meanwhile come in the owner's next turn, which begins at the first key again.
fn next_hint(replica: &Replica, owner: &str, session: &mut Session) -> Option<Hint> {
    loop {
        while let Some(Hint { key, .. }) = session.page.pop_front() {
            // As it is now: what has ended since the page was read must not come back.
            if !session.flying.contains(&key)
                && let Some(hint) = replica.engine().hint(owner, &key)
            {
                return Some(hint);
            }
        }
        let page = replica.engine().hints_of(owner, session.after.as_ref(), PAGE_BYTES);
        session.after = Some(page.last()?.key.clone());
        session.page.extend(page);
    }
}

impl Home {
    /// Asks another node; `None`: it is this one.
    fn call(&self, head: RequestHead, request: &Request) -> Option<Call> {
        match self {
            Home::Here => None,
            Home::Peer { peer, .. } => Some(peer.call(head, request)),
        }
    }
}

/// Completes when all who were asked, and this node if `here`, have it durably.
async fn deliver(
    calls: Vec<Call>,
    here: Option<(Arc<Replica>, Arc<Object>)>,
    key: &Key,
    deadline: Instant,
) -> Result<(), DeliveryError> {
    if calls.is_empty() && here.is_none() {
        return Err(DeliveryError::Homeless);
    }
    if let Some((replica, object)) = here {
        let ticket = replica.store(key, object).await?;
        let durable = time::timeout_at(deadline, ticket.durable()).await;
        durable.map_err(|_late| DeliveryError::Late)?.map_err(here_failed)?;
    }
    for call in calls {
        match call.await? {
            Reply::Stored => {}
            Reply::Refused(refusal) => return Err(refusal.into()),
            Reply::Found(_)
            | Reply::Same
            | Reply::Absent
            | Reply::Written(_)
            | Reply::Listed(_)
            | Reply::Exchanged { .. }
            | Reply::Forgetting(_)
            | Reply::Pong => {
                return Err(DeliveryError::Strange);
            }
        }
    }
    Ok(())
}

fn here_failed(error: WriteError) -> DeliveryError {
    DeliveryError::Here(error.into())
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use crate::domain::causality::CausalContext;
    use crate::domain::object::Content;
    use crate::runtime::task;
    use crate::service::replica::{Intent, WriteRules};
    use crate::storage::Engine;

    #[test]
    fn what_ended_since_its_page_was_read_is_not_sent() {
        let test = async {
            let dir = tempfile::tempdir().unwrap();
            let options = crate::storage::Options::default();
            let engine = Engine::open(dir.path(), "test", options).await.unwrap();
            let replica = Replica::start(engine.clone(), WriteRules::default()).await.unwrap();
            for name in ["a", "b", "c"] {
                let key = Key::new("b", name).unwrap();
                let (seen, content) = (CausalContext::new(), Content::Tombstone);
                let intent = Intent { seen, newest_ms: 0, content, expires_at_ms: None };
                replica.write_hinted(&key, &intent, "n1").await.unwrap();
            }
            let mut session = Session::new(&Options::default());
            let first = next_hint(&replica, "n1", &mut session).unwrap();
            assert_eq!(session.page.len(), 2, "one page has them all");
            let second = session.page[0].clone();
            assert!(engine.remove_hint("n1", &second.key, second.object.digest()).unwrap());
            let third = next_hint(&replica, "n1", &mut session).unwrap();
            assert!(third.key != first.key && third.key != second.key);
            assert!(next_hint(&replica, "n1", &mut session).is_none());
            engine.close().await.unwrap();
        };
        task::block_on(1, test).unwrap();
    }
}
