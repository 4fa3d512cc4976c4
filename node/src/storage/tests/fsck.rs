//! What a check says of folders that are whole, and of those that are not: the same as the next start.

use super::*;
use crate::storage::fsck::{Finding, Outcome, Report, Verdict, check};
use crate::storage::log::segment_number;
use crate::storage::manifest::manifest_number;
use crate::storage::table::table_number;
use crate::storage::{ReadError, TokenRange};

/// A folder that was closed in order, with tables of several blocks, a log and hints.
async fn closed() -> Image {
    let dir = temp_dir();
    let engine = open(dir.path(), tiny()).await;
    for n in 0..200 {
        engine.room().await;
        drop(engine.put(&key(n), &object(&"v".repeat(100))).unwrap());
    }
    settle(&engine).await;
    put(&engine, 1000, "only in the log").await;
    engine.put_hint("b", &key(7), object("hinted"), 5).unwrap().durable().await.unwrap();
    // One of the two may have sealed a memtable: a table that is left half done would be told.
    settle(&engine).await;
    engine.close().await.unwrap();
    image(dir.path()).await
}

/// A folder that was closed in order, with one table and a segment of which the manifest proves how far it goes.
async fn flushed() -> Image {
    let dir = temp_dir();
    let engine = open(dir.path(), plain()).await;
    for n in 0..200 {
        put(&engine, n, "value").await;
    }
    drop(engine.snapshot().await.unwrap());
    settle(&engine).await;
    engine.close().await.unwrap();
    image(dir.path()).await
}

/// Checks a folder with these files; it must be as it was, to the byte and to the name.
async fn checked(files: &Image) -> Report {
    let dir = folder(files).await;
    let mut report = check(dir.path()).await.unwrap();
    assert_eq!(&image(dir.path()).await, files, "the check changed something");
    for finding in &mut report.findings {
        finding.file = finding.file.strip_prefix(dir.path()).unwrap().to_path_buf();
    }
    report
}

fn named(files: &Image, wanted: impl Fn(&str) -> bool) -> String {
    files.keys().find(|name| wanted(name)).unwrap().clone()
}

fn table(files: &Image) -> String {
    named(files, |name| table_number(name).is_some())
}

/// The one finding, which is of this file.
fn only(report: &Report, name: &str) -> Finding {
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!(finding.file, Path::new(name));
    finding.clone()
}

/// Opens a folder with these files, and says what a check should have said.
async fn next_start(files: &Image) -> Verdict {
    let dir = folder(files).await;
    let Ok(engine) = Engine::open(dir.path(), CLUSTER, tiny()).await else {
        return Verdict::Refuses;
    };
    contents(&engine).await;
    let verdict = if engine.doubts().is_empty() { Verdict::Healthy } else { Verdict::Heals };
    engine.close().await.unwrap();
    verdict
}

#[test]
fn a_whole_folder_is_healthy_and_is_counted() {
    run(async {
        let mut files = closed().await;
        let report = checked(&files).await;
        assert_eq!(report.verdict(), Verdict::Healthy, "{report:?}");
        assert_eq!(report.findings.len(), 0, "{report:?}");
        // A segment of which all is in tables may be there still.
        assert!(report.notes.iter().all(|note| note.contains("no longer counts")), "{report:?}");
        assert_eq!(report.cluster.as_deref(), Some(CLUSTER));
        assert_eq!(report.identity.map(|identity| identity.generation), Some(1));
        let counts = report.counts;
        let tables = files.keys().filter(|name| table_number(name).is_some()).count() as u64;
        assert_eq!(counts.tables, tables);
        assert!(counts.blocks > counts.tables, "{counts:?}");
        assert_eq!(counts.entries + counts.unflushed, 201, "{counts:?}");
        assert!(counts.unflushed > 0 && counts.batches > 0 && counts.records > 1, "{counts:?}");
        assert_eq!(report.hints.len(), 1);
        assert_eq!((&*report.hints[0].owner, report.hints[0].count), ("b", 1));
        // Without the lock's file it is checked too, and gets none.
        files.remove("lock").unwrap();
        assert_eq!(checked(&files).await.verdict(), Verdict::Healthy);
    });
}

#[test]
fn a_folder_that_is_open_is_not_checked() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        assert!(matches!(check(dir.path()).await, Err(OpenError::Locked(_))));
        engine.close().await.unwrap();
        assert_eq!(check(dir.path()).await.unwrap().verdict(), Verdict::Healthy);
        let missing = dir.path().join("missing");
        assert!(matches!(check(&missing).await, Err(OpenError::Disk { .. })));
        fs::create_dir_all(&missing).await.unwrap();
        assert!(check(&missing).await.unwrap().empty);
    });
}

/// Every flipped bit is found, and what is said of it is what happens.
#[test]
fn a_flipped_bit_in_any_file_is_found_and_the_next_start_is_foretold() {
    run(async {
        let files = closed().await;
        for (name, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            for at in (0..bytes.len()).step_by(bytes.len() / 8 + 1) {
                let mut rotten = files.clone();
                rotten.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
                let report = checked(&rotten).await;
                let foretold = report.verdict();
                let happens = next_start(&rotten).await;
                let slows = report.findings.iter().all(|f| f.outcome == Outcome::Slows);
                if !slows {
                    assert_eq!(foretold, happens, "{name} at {at}: {report:?}");
                }
                if manifest_number(name).is_some() {
                    // The last edit may be taken for a torn one: then those before it count.
                    let told = !report.findings.is_empty() || !report.notes.is_empty();
                    assert!(told, "{name} at {at}");
                    continue;
                }
                if foretold == Verdict::Healthy {
                    // The mark of an orderly close alone may be taken for a torn write.
                    assert!(segment_number(name).is_some(), "{name} at {at}: {report:?}");
                    assert!(!report.notes.is_empty(), "{name} at {at}");
                    continue;
                }
                let finding = only(&report, name);
                assert!(finding.offset.unwrap_or(0) <= at as u64, "{at}: {finding:?}");
                if table_number(name).is_none() {
                    assert_eq!(finding.outcome, Outcome::Refuses, "{finding:?}");
                } else if !slows {
                    assert_eq!(finding.outcome, Outcome::Heals, "{finding:?}");
                    assert_ne!(finding.doubtful, Some(TokenRange::ALL), "{finding:?}");
                }
            }
        }
    });
}

async fn refused(files: Image, changed: &str) {
    let report = checked(&files).await;
    assert_eq!(report.verdict(), Verdict::Refuses, "{changed}: {report:?}");
    assert_eq!(next_start(&files).await, Verdict::Refuses, "{changed}");
}

#[test]
fn a_file_that_is_missing_cut_or_of_another_folder_is_told() {
    run(async {
        let (files, others) = (closed().await, closed().await);
        let name = table(&files);
        let with = |name: &str, bytes: Option<Vec<u8>>| {
            let mut changed = files.clone();
            changed.remove(name);
            changed.extend(bytes.map(|bytes| (name.to_owned(), bytes)));
            changed
        };
        let half = |name: &str| Some(files[name][..files[name].len() / 2].to_vec());
        for (changed, what) in [
            (with(&name, None), "it is missing"),
            (with(&name, half(&name)), "it does not end as a table does"),
            (with(&name, Some(Vec::new())), "it is too short to be a table"),
            (with(&name, Some(others[&table(&others)].clone())), "of folder"),
        ] {
            let finding = only(&checked(&changed).await, &name);
            assert!(finding.what.contains(what), "{finding:?}");
            assert_eq!(finding.outcome, Outcome::Heals);
            assert!(finding.doubtful.is_some_and(|range| range != TokenRange::ALL));
            assert_eq!(next_start(&changed).await, Verdict::Heals);
        }
        let manifest = named(&files, |name| manifest_number(name).is_some());
        for name in [&manifest, &segments(&files).remove(0), &"identity".to_owned()] {
            refused(with(name, None), name).await;
        }
        for name in [&manifest, &"identity".to_owned()] {
            refused(with(name, half(name)), name).await;
        }
        // Of a log the manifest must prove what was cut off: else it is the write that a crash tore.
        let mut files = flushed().await;
        let segment = segments(&files).remove(0);
        let bytes = files.get_mut(&segment).unwrap();
        bytes.truncate(bytes.len() / 2);
        refused(files, &segment).await;
    });
}

/// The first damage keeps the node from starting; whoever repairs wants to know of all.
#[test]
fn all_damages_of_a_folder_are_told_at_once() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        for n in 0..6 {
            put(&engine, n, "value").await;
        }
        engine.close().await.unwrap();
        let mut files = image(dir.path()).await;
        let name = segments(&files).remove(0);
        let bytes = files.get_mut(&name).unwrap();
        let magic = crate::storage::log::format::BATCH_MAGIC;
        let starts: Vec<usize> =
            (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == magic).collect();
        bytes[starts[1] + 50] ^= 1;
        bytes[starts[4] + 50] ^= 1;
        let report = checked(&files).await;
        let offsets: Vec<u64> = report.findings.iter().filter_map(|f| f.offset).collect();
        assert_eq!(offsets, [starts[1] as u64, starts[4] as u64], "{report:?}");
        files.get_mut("identity").unwrap()[20] ^= 1;
        let report = checked(&files).await;
        assert_eq!(report.findings.len(), 3, "{report:?}");
    });
}

#[test]
fn leftovers_of_a_crash_are_no_damage() {
    run(async {
        let mut files = closed().await;
        let name = segments(&files).pop().unwrap();
        files.get_mut(&name).unwrap().extend([7; 30]);
        files.insert("table-0000000999.sst".to_owned(), vec![1, 2, 3]);
        files.insert("manifest-0000000999.log".to_owned(), vec![0; 10]);
        files.insert("log-0000000999.log".to_owned(), vec![0; 10]);
        files.insert("identity.tmp".to_owned(), vec![0; 10]);
        let report = checked(&files).await;
        assert_eq!(report.verdict(), Verdict::Healthy, "{report:?}");
        assert_eq!(report.notes.len(), 5, "{:?}", report.notes);
        assert_eq!(next_start(&files).await, Verdict::Healthy);
    });
}

/// What a start has put in doubt stays known, and is no damage any more.
#[test]
fn what_is_in_doubt_already_is_told() {
    run(async {
        let mut files = closed().await;
        files.remove(&table(&files));
        let dir = folder(&files).await;
        let engine = open(dir.path(), tiny()).await;
        let doubts = engine.doubts();
        engine.close().await.unwrap();
        let report = check(dir.path()).await.unwrap();
        assert_eq!(report.verdict(), Verdict::Healthy, "{report:?}");
        assert_eq!(report.doubts, doubts);
        assert!(!doubts.is_empty());
    });
}

/// A filter that denies a key, with right checksums: no release wrote it, and no read notices it.
#[test]
fn a_filter_that_lies_is_found() {
    run(async {
        let mut files = closed().await;
        let name = table(&files);
        let bytes = files.get_mut(&name).unwrap();
        let footer = bytes.len() - 72;
        let at = |from: usize| {
            u64::from_be_bytes(bytes[footer + from..footer + from + 8].try_into().unwrap()) as usize
        };
        let (filter, index) = (at(0), at(8));
        bytes[filter + 1..index].fill(0);
        let crc = crc32fast::hash(&bytes[filter..index]);
        bytes[footer + 24..footer + 28].copy_from_slice(&crc.to_be_bytes());
        let mut whole = crc32fast::Hasher::new();
        whole.update(&bytes[footer..footer + 56]);
        whole.update(&bytes[footer + 60..]);
        let crc = whole.finalize();
        bytes[footer + 56..footer + 60].copy_from_slice(&crc.to_be_bytes());
        let report = checked(&files).await;
        assert!(report.findings.iter().all(|f| f.outcome == Outcome::Unnoticed), "{report:?}");
        assert_eq!(report.verdict(), Verdict::Refuses);
        // It is right to be alarmed: a read finds nothing, and says so.
        let dir = folder(&files).await;
        let engine = open(dir.path(), tiny()).await;
        let mut denied = 0;
        for n in 0..200 {
            let got = engine.get(&key(n)).await;
            assert_ne!(got, Err(ReadError::Doubtful));
            denied += u64::from(got == Ok(None));
        }
        assert!(denied > 0);
    });
}
