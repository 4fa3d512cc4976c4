//! The table: each row in turns, as a ratio of one run.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use starling::runtime::task;
use starling::storage::{Engine, SyncPolicy};

use crate::data::{self, Values};
use crate::peer::{self, Peer, Syncing};
use crate::starling_side as ours;
use crate::uses::folder_bytes;

/// Gets of each kind in a turn.
const GETS: usize = 100_000;
/// Puts with a sync each, by one writer.
const SYNCED_ALONE: u32 = 1_000;
/// Writers that sync side by side, and puts of each.
const WRITERS: u32 = 64;
const SYNCED_EACH: u32 = 500;

/// What is written, and the orders in which all pairs are: once, and then twice over.
const PASSES: [(&str, &[u64]); 2] = [("load", &[2]), ("overwrite", &[3, 6])];

/// A second's worth of work, of both.
#[derive(Default)]
struct Row {
    name: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// Loads, overwrites and reads `pairs` pairs with both, `rounds` times, and prints the medians.
pub fn run(folder: &Path, pairs: u32, rounds: usize) {
    let names = [
        "load, sync every 10 ms",
        "overwrite at random",
        "get, present",
        "get, absent",
        "put with a sync each, 1 writer",
        "put with a sync each, 64 writers",
    ];
    let mut rows: Vec<Row> = names.iter().map(|name| Row { name, ..Row::default() }).collect();
    let mut amplification = String::new();
    for round in 1..=rounds {
        let (one, other) = (tempfile::tempdir_in(folder), tempfile::tempdir_in(folder));
        let (one, other) = (one.expect("a folder"), other.expect("a folder"));
        // Whoever comes second finds the disk as busy as the first: the turns change.
        let (mine, his) = if round % 2 == 1 {
            let mine = measure_ours(one.path(), pairs, round);
            (mine, measure_theirs(other.path(), pairs, round))
        } else {
            let his = measure_theirs(other.path(), pairs, round);
            (measure_ours(one.path(), pairs, round), his)
        };
        for (row, (a, b)) in rows.iter_mut().zip(mine.rates.into_iter().zip(his.rates)) {
            row.ours.push(a);
            row.theirs.push(b);
        }
        amplification = format!("starling: {}\nfjall:    {}", mine.bytes, his.bytes);
    }
    println!("\n{pairs} pairs, medians of {rounds} turns\n");
    println!("{:<34}{:>12}{:>12}{:>8}", "", "starling/s", "fjall/s", "ratio");
    for row in &mut rows {
        let (a, b) = (median(&mut row.ours), median(&mut row.theirs));
        println!("{:<34}{a:>12.0}{b:>12.0}{:>8.2}", row.name, a / b);
    }
    let company = median(&mut rows[5].ours) / median(&mut rows[4].ours);
    println!("\n64 writers against 1: {company:.1} times as many puts");
    println!("{amplification}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One turn of one engine.
struct Turn {
    rates: Vec<f64>,
    /// What was written and kept, in words.
    bytes: String,
}

/// All pairs in random order, once for each purpose.
fn orders(pairs: u32, purposes: &[u64]) -> Vec<u32> {
    purposes.iter().flat_map(|&purpose| data::shuffled(pairs, purpose)).collect()
}

fn say(what: &str) {
    eprintln!("  {what} …");
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn measure_ours(folder: &Path, pairs: u32, round: usize) -> Turn {
    eprintln!("round {round}: starling");
    task::block_on(2, async move {
        // The client runs on a worker, as requests do.
        let folder = folder.to_path_buf();
        task::spawn(async move { ours_turn(&folder, pairs).await }).await.expect("it ends")
    })
    .expect("a runtime")
}

async fn ours_turn(folder: &Path, pairs: u32) -> Turn {
    let mut rates = Vec::new();
    let mut bytes = String::new();
    let mut values = Values::new(1);
    let engine = ours::open(folder, ours::interval()).await;
    let mut loaded = 0;
    for (what, purposes) in PASSES {
        say(what);
        let order = orders(pairs, purposes);
        let started = Instant::now();
        for &at in &order {
            ours::put(&engine, &data::name(at), values.next(), purposes[0]).await;
        }
        engine.barrier().ackable().await.expect("the engine is open");
        rates.push(rate(order.len(), started.elapsed()));
        say("settle");
        ours::settle(&engine).await;
        let stats = engine.stats();
        let before = std::mem::replace(&mut loaded, stats.flushed_bytes + stats.compacted_bytes);
        if purposes.len() > 1 {
            let live = f64::from(pairs) * (data::VALUE_BYTES + 24) as f64;
            let put = live * purposes.len() as f64;
            let kept = folder_bytes(folder) as f64 - stats.log_bytes as f64;
            bytes = format!(
                "overwrites: written {:.1} times what was put (log included), kept {:.2} times what is live, {} tables",
                1.0 + (loaded - before) as f64 / put,
                kept / live,
                stats.tables,
            );
        }
    }
    for (purpose, there) in [(4, true), (5, false)] {
        say(if there { "gets" } else { "gets of nothing" });
        let order: Vec<u32> = data::shuffled(pairs, purpose).into_iter().take(GETS).collect();
        let started = Instant::now();
        for &at in &order {
            let name = if there { data::name(at) } else { data::absent(at) };
            assert_eq!(ours::get(&engine, &name).await.is_some(), there, "{name}");
        }
        rates.push(rate(order.len(), started.elapsed()));
    }
    engine.close().await.expect("the disk takes it");

    let engine = ours::open(folder, SyncPolicy::Always).await;
    say("synced puts");
    rates.push(ours_synced(&engine, 1, SYNCED_ALONE).await);
    rates.push(ours_synced(&engine, WRITERS, SYNCED_EACH).await);
    engine.close().await.expect("the disk takes it");
    Turn { rates, bytes }
}

async fn ours_synced(engine: &Engine, writers: u32, each: u32) -> f64 {
    let values = Values::new(1);
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (engine, mut values) = (engine.clone(), values.from(writer * each));
            task::spawn(async move {
                for at in 0..each {
                    ours::put(&engine, &data::name(writer * each + at), values.next(), 9).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it ends");
    }
    rate((writers * each) as usize, started.elapsed())
}

fn measure_theirs(folder: &Path, pairs: u32, round: usize) -> Turn {
    eprintln!("round {round}: fjall");
    let mut rates = Vec::new();
    let mut values = Values::new(1);
    let peer = Peer::open(folder);
    for (what, purposes) in PASSES {
        say(what);
        let order = orders(pairs, purposes);
        let syncing = Syncing::start(&peer);
        let started = Instant::now();
        for &at in &order {
            let (name, value) = (data::name(at), values.next());
            peer.pairs.insert(name.as_bytes(), &value[..]).expect("the disk takes it");
        }
        peer.sync();
        rates.push(rate(order.len(), started.elapsed()));
        drop(syncing);
        say("settle");
        peer::settle(folder);
    }
    let live = f64::from(pairs) * (data::VALUE_BYTES + 24) as f64;
    let bytes = format!("kept {:.2} times what is live", peer.pairs.disk_space() as f64 / live);
    for (purpose, there) in [(4, true), (5, false)] {
        say(if there { "gets" } else { "gets of nothing" });
        let order: Vec<u32> = data::shuffled(pairs, purpose).into_iter().take(GETS).collect();
        let started = Instant::now();
        for &at in &order {
            let name = if there { data::name(at) } else { data::absent(at) };
            let found = peer.pairs.get(name.as_bytes()).expect("it reads");
            assert_eq!(found.is_some(), there, "{name}");
        }
        rates.push(rate(order.len(), started.elapsed()));
    }
    say("synced puts");
    let peer = Arc::new(peer);
    rates.push(theirs_synced(&peer, 1, SYNCED_ALONE));
    rates.push(theirs_synced(&peer, WRITERS, SYNCED_EACH));
    Turn { rates, bytes }
}

fn theirs_synced(peer: &Arc<Peer>, writers: u32, each: u32) -> f64 {
    let values = Values::new(1);
    let started = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let (peer, mut values) = (peer.clone(), values.from(writer * each));
            std::thread::spawn(move || {
                for at in 0..each {
                    let name = data::name(writer * each + at);
                    peer.pairs
                        .insert(name.as_bytes(), &values.next()[..])
                        .expect("the disk takes it");
                    peer.sync();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("it ends");
    }
    rate((writers * each) as usize, started.elapsed())
}
