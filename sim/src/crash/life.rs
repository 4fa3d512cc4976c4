//! One life of an engine on a simulated machine: its steps, and the diary of what they did.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use starling::storage::{Engine, Options, Snapshot, Ticket, TokenRange};
use starling_world::disk::Disk;
use starling_world::process::MachineId;
use starling_world::{disk, task, time};

use super::expect::{self, Deed, Expect, Found, State, Version};
use super::steps::{KEYS, OWNERS, Step};

const FOLDER: &str = "/data";
/// Longer than anything may take that waits for the engine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a page of a scan may weigh: less than all, so that scans take several.
const PAGE_BYTES: usize = 700;

/// The disk at one moment, and what may be left of it.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) disk: Disk,
    pub(super) expect: Arc<Expect>,
    /// The step that was under way.
    pub(super) doing: String,
}

/// What was done so far. It is written before the engine is told, so that it never knows less.
#[derive(Debug)]
pub(super) struct Diary {
    expect: Expect,
    /// The same, as the last moments share it.
    shared: Option<Arc<Expect>>,
    /// How often the deeds began anew.
    chapter: u32,
    doing: String,
    moments: Vec<Moment>,
}

impl Diary {
    /// A diary that goes on where `expect` is what may be found.
    pub(super) fn new(expect: Expect) -> Arc<Mutex<Self>> {
        let doing = "opening".to_owned();
        Arc::new(Mutex::new(Self { expect, shared: None, chapter: 0, doing, moments: Vec::new() }))
    }

    /// Takes a picture of the disk.
    fn look(&mut self, disk: &Disk) {
        let expect = self.shared.get_or_insert_with(|| Arc::new(self.expect.clone())).clone();
        self.moments.push(Moment { disk: disk.clone(), expect, doing: self.doing.clone() });
    }

    /// The pictures, in order.
    pub(super) fn take_moments(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }

    fn change(&mut self) -> &mut Expect {
        self.shared = None;
        &mut self.expect
    }

    /// From here on `found` is there.
    fn begin(&mut self, found: State) {
        self.chapter += 1;
        let expect = self.change();
        (expect.base, expect.durable) = (found, 0);
        expect.deeds.clear();
    }

    /// Notes a deed; its place: the chapter, and how many deeds there are with it.
    fn note(&mut self, deed: Deed) -> (u32, usize) {
        let chapter = self.chapter;
        let expect = self.change();
        expect.deeds.push(deed);
        (chapter, expect.deeds.len())
    }

    /// All deeds of `chapter` up to `through` are durable.
    fn durable(&mut self, (chapter, through): (u32, usize)) {
        if chapter == self.chapter && through > self.expect.durable {
            self.change().durable = through;
        }
    }

    fn next_version(&self) -> Version {
        let of_deed = |deed: &Deed| match deed {
            Deed::Put { version, .. } | Deed::Hint { version, .. } => *version,
            Deed::HintEnd { .. } | Deed::Remove { .. } => 0,
        };
        let hints = self.expect.base.hints.values().copied();
        let ever = self.expect.ever.keys().next_back().copied();
        hints.chain(ever).chain(self.expect.deeds.iter().map(of_deed)).max().unwrap_or(0) + 1
    }
}

/// Locks what one thread uses.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the diary see each change of the machine's disk.
pub(super) fn watch(machine: MachineId, diary: &Arc<Mutex<Diary>>) {
    let diary = diary.clone();
    disk::watch(machine, move |disk| lock(&diary).look(disk));
}

/// Opens the engine and finds what is in it.
pub(super) async fn open_and_look(options: Options) -> Result<(Engine, Found), String> {
    let engine = in_time("opening", Engine::open(Path::new(FOLDER), "crash", options)).await?;
    let engine = engine.map_err(|error| format!("it does not open: {error}"))?;
    let found = in_time("looking", look(&engine)).await??;
    Ok((engine, found))
}

/// Leads a life on the running process's machine; says what it saw that must not be.
pub(super) async fn lead(
    machine: MachineId,
    options: Options,
    steps: Vec<Step>,
    diary: Arc<Mutex<Diary>>,
    dice: ChaCha8Rng,
) -> Result<(), String> {
    let (engine, found) = open_and_look(options).await?;
    lock(&diary).expect.check(&found)?;
    lock(&diary).begin(found.state);
    let mut life = Life { machine, options, engine, diary, dice, held: None };
    for step in steps {
        let doing = format!("{step:?}");
        doing.clone_into(&mut lock(&life.diary).doing);
        let done = in_time(&doing, life.step(step)).await;
        done.and_then(|done| done).map_err(|wrong| format!("{doing}: {wrong}"))?;
    }
    Ok(())
}

struct Life {
    machine: MachineId,
    options: Options,
    engine: Engine,
    diary: Arc<Mutex<Diary>>,
    dice: ChaCha8Rng,
    /// A snapshot, what was in it, and whether something had rotted when it was last read.
    held: Option<(Snapshot, State)>,
}

impl Life {
    async fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Put { key, wait } => {
                let ticket = self.put(key).await?;
                if wait { self.wait(ticket).await } else { Ok(()) }
            }
            Step::Remove { key } => self.remove(key).await,
            Step::Hint { owner, key } => self.hint(owner, key),
            Step::HintEnd { owner, key } => self.end_hint(owner, key),
            Step::Rest { ms } => {
                time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Step::Snapshot => {
                let snapshot = self.engine.snapshot().await.map_err(|e| e.to_string())?;
                let state = lock(&self.diary).expect.now();
                self.held = Some((snapshot, state));
                self.check_held().await
            }
            Step::LetGo => {
                self.check_held().await?;
                self.held = None;
                Ok(())
            }
            Step::Check => {
                let found = look(&self.engine).await?;
                lock(&self.diary).expect.check_now(&found)
            }
            Step::Trust => self.trust().await,
            Step::Rot => {
                self.rot();
                Ok(())
            }
            Step::Reopen => self.reopen().await,
        }
    }

    /// Puts the key's next version; the ticket, and which deeds it stands for.
    async fn put(&mut self, key: u8) -> Result<(Ticket, (u32, usize)), String> {
        self.engine.room().await;
        // No await from here on: the diary and the engine learn of it at one moment.
        let mut diary = lock(&self.diary);
        let version = diary.next_version();
        let place = diary.note(Deed::Put { key, version });
        diary.change().ever.insert(version, key);
        drop(diary);
        let object = expect::object(key, version);
        let ticket = self.engine.put(&expect::key(key), &object).map_err(|e| e.to_string())?;
        self.follow(ticket.clone(), place);
        Ok((ticket, place))
    }

    /// Removes the key.
    async fn remove(&mut self, key: u8) -> Result<(), String> {
        self.engine.room().await;
        let place = lock(&self.diary).note(Deed::Remove { key });
        let ticket = self.engine.remove(&expect::key(key)).map_err(|e| e.to_string())?;
        self.follow(ticket, place);
        Ok(())
    }

    fn hint(&mut self, owner: u8, key: u8) -> Result<(), String> {
        let mut diary = lock(&self.diary);
        let version = diary.next_version();
        let place = diary.note(Deed::Hint { owner, key, version });
        drop(diary);
        let (name, object) = (expect::owner(owner), expect::object(key, version));
        let kept = self.engine.put_hint(&name, &expect::key(key), object, version.into());
        self.follow(kept.map_err(|e| e.to_string())?, place);
        Ok(())
    }

    fn end_hint(&mut self, owner: u8, key: u8) -> Result<(), String> {
        let kept = lock(&self.diary).expect.now().hints.get(&(owner, key)).copied();
        let Some(version) = kept else { return Ok(()) };
        lock(&self.diary).note(Deed::HintEnd { owner, key });
        let digest = expect::object(key, version).digest();
        let ended = self.engine.remove_hint(&expect::owner(owner), &expect::key(key), digest);
        match ended.map_err(|e| e.to_string())? {
            true => Ok(()),
            false => Err("the hint is not there".to_owned()),
        }
    }

    /// Has the diary know when the ticket's write is durable.
    fn follow(&self, ticket: Ticket, place: (u32, usize)) {
        let diary = self.diary.clone();
        drop(task::spawn(async move {
            if ticket.durable().await.is_ok() {
                lock(&diary).durable(place);
            }
        }));
    }

    async fn wait(&self, (ticket, place): (Ticket, (u32, usize))) -> Result<(), String> {
        // As a replica does for another node: the waiting task writes the log if nobody else does.
        ticket.clone().ackable_here().await.map_err(|e| e.to_string())?;
        ticket.durable().await.map_err(|e| e.to_string())?;
        lock(&self.diary).durable(place);
        Ok(())
    }

    async fn check_held(&self) -> Result<(), String> {
        let Some((snapshot, state)) = &self.held else { return Ok(()) };
        let found = scan(snapshot).await?;
        // What rotted is left out of scans.
        let rotten = lock(&self.diary).expect.rotten;
        if found != state.puts && !rotten {
            return Err(format!("a snapshot of {:?} holds {found:?}", state.puts));
        }
        Ok(())
    }

    /// Does to what is in doubt what an exchange with replicas would do, and ends the doubt.
    async fn trust(&mut self) -> Result<(), String> {
        let damages = self.engine.damages();
        for range in self.engine.doubts() {
            for key in (0..KEYS).filter(|key| range.contains(expect::key(*key).token())) {
                let ticket = self.put(key).await?;
                self.wait(ticket).await?;
            }
        }
        // With more damage since then, the next try does it.
        self.engine.trust(TokenRange::ALL, damages).await.map(drop).map_err(|e| e.to_string())
    }

    fn rot(&mut self) {
        let files = disk::dump(self.machine, FOLDER);
        let is_table = |path: &Path| path.extension().is_some_and(|end| end == "sst");
        let tables: Vec<_> = files.iter().filter(|file| is_table(&file.path)).collect();
        if let Some(file) = tables.first()
            && disk::rot(self.machine, &file.path, &mut self.dice).is_some()
        {
            lock(&self.diary).change().rotten = true;
        }
    }

    async fn reopen(&mut self) -> Result<(), String> {
        self.held = None;
        self.engine.close().await.map_err(|e| e.to_string())?;
        {
            let mut diary = lock(&self.diary);
            let now = diary.expect.now();
            diary.begin(now);
        }
        let (engine, found) = open_and_look(self.options).await?;
        self.engine = engine;
        let mut diary = lock(&self.diary);
        diary.expect.check_now(&found)?;
        // Where there is doubt, what was found counts from here on.
        diary.begin(found.state);
        Ok(())
    }
}

/// Everything that is in the engine.
async fn look(engine: &Engine) -> Result<Found, String> {
    let mut found = Found::default();
    for number in 0..KEYS {
        let known = engine.known(&expect::key(number)).await.map_err(|e| e.to_string())?;
        if let Some(object) = &known.object {
            found.state.puts.insert(number, expect::version(number, object)?);
        }
        if known.doubtful {
            found.doubtful.insert(number);
        }
    }
    let scanned = scan(&engine.snapshot().await.map_err(|e| e.to_string())?).await?;
    found.any_doubt = !engine.doubts().is_empty();
    let vouched = |key: &&u8| !found.doubtful.contains(*key);
    let keys: BTreeSet<u8> = scanned.keys().chain(found.state.puts.keys()).copied().collect();
    for key in keys.iter().filter(vouched) {
        let (got, seen) = (found.state.puts.get(key), scanned.get(key));
        if got != seen {
            return Err(format!("key {key}: a read finds version {got:?}, a scan {seen:?}"));
        }
    }
    for owner in 0..OWNERS {
        for hint in engine.hints_of(&expect::owner(owner), None, usize::MAX) {
            let number = (0..KEYS).find(|key| expect::key(*key) == hint.key);
            let number = number.ok_or("a hint of a key that never was")?;
            let version = expect::version(number, &hint.object)?;
            found.state.hints.insert((owner, number), version);
        }
    }
    Ok(found)
}

async fn scan(snapshot: &Snapshot) -> Result<std::collections::BTreeMap<u8, Version>, String> {
    let mut all = std::collections::BTreeMap::new();
    let mut from = Bound::Unbounded;
    loop {
        let page = snapshot.scan(from, Bound::Unbounded, PAGE_BYTES).await;
        let page = page.map_err(|e| e.to_string())?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        from = Bound::Excluded(last.clone());
        for (key, object) in &page {
            let number = (0..KEYS).find(|number| expect::key(*number) == *key);
            let number = number.ok_or("a scan finds a key that never was")?;
            if all.insert(number, expect::version(number, object)?).is_some() {
                return Err(format!("a scan finds key {number} twice"));
            }
        }
    }
}

async fn in_time<F: Future>(what: &str, work: F) -> Result<F::Output, String> {
    time::timeout(PATIENCE, work).await.map_err(|_| format!("{what} took over a minute"))
}
