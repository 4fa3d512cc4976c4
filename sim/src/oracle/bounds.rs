//! Point 12: sampled gauges stay within their configured bounds.
//!
//! One violation for each gauge of each node: its first and its worst reading over the bound.

use std::collections::BTreeMap;

use super::Violation;
use super::story::seconds;
use crate::history::{Evidence, Sample};

pub(super) fn check(evidence: &Evidence, found: &mut Vec<Violation>) {
    let mut over: BTreeMap<_, Vec<&Sample>> = BTreeMap::new();
    for sample in evidence.samples.iter().filter(|s| s.value > s.bound) {
        over.entry((sample.node, sample.gauge.as_str())).or_default().push(sample);
    }
    for ((node, gauge), samples) in over {
        let first = samples.iter().min_by_key(|s| s.at_ns);
        let worst = samples.iter().max_by_key(|s| s.value - s.bound);
        let (Some(first), Some(worst)) = (first, worst) else { continue };
        let explanation = format!(
            "{gauge} of {node} was over its bound in {} samples: first {} at {} (bound {}), at worst {} \
             at {} (bound {}).",
            samples.len(),
            first.value,
            seconds(first.at_ns),
            first.bound,
            worst.value,
            seconds(worst.at_ns),
            worst.bound,
        );
        found.push(Violation {
            point: 12,
            key: None,
            ops: Vec::new(),
            explanation,
            story: Vec::new(),
        });
    }
}
