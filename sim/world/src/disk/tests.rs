//! The promises of the disk, one by one. `random` holds the same promises over long random runs.

mod random;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Disk, HandleId, OpenMode, Part, SECTOR_BYTES, Synced, Unit};

fn path(at: &str) -> &Path {
    Path::new(at)
}

fn create(disk: &mut Disk, at: &str) -> HandleId {
    disk.open(path(at), OpenMode::CreateNew).unwrap()
}

/// A file with durable bytes under a durable name.
fn durable_file(disk: &mut Disk, at: &str, content: &[u8]) -> HandleId {
    let file = create(disk, at);
    disk.write(file, 0, Bytes::copy_from_slice(content)).unwrap();
    sync(disk, file);
    sync_dir(disk, "/");
    file
}

fn sync(disk: &mut Disk, file: HandleId) {
    let synced = disk.sync(file).unwrap();
    assert!(matches!(synced, Synced::Done(_)), "{synced:?}");
}

fn sync_dir(disk: &mut Disk, at: &str) {
    let synced = disk.sync_dir(path(at)).unwrap();
    assert!(matches!(synced, Synced::Done(_)), "{synced:?}");
}

fn content(disk: &Disk, at: &str) -> Option<Vec<u8>> {
    disk.dump(path(at)).pop().map(|entry| entry.content)
}

fn durable(disk: &Disk, at: &str) -> Vec<u8> {
    disk.dump(path(at)).pop().unwrap().durable
}

fn lose_everything(disk: &mut Disk) {
    disk.crash_keeping(&BTreeSet::new());
}

/// Every outcome that a loss of power can have, as `look` sees it.
fn every_crash<T: Ord>(disk: &Disk, look: impl Fn(&Disk) -> T) -> BTreeSet<T> {
    let units = disk.pending();
    assert!(units.len() <= 16, "{} units are too many to try every set of them", units.len());
    let outcome = |chosen: u32| {
        let kept = units.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1);
        let mut disk = disk.clone();
        disk.crash_keeping(&kept.map(|(_, unit)| *unit).collect());
        look(&disk)
    };
    (0..1u32 << units.len()).map(outcome).collect()
}

#[test]
fn power_loss_takes_what_was_not_synced() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/log", b"first");
    disk.write(file, 5, Bytes::from_static(b"second")).unwrap();
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/log").unwrap(), b"first");
}

#[test]
fn a_write_that_syncs_itself_syncs_no_other() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/table", &[1; 2 * SECTOR_BYTES]);
    disk.write(file, 0, Bytes::from(vec![2; SECTOR_BYTES + 10])).unwrap();
    disk.write(file, 2 * SECTOR_BYTES as u64, Bytes::from(vec![3; 10])).unwrap();
    disk.write(file, SECTOR_BYTES as u64 + 20, Bytes::from(vec![4; 10])).unwrap();
    let synced = disk.sync_range(file, SECTOR_BYTES as u64 + 20, 10).unwrap();
    assert!(matches!(synced, Synced::Done(_)), "{synced:?}");
    // The length is durable with it, and so is what else its own sector held.
    let mut expected = vec![1; SECTOR_BYTES];
    expected.extend([2; 10]);
    expected.extend([1; 10]);
    expected.extend([4; 10]);
    expected.resize(2 * SECTOR_BYTES, 1);
    expected.resize(2 * SECTOR_BYTES + 10, 0);
    let mut crashed = disk.clone();
    lose_everything(&mut crashed);
    assert_eq!(content(&crashed, "/table").unwrap(), expected);
    assert_eq!(every_crash(&disk, |disk| content(disk, "/table")).len(), 4);
    sync(&mut disk, file);
    assert_eq!(disk.pending(), []);
    let before = content(&disk, "/table");
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/table"), before);
}

#[test]
fn a_synced_file_is_lost_when_its_name_was_not_synced() {
    let mut disk = Disk::new(1);
    let file = create(&mut disk, "/new");
    disk.write(file, 0, Bytes::from_static(b"x")).unwrap();
    sync(&mut disk, file);
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/new"), None);
    assert_eq!(disk.used(), 0);
}

#[test]
fn a_file_in_a_folder_that_was_not_synced_is_lost() {
    let mut disk = Disk::new(1);
    disk.create_dir_all(path("/a/b")).unwrap();
    create(&mut disk, "/a/b/file");
    sync_dir(&mut disk, "/a/b");
    sync_dir(&mut disk, "/a");
    assert_eq!(every_crash(&disk, |disk| content(disk, "/a/b/file").is_some()).len(), 2);
    sync_dir(&mut disk, "/");
    lose_everything(&mut disk);
    assert!(content(&disk, "/a/b/file").is_some());
}

#[test]
fn every_crash_of_a_torn_append_is_by_sectors_and_lengths() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/log", &[1; SECTOR_BYTES]);
    disk.write(file, 500, Bytes::from(vec![2; 20])).unwrap();
    let mut old = vec![1; 500];
    let outcomes = every_crash(&disk, |disk| content(disk, "/log").unwrap());
    let mut expected = BTreeSet::new();
    for head in [1u8, 2] {
        old.truncate(500);
        old.resize(512, head);
        expected.insert(old.clone());
        for tail in [0u8, 2] {
            let mut grown = old.clone();
            grown.resize(520, tail);
            expected.insert(grown);
        }
    }
    assert_eq!(outcomes, expected);
}

#[test]
fn a_sector_never_mixes_two_moments() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"....");
    disk.write(file, 0, Bytes::from_static(b"a")).unwrap();
    disk.write(file, 1, Bytes::from_static(b"b")).unwrap();
    let outcomes = every_crash(&disk, |disk| content(disk, "/f").unwrap());
    assert_eq!(outcomes, [b"....".to_vec(), b"a...".to_vec(), b"ab..".to_vec()].into());
}

#[test]
fn bytes_beyond_a_cut_survive_only_with_the_cut() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"old!");
    disk.set_len(file, 0).unwrap();
    disk.write(file, 0, Bytes::from_static(b"new")).unwrap();
    let outcomes = every_crash(&disk, |disk| content(disk, "/f").unwrap());
    let expected = [b"old!".to_vec(), b"".to_vec(), b"\0\0\0".to_vec(), b"new".to_vec()];
    assert_eq!(outcomes, expected.into());
}

#[test]
fn lengths_survive_in_their_order() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"12345678");
    disk.set_len(file, 5).unwrap();
    disk.set_len(file, 9).unwrap();
    let outcomes = every_crash(&disk, |disk| content(disk, "/f").unwrap());
    assert_eq!(
        outcomes,
        [b"12345678".to_vec(), b"12345".to_vec(), b"12345\0\0\0\0".to_vec()].into()
    );
}

#[test]
fn rename_replaces_in_one_step_but_not_the_data() {
    let mut disk = Disk::new(1);
    durable_file(&mut disk, "/current", b"old");
    let file = create(&mut disk, "/tmp");
    disk.write(file, 0, Bytes::from_static(b"new")).unwrap();
    disk.rename(path("/tmp"), path("/current")).unwrap();
    let outcomes = every_crash(&disk, |disk| content(disk, "/current").unwrap());
    let unsynced = [b"old".to_vec(), b"new".to_vec(), b"".to_vec(), b"\0\0\0".to_vec()];
    assert_eq!(outcomes, unsynced.into());

    sync(&mut disk, file);
    let outcomes = every_crash(&disk, |disk| content(disk, "/current").unwrap());
    assert_eq!(outcomes, [b"old".to_vec(), b"new".to_vec()].into());
    sync_dir(&mut disk, "/");
    assert_eq!(disk.pending(), []);
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/current").unwrap(), b"new");
    assert_eq!(disk.read_dir(path("/")).unwrap().len(), 1);
}

#[test]
fn a_removed_file_may_come_back_until_its_folder_is_synced() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"x");
    disk.remove_file(path("/f")).unwrap();
    assert_eq!(disk.read(file, 0, 9).unwrap(), b"x"[..]);
    disk.close(file);
    assert_eq!(disk.used(), 0);
    assert_eq!(every_crash(&disk, |disk| content(disk, "/f")), [None, Some(b"x".to_vec())].into());
    sync_dir(&mut disk, "/");
    assert_eq!(disk.inodes.len(), 1, "only the root is left");
}

#[test]
fn a_second_name_is_the_same_file_until_the_last_name_goes() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"x");
    disk.create_dir_all(path("/d")).unwrap();
    sync_dir(&mut disk, "/");
    disk.hard_link(path("/f"), path("/d/g")).unwrap();
    // Which name a loss of power leaves is open, what it leads to is not.
    let both = |disk: &Disk| (content(disk, "/f"), content(disk, "/d/g"));
    let x = Some(b"x".to_vec());
    assert_eq!(every_crash(&disk, both), [(x.clone(), None), (x.clone(), x.clone())].into());
    sync_dir(&mut disk, "/d");
    disk.remove_file(path("/f")).unwrap();
    disk.close(file);
    assert_eq!(disk.used(), 1);
    sync_dir(&mut disk, "/");
    lose_everything(&mut disk);
    assert_eq!(both(&disk), (None, x));
    disk.remove_file(path("/d/g")).unwrap();
    assert_eq!(disk.used(), 0);
    sync_dir(&mut disk, "/d");
    assert_eq!(disk.inodes.len(), 2, "the root and the folder are left");
}

#[test]
fn one_of_two_durable_names_goes_and_the_file_stays() {
    let mut disk = Disk::new(1);
    durable_file(&mut disk, "/f", b"x");
    disk.hard_link(path("/f"), path("/g")).unwrap();
    sync_dir(&mut disk, "/");
    lose_everything(&mut disk);
    disk.remove_file(path("/g")).unwrap();
    sync_dir(&mut disk, "/");
    lose_everything(&mut disk);
    assert_eq!((content(&disk, "/f"), disk.used()), (Some(b"x".to_vec()), 1));
}

#[test]
fn folders_that_trade_places_never_lose_the_root() {
    let mut disk = Disk::new(1);
    disk.create_dir_all(path("/p/q")).unwrap();
    for dir in ["/p/q", "/p", "/"] {
        sync_dir(&mut disk, dir);
    }
    disk.rename(path("/p/q"), path("/q")).unwrap();
    disk.rename(path("/p"), path("/q/p")).unwrap();
    let error = disk.rename(path("/q"), path("/q/p/q")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let folders =
        |disk: &Disk| disk.dump(path("/")).into_iter().map(|entry| entry.path).collect::<Vec<_>>();
    assert_eq!(every_crash(&disk, |disk| folders(disk).len()), [3].into());
    assert_eq!(every_crash(&disk, folders).len(), 3);
}

#[test]
fn process_death_loses_nothing_and_frees_handles_and_locks() {
    let mut disk = Disk::new(1);
    let file = create(&mut disk, "/f");
    disk.write(file, 0, Bytes::from_static(b"x")).unwrap();
    let lock = disk.lock(path("/lock")).unwrap();
    assert_eq!(disk.lock(path("/lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    let pending = disk.pending();
    disk.process_died();
    assert_eq!(disk.pending(), pending);
    assert_eq!(content(&disk, "/f").unwrap(), b"x");
    assert_eq!(disk.read(file, 0, 1).unwrap_err().raw_os_error(), Some(9));
    assert_eq!(disk.write(file, 0, Bytes::new()).unwrap_err().raw_os_error(), Some(9));
    let again = disk.lock(path("/lock")).unwrap();
    disk.close(lock);
    assert!(disk.lock(path("/lock")).is_err(), "a stale handle frees nobody else's lock");
    disk.close(again);
    assert!(disk.lock(path("/lock")).is_ok());
}

#[test]
fn a_failed_sync_drops_pages_that_no_later_sync_brings_back() {
    let mut shown = BTreeSet::new();
    let mut reached = BTreeSet::new();
    for seed in 0..64 {
        let mut disk = Disk::new(seed);
        let file = durable_file(&mut disk, "/f", &[1; 4 * SECTOR_BYTES]);
        disk.write(file, 0, Bytes::from(vec![2; 5 * SECTOR_BYTES])).unwrap();
        disk.fail_syncs(1);
        let Synced::Failed(error, fate) = disk.sync(file).unwrap() else { panic!("it must fail") };
        assert_eq!(error.raw_os_error(), Some(5));
        assert_eq!(fate.kept + fate.lost, 6);
        let mut after_failure = durable(&disk, "/f");
        sync(&mut disk, file);
        after_failure.resize(5 * SECTOR_BYTES, 0);
        assert_eq!(durable(&disk, "/f"), after_failure);
        shown.insert(content(&disk, "/f").unwrap() == [2; 5 * SECTOR_BYTES]);
        reached.insert(after_failure.chunks(SECTOR_BYTES).filter(|sector| sector[0] == 2).count());
        disk.write(file, 0, Bytes::from(vec![3; SECTOR_BYTES])).unwrap();
        sync(&mut disk, file);
        lose_everything(&mut disk);
        after_failure[..SECTOR_BYTES].fill(3);
        assert_eq!(content(&disk, "/f").unwrap(), after_failure);
        assert_eq!(disk.counters().sync_errors, 1);
    }
    assert_eq!(shown, [false, true].into());
    assert!(reached.len() >= 4, "{reached:?}");
}

#[test]
fn names_stay_pending_when_their_sync_fails() {
    let mut disk = Disk::new(1);
    create(&mut disk, "/f");
    disk.fail_syncs(u64::MAX);
    for _ in 0..3 {
        assert!(matches!(disk.sync_dir(path("/")).unwrap(), Synced::Failed(..)));
    }
    assert_eq!(disk.pending().len(), 1);
    disk.fail_syncs(0);
    sync_dir(&mut disk, "/");
    assert_eq!(disk.pending(), []);
}

#[test]
fn a_full_disk_takes_what_fits_and_frees_what_is_removed() {
    let mut disk = Disk::new(1);
    disk.limit_capacity(Some(10));
    let file = create(&mut disk, "/f");
    disk.write(file, 0, Bytes::from_static(b"1234567")).unwrap();
    let error = disk.write(file, 5, Bytes::from_static(b"abcdefgh")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(content(&disk, "/f").unwrap(), b"12345abcde");
    disk.write(file, 0, Bytes::from_static(b"in place is fine"[..10].into())).unwrap();
    assert_eq!(disk.set_len(file, 11).unwrap_err().kind(), ErrorKind::StorageFull);
    let error = disk.open(path("/g"), OpenMode::CreateNew).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(disk.counters().full, 3);
    disk.remove_file(path("/f")).unwrap();
    assert_eq!(disk.used(), 10, "an open file keeps its space");
    disk.close(file);
    assert_eq!(disk.used(), 0);
    create(&mut disk, "/g");
}

#[test]
fn a_failing_device_says_eio() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", &[1; 100]);
    disk.fail_reads(1);
    assert_eq!(disk.read(file, 0, 1).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(disk.read(file, 0, 1).unwrap().len(), 1);
    let mut written = BTreeSet::new();
    disk.fail_writes(u64::MAX);
    for round in 2..40 {
        let error = disk.write(file, 0, Bytes::from(vec![round; 100])).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        let reached = content(&disk, "/f").unwrap().iter().filter(|byte| **byte == round).count();
        assert_eq!(disk.read(file, 0, reached).unwrap(), vec![round; reached]);
        written.insert(reached);
    }
    assert!(written.contains(&0) && written.len() > 5, "{written:?}");
}

#[test]
fn rot_stays_until_it_is_overwritten() {
    let mut disk = Disk::new(1);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    assert_eq!(disk.rot(path("/"), &mut rng), None);
    let file = durable_file(&mut disk, "/f", &[0; 64]);
    let rotten = disk.rot(path("/"), &mut rng).unwrap();
    assert_eq!(rotten.path, path("/f"));
    let mut expected = vec![0; 64];
    expected[rotten.offset as usize] = 1 << rotten.bit;
    assert_eq!(disk.read(file, 0, 64).unwrap(), expected);
    assert_eq!(disk.read(file, 0, 64).unwrap(), expected, "it does not heal when read");
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/f").unwrap(), expected);
    let file = disk.open(path("/f"), OpenMode::ReadWrite).unwrap();
    disk.write(file, 0, Bytes::from(vec![0; 64])).unwrap();
    sync(&mut disk, file);
    assert_eq!(durable(&disk, "/f"), [0; 64]);
    assert_eq!(disk.rot(path("/elsewhere"), &mut rng), None);
}

#[test]
fn a_lost_write_is_acknowledged_and_seen_until_power_goes() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", b"old");
    disk.lose_writes(1);
    disk.write(file, 0, Bytes::from_static(b"lost!")).unwrap();
    disk.write(file, 5, Bytes::from_static(b"kept")).unwrap();
    sync(&mut disk, file);
    assert_eq!(content(&disk, "/f").unwrap(), b"lost!kept");
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/f").unwrap(), b"old\0\0kept");
}

#[test]
fn a_snapshot_comes_back_whole() {
    let mut disk = Disk::new(1);
    let file = create(&mut disk, "/f");
    disk.write(file, 0, Bytes::from_static(b"then")).unwrap();
    let snapshot = disk.snapshot();
    disk.write(file, 0, Bytes::from_static(b"now!")).unwrap();
    create(&mut disk, "/later");
    disk.restore(&snapshot);
    assert!(disk.read(file, 0, 1).is_err(), "handles are void");
    lose_everything(&mut disk);
    assert_eq!(content(&disk, "/f").unwrap(), b"then");
    assert_eq!(disk.dump(path("/")).len(), 2);
    assert_eq!(disk.used(), 4);
    disk.wipe();
    assert_eq!(disk.dump(path("/")).len(), 1);
}

#[test]
fn what_waits_for_a_sync_is_bounded() {
    let mut disk = Disk::new(1);
    let file = create(&mut disk, "/f");
    let block = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..100 {
        disk.write(file, 0, block.clone()).unwrap();
        assert!(disk.pending().len() < 40 * 2048);
    }
    assert!(disk.counters().write_backs >= 3);
    for round in 0..40_000 {
        disk.rename(path("/f"), path("/g")).unwrap();
        disk.rename(path("/g"), path("/f")).unwrap();
        assert!(round % 1000 != 0 || disk.journal.len() <= super::PENDING_OPS_MAX);
    }
    let too_long = disk.set_len(file, super::FILE_BYTES_MAX + 1).unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::FileTooLarge);
}

#[test]
fn a_cold_cache_warms_as_it_is_read() {
    let mut disk = Disk::new(1);
    let file = durable_file(&mut disk, "/f", &[1; 40_000]);
    assert!(disk.is_warm(file, 0, 40_000), "what was written is in memory");
    lose_everything(&mut disk);
    let file = disk.open(path("/f"), OpenMode::Read).unwrap();
    assert!(!disk.is_warm(file, 20_000, 1));
    disk.read(file, 20_000, 1).unwrap();
    assert!(disk.is_warm(file, 16_384, 16_384));
    assert!(!disk.is_warm(file, 16_384, 16_385));
}

#[test]
fn power_loss_draws_every_kind_of_outcome() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = Disk::new(1);
        let file = durable_file(&mut disk, "/f", &[1; 2 * SECTOR_BYTES]);
        disk.write(file, 0, Bytes::from(vec![2; 2 * SECTOR_BYTES])).unwrap();
        create(&mut disk, "/g");
        disk.power_loss_by(&mut ChaCha8Rng::seed_from_u64(seed));
        let bytes = content(&disk, "/f").unwrap();
        outcomes.insert((bytes[0], bytes[SECTOR_BYTES], content(&disk, "/g").is_some()));
    }
    assert_eq!(outcomes.len(), 8, "{outcomes:?}");
}

#[test]
fn pending_lists_units_in_order() {
    let mut disk = Disk::new(1);
    let file = create(&mut disk, "/f");
    disk.write(file, 0, Bytes::from(vec![1; SECTOR_BYTES + 1])).unwrap();
    let parts: Vec<Part> = disk.pending().into_iter().map(|Unit { part, .. }| part).collect();
    assert_eq!(parts, [Part::Name, Part::Length, Part::Sector(0), Part::Sector(1)]);
}
