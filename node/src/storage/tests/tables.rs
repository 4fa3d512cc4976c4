//! Memtables that become tables: nothing is lost or forgotten on the way, the log gets shorter, and
//! damage is told, not hidden.

use std::collections::BTreeSet;

use super::*;
use crate::storage::manifest::edit::TableMeta;
use crate::storage::manifest::{manifest_number, read};
use crate::storage::table::table_number;
use crate::storage::{ReadError, TokenRange, WriteError};

/// Puts `value` under keys 0 to `count`, and waits where it has to.
async fn fill(engine: &Engine, count: u64, value: &str) {
    for n in 0..count {
        engine.room().await;
        drop(engine.put(&key(n), &object(value)).unwrap());
    }
    engine.barrier().durable().await.unwrap();
}

fn tables(files: &Image) -> Vec<String> {
    files.keys().filter(|name| table_number(name).is_some()).cloned().collect()
}

/// The tables that the folder's manifest names.
async fn named(files: &Image) -> Vec<TableMeta> {
    let dir = folder(files).await;
    let engine = open(dir.path(), plain()).await;
    let (node, name) =
        (engine.identity().node, files.keys().find(|n| manifest_number(n).is_some()));
    let (name, number) = (name.unwrap(), manifest_number(name.unwrap()).unwrap());
    let state = read::read(Path::new(name), &files[name], number, node).unwrap().unwrap();
    state.tables.into_values().collect()
}

#[test]
fn data_larger_than_the_memtable_is_read_and_survives_restarts() {
    run(async {
        let dir = temp_dir();
        let mut expected = Contents::new();
        for round in 0..4 {
            let engine = open(dir.path(), tiny()).await;
            assert_eq!(contents(&engine).await, expected);
            let value = format!("{round}").repeat(100);
            fill(&engine, 300, &value).await;
            expected = (0..300).map(|n| (key(n), object(&value))).collect();
            for n in 0..300 {
                assert_eq!(engine.get(&key(n)).await, Ok(Some(object(&value))));
            }
            assert_eq!(engine.get(&key(300)).await, Ok(None));
            assert_eq!(contents(&engine).await, expected);
            let stats = engine.stats();
            assert!(stats.flushes > 5 && stats.tables > 0, "{stats:?}");
            if round % 2 == 0 {
                engine.close().await.unwrap();
            } else {
                settle(&engine).await;
                let crashed = folder(&image(dir.path()).await).await;
                assert_eq!(contents(&open(crashed.path(), tiny()).await).await, expected);
                engine.close().await.unwrap();
            }
        }
    });
}

#[test]
fn the_log_gets_shorter_and_what_nothing_names_is_removed() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        fill(&engine, 1000, &"x".repeat(100)).await;
        settle(&engine).await;
        let (stats, files) = (engine.stats(), image(dir.path()).await);
        assert!(stats.log_bytes < 40_000, "{stats:?}");
        assert_eq!(stats.segments, segments(&files).len() as u64);
        assert!(!files.contains_key("log-0000000001.log"));
        assert_eq!(stats.tables, tables(&files).len() as u64);
        engine.close().await.unwrap();

        // Left by a flush that did not end, and by a release whose end did not reach the disk.
        let mut littered = image(dir.path()).await;
        littered.insert("table-0000099999.sst".to_owned(), b"half".to_vec());
        let log = littered[&segments(&littered)[0]].clone();
        littered.insert("log-0000000001.log".to_owned(), log);
        let dir = folder(&littered).await;
        let engine = open(dir.path(), tiny()).await;
        assert_eq!(contents(&engine).await.len(), 1000);
        let files = image(dir.path()).await;
        assert!(!files.contains_key("table-0000099999.sst"));
        assert!(!files.contains_key("log-0000000001.log"));
        fill(&engine, 100, "again").await;
        settle(&engine).await;
        let numbers =
            tables(&image(dir.path()).await).iter().map(|n| table_number(n).unwrap().0).max();
        assert!(numbers > Some(99_999), "a name that was there is not used again");
    });
}

#[test]
fn a_few_keys_that_are_overwritten_again_and_again_keep_no_long_log() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        for round in 0..500 {
            fill(&engine, 2, &format!("{round}").repeat(30)).await;
        }
        settle(&engine).await;
        let stats = engine.stats();
        assert!(stats.log_bytes < 40_000 && stats.flushes > 0, "{stats:?}");
        engine.close().await.unwrap();
    });
}

#[test]
fn hints_outlive_the_segments_that_held_them() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        for n in 0..20 {
            let ticket = engine.put_hint("n2", &key(n), object("kept"), 5).unwrap();
            ticket.durable().await.unwrap();
        }
        assert!(engine.remove_hint("n2", &key(0), object("kept").digest()).unwrap());
        fill(&engine, 2000, &"x".repeat(100)).await;
        settle(&engine).await;
        let files = image(dir.path()).await;
        assert!(!files.contains_key("log-0000000001.log"), "{:?}", segments(&files));
        assert!(engine.stats().log_bytes < 200_000, "{:?}", engine.stats());
        for engine in [open(folder(&files).await.path(), tiny()).await, engine] {
            assert_eq!(engine.stats().hints, 19);
            let hints = engine.hints_of("n2", None, usize::MAX);
            assert!(hints.iter().all(|hint| hint.object == object("kept") && hint.since_ms == 5));
        }
    });
}

#[test]
fn a_log_without_its_front_is_damage_and_so_is_one_that_is_gone() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        fill(&engine, 500, &"x".repeat(100)).await;
        settle(&engine).await;
        engine.close().await.unwrap();
        let files = image(dir.path()).await;
        let mut headless = files.clone();
        headless.remove(&segments(&files)[0]);
        damage(Engine::open(folder(&headless).await.path(), CLUSTER, tiny()).await);
        let mut none = files.clone();
        none.retain(|name, _| !name.starts_with("log-"));
        damage(Engine::open(folder(&none).await.path(), CLUSTER, tiny()).await);
        let mut unknown = files.clone();
        unknown.retain(|name, _| !name.starts_with("manifest-"));
        damage(Engine::open(folder(&unknown).await.path(), CLUSTER, tiny()).await);
    });
}

#[test]
fn the_numbers_of_batches_in_tables_do_not_come_again() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        put(&engine, 1, "one").await;
        drop(engine.snapshot().await.unwrap());
        settle(&engine).await;
        assert_eq!(engine.stats().flushes, 1);
        // The log: the put, and an empty batch that proves it. Without both its numbers would start anew.
        let files = image(dir.path()).await;
        let name = segments(&files).pop().unwrap();
        let magic = crate::storage::log::format::BATCH_MAGIC;
        let mut starts: Vec<_> = (0..files[&name].len()).collect();
        starts.retain(|at| files[&name][*at..].starts_with(&magic));
        assert_eq!(starts.len(), 2);
        let mut rotten = files.clone();
        rotten.get_mut(&name).unwrap()[starts[1] + 20] ^= 1;
        let dir = folder(&rotten).await;
        let engine = open(dir.path(), tiny()).await;
        put(&engine, 2, "two").await;
        settle(&engine).await;
        let crashed = folder(&image(dir.path()).await).await;
        assert_eq!(contents(&open(crashed.path(), tiny()).await).await.len(), 2);
        rotten.get_mut(&name).unwrap()[starts[0] + 20] ^= 1;
        damage(Engine::open(folder(&rotten).await.path(), CLUSTER, tiny()).await);
    });
}

#[test]
fn replaced_versions_take_room_for_a_while_only() {
    run(async {
        let dir = temp_dir();
        // Not compressible, so that bytes are bytes.
        let value = |n: u64| {
            format!("{:x}", u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
                .repeat(4)
        };
        let engine = open(dir.path(), tiny()).await;
        for round in 0..6 {
            for n in 0..1000 {
                engine.room().await;
                drop(engine.put(&key(n), &object(&value(n + round))).unwrap());
            }
        }
        settle(&engine).await;
        let stats = engine.stats();
        assert!(stats.compactions > 3, "{stats:?}");
        // Superseded versions are in level 0 and a quarter of the base at most.
        assert!(stats.keys < 1700, "{stats:?}");
        assert_eq!(contents(&engine).await.len(), 1000);
        for n in 0..1000 {
            assert_eq!(engine.get(&key(n)).await, Ok(Some(object(&value(n + 5)))));
        }
    });
}

#[test]
fn a_snapshot_sees_one_moment_whatever_comes_later() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        fill(&engine, 200, &"a".repeat(100)).await;
        let expected = contents(&engine).await;
        let snapshot = engine.snapshot().await.unwrap();
        fill(&engine, 400, &"b".repeat(100)).await;
        settle(&engine).await;
        let mut seen = Contents::new();
        let mut from = Bound::Unbounded;
        loop {
            let page = snapshot.scan(from, Bound::Unbounded, 3000).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            from = Bound::Excluded(last.clone());
            seen.extend(page);
        }
        assert_eq!(seen, expected);
        let held: BTreeSet<u64> = snapshot.table_numbers().into_iter().collect();
        assert!(!held.is_empty());
        let there = |files: &Image| -> BTreeSet<u64> {
            tables(files).iter().map(|name| table_number(name).unwrap().0).collect()
        };
        assert!(
            there(&image(dir.path()).await).is_superset(&held),
            "files go with the last reader"
        );
        drop(snapshot);
        fill(&engine, 400, &"c".repeat(100)).await;
        settle(&engine).await;
        let files = image(dir.path()).await;
        assert_eq!(tables(&files).len() as u64, engine.stats().tables);
        engine.close().await.unwrap();
        assert!(matches!(engine.snapshot().await, Err(ReadError::Closed)));
    });
}

/// A folder with data in tables, of which one is then treated by `spoil`.
async fn spoiled(spoil: impl FnOnce(&mut Image, &TableMeta)) -> (TempDir, TableMeta) {
    let dir = temp_dir();
    let engine = open(dir.path(), tiny()).await;
    fill(&engine, 1000, &"x".repeat(100)).await;
    settle(&engine).await;
    engine.close().await.unwrap();
    let mut files = image(dir.path()).await;
    let table =
        named(&files).await.into_iter().max_by_key(|table| (table.level, table.entries)).unwrap();
    spoil(&mut files, &table);
    (folder(&files).await, table)
}

fn file_of(table: &TableMeta) -> String {
    format!("table-{:010}.sst", table.id)
}

#[test]
fn a_missing_table_is_doubt_about_its_keys_and_no_others() {
    run(async {
        for truncate in [None, Some(0), Some(100)] {
            let (dir, table) = spoiled(|files, table| {
                match truncate {
                    None => files.remove(&file_of(table)).map(drop),
                    Some(len) => files.get_mut(&file_of(table)).map(|bytes| bytes.truncate(len)),
                };
            })
            .await;
            // In doubt after any number of starts, until somebody heals it.
            for _ in 0..2 {
                let engine = open(dir.path(), tiny()).await;
                assert_eq!(engine.doubts(), [table.tokens()]);
                let mut doubtful = 0;
                for n in 0..1000 {
                    let found = engine.get(&key(n)).await;
                    if table.tokens().contains(key(n).token()) {
                        assert_eq!(found, Err(ReadError::Doubtful));
                        doubtful += 1;
                    } else {
                        assert_eq!(found, Ok(Some(object(&"x".repeat(100)))));
                    }
                }
                assert!(doubtful > 10);
                engine.close().await.unwrap();
            }
            let engine = open(dir.path(), tiny()).await;
            let within =
                (0..1000).map(key).find(|key| table.tokens().contains(key.token())).unwrap();
            drop(engine.put(&within, &object("written in doubt")).unwrap());
            assert_eq!(
                engine.get(&within).await,
                Err(ReadError::Doubtful),
                "it may lack something"
            );
            let known = engine.known(&within).await.unwrap();
            assert_eq!(known.object, Some(object("written in doubt")));
            assert!(engine.trust(TokenRange::ALL, engine.damages()).await.unwrap());
            assert_eq!(engine.get(&within).await, Ok(Some(object("written in doubt"))));
            engine.close().await.unwrap();
            assert_eq!(open(dir.path(), tiny()).await.doubts(), []);
        }
    });
}

#[test]
fn a_rotten_block_is_doubt_about_its_keys_until_it_is_rewritten_and_healed() {
    run(async {
        let (dir, table) = spoiled(|files, table| {
            files.get_mut(&file_of(table)).unwrap()[40] ^= 1;
        })
        .await;
        let engine = open(dir.path(), tiny()).await;
        assert_eq!(engine.doubts(), [], "nobody has looked yet");
        assert_eq!(engine.damages(), 0);
        let mut doubtful = Vec::new();
        for n in 0..1000 {
            match engine.get(&key(n)).await {
                Ok(found) => assert_eq!(found, Some(object(&"x".repeat(100)))),
                Err(error) => {
                    assert_eq!(error, ReadError::Doubtful);
                    doubtful.push(key(n));
                }
            }
        }
        assert!((1..30).contains(&doubtful.len()), "{}", doubtful.len());
        assert!(engine.damages() > 0);
        // The table is rewritten without the block; the doubt stays.
        while dir.path().join(file_of(&table)).exists() {
            time::sleep(Duration::from_millis(1)).await;
        }
        settle(&engine).await;
        // Keys of another table may lie among those of the block: in doubt as well, and there.
        let held = contents(&engine).await;
        let lost: Vec<_> = (0..1000).map(key).filter(|key| !held.contains_key(key)).collect();
        assert!(!lost.is_empty() && lost.iter().all(|key| doubtful.contains(key)), "{lost:?}");
        assert_eq!(engine.get(&lost[0]).await, Err(ReadError::Doubtful));
        let damages = engine.damages();
        assert!(engine.trust(table.tokens(), engine.damages()).await.unwrap());
        assert_eq!(engine.get(&lost[0]).await, Ok(None), "healed: it was never there, say all");
        assert_eq!(engine.damages(), damages, "the block is not met again");
        engine.close().await.unwrap();
        let engine = open(dir.path(), tiny()).await;
        assert_eq!(engine.doubts(), []);
    });
}

#[test]
fn compaction_that_meets_rot_leaves_doubt_not_silence() {
    run(async {
        let (dir, table) = spoiled(|files, table| {
            files.get_mut(&file_of(table)).unwrap()[40] ^= 1;
        })
        .await;
        let engine = open(dir.path(), tiny()).await;
        // Overwrites of other keys: nobody reads the block but the merge.
        for n in 0..3000 {
            engine.room().await;
            drop(engine.put(&key(2000 + n), &object(&"y".repeat(100))).unwrap());
        }
        settle(&engine).await;
        assert!(!image(dir.path()).await.contains_key(&file_of(&table)), "it was merged");
        let missing: Vec<_> = {
            let all = contents(&engine).await;
            (0..1000).map(key).filter(|key| !all.contains_key(key)).collect()
        };
        assert!(!missing.is_empty());
        engine.close().await.unwrap();
        let engine = open(dir.path(), tiny()).await;
        for key in &missing {
            assert_eq!(engine.get(key).await, Err(ReadError::Doubtful), "{key:?}");
        }
    });
}

#[test]
fn writers_wait_for_tables_and_are_refused_when_they_do_not() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        // A folder where the next tables should be: nothing can be written there.
        for n in 1..200 {
            fs::create_dir_all(&dir.path().join(format!("table-{n:010}.sst"))).await.unwrap();
        }
        let mut accepted = 0;
        let refused = loop {
            match engine.put(&key(accepted), &object(&"x".repeat(100))) {
                Ok(ticket) => drop(ticket),
                Err(error) => break error,
            }
            accepted += 1;
        };
        assert!(matches!(refused, WriteError::Overloaded { .. }), "{refused:?}");
        let bytes = engine.stats().memtable_bytes;
        assert!((3 * 4096..=3 * 4096 + 1024 + 800).contains(&bytes), "{bytes}");
        let room = time::timeout(Duration::from_millis(20), engine.room()).await;
        assert!(room.is_err(), "there is none");
        // Refused as well if it would be shorter: what is overwritten keeps its place. All that was accepted is read.
        let shorter = engine.put(&key(accepted - 1), &object("short"));
        assert!(matches!(shorter, Err(WriteError::Overloaded { .. })), "{shorter:?}");
        assert_eq!(contents(&engine).await.len() as u64, accepted);
        while engine.stats().table_failures < 2 {
            time::sleep(Duration::from_millis(5)).await;
        }
        assert!(engine.stats().tables_stalled.is_some());
        engine.barrier().durable().await.unwrap();
        let crashed = {
            let mut files = Image::new();
            for entry in fs::read_dir(dir.path()).await.unwrap().into_iter().filter(|e| !e.is_dir) {
                let file = File::open(&dir.path().join(&entry.name), OpenMode::Read).await.unwrap();
                let bytes = file.read_at(0, entry.len as usize).await.unwrap();
                files.insert(entry.name, bytes.to_vec());
            }
            folder(&files).await
        };
        let again = open(crashed.path(), tiny()).await;
        assert_eq!(contents(&again).await.len() as u64, accepted);
        // There is room again: those who wait go on.
        for n in 1..200 {
            let (from, to) = (format!("table-{n:010}.sst"), format!("away-{n}"));
            fs::rename(&dir.path().join(from), &dir.path().join(to)).await.unwrap();
        }
        engine.room().await;
        put(&engine, accepted, "room again").await;
        settle(&engine).await;
        assert_eq!(engine.stats().tables_stalled, None);
        assert_eq!(contents(&engine).await.len() as u64, accepted + 1);
    });
}

#[test]
fn an_end_in_the_middle_of_flushes_and_merges_loses_nothing() {
    run(async {
        let dir = temp_dir();
        let mut model = Contents::new();
        for round in 0..20 {
            let engine = open(dir.path(), tiny()).await;
            assert_eq!(contents(&engine).await, model, "round {round}");
            for n in 0..(40 * (round % 5) + 50) {
                engine.room().await;
                let (key, object) =
                    (key((n * 7 + round) % 400), object(&format!("{round}-{n:0200}")));
                drop(engine.put(&key, &object).unwrap());
                model.insert(key, object);
            }
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn what_was_removed_stays_so_and_takes_no_room_in_the_end() {
    run(async {
        let dir = temp_dir();
        let mut engine = open(dir.path(), tiny()).await;
        fill(&engine, 300, &"x".repeat(100)).await;
        settle(&engine).await;
        for n in 0..300 {
            engine.room().await;
            drop(engine.remove(&key(n)).unwrap());
        }
        // Until they are merged with what they hide, markers are versions like any other.
        assert_eq!(engine.get(&key(7)).await, Ok(None));
        assert!(contents(&engine).await.is_empty());
        engine.close().await.unwrap();
        engine = open(dir.path(), tiny()).await;
        assert!(contents(&engine).await.is_empty());
        // Other keys push the markers down.
        for round in 0..3 {
            for n in 300..600 {
                put(&engine, n, &format!("{round}").repeat(100)).await;
            }
        }
        settle(&engine).await;
        for n in 0..300 {
            assert_eq!(engine.get(&key(n)).await, Ok(None));
        }
        let stats = engine.stats();
        assert!(stats.compactions > 0 && stats.keys < 600, "{stats:?}");
        put(&engine, 7, "again").await;
        assert_eq!(engine.get(&key(7)).await, Ok(Some(object("again"))));
        engine.close().await.unwrap();
    });
}
