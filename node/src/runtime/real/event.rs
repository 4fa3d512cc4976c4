//! Typed notes for the simulator; in the real world they vanish at compile time.

/// Notes that `kind` happened: a snake_case name from a fixed set, the token of the key concerned
/// (0: none) and one number of the kind's own. In simulation it goes into the run's trace, its
/// digest and its counters. Costs nothing in production.
#[inline(always)]
pub const fn note(_kind: &'static str, _token: u64, _detail: u64) {}
