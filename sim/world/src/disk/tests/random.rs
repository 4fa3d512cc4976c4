//! Long random runs against a reference that remembers every moment since the last sync.
//!
//! Each file writes bytes with a high nibble of its own, so a byte that strayed from another file
//! shows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::super::names::InodeId;
use super::super::{Disk, HandleId, OpenMode, SECTOR_BYTES};
use super::{path, sync, sync_dir};

const DIRS: [&str; 2] = ["/a", "/b"];
const NAMES: [&str; 4] = ["w", "x", "y", "z"];

/// A file as the reference sees it.
struct File {
    tag: u8,
    /// Its bytes after the last sync and after every change since; the last are the current ones.
    moments: Vec<Vec<u8>>,
    /// It had a durable name when its folder was last synced, and was only renamed since.
    must_live: bool,
}

#[derive(Default)]
struct Reference {
    files: BTreeMap<InodeId, File>,
    /// What each name meant after the last sync of its folder, and after every change since.
    names: BTreeMap<String, Vec<Option<InodeId>>>,
    tags: u8,
}

impl Reference {
    fn now(&self, at: &str) -> Option<InodeId> {
        self.names.get(at).and_then(|moments| *moments.last()?)
    }

    fn set(&mut self, at: &str, id: Option<InodeId>) {
        self.names.entry(at.to_owned()).or_insert_with(|| vec![None]).push(id);
    }

    fn content(&mut self, id: InodeId) -> &mut Vec<Vec<u8>> {
        &mut self.files.get_mut(&id).unwrap().moments
    }

    fn sync_dir(&mut self, dir: &str) {
        // Renames reach into the other folder, whose names may then be durable as well: what is
        // required of them stays as it was.
        for (at, moments) in &mut self.names {
            if at.starts_with(dir) {
                moments.drain(..moments.len() - 1);
                if let Some(id) = moments[0] {
                    self.files.get_mut(&id).unwrap().must_live = true;
                }
            }
        }
    }
}

fn any_path(rng: &mut ChaCha8Rng) -> String {
    let dir = DIRS[rng.random_range(0..DIRS.len())];
    format!("{dir}/{}", NAMES[rng.random_range(0..NAMES.len())])
}

fn new_disk(seed: u64) -> Disk {
    let mut disk = Disk::new(seed);
    for dir in DIRS {
        disk.create_dir_all(path(dir)).unwrap();
    }
    sync_dir(&mut disk, "/");
    disk
}

fn create(disk: &mut Disk, reference: &mut Reference, at: &str) {
    let made = disk.open(path(at), OpenMode::CreateNew);
    if reference.now(at).is_some() {
        assert_eq!(made.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        return;
    }
    disk.close(made.unwrap());
    let id = disk.walk(path(at)).unwrap();
    reference.tags = reference.tags % 15 + 1;
    let tag = reference.tags << 4;
    reference.files.insert(id, File { tag, moments: vec![vec![]], must_live: false });
    reference.set(at, Some(id));
}

fn write(disk: &mut Disk, rng: &mut ChaCha8Rng, file: HandleId, model: &mut File) {
    let mut bytes = model.moments.last().unwrap().clone();
    if rng.random_bool(0.2) {
        let len = rng.random_range(0..6 * SECTOR_BYTES);
        disk.set_len(file, len as u64).unwrap();
        bytes.resize(len, 0);
    } else {
        let len = rng.random_range(1..3 * SECTOR_BYTES);
        let from = if rng.random_bool(0.5) { bytes.len() } else { rng.random_range(0..2000) };
        let data: Vec<u8> = (0..len).map(|_| model.tag | rng.random_range(1..16u8)).collect();
        bytes.resize(bytes.len().max(from + len), 0);
        bytes[from..from + len].copy_from_slice(&data);
        disk.write(file, from as u64, Bytes::from(data)).unwrap();
    }
    let read = disk.read(file, 0, usize::MAX).unwrap();
    assert_eq!(read, bytes);
    model.moments.push(bytes);
}

fn step(disk: &mut Disk, rng: &mut ChaCha8Rng, reference: &mut Reference) {
    let at = any_path(rng);
    let found = reference.now(&at);
    match rng.random_range(0..100u8) {
        0..20 => create(disk, reference, &at),
        20..60 => {
            let Some(id) = found else { return };
            let file = disk.open(path(&at), OpenMode::ReadWrite).unwrap();
            write(disk, rng, file, reference.files.get_mut(&id).unwrap());
            disk.close(file);
        }
        60..75 => {
            let Some(id) = found else { return };
            let file = disk.open(path(&at), OpenMode::ReadWrite).unwrap();
            sync(disk, file);
            disk.close(file);
            let moments = reference.content(id);
            moments.drain(..moments.len() - 1);
        }
        75..84 => {
            let to = any_path(rng);
            let renamed = disk.rename(path(&at), path(&to));
            assert_eq!(renamed.is_ok(), found.is_some());
            if found.is_none() || at == to {
                return;
            }
            if let Some(replaced) = reference.now(&to) {
                reference.files.get_mut(&replaced).unwrap().must_live = false;
            }
            reference.set(&at, None);
            reference.set(&to, found);
        }
        84..90 => {
            assert_eq!(disk.remove_file(path(&at)).is_ok(), found.is_some());
            if let Some(id) = found {
                reference.files.get_mut(&id).unwrap().must_live = false;
                reference.set(&at, None);
            }
        }
        90..97 => {
            let dir = DIRS[rng.random_range(0..DIRS.len())];
            sync_dir(disk, dir);
            reference.sync_dir(dir);
        }
        _ => disk.process_died(),
    }
}

/// Every file that has a name, with its bytes.
fn survivors(disk: &Disk) -> BTreeMap<InodeId, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in disk.dump(path("/")).into_iter().filter(|entry| !entry.is_dir) {
        let id = disk.walk(&entry.path).unwrap();
        let at = entry.path.to_str().unwrap().to_owned();
        assert!(found.insert(id, (at, entry.content)).is_none(), "two names for one file");
    }
    found
}

fn check_after_crash(disk: &Disk, reference: &Reference, note: &str) {
    let found = survivors(disk);
    for (at, moments) in &reference.names {
        let now = disk.walk(path(at)).ok();
        assert!(moments.contains(&now), "{note}: {at} is {now:?}, may be {moments:?}");
    }
    for (id, file) in &reference.files {
        let Some((at, bytes)) = found.get(id) else {
            assert!(!file.must_live, "{note}: {id:?} had a durable name and is gone");
            continue;
        };
        let lengths: BTreeSet<usize> = file.moments.iter().map(Vec::len).collect();
        assert!(lengths.contains(&bytes.len()), "{note}: {at} has a length it never had");
        for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let from_moment = |moment: &Vec<u8>| {
                let old = |j: usize| moment.get(i * SECTOR_BYTES + j).copied().unwrap_or(0);
                sector.iter().enumerate().all(|(j, byte)| *byte == 0 || *byte == old(j))
            };
            assert!(file.moments.iter().any(from_moment), "{note}: {at} sector {i} never was so");
            if let [only] = &file.moments[..] {
                assert_eq!(sector, &only[i * SECTOR_BYTES..][..sector.len()], "{note}: {at}");
            }
        }
    }
}

#[test]
fn any_run_and_any_crash_keep_the_promises() {
    let mut torn = 0;
    for seed in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut disk = new_disk(seed);
        let mut reference = Reference::default();
        for _ in 0..rng.random_range(1..150) {
            step(&mut disk, &mut rng, &mut reference);
        }
        for (at, moments) in &reference.names {
            assert_eq!(disk.walk(path(at)).ok(), *moments.last().unwrap());
        }
        let used: u64 = survivors(&disk).values().map(|(_, bytes)| bytes.len() as u64).sum();
        disk.process_died();
        assert_eq!(disk.used(), used);
        for crash in 0..20 {
            let mut crashed = disk.clone();
            let fate = crashed.power_loss_by(&mut ChaCha8Rng::seed_from_u64(crash));
            torn += u64::from(fate.kept > 0 && fate.lost > 0);
            check_after_crash(&crashed, &reference, &format!("seed {seed} crash {crash}"));
            assert_eq!(crashed.pending(), []);
            let files = survivors(&crashed);
            assert_eq!(
                crashed.used(),
                files.values().map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
            );
            assert_eq!(crashed.inodes.len(), files.len() + 1 + DIRS.len());
        }
    }
    assert!(torn > 1000, "only {torn} crashes tore anything");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut disk = new_disk(seed);
        let mut reference = Reference::default();
        for round in 0..200 {
            step(&mut disk, &mut rng, &mut reference);
            if round == 150 {
                // From here on the reference is not asked for its opinion of crashes.
                disk.power_loss_by(&mut rng.clone());
                return disk.dump(path("/"));
            }
        }
        unreachable!("the run ends at its crash")
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
