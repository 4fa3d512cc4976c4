//! What is kept for other members: merged, durable, bounded, and gone only when it should be.

use proptest::prelude::*;

use super::*;
use crate::storage::{Hint, ITSELF, WriteError};

/// The object that one write by `node` makes on top of nothing.
fn written(node: u64, value: &str) -> Arc<Object> {
    let dot = Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter: 1 };
    let content = Content::Value(Bytes::copy_from_slice(value.as_bytes()));
    let mut object = Object::new();
    let sibling = Sibling { dot, content, written_at_ms: 1, expires_at_ms: None };
    object.write(&CausalContext::new(), sibling);
    Arc::new(object)
}

fn merged(objects: &[Arc<Object>]) -> Arc<Object> {
    let mut all = Object::new();
    for object in objects {
        all.merge(object);
    }
    Arc::new(all)
}

async fn hint(engine: &Engine, owner: &str, n: u64, object: Arc<Object>, now_ms: u64) {
    engine.put_hint(owner, &key(n), object, now_ms).unwrap().durable().await.unwrap();
}

/// Everything that is kept, by owner and key.
fn kept(engine: &Engine) -> BTreeMap<(String, Key), (Arc<Object>, u64)> {
    let mut all = BTreeMap::new();
    for stats in engine.hint_owners() {
        let hints = all_hints(engine, &stats.owner, 1);
        assert_eq!(stats.count, hints.len() as u64);
        assert_eq!(Some(stats.oldest_ms), hints.iter().map(|hint| hint.since_ms).min());
        for Hint { key, object, since_ms } in hints {
            all.insert((stats.owner.to_string(), key), (object, since_ms));
        }
    }
    let stats = engine.stats();
    assert_eq!(stats.hints, all.len() as u64);
    let bytes: u64 = engine.hint_owners().iter().map(|owner| owner.bytes).sum();
    assert_eq!(stats.hint_bytes, bytes);
    all
}

fn all_hints(engine: &Engine, owner: &str, page_bytes: usize) -> Vec<Hint> {
    let mut all: Vec<Hint> = Vec::new();
    loop {
        let page = engine.hints_of(owner, all.last().map(|hint| &hint.key), page_bytes);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[test]
fn one_object_is_kept_for_each_owner_and_key() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let (a, b) = (written(1, "a"), written(2, "b"));
        hint(&engine, "n2", 1, a.clone(), 1000).await;
        hint(&engine, "n2", 1, b.clone(), 3000).await;
        hint(&engine, "n3", 1, a.clone(), 2000).await;
        hint(&engine, "n3", 2, b.clone(), 2000).await;
        let both = merged(&[a.clone(), b.clone()]);
        let expected = BTreeMap::from([
            (("n2".to_owned(), key(1)), (both.clone(), 3000)),
            (("n3".to_owned(), key(1)), (a.clone(), 2000)),
            (("n3".to_owned(), key(2)), (b, 2000)),
        ]);
        assert_eq!(kept(&engine), expected);
        assert_eq!(engine.hinted(&key(1)), Some(both));
        assert_eq!(engine.hinted(&key(3)), None);
        assert_eq!(engine.get(&key(1)).await, Ok(None), "a hint is no data of this node");
        // What is known already changes nothing, and is confirmed all the same.
        let records = engine.stats().records;
        hint(&engine, "n2", 1, a, 9000).await;
        assert_eq!(engine.stats().records, records);
        assert_eq!(kept(&engine), expected);

        let crashed = folder(&image(dir.path()).await).await;
        assert_eq!(kept(&open(crashed.path(), plain()).await), expected);
        engine.close().await.unwrap();
        assert_eq!(kept(&open(dir.path(), plain()).await), expected);
    });
}

#[test]
fn a_hint_that_grew_is_not_removed_for_what_it_was() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let (a, b) = (written(1, "a"), written(2, "b"));
        hint(&engine, "n2", 1, a.clone(), 1).await;
        hint(&engine, "n2", 1, b.clone(), 1).await;
        assert!(!engine.remove_hint("n2", &key(1), a.digest()).unwrap());
        assert!(!engine.remove_hint("n3", &key(1), a.digest()).unwrap());
        let both = merged(&[a, b]);
        assert_eq!(engine.hinted(&key(1)), Some(both.clone()));
        assert!(engine.remove_hint("n2", &key(1), both.digest()).unwrap());
        assert!(!engine.remove_hint("n2", &key(1), both.digest()).unwrap());
        assert!(kept(&engine).is_empty());
        engine.close().await.unwrap();
        assert!(kept(&open(dir.path(), plain()).await).is_empty());
    });
}

#[test]
fn the_end_of_a_hint_waits_for_a_write_and_costs_no_sync_of_its_own() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        for n in 0..10 {
            hint(&engine, "n2", n, object("hinted"), 1).await;
        }
        let syncs = engine.stats().syncs;
        for n in 0..10 {
            assert!(engine.remove_hint("n2", &key(n), object("hinted").digest()).unwrap());
        }
        // Nobody waits for them: there is nothing that a barrier has to wait for.
        engine.barrier().durable().await.unwrap();
        put(&engine, 1, "one").await;
        let stats = engine.stats();
        assert!(stats.syncs <= syncs + 2, "{stats:?}");
        engine.remove_hint("n2", &key(1), 0).unwrap();
        // Without company they go by themselves.
        hint(&engine, "n2", 1, object("hinted"), 1).await;
        engine.remove_hint("n2", &key(1), object("hinted").digest()).unwrap();
        while engine.stats().pending_bytes > 0 {
            time::sleep(Duration::from_millis(1)).await;
        }
        let crashed = folder(&image(dir.path()).await).await;
        assert!(kept(&open(crashed.path(), plain()).await).is_empty());
    });
}

#[test]
fn a_node_that_takes_nothing_but_hints_keeps_a_short_log() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), tiny()).await;
        let mut logged = 0;
        for round in 1..=300 {
            for n in 0..6 {
                let new = written(round, &format!("{n}-{round:0>300}"));
                if let Some(old) = all_hints(&engine, "n2", 1).iter().find(|h| h.key == key(n)) {
                    assert!(engine.remove_hint("n2", &key(n), old.object.digest()).unwrap());
                }
                logged += new.size_bytes() as u64;
                hint(&engine, "n2", n, new, round).await;
            }
        }
        settle(&engine).await;
        let (stats, expected) = (engine.stats(), kept(&engine));
        assert!(logged > 500_000 && stats.log_bytes < 60_000, "{logged} bytes; {stats:?}");
        assert_eq!((stats.tables, stats.flushes), (0, 0), "there is nothing to put into one");
        let crashed = folder(&image(dir.path()).await).await;
        assert_eq!(kept(&open(crashed.path(), tiny()).await), expected);
        // What is put later is in order.
        put(&engine, 1, "one").await;
        engine.close().await.unwrap();
        let engine = open(dir.path(), tiny()).await;
        assert_eq!(kept(&engine), expected);
        assert_eq!(engine.get(&key(1)).await, Ok(Some(object("one"))));
    });
}

#[test]
fn hints_past_the_limit_are_refused_and_nothing_changes() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), Options { hint_bytes_max: 3000, ..plain() }).await;
        let mut accepted = 0;
        let refused = loop {
            match engine.put_hint("n2", &key(accepted), object("value"), 1) {
                Ok(ticket) => ticket.durable().await.unwrap(),
                Err(error) => break error,
            }
            accepted += 1;
        };
        let bytes = engine.stats().hint_bytes;
        assert_eq!(refused, WriteError::HintsFull { bytes, limit: 3000 });
        assert!(bytes <= 3000 && accepted > 2, "{accepted} hints weigh {bytes}");
        assert_eq!(engine.stats().hints, accepted);
        // A known hint cannot grow either, nor one for another owner be stored; data can.
        let grown = engine.put_hint("n2", &key(0), written(9, &"x".repeat(3000)), 1);
        assert!(matches!(grown, Err(WriteError::HintsFull { .. })), "{grown:?}");
        let other = engine.put_hint("n3", &key(0), object("value"), 1);
        assert!(matches!(other, Err(WriteError::HintsFull { .. })), "{other:?}");
        assert_eq!(engine.hinted(&key(0)), Some(object("value")));
        // What stands for the copy itself has its own room, as much again.
        let itself = |n| engine.put_hint(ITSELF, &key(n), object("value"), 1);
        let kept = (0..100).take_while(|n| itself(*n).is_ok()).count() as u64;
        assert!(kept > 2 && kept < 100, "{kept}");
        for n in 0..kept {
            engine.remove_hint(ITSELF, &key(n), object("value").digest()).unwrap();
        }
        put(&engine, 1, "data").await;
        assert!(engine.remove_hint("n2", &key(0), object("value").digest()).unwrap());
        hint(&engine, "n3", 0, object("value"), 1).await;
        engine.close().await.unwrap();

        // A lower limit drops nothing of what was acked.
        let engine = open(dir.path(), Options { hint_bytes_max: 0, ..plain() }).await;
        assert_eq!(engine.stats().hints, accepted);
        assert!(engine.put_hint("n2", &key(77), object("value"), 1).is_err());
    });
}

#[test]
fn old_hints_expire_and_stay_gone() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        for n in 0..600 {
            drop(engine.put_hint("n2", &key(n), object("old"), 1000).unwrap());
        }
        hint(&engine, "n3", 1, object("new"), 1001).await;
        hint(&engine, "n2", 7, written(9, "grew"), 2000).await;
        assert_eq!(engine.expire_hints(1000), 0);
        assert_eq!(engine.expire_hints(1001), 599);
        let left: Vec<_> = kept(&engine).into_keys().collect();
        assert_eq!(left, [("n2".to_owned(), key(7)), ("n3".to_owned(), key(1))]);
        engine.close().await.unwrap();
        assert_eq!(kept(&open(dir.path(), plain()).await).len(), 2);
        assert_eq!(engine.expire_hints(u64::MAX), 0, "closed");
    });
}

#[test]
fn a_closed_engine_takes_no_hint() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        hint(&engine, "n2", 1, object("one"), 1).await;
        engine.close().await.unwrap();
        for value in ["one", "two"] {
            let refused = engine.put_hint("n2", &key(1), object(value), 1);
            assert!(matches!(refused, Err(WriteError::Closed)), "{refused:?}");
        }
        let refused = engine.remove_hint("n2", &key(1), object("one").digest());
        assert_eq!(refused, Err(WriteError::Closed));
    });
}

/// Seed 99402134: a write in doubt was kept as fresh, memory had no room for the copy, and its dot was minted again for another write.
#[test]
fn a_fresh_write_is_in_the_copy_and_beside_it_or_in_neither() {
    run(async {
        let dir = temp_dir();
        let small = Options { hint_bytes_max: 2000, ..tiny() };
        let engine = open(dir.path(), small).await;
        let fresh = |engine: &Engine, n| engine.hint(ITSELF, &key(n)).map(|hint| hint.object);
        let ticket = engine.put_fresh(&key(1), &object("both"), object("fresh"), 5).unwrap();
        ticket.durable().await.unwrap();
        let again = engine.put_fresh(&key(1), &object("newer"), object("fresh"), 5).unwrap();
        again.durable().await.unwrap();
        let crashed = folder(&image(dir.path()).await).await;
        let other = open(crashed.path(), small).await;
        assert_eq!(other.get(&key(1)).await.unwrap(), Some(object("newer")));
        assert_eq!(fresh(&other, 1), Some(object("fresh")));
        other.close().await.unwrap();

        let large = object(&"x".repeat(2000));
        let refused = engine.put_fresh(&key(2), &object("copy"), large, 5);
        assert!(matches!(refused, Err(WriteError::FreshFull { .. })), "{refused:?}");
        assert_eq!(engine.stats().fresh_refused, 1);
        assert_eq!((engine.get(&key(2)).await.unwrap(), fresh(&engine, 2)), (None, None));
        // A folder where the next tables should be: nothing can be written there, and memory fills.
        for n in 1..200 {
            fs::create_dir_all(&dir.path().join(format!("table-{n:010}.sst"))).await.unwrap();
        }
        while engine.put(&key(3), &object(&"y".repeat(500))).is_ok() {}
        let refused = engine.put_fresh(&key(2), &object(&"z".repeat(500)), object("fresh"), 5);
        assert!(matches!(refused, Err(WriteError::Overloaded { .. })), "{refused:?}");
        assert_eq!((engine.get(&key(2)).await.unwrap(), fresh(&engine, 2)), (None, None));
        // It cannot be closed in order before its memtables are tables; the process ends here.
    });
}

#[derive(Clone, Debug)]
enum Step {
    Hint { owner: u8, key: u64, node: u64, now_ms: u64 },
    Remove { owner: u8, key: u64 },
    RemoveOther { owner: u8, key: u64 },
    Expire { older_than_ms: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (owner, key, node, ms) = (0..3u8, 0..6u64, 1..5u64, 0..50u64);
    prop_oneof![
        6 => (owner.clone(), key.clone(), node, ms.clone())
            .prop_map(|(owner, key, node, now_ms)| Step::Hint { owner, key, node, now_ms }),
        3 => (owner.clone(), key.clone()).prop_map(|(owner, key)| Step::Remove { owner, key }),
        1 => (owner, key).prop_map(|(owner, key)| Step::RemoveOther { owner, key }),
        1 => ms.prop_map(|older_than_ms| Step::Expire { older_than_ms }),
        1 => Just(Step::Reopen),
    ]
}

async fn follow(steps: Vec<Step>) {
    let dir = temp_dir();
    let mut engine = open(dir.path(), plain()).await;
    let mut model: BTreeMap<(String, Key), (Arc<Object>, u64)> = BTreeMap::new();
    let name = |owner: u8| format!("n{owner}");
    for step in steps {
        match step {
            Step::Hint { owner, key: n, node, now_ms } => {
                let new = written(node, "value");
                let ticket = engine.put_hint(&name(owner), &key(n), new.clone(), now_ms).unwrap();
                drop(ticket);
                let held = model.entry((name(owner), key(n))).or_default();
                if Arc::make_mut(&mut held.0).merge(&new) {
                    held.1 = held.1.max(now_ms);
                }
            }
            Step::Remove { owner, key: n } => {
                let held = model.remove(&(name(owner), key(n)));
                let digest = held.as_ref().map_or(0, |(object, _)| object.digest());
                assert_eq!(
                    engine.remove_hint(&name(owner), &key(n), digest).unwrap(),
                    held.is_some()
                );
            }
            Step::RemoveOther { owner, key: n } => {
                assert!(
                    !engine
                        .remove_hint(&name(owner), &key(n), written(99, "other").digest())
                        .unwrap()
                );
            }
            Step::Expire { older_than_ms } => {
                let before = model.len();
                model.retain(|_, (_, since_ms)| *since_ms >= older_than_ms);
                assert_eq!(engine.expire_hints(older_than_ms), (before - model.len()) as u64);
            }
            Step::Reopen => {
                engine.close().await.unwrap();
                engine = open(dir.path(), plain()).await;
            }
        }
        assert_eq!(kept(&engine), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn hints_are_a_durable_merging_map(steps in prop::collection::vec(step(), 1..40)) {
        run(follow(steps));
    }
}
