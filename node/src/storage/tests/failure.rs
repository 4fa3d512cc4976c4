//! A disk that fails, is full or slow: nothing accepted is lost, nothing is confirmed too early.

use std::io;
use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::storage::log::append::{Device, Disk};
use crate::storage::queue::{Next, Shared};
use crate::storage::{SyncPolicy, WriteError};

/// What the test does to the disk. Clones share it.
#[derive(Clone, Debug)]
struct Flaky {
    script: Arc<Mutex<Script>>,
    /// Each write takes one permit; without one it hangs.
    permits: Arc<Semaphore>,
}

const PLENTY: usize = 1 << 20;

#[derive(Debug, Default)]
struct Script {
    /// So many of the next writes fail.
    failing: u32,
    /// A sync of the newest file failed: as Linux does, it drops what is written there from now
    /// on, and says that all is well.
    forgets: bool,
    appends: u32,
    births: u32,
}

impl Flaky {
    fn new() -> Self {
        Self { script: Arc::default(), permits: Arc::new(Semaphore::new(PLENTY)) }
    }

    fn fail(&self, times: u32) {
        self.script.lock().unwrap().failing = times;
    }

    /// Lets so many more writes through and no others.
    fn allow(&self, writes: usize) {
        self.permits.forget_permits(PLENTY);
        self.permits.add_permits(writes);
    }

    /// What the next write does: fail, or lie, or neither.
    async fn fate(&self, birth: bool) -> Fate {
        self.permits.acquire().await.unwrap().forget();
        let mut script = self.script.lock().unwrap();
        *(if birth { &mut script.births } else { &mut script.appends }) += 1;
        if script.failing > 0 {
            script.failing -= 1;
            script.forgets = true;
            return Fate::Fail;
        }
        script.forgets &= !birth;
        if script.forgets { Fate::Forget } else { Fate::Work }
    }
}

enum Fate {
    Work,
    Fail,
    Forget,
}

impl Device for Flaky {
    async fn create(&self, path: &Path, data: Bytes) -> io::Result<File> {
        match self.fate(true).await {
            Fate::Work => Disk.create(path, data).await,
            Fate::Fail | Fate::Forget => {
                // Half of it arrives.
                Disk.create(path, data.slice(..data.len() / 2)).await?;
                Err(io::ErrorKind::StorageFull.into())
            }
        }
    }

    async fn append(&self, file: &File, offset: u64, data: Bytes) -> io::Result<()> {
        match self.fate(false).await {
            Fate::Work => Disk.append(file, offset, data).await,
            Fate::Fail => {
                Disk.append(file, offset, data.slice(..data.len() / 2)).await?;
                Err(io::Error::other("input/output error"))
            }
            Fate::Forget => Ok(()),
        }
    }
}

async fn open_on(disk: &Flaky, dir: &Path, options: Options) -> Engine {
    Engine::open_on(disk.clone(), dir, CLUSTER, options).await.unwrap()
}

async fn until(mut test: impl FnMut() -> bool) {
    while !test() {
        time::sleep(Duration::from_millis(1)).await;
    }
}

/// True when the ticket is confirmed within a moment.
async fn is_durable(ticket: &crate::storage::Ticket) -> bool {
    match time::timeout(Duration::from_millis(30), ticket.clone().durable()).await {
        Ok(confirmed) => confirmed.is_ok(),
        Err(time::Elapsed) => false,
    }
}

#[test]
fn nothing_is_confirmed_before_its_sync() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        disk.allow(0);
        let first = engine.put(&key(1), &object("one")).unwrap();
        assert!(!is_durable(&first).await);
        let second = engine.put(&key(2), &object("two")).unwrap();
        let barrier = engine.barrier();
        assert_eq!(engine.get(&key(2)).await, Ok(Some(object("two"))), "visible at once");
        assert!(!is_durable(&first).await);
        assert!(!is_durable(&second).await);
        assert!(!is_durable(&barrier).await, "a barrier waits for what is in memory alone");
        let crashed = folder(&image(dir.path()).await).await;
        disk.allow(1);
        first.durable().await.unwrap();
        assert!(!is_durable(&second).await, "the batch before it was synced, not its own");
        assert!(!is_durable(&barrier).await, "a barrier waits for the last batch");
        disk.allow(1);
        barrier.durable().await.unwrap();
        assert!(is_durable(&second).await);
        assert!(contents(&open(crashed.path(), plain()).await).await.is_empty());
        let crashed = folder(&image(dir.path()).await).await;
        assert_eq!(contents(&open(crashed.path(), plain()).await).await.len(), 2);
    });
}

#[test]
fn a_failed_sync_stalls_and_the_batch_goes_to_another_file() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        // The append fails, and so do two births after it.
        disk.fail(3);
        let ticket = engine.put(&key(2), &object("two")).unwrap();
        drop(ticket.clone());
        until(|| engine.stats().stalled.is_some()).await;
        let refused = engine.put(&key(3), &object("three")).unwrap_err();
        assert!(matches!(&refused, WriteError::Stalled { reason } if reason.contains("log-")));
        assert_eq!(engine.get(&key(3)).await, Ok(None), "refused: nothing changed");
        assert_eq!(engine.get(&key(2)).await, Ok(Some(object("two"))), "accepted: it stays");

        ticket.durable().await.unwrap();
        assert_eq!((engine.failures(), engine.stats().stalled), (3, None));
        put(&engine, 3, "three").await;
        let expected = contents(&engine).await;
        let files = image(dir.path()).await;
        assert_eq!(segments(&files), ["log-0000000001.log", "log-0000000004.log"]);
        let crashed = folder(&files).await;
        assert_eq!(contents(&open(crashed.path(), plain()).await).await, expected);
        engine.close().await.unwrap();
        assert_eq!(contents(&open(dir.path(), plain()).await).await, expected);
    });
}

#[test]
fn who_waits_here_may_go_away_while_the_batch_is_written() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        disk.allow(0);
        let first = engine.put(&key(1), &object("one")).unwrap();
        let kept = first.clone();
        // It is written in this task, as far as that goes without waiting.
        assert!(time::timeout(Duration::from_millis(5), first.ackable_here()).await.is_err());
        let second = engine.put(&key(2), &object("two")).unwrap();
        let third = engine.put(&key(3), &object("three")).unwrap();
        drop(third);
        disk.allow(1);
        kept.durable().await.unwrap();
        assert!(!is_durable(&second).await);
        // What came meanwhile is written by whoever comes first; one writes at a time.
        disk.allow(1);
        second.ackable_here().await.unwrap();
        drop(engine.put(&key(4), &object("four")).unwrap());
        disk.allow(PLENTY);
        engine.close().await.unwrap();
        assert_eq!(contents(&open(dir.path(), plain()).await).await.len(), 4);
    });
}

#[test]
fn who_waits_here_for_a_disk_that_fails_hears_of_it_when_the_engine_is_closed() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        disk.fail(u32::MAX);
        let ticket = engine.put(&key(2), &object("two")).unwrap();
        let waiting = crate::runtime::task::spawn(ticket.ackable_here());
        until(|| engine.failures() >= 2).await;
        assert!(matches!(engine.close().await, Err(WriteError::Stalled { .. })));
        assert_eq!(waiting.await.unwrap(), Err(WriteError::Closed));
        assert_eq!(contents(&open(dir.path(), plain()).await).await.len(), 1);
    });
}

#[test]
fn what_waits_behind_a_failed_batch_follows_it_in_order() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let options = Options { batch_bytes_max: 4096, ..plain() };
        let engine = open_on(&disk, dir.path(), options).await;
        put(&engine, 1, "zero").await;
        disk.allow(0);
        let tickets: Vec<_> = (0..20)
            .map(|n| engine.put(&key(n % 2), &object(&format!("{n:01000}"))).unwrap())
            .collect();
        disk.fail(1);
        disk.allow(PLENTY);
        for ticket in tickets {
            ticket.durable().await.unwrap();
        }
        assert_eq!(engine.failures(), 1);
        let crashed = folder(&image(dir.path()).await).await;
        let engine = open(crashed.path(), plain()).await;
        for n in 18..20 {
            let found = engine.get(&key(n % 2)).await.unwrap();
            assert_eq!(found, Some(object(&format!("{n:01000}"))));
        }
    });
}

#[test]
fn a_crash_while_stalled_keeps_what_was_confirmed() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        disk.fail(u32::MAX);
        drop(engine.put(&key(2), &object("two")).unwrap());
        until(|| engine.failures() >= 2).await;
        let crashed = folder(&image(dir.path()).await).await;
        let engine = open(crashed.path(), plain()).await;
        assert_eq!(engine.get(&key(1)).await, Ok(Some(object("one"))));
        assert_eq!(engine.get(&key(2)).await, Ok(None), "it was torn, and never confirmed");
    });
}

#[test]
fn closing_a_stalled_engine_says_what_is_lost_and_lets_go() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        disk.fail(u32::MAX);
        let ticket = engine.put(&key(2), &object("two")).unwrap();
        drop(ticket.clone());
        until(|| engine.stats().stalled.is_some()).await;
        assert!(matches!(engine.close().await, Err(WriteError::Stalled { .. })));
        assert_eq!(ticket.durable().await, Err(WriteError::Closed));
        assert_eq!(contents(&open(dir.path(), plain()).await).await.len(), 1);
    });
}

#[test]
fn a_slow_disk_fills_the_queue_and_then_writes_are_refused() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let options = Options { batch_bytes_max: 4096, pending_bytes_max: 8192, ..plain() };
        let engine = open_on(&disk, dir.path(), options).await;
        disk.allow(0);
        let mut accepted = 0;
        let refused = loop {
            match engine.put(&key(accepted), &object(&"x".repeat(1000))) {
                Ok(ticket) => drop(ticket),
                Err(error) => break error,
            }
            accepted += 1;
        };
        assert!(matches!(refused, WriteError::PendingFull { limit: 8192, .. }), "{refused:?}");
        assert!((5..8).contains(&accepted), "{accepted}");
        assert_eq!(engine.stats().keys, accepted);
        disk.allow(PLENTY);
        engine.barrier().durable().await.unwrap();
        assert_eq!(engine.stats().pending_bytes, 0);
        put(&engine, accepted, "room again").await;
        engine.close().await.unwrap();
        let engine = open(dir.path(), plain()).await;
        assert_eq!(engine.stats().keys, accepted + 1);
    });
}

#[test]
fn who_waits_for_room_waits_for_a_slow_disk_and_hears_of_a_failing_one() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let options = Options { batch_bytes_max: 4096, pending_bytes_max: 8192, ..plain() };
        let engine = open_on(&disk, dir.path(), options).await;
        let fill = async |from: u64| {
            disk.allow(0);
            for at in from..from + 5 {
                drop(engine.put(&key(at), &object(&"x".repeat(1000))).unwrap());
            }
            let deadline = time::now() + Duration::from_millis(20);
            let waited = time::timeout_at(deadline, engine.room()).await;
            assert!(waited.is_err(), "more than half of what may be pending is");
        };
        fill(0).await;
        disk.allow(PLENTY);
        engine.room().await;
        engine.barrier().durable().await.unwrap();

        fill(10).await;
        disk.fail(u32::MAX);
        disk.allow(PLENTY);
        engine.room().await;
        assert!(matches!(engine.put(&key(20), &object("no")), Err(WriteError::Stalled { .. })));
    });
}

#[test]
fn an_interval_confirms_before_the_disk_does() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let sync = SyncPolicy::Interval { lag: Duration::from_millis(5) };
        let engine = open_on(&disk, dir.path(), Options { sync, ..plain() }).await;
        disk.allow(0);
        engine.put(&key(1), &object("one")).unwrap().ackable().await.unwrap();
        engine.barrier().ackable().await.unwrap();
        assert!(engine.stats().pending_bytes > 0);
        assert!(
            !is_durable(&engine.barrier()).await,
            "whoever wants it on disk waits for the disk"
        );
        disk.allow(PLENTY);
        engine.barrier().durable().await.unwrap();
        until(|| engine.stats().pending_bytes == 0).await;
    });
}

#[test]
fn nobody_waits_for_the_end_of_a_hint() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        for n in 0..3 {
            engine.put_hint("n2", &key(n), object("kept"), 1).unwrap().durable().await.unwrap();
        }
        disk.allow(0);
        assert!(engine.remove_hint("n2", &key(0), object("kept").digest()).unwrap());
        let pending = engine.stats().pending_bytes;
        assert!(pending > 0, "it is on its way to the log");
        assert!(is_durable(&engine.barrier()).await, "what is awaited is durable");
        // A write takes it along, and is waited for.
        let put = engine.put(&key(9), &object("nine")).unwrap();
        assert!(engine.remove_hint("n2", &key(1), object("kept").digest()).unwrap());
        assert!(!is_durable(&engine.barrier()).await);
        disk.allow(PLENTY);
        put.durable().await.unwrap();
        // What has no company goes by itself.
        assert!(engine.remove_hint("n2", &key(2), object("kept").digest()).unwrap());
        until(|| engine.stats().pending_bytes == 0).await;
        let crashed = folder(&image(dir.path()).await).await;
        let again = open(crashed.path(), plain()).await;
        assert_eq!(again.stats().hints, 0);
        assert_eq!(again.get(&key(9)).await, Ok(Some(object("nine"))));
    });
}

#[test]
fn what_nobody_waits_for_goes_once_there_is_enough_of_it() {
    let shared = Arc::new(Shared::new(plain(), 0, Default::default()));
    let value = object(&"v".repeat(1_000));
    let put = |n| drop(shared.put(&key(n), &value, false).unwrap());
    let told = || shared.work(None).now_or_never().is_some();
    put(0);
    assert!(told(), "of the first, which may have to go alone");
    (1..60).for_each(put);
    assert!(!told(), "there may be company");
    (60..80).for_each(put);
    assert!(told());
    let next = shared.next(&mut None);
    assert!(matches!(&next, Next::Write(batch) if batch.records == 80), "{next:?}");
    assert!(matches!(shared.next(&mut None), Next::Wait));
}

#[test]
fn what_nobody_waits_for_does_not_make_company_forgotten() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let gather = Duration::from_secs(3600);
        let engine = open_on(&disk, dir.path(), Options { gather, ..plain() }).await;
        one_batch(&engine, &disk, 12).await;
        let large = object(&"v".repeat(100_000));
        drop(engine.put_soon(&key(99), &large).unwrap());
        until(|| engine.stats().pending_bytes == 0).await;
        let few = put_many(&engine, 8);
        assert!(!is_durable(&few).await, "most of the last batch's twelve are awaited");
        let ninth = put_many(&engine, 1);
        assert!(is_durable(&ninth).await);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_hint_does_not_end_while_the_log_fails() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let engine = open_on(&disk, dir.path(), plain()).await;
        engine.put_hint("n2", &key(1), object("kept"), 1).unwrap().durable().await.unwrap();
        disk.fail(u32::MAX);
        drop(engine.put(&key(2), &object("two")).unwrap());
        until(|| engine.stats().stalled.is_some()).await;
        let refused = engine.put_hint("n2", &key(2), object("more"), 1);
        assert!(matches!(refused, Err(WriteError::Stalled { .. })), "{refused:?}");
        assert_eq!(engine.hinted(&key(2)), None);
        let refused = engine.remove_hint("n2", &key(1), object("kept").digest());
        assert!(matches!(refused, Err(WriteError::Stalled { .. })), "{refused:?}");
        assert_eq!(engine.expire_hints(u64::MAX), 0);
        // A restart would bring it back, so its room is not free for another.
        assert_eq!(engine.hinted(&key(1)), Some(object("kept")));
        disk.fail(0);
        until(|| engine.stats().pending_bytes == 0).await;
        assert!(engine.remove_hint("n2", &key(1), object("kept").digest()).unwrap());
        engine.close().await.unwrap();
        assert_eq!(open(dir.path(), plain()).await.hinted(&key(1)), None);
    });
}

/// Puts `count` objects at once; returns the ticket of the last.
fn put_many(engine: &Engine, count: u64) -> crate::storage::Ticket {
    let tickets = (0..count).map(|n| engine.put(&key(n), &object("value")).unwrap());
    tickets.reduce(|_, last| last).unwrap()
}

/// Makes a batch of `count` records the last one.
async fn one_batch(engine: &Engine, disk: &Flaky, count: u64) {
    disk.allow(0);
    let first = put_many(engine, 1);
    // The writer takes it and hangs; what comes now is the next batch.
    assert!(!is_durable(&first).await);
    let syncs = engine.stats().syncs;
    let ticket = put_many(engine, count);
    disk.allow(PLENTY);
    ticket.durable().await.unwrap();
    assert_eq!(engine.stats().syncs, syncs + 2);
}

#[test]
fn company_is_awaited_after_a_busy_batch() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let gather = Duration::from_secs(3600);
        let engine = open_on(&disk, dir.path(), Options { gather, ..plain() }).await;
        one_batch(&engine, &disk, 12).await;
        let few = put_many(&engine, 8);
        assert!(!is_durable(&few).await, "most of the last batch's twelve are awaited");
        let ninth = put_many(&engine, 1);
        assert!(is_durable(&ninth).await);
        assert!(is_durable(&few).await);
        assert_eq!(engine.stats().syncs, 3);
        let alone = put_many(&engine, 1);
        assert!(!is_durable(&alone).await);
        engine.close().await.unwrap();
        alone.durable().await.unwrap();
    });
}

#[test]
fn company_is_not_awaited_for_long_nor_after_a_small_batch() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        let gather = Duration::from_secs(3600);
        let engine = open_on(&disk, dir.path(), Options { gather, ..plain() }).await;
        one_batch(&engine, &disk, 4).await;
        put(&engine, 1, "alone").await;
        engine.close().await.unwrap();

        let gather = Duration::from_millis(5);
        let engine = open_on(&disk, dir.path(), Options { gather, ..plain() }).await;
        one_batch(&engine, &disk, 12).await;
        put(&engine, 1, "alone").await;
    });
}

#[test]
fn a_folder_that_cannot_be_written_is_not_opened() {
    run(async {
        let (disk, dir) = (Flaky::new(), temp_dir());
        disk.fail(1);
        let opened = Engine::open_on(disk.clone(), dir.path(), CLUSTER, plain()).await;
        assert!(matches!(opened, Err(OpenError::Disk { .. })), "{opened:?}");
        let engine = open_on(&disk, dir.path(), plain()).await;
        assert_eq!(engine.identity().generation, 2);
    });
}
