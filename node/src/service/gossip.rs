//! The task that drives the [membership machine](crate::domain::membership) over UDP.
//!
//! ```text
//!            datagrams                 events
//!  socket ◀───────────▶ machine ──────────────────▶ beliefs of the Cluster, log lines, waiters
//!                          ▲ seeds
//!            resolver ─────┘   (names are resolved again and again: addresses change)
//! ```
//!
//! Everything that gossip knows is in the machine, behind one lock that is held for one datagram or tick, never
//! across an await. What the machine decides is carried out and logged here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::cluster::Cluster;
use crate::domain::causality::NodeId;
use crate::domain::key::murmur3;
use crate::domain::membership::{
    Counters, Effects, Event, Health, Machine, MemberInfo, Standing, View,
};
use crate::rpc::Peers;
use crate::runtime::net::{self, UdpSocket};
use crate::runtime::rng::{self, Rng};
use crate::runtime::time;
use crate::runtime::{event, task};

/// Longer datagrams than any member sends are cut, and then malformed.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// How often seeds are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How soon seeds of which none could be resolved are tried again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// How long one name may take to resolve.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Seeds and their addresses that are used, at most.
const SEEDS_MAX: usize = 1024;

/// This node's part in the gossip. Clones are the same.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    machine: Mutex<Driven>,
    socket: UdpSocket,
    /// Rung when something changed that somebody may wait for.
    changed: Notify,
    /// Rung when the machine may want its tick earlier.
    rearm: Notify,
    stop: Notify,
    /// Who is told what is believed, once there is a ring.
    told: OnceLock<(Arc<Cluster>, Peers)>,
}

struct Driven {
    machine: Machine,
    rng: Rng,
}

impl Gossip {
    /// Starts to gossip on `socket`. `seeds` are `host:port`, resolved now and again: the first time
    /// before anything else, since a machine that knows of nobody takes itself for alone.
    pub async fn start(socket: UdpSocket, mut machine: Machine, seeds: Vec<String>) -> Self {
        let found = time::timeout(RESOLVE_WITHIN, resolve_all(&seeds)).await.unwrap_or_default();
        let pause = if found.is_empty() { RESOLVE_AGAIN } else { RESOLVE_EVERY };
        machine.set_seeds(found);
        let inner = Arc::new(Inner {
            machine: Mutex::new(Driven { machine, rng: rng::fork("gossip") }),
            socket,
            changed: Notify::new(),
            rearm: Notify::new(),
            stop: Notify::new(),
            told: OnceLock::new(),
        });
        let (listening, resolving) = (inner.clone(), inner.clone());
        task::spawn(async move {
            tokio::select! {
                biased;
                () = listening.stop.notified() => {}
                () = listening.run() => {}
                () = listening.tick() => {}
                () = listening.resolve(seeds, pause) => {}
            }
        });
        Self { inner: resolving }
    }

    /// How this process stands, once it is known: after the first answer of any member, or when none
    /// has come for a while.
    pub async fn standing(&self) -> Standing {
        self.wait(|machine| match machine.standing() {
            Standing::Joining => None,
            known @ (Standing::Member | Standing::Outdated { .. } | Standing::NameTaken { .. }) => {
                Some(known)
            }
        })
        .await
    }

    /// The data folder took a new id: this process announces itself under it.
    pub fn renew(&self, node: NodeId, generation: u64) {
        self.inner.lock().machine.renew(node, generation);
        self.inner.rearm.notify_one();
    }

    /// The data folder has a higher generation, durably: others are told.
    pub fn raise_generation(&self, generation: u64) {
        self.inner.lock().machine.raise_generation(generation);
    }

    /// What the members of these names say of themselves, once all of them were heard of.
    pub async fn infos(&self, names: &[String]) -> Vec<MemberInfo> {
        self.wait(|machine| {
            let now = time::now();
            names.iter().map(|name| machine.view(name, now).map(|view| view.info)).collect()
        })
        .await
    }

    /// Waits until one of `known` is somewhere else than it says, or has another id; returns them all as
    /// they are now, with the zones and vnodes that they had.
    pub async fn moved(&self, known: &[MemberInfo]) -> Vec<MemberInfo> {
        self.wait(|machine| {
            let now = time::now();
            let look = |old: &MemberInfo| match machine.view(&old.name, now) {
                Some(view) => {
                    MemberInfo { zone: old.zone.clone(), vnodes: old.vnodes, ..view.info }
                }
                None => old.clone(),
            };
            let place = |member: &MemberInfo| {
                (member.node, member.gossip, member.rpc.clone(), member.http.clone())
            };
            let found: Vec<MemberInfo> = known.iter().map(look).collect();
            known.iter().map(place).ne(found.iter().map(place)).then_some(found)
        })
        .await
    }

    /// Those of `names` that were not heard of yet.
    pub fn missing<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let (driven, now) = (self.inner.lock(), time::now());
        let unknown = |name: &&'a String| driven.machine.view(name, now).is_none();
        names.iter().filter(unknown).map(String::as_str).collect()
    }

    /// From now on `cluster` hears what is believed, and `peers` where members are.
    pub fn tell(&self, cluster: Arc<Cluster>, peers: Peers) {
        // Told once, by whoever puts the node together.
        let _already = self.inner.told.set((cluster, peers));
        let views = self.members();
        for view in views.iter().filter(|view| !view.is_self) {
            self.inner.pass_on(&view.info.name);
        }
    }

    /// True when a member of this name was heard of.
    pub fn knows(&self, name: &str) -> bool {
        self.inner.lock().machine.view(name, time::now()).is_some()
    }

    /// Everyone that this node knows of, itself among them, sorted by name.
    pub fn members(&self) -> Vec<View> {
        self.inner.lock().machine.members(time::now())
    }

    /// What has happened since the start.
    pub fn counters(&self) -> Counters {
        self.inner.lock().machine.counters()
    }

    /// What this node tells of its load: requests in flight.
    pub fn set_load(&self, load: u32) {
        self.inner.lock().machine.update_own(|own| own.load = load);
    }

    /// Says goodbye and falls silent.
    pub async fn stop(&self) {
        let mut effects = Effects::default();
        self.inner.lock().machine.goodbye(&mut effects);
        self.inner.carry_out(effects).await;
        self.inner.stop.notify_one();
    }

    async fn wait<T>(&self, mut look: impl FnMut(&Machine) -> Option<T>) -> T {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&self.inner.lock().machine) {
                return found;
            }
            changed.await;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Driven> {
        // A panic anywhere ends the process.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drive(&self, step: impl FnOnce(&mut Machine, &mut Rng, &mut Effects)) -> Effects {
        let mut effects = Effects::default();
        let mut driven = self.lock();
        let Driven { machine, rng } = &mut *driven;
        step(machine, rng, &mut effects);
        effects
    }

    async fn run(&self) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let effects = self.drive(|machine, rng, effects| {
                        machine.receive(time::now(), from, &buffer[..length], rng, effects);
                    });
                    self.rearm.notify_one();
                    self.carry_out(effects).await;
                }
                Err(error) => {
                    // Such as a port that nobody listens on any more: nothing that waiting mends.
                    tracing::debug!(%error, "cannot receive gossip");
                    time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn tick(&self) {
        loop {
            let due = self.lock().machine.next_tick();
            if due > time::now() {
                tokio::select! {
                    biased;
                    () = self.rearm.notified() => {}
                    () = time::sleep_until(due) => {}
                }
                continue;
            }
            let effects = self.drive(|machine, rng, effects| {
                machine.tick(time::now(), rng, effects);
            });
            self.carry_out(effects).await;
        }
    }

    async fn resolve(&self, seeds: Vec<String>, mut pause: Duration) {
        loop {
            time::sleep(pause).await;
            let found = resolve_all(&seeds).await;
            pause = if found.is_empty() { RESOLVE_AGAIN } else { RESOLVE_EVERY };
            if !found.is_empty() {
                self.lock().machine.set_seeds(found);
                self.rearm.notify_one();
            }
        }
    }

    async fn carry_out(&self, effects: Effects) {
        for told in &effects.events {
            self.handle(told);
        }
        if !effects.events.is_empty() {
            self.changed.notify_waiters();
        }
        for (to, datagram) in effects.datagrams {
            if let Err(error) = self.socket.send_to(&datagram, to).await {
                tracing::debug!(%to, %error, "cannot send gossip");
            }
        }
    }

    fn handle(&self, told: &Event) {
        let subject = match told {
            Event::Standing(standing) => {
                tracing::debug!(?standing, "standing in the cluster");
                return;
            }
            Event::Learned(name)
            | Event::Changed(name)
            | Event::Restarted(name)
            | Event::Up(name)
            | Event::Suspected(name)
            | Event::Down(name)
            | Event::Stopped(name) => name,
        };
        let token = murmur3(subject.as_bytes()).0;
        let view = self.lock().machine.view(subject, time::now());
        let Some(view) = view else { return };
        let (heartbeat, why) = (view.heartbeat, &view.reasons);
        match told {
            Event::Up(name) => {
                event::note("member_up", token, view.incarnation);
                tracing::info!(member = %name, rpc = %view.info.rpc, "member is up");
            }
            Event::Suspected(name) => {
                event::note("member_suspect", token, view.incarnation);
                tracing::info!(member = %name, heartbeat, "member is suspected: {why}");
            }
            Event::Down(name) => {
                event::note("member_down", token, view.incarnation);
                tracing::warn!(member = %name, heartbeat, "member is down: {why}");
            }
            Event::Stopped(name) => {
                event::note("member_stopped", token, view.incarnation);
                tracing::info!(member = %name, "member has stopped");
            }
            Event::Restarted(name) => {
                event::note("member_restarted", token, view.incarnation);
                tracing::info!(member = %name, generation = view.info.generation, "member has restarted");
            }
            Event::Learned(name) => {
                tracing::info!(member = %name, rpc = %view.info.rpc, "heard of a member");
            }
            Event::Changed(name) => {
                tracing::info!(member = %name, rpc = %view.info.rpc, "member says something else of itself");
            }
            Event::Standing(_) => {}
        }
        self.pass_on(subject);
    }

    /// Tells the ring's side what is believed of `name`, and where it is.
    fn pass_on(&self, name: &str) {
        let Some((cluster, peers)) = self.told.get() else { return };
        let Some(view) = self.lock().machine.view(name, time::now()) else { return };
        if view.health == Health::Unknown {
            return;
        }
        if let Some(peer) = peers.get(name) {
            peer.set_address(&view.info.rpc);
        }
        cluster.believe(name, view.health);
    }
}

/// The addresses of all seeds that have any at present.
async fn resolve_all(seeds: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for seed in seeds.iter().take(SEEDS_MAX) {
        match time::timeout(RESOLVE_WITHIN, net::lookup_host(seed)).await {
            Ok(Ok(addresses)) => found.extend(addresses),
            Ok(Err(error)) => tracing::warn!(%seed, %error, "cannot resolve a seed"),
            Err(_) => tracing::warn!(%seed, "cannot resolve a seed in time"),
        }
    }
    found.truncate(SEEDS_MAX);
    found
}
