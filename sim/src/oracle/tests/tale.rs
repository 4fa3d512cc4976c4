//! A short notation for histories, one operation a line:
//!
//! ```text
//! a: put 1 => acked              PUT of value 1, strict, W=2 of 3, by c0 at n0: 2 of 2 acks, 1 sibling
//! b: get => 1                    GET, R=2, showed value 1
//! c: put 2 from b => acked 3/2   with the token of b; 3 acks, 2 siblings
//! d: put 2 from b retry c w1 => unknown
//! e: del from b sloppy => acked
//! f: get r1 c1 n2 k1 => 1,2,del  client 1 at node 2 about key 1; a 300 with a deleted sibling
//! g: get => none                 404 (`gone`: 404 with a token; `?text`: a value nobody knows)
//! h: get @5-200 => unknown 503   from 5 ms to 200 ms; so many others begin every 10 ms and take 5
//! h: put 1 t500 => acked         with a time to live of 500 ms
//! i: final => 1                  the read after healing; all three replicas hold the same
//! ```

use std::collections::BTreeMap;

use crate::history::{
    Asked, ClientId, Disturbance, Endpoint, Evidence, Fault, FinalState, Got, History, KeyIndex,
    KeyInfo, Kind, NodeIndex, OpId, Operation, Outcome, ReplicaCopy, Rules, ValueId,
};

pub(super) const MS: u64 = 1_000_000;

/// Reads a tale about keys 0 and 1, at home on n0, n1 and n2.
pub(super) fn tell(tale: &str) -> Evidence {
    let homes: Vec<NodeIndex> = (0..3).map(NodeIndex).collect();
    let keys = ["b/k0", "b/k1"].map(|name| KeyInfo {
        name: name.into(),
        homes: homes.clone(),
        fallbacks: Vec::new(),
        last_write: false,
    });
    let mut evidence = Evidence {
        history: History { keys: keys.to_vec(), ops: Vec::new() },
        rules: Rules {
            recovery_ns: 100 * MS,
            detection_ns: 500 * MS,
            failover_ns: 50 * MS,
            service_ns: 100 * MS,
            ..Rules::default()
        },
        ..Evidence::default()
    };
    let mut names = BTreeMap::new();
    for line in tale.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(':').expect("a name");
        let (request, outcome) = rest.split_once("=>").expect("an outcome");
        let op = operation(&evidence.history.ops, &names, request.trim(), outcome.trim());
        if request.trim().starts_with("final") {
            let copies = homes.iter().map(|&node| ReplicaCopy { node, bytes: Some(vec![7]) });
            let copies = copies.collect();
            evidence.finals.push(FinalState { key: op.key, read: op.id, copies });
        }
        names.insert(name, op.id);
        evidence.history.ops.push(op);
    }
    evidence
}

fn operation(
    earlier: &[Operation],
    names: &BTreeMap<&str, OpId>,
    request: &str,
    outcome: &str,
) -> Operation {
    let id = OpId(earlier.len() as u32);
    let mut words = request.split_whitespace();
    let kind = match words.next() {
        Some("put") => Kind::Put { value: ValueId(number(words.next().expect("a value"))) },
        Some("del") => Kind::Delete,
        _ => Kind::Get,
    };
    let need = if request.starts_with("final") { 3 } else { 2 };
    let mut op = Operation {
        id,
        client: ClientId(0),
        node: NodeIndex(0),
        key: KeyIndex(0),
        kind,
        asked: Asked { need, n: 3, sloppy: false, timeout_ns: 300 * MS, ttl_ns: None },
        context_from: None,
        retry_of: None,
        start_ns: u64::from(id.0) * 10 * MS,
        end_ns: (u64::from(id.0) * 10 + 5) * MS,
        outcome: Outcome::Refused { status: None },
    };
    if request.starts_with("final") {
        let last = earlier.iter().map(|o| o.end_ns).max().unwrap_or(0);
        (op.start_ns, op.end_ns) = (last.max(op.start_ns), last.max(op.start_ns) + MS);
    }
    while let Some(word) = words.next() {
        let value = || number(&word[1..]) as u32;
        match word.as_bytes()[0] {
            b'f' => op.context_from = Some(names[words.next().unwrap()]),
            b'r' if word == "retry" => op.retry_of = Some(names[words.next().unwrap()]),
            b's' => op.asked.sloppy = true,
            b'r' | b'w' => op.asked.need = value() as u8,
            b'c' => op.client = ClientId(value()),
            b'n' => op.node = NodeIndex(value()),
            b't' => op.asked.ttl_ns = Some(u64::from(value()) * MS),
            b'k' => op.key = KeyIndex(value()),
            b'@' => {
                let (from, to) = word[1..].split_once('-').unwrap();
                (op.start_ns, op.end_ns) = (number(from) * MS, number(to) * MS);
            }
            _ => panic!("what is {word:?}?"),
        }
    }
    op.outcome = heard(&op, outcome);
    op
}

fn heard(op: &Operation, text: &str) -> Outcome {
    let (word, detail) = text.split_once(' ').unwrap_or((text, ""));
    let status = if detail.is_empty() { None } else { detail.parse().ok() };
    match word {
        "acked" => {
            let (received, siblings) = detail.split_once('/').unwrap_or((detail, "1"));
            let (received, hinted) = received.split_once('h').unwrap_or((received, "0"));
            let received = if received.is_empty() { op.asked.need } else { number(received) as u8 };
            Outcome::Acked {
                siblings: number(siblings) as u32,
                required: op.asked.need,
                received,
                hinted: number(hinted) as u8,
            }
        }
        "refused" => Outcome::Refused { status },
        "unknown" => Outcome::Unknown { status, required: None, received: None },
        "none" => Outcome::Got(Got::default()),
        "gone" => Outcome::Got(Got { context: true, ..Got::default() }),
        shown => {
            let mut got = Got { context: true, ..Got::default() };
            for item in shown.split(',') {
                match item.strip_prefix('?') {
                    Some(strange) => got.strange.push(strange.into()),
                    None if item == "del" => got.deleted_shown = true,
                    None => got.values.push(ValueId(number(item))),
                }
            }
            Outcome::Got(got)
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// `fault` from `from_ms` to `to_ms`.
pub(super) fn during(from_ms: u64, to_ms: u64, fault: Fault) -> Disturbance {
    Disturbance { fault, start_ns: from_ms * MS, end_ns: to_ms * MS }
}

pub(super) fn node(index: u32) -> Endpoint {
    Endpoint::Node(NodeIndex(index))
}

pub(super) fn client(index: u32) -> Endpoint {
    Endpoint::Client(ClientId(index))
}
