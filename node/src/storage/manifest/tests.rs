//! Edits are all or nothing, the newest manifest that was born counts, and rot is seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::domain::codec::Decoder;
use crate::domain::key::{Key, Token};
use crate::runtime::{task, time};
use crate::storage::doubt::TokenRange;
use crate::storage::error::OpenError;
use crate::storage::log::append::Disk;
use crate::storage::manifest::edit::TableMeta;

const ID: NodeId = NodeId(0xf01d);

fn run<F: Future>(main: F) -> F::Output {
    task::block_on(2, time::timeout(Duration::from_secs(60), main)).unwrap().unwrap()
}

fn temp_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Lets so many writes through, and fails so many after them, after half of the bytes.
#[derive(Clone, Debug, Default)]
struct Flaky(Arc<Mutex<(u32, u32)>>);

impl Flaky {
    fn fail(&self, times: u32) {
        *self.0.lock().unwrap() = (0, times);
    }

    /// The `nth` write from now on fails.
    fn fail_after(&self, nth: u32) {
        *self.0.lock().unwrap() = (nth - 1, 1);
    }

    fn fails(&self) -> bool {
        let mut left = self.0.lock().unwrap();
        let (well, ill) = *left;
        *left = (well.saturating_sub(1), if well > 0 { ill } else { ill.saturating_sub(1) });
        well == 0 && ill > 0
    }
}

impl Device for Flaky {
    async fn create(&self, path: &Path, data: Bytes) -> io::Result<File> {
        if self.fails() {
            Disk.create(path, data.slice(..data.len() / 2)).await?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Disk.create(path, data).await
    }

    async fn append(&self, file: &File, offset: u64, data: Bytes) -> io::Result<()> {
        if self.fails() {
            Disk.append(file, offset, data.slice(..data.len() / 2)).await?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Disk.append(file, offset, data).await
    }
}

fn table(id: u64, level: u8) -> TableMeta {
    let (a, b) = (Key::new("b", &format!("{id}")), Key::new("b", &format!("{id}-")));
    let (a, b) = (a.unwrap(), b.unwrap());
    let (first, last) = if a < b { (a, b) } else { (b, a) };
    TableMeta { id, level, first, last, bytes: 100 * id, entries: 10, batches: (id, id + 1) }
}

fn range(first: u64, last: u64) -> TokenRange {
    TokenRange { first: Token(first), last: Token(last) }
}

/// Five edits, each with something else in it.
fn edits() -> Vec<Vec<Change>> {
    vec![
        vec![Change::Add(table(1, 0)), Change::Log { start: 2, flushed_through: 9 }],
        vec![Change::Add(table(2, 0)), Change::Doubt(range(5, 50))],
        vec![Change::Remove(1), Change::Add(table(3, 6)), Change::NextTable(9)],
        vec![Change::Trust(range(10, 20))],
        vec![Change::Log { start: 4, flushed_through: 90 }],
    ]
}

async fn files(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).await.unwrap() {
        let file = File::open(&dir.join(&entry.name), fs::OpenMode::Read).await.unwrap();
        let bytes = file.read_at(0, entry.len as usize).await.unwrap();
        files.push((manifest_number(&entry.name).unwrap(), bytes.to_vec()));
    }
    files
}

async fn open(dir: &Path) -> Result<Manifest<Flaky>, OpenError> {
    let entries = fs::read_dir(dir).await.unwrap();
    let numbers: Vec<_> = entries.iter().filter_map(|e| manifest_number(&e.name)).collect();
    let found = read::find(dir, ID, &numbers).await?;
    Ok(Manifest::new(Flaky::default(), dir, ID, found))
}

#[test]
fn what_was_committed_is_found_again() {
    run(async {
        let dir = temp_dir();
        let mut expected = State::default();
        for edit in edits() {
            let mut manifest = open(dir.path()).await.unwrap();
            assert_eq!(manifest.state(), &expected);
            manifest.commit(&[]).await.unwrap();
            manifest.commit(&edit).await.unwrap();
            edit.iter().for_each(|change| expected.apply(change).unwrap());
            assert_eq!(manifest.state(), &expected);
            assert_eq!(files(dir.path()).await.len(), 1, "the old one is gone");
        }
        assert_eq!(expected.doubts.ranges(), [range(5, 9), range(21, 50)]);
        assert_eq!(expected.tables.keys().copied().collect::<Vec<_>>(), [2, 3]);
    });
}

/// The bytes of one manifest with all edits but those of doubt, where each of them ends, and the states in between.
async fn whole() -> (Vec<u8>, Vec<usize>, Vec<State>) {
    let dir = temp_dir();
    let mut manifest = open(dir.path()).await.unwrap();
    let (mut ends, mut states) = (Vec::new(), Vec::new());
    let mut edits = edits();
    edits[1].retain(|change| matches!(change, Change::Add(_)));
    for edit in [vec![]].iter().chain(&edits) {
        manifest.commit(edit).await.unwrap();
        ends.push(files(dir.path()).await[0].1.len());
        states.push(manifest.state().clone());
    }
    (files(dir.path()).await.remove(0).1, ends, states)
}

fn decode(bytes: &[u8]) -> Result<Option<State>, OpenError> {
    read::read(Path::new("manifest"), bytes, 1, ID)
}

#[test]
fn an_edit_torn_at_any_byte_is_cut() {
    let (bytes, ends, states) = run(whole());
    for cut in 0..=bytes.len() {
        let whole = ends.partition_point(|end| *end <= cut);
        let expected = whole.checked_sub(1).map(|at| states[at].clone());
        let mut torn = bytes[..cut].to_vec();
        assert_eq!(decode(&torn).unwrap(), expected, "cut at {cut}");
        torn.resize(bytes.len() + 100, 0x55);
        assert_eq!(decode(&torn).unwrap(), expected, "cut at {cut}, then something");
    }
}

#[test]
fn a_flipped_bit_is_seen_unless_it_may_be_a_torn_write() {
    let (bytes, ends, states) = run(whole());
    let last = ends[ends.len() - 2];
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1 << bit;
            let found = decode(&rotten);
            if at >= last {
                assert_eq!(found.unwrap(), Some(states[states.len() - 2].clone()));
            } else {
                assert!(matches!(found, Err(OpenError::Damaged { .. })), "byte {at}: {found:?}");
            }
        }
    }
}

#[test]
fn after_an_orderly_close_rot_of_any_edit_is_seen() {
    run(async {
        let dir = temp_dir();
        let mut manifest = open(dir.path()).await.unwrap();
        manifest.commit(&[]).await.unwrap();
        manifest.commit(&edits()[0]).await.unwrap();
        let unmarked = files(dir.path()).await[0].1.len();
        manifest.close().await.unwrap();
        let bytes = files(dir.path()).await.remove(0).1;
        assert!(bytes.len() > unmarked);
        assert_eq!(decode(&bytes).unwrap().as_ref(), Some(manifest.state()));
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            match decode(&rotten) {
                Ok(found) => {
                    assert!(at >= unmarked, "rot of byte {at} looks like a torn write");
                    assert_eq!(
                        found.as_ref(),
                        Some(manifest.state()),
                        "the mark says nothing else"
                    );
                }
                Err(error) => assert!(at < unmarked, "byte {at}: {error}"),
            }
        }
        // Once is enough, and what comes after it is a birth.
        manifest.close().await.unwrap();
        manifest.commit(&edits()[1]).await.unwrap();
        assert_eq!(files(dir.path()).await[0].0, 2);
    });
}

#[test]
fn no_rot_and_no_cut_makes_a_doubt_forgotten() {
    run(async {
        let dir = temp_dir();
        let mut manifest = open(dir.path()).await.unwrap();
        let doubtful = range(5, 50);
        manifest.commit(&edits()[0]).await.unwrap();
        // Not closed in order: a crash may come at once.
        manifest.commit(&[Change::Doubt(doubtful)]).await.unwrap();
        let just_doubted = files(dir.path()).await;
        manifest.commit(&edits()[1][..1]).await.unwrap();
        manifest.commit(&edits()[2]).await.unwrap();
        let later = files(dir.path()).await;
        for (number, bytes) in [just_doubted, later].concat() {
            let decode = |bytes: &[u8]| read::read(Path::new("m"), bytes, number, ID);
            let remembers = |found: &State| found.doubts.covers(doubtful);
            assert!(remembers(&decode(&bytes).unwrap().unwrap()));
            for at in 0..bytes.len() {
                let mut rotten = bytes.clone();
                rotten[at] ^= 0x10;
                match decode(&rotten) {
                    Err(OpenError::Damaged { .. }) => {}
                    Ok(Some(found)) => assert!(remembers(&found), "rot of byte {at}: {found:?}"),
                    other => panic!("rot of byte {at} makes it unborn: {other:?}"),
                }
                // Cut, it may look unborn: then there is no manifest beside the tables, which is damage.
                if let Ok(Some(found)) = decode(&bytes[..at]) {
                    assert!(remembers(&found), "cut at byte {at}: {found:?}");
                }
            }
        }
    });
}

#[test]
fn a_mark_that_cannot_be_written_fails_the_doubt() {
    run(async {
        let dir = temp_dir();
        let mut manifest = open(dir.path()).await.unwrap();
        manifest.commit(&edits()[0]).await.unwrap();
        let before = manifest.state().clone();
        for writes in [1, 2] {
            manifest.device.fail_after(writes);
            manifest.commit(&edits()[1]).await.unwrap_err();
            assert_eq!(manifest.state(), &before);
        }
        manifest.commit(&edits()[1]).await.unwrap();
        assert_eq!(open(dir.path()).await.unwrap().state(), manifest.state());
        assert_eq!(files(dir.path()).await.len(), 1, "those that failed are void");
    });
}

#[test]
fn after_a_failure_the_next_commit_is_a_birth() {
    run(async {
        let dir = temp_dir();
        let mut manifest = open(dir.path()).await.unwrap();
        manifest.commit(&[]).await.unwrap();
        let edits = edits();
        manifest.commit(&edits[0]).await.unwrap();
        let before = manifest.state().clone();
        manifest.device.fail(3);
        for _ in 0..3 {
            manifest.commit(&edits[4]).await.unwrap_err();
            assert_eq!(manifest.state(), &before);
            let crashed = open(dir.path()).await.unwrap();
            assert_eq!(crashed.state(), &before, "half of an edit is none");
        }
        manifest.commit(&edits[4]).await.unwrap();
        assert_eq!(open(dir.path()).await.unwrap().state(), manifest.state());
        let numbers: Vec<_> = files(dir.path()).await.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [4], "two births failed, and the files before are void");
    });
}

#[test]
fn it_is_written_anew_when_it_has_grown() {
    run(async {
        let dir = temp_dir();
        let mut manifest = open(dir.path()).await.unwrap();
        for round in 0..6000 {
            let (add, remove) = (Change::Add(table(round + 1, 0)), Change::Remove(round));
            let edit = if round == 0 { vec![add] } else { vec![add, remove] };
            manifest.commit(&edit).await.unwrap();
        }
        let files = files(dir.path()).await;
        assert_eq!(files.len(), 1);
        assert!(files[0].0 > 1 && files[0].1.len() < 300 << 10, "{}", files[0].1.len());
        assert_eq!(open(dir.path()).await.unwrap().state(), manifest.state());
    });
}

#[test]
fn a_newer_one_that_was_not_born_does_not_count() {
    run(async {
        let (bytes, _, states) = whole().await;
        let dir = temp_dir();
        Disk.create(&manifest_path(dir.path(), 1), bytes.clone().into()).await.unwrap();
        let mut manifest = open(dir.path()).await.unwrap();
        manifest.commit(&[]).await.unwrap();
        let born = files(dir.path()).await.remove(0).1;
        for cut in 0..=born.len() {
            let dir = temp_dir();
            Disk.create(&manifest_path(dir.path(), 1), bytes.clone().into()).await.unwrap();
            let torn = Bytes::copy_from_slice(&born[..cut]);
            Disk.create(&manifest_path(dir.path(), 2), torn).await.unwrap();
            let mut manifest = open(dir.path()).await.unwrap();
            assert_eq!(manifest.state(), states.last().unwrap());
            manifest.commit(&[]).await.unwrap();
            assert_eq!(files(dir.path()).await[0].0, 3);
        }
    });
}

#[test]
fn it_belongs_to_one_folder_and_one_name() {
    let (bytes, ..) = run(whole());
    let path = Path::new("m");
    assert!(matches!(read::read(path, &bytes, 2, ID), Err(OpenError::Damaged { .. })));
    assert!(matches!(read::read(path, &bytes, 1, NodeId(1)), Err(OpenError::Damaged { .. })));
    let mut newer = bytes;
    newer[11] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&newer[..12]);
    crc.update(&newer[16..40]);
    newer[12..16].copy_from_slice(&crc.finalize().to_be_bytes());
    let found = read::read(path, &newer, 1, ID);
    assert!(matches!(found, Err(OpenError::Version { found: 2, .. })), "{found:?}");
}

#[test]
fn changes_that_no_release_makes_are_refused() {
    let mut state = State::default();
    state.apply(&Change::Add(table(4, 1))).unwrap();
    state.apply(&Change::Log { start: 3, flushed_through: 7 }).unwrap();
    let backwards = TableMeta { first: table(5, 0).last, last: table(5, 0).first, ..table(5, 0) };
    for wrong in [
        Change::Add(table(4, 2)),
        Change::Add(table(5, 7)),
        Change::Add(backwards),
        Change::Remove(5),
        Change::Log { start: 2, flushed_through: 7 },
        Change::Log { start: 3, flushed_through: 6 },
    ] {
        assert!(state.apply(&wrong).is_err(), "{wrong:?}");
    }
    let twin = TableMeta { id: 5, ..table(4, 1) };
    state.apply(&Change::Add(twin)).unwrap();
    assert!(state.levels().is_err(), "two tables of level 1 hold one key");
}

#[test]
fn names_are_numbers() {
    for (name, number) in [
        ("manifest-0000000001.log", Some(1)),
        ("manifest-12345678901.log", Some(12_345_678_901)),
        ("manifest-0000000000.log", None),
        ("manifest-1.log", None),
        ("manifest-000000000x.log", None),
        ("log-0000000001.log", None),
    ] {
        assert_eq!(manifest_number(name), number, "{name}");
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..1u64 << 40, 0..7u8).prop_map(|(id, level)| Change::Add(table(id, level))),
        (0..1u64 << 62).prop_map(Change::Remove),
        (0..1u64 << 62).prop_map(Change::NextTable),
        (0..1u64 << 62, 0..1u64 << 62)
            .prop_map(|(start, flushed_through)| Change::Log { start, flushed_through }),
        any::<(u64, u64)>().prop_map(|(a, b)| Change::Doubt(range(a.min(b), a.max(b)))),
        any::<(u64, u64)>().prop_map(|(a, b)| Change::Trust(range(a.min(b), a.max(b)))),
    ]
}

proptest! {
    #[test]
    fn changes_round_trip_and_junk_is_refused(change in change(), junk: Vec<u8>) {
        let mut out = BytesMut::new();
        change.encode(&mut out);
        let mut from = Decoder::new(&out);
        prop_assert_eq!(Change::decode(&mut from), Ok(change));
        prop_assert_eq!(from.remaining(), 0);
        let mut from = Decoder::new(&junk);
        if let Ok(change) = Change::decode(&mut from) {
            let mut again = BytesMut::new();
            change.encode(&mut again);
            prop_assert!(junk.starts_with(&again));
        }
        let _whatever = decode(&junk);
    }
}
