//! Forgets tombstones, and values that have expired, once it is proven that nothing needs them: performs what
//! [`domain::forgetting`](crate::domain::forgetting) decides.
//!
//! Every owner of the ring answers questions, and drives rounds for the partitions of which it is the first home replica. While somebody
//! is away no round begins: nothing could be proven. Rounds overlap, so that what is deleted all the time is forgotten all the
//! time; a partition without candidates costs nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future;
use rand::RngCore;
use tokio::sync::Notify;

use super::cluster::Cluster;
use super::generation::Generation;
use super::metrics::Metrics;
use super::replica::Replica;
use crate::domain::forgetting::message::{Answer, Holding, KEYS_MAX, Process, Question};
use crate::domain::forgetting::{BEAT, Candidate, Proven, Round, RunningTime, entries};
use crate::domain::key::Key;
use crate::domain::ring::{NodeIndex, PartitionId};
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, rng};
use crate::storage::{Known, TokenRange};

/// Rounds that are under way at one time.
const ROUNDS_MAX: usize = 64;
/// Rounds that begin at one time.
const BEGIN_MAX: usize = 8;
/// A home replica that does not answer is told what to forget so often, a look apart. Meanwhile exchanges may give it back to the others.
const TELLS: u32 = 5;
/// New candidates are looked for so often within a quiet time.
const LOOKS: u32 = 8;
/// And at least so often.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// How tombstones are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Every owner must have run for so long between the two questions.
    pub quiet: Duration,
    /// An answer must come within this.
    pub ask_timeout: Duration,
}

/// The tasks that drive rounds and count running time. [`stop`](Self::stop) ends them.
pub struct Forgetting {
    answering: Arc<Answering>,
    stop: Arc<Notify>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Answers other owners.
pub struct Answering {
    replica: Arc<Replica>,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    running: Mutex<RunningTime>,
    generation: Arc<Generation>,
    /// This one.
    process: Process,
}

impl Forgetting {
    /// When a driver looks for work, and members for questions to raise their generation for.
    pub fn look(quiet: Duration) -> Duration {
        (quiet / LOOKS).min(LOOK_MAX)
    }

    /// Starts to forget what is spent in the partitions that this node is the first home replica of. Nothing is to do for a node that is no
    /// owner.
    pub fn start(
        replica: Arc<Replica>,
        cluster: Arc<Cluster>,
        metrics: Arc<Metrics>,
        generation: Arc<Generation>,
        options: Options,
    ) -> Self {
        let me = cluster.me();
        let running = Mutex::default();
        let identity = replica.engine().identity();
        let process = Process { node: identity.node, generation: identity.generation };
        let answering =
            Arc::new(Answering { replica, cluster, metrics, running, generation, process });
        let stop = Arc::new(Notify::new());
        let mut tasks = Vec::new();
        if let Some(me) = me {
            tasks.push(task::spawn(beat(answering.clone())));
            tasks.push(task::spawn(answering.generation.clone().rise()));
            let request_ids = AtomicU64::new(rng::fork("forgetting-request-id").next_u64());
            let (answering, stop) = (answering.clone(), stop.clone());
            let (rounds, untold) = (VecDeque::new(), Vec::new());
            let driver = Driver { answering, me, options, request_ids, rounds, untold, last: None };
            tasks.push(task::spawn(driver.run(stop)));
        }
        Self { answering, stop, tasks: Mutex::new(tasks) }
    }

    /// The answering side.
    pub fn answering(&self) -> &Arc<Answering> {
        &self.answering
    }

    /// Keys that this node has to have forgotten, as far as they are known.
    pub fn candidates(&self) -> usize {
        self.answering.replica.trees().candidates().len()
    }

    /// Ends the tasks. Rounds under way are given up.
    pub async fn stop(&self) {
        self.stop.notify_one();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks.into_iter().rev() {
            task.abort();
            // It can only fail when it was aborted, or the process is ending.
            let _ended = task.await;
        }
    }
}

/// A poisoned lock means that a task panicked, which ends the process.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts for how long this process runs.
async fn beat(answering: Arc<Answering>) {
    let mut last = time::now();
    loop {
        time::sleep(BEAT).await;
        let now = time::now();
        lock(&answering.running).beat(now.since(last));
        last = now;
    }
}

impl Answering {
    /// Answers one question of a node with the ring `ring`.
    pub async fn answer(
        self: Arc<Self>,
        head: RequestHead,
        ring: u64,
        question: Question,
    ) -> Reply {
        if ring != self.cluster.ring().digest() || self.cluster.me().is_none() {
            return Reply::Refused(Refusal::NotHome);
        }
        let answer = match question {
            Question::Hold { partitions, entries } => {
                self.hold(head.deadline, &partitions, &entries).await
            }
            Question::Forget { entries } => self.forget(&entries).await,
        };
        match answer {
            Some(answer) => Reply::Forgetting(answer),
            None => Reply::Refused(Refusal::StorageStalled { reason: "no answer now".into() }),
        }
    }

    fn ran_ms(&self) -> u64 {
        u64::try_from(lock(&self.running).ran().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says what stands in the way; `None`: that cannot be said now.
    async fn hold(
        &self,
        deadline: Instant,
        partitions: &[u32],
        entries: &[(Key, u64)],
    ) -> Option<Answer> {
        let began_ms = self.ran_ms();
        let (ring, engine) = (self.cluster.ring(), self.replica.engine());
        if partitions.iter().any(|partition| *partition >= ring.partitions()) {
            return None;
        }
        let range = |partition: &u32| {
            let (first, last) = ring.token_range(PartitionId(*partition));
            TokenRange { first, last }
        };
        let ranges: Vec<TokenRange> = partitions.iter().map(range).collect();
        let both = partitions.iter().zip(engine.hinted_ranges(&ranges));
        let hinted = both.filter(|(_, hinted)| *hinted).map(|(partition, _)| *partition).collect();
        // While writers wait for room one of them may hold an old object, for longer than anything else takes.
        time::timeout_at(deadline, engine.room()).await.ok()?;
        let mut held = Vec::new();
        for (place, (key, digest)) in entries.iter().enumerate() {
            let Known { object, doubtful } = engine.known(key).await.ok()?;
            let now_ms = time::wall_clock_ms();
            let is = object.is_some_and(|object| {
                object.digest() == *digest && object.spent_at_ms().is_some_and(|at| at <= now_ms)
            });
            if is && !doubtful {
                held.push(place as u32);
            }
        }
        // What was said of hints and objects holds after a loss of power too.
        time::timeout_at(deadline, engine.synced()).await.ok()?.ok()?;
        let generation = self.generation.now();
        self.generation.want();
        let (process, ended_ms) = (self.process, self.ran_ms());
        Some(Answer::Holding(Holding { process, generation, began_ms, ended_ms, hinted, held }))
    }

    async fn forget(&self, entries: &[(Key, u64)]) -> Option<Answer> {
        let mut count = 0;
        for (key, digest) in entries {
            if self.replica.forget(key, *digest).await.ok()? {
                event::note("tombstone_forgotten", key.token().0, *digest);
                count += 1;
            }
        }
        self.metrics.tombstones_forgotten.add(u64::from(count));
        Some(Answer::Forgotten(count))
    }
}

/// What a home replica is to forget.
struct Untold {
    home: NodeIndex,
    entries: Vec<(Key, u64)>,
    /// So often still.
    tells: u32,
}

/// The task that drives rounds.
struct Driver {
    answering: Arc<Answering>,
    me: NodeIndex,
    options: Options,
    request_ids: AtomicU64,
    /// Those that were answered once, oldest first, with when they are to be asked again.
    rounds: VecDeque<(Instant, Round)>,
    /// What was proven and a home replica has not confirmed.
    untold: Vec<Untold>,
    /// The last candidate that had its turn.
    last: Option<(u32, Key)>,
}

impl Driver {
    async fn run(mut self, stop: Arc<Notify>) {
        let look = Forgetting::look(self.options.quiet);
        loop {
            let work = async {
                time::sleep(look).await;
                self.tell().await;
                self.finish().await;
                self.begin().await;
            };
            tokio::select! {
                biased;
                () = stop.notified() => return,
                () = work => {}
            }
        }
    }

    /// Asks about the rounds that have waited long enough for the second time.
    async fn finish(&mut self) {
        while self.rounds.front().is_some_and(|(again_at, _)| *again_at <= time::now()) {
            let Some((_, mut round)) = self.rounds.pop_front() else { return };
            let answers = self.ask(&round).await;
            match round.second(&answers, self.options.quiet) {
                Proven::Forget(candidates) => {
                    let homes: BTreeSet<NodeIndex> =
                        candidates.iter().flat_map(|c| c.home.iter().copied()).collect();
                    self.untold.extend(homes.into_iter().map(|home| {
                        let entries = entries(&candidates, home);
                        Untold { home, entries, tells: TELLS }
                    }));
                    self.tell().await;
                }
                Proven::TooEarly => {
                    self.rounds.push_back((time::now() + BEAT * 5, round));
                    // Those behind it waited no longer.
                    return;
                }
                Proven::Void => {}
            }
        }
    }

    /// Begins rounds about candidates that are in none.
    async fn begin(&mut self) {
        let cluster = self.answering.cluster.clone();
        let trees = self.answering.replica.trees().clone();
        let more = trees.candidates().take_more();
        more.into_iter().for_each(|partition| trees.scan_again(partition));
        if trees.candidates().is_empty() {
            return;
        }
        let ring = cluster.ring();
        let owners: Vec<NodeIndex> = (0..ring.members().len() as u16)
            .map(NodeIndex)
            .filter(|node| ring.member(*node).vnodes > 0)
            .collect();
        if owners.iter().any(|node| !cluster.is_live(*node)) {
            return;
        }
        for _ in 0..BEGIN_MAX {
            if self.rounds.len() == ROUNDS_MAX {
                return;
            }
            let candidates = self.candidates().await;
            if candidates.is_empty() {
                return;
            }
            let mut round = Round::new(candidates, owners.clone());
            let answers = self.ask(&round).await;
            let goes_on = round.first(&answers);
            event::note("forgetting_begun", u64::from(goes_on), round.candidates().len() as u64);
            if !goes_on {
                return;
            }
            self.rounds.push_back((time::now() + self.options.quiet, round));
        }
    }

    /// The next candidates that are in no round.
    async fn candidates(&mut self) -> Vec<Candidate> {
        let (cluster, replica) = (&self.answering.cluster, &self.answering.replica);
        let trees = replica.trees();
        let under_way: BTreeSet<&Key> = self
            .rounds
            .iter()
            .flat_map(|(_, round)| round.candidates())
            .map(|candidate| &candidate.key)
            .collect();
        let (now_ms, count) = (time::wall_clock_ms(), KEYS_MAX + under_way.len());
        let due = trees.candidates().due(now_ms, self.last.as_ref(), count);
        let mut candidates = Vec::new();
        let mut last = None;
        for (partition, key) in due {
            if candidates.len() == KEYS_MAX {
                break;
            }
            last = Some((partition, key.clone()));
            if under_way.contains(&key) {
                continue;
            }
            let Ok(Known { object, doubtful }) = replica.engine().known(&key).await else { break };
            let spent = object.filter(|object| object.spent_at_ms().is_some());
            match spent {
                // A scan saw it before it was written again.
                None => trees.candidates().remove(partition, &key),
                Some(_) if doubtful => {}
                Some(object) => {
                    let home = cluster.home(&key).to_vec();
                    candidates.push(Candidate { partition, key, digest: object.digest(), home });
                }
            }
        }
        self.last = last;
        candidates
    }

    /// What each owner says of `round`; who is missing does not answer.
    async fn ask(&self, round: &Round) -> BTreeMap<NodeIndex, Holding> {
        let asked = round.owners().iter().map(|owner| async {
            let answer = self.call(*owner, round.question(*owner)).await;
            match answer {
                Some(Answer::Holding(holding)) => Some((*owner, holding)),
                Some(Answer::Forgotten(_)) | None => None,
            }
        });
        future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Tells home replicas what they are to forget. What was proven stays true: whoever holds the same object later got it from one of them.
    async fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        let told = untold.iter().map(|untold| {
            self.call(untold.home, Question::Forget { entries: untold.entries.clone() })
        });
        let told = future::join_all(told).await;
        let left = untold.into_iter().zip(told).filter(|(_, answer)| answer.is_none());
        // Who never hears of it gives it back, and it is forgotten again.
        let left = left.map(|(untold, _)| Untold { tells: untold.tells - 1, ..untold });
        self.untold = left.filter(|untold| untold.tells > 0).collect();
    }

    async fn call(&self, node: NodeIndex, question: Question) -> Option<Answer> {
        let head = RequestHead {
            request_id: self.request_ids.fetch_add(1, Ordering::Relaxed),
            deadline: time::now() + self.options.ask_timeout,
        };
        let ring = self.answering.cluster.ring().digest();
        let reply = if node == self.me {
            self.answering.clone().answer(head, ring, question).await
        } else {
            let peer = self.answering.cluster.peer(node)?;
            peer.call(head, &Request::Forgetting { ring, question }).await.ok()?
        };
        match reply {
            Reply::Forgetting(answer) => Some(answer),
            Reply::Stored
            | Reply::Found(_)
            | Reply::Same
            | Reply::Absent
            | Reply::Written(_)
            | Reply::Exchanged { .. }
            | Reply::Listed(_)
            | Reply::Pong
            | Reply::Refused(_) => None,
        }
    }
}
