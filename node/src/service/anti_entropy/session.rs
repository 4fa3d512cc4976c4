//! Dealings with one other home replica: roots of many partitions at once, then an exchange of each that
//! differs, a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::stream;

use super::stride::Stride;
use super::{Shared, scan};
use crate::domain::key::Key;
use crate::domain::merkle::exchange::{Broken, Exchange, Step, Summary};
use crate::domain::merkle::message::{Answer, Ask, KEYS_MAX, OBJECTS_BYTES, Root, Verdict};
use crate::domain::merkle::schedule::{Batch, Outcome};
use crate::domain::merkle::vouching::{self, Testimony};
use crate::domain::object::Object;
use crate::domain::ring::NodeIndex;
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::rpc::{CallError, Peer};
use crate::runtime::{event, time};
use crate::service::replica::ReplicaError;
use crate::storage::{Known, ReadError};

/// Why a comparison did not come to its end. What was merged stays; it is tried again.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error("a key was written while it was settled")]
    Unsettled,
}

/// One session.
struct Session {
    shared: Arc<Shared>,
    with: NodeIndex,
    peer: Peer,
    thorough: bool,
    /// The round of doubt in which it began.
    round: u64,
    ring: u64,
}

/// Compares the partitions of `batch` and tells the schedule how each ended. Gives back with whom it was.
pub(super) async fn run(shared: Arc<Shared>, batch: Batch) -> NodeIndex {
    let Batch { with, doubtful, partitions } = batch;
    let (round, ring) = (shared.schedule().round(), shared.cluster.ring().digest());
    let peer = shared.cluster.peer(with).cloned();
    // Nobody is paired with itself.
    let Some(peer) = peer else { return with };
    let session = Session { shared, with, peer, thorough: doubtful, round, ring };
    session.compare(&partitions).await;
    with
}

impl Session {
    async fn compare(&self, partitions: &[u32]) {
        let verdicts = match self.roots(partitions).await {
            Ok(verdicts) => verdicts,
            Err(error) => {
                tracing::debug!(with = self.with.0, %error, "roots were not compared");
                partitions.iter().for_each(|partition| self.end(*partition, Outcome::Failed));
                return;
            }
        };
        let mut differing = Vec::new();
        for (partition, verdict) in partitions.iter().zip(verdicts) {
            match verdict {
                Some(Verdict::Equal) => self.end(*partition, Outcome::Equal),
                Some(Verdict::NotReady) | None => self.end(*partition, Outcome::Failed),
                Some(verdict @ Verdict::Differs { .. }) => differing.push((*partition, verdict)),
            }
        }
        let exchanges =
            differing.into_iter().map(|(partition, verdict)| self.heal(partition, verdict));
        let mut exchanges =
            stream::iter(exchanges).buffer_unordered(self.shared.options.exchanges_max);
        while exchanges.next().await.is_some() {}
    }

    /// How the partitions compare; `None` where this side has no tree.
    async fn roots(&self, partitions: &[u32]) -> Result<Vec<Option<Verdict>>, SessionError> {
        let trees = self.shared.replica.trees();
        let root = |partition: &u32| {
            let root = |tree: &crate::domain::merkle::tree::Tree| Root {
                partition: *partition,
                bits: tree.depth(),
                root: tree.root(),
            };
            trees.with(*partition, |holding| holding.tree().map(root)).flatten()
        };
        let roots: Vec<Option<Root>> = partitions.iter().map(root).collect();
        let asked: Vec<Root> = roots.iter().flatten().copied().collect();
        if asked.is_empty() {
            return Ok(roots.iter().map(|_| None).collect());
        }
        self.shared.metrics.repair_roots.add(asked.len() as u64);
        let count = asked.len();
        let answer = self.ask(Ask::Roots { thorough: self.thorough, roots: asked }).await?;
        let Answer::Roots(verdicts) = answer else { return Err(Broken::Strange.into()) };
        if verdicts.len() != count {
            return Err(Broken::Strange.into());
        }
        let mut verdicts = verdicts.into_iter();
        Ok(roots.iter().map(|root| root.and_then(|_| verdicts.next())).collect())
    }

    /// Exchanges one partition that differs.
    async fn heal(&self, partition: u32, verdict: Verdict) {
        self.shared.metrics.repair_differing.increment();
        let outcome = match self.exchange(partition, verdict).await {
            Ok(summary) => {
                event::note("exchange_done", u64::from(partition), summary.sent + summary.received);
                if summary.left_out > 0 { Outcome::LeftOut } else { Outcome::Equal }
            }
            Err(error) => {
                tracing::debug!(partition, with = self.with.0, %error, "an exchange ended early");
                event::note("exchange_failed", u64::from(partition), u64::from(self.with.0));
                Outcome::Failed
            }
        };
        self.end(partition, outcome);
    }

    async fn exchange(&self, partition: u32, verdict: Verdict) -> Result<Summary, SessionError> {
        let (engine, trees) = (self.shared.replica.engine(), self.shared.replica.trees());
        let begin = |verdict: &Verdict| {
            trees.with(partition, |holding| {
                Exchange::begin(partition, holding.tree(), verdict, self.thorough)
            })
        };
        let mut begun = begin(&verdict).ok_or(Broken::NotReady)??;
        if begun.is_none() {
            // The answer had no room for its hashes, or both were equal by the time.
            let verdict = self.roots(&[partition]).await?.pop().flatten();
            begun = match verdict.ok_or(Broken::NotReady)? {
                Verdict::Equal => return Ok(Summary::default()),
                Verdict::NotReady => return Err(Broken::NotReady.into()),
                verdict @ Verdict::Differs { .. } => begin(&verdict).ok_or(Broken::NotReady)??,
            };
        }
        let mut exchange = begun.ok_or(Broken::Strange)?;
        let done = loop {
            match exchange.step() {
                Step::Ask(ask) => {
                    let answer = self.ask(ask).await;
                    let answer = match answer {
                        Ok(answer) => answer,
                        Err(error) => break Err(error),
                    };
                    let answered = trees.with(partition, |holding| {
                        exchange.answered(holding.section(), holding.tree(), answer)
                    });
                    if let Err(error) = answered.unwrap_or(Err(Broken::NotReady)) {
                        break Err(error.into());
                    }
                }
                Step::List(region) => match scan::held(engine, trees, partition, &region).await {
                    Ok((held, cut)) => exchange.listed(held, cut),
                    Err(error) => break Err(error.into()),
                },
                Step::Merge(objects) => {
                    if let Err(error) = self.merge(objects).await {
                        break Err(error);
                    }
                }
                Step::Settle(keys) => {
                    if let Err(error) = self.settle(partition, &keys).await {
                        break Err(error);
                    }
                }
                Step::Done => break Ok(()),
            }
        };
        self.shared.shipped(partition, exchange.summary());
        done.map(|()| exchange.summary())
    }

    /// Merges what came.
    async fn merge(&self, objects: Vec<(Key, Arc<Object>)>) -> Result<(), SessionError> {
        let replica = &self.shared.replica;
        replica.engine().caught_up().await.map_err(ReplicaError::from)?;
        let mut stride = Stride::default();
        for (key, object) in objects {
            stride.did(key.size_bytes() + object.size_bytes()).await;
            replica.heal(&key, object).await?;
            event::note("object_healed", key.token().0, u64::from(self.with.0));
        }
        Ok(())
    }

    /// Has the other live home replicas say what they vouch for of `keys`, which this copy in doubt holds, and goes by that.
    async fn settle(&self, partition: u32, keys: &[Key]) -> Result<(), SessionError> {
        let replica = &self.shared.replica;
        let (mut others, homes) = (Vec::new(), self.shared.other_homes(partition));
        if !homes.iter().any(|(node, _)| *node == self.with) {
            return Err(Broken::NotReady.into());
        }
        for (_, peer) in homes {
            others.push(self.testimonies(&peer, partition, keys).await?);
        }
        let mut tell = Vec::new();
        replica.engine().salvaged().await;
        for (at, key) in keys.iter().enumerate() {
            let Known { object, doubtful } = replica.engine().known(key).await?;
            let Some(own) = object.filter(|_| doubtful) else { continue };
            let policy = replica.rules().policies.of(key.bucket());
            let of_key: Vec<Testimony> = others.iter().map(|other| other[at].clone()).collect();
            let fresh = replica.fresh(key);
            let settled = vouching::settle(policy, &own, &of_key, fresh.as_deref());
            if settled.keep != *own {
                if !replica.settle(key, own.digest(), Arc::new(settled.keep)).await? {
                    // It was written meanwhile.
                    return Err(SessionError::Unsettled);
                }
                event::note("object_let_go", key.token().0, u64::from(self.with.0));
            }
            if !settled.tell.is_empty() {
                tell.push((key.clone(), Arc::new(settled.tell)));
            }
        }
        while !tell.is_empty() {
            let (mut put, mut bytes) = (Vec::new(), 0);
            while bytes < OBJECTS_BYTES
                && let Some((key, object)) = tell.pop()
            {
                bytes += key.size_bytes() + object.size_bytes();
                put.push((key, object));
            }
            self.ask(Ask::Objects { partition, put, get: Vec::new() }).await?;
        }
        Ok(())
    }

    /// What one other home replica says of `keys`.
    async fn testimonies(
        &self,
        peer: &Peer,
        partition: u32,
        keys: &[Key],
    ) -> Result<Vec<Testimony>, SessionError> {
        let mut testimonies = Vec::with_capacity(keys.len());
        while testimonies.len() < keys.len() {
            let left = &keys[testimonies.len()..];
            let get = left[..left.len().min(KEYS_MAX)].to_vec();
            let ask = Ask::Objects { partition, put: Vec::new(), get };
            let Answer::Objects { objects, looked_at, doubtful } = self.ask_peer(peer, ask).await?
            else {
                return Err(Broken::Strange.into());
            };
            let looked_at = looked_at as usize;
            if looked_at == 0 || looked_at > left.len() {
                return Err(Broken::Strange.into());
            }
            let objects: BTreeMap<Key, Arc<Object>> = objects.into_iter().collect();
            let of_key = |key: &Key| objects.get(key).map(|object| Object::clone(object));
            let looked = left[..looked_at].iter();
            testimonies.extend(looked.map(|key| Testimony { doubtful, object: of_key(key) }));
        }
        Ok(testimonies)
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, SessionError> {
        self.ask_peer(&self.peer, ask).await
    }

    async fn ask_peer(&self, peer: &Peer, ask: Ask) -> Result<Answer, SessionError> {
        let turn = self.shared.turn().await;
        let ask = self.renewed(ask).await?;
        let head = RequestHead {
            request_id: self.shared.request_ids.fetch_add(1, Ordering::Relaxed),
            deadline: time::now() + self.shared.options.ask_timeout,
        };
        let sent = bytes_of(&ask);
        match peer.call(head, &Request::Exchange { ring: self.ring, ask }).await? {
            Reply::Exchanged { crowded, answer } => {
                self.shared.spent(turn, sent + bytes_of_answer(&answer), crowded);
                Ok(answer)
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            Reply::Stored
            | Reply::Found(_)
            | Reply::Same
            | Reply::Absent
            | Reply::Written(_)
            | Reply::Forgetting(_)
            | Reply::Listed(_)
            | Reply::Pong => Err(Broken::Strange.into()),
        }
    }

    /// Puts what is held now in the place of objects that were read a while ago, so that nothing is sent that was
    /// [forgotten](crate::domain::forgetting) since.
    async fn renewed(&self, ask: Ask) -> Result<Ask, SessionError> {
        let Ask::Objects { partition, put, get } = ask else { return Ok(ask) };
        let engine = self.shared.replica.engine();
        let (mut now, mut stride) = (Vec::with_capacity(put.len()), Stride::default());
        for (key, object) in put {
            stride.did(key.size_bytes() + object.size_bytes()).await;
            match engine.known(&key).await? {
                Known { object: Some(held), doubtful: false } => now.push((key, held)),
                Known { object: None, doubtful: false } => {}
                // What it was settled to say.
                Known { doubtful: true, .. } => now.push((key, object)),
            }
        }
        Ok(Ask::Objects { partition, put: now, get })
    }

    fn end(&self, partition: u32, outcome: Outcome) {
        if outcome == Outcome::Failed {
            self.shared.metrics.repair_failed.increment();
        }
        let (now, pair) = (time::now(), (partition, self.with));
        self.shared.schedule().finished(now, pair, (self.round, self.thorough), outcome);
    }
}

fn bytes_of(ask: &Ask) -> usize {
    match ask {
        Ask::Objects { put, .. } => objects_bytes(put),
        Ask::Keys { entries, .. } => entries.iter().map(|(key, _)| key.size_bytes() + 8).sum(),
        Ask::Roots { .. } | Ask::Nodes { .. } => 0,
    }
}

fn bytes_of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::Objects { objects, .. } => objects_bytes(objects),
        Answer::Keys(keys) => objects_bytes(&keys.fresh),
        Answer::Nodes(hashes) => 8 * hashes.len(),
        Answer::Roots(_) | Answer::NotReady => 0,
    }
}

fn objects_bytes(objects: &[(Key, Arc<Object>)]) -> usize {
    objects.iter().map(|(key, object)| key.size_bytes() + object.size_bytes()).sum()
}
