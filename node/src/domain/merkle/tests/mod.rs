//! Trees, builds, exchanges between two replicas in memory, turns and doubt.

mod building;
mod exchanges;
mod figures;
mod replica;
mod throttled;
mod trees;
mod turns;
