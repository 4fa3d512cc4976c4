//! Crashes at every moment of a life, and what is opened after them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use starling::storage::Options;
use starling_world::disk::{Disk, Unit};
use starling_world::process::MachineId;
use starling_world::trace::{Keep, Trace};
use starling_world::{Config, disk, machine};
use tokio::sync::oneshot;

use super::expect::Expect;
use super::life::{Diary, Moment, lead, lock, open_and_look, watch};
use super::steps::{options, steps};
use super::{Finding, Tally};
use crate::dice::Dice;

/// Lives of one folder, one after the other.
const LIVES: usize = 3;
/// Up to so many units of unsynced change each set of them is tried.
const UNITS_EACH: usize = 4;
/// Sets that are drawn where there are more.
const DRAWN: usize = 6;
/// After one of so many losses of power it goes once more while the engine opens.
const AGAIN_ONE_IN: usize = 8;

/// A disk after a crash.
#[derive(Clone, Debug)]
struct Crashed {
    disk: Disk,
    how: String,
    killed: bool,
}

/// Leads the lives that follow from `seed` and crashes each at every moment.
///
/// # Errors
/// The first [`Finding`].
pub fn explore(seed: u64) -> Result<Tally, Box<Finding>> {
    let dice = Dice::new(seed);
    let mut explorer = Explorer {
        seed,
        dice,
        options: options(dice),
        tally: Tally::default(),
        life: 0,
        openings: 0,
    };
    let mut from = (Disk::new(seed), Expect::default());
    for life in 0..LIVES {
        explorer.life = life;
        from = explorer.life(from.0, from.1)?;
    }
    Ok(explorer.tally)
}

struct Explorer {
    seed: u64,
    dice: Dice,
    options: Options,
    tally: Tally,
    life: usize,
    /// So far.
    openings: u64,
}

impl Explorer {
    /// Leads a life, crashes it everywhere, and says where the next one goes on.
    fn life(&mut self, disk: Disk, expect: Expect) -> Result<(Disk, Expect), Box<Finding>> {
        let diary = Diary::new(expect);
        let (own, options, steps) = (diary.clone(), self.options, steps(self.dice, self.life));
        let rot = self.dice.stream("crash rot", self.life as u64, 0).into_rng();
        let led = self.world(disk, move |machine| {
            watch(machine, &own);
            lead(machine, options, steps, own, rot)
        });
        if let Err(wrong) = led {
            return Err(self.finding(0, "living", "no crash", wrong));
        }
        let moments = lock(&diary).take_moments();
        self.tally.lives += 1;
        self.tally.moments += moments.len() as u64;
        let mut next = self.dice.stream("crash next", self.life as u64, 0);
        let (goes_on, mut place) = (next.index(moments.len()), None);
        let mut tried = BTreeSet::new();
        for (at, moment) in moments.iter().enumerate() {
            let crashes = self.crashes(at, moment);
            let chosen = next.index(crashes.len());
            for (number, crashed) in crashes.into_iter().enumerate() {
                if (at, number) == (goes_on, chosen) {
                    place = Some((crashed.disk.clone(), Expect::clone(&moment.expect)));
                }
                // The same bytes with the same to be found in them: nothing new.
                let same = (print(&crashed), Arc::as_ptr(&moment.expect) as usize);
                if tried.insert(same) {
                    self.point(at, moment, crashed)?;
                }
            }
        }
        Ok(place.expect("one of the moments was chosen"))
    }

    /// Opens what a crash left; now and then power goes meanwhile.
    fn point(&mut self, at: usize, moment: &Moment, crashed: Crashed) -> Result<(), Box<Finding>> {
        let again = crashed.killed || self.tally.power_losses.is_multiple_of(AGAIN_ONE_IN as u64);
        *(if crashed.killed { &mut self.tally.kills } else { &mut self.tally.power_losses }) += 1;
        let (how, expect) = (crashed.how, &moment.expect);
        let diary = Diary::new(Expect::clone(expect));
        let watcher = again.then(|| diary.clone());
        self.opening(crashed.disk, expect, watcher)
            .map_err(|wrong| self.finding(at + 1, &moment.doing, &how, wrong))?;
        let openings = lock(&diary).take_moments();
        if openings.is_empty() {
            return Ok(());
        }
        let mut die = self.dice.stream("crash again", self.life as u64, self.openings);
        let picked = die.index(openings.len());
        let second = lose_power(&openings[picked].disk, &mut die.into_rng());
        self.tally.second_crashes += 1;
        let how = || format!("{how}; then after change {picked} of opening {}", second.how);
        self.opening(second.disk.clone(), expect, None)
            .map_err(|wrong| self.finding(at + 1, &moment.doing, &how(), wrong))
    }

    /// Opens the engine on `disk` and holds what it finds against `expect`.
    fn opening(
        &mut self,
        disk: Disk,
        expect: &Arc<Expect>,
        watcher: Option<Arc<std::sync::Mutex<Diary>>>,
    ) -> Result<(), String> {
        let (options, expect) = (self.options, expect.clone());
        self.world(disk, move |machine| {
            if let Some(diary) = &watcher {
                watch(machine, diary);
            }
            async move {
                let (_engine, found) = open_and_look(options).await?;
                expect.check(&found)
            }
        })
    }

    /// All that a crash at this moment may leave, as far as it is tried.
    fn crashes(&self, at: usize, moment: &Moment) -> Vec<Crashed> {
        let pending = moment.disk.pending();
        let keep = |kept: BTreeSet<Unit>| {
            let mut disk = moment.disk.clone();
            let fate = disk.crash_keeping(&kept);
            let how = format!("power lost, {} of {} units kept", fate.kept, pending.len());
            Crashed { disk, how, killed: false }
        };
        let mut killed = moment.disk.clone();
        killed.process_died();
        let mut crashes = vec![Crashed { disk: killed, how: "killed".to_owned(), killed: true }];
        if pending.len() <= UNITS_EACH {
            let chosen = |set: usize| {
                let units = pending.iter().enumerate().filter(|(unit, _)| set >> unit & 1 == 1);
                units.map(|(_, unit)| *unit).collect()
            };
            crashes.extend((0..1 << pending.len()).map(|set| keep(chosen(set))));
            return crashes;
        }
        crashes.push(keep(BTreeSet::new()));
        crashes.push(keep(pending.iter().copied().collect()));
        let mut rng = self.dice.stream("crash subsets", self.life as u64, at as u64).into_rng();
        crashes.extend((0..DRAWN).map(|_| lose_power(&moment.disk, &mut rng)));
        crashes
    }

    /// Runs `main` as the process of a machine with this disk, in a world of its own.
    fn world<F>(
        &mut self,
        disk: Disk,
        main: impl FnOnce(MachineId) -> F + Send + 'static,
    ) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.openings += 1;
        let seed = self.dice.stream("crash world", self.openings, 0).within(0, u64::MAX);
        let config = Config { seed, wall_start_ms: 1_767_225_600_000, keep_trace: Keep::Nothing };
        let run = || starling_world::run(config, on_machine(disk, main));
        // A panic of the engine is a finding like any other.
        let finished = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            format!("it panicked: {}", text.unwrap_or("without a word"))
        })?;
        self.count(&finished.trace);
        finished.output
    }

    fn count(&mut self, trace: &Trace) {
        for (kind, count) in trace.counters() {
            *self.tally.events.entry(kind).or_default() += count;
        }
    }

    fn finding(&self, moment: usize, doing: &str, crash: &str, wrong: String) -> Box<Finding> {
        Box::new(Finding {
            seed: self.seed,
            life: self.life,
            moment,
            doing: doing.to_owned(),
            crash: crash.to_owned(),
            wrong,
        })
    }
}

/// The harness's program: one machine, one process, its outcome.
async fn on_machine<F>(
    disk: Disk,
    main: impl FnOnce(MachineId) -> F + Send + 'static,
) -> Result<(), String>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let machine = machine::add("m", [10, 0, 0, 1]);
    disk::put(machine, disk);
    let (tell, told) = oneshot::channel();
    machine::start(machine, move || async move {
        // The harness waits, and ends the world with the process in it.
        drop(tell.send(main(machine).await));
        std::future::pending::<()>().await;
    });
    told.await.unwrap_or_else(|_| Err("its process ended".to_owned()))
}

fn lose_power(disk: &Disk, rng: &mut ChaCha8Rng) -> Crashed {
    let mut disk = disk.clone();
    let before = disk.pending().len();
    // Mostly parts: all and nothing are tried anyway.
    let share = rng.random_range(0.1..0.95);
    let kept = disk.pending().into_iter().filter(|_| rng.random_bool(share)).collect();
    let fate = disk.crash_keeping(&kept);
    let how = format!("power lost, {} of {before} units kept", fate.kept);
    Crashed { disk, how, killed: false }
}

/// Tells disks apart by their bytes and names.
fn print(crashed: &Crashed) -> u64 {
    let mut hasher = DefaultHasher::new();
    crashed.killed.hash(&mut hasher);
    if crashed.killed {
        crashed.disk.pending().len().hash(&mut hasher);
    }
    for entry in crashed.disk.dump(Path::new("/")) {
        (entry.path, entry.content, entry.durable).hash(&mut hasher);
    }
    hasher.finish()
}
