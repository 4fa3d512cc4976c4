//! The history as it is written: one entry a request, in the order in which they begin.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use starling_world::trace;

use crate::history::{
    Asked, ClientId, History, KeyIndex, KeyInfo, Kind, NodeIndex, OpId, Operation, Outcome, ValueId,
};
use crate::plan::{ClientNo, NodeNo, Plan};

use super::lock;

/// Writes the history of one run.
pub(super) struct Recorder {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: History,
    keys: BTreeMap<String, KeyIndex>,
    values: BTreeMap<Bytes, ValueId>,
}

/// A request that is about to be sent.
pub(super) struct Begin<'a> {
    pub(super) client: ClientNo,
    pub(super) node: NodeNo,
    pub(super) key: &'a str,
    pub(super) kind: Kind,
    pub(super) asked: Asked,
    pub(super) context_from: Option<OpId>,
    pub(super) retry_of: Option<OpId>,
}

impl Recorder {
    /// A recorder of the keys of `plan`, with nothing in its history.
    pub(super) fn new(plan: &Plan) -> Self {
        let mut inner = Inner::default();
        for name in plan.keys() {
            inner.keys.insert(name.clone(), KeyIndex(inner.history.keys.len() as u32));
            let bucket = name.split('/').next().unwrap_or_default();
            let last_write = plan.settings.last_write.iter().any(|lww| lww == bucket);
            let (homes, fallbacks) = Default::default();
            inner.history.keys.push(KeyInfo { name, homes, fallbacks, last_write });
        }
        Self { inner: Mutex::new(inner) }
    }

    /// Writes down where the keys live; in the order of [`Plan::keys`]. With `fallbacks`, every other
    /// owner may stand in for a home replica.
    pub(super) fn set_homes(&self, plan: &Plan, homes: Vec<Vec<NodeNo>>, fallbacks: bool) {
        let owners: Vec<NodeIndex> = plan.owners().into_iter().map(node_index).collect();
        let mut inner = lock(&self.inner);
        assert_eq!(homes.len(), inner.history.keys.len(), "every key lives somewhere");
        for (info, homes) in inner.history.keys.iter_mut().zip(homes) {
            info.homes = homes.into_iter().map(node_index).collect();
            if fallbacks {
                let others = owners.iter().filter(|owner| !info.homes.contains(owner));
                info.fallbacks = others.copied().collect();
            }
        }
    }

    /// The keys, with their homes.
    pub(super) fn keys(&self) -> Vec<KeyInfo> {
        lock(&self.inner).history.keys.clone()
    }

    /// Makes the value `id` known by its bytes, before anybody sends it.
    pub(super) fn know(&self, value: ValueId, bytes: &Bytes) {
        lock(&self.inner).values.insert(bytes.clone(), value);
    }

    /// Which value has these bytes, if anybody ever sent them.
    pub(super) fn recognise(&self, bytes: &[u8]) -> Option<ValueId> {
        lock(&self.inner).values.get(bytes).copied()
    }

    /// Writes down that a request is being sent now. Until [`Recorder::end`] its outcome is unknown.
    pub(super) fn begin(&self, begin: Begin<'_>) -> OpId {
        let now = starling_world::now();
        let mut inner = lock(&self.inner);
        let id = OpId(inner.history.ops.len() as u32);
        let key = *inner.keys.get(begin.key).expect("operations touch keys of the plan alone");
        inner.history.ops.push(Operation {
            id,
            client: ClientId(begin.client.0 - 1),
            node: node_index(begin.node),
            key,
            kind: begin.kind,
            asked: begin.asked,
            context_from: begin.context_from,
            retry_of: begin.retry_of,
            start_ns: now,
            end_ns: u64::MAX,
            outcome: Outcome::Unknown { status: None, required: None, received: None },
        });
        drop(inner);
        let kind = match begin.kind {
            Kind::Get => "client_get",
            Kind::Put { .. } => "client_put",
            Kind::Delete => "client_delete",
        };
        trace::emit(kind, u64::from(id.0), u64::from(begin.node.0));
        id
    }

    /// Writes down what the client heard, now.
    pub(super) fn end(&self, id: OpId, outcome: Outcome) {
        let now = starling_world::now();
        let (kind, detail) = match &outcome {
            Outcome::Got(got) => ("client_got", digest_of(&got.values)),
            Outcome::Acked { siblings, .. } => ("client_acked", u64::from(*siblings)),
            Outcome::Refused { status } => ("client_refused", u64::from(status.unwrap_or(0))),
            Outcome::Unknown { status, .. } => ("client_unsure", u64::from(status.unwrap_or(0))),
        };
        let mut inner = lock(&self.inner);
        let operation = &mut inner.history.ops[id.0 as usize];
        operation.end_ns = now;
        operation.outcome = outcome;
        drop(inner);
        trace::emit(kind, u64::from(id.0), detail);
    }

    /// The history. Requests that are still under way end now, their outcome unknown.
    pub(super) fn take(&self) -> History {
        let now = starling_world::now();
        let mut history = std::mem::take(&mut lock(&self.inner).history);
        for operation in &mut history.ops {
            operation.end_ns = operation.end_ns.min(now);
        }
        history
    }
}

/// The node's place in the plan, which is how histories name it.
pub(super) fn node_index(node: NodeNo) -> NodeIndex {
    NodeIndex(node.0 - 1)
}

/// One number that tells sets of values apart, for the trace.
fn digest_of(values: &[ValueId]) -> u64 {
    values.iter().fold(values.len() as u64, |hash, value| {
        (hash ^ value.0).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
    })
}
