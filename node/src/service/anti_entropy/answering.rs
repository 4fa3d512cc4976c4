//! Answers other home replicas: performs what [`domain::merkle::answering`](crate::domain::merkle::answering) decides.
//!
//! Few questions that read the data are answered at one time; more are refused, and asked again later. Whether this
//! node's clients wait goes with each answer, so that the asker slows down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::scan;
use super::stride::Stride;
use crate::domain::hint::{Courtesy, is_crowded};
use crate::domain::key::Key;
use crate::domain::merkle::answering;
use crate::domain::merkle::holding::Holding;
use crate::domain::merkle::message::{Answer, Ask, HASHES_MAX, OBJECTS_BYTES, Root, Verdict};
use crate::domain::object::Object;
use crate::rpc::message::{Refusal, Reply, RequestHead};
use crate::runtime::time;
use crate::service::metrics::{KINDS, Metrics};
use crate::service::replica::{Replica, ReplicaError};
use crate::storage::Known;

/// Questions about keys and objects that are worked on at one time.
const BUSY_MAX: usize = 8;
/// What a refused asker is told to wait.
const RETRY_MS: u32 = 100;
/// Client latencies that differ by less do not differ.
const COURTESY_NOISE: Duration = Duration::from_micros(500);

/// See the module.
pub struct Answering {
    replica: Arc<Replica>,
    metrics: Arc<Metrics>,
    ring: u64,
    busy: Semaphore,
    courtesy: Mutex<[Courtesy; KINDS]>,
}

impl Answering {
    /// Answers for `replica`, on the ring of this digest.
    pub fn new(replica: Arc<Replica>, metrics: Arc<Metrics>, ring: u64) -> Self {
        let courtesy = Mutex::new(std::array::from_fn(|_| Courtesy::new(COURTESY_NOISE)));
        Self { replica, metrics, ring, busy: Semaphore::new(BUSY_MAX), courtesy }
    }

    /// Answers one question.
    pub async fn answer(&self, head: RequestHead, ring: u64, ask: Ask) -> Reply {
        if ring != self.ring {
            return Reply::Refused(Refusal::NotHome);
        }
        self.metrics.repair_answers.increment();
        self.replica.trees().check(self.replica.engine());
        let reads = matches!(ask, Ask::Keys { .. } | Ask::Objects { .. });
        let permit = self.busy.try_acquire();
        if reads && permit.is_err() {
            return Reply::Refused(Refusal::Overloaded { retry_after_ms: RETRY_MS });
        }
        let (engine, trees) = (self.replica.engine(), self.replica.trees());
        let answer = match ask {
            Ask::Roots { roots, .. } => Ok(Answer::Roots(self.compare(&roots))),
            Ask::Nodes { partition, level, to, parents } => {
                let nodes =
                    |holding: &Holding| answering::nodes(holding.tree(), level, to, &parents);
                let hashes = trees.with(partition, nodes).flatten();
                Ok(hashes.map_or(Answer::NotReady, Answer::Nodes))
            }
            Ask::Keys { partition, thorough, region, entries } => {
                let held = scan::held(engine, trees, partition, &region).await;
                held.map_err(ReplicaError::from).map(|(held, cut)| {
                    let cut = held.last().filter(|_| cut).map(|held| held.key.clone());
                    Answer::Keys(answering::keys(&entries, &held, cut, thorough))
                })
            }
            Ask::Objects { partition, .. } if trees.with(partition, |_| ()).is_none() => {
                Ok(Answer::NotReady)
            }
            Ask::Objects { partition, put, get } => self.objects(head, partition, put, &get).await,
        };
        drop(permit);
        match answer {
            Ok(answer) => Reply::Exchanged { crowded: self.is_crowded(), answer },
            Err(error) => Reply::Refused(Refusal::StorageStalled { reason: error.to_string() }),
        }
    }

    fn compare(&self, roots: &[Root]) -> Vec<Verdict> {
        let (trees, mut room) = (self.replica.trees(), HASHES_MAX / 4);
        let mut compare = |asked: &Root| {
            let compare = |holding: &Holding| answering::root(holding.tree(), *asked, &mut room);
            trees.with(asked.partition, compare).unwrap_or(Verdict::NotReady)
        };
        roots.iter().map(&mut compare).collect()
    }

    /// Merges what was put, and reads what is wanted.
    async fn objects(
        &self,
        head: RequestHead,
        partition: u32,
        put: Vec<(Key, Arc<Object>)>,
        get: &[Key],
    ) -> Result<Answer, ReplicaError> {
        let engine = self.replica.engine();
        let tokens = self.replica.trees().with(partition, |holding| holding.section().tokens());
        let doubts = tokens.map_or_else(Vec::new, |tokens| scan::doubts_of(engine, tokens));
        let (mut objects, mut bytes) = (Vec::new(), 0);
        engine.caught_up().await?;
        let mut stride = Stride::default();
        for (key, object) in put {
            stride.did(key.size_bytes() + object.size_bytes()).await;
            let merged = self.replica.heal(&key, object.clone()).await?;
            if merged != object && !scan::is_doubtful(&doubts, key.token()) {
                bytes += key.size_bytes() + merged.size_bytes();
                objects.push((key, merged));
            }
        }
        let mut looked_at = 0;
        for key in get {
            if time::now() >= head.deadline || (bytes >= OBJECTS_BYTES && looked_at > 0) {
                break;
            }
            let Known { object, doubtful } = engine.known(key).await?;
            let object = if doubtful { self.replica.fresh(key) } else { object };
            let held = object.as_ref().map_or(0, |object| object.size_bytes());
            stride.did(key.size_bytes() + held).await;
            if let Some(object) = object {
                bytes += key.size_bytes() + held;
                objects.push((key.clone(), object));
            }
            looked_at += 1;
        }
        let doubtful = get.iter().any(|key| scan::is_doubtful(&doubts, key.token()));
        Ok(Answer::Objects { objects, looked_at, doubtful })
    }

    /// True when this node's clients wait longer than they have to.
    pub fn is_crowded(&self) -> bool {
        let now = time::now();
        let mut courtesy = self.courtesy.lock().unwrap_or_else(PoisonError::into_inner);
        is_crowded(&mut courtesy[..], now, self.metrics.foreground.smoothed(now))
    }
}
