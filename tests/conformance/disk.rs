//! Disk rows: what Linux's filesystems answer, and the simulated disk after them. One expected list
//! for both worlds.
//!
//! What cannot be had from a kernel at will (loss of power, a failing device) is tested beside
//! the model, in `starling-world`.

mod stage;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use starling::runtime::fs::{
    self, File, OpenMode, create_dir_all, hard_link, lock_exclusive, read_dir, remove_file, rename,
    sync_dir,
};

use stage::{play, play_and_kill};

macro_rules! rows {
    ($($row:ident => $expected:expr;)*) => {$(
        #[test]
        fn $row() {
            let expected: &[&str] = &$expected;
            assert_eq!(play(rows::$row), expected);
        }
    )*};
}

rows! {
    create_new_on_an_existing_name => ["ok", "AlreadyExists", "AlreadyExists"];
    open_what_is_missing => ["NotFound", "NotFound", "NotFound", "NotADirectory", "NotADirectory"];
    read_past_the_end => ["\"lo\"", "\"\"", "\"\"", "5"];
    write_beyond_the_end_leaves_zeros => ["ok", "8", "\"ab\\0\\0\\0\\0yz\""];
    empty_write_changes_nothing => ["ok", "0"];
    set_len_cuts_and_extends => ["ok", "\"ab\"", "ok", "\"ab\\0\\0\"", "4"];
    read_only_handle => ["Uncategorized", "InvalidInput", "ok", "\"x\""];
    folder_opened_as_a_file => ["ok", "IsADirectory", "IsADirectory", "AlreadyExists"];
    clones_share_the_file => ["\"x\"", "\"y\""];
    rename_replaces => ["ok", "\"new\"", "NotFound", "\"old\"", "\"new\"", "1"];
    rename_moves_a_folder => ["ok", "\"x\"", "NotFound", "InvalidInput", "NotFound"];
    rename_refuses => [
        "NotFound", "NotFound", "NotADirectory", "IsADirectory", "NotADirectory",
        "DirectoryNotEmpty", "ok", "ok",
    ];
    hard_link_is_the_same_file => ["ok", "\"old!\"", "ok", "\"old!\"", "1"];
    hard_link_refuses => [
        "NotFound", "AlreadyExists", "AlreadyExists", "PermissionDenied", "NotFound",
        "NotADirectory",
    ];
    remove_while_open => ["ok", "NotFound", "\"old\"", "ok", "\"old!\"", "\"\"", "0"];
    remove_refuses => ["NotFound", "NotFound", "NotADirectory", "IsADirectory"];
    read_dir_is_sorted => [
        "[(\"B\", false, 0), (\"a\", true, 0), (\"a.1\", false, 3), (\"b\", false, 0)]",
        "NotFound", "NotADirectory",
    ];
    create_dir_all_over_things => ["ok", "ok", "AlreadyExists", "NotADirectory", "ok"];
    lock_twice => ["ok", "WouldBlock", "WouldBlock", "ok"];
    lock_belongs_to_the_file_not_its_name => ["ok", "ok", "WouldBlock", "0"];
    lock_refuses => ["IsADirectory", "NotFound", "NotADirectory"];
    sync_of_folders => ["ok", "ok", "NotFound", "NotADirectory", "ok"];
    long_name => ["ok", "InvalidFilename"];
    dots_in_paths => ["\"x\"", "\"x\"", "NotFound"];
    full_disk => ["StorageFull", "StorageFull"];
}

/// The process dies with bytes unsynced, a file open and a lock held.
#[test]
fn kill_keeps_the_page_cache_and_frees_the_lock() {
    let found = play_and_kill("disk::kill_keeps_the_page_cache_and_frees_the_lock", before, after);
    assert_eq!(found, ["ok", "ok", "ok", "WouldBlock", "\"unsynced\"", "8", "ok", "ok"]);

    async fn before(dir: PathBuf) -> Vec<String> {
        let lock = lock_exclusive(&dir.join("lock")).await;
        let file = new(&dir, "f").await;
        let wrote = file.write_all_at(0, Bytes::from_static(b"unsynced")).await;
        let removed = remove_file(&dir.join("none")).await;
        let again = lock_exclusive(&dir.join("lock")).await;
        let found = vec![said(&lock), said(&wrote), said(&not_found(removed)), said(&again)];
        std::mem::forget((lock, file));
        found
    }

    async fn after(dir: PathBuf) -> Vec<String> {
        let file = File::open(&dir.join("f"), OpenMode::ReadWrite).await.unwrap();
        let lock = lock_exclusive(&dir.join("lock")).await;
        vec![
            text(&file).await,
            file.len().await.unwrap().to_string(),
            said(&lock),
            said(&file.sync_data().await),
        ]
    }

    fn not_found(result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) | Ok(()) => Err(io::ErrorKind::Other.into()),
        }
    }
}

async fn new(dir: &Path, name: &str) -> File {
    File::open(&dir.join(name), OpenMode::CreateNew).await.unwrap()
}

async fn with_text(dir: &Path, name: &str, text: &'static str) -> File {
    let file = new(dir, name).await;
    file.write_all_at(0, Bytes::from_static(text.as_bytes())).await.unwrap();
    file
}

async fn text(file: &File) -> String {
    match file.read_at(0, 1000).await {
        Ok(bytes) => format!("{:?}", String::from_utf8(bytes.to_vec()).unwrap()),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// `ok`, or the kind of the error.
fn said<T: Debug>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

async fn open(path: PathBuf, mode: OpenMode) -> io::Result<File> {
    File::open(&path, mode).await
}

/// The rows themselves.
mod rows {
    use super::*;

    pub(super) async fn create_new_on_an_existing_name(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("d")).await.unwrap();
        let mut found = Vec::new();
        for name in ["f", "f", "d"] {
            found.push(said(&open(dir.join(name), OpenMode::CreateNew).await));
        }
        found
    }

    pub(super) async fn open_what_is_missing(dir: PathBuf) -> Vec<String> {
        new(&dir, "f").await;
        vec![
            said(&open(dir.join("none"), OpenMode::Read).await),
            said(&open(dir.join("none"), OpenMode::ReadWrite).await),
            said(&open(dir.join("none/f"), OpenMode::CreateNew).await),
            said(&open(dir.join("f/g"), OpenMode::Read).await),
            said(&open(dir.join("f/g"), OpenMode::CreateNew).await),
        ]
    }

    pub(super) async fn read_past_the_end(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "hello").await;
        let mut found = Vec::new();
        for offset in [3, 5, 1 << 40] {
            let bytes = file.read_at(offset, 10).await.unwrap();
            found.push(format!("{:?}", String::from_utf8(bytes.to_vec()).unwrap()));
        }
        found.push(file.len().await.unwrap().to_string());
        found
    }

    pub(super) async fn write_beyond_the_end_leaves_zeros(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "ab").await;
        let wrote = file.write_all_at_and_sync(6, Bytes::from_static(b"yz")).await;
        vec![said(&wrote), file.len().await.unwrap().to_string(), text(&file).await]
    }

    pub(super) async fn empty_write_changes_nothing(dir: PathBuf) -> Vec<String> {
        let file = new(&dir, "f").await;
        let wrote = file.write_all_at(100, Bytes::new()).await;
        vec![said(&wrote), file.len().await.unwrap().to_string()]
    }

    pub(super) async fn set_len_cuts_and_extends(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "abcd").await;
        let mut found = Vec::new();
        for len in [2, 4] {
            found.push(said(&file.set_len(len).await));
            found.push(text(&file).await);
        }
        found.push(file.len().await.unwrap().to_string());
        found
    }

    pub(super) async fn read_only_handle(dir: PathBuf) -> Vec<String> {
        with_text(&dir, "f", "x").await;
        let file = open(dir.join("f"), OpenMode::Read).await.unwrap();
        vec![
            said(&file.write_all_at(0, Bytes::from_static(b"y")).await),
            said(&file.set_len(0).await),
            said(&file.sync_data().await),
            text(&file).await,
        ]
    }

    pub(super) async fn folder_opened_as_a_file(dir: PathBuf) -> Vec<String> {
        let folder = open(dir.clone(), OpenMode::Read).await;
        let read = folder.as_ref().unwrap().read_at(0, 10).await;
        vec![
            said(&folder),
            said(&read),
            said(&open(dir.clone(), OpenMode::ReadWrite).await),
            said(&open(dir, OpenMode::CreateNew).await),
        ]
    }

    pub(super) async fn clones_share_the_file(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "x").await;
        let clone = file.clone();
        let first = text(&clone).await;
        drop(file);
        clone.write_all_at(0, Bytes::from_static(b"y")).await.unwrap();
        vec![first, text(&clone).await]
    }

    pub(super) async fn rename_replaces(dir: PathBuf) -> Vec<String> {
        let old = with_text(&dir, "current", "old").await;
        let new = with_text(&dir, "tmp", "new").await;
        let renamed = rename(&dir.join("tmp"), &dir.join("current")).await;
        let current = open(dir.join("current"), OpenMode::Read).await.unwrap();
        vec![
            said(&renamed),
            text(&current).await,
            said(&open(dir.join("tmp"), OpenMode::Read).await),
            text(&old).await,
            text(&new).await,
            read_dir(&dir).await.unwrap().len().to_string(),
        ]
    }

    pub(super) async fn rename_moves_a_folder(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("a/b")).await.unwrap();
        with_text(&dir.join("a/b"), "f", "x").await;
        let renamed = rename(&dir.join("a"), &dir.join("c")).await;
        let moved = open(dir.join("c/b/f"), OpenMode::Read).await.unwrap();
        vec![
            said(&renamed),
            text(&moved).await,
            said(&open(dir.join("a/b/f"), OpenMode::Read).await),
            said(&rename(&dir.join("c"), &dir.join("c/b/d")).await),
            said(&read_dir(&dir.join("a")).await),
        ]
    }

    pub(super) async fn rename_refuses(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("full/x")).await.unwrap();
        create_dir_all(&dir.join("empty")).await.unwrap();
        new(&dir, "f").await;
        let pairs = [
            ("none", "f"),
            ("f", "none/f"),
            ("f", "f/g"),
            ("f", "full"),
            ("full", "f"),
            ("empty", "full"),
            ("f", "f"),
            ("full", "empty"),
        ];
        let mut found = Vec::new();
        for (from, to) in pairs {
            found.push(said(&rename(&dir.join(from), &dir.join(to)).await));
        }
        found
    }

    pub(super) async fn hard_link_is_the_same_file(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "old").await;
        let linked = hard_link(&dir.join("f"), &dir.join("g")).await;
        file.write_all_at(3, Bytes::from_static(b"!")).await.unwrap();
        let second = open(dir.join("g"), OpenMode::Read).await.unwrap();
        let seen = text(&second).await;
        drop((file, second));
        let removed = remove_file(&dir.join("f")).await;
        let left = open(dir.join("g"), OpenMode::Read).await.unwrap();
        let count = read_dir(&dir).await.unwrap().len();
        vec![said(&linked), seen, said(&removed), text(&left).await, count.to_string()]
    }

    pub(super) async fn hard_link_refuses(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("d")).await.unwrap();
        new(&dir, "f").await;
        new(&dir, "g").await;
        let pairs =
            [("none", "x"), ("f", "g"), ("f", "f"), ("d", "e"), ("f", "none/f"), ("f", "g/f")];
        let mut found = Vec::new();
        for (from, to) in pairs {
            found.push(said(&hard_link(&dir.join(from), &dir.join(to)).await));
        }
        found
    }

    pub(super) async fn remove_while_open(dir: PathBuf) -> Vec<String> {
        let file = with_text(&dir, "f", "old").await;
        let removed = remove_file(&dir.join("f")).await;
        let missing = said(&open(dir.join("f"), OpenMode::Read).await);
        let still = text(&file).await;
        let wrote = file.write_all_at_and_sync(3, Bytes::from_static(b"!")).await;
        let another = new(&dir, "f").await;
        vec![
            said(&removed),
            missing,
            still,
            said(&wrote),
            text(&file).await,
            text(&another).await,
            another.len().await.unwrap().to_string(),
        ]
    }

    pub(super) async fn remove_refuses(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("d")).await.unwrap();
        new(&dir, "f").await;
        let mut found = Vec::new();
        for name in ["none", "none/f", "f/g", "d"] {
            found.push(said(&remove_file(&dir.join(name)).await));
        }
        found
    }

    pub(super) async fn read_dir_is_sorted(dir: PathBuf) -> Vec<String> {
        new(&dir, "b").await;
        with_text(&dir, "a.1", "123").await;
        new(&dir, "B").await;
        create_dir_all(&dir.join("a/inner")).await.unwrap();
        let entries = read_dir(&dir).await.unwrap();
        let entries: Vec<_> = entries
            .into_iter()
            .map(|fs::DirEntry { name, is_dir, len }| (name, is_dir, len))
            .collect();
        vec![
            format!("{entries:?}"),
            said(&read_dir(&dir.join("none")).await),
            said(&read_dir(&dir.join("b")).await),
        ]
    }

    pub(super) async fn create_dir_all_over_things(dir: PathBuf) -> Vec<String> {
        new(&dir, "f").await;
        let mut found = Vec::new();
        for name in ["a/b/c", "a/b", "f", "f/g", "a/../h"] {
            found.push(said(&create_dir_all(&dir.join(name)).await));
        }
        found
    }

    pub(super) async fn lock_twice(dir: PathBuf) -> Vec<String> {
        let path = dir.join("lock");
        let first = lock_exclusive(&path).await;
        let mut found = vec![said(&first)];
        for _ in 0..2 {
            found.push(said(&lock_exclusive(&path).await));
        }
        drop(first);
        found.push(said(&lock_exclusive(&path).await));
        found
    }

    pub(super) async fn lock_belongs_to_the_file_not_its_name(dir: PathBuf) -> Vec<String> {
        let path = dir.join("lock");
        let first = lock_exclusive(&path).await;
        remove_file(&path).await.unwrap();
        let second = lock_exclusive(&path).await;
        let third = lock_exclusive(&path).await;
        let len = read_dir(&dir).await.unwrap()[0].len;
        vec![said(&first), said(&second), said(&third), len.to_string()]
    }

    pub(super) async fn lock_refuses(dir: PathBuf) -> Vec<String> {
        new(&dir, "f").await;
        vec![
            said(&lock_exclusive(&dir).await),
            said(&lock_exclusive(&dir.join("none/lock")).await),
            said(&lock_exclusive(&dir.join("f/lock")).await),
        ]
    }

    pub(super) async fn sync_of_folders(dir: PathBuf) -> Vec<String> {
        let file = new(&dir, "f").await;
        vec![
            said(&sync_dir(&dir).await),
            said(&sync_dir(&dir.join("f")).await),
            said(&sync_dir(&dir.join("none")).await),
            said(&sync_dir(&dir.join("f/g")).await),
            said(&file.sync_data().await),
        ]
    }

    pub(super) async fn long_name(dir: PathBuf) -> Vec<String> {
        vec![
            said(&open(dir.join("n".repeat(255)), OpenMode::CreateNew).await),
            said(&open(dir.join("n".repeat(256)), OpenMode::CreateNew).await),
        ]
    }

    pub(super) async fn dots_in_paths(dir: PathBuf) -> Vec<String> {
        create_dir_all(&dir.join("a")).await.unwrap();
        with_text(&dir, "f", "x").await;
        let mut found = Vec::new();
        for name in ["a/../f", "./a/./../f"] {
            found.push(text(&open(dir.join(name), OpenMode::Read).await.unwrap()).await);
        }
        found.push(said(&open(dir.join("none/../f"), OpenMode::Read).await));
        found
    }

    pub(super) async fn full_disk(dir: PathBuf) -> Vec<String> {
        let file = open(full_file(&dir).await, OpenMode::ReadWrite).await.unwrap();
        let data = Bytes::from_static(b"no room");
        vec![
            said(&file.write_all_at(0, data.clone()).await),
            said(&file.write_all_at_and_sync(0, data).await),
        ]
    }

    #[cfg(not(madsim))]
    async fn full_file(_dir: &Path) -> PathBuf {
        PathBuf::from("/dev/full")
    }

    #[cfg(madsim)]
    async fn full_file(dir: &Path) -> PathBuf {
        new(dir, "full").await;
        let machine = starling_world::process::current().machine;
        starling_world::disk::limit_capacity(machine, Some(0));
        dir.join("full")
    }
}
