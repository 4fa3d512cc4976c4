//! Stories of one data folder on a simulated disk: somebody else's, used twice, or on a device in trouble. Each ends with a
//! typed error or with all that was confirmed. What the swarm draws beside that is in the table of `sim/README.md`.
#![cfg(madsim)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starling::domain::causality::{Actor, CausalContext, Dot, NodeId};
use starling::domain::key::Key;
use starling::domain::object::{Content, Object, Sibling};
use starling::runtime::{task, time};
use starling::storage::{
    ClaimError, Engine, OpenError, Options, ReadError, SYNC_LAG_MAX, SyncPolicy, WriteError,
};
use starling_world::fs;
use starling_world::process::MachineId;
use starling_world::trace::Keep;
use starling_world::{Config, disk, machine};
use tokio::sync::oneshot;

const FOLDER: &str = "/data";

/// Tells a story on a machine of its own.
fn on_machine<F>(story: impl FnOnce(MachineId) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let config = Config { seed: 1, wall_start_ms: 1_767_225_600_000, keep_trace: Keep::Nothing };
    starling_world::run(config, async move {
        let machine = machine::add("m", [10, 0, 0, 1]);
        let (tell, told) = oneshot::channel();
        machine::start(machine, move || async move {
            story(machine).await;
            tell.send(()).expect("the test waits for the end");
        });
        told.await.expect("the story came to its end");
    });
}

fn key(n: u32) -> Key {
    Key::new("b", &format!("key-{n}")).expect("a short name is a key")
}

fn object(n: u32) -> Arc<Object> {
    let dot = Dot { actor: Actor { node: NodeId(7), epoch: 1 }, counter: 1 };
    let content = Content::Value(Bytes::from(format!("{n:0>300}")));
    let mut object = Object::new();
    let sibling = Sibling { dot, content, written_at_ms: 1, expires_at_ms: None };
    object.write(&CausalContext::new(), sibling);
    Arc::new(object)
}

fn tiny() -> Options {
    Options { segment_bytes: 4096, memtable_bytes: 1024, cache_bytes: 0, ..Options::default() }
}

async fn open(folder: &str, cluster: &str) -> Result<Engine, OpenError> {
    Engine::open(Path::new(folder), cluster, tiny()).await
}

async fn fill(engine: &Engine, keys: std::ops::Range<u32>) {
    for n in keys {
        engine.room().await;
        let ticket = engine.put(&key(n), &object(n)).expect("there is room");
        ticket.durable().await.expect("the disk is well");
    }
}

async fn holds(engine: &Engine, keys: std::ops::Range<u32>) {
    for n in keys {
        assert_eq!(engine.get(&key(n)).await, Ok(Some(object(n))), "key {n}");
    }
}

#[test]
fn a_folder_is_used_once_at_a_time_and_by_its_own_node_alone() {
    on_machine(|_| async {
        let engine = open(FOLDER, "c").await.unwrap();
        engine.claim("n1").await.unwrap();
        fill(&engine, 0..20).await;
        assert!(matches!(open(FOLDER, "c").await, Err(OpenError::Locked(_))));
        engine.close().await.unwrap();
        assert!(matches!(open(FOLDER, "other").await, Err(OpenError::ForeignCluster { .. })));
        let engine = open(FOLDER, "c").await.unwrap();
        let refused = engine.claim("n2").await;
        assert!(matches!(refused, Err(ClaimError::Foreign { .. })), "{refused:?}");
        engine.claim("n1").await.unwrap();
        holds(&engine, 0..20).await;
    });
}

#[test]
fn what_is_acked_at_once_is_on_the_disk_before_its_lag_is_over() {
    on_machine(|_| async {
        let sync = SyncPolicy::Interval { lag: SYNC_LAG_MAX };
        let engine =
            Engine::open(Path::new(FOLDER), "c", Options { sync, ..tiny() }).await.unwrap();
        let mut waiting = Vec::new();
        for n in 0..500 {
            engine.room().await;
            engine.put(&key(n), &object(n)).unwrap().ackable().await.unwrap();
            let (acked, barrier) = (time::now(), engine.barrier());
            waiting.push(task::spawn(async move {
                barrier.durable().await.unwrap();
                time::now().since(acked)
            }));
            time::sleep(Duration::from_micros(u64::from(n) * 7919 % 9000)).await;
        }
        for (n, waiting) in waiting.into_iter().enumerate() {
            let lag = waiting.await.unwrap();
            assert!(lag <= SYNC_LAG_MAX, "put {n} was on the disk {lag:?} after its ack");
        }
    });
}

async fn newest(folder: &str, such: &str) -> PathBuf {
    let entries = fs::read_dir(Path::new(folder)).await.expect("the folder is there");
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.retain(|name| name.contains(such));
    names.sort();
    Path::new(folder).join(names.pop().expect("there is such a file"))
}

#[test]
fn files_of_another_folder_are_never_taken_for_its_own() {
    for such in ["log-", "manifest-", ".sst"] {
        on_machine(move |_| async move {
            for folder in [FOLDER, "/theirs"] {
                let engine = open(folder, "c").await.unwrap();
                fill(&engine, 0..20).await;
                engine.close().await.unwrap();
            }
            let (own, other) = (newest(FOLDER, such).await, newest("/theirs", such).await);
            fs::remove_file(&own).await.unwrap();
            fs::rename(&other, &own).await.unwrap();
            match open(FOLDER, "c").await {
                Err(OpenError::Damaged { file, .. }) => assert_eq!(file, own),
                Err(error) => panic!("{such}: {error}"),
                // A table is not worth a start: what it held is in doubt.
                Ok(engine) => {
                    assert_eq!(such, ".sst", "it was accepted");
                    assert!(!engine.doubts().is_empty());
                    for n in 0..20 {
                        let found = engine.get(&key(n)).await;
                        let sound = found == Ok(Some(object(n)));
                        assert!(sound || found == Err(ReadError::Doubtful), "{found:?}");
                    }
                }
            }
        });
    }
}

#[test]
fn a_device_in_trouble_refuses_by_name_and_loses_nothing() {
    on_machine(|machine| async move {
        let engine = open(FOLDER, "c").await.unwrap();
        fill(&engine, 0..20).await;
        // The log's device is full: what is accepted waits, what comes later is refused.
        disk::limit_capacity(machine, Some(disk::used(machine)));
        let waiting = engine.put(&key(20), &object(20)).unwrap();
        let refused = loop {
            match engine.put(&key(21), &object(21)) {
                Ok(ticket) => drop(ticket),
                // Memory may be full before the log is known to be.
                Err(WriteError::Overloaded { .. }) => {}
                Err(error) => break error,
            }
            starling_world::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert!(matches!(refused, WriteError::Stalled { .. }), "{refused:?}");
        disk::limit_capacity(machine, None);
        waiting.durable().await.unwrap();
        // Writes and syncs that fail are tried again elsewhere.
        disk::fail_writes(machine, 3);
        engine.put(&key(22), &object(22)).unwrap().durable().await.unwrap();
        disk::fail_syncs(machine, 3);
        loop {
            engine.room().await;
            match engine.put(&key(23), &object(23)) {
                Ok(ticket) => break ticket.durable().await.unwrap(),
                Err(WriteError::Stalled { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            starling_world::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        holds(&engine, 0..21).await;
        engine.close().await.unwrap();
        // A read that fails is no damage.
        disk::fail_reads(machine, 1);
        assert!(matches!(open(FOLDER, "c").await, Err(OpenError::Disk { .. })));
        let engine = open(FOLDER, "c").await.unwrap();
        holds(&engine, 0..21).await;
        disk::fail_reads(machine, u64::MAX);
        let mut failed = 0;
        for n in 0..20 {
            match engine.get(&key(n)).await {
                Err(ReadError::Disk { .. }) => failed += 1,
                other => assert_eq!(other, Ok(Some(object(n)))),
            }
        }
        assert!(failed > 0, "every read came from memory");
        disk::fail_reads(machine, 0);
        assert!(engine.doubts().is_empty());
        holds(&engine, 0..24).await;
    });
}
