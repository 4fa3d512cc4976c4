//! What the engine uses: memory with many pairs, time to open after a crash.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use starling::runtime::{task, time};

use crate::data::{self, Values};
use crate::starling_side as ours;

/// What `reopen` writes before the crash: a full log.
const LOG_BYTES: u64 = 60 << 20;

/// Bytes of the files in a folder and those below it.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            // Removed since it was listed.
            Err(_) => 0,
        })
        .sum()
}

/// Resident memory of this process in MB, anonymous alone: what the page cache holds is the kernel's.
fn resident_mb() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kb.unwrap_or(f64::NAN) / 1000.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Loads `pairs` pairs, reads some, and says what is resident.
pub fn memory(folder: &Path, pairs: u32) {
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let path = folder.path().to_path_buf();
    let work = async move {
        let engine = ours::open(&path, ours::interval()).await;
        let mut values = Values::new(1);
        for (done, at) in data::shuffled(pairs, 2).into_iter().enumerate() {
            ours::put(&engine, &data::name(at), values.next(), 1).await;
            if done % 200_000 == 0 {
                eprintln!("  {done} pairs, {:.0} MB resident …", resident_mb().0);
            }
        }
        ours::settle(&engine).await;
        for at in data::shuffled(pairs, 4).into_iter().take(200_000) {
            assert!(ours::get(&engine, &data::name(at)).await.is_some());
        }
        let (now, most) = resident_mb();
        println!(
            "{pairs} pairs of {} bytes: {now:.0} MB resident, {most:.0} MB at most",
            data::VALUE_BYTES
        );
        engine.close().await.expect("the disk takes it");
    };
    task::block_on(2, async move { task::spawn(work).await.expect("it ends") }).expect("a runtime");
}

/// Fills a log in a process of its own, kills it, and opens its folder.
pub fn reopen(folder: &Path) {
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .arg("--folder")
        .arg(folder.path())
        .arg("fill-and-hang")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("it says when it is full");
    child.kill().expect("it runs");
    child.wait().expect("it runs");
    let path = folder.path().to_path_buf();
    let work = async move {
        let started = Instant::now();
        let engine = ours::open(&path, ours::interval()).await;
        let took = started.elapsed();
        let stats = engine.stats();
        println!(
            "{} keys back from the log in {:.3} s ({})",
            stats.keys,
            took.as_secs_f64(),
            line.trim()
        );
        engine.close().await.expect("the disk takes it");
    };
    task::block_on(2, async move { task::spawn(work).await.expect("it ends") }).expect("a runtime");
}

/// Writes a log of [`LOG_BYTES`], says so, and waits to be killed.
pub fn fill_and_hang(folder: &Path) {
    let path = folder.to_path_buf();
    let work = async move {
        let engine = ours::open(&path, ours::interval()).await;
        let mut values = Values::new(1);
        let mut at = 0;
        while engine.stats().log_bytes < LOG_BYTES {
            for _ in 0..1000 {
                ours::put(&engine, &data::name(at), values.next(), 1).await;
                at += 1;
            }
        }
        engine.barrier().ackable().await.expect("the engine is open");
        println!("{:.0} MiB of log", engine.stats().log_bytes as f64 / f64::from(1 << 20));
        loop {
            time::sleep(Duration::from_secs(3600)).await;
        }
    };
    task::block_on(2, async move { task::spawn(work).await.expect("it ends") }).expect("a runtime");
}
