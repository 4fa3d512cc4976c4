//! The harness: whole Starling clusters under seeded faults, judged by what their clients saw.
//!
//! ```text
//! seed ──plan──> Plan ──run──> Evidence ──oracle──> Verdict ──sweep──> Summary
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`dice`] | numbers that follow from a seed and a name, and from nothing else |
//! | [`plan`] | all that one run will do, as plain data; how seeds become plans |
//! | `run` | the run itself: nodes, clients, faults, healing, evidence (simulated world only) |
//! | [`events`] | the events that the node is known to note |
//! | [`history`] | what clients saw, as plain data |
//! | [`oracle`] | what must hold, judged from the evidence alone |
//! | [`quality`] | how good the failure detector was, in numbers |
//! | [`report`] | what came of one run |
//! | [`sweep`] | many runs, one process each, and what came of them all |
//! | `crash` | the storage engine at every point at which power can go (simulated world only) |
//! | [`lab`] | how good the failure detector is, and others beside it; no cluster, no node |
//! | [`cli`] | `cargo sim …` |
//!
//! Only `run` and what [`cli`] does with it need the simulated world (`cfg(madsim)`); the rest is
//! compiled and tested in both.

pub mod cli;
#[cfg(madsim)]
pub mod crash;
pub mod dice;
pub mod events;
pub mod history;
pub mod lab;
pub mod oracle;
pub mod output;
pub mod plan;
pub mod quality;
pub mod report;
#[cfg(madsim)]
pub mod run;
pub mod sweep;
