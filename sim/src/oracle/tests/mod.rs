//! The oracle against hand-written histories (`tables`) and against a model store that is right, and then
//! broken in a dozen ways (`model`, `mutants`).

mod copies;
mod faults;
mod gone;
mod membership;
mod model;
mod mutants;
mod object;
mod pruning;
mod tables;
mod tale;

use super::judge;
use crate::history::Evidence;

/// The points that `evidence` violates, each once.
fn points(evidence: &Evidence) -> Vec<u8> {
    let violations = judge(evidence).unwrap_or_else(|e| panic!("{e}"));
    let mut points: Vec<u8> = violations.iter().map(|v| v.point).collect();
    points.dedup();
    points
}
