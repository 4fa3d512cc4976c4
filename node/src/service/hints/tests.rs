//! Stories of hints and owners over real loopback sockets. Tests wait for what they want to see.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
use crate::domain::object::{Content, Sibling};
use crate::rpc::identity::{LocalInfo, PeerInfo};
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::rpc::{self, Handled, Handler, Peers, Server};
use crate::runtime::net::TcpListener;
use crate::service::replica::WriteRules;
use crate::storage::{self, Engine};

fn run<F: Future>(test: F) -> F::Output {
    let limit = Duration::from_secs(60);
    task::block_on(2, async { time::timeout(limit, test).await.expect("the test got stuck") })
        .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = time::now() + Duration::from_secs(20);
    while !holds() {
        assert!(time::now() < deadline, "never came true: {what}");
        time::sleep(Duration::from_millis(1)).await;
    }
}

fn key(n: u64) -> Key {
    Key::new("b", &n.to_string()).unwrap()
}

fn object(node: u64, value: &str) -> Arc<Object> {
    let dot = Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter: 1 };
    let content = Content::Value(value.as_bytes().to_vec().into());
    let new = Sibling { dot, content, written_at_ms: 1, expires_at_ms: None };
    let mut object = Object::new();
    object.write(&CausalContext::new(), new);
    Arc::new(object)
}

fn local(name: &str) -> LocalInfo {
    LocalInfo::new("test", name, NodeId(u64::from(name.as_bytes()[1])), 1)
}

fn rpc_options() -> rpc::Options {
    rpc::Options {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(10),
        ..rpc::Options::default()
    }
}

/// What a scripted member does with an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Ack,
    Refuse,
    /// Acks so late that nobody waits.
    Hang,
    /// Acks after the test let it ([`Member::gate`]).
    AckWhenAllowed,
    /// Acks after a moment.
    AckSlowly,
}

/// A member's rpc side: it keeps what it acks.
struct Member {
    name: &'static str,
    conduct: Mutex<Conduct>,
    /// With [`Conduct::Ack`]: hangs after so many more.
    acks_left: AtomicU64,
    gate: Notify,
    received: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    held: Mutex<BTreeMap<Key, Object>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Member {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            conduct: Mutex::new(Conduct::Ack),
            acks_left: AtomicU64::new(u64::MAX),
            gate: Notify::new(),
            received: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            held: Mutex::default(),
        })
    }

    fn holds(&self, key: &Key, object: &Object) -> bool {
        lock(&self.held).get(key) == Some(object)
    }

    fn count(&self) -> usize {
        lock(&self.held).len()
    }

    fn set(&self, conduct: Conduct) {
        *lock(&self.conduct) = conduct;
    }

    async fn store(self: Arc<Self>, key: Key, object: Arc<Object>) -> Reply {
        self.received.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let mut conduct = *lock(&self.conduct);
        let left = self.acks_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(u64::from(conduct == Conduct::Ack))
        });
        if left.is_err() {
            conduct = Conduct::Hang;
        }
        match conduct {
            Conduct::Ack => {}
            Conduct::AckWhenAllowed => self.gate.notified().await,
            Conduct::AckSlowly => time::sleep(Duration::from_millis(3)).await,
            Conduct::Hang => std::future::pending().await,
            Conduct::Refuse => {
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                return Reply::Refused(Refusal::Overloaded { retry_after_ms: 1 });
            }
        }
        lock(&self.held).entry(key).or_default().merge(&object);
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        Reply::Stored
    }
}

struct Serves(Arc<Member>);

impl Handler for Serves {
    fn handle(&self, _: RequestHead, _: &PeerInfo, request: Request) -> Handled {
        let Request::HandOver { key, object } = request else {
            return Handled::Now(Reply::Absent);
        };
        Handled::Later(Box::pin(self.0.clone().store(key, object)))
    }
}

struct Running {
    addr: String,
    shutdown: Arc<Notify>,
    done: JoinHandle<()>,
}

async fn serve_at(addr: &str, member: &Arc<Member>) -> Running {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let options = rpc::Options { drain_timeout: Duration::ZERO, ..rpc_options() };
    let server = Server::new(&local(member.name), Arc::new(Serves(member.clone())), options);
    let shutdown = Arc::new(Notify::new());
    let stop = shutdown.clone();
    let done = task::spawn(async move { server.serve(listener, stop.notified()).await });
    Running { addr, shutdown, done }
}

/// The ring as the test says.
#[derive(Default)]
struct Ring {
    state: Mutex<RingState>,
    bell: Notify,
}

#[derive(Default)]
struct RingState {
    members: BTreeSet<String>,
    live: BTreeMap<String, Peer>,
    homes: Vec<Home>,
    latency: Option<Duration>,
}

impl Ring {
    fn change(&self, change: impl FnOnce(&mut RingState)) {
        change(&mut lock(&self.state));
        self.bell.notify_waiters();
    }
}

impl Owners for Ring {
    fn is_member(&self, owner: &str) -> bool {
        lock(&self.state).members.contains(owner)
    }

    fn live_peer(&self, owner: &str) -> Option<Peer> {
        lock(&self.state).live.get(owner).cloned()
    }

    fn homes(&self, _: &Key) -> Vec<Home> {
        lock(&self.state).homes.clone()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.bell.notified())
    }

    fn foreground_latency(&self) -> [Option<Duration>; KINDS] {
        [lock(&self.state).latency, None]
    }
}

/// Node n1 with hints for others.
struct Stage {
    dir: TempDir,
    replica: Arc<Replica>,
    metrics: Arc<Metrics>,
    ring: Arc<Ring>,
    peers: Vec<Peers>,
}

impl Stage {
    async fn new() -> Self {
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let replica = open(&dir).await;
        let (metrics, ring) = (Arc::default(), Arc::default());
        Self { dir, replica, metrics, ring, peers: Vec::new() }
    }

    fn engine(&self) -> &Engine {
        self.replica.engine()
    }

    /// Makes `member` a member and a home replica of every key, not yet believed to be up.
    async fn join(&mut self, member: &Arc<Member>) -> Running {
        let running = serve_at("127.0.0.1:0", member).await;
        let of = vec![(member.name.to_owned(), running.addr.clone())];
        let peers = Peers::start(&local("n1"), of, rpc_options());
        let peer = peers.get(member.name).unwrap();
        assert!(peer.wait_usable(time::now() + Duration::from_secs(20)).await);
        self.peers.push(peers);
        self.ring.change(|ring| {
            ring.members.insert(member.name.to_owned());
            ring.homes.push(Home::Peer { name: member.name.into(), peer });
        });
        running
    }

    /// From here on the member is believed to be up.
    fn comes_up(&self, name: &str) {
        let peer = self.peers.iter().find_map(|peers| peers.get(name)).unwrap();
        self.ring.change(|ring| {
            ring.live.insert(name.to_owned(), peer);
        });
    }

    fn keep(&self, owner: &str, n: u64, object: Arc<Object>) {
        drop(keep(&self.replica, &self.metrics, owner, &key(n), object).unwrap());
    }

    fn keep_many(&self, owner: &str, count: u64) {
        for n in 0..count {
            self.keep(owner, n, object(7, &n.to_string()));
        }
    }

    fn start(&self, options: Options) -> Handoff {
        let (replica, metrics) = (self.replica.clone(), self.metrics.clone());
        Handoff::start(replica, self.ring.clone(), metrics, options)
    }

    fn kept(&self) -> u64 {
        self.engine().stats().hints
    }
}

async fn open(dir: &TempDir) -> Arc<Replica> {
    let engine = Engine::open(dir.path(), "test", storage::Options::default()).await.unwrap();
    Arc::new(Replica::start(engine, WriteRules::default()).await.unwrap())
}

/// Short times, for what a test waits for.
fn quick() -> Options {
    let pace = Limits {
        pause_min: Duration::from_millis(2),
        pause_max: Duration::from_millis(50),
        ..Limits::default()
    };
    Options {
        check_interval: Duration::from_millis(20),
        absent_for: Duration::ZERO,
        pace,
        ..Options::default()
    }
}

#[test]
fn hints_reach_their_owner_once_it_is_up_and_are_forgotten() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let _running = stage.join(&owner).await;
        stage.keep_many("n2", 500);
        stage.keep("n2", 3, object(8, "more"));
        // The checks alone would take for ever: news must wake it.
        let handoff = stage.start(Options { check_interval: Duration::from_secs(3600), ..quick() });
        until("seen", || handoff.stats().len() == 1).await;
        time::sleep(Duration::from_millis(100)).await;
        assert_eq!(stage.kept(), 500);
        assert_eq!(handoff.stats()[0].state, "waiting");
        assert_eq!(handoff.stats()[0].drain_s, None);

        stage.comes_up("n2");
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!(owner.count(), 500);
        let mut both = Object::clone(&object(7, "3"));
        both.merge(&object(8, "more"));
        assert!(owner.holds(&key(3), &both));
        assert_eq!(owner.received.load(Ordering::SeqCst), 500, "each was sent once");
        assert_eq!(stage.metrics.hints_stored.get(), 501);
        assert_eq!(stage.metrics.hints_delivered.get(), 500);

        // One that comes while the owner is up goes at once when somebody says so.
        stage.keep("n2", 900, object(7, "late"));
        handoff.poke();
        until("the late one delivered", || stage.kept() == 0).await;
        assert!(handoff.stats().is_empty());
        handoff.stop().await;
        stage.engine().close().await.unwrap();
        assert_eq!(open(&stage.dir).await.engine().stats().hints, 0);
    });
}

#[test]
fn an_owner_that_dies_on_the_way_loses_nothing() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let running = stage.join(&owner).await;
        stage.keep_many("n2", 300);
        stage.comes_up("n2");
        owner.acks_left.store(100, Ordering::SeqCst);
        let handoff = stage.start(quick());
        until("half-way", || owner.received.load(Ordering::SeqCst) > 100).await;
        running.shutdown.notify_one();
        running.done.await.unwrap();
        until("acks are in", || handoff.stats()[0].state == "paused").await;
        for n in 0..300 {
            let (key, object) = (key(n), object(7, &n.to_string()));
            let is_kept = stage.engine().hinted(&key) == Some(object.clone());
            assert!(is_kept || owner.holds(&key, &object), "{n} is lost");
        }
        assert!(stage.kept() >= 200);

        owner.acks_left.store(u64::MAX, Ordering::SeqCst);
        let _again = serve_at(&running.addr, &owner).await;
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!(owner.count(), 300);
        handoff.stop().await;
    });
}

#[test]
fn a_hint_that_grows_on_its_way_is_sent_again() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let _running = stage.join(&owner).await;
        owner.set(Conduct::AckWhenAllowed);
        stage.keep("n2", 1, object(7, "first"));
        stage.comes_up("n2");
        let handoff = stage.start(quick());
        until("on its way", || owner.received.load(Ordering::SeqCst) == 1).await;
        stage.keep("n2", 1, object(8, "second"));
        owner.gate.notify_one();
        until("sent again", || owner.received.load(Ordering::SeqCst) == 2).await;
        assert_eq!(stage.kept(), 1, "the ack was for what it had been");
        assert_eq!(stage.metrics.hints_delivered.get(), 0);
        owner.gate.notify_one();
        until("delivered", || stage.kept() == 0).await;
        let mut both = Object::clone(&object(7, "first"));
        both.merge(&object(8, "second"));
        assert!(owner.holds(&key(1), &both));
        handoff.stop().await;
    });
}

#[test]
fn hints_outlive_the_process_that_took_them() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let _running = stage.join(&owner).await;
        stage.keep_many("n2", 50);
        stage.engine().close().await.unwrap();
        stage.replica = open(&stage.dir).await;
        assert_eq!(stage.kept(), 50);
        stage.comes_up("n2");
        let handoff = stage.start(quick());
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!(owner.count(), 50);
        handoff.stop().await;
    });
}

#[test]
fn hints_of_an_owner_that_left_go_to_every_home_replica() {
    run(async {
        let mut stage = Stage::new().await;
        let (second, third) = (Member::new("n2"), Member::new("n3"));
        let _two = stage.join(&second).await;
        let _three = stage.join(&third).await;
        stage.ring.change(|ring| ring.homes.push(Home::Here));
        stage.keep_many("n9", 40);
        third.set(Conduct::Refuse);
        let handoff = stage.start(quick());
        until("one home has some", || second.count() > 0).await;
        until("the other refuses", || handoff.stats()[0].state == "paused").await;
        assert_eq!(stage.kept(), 40, "one that refuses keeps them all");
        third.set(Conduct::Ack);
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!((second.count(), third.count()), (40, 40));
        for n in 0..40 {
            let held = stage.replica.read(&key(n)).await.unwrap();
            assert_eq!(held.object, Some(object(7, &n.to_string())));
        }
        assert_eq!(stage.metrics.hints_reresolved.get(), 40);
        handoff.stop().await;
    });
}

#[test]
fn a_member_that_is_away_from_the_ring_for_a_moment_keeps_its_hints() {
    run(async {
        let mut stage = Stage::new().await;
        let (second, third) = (Member::new("n2"), Member::new("n3"));
        let _two = stage.join(&second).await;
        let _three = stage.join(&third).await;
        stage.ring.change(|ring| {
            ring.members.remove("n3");
        });
        stage.keep_many("n3", 5);
        let handoff = stage.start(Options { absent_for: Duration::from_secs(3600), ..quick() });
        time::sleep(Duration::from_millis(200)).await;
        assert_eq!(stage.kept(), 5);
        stage.ring.change(|ring| {
            ring.members.insert("n3".to_owned());
        });
        stage.comes_up("n3");
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!((second.count(), third.count()), (0, 5));
        handoff.stop().await;
    });
}

#[test]
fn an_owner_that_is_no_home_any_more_does_not_get_the_hint() {
    run(async {
        let mut stage = Stage::new().await;
        let (second, third) = (Member::new("n2"), Member::new("n3"));
        let _two = stage.join(&second).await;
        let _three = stage.join(&third).await;
        stage.ring.change(|ring| drop(ring.homes.remove(0)));
        stage.keep_many("n2", 5);
        stage.comes_up("n2");
        let handoff = stage.start(quick());
        until("all delivered", || stage.kept() == 0).await;
        assert_eq!((second.count(), third.count()), (0, 5));
        handoff.stop().await;
    });
}

#[test]
fn hints_that_are_too_old_are_dropped_and_counted() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let _running = stage.join(&owner).await;
        let now_ms = time::wall_clock_ms();
        for (n, age_ms) in [(1, 10_000_000), (2, 7_300_000), (3, 7_100_000), (4, 0)] {
            let kept = stage.engine().put_hint("n2", &key(n), object(7, "old"), now_ms - age_ms);
            drop(kept.unwrap());
        }
        let handoff = stage.start(Options { max_age: Duration::from_secs(7200), ..quick() });
        until("two dropped", || stage.kept() == 2).await;
        assert_eq!(stage.metrics.hints_expired.get(), 2);
        assert_eq!(handoff.stats()[0].oldest_ms, now_ms - 7_100_000);
        stage.comes_up("n2");
        until("the others delivered", || stage.kept() == 0).await;
        assert!(owner.holds(&key(3), &object(7, "old")));
        assert_eq!(owner.count(), 2);
        assert_eq!(stage.metrics.hints_expired.get(), 2);
        handoff.stop().await;
    });
}

#[test]
fn an_owner_that_refuses_or_hangs_does_not_hold_up_the_others() {
    run(async {
        for conduct in [Conduct::Refuse, Conduct::Hang] {
            let mut stage = Stage::new().await;
            let (second, third) = (Member::new("n2"), Member::new("n3"));
            let _two = stage.join(&second).await;
            let _three = stage.join(&third).await;
            second.set(conduct);
            stage.keep_many("n2", 20);
            stage.keep_many("n3", 20);
            stage.comes_up("n2");
            stage.comes_up("n3");
            let ack_timeout = Duration::from_millis(30);
            let handoff = stage.start(Options { owners_max: 1, ack_timeout, ..quick() });
            until("the other is done", || third.count() == 20).await;
            until("its hints are gone", || stage.kept() == 20).await;
            second.set(Conduct::Ack);
            until("all delivered", || stage.kept() == 0).await;
            handoff.stop().await;
        }
    });
}

#[test]
fn what_is_on_its_way_is_bounded_in_number_and_bytes() {
    run(async {
        for (in_flight_bytes_max, window_max, most) in [(40_000, 64, 5), (1 << 20, 3, 3)] {
            let mut stage = Stage::new().await;
            let owner = Member::new("n2");
            let _running = stage.join(&owner).await;
            owner.set(Conduct::AckSlowly);
            for n in 0..60 {
                stage.keep("n2", n, object(7, &"x".repeat(10_000)));
            }
            stage.comes_up("n2");
            let pace = Limits { window_max, ..quick().pace };
            let handoff = stage.start(Options { in_flight_bytes_max, pace, ..quick() });
            until("all delivered", || stage.kept() == 0).await;
            let seen = owner.most_at_once.load(Ordering::SeqCst);
            assert!((2..=most).contains(&seen), "{seen} at once, allowed {most}");
            handoff.stop().await;
        }
    });
}

#[test]
fn people_see_how_it_goes() {
    run(async {
        let mut stage = Stage::new().await;
        let owner = Member::new("n2");
        let _running = stage.join(&owner).await;
        owner.set(Conduct::AckSlowly);
        stage.keep_many("n2", 600);
        stage.comes_up("n2");
        let pace = Limits { window_max: 2, ..quick().pace };
        let handoff = stage.start(Options { pace, ..quick() });
        until("a rate is known", || handoff.stats()[0].drain_s.is_some()).await;
        let stats = handoff.stats().remove(0);
        assert_eq!((&*stats.owner, stats.state), ("n2", "replaying"));
        assert!(stats.count > 0 && stats.count <= 600 && stats.bytes > stats.count * 100);
        assert!(stats.rate_per_s > 0.0 && stats.drain_s > Some(0.0), "{stats:?}");
        handoff.stop().await;
        let kept = stage.kept();
        time::sleep(Duration::from_millis(50)).await;
        assert_eq!(stage.kept(), kept, "stopped");
        assert!(kept > 0);
    });
}

#[test]
fn hints_past_the_limit_are_counted_as_refused() {
    run(async {
        let dir = TempDir::new().unwrap();
        let options = storage::Options { hint_bytes_max: 2000, ..storage::Options::default() };
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        let replica = Replica::start(engine, WriteRules::default()).await.unwrap();
        let metrics = Metrics::default();
        let mut stored = 0;
        while keep(&replica, &metrics, "n2", &key(stored), object(7, "value")).is_ok() {
            stored += 1;
        }
        assert!(stored > 1);
        assert_eq!(metrics.hints_stored.get(), stored);
        assert_eq!(metrics.hints_refused.get(), 1);
    });
}
