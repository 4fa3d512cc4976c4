//! GET: ask R replicas, one more each time they are slow; merge; repair whoever was stale afterwards.
//!
//! Own copy first, since it costs no message. Then live home replicas: after this node in the preference
//! list if it is a home itself, else the one with the fewest calls under way first (this is how a proxy
//! balances). Who could not vouch for its copy a moment ago comes after those, and homes that are not live come last. A sloppy read asks before these as many fallbacks as homes are
//! not live: writes that missed a home may be with them, as hints. What they hold counts as a reply;
//! that they hold nothing says nothing.
//!
//! A home whose copy is in doubt counts for nothing, and gets the answer as a repair: so it holds it again, and an exchange
//! has less to ship. Its key stays in doubt all the same. R replies prove what was acked with a W that meets this R, no more:
//! a write that failed its quorum, or was asked for with a smaller one, may live on where this read did not ask, dots of this replica's own
//! among them. Only an exchange with every other live home ends a doubt, and it does so for whole ranges.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::write::Wanted;
use super::{Coordinator, RequestError, ask};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::domain::quorum::{ReadAnswer, ReadTally, Standing};
use crate::domain::ring::NodeIndex;
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::rpc::{CallError, Peer};
use crate::runtime::{event, task, time};
use crate::storage::Known;

/// Whom to ask, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Home(NodeIndex),
    Fallback(NodeIndex),
}

impl Source {
    /// The node.
    pub(super) fn node(self) -> NodeIndex {
        match self {
            Self::Home(node) | Self::Fallback(node) => node,
        }
    }
}

/// What a read asks and knows.
struct Question<'a> {
    head: RequestHead,
    key: &'a Key,
    /// What this node holds for the key, as a home replica.
    known: Option<Arc<Object>>,
    to_home: Request,
    to_fallback: Request,
}

impl Coordinator {
    /// Reads `key` from `wanted.required` replicas and merges what they say. Stale home replicas
    /// among them are repaired afterwards.
    ///
    /// # Errors
    /// [`RequestError::QuorumUnmet`] and [`RequestError::DeadlineExceeded`].
    pub async fn read(
        &self,
        head: RequestHead,
        key: &Key,
        wanted: Wanted,
    ) -> Result<Option<Arc<Object>>, RequestError> {
        self.metrics.reads.increment();
        let home = self.cluster.home(key);
        let mut tally = ReadTally::new(wanted.required, 0);
        let mut known = None;
        if let Some(me) = self.cluster.me().filter(|me| home.contains(me)) {
            tally.ask();
            match self.replica.read(key).await {
                Ok(Known { object, doubtful: true }) => {
                    note_doubt(&mut tally, key, me, object.map(|object| object.digest()));
                }
                Ok(Known { object, doubtful: false }) => {
                    known.clone_from(&object);
                    tally.reply(me, object);
                }
                Err(error) => {
                    tracing::warn!(request_id = head.request_id, %key, %error, "own copy is unreadable");
                    tally.fail();
                }
            }
        }
        if tally.standing() != Standing::Met {
            let digest = known.as_ref().map(|object| object.digest());
            let question = Question {
                head,
                key,
                known,
                to_home: Request::Fetch { key: key.clone(), known: digest },
                to_fallback: Request::FetchHinted { key: key.clone() },
            };
            let sources = self.sources(key, wanted.sloppy);
            self.gather_replies(&question, sources, &mut tally).await?;
        }
        let answer = tally.answer(self.replica.rules().policies.of(key.bucket()));
        // A process that was held up may have read replies of long ago: what they say may have been forgotten since.
        if time::now() < head.deadline {
            self.repair(head.request_id, key, home, &answer);
        }
        Ok(answer.object)
    }

    /// Whom to ask, the first last.
    pub(super) fn sources(&self, key: &Key, sloppy: bool) -> Vec<Source> {
        let cluster = &self.cluster;
        let home = cluster.home(key);
        let others = |from: usize| {
            let order = home.iter().cycle().skip(from).take(home.len()).copied();
            order.filter(|&node| cluster.peer(node).is_some())
        };
        let own = home.iter().position(|&node| Some(node) == cluster.me());
        let (mut live, away): (Vec<NodeIndex>, Vec<NodeIndex>) =
            others(own.map_or(0, |at| at + 1)).partition(|&node| cluster.is_live(node));
        if own.is_none() {
            live.sort_by_key(|&node| cluster.peer(node).map_or(0, Peer::in_flight));
        }
        let now = time::now();
        live.sort_by_key(|&node| self.was_doubtful(node, now));
        let mut sources: Vec<Source> = live.into_iter().map(Source::Home).collect();
        if sloppy {
            let fallbacks = cluster.fallbacks(key).iter().copied();
            let fallbacks = fallbacks.filter(|&node| cluster.is_live(node));
            sources.extend(fallbacks.take(away.len()).map(Source::Fallback));
        }
        sources.extend(away.into_iter().map(Source::Home));
        sources.reverse();
        sources
    }

    /// Asks until the tally is met.
    async fn gather_replies(
        &self,
        question: &Question<'_>,
        mut sources: Vec<Source>,
        tally: &mut ReadTally,
    ) -> Result<(), RequestError> {
        let mut waiting = FuturesUnordered::new();
        let mut hedge_at = time::now() + self.patience.hedge;
        loop {
            let wanted = tally.required().saturating_sub(tally.received()) as usize;
            while waiting.len() < wanted {
                let Some(source) = sources.pop() else { break };
                tally.ask();
                waiting.push(self.ask_source(source, question));
            }
            match tally.standing() {
                Standing::Met => return Ok(()),
                Standing::Unmeetable => {
                    let (required, received) = (tally.required(), tally.received());
                    return Err(self.unmet(question.head.deadline, required, received, 0));
                }
                Standing::Waiting => {}
            }
            tokio::select! {
                biased;
                Some((source, reply)) = waiting.next(), if !waiting.is_empty() => {
                    if matches!(reply, Ok(Reply::Refused(Refusal::Doubtful { .. }))) {
                        self.note_doubtful(source.node());
                    }
                    count(tally, question, source, reply);
                }
                () = time::sleep_until(hedge_at), if !sources.is_empty() => {
                    hedge_at = time::now() + self.patience.hedge;
                    if let Some(source) = sources.pop() {
                        self.metrics.hedged_reads.increment();
                        event::note("read_hedged", question.key.token().0, 0);
                        tally.ask();
                        waiting.push(self.ask_source(source, question));
                    }
                }
            }
        }
    }

    async fn ask_source(
        &self,
        source: Source,
        question: &Question<'_>,
    ) -> (Source, Result<Reply, CallError>) {
        let reply = match source {
            Source::Home(node) => self.ask(node, question.head, &question.to_home).await,
            Source::Fallback(node) if self.cluster.peer(node).is_none() => {
                // This node is the fallback.
                Ok(self.replica.hinted(question.key).map_or(Reply::Absent, Reply::Found))
            }
            Source::Fallback(node) => self.ask(node, question.head, &question.to_fallback).await,
        };
        (source, reply)
    }

    /// Sends the merge to those who lack part of it, in the background.
    pub(super) fn repair(
        &self,
        request_id: u64,
        key: &Key,
        home: &[NodeIndex],
        answer: &ReadAnswer,
    ) {
        let Some(object) = &answer.object else { return };
        for &node in answer.stale.iter().filter(|&node| home.contains(node)) {
            let Some(permit) = self.stay() else { continue };
            self.metrics.read_repairs.increment();
            event::note("read_repair", key.token().0, u64::from(node.0));
            let (key, object) = (key.clone(), object.clone());
            let deadline = time::now() + self.patience.unreachable;
            let head = RequestHead { request_id, deadline };
            match self.cluster.peer(node).cloned() {
                None => {
                    let replica = self.replica.clone();
                    task::spawn(async move {
                        if let Err(error) = replica.store(&key, object).await {
                            tracing::debug!(request_id, %key, %error, "own copy was not repaired");
                        }
                        drop(permit);
                    });
                }
                Some(peer) => {
                    let patience = self.patience;
                    task::spawn(async move {
                        let request = Request::Replicate { key, object };
                        let reply = ask(&peer, patience, head, &request).await;
                        if !matches!(reply, Ok(Reply::Stored)) {
                            tracing::debug!(
                                request_id,
                                node = node.0,
                                ?reply,
                                "read repair failed"
                            );
                        }
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Counts a home that cannot vouch for its copy.
fn note_doubt(tally: &mut ReadTally, key: &Key, node: NodeIndex, held: Option<u64>) {
    event::note("read_in_doubt", key.token().0, u64::from(node.0));
    tally.doubt(node, held);
}

/// Counts one reply.
fn count(
    tally: &mut ReadTally,
    question: &Question<'_>,
    source: Source,
    reply: Result<Reply, CallError>,
) {
    match (source, reply) {
        (Source::Home(node) | Source::Fallback(node), Ok(Reply::Found(object))) => {
            tally.reply(node, Some(object));
        }
        (Source::Home(node), Ok(Reply::Same)) => tally.reply(node, question.known.clone()),
        (Source::Home(node), Ok(Reply::Absent)) => tally.reply(node, None),
        (Source::Home(node), Ok(Reply::Refused(Refusal::Doubtful { held }))) => {
            note_doubt(tally, question.key, node, held);
        }
        (_, other) => {
            let (request_id, key) = (question.head.request_id, question.key);
            tracing::debug!(request_id, %key, ?source, ?other, "no reply that counts");
            tally.fail();
        }
    }
}
