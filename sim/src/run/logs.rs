//! What nodes log, caught with the simulated time and the process that logged it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use starling_world::process::{self, ProcessId};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::lock;

/// One line of one node's log.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) at_ns: u64,
    pub(super) process: ProcessId,
    pub(super) text: String,
}

/// The log lines of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs {
    lines: Arc<Mutex<Vec<Logged>>>,
}

/// Catches what is logged in this process from now on. Where a subscriber is set already (by a run
/// before this one), nothing is caught.
pub(super) fn capture() -> Logs {
    let logs = Logs::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("starling=debug"))
        .with_writer(logs.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::set_global_default(subscriber).ok();
    logs
}

impl Logs {
    pub(super) fn take(&self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.lines))
    }
}

impl Write for Logs {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let (at_ns, process) = (starling_world::now(), process::current());
        let line = String::from_utf8_lossy(text).into_owned();
        lock(&self.lines).push(Logged { at_ns, process, text: line });
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
