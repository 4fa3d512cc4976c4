//! What the world's own tests share: a seeded run, two machines, notes.

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use starling_world::process::MachineId;
use starling_world::trace::Keep;
use starling_world::{Config, Finished, machine, run, time};

/// What was observed, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    /// Notes one step.
    pub(crate) fn add(&self, step: impl Into<String>) {
        self.0.lock().unwrap().push(step.into());
    }

    /// Notes a result: its value, or its error's kind.
    pub(crate) fn result<T: Debug>(&self, what: &str, result: std::io::Result<T>) {
        match result {
            Ok(value) => self.add(format!("{what}: {value:?}")),
            Err(e) => self.add(format!("{what}: {:?}", e.kind())),
        }
    }

    /// All notes so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Runs `harness` in the world of `seed`.
pub(crate) fn world<F>(seed: u64, harness: F) -> Finished<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let config = Config { seed, wall_start_ms: 1_700_000_000_000, keep_trace: Keep::Last(1000) };
    run(config, harness)
}

/// Two machines, `a` at 10.0.0.1 and `b` at 10.0.0.2.
pub(crate) fn two() -> (MachineId, MachineId) {
    (machine::add("a", [10, 0, 0, 1]), machine::add("b", [10, 0, 0, 2]))
}

/// Waits until all of them have exited by themselves.
pub(crate) async fn exited(machines: &[MachineId]) {
    while !machines.iter().all(|id| machine::exited(*id)) {
        assert!(now_ms() < 600_000, "still waiting after ten minutes");
        ms(10).await;
    }
}

/// Sleeps.
pub(crate) async fn ms(duration: u64) {
    time::sleep(Duration::from_millis(duration)).await;
}

/// The time as the harness or a process reads it, in milliseconds.
pub(crate) fn now_ms() -> u64 {
    starling_world::now() / 1_000_000
}
