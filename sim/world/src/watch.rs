//! Waiting for a moment in a machine's life, so that the harness can strike there: right after its
//! third fsync, say.
//!
//! The waiting task is made ready when the event happens; tasks of the machine that are ready
//! already may still run before it, at the same simulated time.

use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

use crate::process::MachineId;
use crate::world::{self, World};

/// Completes when `machine` has done what events of `kind` tell of `count` times from now on. The
/// events of all of its processes count.
pub fn seen(machine: MachineId, kind: &str, count: u64) -> impl Future<Output = ()> + Send {
    let id = world::with(|w| {
        w.watches_made += 1;
        let watch =
            Watch { id: w.watches_made, machine, kind: kind.to_owned(), left: count, waker: None };
        w.watches.push(watch);
        w.watches_made
    });
    let gone = Gone { id };
    poll_fn(move |cx| {
        world::with(|w| {
            let watch = w.watches.iter_mut().find(|watch| watch.id == gone.id);
            match watch {
                Some(watch) if watch.left > 0 => {
                    watch.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(_) | None => Poll::Ready(()),
            }
        })
    })
}

/// One who waits.
pub(crate) struct Watch {
    id: u64,
    machine: MachineId,
    kind: String,
    left: u64,
    waker: Option<Waker>,
}

/// Takes the watch away with the future that waits for it.
struct Gone {
    id: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        world::with_if(|w| w.watches.retain(|watch| watch.id != self.id));
    }
}

impl World {
    /// Tells those who wait for it that `machine` did `kind`.
    pub(crate) fn watch(&mut self, machine: MachineId, kind: &str) {
        for watch in &mut self.watches {
            if watch.left > 0 && watch.machine == machine && watch.kind == kind {
                watch.left -= 1;
                if watch.left == 0 {
                    self.wake.extend(watch.waker.take());
                }
            }
        }
    }
}
