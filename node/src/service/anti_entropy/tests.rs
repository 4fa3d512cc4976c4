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
    let minted = replica.write(&key, &intent).await.unwrap();
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
