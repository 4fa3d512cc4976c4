//! The clients: each a machine of its own that does its operations one after the other over HTTP,
//! remembers contexts, and tries again where a client would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starling::client::{Client, ClientError, Request, Response, kv_target};
use starling_world::{machine, time};
use tokio::sync::mpsc;

use crate::history::{Asked, Kind, OpId, Outcome, ValueId};
use crate::plan::{Action, ClientNo, ClientPlan, Context, Level, NodeNo, Operation, Plan};

use super::answer;
use super::budget;
use super::cluster::Cluster;
use super::recorder::{Begin, Recorder};

/// Operations that are due within so long go in one batch.
const BATCH_MS: u64 = 1_000;

/// A client's memory.
pub(super) struct Session {
    pub(super) plan: Arc<Plan>,
    pub(super) recorder: Arc<Recorder>,
    client: ClientNo,
    pub(super) manners: ClientPlan,
    addresses: Vec<SocketAddr>,
    connections: BTreeMap<NodeNo, Client>,
    /// For each key, the last context received and the operation that received it.
    contexts: BTreeMap<String, Received>,
}

/// A context and the operation that received it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    from: OpId,
    pub(super) token: String,
}

/// One request, but for the node.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: String,
    pub(super) kind: Kind,
    /// The value's bytes, of a PUT.
    pub(super) body: Bytes,
    pub(super) level: Option<Level>,
    pub(super) sloppy: Option<bool>,
    pub(super) ttl_s: Option<u32>,
    pub(super) context: Option<Received>,
}

/// Starts every client of the plan; they stop by themselves when the faults end.
pub(super) fn start_all(
    plan: &Arc<Plan>,
    cluster: &Cluster,
    recorder: &Arc<Recorder>,
    start_ns: u64,
) -> mpsc::UnboundedReceiver<ClientNo> {
    let (done, all_done) = mpsc::unbounded_channel();
    for client in plan.client_numbers() {
        let session = Session::new(plan, cluster, recorder, client);
        let done = done.clone();
        machine::start(cluster.client_machine(client), move || async move {
            session.run(start_ns).await;
            // The harness has given up waiting if nobody listens.
            done.send(client).ok();
        });
    }
    all_done
}

/// Waits until every client has finished what it began; says who has not in time.
pub(super) async fn join_all(
    mut done: mpsc::UnboundedReceiver<ClientNo>,
    plan: &Plan,
) -> Vec<String> {
    let mut waiting = plan.client_numbers();
    let all = async {
        while let Some(client) = done.recv().await {
            waiting.retain(|other| *other != client);
        }
    };
    let patience = plan.clients.iter().map(|c| c.patience_ms).max().unwrap_or(0);
    // An update is two requests.
    let limit = Duration::from_millis(2 * budget::give_up_ms(patience) + 1_000);
    time::timeout(limit, all).await.ok();
    let late = |client| format!("client {client} has not finished its last operation");
    waiting.into_iter().map(late).collect()
}

impl Session {
    /// A client that knows nothing yet.
    pub(super) fn new(
        plan: &Arc<Plan>,
        cluster: &Cluster,
        recorder: &Arc<Recorder>,
        client: ClientNo,
    ) -> Self {
        let manners = plan.clients.get(client.0 as usize - 1).copied();
        Self {
            plan: Arc::clone(plan),
            recorder: Arc::clone(recorder),
            client,
            manners: manners.unwrap_or_else(|| budget::observer(plan)),
            addresses: plan.node_numbers().into_iter().map(|n| cluster.http_address(n)).collect(),
            connections: BTreeMap::new(),
            contexts: BTreeMap::new(),
        }
    }

    async fn run(mut self, start_ns: u64) {
        let plan = Arc::clone(&self.plan);
        let end_ns = start_ns + plan.length.faults_ms * 1_000_000;
        let client = self.client;
        let own = plan.operations.iter().filter(|operation| operation.client == client);
        let own: Vec<Operation> = own.cloned().collect();
        let most = self.manners.batch_max.unwrap_or(1) as usize;
        let mut at = 0;
        while at < own.len() {
            let begin_ms = own[at].at_ms;
            let wait_ns = (start_ns + begin_ms * 1_000_000).saturating_sub(starling_world::now());
            if wait_ns > 0 {
                time::sleep(Duration::from_nanos(wait_ns)).await;
            }
            if starling_world::now() >= end_ns {
                return;
            }
            let due = own[at..].iter().take(most);
            let due = due.take_while(|op| op.at_ms <= begin_ms + BATCH_MS && is_simple(op));
            match due.count() {
                0 | 1 => {
                    self.perform(&own[at], end_ns).await;
                    at += 1;
                }
                several => {
                    self.batch(&own[at..at + several]).await;
                    at += several;
                }
            }
        }
    }

    async fn perform(&mut self, operation: &Operation, end_ns: u64) {
        if let Action::List { limit, reverse } = operation.action {
            return self.list(operation, limit, reverse, end_ns).await;
        }
        let mut ask = self.ask(operation);
        if let Action::Update { bytes } = operation.action {
            let (read, outcome) = self.insist(&ask, operation.node, end_ns).await;
            if !matches!(outcome, Outcome::Got(_)) {
                return;
            }
            self.write(&mut ask, operation.id, bytes);
            let received = self.contexts.get(&operation.key);
            ask.context = received.filter(|received| received.from == read).cloned();
        }
        self.insist(&ask, operation.node, end_ns).await;
    }

    /// What `operation` asks for, or its first part.
    pub(super) fn ask(&self, operation: &Operation) -> Ask {
        let mut ask = Ask {
            key: operation.key.clone(),
            kind: Kind::Get,
            body: Bytes::new(),
            level: operation.level,
            sloppy: operation.sloppy,
            ttl_s: operation.ttl_s,
            context: None,
        };
        match operation.action {
            Action::Get | Action::Update { .. } | Action::List { .. } => {}
            Action::Put { bytes, context } => {
                self.write(&mut ask, operation.id, bytes);
                ask.context = self.context(&operation.key, context);
            }
            Action::Delete { context } => {
                ask.kind = Kind::Delete;
                ask.context = self.context(&operation.key, context);
            }
        }
        ask
    }

    fn context(&self, key: &str, which: Context) -> Option<Received> {
        match which {
            Context::None => None,
            Context::Last => self.contexts.get(key).cloned(),
        }
    }

    /// Makes `ask` a PUT of the operation's value.
    fn write(&self, ask: &mut Ask, operation: u32, bytes: u64) {
        let value = ValueId(u64::from(operation));
        ask.kind = Kind::Put { value };
        ask.body = value_bytes(operation, bytes);
        self.recorder.know(value, &ask.body);
    }

    /// Sends `ask`, and again as long as its outcome is open, the client has patience and the
    /// faults go on.
    async fn insist(&mut self, ask: &Ask, node: NodeNo, end_ns: u64) -> (OpId, Outcome) {
        let mut node = node;
        let (mut id, mut outcome) = self.attempt(ask, node, None).await;
        for _ in 0..self.manners.retries {
            if !is_worth_repeating(&outcome) {
                break;
            }
            time::sleep(Duration::from_millis(self.manners.retry_pause_ms)).await;
            if starling_world::now() >= end_ns {
                break;
            }
            if self.manners.retry_elsewhere {
                node = NodeNo(node.0 % self.addresses.len() as u32 + 1);
            }
            (id, outcome) = self.attempt(ask, node, Some(id)).await;
        }
        (id, outcome)
    }

    /// A strict read of `key` that asks every home replica.
    pub(super) async fn read_all(&mut self, key: &str, node: NodeNo) -> (OpId, Outcome) {
        let ask = Ask {
            key: key.to_owned(),
            kind: Kind::Get,
            body: Bytes::new(),
            level: Some(Level::All),
            sloppy: Some(false),
            ttl_s: None,
            context: None,
        };
        self.attempt(&ask, node, None).await
    }

    async fn attempt(
        &mut self,
        ask: &Ask,
        node: NodeNo,
        retry_of: Option<OpId>,
    ) -> (OpId, Outcome) {
        let id = self.begin(ask, node, retry_of);
        let heard = self.send(node, self.request(ask)).await;
        let outcome = self.end(id, ask, &heard);
        (id, outcome)
    }

    /// Writes down that `ask` is being sent now.
    pub(super) fn begin(&self, ask: &Ask, node: NodeNo, retry_of: Option<OpId>) -> OpId {
        self.recorder.begin(Begin {
            client: self.client,
            node,
            key: &ask.key,
            kind: ask.kind,
            asked: self.asked(ask),
            context_from: ask.context.as_ref().map(|received| received.from),
            retry_of,
        })
    }

    /// Sends one request and waits for the answer as long as the client's patience lasts.
    pub(super) async fn send(
        &mut self,
        node: NodeNo,
        request: Request,
    ) -> Result<Response, ClientError> {
        let address = self.addresses[node.0 as usize - 1];
        let mut connection = self.connections.remove(&node).unwrap_or_else(|| Client::new(address));
        let limit = Duration::from_millis(budget::give_up_ms(self.manners.patience_ms));
        let heard = connection.send(request, time::now() + limit).await;
        self.connections.insert(node, connection);
        heard
    }

    /// Writes down what was heard, and keeps the context that came along.
    pub(super) fn end(
        &mut self,
        id: OpId,
        ask: &Ask,
        heard: &Result<Response, ClientError>,
    ) -> Outcome {
        let outcome = answer::outcome(ask.kind, heard, |bytes| self.recorder.recognise(bytes));
        // A write that was refused for its siblings is told the context that resolves them.
        if let Ok(response) = heard
            && let Outcome::Got(_) | Outcome::Acked { .. } | Outcome::Refused { status: Some(409) } =
                outcome
            && let Some(token) = response.context.clone()
        {
            self.contexts.insert(ask.key.clone(), Received { from: id, token });
        }
        self.recorder.end(id, outcome.clone());
        outcome
    }

    pub(super) fn asked(&self, ask: &Ask) -> Asked {
        let settings = &self.plan.settings;
        let usual = match ask.kind {
            Kind::Get => settings.read_quorum,
            Kind::Put { .. } | Kind::Delete => settings.write_quorum,
        };
        Asked {
            need: settings.count(ask.level.unwrap_or(usual)) as u8,
            n: settings.replicas as u8,
            sloppy: ask.sloppy.unwrap_or(true),
            timeout_ns: self.manners.patience_ms * 1_000_000,
            ttl_ns: ttl_s(ask).map(|seconds| u64::from(seconds) * 1_000_000_000),
        }
    }

    fn request(&self, ask: &Ask) -> Request {
        let level = ask.level.map(|level| level.to_string());
        let sloppy = ask.sloppy.map(|sloppy| sloppy.to_string());
        // A client that is as patient as the nodes by default need not say so.
        let usual = self.manners.patience_ms == self.plan.settings.request_timeout_ms;
        let timeout = (!usual).then(|| self.manners.patience_ms.to_string());
        let ttl = ttl_s(ask).map(|seconds| seconds.to_string());
        let quorum = if ask.kind == Kind::Get { "r" } else { "w" };
        let parameters: Vec<(&str, &str)> =
            [(quorum, &level), ("sloppy", &sloppy), ("timeout_ms", &timeout), ("ttl", &ttl)]
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.as_deref()?)))
                .collect();
        let (bucket, name) = ask.key.split_once('/').expect("a plan's keys hold a slash");
        let target = kv_target(bucket, name, &parameters);
        let request = match ask.kind {
            Kind::Get => Request::get(target),
            Kind::Put { .. } => Request::put(target, ask.body.clone()),
            Kind::Delete => Request::delete(target),
        };
        request.with_context(ask.context.as_ref().map(|received| received.token.clone()))
    }
}

/// Only values have a time to live.
const fn ttl_s(ask: &Ask) -> Option<u32> {
    match ask.kind {
        Kind::Put { .. } => ask.ttl_s,
        Kind::Get | Kind::Delete => None,
    }
}

/// Whether it may go in a batch.
fn is_simple(operation: &Operation) -> bool {
    match operation.action {
        Action::Get | Action::Put { .. } | Action::Delete { .. } => true,
        Action::Update { .. } | Action::List { .. } => false,
    }
}

/// Whether a client that wants its operation done sends it again.
fn is_worth_repeating(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Got(_) | Outcome::Acked { .. } => false,
        Outcome::Refused { status } => status.is_none_or(|code| code == 429 || code >= 500),
        Outcome::Unknown { .. } => true,
    }
}

/// The value that `operation` writes: JSON of about `bytes` bytes, unlike any other's. What must be
/// kept byte for byte is there: spaces, escapes, odd numbers, repeated names.
fn value_bytes(operation: u32, bytes: u64) -> Bytes {
    let filler = "x".repeat(usize::try_from(bytes).unwrap_or(0).saturating_sub(24));
    Bytes::from(match operation % 5 {
        0 if filler.is_empty() => format!("{operation}"),
        1 => format!("[ {operation}, 1.0e0,\"\\u00e9 é\", \"{filler}\"]"),
        2 => format!("{{\"a\":{operation}, \"a\":-0, \"pad\":\"{filler}\"}}"),
        _ => format!("\"v{operation} {filler}\""),
    })
}
