//! Violations in words: the accusation, and the little history of the key that one needs to follow it.
//!
//! A story holds the operations that prove the violation, the chains of contexts behind them, their
//! retries, and the reads that showed the values in question, in order of their start:
//!
//! ```text
//! #4   1.250000s +0.012s c0 -> n2  PUT v2 with the token of #3, w=2/3  =>  acked 2 of 2, 1 sibling
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Violation;
use super::knowledge::Item;
use crate::history::{Evidence, Got, KeyIndex, Kind, OpId, Operation, Outcome, ValueId};

/// The longest story that is told.
const LINES_MAX: usize = 40;

/// Tells stories from one history.
pub(super) struct Story<'a> {
    evidence: &'a Evidence,
    /// Where each value was sent or shown.
    mentions: BTreeMap<ValueId, Vec<OpId>>,
}

impl<'a> Story<'a> {
    pub(super) fn new(evidence: &'a Evidence) -> Self {
        let mut mentions: BTreeMap<ValueId, Vec<OpId>> = BTreeMap::new();
        for op in &evidence.history.ops {
            if let Kind::Put { value } = op.kind {
                mentions.entry(value).or_default().push(op.id);
            }
            if let Outcome::Got(got) = &op.outcome {
                for &value in &got.values {
                    mentions.entry(value).or_default().push(op.id);
                }
            }
        }
        Story { evidence, mentions }
    }

    /// A violation about `key`, proved by `ops`, the accused one first.
    pub(super) fn violation(
        &self,
        point: u8,
        key: KeyIndex,
        ops: Vec<OpId>,
        explanation: String,
    ) -> Violation {
        let story = self.tell(key, &ops);
        let name = self.evidence.history.keys.get(key.0 as usize).map_or("?", |k| &k.name);
        let explanation = format!("key {name}: {explanation}");
        Violation { point, key: Some(key), ops, explanation, story }
    }

    /// Every operation that wrote or showed `value`, on whatever key.
    pub(super) fn mentions(&self, value: ValueId) -> impl Iterator<Item = &'a Operation> + '_ {
        let ids = self.mentions.get(&value).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|&id| self.op(id))
    }

    fn op(&self, id: OpId) -> Option<&'a Operation> {
        self.evidence.history.ops.get(id.0 as usize)
    }

    fn tell(&self, key: KeyIndex, ops: &[OpId]) -> Vec<String> {
        let mut chosen: BTreeSet<OpId> = ops.iter().copied().collect();
        for &id in ops {
            let sources = std::iter::successors(self.op(id), |op| {
                op.context_from.or(op.retry_of).and_then(|from| self.op(from))
            });
            chosen.extend(sources.take(LINES_MAX / 4).map(|op| op.id));
        }
        for &id in ops {
            let Some(Operation { kind: Kind::Put { value }, .. }) = self.op(id) else { continue };
            let told = self.mentions(*value).filter(|op| op.key == key).map(|op| op.id);
            chosen.extend(told.take(LINES_MAX / 4));
        }
        let mut lines: Vec<String> =
            chosen.iter().filter_map(|&id| self.op(id)).map(line).collect();
        if lines.len() > LINES_MAX {
            let left_out = lines.len() - LINES_MAX;
            lines.truncate(LINES_MAX);
            lines.push(format!("… and {left_out} more"));
        }
        lines
    }
}

/// Names of items, for sentences.
pub(super) fn list(items: &[Item]) -> String {
    let names: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Value(value) => value.to_string(),
            Item::Deleted => "deleted".to_string(),
        })
        .collect();
    if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
}

/// A moment in simulated seconds.
pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{:06}s", ns / 1_000_000_000, ns % 1_000_000_000 / 1_000)
}

/// One operation on one line.
pub(super) fn line(op: &Operation) -> String {
    let mut text = format!(
        "{:<5} {} +{} {} -> {}  ",
        op.id.to_string(),
        seconds(op.start_ns),
        seconds(op.end_ns - op.start_ns),
        op.client,
        op.node
    );
    text.push_str(&request(op));
    text.push_str("  =>  ");
    text.push_str(&answer(&op.outcome));
    text
}

/// What was asked: `PUT v2 with the token of #3, w=2/3 sloppy`.
pub(super) fn request(op: &Operation) -> String {
    let mut text = match op.kind {
        Kind::Get => "GET".to_string(),
        Kind::Put { value } => format!("PUT {value}"),
        Kind::Delete => "DELETE".to_string(),
    };
    // Writing to a string can't fail.
    if let Some(from) = op.context_from {
        let _ = write!(text, " with the token of {from}");
    }
    let letter = if op.kind == Kind::Get { 'r' } else { 'w' };
    let _ = write!(text, ", {letter}={}/{}", op.asked.need, op.asked.n);
    if op.asked.sloppy {
        text.push_str(" sloppy");
    }
    if let Some(of) = op.retry_of {
        let _ = write!(text, ", retry of {of}");
    }
    text
}

/// What was heard: `acked 2 of 2, 1 sibling`.
pub(super) fn answer(outcome: &Outcome) -> String {
    let status = |status: &Option<u16>| status.map_or("no answer".to_string(), |s| s.to_string());
    match outcome {
        Outcome::Got(got) => showed(got),
        Outcome::Acked { siblings, required, received, hinted } => {
            let plural = if *siblings == 1 { "" } else { "s" };
            let hints = if *hinted > 0 { format!(" ({hinted} hinted)") } else { String::new() };
            format!("acked {received} of {required}{hints}, {siblings} sibling{plural}")
        }
        Outcome::Refused { status: code } => format!("refused, {}", status(code)),
        Outcome::Unknown { status: code, received, .. } => {
            let acks = received.map_or(String::new(), |n| format!(", {n} replies"));
            format!("failed, {}{acks}, outcome unknown", status(code))
        }
    }
}

fn showed(got: &Got) -> String {
    let mut shown: Vec<String> = got.values.iter().map(ValueId::to_string).collect();
    shown.extend(got.strange.iter().map(|text| format!("strange {text:?}")));
    if got.deleted_shown {
        shown.push("deleted".to_string());
    }
    let token = if got.context { "" } else { " without a token" };
    match shown.as_slice() {
        [] if got.context => "showed nothing but a token".to_string(),
        [] => "showed nothing".to_string(),
        _ => format!("showed {}{token}", shown.join(", ")),
    }
}
