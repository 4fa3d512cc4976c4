//! The promises of the interface, without faults.

use super::*;
use crate::storage::identity::EPOCH_BLOCK;
use crate::storage::{ReadError, SyncPolicy, WriteError};

#[test]
fn what_was_put_is_read_at_once_and_after_a_restart() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), Options::default()).await;
        assert_eq!(engine.get(&key(1)).await, Ok(None));
        let ticket = engine.put(&key(1), &object("one")).unwrap();
        assert_eq!(engine.get(&key(1)).await, Ok(Some(object("one"))));
        ticket.durable().await.unwrap();
        engine.close().await.unwrap();

        let engine = open(dir.path(), Options::default()).await;
        assert_eq!(engine.get(&key(1)).await, Ok(Some(object("one"))));
        assert_eq!(engine.stats().keys, 1);
    });
}

#[test]
fn a_new_folder_is_made_with_those_above_it() {
    run(async {
        let dir = temp_dir();
        let deep = dir.path().join("a/b/c");
        let engine = open(&deep, plain()).await;
        put(&engine, 1, "one").await;
        engine.close().await.unwrap();
        assert_eq!(contents(&open(&deep, plain()).await).await.len(), 1);
    });
}

#[test]
fn one_engine_at_a_time_has_the_folder() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let second = Engine::open(dir.path(), CLUSTER, plain()).await;
        assert!(matches!(second, Err(OpenError::Locked(_))), "{second:?}");
        engine.close().await.unwrap();
        open(dir.path(), plain()).await;
    });
}

#[test]
fn dropping_the_last_clone_writes_what_is_pending_and_lets_go() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let clone = engine.clone();
        drop(engine.put(&key(1), &object("one")).unwrap());
        drop(engine);
        drop(clone.put(&key(2), &object("two")).unwrap());
        drop(clone);
        let engine = open_when_free(dir.path(), plain()).await;
        assert_eq!(contents(&engine).await.len(), 2);
    });
}

#[test]
fn a_folder_of_another_cluster_is_refused() {
    run(async {
        let dir = temp_dir();
        open(dir.path(), plain()).await.close().await.unwrap();
        let error = Engine::open(dir.path(), "other", plain()).await.unwrap_err();
        let OpenError::ForeignCluster { found, expected, .. } = &error else { panic!("{error:?}") };
        assert_eq!((found.as_str(), expected.as_str()), (CLUSTER, "other"));
    });
}

#[test]
fn the_node_stays_and_its_generation_rises() {
    run(async {
        let (dir, other) = (temp_dir(), temp_dir());
        let mut seen = Vec::new();
        for generation in 1..=3 {
            let engine = open(dir.path(), plain()).await;
            assert_eq!(engine.identity().generation, generation);
            seen.push(engine.identity().node);
            engine.close().await.unwrap();
        }
        assert!(seen.iter().all(|node| *node == seen[0]));
        assert_ne!(open(other.path(), plain()).await.identity().node, seen[0]);
    });
}

#[test]
fn epochs_never_repeat() {
    run(async {
        let dir = temp_dir();
        let mut through = 0;
        for _ in 0..3 {
            let engine = open(dir.path(), plain()).await;
            let tasks: Vec<_> = (0..4)
                .map(|_| engine.clone())
                .map(|engine| task::spawn(async move { engine.reserve_epochs(0).await.unwrap() }))
                .collect();
            let mut blocks = Vec::new();
            for task in tasks {
                blocks.push(task.await.unwrap());
            }
            blocks.sort_by_key(|block| block.first);
            for block in blocks {
                assert!(block.first > through, "{block:?} after {through}");
                assert_eq!(block.through - block.first + 1, EPOCH_BLOCK);
                through = block.through;
            }
            // A process that dies here keeps its reservation; so does one that closes.
            let crashed = folder(&image(dir.path()).await).await;
            let next = open(crashed.path(), plain()).await.reserve_epochs(0).await.unwrap();
            assert!(next.first > through);
            engine.close().await.unwrap();
            assert!(engine.reserve_epochs(0).await.is_err());
        }
    });
}

#[test]
fn concurrent_writers_share_syncs() {
    run(async {
        let dir = temp_dir();
        // More patient than a busy machine is slow.
        let patient = Options { gather: Duration::from_millis(100), ..Options::default() };
        let engine = open(dir.path(), patient).await;
        let writers: Vec<_> = (0..64)
            .map(|writer| (writer, engine.clone()))
            .map(|(writer, engine)| {
                task::spawn(async move {
                    for n in 0..20 {
                        put(&engine, writer * 100 + n, "value").await;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let stats = engine.stats();
        assert_eq!((stats.records, stats.keys, stats.pending_bytes), (1280, 1280, 0));
        assert!(stats.syncs * 4 <= stats.records, "{stats:?}");
        engine.close().await.unwrap();
        assert_eq!(contents(&open(dir.path(), plain()).await).await.len(), 1280);
    });
}

#[test]
fn a_lone_writer_does_not_wait_for_company() {
    run(async {
        let dir = temp_dir();
        let patient = Options { gather: Duration::from_secs(3600), ..plain() };
        let engine = open(dir.path(), patient).await;
        for n in 0..10 {
            put(&engine, n, "value").await;
        }
        assert_eq!(engine.stats().syncs, 10);
    });
}

#[test]
fn the_log_keeps_the_order_of_puts() {
    run(async {
        let dir = temp_dir();
        let tiny = Options { batch_bytes_max: 4096, segment_bytes: 8192, ..plain() };
        let engine = open(dir.path(), tiny).await;
        for n in 0..500 {
            drop(engine.put(&key(n % 3), &object(&format!("{n:0500}"))).unwrap());
        }
        engine.barrier().durable().await.unwrap();
        let crashed = folder(&image(dir.path()).await).await;
        let engine = open(crashed.path(), tiny).await;
        for n in 497..500 {
            let found = engine.get(&key(n % 3)).await.unwrap().unwrap();
            assert_eq!(found, object(&format!("{n:0500}")));
        }
        assert!(segments(&image(dir.path()).await).len() > 20);
    });
}

#[test]
fn a_barrier_with_nothing_pending_is_durable_at_once() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        engine.barrier().durable().await.unwrap();
        put(&engine, 1, "one").await;
        engine.barrier().durable().await.unwrap();
        assert_eq!(engine.stats().syncs, 1);
    });
}

#[test]
fn a_closed_engine_says_so() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let ticket = engine.put(&key(1), &object("one")).unwrap();
        engine.close().await.unwrap();
        engine.close().await.unwrap();
        ticket.durable().await.unwrap();
        assert_eq!(engine.put(&key(1), &object("two")).unwrap_err(), WriteError::Closed);
        assert_eq!(engine.get(&key(1)).await, Err(ReadError::Closed));
        let scan = engine.scan(Bound::Unbounded, Bound::Unbounded, 1).await;
        assert_eq!(scan.unwrap_err(), ReadError::Closed);
    });
}

#[test]
fn an_interval_confirms_at_once_and_writes_later() {
    run(async {
        let dir = temp_dir();
        let sync = SyncPolicy::Interval { lag: Duration::from_millis(10) };
        let engine = open(dir.path(), Options { sync, ..plain() }).await;
        for n in 0..100 {
            engine.put(&key(n), &object("value")).unwrap().ackable().await.unwrap();
        }
        while engine.stats().records < 100 {
            time::sleep(Duration::from_millis(1)).await;
        }
        assert!(engine.stats().syncs < 50);
        let crashed = folder(&image(dir.path()).await).await;
        assert_eq!(contents(&open(crashed.path(), plain()).await).await.len(), 100);
        put(&engine, 100, "value").await;
        engine.close().await.unwrap();
        assert_eq!(contents(&open(dir.path(), plain()).await).await.len(), 101);
    });
}

#[test]
fn an_object_larger_than_a_batch_is_refused_and_changes_nothing() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), Options { batch_bytes_max: 8_000, ..plain() }).await;
        let large = engine.put(&key(1), &object(&"x".repeat(8_000)));
        assert!(matches!(large, Err(WriteError::TooLarge { .. })), "{large:?}");
        assert!(contents(&engine).await.is_empty());
        put(&engine, 1, &"x".repeat(7_000)).await;
        assert_eq!(contents(&engine).await.len(), 1);
    });
}

#[test]
fn options_that_contradict_themselves_are_refused() {
    run(async {
        let dir = temp_dir();
        let sync = SyncPolicy::Interval { lag: Duration::from_millis(11) };
        for wrong in [
            Options { sync, ..plain() },
            Options { batch_bytes_max: 0, ..plain() },
            Options { pending_bytes_max: 100, ..plain() },
            Options { segment_bytes: 0, ..plain() },
            Options { memtable_bytes: 0, ..plain() },
            Options { table_bytes: 0, ..plain() },
            Options { block_bytes: 0, ..plain() },
            Options { prefill_bytes: usize::MAX, ..plain() },
        ] {
            let opened = Engine::open(dir.path(), CLUSTER, wrong).await;
            assert!(matches!(opened, Err(OpenError::Options(_))), "{opened:?}");
        }
    });
}

#[test]
fn idle_restarts_leave_nothing_behind() {
    run(async {
        let dir = temp_dir();
        for _ in 0..5 {
            open(dir.path(), plain()).await.close().await.unwrap();
        }
        assert_eq!(segments(&image(dir.path()).await).len(), 1);
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        engine.close().await.unwrap();
        for _ in 0..5 {
            open(dir.path(), plain()).await.close().await.unwrap();
        }
        let files = image(dir.path()).await;
        assert_eq!(segments(&files).len(), 2, "one with the record, one to go on");
        assert_eq!(open(dir.path(), plain()).await.stats().keys, 1);
    });
}

#[test]
fn zeros_are_written_ahead_once_and_not_past_the_segment() {
    run(async {
        let dir = temp_dir();
        let options = Options { prefill_bytes: 3000, segment_bytes: 8192, ..plain() };
        let engine = open(dir.path(), options).await;
        let mut lengths = Vec::new();
        while engine.stats().segments == 1 {
            put(&engine, 1, "x").await;
            let files = image(dir.path()).await;
            lengths.push(files["log-0000000001.log"].len() as u64);
        }
        lengths.dedup();
        // At its birth, then whenever it is used up, at last as far as the segment may grow.
        assert!((3..=4).contains(&lengths.len()), "{lengths:?}");
        assert_eq!((lengths[0], lengths.last()), (3072, Some(&8192)));
    });
}

#[test]
fn inverted_bounds_hold_nothing() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        for n in 0..3 {
            put(&engine, n, "x").await;
        }
        let keys: Vec<Key> = contents(&engine).await.into_keys().collect();
        let (first, last) = (keys[0].clone(), keys[2].clone());
        for (from, to) in [
            (Bound::Included(last.clone()), Bound::Included(first.clone())),
            (Bound::Excluded(first.clone()), Bound::Excluded(first.clone())),
            (Bound::Included(first.clone()), Bound::Excluded(first)),
        ] {
            assert!(engine.scan(from, to, 1000).await.unwrap().is_empty());
        }
        let from = Bound::Included(last.clone());
        assert_eq!(engine.scan(from.clone(), from, 1000).await.unwrap().len(), 1);
    });
}
