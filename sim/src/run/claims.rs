//! What nodes noted of each other and of hints, read out of the trace.
//!
//! A note names a member by the first word of its name's murmur3, and a key by its token; words that no
//! node or key of the plan has are left out, as beliefs of a node about itself are.

use std::collections::BTreeMap;

use starling::domain::key::{Key, murmur3};
use starling_world::trace::{Event, Trace};

use crate::history::{
    Belief, Ending, Health, HintDeed, HintStep, KeyIndex, KeyInfo, Life, NodeIndex, Pruned,
};
use crate::plan::{NodeNo, Plan};

use super::recorder::node_index;

/// The kinds of events that are read here: a trace must keep these at least.
pub(super) const KINDS: &[&str] = &[
    "process_start",
    "process_exit",
    "process_kill",
    "power_loss",
    "member_up",
    "member_suspect",
    "member_down",
    "member_stopped",
    "hint_stored",
    "hint_delivered",
    "hint_expired",
    "hint_reresolved",
    "tombstone_forgotten",
    "object_unsalvaged",
    "minted_under",
    "vector_pruned",
];

/// What a trace tells.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) lives: Vec<Life>,
    pub(super) beliefs: Vec<Belief>,
    pub(super) steps: Vec<HintStep>,
    pub(super) forgotten: Vec<(KeyIndex, u64)>,
    pub(super) unsalvaged: Vec<(KeyIndex, NodeIndex, u64)>,
    pub(super) pruned: Vec<Pruned>,
}

impl Claims {
    /// Reads the trace of a run of `plan`, of whose keys `keys` tells.
    pub(super) fn read(plan: &Plan, keys: &[KeyInfo], trace: &Trace) -> Self {
        let words = Words::new(plan, keys);
        let (mut claims, mut actors) = (Self::default(), Actors::default());
        for event in trace.events() {
            let number = event.process.machine.number();
            // Nodes are the first machines that a run adds; the harness is number 0.
            if number == 0 || number as usize > plan.nodes.len() {
                continue;
            }
            actors.take(event);
            let (node, of_token) = (NodeIndex(number - 1), || words.sharing.get(&event.a));
            if event.kind == "tombstone_forgotten" {
                let keys = of_token().into_iter().flatten();
                claims.forgotten.extend(keys.map(|key| (*key, event.at_ns)));
            }
            if event.kind == "object_unsalvaged" {
                let keys = of_token().into_iter().flatten();
                claims.unsalvaged.extend(keys.map(|key| (*key, node, event.at_ns)));
            }
            claims.take(&words, node, event);
        }
        claims.pruned = actors.pruned(&words);
        claims
    }

    fn take(&mut self, words: &Words, node: NodeIndex, event: &Event) {
        let at_ns = event.at_ns;
        match event.kind {
            "process_start" => self.lives.push(Life { node, start_ns: at_ns, end: None }),
            "process_exit" => self.end(node, at_ns, Ending::Exit),
            "process_kill" | "power_loss" => self.end(node, at_ns, Ending::Killed),
            _ => {}
        }
        let subject = || words.nodes.get(&event.a).copied().filter(|subject| *subject != node);
        if let (Some(state), Some(subject)) = (health(event.kind), subject()) {
            self.beliefs.push(Belief { observer: node, subject, at_ns, state });
        }
        let (key, owner) = (words.keys.get(&event.a), words.nodes.get(&event.b));
        if let (Some(what), Some(key), Some(owner)) = (deed(event.kind), key, owner) {
            let (key, owner) = (*key, *owner);
            self.steps.push(HintStep { at_ns, holder: node, owner, key, what });
        }
    }

    /// A machine that loses its power may have no process.
    fn end(&mut self, node: NodeIndex, at_ns: u64, how: Ending) {
        let last = self.lives.iter_mut().rev().find(|life| life.node == node);
        if let Some(life) = last {
            life.end.get_or_insert((at_ns, how));
        }
    }
}

/// What becomes of actors, by the word of the key's token and their own.
#[derive(Default)]
struct Actors {
    minted_ns: BTreeMap<(u64, u64), Vec<u64>>,
    dropped_ns: BTreeMap<(u64, u64), u64>,
}

impl Actors {
    fn take(&mut self, event: &Event) {
        let place = (event.a, event.b);
        match event.kind {
            "minted_under" => self.minted_ns.entry(place).or_default().push(event.at_ns),
            "vector_pruned" => drop(self.dropped_ns.entry(place).or_insert(event.at_ns)),
            _ => {}
        }
    }

    fn pruned(self, words: &Words) -> Vec<Pruned> {
        let mut pruned = Vec::new();
        for (place, from_ns) in self.dropped_ns {
            let minted_ns = self.minted_ns.get(&place).cloned().unwrap_or_default();
            let of_token = words.sharing.get(&place.0).into_iter().flatten();
            pruned.extend(of_token.map(|key| Pruned {
                key: *key,
                from_ns,
                minted_ns: minted_ns.clone(),
            }));
        }
        pruned
    }
}

/// Which words stand for which node and which key.
struct Words {
    nodes: BTreeMap<u64, NodeIndex>,
    /// The first of those that share a tag.
    keys: BTreeMap<u64, KeyIndex>,
    /// All of them.
    sharing: BTreeMap<u64, Vec<KeyIndex>>,
}

impl Words {
    fn new(plan: &Plan, keys: &[KeyInfo]) -> Self {
        let word = |node: NodeNo| murmur3(node.to_string().as_bytes()).0;
        let nodes = plan.node_numbers().into_iter().map(|n| (word(n), node_index(n))).collect();
        let mut tokens = BTreeMap::new();
        let mut sharing: BTreeMap<u64, Vec<KeyIndex>> = BTreeMap::new();
        for (place, info) in keys.iter().enumerate() {
            let (bucket, name) = info.name.split_once('/').unwrap_or_default();
            if let Ok(key) = Key::new(bucket, name) {
                tokens.entry(key.token().0).or_insert(KeyIndex(place as u32));
                sharing.entry(key.token().0).or_default().push(KeyIndex(place as u32));
            }
        }
        Self { nodes, keys: tokens, sharing }
    }
}

fn health(kind: &str) -> Option<Health> {
    match kind {
        "member_up" => Some(Health::Up),
        "member_suspect" => Some(Health::Suspect),
        "member_down" => Some(Health::Down),
        "member_stopped" => Some(Health::Stopped),
        _ => None,
    }
}

fn deed(kind: &str) -> Option<HintDeed> {
    match kind {
        "hint_stored" => Some(HintDeed::Stored),
        "hint_delivered" => Some(HintDeed::Delivered),
        "hint_expired" => Some(HintDeed::Expired),
        "hint_reresolved" => Some(HintDeed::Reresolved),
        _ => None,
    }
}
