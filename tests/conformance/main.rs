//! The conformance table: what the runtime facade does, seen from a program, in both worlds.
//!
//! Every row is one program written against `starling::runtime` alone. It notes what it observes,
//! step by step, and the notes are compared with the one list that the row expects. The same file
//! is built twice: against the operating system, where a row runs over loopback, and against the
//! simulated world (`cfg(madsim)`), where it runs on a machine with a network of its own. What the
//! kernel does was found out by running; the world follows.
//!
//! Where the two cannot agree the row says why, and notes only what they have in common.
#![forbid(unsafe_code)]

#[cfg(test)]
mod disk;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod task;
#[cfg(test)]
mod tcp_close;
#[cfg(test)]
mod tcp_open;
#[cfg(test)]
mod tcp_stream;
#[cfg(test)]
mod time;
#[cfg(test)]
mod udp;

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};

use stage::Stage;

/// What a row has observed so far.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    /// Notes one step.
    fn add(&self, step: impl Into<String>) {
        self.0.lock().expect("no row panics while it notes").push(step.into());
    }

    /// Notes how `what` ended: `ok`, or the kind of its error.
    fn outcome<T>(&self, what: &str, result: &io::Result<T>) {
        self.add(format!("{what}: {}", outcome(result)));
    }

    fn steps(&self) -> Vec<String> {
        self.0.lock().expect("no row panics while it notes").clone()
    }
}

/// `ok`, or the kind of the error.
fn outcome<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(e) => format!("{:?}", e.kind()),
    }
}

/// Runs a row in the world that this was built for and compares what it noted; in the simulated
/// one, under several seeds.
fn row<F>(expected: &[&str], program: impl Fn(Stage, Notes) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    for seed in stage::SEEDS {
        let notes = Notes::default();
        let (kept, program) = (notes.clone(), program.clone());
        stage::perform(seed, move |stage| program(stage, notes));
        assert_eq!(kept.steps(), expected, "seed {seed}");
    }
}
