//! Random work against a `BTreeMap`, with flushes, compactions, snapshots, restarts and crashes of the
//! process in between.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::storage::SyncPolicy;

#[test]
fn the_engine_is_a_durable_map() {
    for seed in 0..24 {
        run(one_life(ChaCha8Rng::seed_from_u64(seed)));
    }
}

async fn one_life(mut dice: ChaCha8Rng) {
    let mut dir = temp_dir();
    let mut model = Contents::new();
    let mut engine = open(dir.path(), draw_options(&mut dice)).await;
    for _ in 0..400 {
        match dice.random_range(0..100) {
            0..12 => {
                engine.room().await;
                let key = key(dice.random_range(0..40));
                drop(engine.remove(&key).unwrap());
                model.remove(&key);
            }
            12..70 => {
                engine.room().await;
                let size = [1, 20, 300, 3000][dice.random_range(0..4)];
                let value = dice.random_range('a'..='z').to_string().repeat(size);
                let (key, object) = (key(dice.random_range(0..40)), object(&value));
                let ticket = engine.put(&key, &object).unwrap();
                model.insert(key, object);
                if dice.random_bool(0.5) {
                    ticket.durable().await.unwrap();
                }
            }
            70..85 => {
                let key = key(dice.random_range(0..40));
                assert_eq!(engine.get(&key).await.unwrap(), model.get(&key).cloned());
            }
            85..93 => check_scan(&engine, &model, &mut dice).await,
            93..97 => {
                engine.close().await.unwrap();
                engine = open(dir.path(), draw_options(&mut dice)).await;
                assert_eq!(contents(&engine).await, model);
            }
            97 => {
                let snapshot = engine.snapshot().await.unwrap();
                let (key, object) = (key(dice.random_range(0..40)), object("later"));
                let page = snapshot.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX);
                drop(engine.put(&key, &object).unwrap());
                assert_eq!(page.await.unwrap().into_iter().collect::<Contents>(), model);
                model.insert(key, object);
            }
            _ => {
                settle(&engine).await;
                dir = folder(&image(dir.path()).await).await;
                engine = open(dir.path(), draw_options(&mut dice)).await;
                assert_eq!(contents(&engine).await, model);
            }
        }
    }
}

async fn check_scan(engine: &Engine, model: &Contents, dice: &mut ChaCha8Rng) {
    let (a, b) = (key(dice.random_range(0..40)), key(dice.random_range(0..40)));
    let (from, to) = if a <= b { (a, b) } else { (b, a) };
    let range = (Bound::Included(from), Bound::Excluded(to));
    let limit = dice.random_range(1..5000);
    let mut back = Vec::new();
    let mut to = range.1.clone();
    loop {
        let page = engine.scan_back(range.0.clone(), to, limit).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        to = Bound::Excluded(last.clone());
        back.extend(page);
    }
    let turned =
        model.range(range.clone()).rev().map(|(key, object)| (key.clone(), object.clone()));
    assert_eq!(back, turned.collect::<Vec<_>>(), "backward");
    let page = engine.scan(range.0.clone(), range.1.clone(), limit).await.unwrap();
    let mut expected = model.range(range);
    for (key, object) in &page {
        assert_eq!(expected.next(), Some((key, object)));
    }
    let weight: usize = page.iter().map(|(_, object)| object.size_bytes()).sum();
    match page.split_last() {
        None => assert!(expected.next().is_none(), "an empty page is the end"),
        Some((last, _)) => assert!(weight - last.1.size_bytes() < limit, "{weight} over {limit}"),
    }
}

fn draw_options(dice: &mut ChaCha8Rng) -> Options {
    let lag = Duration::from_millis(dice.random_range(0..6));
    Options {
        sync: if dice.random_bool(0.5) { SyncPolicy::Always } else { SyncPolicy::Interval { lag } },
        segment_bytes: [4096, 20_000, 1 << 20][dice.random_range(0..3)],
        batch_bytes_max: [4096, 1 << 20][dice.random_range(0..2)],
        prefill_bytes: [0, 512, 100_000][dice.random_range(0..3)],
        memtable_bytes: [4096, 20_000, 1 << 20][dice.random_range(0..3)],
        table_bytes: [2048, 20_000][dice.random_range(0..2)],
        block_bytes: [64, 1000, 16_384][dice.random_range(0..3)],
        cache_bytes: [0, 10_000, 1 << 20][dice.random_range(0..3)],
        gather: Duration::from_micros(dice.random_range(0..2000)),
        ..Options::default()
    }
}
