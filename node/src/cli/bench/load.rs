//! The load itself: connections, keys, warm-up, what is counted.
//!
//! A load that [runs](Running) is measured in phases, one [`Measured`] each: a request belongs to the
//! phase in which its answer came, and to none before the first is entered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::Rng as _;

use super::{BenchArgs, BenchError};
use crate::client::{Client, ClientError, Request, Response, kv_target};
use crate::runtime::time::{self, Instant};
use crate::runtime::{rng, task};

const BUCKET: &str = "bench";
/// What the name of a key takes.
pub(super) const KEY_BYTES: u32 = 12;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Latencies up to a minute, in microseconds, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;
/// The phase before the first: nothing is counted.
const UNMEASURED: usize = usize::MAX;

/// What one phase of load showed.
#[derive(Clone)]
pub(super) struct Measured {
    /// Seconds measured.
    pub(super) seconds: f64,
    /// Latencies of answered GETs, in microseconds.
    pub(super) gets: Histogram<u64>,
    /// Latencies of answered PUTs, in microseconds.
    pub(super) puts: Histogram<u64>,
    /// Failed requests by kind.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Measured {
    pub(super) fn new() -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
                .expect("1 to 60,000,000 in three digits is a range that the histogram takes")
        };
        Self { seconds: 0.0, gets: empty(), puts: empty(), errors: BTreeMap::new() }
    }

    fn add(&mut self, other: &Self) {
        // Equal bounds, so that nothing can fall outside.
        self.gets.add(&other.gets).expect("histograms of equal bounds");
        self.puts.add(&other.puts).expect("histograms of equal bounds");
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    /// Latencies of all that were answered, in microseconds.
    pub(super) fn answered(&self) -> Histogram<u64> {
        let mut both = self.gets.clone();
        both.add(&self.puts).expect("histograms of equal bounds");
        both
    }

    /// Requests that were not answered as they should.
    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Answered requests a second.
    pub(super) fn per_second(&self) -> f64 {
        (self.gets.len() + self.puts.len()) as f64 / self.seconds
    }
}

/// One turn of load on one target.
pub(super) struct Load {
    addresses: Vec<SocketAddr>,
    connections: u32,
    reads: f64,
    keys: u32,
    preload: bool,
    warmup: Duration,
    duration: Duration,
    /// Time between two requests of one connection.
    pace: Option<Duration>,
    get_parameters: Option<String>,
    put_parameters: Option<String>,
    value: Bytes,
}

impl Load {
    pub(super) fn new(
        args: &BenchArgs,
        addresses: Vec<SocketAddr>,
        quorums: bool,
        preload: bool,
    ) -> Self {
        let pace =
            args.rate.map(|rate| Duration::from_secs_f64(f64::from(args.connections) / rate));
        Self {
            addresses,
            connections: args.connections,
            reads: args.reads,
            keys: args.keys,
            preload,
            warmup: args.warmup,
            duration: args.duration,
            pace,
            get_parameters: args.r.clone().filter(|_| quorums),
            put_parameters: args.w.clone().filter(|_| quorums),
            value: json_value(args.value as usize),
        }
    }

    /// Writes every key, warms up, measures.
    pub(super) async fn run(self) -> Result<Measured, BenchError> {
        let (warmup, duration) = (self.warmup, self.duration);
        let mut running = self.start(1).await?;
        time::sleep(warmup).await;
        running.enter(0);
        time::sleep(duration).await;
        running.stop().await.pop().ok_or_else(|| BenchError::Preload("nothing was measured".into()))
    }

    /// Writes every key, and goes on loading in `phases` phases, of which none is entered yet.
    pub(super) async fn start(self, phases: usize) -> Result<Running, BenchError> {
        let load = Arc::new(self);
        let phase = Arc::new(AtomicUsize::new(UNMEASURED));
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(tokio::sync::Semaphore::new(0));
        let (failed, mut failures) = tokio::sync::mpsc::channel(1);
        let workers = (0..load.connections)
            .map(|at| {
                let worker = Worker::new(load.clone(), at);
                let (ready, failed) = (ready.clone(), failed.clone());
                let all = vec![Measured::new(); phases];
                task::spawn(worker.run(ready, failed, phase.clone(), stop.clone(), all))
            })
            .collect();
        // Each connection gives a permit once its keys are written, or once it has failed to.
        let prepared = ready.acquire_many(load.connections).await;
        drop(prepared);
        if let Ok(reason) = failures.try_recv() {
            stop.store(true, Ordering::Relaxed);
            return Err(BenchError::Preload(reason));
        }
        Ok(Running { workers, phase, stop, entered: None, seconds: vec![0.0; phases] })
    }
}

/// A load on its way.
pub(super) struct Running {
    workers: Vec<task::JoinHandle<Vec<Measured>>>,
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// The phase that is on, and since when.
    entered: Option<(usize, Instant)>,
    seconds: Vec<f64>,
}

impl Running {
    /// From now on it is this phase that is measured.
    pub(super) fn enter(&mut self, phase: usize) {
        self.leave();
        self.phase.store(phase, Ordering::Relaxed);
        self.entered = Some((phase, time::now()));
    }

    fn leave(&mut self) {
        if let Some((phase, since)) = self.entered.take() {
            self.seconds[phase] += time::now().since(since).as_secs_f64();
        }
    }

    /// Ends the load; what each phase showed, in their order.
    pub(super) async fn stop(mut self) -> Vec<Measured> {
        self.stop.store(true, Ordering::Relaxed);
        self.leave();
        let mut all = vec![Measured::new(); self.seconds.len()];
        for worker in self.workers {
            // A task is lost with the process alone.
            for (sum, own) in all.iter_mut().zip(worker.await.unwrap_or_default()) {
                sum.add(&own);
            }
        }
        for (measured, seconds) in all.iter_mut().zip(self.seconds) {
            measured.seconds = seconds;
        }
        all
    }
}

/// One connection's part.
struct Worker {
    load: Arc<Load>,
    at: u32,
    client: Client,
    rng: rng::Rng,
    /// The contexts of this connection's own keys: at, at + connections, ….
    contexts: Vec<Option<String>>,
}

impl Worker {
    fn new(load: Arc<Load>, at: u32) -> Self {
        let address = load.addresses[at as usize % load.addresses.len()];
        let own = load.keys.saturating_sub(at).div_ceil(load.connections).max(1);
        let contexts = vec![None; own as usize];
        Self { load, at, client: Client::new(address), rng: rng::fork("bench"), contexts }
    }

    async fn run(
        mut self,
        ready: Arc<tokio::sync::Semaphore>,
        failed: tokio::sync::mpsc::Sender<String>,
        phase: Arc<AtomicUsize>,
        stop: Arc<AtomicBool>,
        mut phases: Vec<Measured>,
    ) -> Vec<Measured> {
        if let Err(reason) = self.prepare().await {
            // Full: another connection has told of its own already.
            let _told = failed.try_send(reason);
            ready.add_permits(1);
            return phases;
        }
        ready.add_permits(1);
        // Spread the first requests over one interval, or all connections beat together.
        let mut due = time::now() + self.load.pace.unwrap_or_default().mul_f64(self.rng.random());
        while !stop.load(Ordering::Relaxed) {
            let Some(pace) = self.load.pace else {
                self.step(time::now(), &phase, &mut phases).await;
                continue;
            };
            // A request that the one before held up waited since it was due; the timer's lateness is not the nodes'.
            let held_up = time::now() >= due;
            time::sleep_until(due).await;
            let since = if held_up { due } else { time::now() };
            self.step(since, &phase, &mut phases).await;
            due = due + pace;
        }
        phases
    }

    /// Writes this connection's keys, and learns their contexts if they were there before.
    async fn prepare(&mut self) -> Result<(), String> {
        for own in 0..self.contexts.len() {
            let (request, expected) = if self.load.preload {
                (self.put(own), 200)
            } else {
                (Request::get(self.target(self.key(own), None)), 200)
            };
            let deadline = time::now() + REQUEST_DEADLINE;
            match self.client.send(request, deadline).await {
                Ok(answer) if answer.status == expected || answer.status == 300 => {
                    self.contexts[own] = answer.context;
                }
                Ok(answer) => return Err(kind_of(&answer)),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn step(&mut self, since: Instant, phase: &AtomicUsize, phases: &mut [Measured]) {
        let reads = self.rng.random_bool(self.load.reads);
        let own = self.rng.random_range(0..self.contexts.len());
        let request = if reads {
            let key = self.rng.random_range(0..self.load.keys);
            Request::get(self.target(key, self.load.get_parameters.as_ref().map(|r| ("r", r))))
        } else {
            self.put(own)
        };
        let answer = self.client.send(request, time::now() + REQUEST_DEADLINE).await;
        let measured = phases.get_mut(phase.load(Ordering::Relaxed));
        let us = u64::try_from(time::now().since(since).as_micros()).unwrap_or(LATENCY_MAX_US);
        match answer {
            Ok(answer) if answer.status == 200 || answer.status == 300 => {
                if !reads {
                    self.contexts[own] = answer.context;
                }
                if let Some(measured) = measured {
                    let histogram = if reads { &mut measured.gets } else { &mut measured.puts };
                    histogram.saturating_record(us.max(1));
                }
            }
            Ok(answer) => count(measured, kind_of(&answer)),
            Err(error) => {
                let kind = match &error {
                    ClientError::Invalid { .. } => "request invalid",
                    ClientError::Connect { .. } => "connect failed",
                    ClientError::Broken { .. } => "connection broke",
                    ClientError::Deadline { .. } => "no answer in 10 s",
                    ClientError::TooLarge { .. } => "answer too large",
                };
                count(measured, kind.to_owned());
                // A dead target must not be hammered.
                time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn key(&self, own: usize) -> u32 {
        (self.at + own as u32 * self.load.connections) % self.load.keys
    }

    fn target(&self, key: u32, parameter: Option<(&str, &String)>) -> String {
        let name = format!("key-{key:08}");
        match parameter {
            None => kv_target(BUCKET, &name, &[]),
            Some((parameter, value)) => kv_target(BUCKET, &name, &[(parameter, value)]),
        }
    }

    fn put(&self, own: usize) -> Request {
        let parameter = self.load.put_parameters.as_ref().map(|w| ("w", w));
        let target = self.target(self.key(own), parameter);
        Request::put(target, self.load.value.clone()).with_context(self.contexts[own].clone())
    }
}

fn count(measured: Option<&mut Measured>, kind: String) {
    if let Some(measured) = measured {
        *measured.errors.entry(kind).or_default() += 1;
    }
}

/// Status and problem type of an answer that is no success.
fn kind_of(answer: &Response) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let kind = problem.as_ref().and_then(|p| p["type"].as_str()).unwrap_or_default();
    format!("{} {kind}", answer.status)
}

/// A JSON string of exactly `bytes` bytes, of letters that don't compress to nothing.
fn json_value(bytes: usize) -> Bytes {
    let mut rng = rng::fork("bench value");
    let mut text = String::with_capacity(bytes);
    text.push('"');
    while text.len() < bytes - 1 {
        text.push(char::from(rng.random_range(b'a'..=b'z')));
    }
    text.push('"');
    text.into()
}
