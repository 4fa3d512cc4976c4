//! Evidence that contradicts itself is refused: a verdict on it would mean nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Evidence, FinalState, Kind, OpId, Operation, Outcome, ValueId};

/// The harness recorded something impossible. Nothing was judged; repair the harness.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// One operation is wrong in itself or against an earlier one.
    #[error("operation {op} is recorded wrongly: {what}")]
    Operation {
        /// Which one.
        op: OpId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The state after healing is incomplete or names the wrong read.
    #[error("the final state of key {key} is recorded wrongly: {what}")]
    Final {
        /// Its index.
        key: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Checks everything that the other files rely on.
pub(super) fn check(evidence: &Evidence) -> Result<(), Malformed> {
    let ops = &evidence.history.ops;
    let mut owners = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        let earlier = &ops[..at];
        let problem = shape(evidence, at, op)
            .or_else(|| source(earlier, op))
            .or_else(|| retry(earlier, &mut owners, op));
        if let Some(what) = problem {
            return Err(Malformed::Operation { op: op.id, what });
        }
    }
    finals(evidence)
}

fn shape(evidence: &Evidence, at: usize, op: &Operation) -> Option<&'static str> {
    let before = at.checked_sub(1).map(|at| &evidence.history.ops[at]);
    let answered = matches!(op.outcome, Outcome::Got(_) | Outcome::Acked { .. });
    let fits = match op.outcome {
        Outcome::Got(_) => op.kind == Kind::Get,
        Outcome::Acked { .. } => op.kind != Kind::Get,
        Outcome::Refused { .. } | Outcome::Unknown { .. } => true,
    };
    if op.id.0 as usize != at {
        Some("its id is not its index")
    } else if before.is_some_and(|b| b.start_ns > op.start_ns) {
        Some("it started before the operation recorded ahead of it")
    } else if op.end_ns < op.start_ns {
        Some("it ended before it started")
    } else if answered && op.end_ns == op.start_ns {
        Some("it was answered in no time at all")
    } else if op.key.0 as usize >= evidence.history.keys.len() {
        Some("its key is not listed")
    } else if op.asked.need == 0 || op.asked.need > op.asked.n {
        Some("it needs no reply, or more than N")
    } else if !fits {
        Some("this kind of request can't have this kind of outcome")
    } else {
        None
    }
}

fn source(earlier: &[Operation], op: &Operation) -> Option<&'static str> {
    let Some(from) = earlier.get(op.context_from?.0 as usize) else {
        return Some("its context comes from a later operation");
    };
    let gave = match &from.outcome {
        Outcome::Got(got) => got.context,
        Outcome::Acked { .. } | Outcome::Refused { status: Some(409) } => true,
        Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
    };
    if op.kind == Kind::Get {
        Some("a GET takes no context")
    } else if from.key != op.key {
        Some("its context comes from another key")
    } else if from.end_ns > op.start_ns {
        Some("it used a context before that was returned")
    } else if !gave {
        Some("its context comes from an operation that returned none")
    } else {
        None
    }
}

fn retry(
    earlier: &[Operation],
    owners: &mut BTreeMap<ValueId, OpId>,
    op: &Operation,
) -> Option<&'static str> {
    if let Some(of) = op.retry_of {
        let Some(of) = earlier.get(of.0 as usize) else {
            return Some("it retries a later operation");
        };
        if of.kind != op.kind || of.key != op.key {
            return Some("it retries an operation of another kind, value or key");
        }
        return None;
    }
    match op.kind {
        Kind::Put { value } => owners
            .insert(value, op.id)
            .map(|_| "its value was written before, and it is not marked as a retry"),
        Kind::Get | Kind::Delete => None,
    }
}

fn finals(evidence: &Evidence) -> Result<(), Malformed> {
    let mut seen = BTreeSet::new();
    for state in &evidence.finals {
        if !seen.insert(state.key) {
            return Err(Malformed::Final { key: state.key.0, what: "it is there twice" });
        }
        if let Some(what) = one_final(evidence, state) {
            return Err(Malformed::Final { key: state.key.0, what });
        }
    }
    let missing = evidence.history.ops.iter().find(|op| !seen.contains(&op.key));
    match missing {
        Some(op) if !seen.is_empty() => {
            Err(Malformed::Final { key: op.key.0, what: "it is missing" })
        }
        Some(_) | None => Ok(()),
    }
}

fn one_final(evidence: &Evidence, state: &FinalState) -> Option<&'static str> {
    let Some(key) = evidence.history.keys.get(state.key.0 as usize) else {
        return Some("the key is not listed");
    };
    let Some(read) = evidence.history.ops.get(state.read.0 as usize) else {
        return Some("its read is not in the history");
    };
    let mut holders: Vec<_> = state.copies.iter().map(|c| c.node).collect();
    let mut homes = key.homes.clone();
    holders.sort_unstable();
    homes.sort_unstable();
    let late = |op: &Operation| {
        let answered = matches!(op.outcome, Outcome::Got(_) | Outcome::Acked { .. });
        let begins = (op.start_ns, op.id) > (read.start_ns, read.id);
        op.key == state.key && op.id != read.id && (begins || answered && op.end_ns > read.start_ns)
    };
    if read.kind != Kind::Get || read.key != state.key {
        Some("its read is no GET of the key")
    } else if read.asked.sloppy || usize::from(read.asked.need) != key.homes.len() {
        Some("its read is not strict, or does not ask every home replica")
    } else if evidence.history.ops.iter().any(late) {
        Some("another operation on the key began, or was answered, after its read began")
    } else if holders != homes {
        Some("its copies are not those of the home replicas")
    } else {
        None
    }
}
