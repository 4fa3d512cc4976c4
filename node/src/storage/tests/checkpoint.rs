//! Snapshots on disk: one moment, whatever is written meanwhile; theirs, whatever the node removes
//! later; and a new node once they are opened.

use std::collections::BTreeSet;

use super::*;
use crate::storage::CheckpointError;
use crate::storage::fsck::{Verdict, check};
use crate::storage::table::table_number;

/// The folder of the snapshot, as a data folder elsewhere.
async fn restored(folder_of_it: &Path) -> TempDir {
    folder(&image(folder_of_it).await).await
}

async fn hints(engine: &Engine) -> Vec<(String, u64)> {
    engine.hint_owners().iter().map(|owner| (owner.owner.to_string(), owner.count)).collect()
}

#[test]
fn a_snapshot_is_restored_as_it_was_under_a_new_id() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        for n in 0..300 {
            engine.room().await;
            drop(engine.put(&key(n), &object(&"v".repeat(50))).unwrap());
        }
        put(&engine, 5, "not flushed yet").await;
        engine.put_hint("b", &key(7), object("hinted"), 5).unwrap().durable().await.unwrap();
        engine.put_hint("c", &key(8), object("hinted"), 6).unwrap().durable().await.unwrap();
        let expected = contents(&engine).await;
        let made = engine.checkpoint("monday").await.unwrap();
        assert_eq!(made.folder, dir.path().join("snapshots/monday"));
        assert!(made.tables > 1 && made.entries >= 300 && made.hints == 2, "{made:?}");

        // What comes later is not in it, and what goes later stays in it.
        let before: BTreeSet<String> = image_of_tables(dir.path()).await;
        for n in 0..600 {
            engine.room().await;
            drop(engine.put(&key(n), &object(&"w".repeat(50))).unwrap());
        }
        settle(&engine).await;
        let after = image_of_tables(dir.path()).await;
        assert!(before.difference(&after).count() > 0, "no table went: {before:?} {after:?}");
        assert_eq!(check(&made.folder).await.unwrap().verdict(), Verdict::Healthy);

        let old = engine.identity();
        let mut ids = vec![old.node];
        for _ in 0..2 {
            let copy = restored(&made.folder).await;
            let new = open(copy.path(), tiny()).await;
            assert_eq!(contents(&new).await, expected);
            assert_eq!(hints(&new).await, [("b".to_owned(), 1), ("c".to_owned(), 1)]);
            assert!(new.doubts().is_empty());
            let identity = new.identity();
            assert!(!ids.contains(&identity.node), "{identity:?} was there before");
            assert!(identity.generation > old.generation);
            ids.push(identity.node);
            put(&new, 9, "later").await;
            new.close().await.unwrap();
            // From then on it is that node, and is no snapshot any more.
            let again = open(copy.path(), tiny()).await;
            assert_eq!(again.identity().node, identity.node);
            assert_eq!(again.get(&key(9)).await, Ok(Some(object("later"))));
            assert_eq!(contents(&again).await.len(), expected.len());
            assert_eq!(hints(&again).await.len(), 2);
            again.close().await.unwrap();
        }
        engine.close().await.unwrap();
    });
}

async fn image_of_tables(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).await.unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| table_number(name).is_some()).collect()
}

/// One writer writes round after round, each to key 0 first and to key 1 then. So at any moment key 1 is
/// as new as key 0, or one round behind.
#[test]
fn under_writes_a_snapshot_is_of_one_moment() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        let writer = {
            let engine = engine.clone();
            task::spawn(async move {
                for round in 0..20_000u64 {
                    for n in [0, 1] {
                        engine.room().await;
                        let object = object(&format!("{round:0100}"));
                        if engine.put(&key(n), &object).is_err() {
                            return round;
                        }
                        task::yield_now().await;
                    }
                }
                20_000
            })
        };
        let mut seen = BTreeSet::new();
        for n in 0..8 {
            time::sleep(Duration::from_millis(5)).await;
            let made = engine.checkpoint(&format!("s{n}")).await.unwrap();
            let copy = restored(&made.folder).await;
            let new = open(copy.path(), tiny()).await;
            let held = contents(&new).await;
            new.close().await.unwrap();
            let round = |n: u64| {
                let at = held.get(&key(n))?;
                (0..=20_000u64).find(|round| **at == *object(&format!("{round:0100}")))
            };
            match (round(0), round(1)) {
                (Some(first), Some(second)) => {
                    assert!(first == second || first == second + 1, "{first} and {second}");
                    seen.insert(first);
                }
                (first, second) => assert_eq!((first.unwrap_or(0), second), (0, None)),
            }
        }
        assert!(seen.len() > 1, "nothing was written meanwhile");
        engine.close().await.unwrap();
        writer.await.unwrap();
    });
}

#[test]
fn half_a_snapshot_does_not_open_and_is_made_anew() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        for n in 0..100 {
            put(&engine, n, &"v".repeat(50)).await;
        }
        let made = engine.checkpoint("s").await.unwrap();
        let whole = image(&made.folder).await;
        let mut half = whole.clone();
        half.remove("identity.snapshot").unwrap();
        let copy = folder(&half).await;
        damage(Engine::open(copy.path(), CLUSTER, tiny()).await);
        assert_eq!(check(copy.path()).await.unwrap().verdict(), Verdict::Refuses);

        assert!(matches!(engine.checkpoint("s").await, Err(CheckpointError::Exists(_))));
        assert_eq!(image(&made.folder).await, whole);
        // As a crash would have left it.
        fs::remove_file(&made.folder.join("identity.snapshot")).await.unwrap();
        let again = engine.checkpoint("s").await.unwrap();
        assert_eq!(check(&again.folder).await.unwrap().verdict(), Verdict::Healthy);
        engine.close().await.unwrap();
        assert!(matches!(engine.checkpoint("t").await, Err(CheckpointError::Closed)));
        // The data folder with snapshots in it is a data folder.
        assert_eq!(check(dir.path()).await.unwrap().verdict(), Verdict::Healthy);
        assert_eq!(contents(&open(dir.path(), tiny()).await).await.len(), 100);
    });
}

#[test]
fn names_lead_nowhere_else() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        for name in ["", ".", "..", ".x", "a/b", "../x", "a b", "ä", &"x".repeat(65)] {
            let refused = engine.checkpoint(name).await;
            assert!(matches!(refused, Err(CheckpointError::Name)), "{name}: {refused:?}");
        }
        assert!(engine.checkpoint("2026-11-22_a.b").await.is_ok());
        let expected = Contents::new();
        let copy = restored(&dir.path().join("snapshots/2026-11-22_a.b")).await;
        assert_eq!(contents(&open(copy.path(), tiny()).await).await, expected);
        // A folder of somebody else is left alone.
        let other = dir.path().join("snapshots/mine");
        fs::create_dir_all(&other).await.unwrap();
        File::open(&other.join("photo.jpg"), OpenMode::CreateNew).await.unwrap();
        assert!(matches!(engine.checkpoint("mine").await, Err(CheckpointError::Exists(_))));
        engine.close().await.unwrap();
    });
}

/// Memtables that wait to be flushed become tables of the snapshot, and the newer one must win there too.
#[test]
fn of_two_memtables_with_one_key_the_newer_counts() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        for round in 0..100 {
            for n in 0..10 {
                drop(engine.put(&key(n), &object(&format!("{round:0200}"))).unwrap());
            }
        }
        engine.close().await.unwrap();
        let expected: Contents =
            (0..10).map(|n| (key(n), object(&format!("{:0200}", 99)))).collect();
        // The start has many small memtables to flush; the snapshot comes while two are left.
        let engine = open(dir.path(), tiny()).await;
        let made = engine.checkpoint("s").await.unwrap();
        engine.close().await.unwrap();
        let copy = restored(&made.folder).await;
        assert_eq!(contents(&open(copy.path(), tiny()).await).await, expected);
    });
}
