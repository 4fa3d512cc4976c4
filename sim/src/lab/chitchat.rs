//! chitchat's server in the laboratory: scuttlebutt gossip and a phi accrual detector.
//!
//! chitchat's machine is private (`create_syn_message`, `process_message` and `update_nodes_liveness`
//! are its crate's own). What is public is its server, a tokio task over a `Transport`. So each
//! member gets a tokio runtime of its own whose clock stands still, and this adapter moves that
//! clock to the laboratory's time, hands datagrams in, and lets the task run until it waits again.
//!
//! Three things follow:
//! - Its messages cannot be turned into bytes from outside. They wait in a cloakroom; the network
//!   carries the ticket, and counts what chitchat's own in-process transport says that the message
//!   weighs. A message cannot be copied either: of a datagram that arrives twice, it sees one.
//! - It draws its randomness from the operating system, and iterates hash sets. **Its rows alone do
//!   not follow from the seed**: they vary a little from run to run.
//! - A detector's window of 1,000 samples a peer at each member takes 8 GB at 1,000 members, so it is
//!   not run there.
//!
//! It calls a member dead also before it is sure that it lives, so down counts only after up.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, FailureDetectorConfig,
    ProtocolVersion, spawn_chitchat,
};
use rand_chacha::ChaCha8Rng;
use starling::runtime::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Belief, Factory, Outbox, Place, Seat, Subject, address_of, place_of};

const INTERVAL: Duration = Duration::from_secs(1);

/// tokio's timers fire at whole milliseconds, rounded up.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// How often the server's task gets its turn in a step: more than it needs to take one message and
/// one timer, and to wait again.
const TURNS: usize = 4;

/// Makes chitchat's servers.
#[derive(Debug, Default)]
pub struct ChitchatFactory {
    cloakroom: Arc<Mutex<Cloakroom>>,
}

impl Factory for ChitchatFactory {
    fn name(&self) -> &'static str {
        "chitchat"
    }

    fn settings(&self) -> String {
        "chitchat 0.13.0, FailureDetectorConfig::default(): gossip every 1 s with 3, phi 8 on an \
         exponential, 1,000 samples, first guess 5 s; protocol V1; randomness not from the seed; down \
         counts only after up"
            .to_owned()
    }

    fn limit(&self) -> Option<(usize, &'static str)> {
        Some((200, "its windows would take 8 GB"))
    }

    fn slowness(&self) -> u64 {
        8
    }

    fn start(&self, seat: Seat) -> Box<dyn Subject> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without sockets and threads needs nothing of the system");
        let own = address_of(seat.place);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(seat.place.to_string(), seat.starts, own),
            cluster_id: "laboratory".to_owned(),
            gossip_interval: INTERVAL,
            listen_addr: own,
            seed_nodes: seat.seeds.iter().map(|seed| address_of(*seed).to_string()).collect(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(3_600),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let (sender, inbound) = unbounded_channel();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { inbound: Mutex::new(Some(inbound)), sent: Arc::clone(&sent) };
        let handle = runtime
            .block_on(spawn_chitchat(config, Vec::new(), &gate))
            .expect("the transport opens, and no name needs to be looked up");
        Box::new(ChitchatSubject {
            runtime,
            handle,
            inbound: sender,
            sent,
            cloakroom: Arc::clone(&self.cloakroom),
            now: seat.now,
            // The first tick of its interval is at once.
            next_tick: seat.now + TIMER_GRAIN,
            up: vec![false; seat.members],
        })
    }
}

/// Messages on their way, by ticket. Those of lost datagrams are thrown out with the oldest.
#[derive(Debug, Default)]
struct Cloakroom {
    last: u64,
    messages: BTreeMap<u64, ChitchatEnvelope>,
}

impl Cloakroom {
    /// More than are ever on their way: members, times messages a second, times the longest pause.
    const MESSAGES_MAX: usize = 50_000;

    fn leave(&mut self, message: ChitchatEnvelope) -> Vec<u8> {
        self.last += 1;
        self.messages.insert(self.last, message);
        if self.messages.len() > Self::MESSAGES_MAX {
            self.messages.pop_first();
        }
        self.last.to_le_bytes().to_vec()
    }

    fn take(&mut self, ticket: &[u8]) -> Option<ChitchatEnvelope> {
        let ticket = u64::from_le_bytes(ticket.try_into().ok()?);
        self.messages.remove(&ticket)
    }
}

type Sent = Arc<Mutex<Vec<(SocketAddr, ChitchatEnvelope, usize)>>>;

/// The transport that ends in the laboratory.
struct Gate {
    inbound: Mutex<Option<UnboundedReceiver<RecvOutcome>>>,
    sent: Sent,
}

#[async_trait]
impl Transport for Gate {
    async fn open(&self, listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbound = inbound.ok_or_else(|| anyhow::anyhow!("there is one socket"))?;
        let scales = ChannelTransport::default();
        let pan = scales.open(pan_address()).await?;
        let scale = scales.open(listen_addr).await?;
        Ok(Box::new(GateSocket { listen_addr, inbound, sent: Arc::clone(&self.sent), scale, pan }))
    }
}

fn pan_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

struct GateSocket {
    listen_addr: SocketAddr,
    inbound: UnboundedReceiver<RecvOutcome>,
    sent: Sent,
    /// Chitchat's own in-process transport: it encodes what passes, says how long that is, and
    /// decodes it again.
    scale: Box<dyn Socket>,
    pan: Box<dyn Socket>,
}

#[async_trait]
impl Socket for GateSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listen_addr)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        message: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        let outcome = self.scale.send(pan_address(), message).await?;
        let weighed = self.pan.recv().await?;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push((to, weighed.envelope, outcome.num_bytes_sent));
        Ok(outcome)
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.inbound.recv().await.ok_or_else(|| anyhow::anyhow!("the laboratory is gone"))
    }
}

struct ChitchatSubject {
    runtime: tokio::runtime::Runtime,
    handle: ChitchatHandle,
    inbound: UnboundedSender<RecvOutcome>,
    sent: Sent,
    cloakroom: Arc<Mutex<Cloakroom>>,
    /// What the runtime's clock shows, as laboratory time.
    now: Instant,
    next_tick: Instant,
    up: Vec<bool>,
}

impl ChitchatSubject {
    /// Moves the clock to `now`, and lets the server run until it waits.
    fn run(&mut self, now: Instant, out: &mut Outbox) {
        let passed = now.since(self.now);
        self.now = now;
        self.runtime.block_on(async {
            if !passed.is_zero() {
                tokio::time::advance(passed).await;
            }
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
        let sent = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        let mut cloakroom = self.cloakroom.lock().unwrap_or_else(PoisonError::into_inner);
        for (to, message, bytes) in sent {
            out.send_as(place_of(to), cloakroom.leave(message), bytes);
        }
    }

    fn look(&mut self, out: &mut Outbox) {
        let mut up = vec![false; self.up.len()];
        let chitchat = self.handle.chitchat();
        let guard = self.runtime.block_on(chitchat.lock());
        for id in guard.live_nodes() {
            up[place_of(id.gossip_advertise_addr)] = true;
        }
        for (place, up) in up.into_iter().enumerate() {
            let was = std::mem::replace(&mut self.up[place], up);
            if was != up {
                out.believe(place, if up { Belief::Up } else { Belief::Down });
            }
        }
    }
}

impl Subject for ChitchatSubject {
    fn next_tick(&self) -> Instant {
        self.next_tick
    }

    fn tick(&mut self, now: Instant, _rng: &mut ChaCha8Rng, out: &mut Outbox) {
        self.run(now, out);
        // It counts members as dead or alive at the end of each round, and at no other time.
        self.look(out);
        while self.next_tick <= now {
            self.next_tick = self.next_tick + INTERVAL;
        }
    }

    fn receive(
        &mut self,
        now: Instant,
        from: Place,
        content: &[u8],
        _rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        let found = self.cloakroom.lock().unwrap_or_else(PoisonError::into_inner).take(content);
        let Some(envelope) = found else { return };
        let from_addr = address_of(from);
        let outcome = RecvOutcome { from_addr, envelope, num_bytes_received: content.len() };
        self.inbound.send(outcome).expect("the server holds the other end");
        self.run(now, out);
    }
}
