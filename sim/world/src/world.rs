//! The world itself: one value in a thread-local, one queue of what happens later, one driver.
//!
//! madsim gives the executor, virtual time and the interception of the host's clocks and entropy.
//! Its timers cannot be cancelled, so the driver remembers for which moments it has armed one and
//! never arms a later one while an earlier one is pending.
//!
//! The rule that keeps this simple: the world is borrowed for the length of one `with`, wakers
//! are collected meanwhile in `wake`, and called after the borrow has ended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use madsim::runtime::{Handle, Runtime};
use madsim::task::NodeId;
use madsim::time::TimeHandle;

use crate::link::Links;
use crate::machine::Machine;
use crate::net::kernel::{Happening, Net};
use crate::process::ProcessId;
use crate::slab::{Id, Slab};
use crate::time::Timer;
use crate::trace::{Hook, Keep, Trace};

/// What a run is made of, but for the program itself.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The run's only source of chance.
    pub seed: u64,
    /// Milliseconds since the Unix epoch on every wall clock at the start.
    pub wall_start_ms: u64,
    /// Which events the trace keeps.
    pub keep_trace: Keep,
}

/// What a run leaves.
#[derive(Debug)]
pub struct Finished<T> {
    /// What the program returned.
    pub output: T,
    /// What happened.
    pub trace: Trace,
    /// How much simulated time passed.
    pub simulated: Duration,
}

/// Runs `main` as the harness of a new world, to its end, on a thread of its own. The harness may
/// sleep, spawn and command machines; it has no address and no disk.
///
/// # Panics
/// When `main` or any task panics: the payload is passed on. When nothing is left to happen and
/// `main` still waits.
pub fn run<F>(config: Config, main: F) -> Finished<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // A new thread, since madsim seeds the standard library's hash keys once for each thread.
    let thread = std::thread::Builder::new().name("world".into()).stack_size(STACK_BYTES);
    let world = thread.spawn(move || execute(config, main));
    match world.expect("the operating system gives the simulation one thread").join() {
        Ok(finished) => finished,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Unoptimised futures are large, and the whole program of a run lives on this stack.
const STACK_BYTES: usize = 32 << 20;

fn execute<F: Future>(config: Config, main: F) -> Finished<F::Output> {
    let schedule = crate::rng::number(config.seed, "schedule", &[]);
    let runtime = Runtime::with_seed_and_config(schedule, madsim::Config::default());
    let output = runtime.block_on(async move {
        WORLD.with(|cell| *cell.borrow_mut() = Some(World::new(config)));
        madsim::task::spawn(poll_fn(drive));
        main.await
    });
    // Taken away before the runtime drops what is left: late destructors find no world.
    let world = WORLD.with(|cell| cell.borrow_mut().take());
    let world = world.expect("the world was put there before the program ran");
    Finished { output, simulated: Duration::from_nanos(world.now()), trace: world.trace }
}

/// Simulated nanoseconds since the start of the run.
pub fn now() -> u64 {
    with(|w| w.now())
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Borrows the world for the length of `access`, then wakes whom it concerns.
///
/// # Panics
/// Outside of a run, and when called from within another `with`.
pub(crate) fn with<R>(access: impl FnOnce(&mut World) -> R) -> R {
    with_if(access).expect("called outside of a simulated world: only inside `run`")
}

/// [`with`], or nothing when there is no world: for destructors, which may run after its end.
pub(crate) fn with_if<R>(access: impl FnOnce(&mut World) -> R) -> Option<R> {
    let (result, wake, hooks) = WORLD
        .try_with(|cell| {
            let mut borrow = cell.borrow_mut();
            let world = borrow.as_mut()?;
            let result = access(world);
            Some((result, std::mem::take(&mut world.wake), world.due_hooks()))
        })
        .ok()
        .flatten()?;
    for waker in wake {
        waker.wake();
    }
    for hook in hooks {
        (hook.action)();
    }
    Some(result)
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) wall_start_ms: u64,
    pub(crate) madsim: Handle,
    clock: TimeHandle,
    later: BTreeMap<(u64, u64), Later>,
    scheduled: u64,
    armed: BTreeSet<u64>,
    /// Set at the driver's first turn; nothing is armed before.
    driver: Option<Waker>,
    driver_turns: u64,
    /// Called when the current borrow ends.
    pub(crate) wake: Vec<Waker>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) processes: BTreeMap<NodeId, ProcessId>,
    pub(crate) timers: Slab<Timer>,
    pub(crate) links: Links,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) hook_is_due: bool,
}

/// Something that will happen.
pub(crate) enum Later {
    /// A sleep ends.
    Timer(Id<Timer>),
    /// The network does its next step.
    Net(Happening),
}

/// The place of a [`Later`] in the queue, to take it out again.
pub(crate) type Place = (u64, u64);

impl World {
    fn new(config: Config) -> Self {
        Self {
            seed: config.seed,
            wall_start_ms: config.wall_start_ms,
            madsim: Handle::current(),
            clock: TimeHandle::current(),
            later: BTreeMap::new(),
            scheduled: 0,
            armed: BTreeSet::new(),
            driver: None,
            driver_turns: 0,
            wake: Vec::new(),
            machines: vec![Machine::harness()],
            processes: BTreeMap::new(),
            timers: Slab::new(),
            links: Links::new(config.seed),
            net: Net::new(config.seed),
            trace: Trace::new(config.keep_trace),
            hooks: Vec::new(),
            hook_is_due: false,
        }
    }

    /// Simulated nanoseconds since the start of the run.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).expect("runs end within 584 years")
    }

    /// Has `what` happen at simulated time `at_ns`, or at once if that has passed.
    pub(crate) fn schedule(&mut self, at_ns: u64, what: Later) -> Place {
        self.scheduled += 1;
        let place = (at_ns, self.scheduled);
        self.later.insert(place, what);
        self.arm(at_ns);
        place
    }

    /// Has what was scheduled not happen.
    pub(crate) fn cancel(&mut self, place: Place) {
        self.later.remove(&place);
    }

    /// How many things are to happen.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.later.len()
    }

    /// Makes sure that the driver runs at `at_ns` or before.
    fn arm(&mut self, at_ns: u64) {
        if self.armed.first().is_some_and(|first| *first <= at_ns) {
            return;
        }
        let Some(driver) = &self.driver else { return };
        let now = self.now();
        let instant = self.clock.now_instant() + Duration::from_nanos(at_ns.saturating_sub(now));
        // madsim's constructor insists on a millisecond at least; `reset` does not.
        let mut sleep = self.clock.sleep_until(instant);
        let mut sleep = Pin::new(&mut sleep);
        sleep.as_mut().reset(instant);
        match sleep.poll(&mut Context::from_waker(driver)) {
            Poll::Pending => {
                self.armed.insert(at_ns);
            }
            Poll::Ready(()) => self.wake.push(driver.clone()),
        }
    }

    /// Handles everything that is due.
    fn turn(&mut self, cx: &Context<'_>) {
        self.driver.get_or_insert_with(|| cx.waker().clone());
        let now = self.now();
        while self.armed.first().is_some_and(|at_ns| *at_ns <= now) {
            self.armed.pop_first();
        }
        while let Some(due) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            match due.remove() {
                Later::Timer(id) => self.timer_fired(id),
                Later::Net(happening) => self.net_happens(happening),
            }
        }
        if let Some((at_ns, _)) = self.later.first_key_value().map(|(place, _)| *place) {
            self.arm(at_ns);
        }
        self.driver_turns += 1;
        if self.driver_turns.is_multiple_of(TURNS_BETWEEN_SWEEPS) {
            // madsim remembers every task that ever ran until somebody counts them.
            let _alive = self.madsim.metrics().num_tasks();
        }
    }
}

const TURNS_BETWEEN_SWEEPS: u64 = 4096;

fn drive(cx: &mut Context<'_>) -> Poll<()> {
    with(|w| w.turn(cx));
    Poll::Pending
}

/// The tasks that wait for one thing, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waker>);

impl Waiters {
    pub(crate) fn add(&mut self, cx: &Context<'_>) {
        if !self.0.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.0.push(cx.waker().clone());
        }
    }

    /// Moves all of them to the list of those to be woken.
    pub(crate) fn wake(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.0);
    }
}
