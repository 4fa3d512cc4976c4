//! The one task that begins exchanges, builds trees and ends doubt. It decides nothing: the
//! [schedule](crate::domain::merkle::schedule) does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::FuturesUnordered;

use super::{Shared, session};
use crate::domain::merkle::holding::Progress;
use crate::domain::ring::NodeIndex;
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, task};
use crate::service::replica::Replica;
use crate::storage::{Engine, TokenRange};

/// Everything is looked at this often, whether or not something is known to be due.
const LOOK: Duration = Duration::from_secs(1);
/// After a look, the next one comes no sooner than this.
const LOOK_MIN: Duration = Duration::from_millis(10);
/// A page of a build, in bytes.
const PAGE_BYTES: usize = 256 << 10;
/// So long after the start, members that nothing was heard of yet are waited for as well.
const YOUNG: Duration = Duration::from_secs(10);
/// The pause after a page that could not be read, or a build that was given up.
const BUILD_RETRY: Duration = Duration::from_millis(500);

/// What was kept of writes in doubt is looked through this often, besides when something was trusted: a write may cross with that.
const END_FRESH_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Driver {
    shared: Arc<Shared>,
    sessions: FuturesUnordered<BoxFuture<'static, NodeIndex>>,
    /// With whom they are.
    with: BTreeSet<NodeIndex>,
    build: Option<BoxFuture<'static, ()>>,
    to_build: VecDeque<u32>,
    trust: Option<BoxFuture<'static, ()>>,
    /// Ends what was kept of writes in doubt.
    end_fresh: Option<BoxFuture<'static, ()>>,
    /// When that is looked for next.
    end_fresh_at: Instant,
    /// The damages up to which the schedule knows of doubt.
    damages: u64,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let damages = shared.replica.engine().damages();
        Self {
            shared,
            sessions: FuturesUnordered::new(),
            with: BTreeSet::new(),
            build: None,
            to_build: VecDeque::new(),
            trust: None,
            end_fresh: None,
            end_fresh_at: time::now(),
            damages,
        }
    }

    /// Exchanges until it is told to stop.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let cluster = shared.cluster.clone();
        loop {
            let now = time::now();
            self.doubt(now);
            self.begin(now);
            let wake_at = self.wake_at(now);
            let changed = cluster.changed();
            tokio::select! {
                biased;
                () = shared.stop.notified() => return,
                Some(with) = self.sessions.next() => {
                    self.with.remove(&with);
                }
                () = done(&mut self.build) => self.build = None,
                () = done(&mut self.trust) => {
                    self.trust = None;
                    self.end_fresh_at = time::now();
                }
                () = done(&mut self.end_fresh) => self.end_fresh = None,
                () = shared.poke.notified() => {}
                () = changed => {}
                () = time::sleep_until(wake_at) => {}
            }
        }
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let due = self.shared.schedule().due_at().unwrap_or(now + LOOK);
        // What is due already waits for somebody who is not live, or for a session that ends.
        if due <= now { now + LOOK / 4 } else { due.clamp(now + LOOK_MIN, now + LOOK) }
    }

    /// Tells the schedule what is in doubt, and trusts what may be trusted.
    fn doubt(&mut self, now: Instant) {
        let (shared, replica) = (&self.shared, &self.shared.replica);
        if self.end_fresh.is_none() && self.end_fresh_at <= now {
            self.end_fresh_at = now + END_FRESH_EVERY;
            self.end_fresh = Some(Box::pin(end_fresh(replica.clone())));
        }
        let engine = replica.engine();
        replica.trees().check(engine);
        let damages = engine.damages();
        let doubtful = doubtful(replica);
        let again = std::mem::replace(&mut self.damages, damages) != damages;
        shared.schedule().doubt(now, &doubtful, again);
        if doubtful.is_empty() {
            shared.settled.store(true, Ordering::Release);
            return;
        }
        if self.trust.is_some() {
            return;
        }
        // Who is believed to be up is waited for, reachable or not: it may hold what nobody else does.
        let cluster = &shared.cluster;
        let young = now.since(shared.started_at) < YOUNG;
        let there = |node| {
            let believed = cluster.is_believed_up(node) || (young && !cluster.is_down(node));
            believed || cluster.is_live(node)
        };
        let trusted = shared.schedule().trustworthy(there);
        if !trusted.is_empty() {
            let ranges = ranges(replica, &trusted);
            self.trust = Some(Box::pin(trust(engine.clone(), ranges, damages)));
        }
    }

    /// Begins what is due.
    fn begin(&mut self, now: Instant) {
        let shared = &self.shared;
        while self.sessions.len() < shared.options.sessions_max {
            let free = |node| !self.with.contains(&node) && shared.cluster.is_live(node);
            let Some(batch) = shared.schedule().next(now, free) else { break };
            self.with.insert(batch.with);
            self.sessions.push(Box::pin(session::run(shared.clone(), batch)));
        }
        self.to_build.extend(shared.replica.trees().take_wanting());
        if self.build.is_none()
            && let Some(partition) = self.to_build.pop_front()
        {
            self.build = Some(Box::pin(build(shared.clone(), partition)));
        }
    }
}

/// Completes when there is something and it is done.
async fn done(work: &mut Option<BoxFuture<'static, ()>>) {
    match work {
        Some(work) => work.await,
        None => future::pending().await,
    }
}

/// The home partitions of `replica` that are in doubt.
pub(super) fn doubtful(replica: &Replica) -> BTreeSet<u32> {
    let doubts = replica.engine().doubts();
    if doubts.is_empty() {
        return BTreeSet::new();
    }
    let overlaps = |partition: &u32| {
        let range = range(replica, *partition);
        // Ranges are in order, so the first that does not end before this one tells.
        let at = doubts.partition_point(|doubt| doubt.last < range.first);
        doubts.get(at).is_some_and(|doubt| doubt.overlaps(&range))
    };
    replica.trees().partitions().filter(overlaps).collect()
}

fn range(replica: &Replica, partition: u32) -> TokenRange {
    let tokens = replica.trees().with(partition, |holding| holding.section().tokens());
    let (first, last) = tokens.unwrap_or((TokenRange::ALL.first, TokenRange::ALL.last));
    TokenRange { first, last }
}

/// The tokens of these partitions, which are in order, as few ranges.
fn ranges(replica: &Replica, partitions: &[u32]) -> Vec<TokenRange> {
    let mut ranges: Vec<TokenRange> = Vec::new();
    for partition in partitions {
        let next = range(replica, *partition);
        match ranges.last_mut() {
            Some(range) if range.last.0 + 1 == next.first.0 => range.last = next.last,
            Some(_) | None => ranges.push(next),
        }
    }
    ranges
}

/// Takes `ranges` out of doubt, once what exchanges brought is durable.
async fn trust(engine: Engine, ranges: Vec<TokenRange>, damages: u64) {
    if engine.synced().await.is_err() {
        return;
    }
    let trusted = future::join_all(ranges.iter().map(|range| engine.trust(*range, damages))).await;
    for (range, trusted) in ranges.iter().zip(trusted) {
        if matches!(trusted, Ok(true)) {
            event::note("range_trusted", range.first.0, range.last.0);
        }
    }
}

/// Ends what was kept of writes to keys that are in doubt no more.
async fn end_fresh(replica: Arc<Replica>) {
    if !replica.end_fresh().await {
        tracing::debug!("the log takes nothing now: fresh writes are kept longer");
    }
}

/// Builds the tree of `partition`, in paced steps.
async fn build(shared: Arc<Shared>, partition: u32) {
    let (engine, trees) = (shared.replica.engine(), shared.replica.trees());
    trees.begin(partition);
    loop {
        let turn = shared.turn().await;
        match trees.build_page(engine, partition, PAGE_BYTES).await {
            Ok((Progress::Reading, bytes)) => shared.spent(turn, bytes, false),
            Ok((Progress::Ready, _)) => {
                shared.metrics.trees_built.increment();
                event::note("tree_built", u64::from(partition), 0);
                return;
            }
            Ok((Progress::GivenUp, _)) => break,
            Err(error) => {
                tracing::debug!(partition, %error, "a tree cannot be built now");
                break;
            }
        }
        task::yield_now().await;
    }
    // A damaged table is met by every scan until compaction has rewritten it.
    time::sleep(BUILD_RETRY).await;
    trees.want_again();
}
