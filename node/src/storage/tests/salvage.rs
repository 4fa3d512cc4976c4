//! What was written since a damaged table is told from what the damage brings to light.

use super::*;
use crate::storage::{ITSELF, TokenRange};

/// Keys 1 and 2 in a table of level 1, and key 1 again: in memory, or in a table of level 0.
async fn written(dir: &Path, in_table: bool) -> Engine {
    let engine = open(dir, plain()).await;
    put(&engine, 1, "old").await;
    flushed(&engine, 1).await;
    put(&engine, 2, "old").await;
    flushed(&engine, 2).await;
    while engine.stats().compactions == 0 {
        crate::runtime::time::sleep(Duration::from_millis(1)).await;
    }
    put(&engine, 1, "new").await;
    if in_table {
        flushed(&engine, 3).await;
    }
    engine
}

async fn flushed(engine: &Engine, flushes: u64) {
    drop(engine.snapshot().await.unwrap());
    while engine.stats().flushes < flushes {
        crate::runtime::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The one of level 1.
fn old_table(dir: &Path) -> PathBuf {
    dir.join("table-0000000003.sst")
}

/// A bit of its first block rots.
async fn rot(dir: &Path) {
    let file = File::open(&old_table(dir), OpenMode::ReadWrite).await.unwrap();
    let byte = file.read_at(20, 1).await.unwrap()[0];
    file.write_all_at(20, Bytes::copy_from_slice(&[byte ^ 1])).await.unwrap();
}

/// What is kept of keys 1 and 2.
fn kept(engine: &Engine) -> [Option<Arc<Object>>; 2] {
    [1, 2].map(|n| engine.hint(ITSELF, &key(n)).map(|hint| hint.object))
}

#[test]
fn what_is_younger_than_rot_is_kept_before_anything_is_settled() {
    run(async {
        for in_table in [false, true] {
            let dir = temp_dir();
            let engine = written(dir.path(), in_table).await;
            rot(dir.path()).await;

            assert_eq!(engine.get(&key(1)).await.unwrap(), Some(object("new")), "not met yet");
            let met = engine.known(&key(2)).await.unwrap();
            assert!(met.doubtful && met.object.is_none());
            engine.salvaged().await;
            assert_eq!(kept(&engine), [Some(object("new")), None], "in a table: {in_table}");
            // It outlives the process, and the manifest knows of the doubt.
            engine.close().await.unwrap();
            let engine = open(dir.path(), plain()).await;
            assert!(engine.known(&key(1)).await.unwrap().doubtful);
            assert_eq!(kept(&engine), [Some(object("new")), None]);
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn what_is_younger_than_a_lost_table_is_kept_by_the_start_that_misses_it() {
    run(async {
        for in_table in [false, true] {
            let dir = temp_dir();
            written(dir.path(), in_table).await.close().await.unwrap();
            fs::remove_file(&old_table(dir.path())).await.unwrap();
            let engine = open(dir.path(), plain()).await;
            let known = engine.known(&key(1)).await.unwrap();
            assert_eq!((known.object, known.doubtful), (Some(object("new")), true));
            assert_eq!(kept(&engine), [Some(object("new")), None], "in a table: {in_table}");
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn what_was_in_doubt_before_is_not_kept() {
    run(async {
        let dir = temp_dir();
        let engine = written(dir.path(), false).await;
        // It may have been written on less than was confirmed.
        engine.doubt_all().await.unwrap();
        rot(dir.path()).await;
        assert!(engine.known(&key(2)).await.unwrap().object.is_none());
        engine.salvaged().await;
        assert_eq!(kept(&engine), [None, None]);
        assert!(engine.doubts().contains(&TokenRange::ALL));
        engine.close().await.unwrap();
    });
}
