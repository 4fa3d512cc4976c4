//! Typed notes of the node, into the run's trace.

use crate::world;

/// Notes that `kind` happened: a snake_case name from a fixed set, the token of the key concerned
/// (0: none) and one number of the kind's own. In simulation it goes into the run's trace, its
/// digest and its counters. Costs nothing in production. A dead process notes nothing.
pub fn note(kind: &'static str, token: u64, detail: u64) {
    world::with_if(|w| {
        if let Some(process) = w.current_alive() {
            w.emit(process, kind, token, detail);
        }
    });
}
