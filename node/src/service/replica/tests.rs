//! What the replica mints under, and when it says that something is durable.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::domain::causality::Dot;
use crate::domain::object::Sibling;
use crate::runtime::task;
use crate::storage::Options;

fn intent(value: &'static str) -> Intent {
    let content = Content::Value(Bytes::from_static(value.as_bytes()));
    Intent { seen: CausalContext::new(), newest_ms: 0, content, expires_at_ms: None }
}

fn rules() -> WriteRules {
    WriteRules { siblings_max: 9, ..WriteRules::default() }
}

#[test]
fn a_renewed_folder_is_minted_under_with_its_new_id_alone() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let old = engine.identity().node;
        let new = engine.renew_identity().await.unwrap().node;
        assert_ne!(new, old);
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let minted = replica.write(&key, &intent("1")).await.unwrap();
        minted.ticket.durable().await.unwrap();
        let first = minted.object.siblings()[0].dot.actor;
        assert_eq!(first.node, new);
        engine.close().await.unwrap();

        // The next process mints under it too, above everything that was reserved.
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let minted = replica.write(&key, &intent("2")).await.unwrap();
        let actors: Vec<_> = minted.object.siblings().iter().map(|s| s.dot.actor).collect();
        assert!(actors.iter().all(|actor| actor.node == new), "{actors:?}");
        assert!(actors.iter().any(|actor| actor.epoch > first.epoch), "{actors:?}");
        engine.close().await.unwrap();
        assert!(engine.renew_identity().await.is_err());
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

#[test]
fn a_fallback_never_mints_two_dots_of_one_actor() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let mut actors = Vec::new();
        for (round, value) in ["1", "2", "3"].into_iter().enumerate() {
            let minted = replica.write_hinted(&key, &intent(value), "n1").await.unwrap();
            minted.ticket.durable().await.unwrap();
            actors.push(minted.object.siblings()[0].dot.actor);
            let kept = replica.hinted(&key).unwrap();
            if round == 1 {
                // Handed over and forgotten: what it minted on would be gone.
                engine.remove_hint("n1", &key, kept.digest()).unwrap();
                assert!(replica.hinted(&key).is_none());
            }
        }
        actors.dedup();
        assert_eq!(actors.len(), 3, "{actors:?}");
        assert!(replica.read(&key).await.unwrap().object.is_none(), "a hint is no copy of its own");
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

#[test]
fn a_merge_that_changes_nothing_waits_for_what_it_confirms() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        for (round, value) in ["1", "2", "3"].into_iter().enumerate() {
            let minted = replica.write(&key, &intent(value)).await.unwrap();
            let again = replica.store(&key, minted.object.clone()).await.unwrap();
            let part = replica.read(&key).await.unwrap().object.unwrap();
            assert_eq!(part.digest(), minted.object.digest(), "the merge was to change nothing");
            // On one thread the log's task has not run since the write: nothing is synced yet. Both come
            // with one sync at the earliest, and the write is asked first.
            tokio::select! {
                biased;
                written = minted.ticket.durable() => written.unwrap(),
                confirmed = again.clone().durable() => {
                    panic!("round {round}: {confirmed:?} before the write was durable");
                }
            }
            again.durable().await.unwrap();
        }
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// What an exchange brought is written when it suits, so it must be on disk before somebody is told that a replica has it.
#[test]
fn a_write_that_an_exchange_brought_first_is_confirmed_when_it_is_durable() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Engine::open(elsewhere.path(), "test", Options::default()).await.unwrap();
        let minting = Replica::start(other.clone(), rules()).await.unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        for value in ["1", "2", "3"] {
            let minted = minting.write(&key, &intent(value)).await.unwrap().object;
            let records = engine.stats().records;
            let held = replica.heal(&key, minted.clone()).await.unwrap();
            assert_eq!(held.digest(), minted.digest());
            assert_eq!(engine.stats().records, records, "nobody waits, so nothing is written yet");
            replica.store(&key, minted).await.unwrap().durable().await.unwrap();
            assert_eq!(engine.stats().records, records + 1);
        }
        // By itself it comes soon.
        let minted = minting.write(&key, &intent("4")).await.unwrap().object;
        replica.heal(&key, minted).await.unwrap();
        engine.synced().await.unwrap();
        assert_eq!(engine.stats().records, 4);
        engine.close().await.unwrap();
        other.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

#[test]
fn a_state_that_damage_made_doubtful_is_minted_on_with_an_actor_younger_than_that() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { memtable_bytes: 1024, ..Options::default() };
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let lost = replica.write(&key, &intent("1")).await.unwrap().object.siblings()[0].dot;
        // So that it is in a table.
        drop(engine.snapshot().await.unwrap());
        while engine.stats().flushes == 0 {
            crate::runtime::time::sleep(Duration::from_millis(1)).await;
        }
        let table = dir.path().join("table-0000000001.sst");
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&table, bytes).unwrap();

        let read = replica.read(&key).await;
        assert!(read.unwrap().doubtful);
        let minted = replica.write(&key, &intent("2")).await.unwrap();
        let first = minted.object.siblings()[0].dot;
        assert_eq!((first.actor.node, first.counter), (lost.actor.node, 1));
        assert!(first.actor.epoch > lost.actor.epoch, "{first:?} after {lost:?}");
        // What was minted since is all here, so the vector does not grow with each write.
        let minted = replica.write(&key, &intent("3")).await.unwrap();
        let second = Dot { actor: first.actor, counter: 2 };
        let held = replica.read(&key).await.unwrap().object.unwrap();
        let dots = |object: &Object| object.siblings().iter().map(|s| s.dot).collect::<Vec<_>>();
        assert_eq!(dots(&held), [first, second]);
        assert_eq!(dots(&minted.object), [second], "others hear of the write, and of nothing else");
        assert_eq!(dots(&replica.fresh(&key).unwrap()), [first, second]);
        assert!(engine.hint_owners().is_empty(), "what is kept for itself is no hint for others");
        assert!(replica.end_fresh().await && replica.fresh(&key).is_some(), "it is in doubt still");
        // Keys that are not in doubt go on as before.
        let other = Key::new("b", "other").unwrap();
        let before = replica.write(&other, &intent("1")).await.unwrap().object.siblings()[0].dot;
        let after = replica.write(&other, &intent("2")).await.unwrap();
        assert_eq!(after.object.siblings()[1].dot.actor, before.actor);

        // An exchange brings back what was lost and ends the doubt, but a hint may hold what came after it.
        let third = Key::new("b", "third").unwrap();
        let older = lock(&replica.minter).mint(None, &CausalContext::new()).unwrap();
        lock(&replica.minter).doubt();
        let content = Content::Value(Bytes::from_static(b"1"));
        let sibling = Sibling { dot: older, content, written_at_ms: 1, expires_at_ms: None };
        let mut exchanged = Object::new();
        exchanged.write(&CausalContext::new(), sibling);
        let stored = replica.store(&third, Arc::new(exchanged)).await.unwrap();
        stored.durable().await.unwrap();
        let trusted = engine.trust(crate::storage::TokenRange::ALL, engine.damages()).await;
        assert!(trusted.unwrap());
        assert!(!replica.read(&key).await.unwrap().doubtful);
        assert!(replica.end_fresh().await && replica.fresh(&key).is_none());
        let minted = replica.write(&third, &intent("2")).await.unwrap();
        let newest = minted.object.siblings().iter().map(|sibling| sibling.dot.actor).max();
        assert!(newest > Some(older.actor), "{newest:?} after {older:?}");
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

#[test]
fn what_is_forgotten_is_what_was_proven_and_leaves_no_state() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let value = replica.write(&key, &intent("1")).await.unwrap();
        let gone = Intent {
            seen: value.context,
            newest_ms: 0,
            content: Content::Tombstone,
            expires_at_ms: None,
        };
        let deleted = replica.write(&key, &gone).await.unwrap().object;
        assert!(!replica.forget(&key, value.object.digest()).await.unwrap(), "it was overwritten");
        // Damage would have to be settled, not forgotten.
        assert!(!replica.settle(&key, deleted.digest(), Arc::new(Object::new())).await.unwrap());
        assert!(replica.forget(&key, deleted.digest()).await.unwrap());
        assert!(replica.read(&key).await.unwrap().object.is_none());
        assert!(!replica.forget(&key, deleted.digest()).await.unwrap(), "it is gone");
        // Nothing that was forgotten is gone on with.
        let again = replica.write(&key, &intent("2")).await.unwrap().object;
        assert!(again.siblings()[0].dot.actor > deleted.siblings()[0].dot.actor);
        assert_eq!(again.siblings().len(), 1);

        // In doubt it is the other way round.
        engine.doubt_all().await.unwrap();
        assert!(!replica.forget(&key, again.digest()).await.unwrap());
        assert!(replica.settle(&key, again.digest(), Arc::new(Object::new())).await.unwrap());
        assert!(replica.read(&key).await.unwrap().object.is_none());
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// Seed 90004261: a settled object was held as it came, so that it never became equal to what the others had pruned.
#[test]
fn what_is_settled_is_pruned_as_all_that_is_held() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let few = crate::domain::object::pruning::Pruning { actors_max: 2, age_s: 0 };
        let policies = Policies::default().with_pruning(few);
        let replica = Replica::start(engine.clone(), WriteRules { policies, ..rules() }).await;
        let (replica, key) = (replica.unwrap(), Key::new("b", "k").unwrap());
        let own = replica.write(&key, &intent("1")).await.unwrap().object;
        let mut vouched = Object::new();
        for n in 0..6 {
            let actor = Actor { node: crate::domain::causality::NodeId(n), epoch: 1 };
            let content = Content::Value(Bytes::from_static(b"2"));
            let dot = Dot { actor, counter: 1 };
            let sibling = Sibling { dot, content, written_at_ms: 9_000, expires_at_ms: None };
            let seen = vouched.context().clone();
            vouched.write(&seen, sibling);
        }
        engine.doubt_all().await.unwrap();
        assert!(replica.settle(&key, own.digest(), Arc::new(vouched.clone())).await.unwrap());
        let held = replica.read(&key).await.unwrap().object.unwrap();
        assert_eq!(held.siblings(), vouched.siblings());
        assert_eq!(held.context().len(), 3, "the live one and two more: {held:?}");
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// Seed 83000759: a key was forgotten, a client wrote it at another replica with a token of long before, and the actor that this
/// token brought back here was gone on with, so that a token of shortly before covered the new write.
#[test]
fn an_actor_that_comes_back_after_its_key_was_forgotten_is_not_gone_on_with() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let old = replica.write(&key, &intent("1")).await.unwrap();
        let later = Intent { seen: old.context.clone(), ..intent("2") };
        let later = replica.write(&key, &later).await.unwrap();
        // As the second replica keeps what it hears of a key that has not been forgotten here: no news.
        replica.store(&key, old.object).await.unwrap().durable().await.unwrap();
        assert!(replica.forget(&key, later.object.digest()).await.unwrap());

        let other = Actor { node: crate::domain::causality::NodeId(1), epoch: 1 };
        let mut elsewhere = Object::new();
        let content = Content::Value(Bytes::from_static(b"3"));
        let dot = Dot { actor: other, counter: 1 };
        let sibling = Sibling { dot, content, written_at_ms: 1, expires_at_ms: None };
        elsewhere.write(&old.context, sibling);
        replica.store(&key, Arc::new(elsewhere)).await.unwrap().durable().await.unwrap();
        let minted = replica.write(&key, &intent("4")).await.unwrap();
        let newest = minted.object.siblings().iter().map(|s| s.dot).max_by_key(|d| d.actor.epoch);
        assert!(!later.context.contains(newest.unwrap()), "{newest:?} is covered by an old token");
        // Once it has a fresh actor, that is gone on with.
        let again = replica.write(&key, &intent("5")).await.unwrap().object;
        let next = newest.map(|dot| Dot { counter: dot.counter + 1, ..dot });
        assert!(again.sibling(next.unwrap()).is_some(), "{again:?}");
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// Seed 75000360: a write that was acked in doubt is fresh for the next process too.
#[test]
fn what_was_written_in_doubt_is_told_from_leftovers_after_a_restart() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new("b", "k").unwrap();
        let open = async || Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let engine = open().await;
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let old = replica.write(&key, &intent("1")).await.unwrap();
        engine.doubt_all().await.unwrap();
        let seen = Intent { seen: old.context, ..intent("2") };
        let new = replica.write(&key, &seen).await.unwrap();
        new.ticket.durable().await.unwrap();
        engine.close().await.unwrap();

        let engine = open().await;
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let fresh = replica.fresh(&key).unwrap();
        assert_eq!(fresh.siblings(), new.object.siblings());
        assert!(fresh.context().covers(old.object.context()), "what it replaced is told");
        let trusted = engine.trust(crate::storage::TokenRange::ALL, engine.damages()).await;
        assert!(trusted.unwrap() && replica.end_fresh().await);
        engine.close().await.unwrap();
        let engine = open().await;
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        assert!(replica.fresh(&key).is_none(), "it ended with the doubt, durably");
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// Seed 99000678: a copy in doubt acked a write, was settled with those that had not heard of it while the coordinator was away, and let it go.
#[test]
fn what_others_send_to_a_copy_in_doubt_is_fresh_and_what_an_exchange_brings_is_not() {
    let test = async {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let coordinator = Engine::open(there.path(), "test", Options::default()).await.unwrap();
        let coordinator = Replica::start(coordinator, rules()).await.unwrap();
        let engine = Engine::open(here.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let [sent, exchanged, before] =
            ["sent", "exchanged", "before"].map(|n| Key::new("b", n).unwrap());
        let write = async |key| coordinator.write(key, &intent("1")).await.unwrap().object;
        drop(replica.store(&before, write(&before).await).await.unwrap());
        engine.doubt_all().await.unwrap();
        let object = write(&sent).await;
        for _again in 0..2 {
            replica.store(&sent, object.clone()).await.unwrap().durable().await.unwrap();
        }
        replica.heal(&exchanged, write(&exchanged).await).await.unwrap();
        assert_eq!(replica.fresh(&sent), Some(object));
        assert_eq!((replica.fresh(&exchanged), replica.fresh(&before)), (None, None));
        for engine in [coordinator.engine(), &engine] {
            engine.close().await.unwrap();
        }
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

/// Seed 99203031: an exchange that ran while one home after the other forgot a tombstone gave it back, and it took another round.
#[test]
fn what_was_forgotten_a_moment_ago_is_not_taken_back_from_an_exchange() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        let old = replica.write(&key, &intent("1")).await.unwrap().object;
        assert!(replica.forget(&key, old.digest()).await.unwrap());
        replica.heal(&key, old.clone()).await.unwrap();
        assert!(replica.read(&key).await.unwrap().object.is_none());
        // Another object under the key is, and so is this one in a copy that cannot vouch for what it lacks.
        let other = Key::new("b", "other").unwrap();
        let newer = replica.write(&other, &intent("2")).await.unwrap().object;
        replica.heal(&key, newer.clone()).await.unwrap();
        assert_eq!(replica.read(&key).await.unwrap().object, Some(newer));
        let lost = replica.read(&key).await.unwrap().object.unwrap();
        assert!(replica.forget(&key, lost.digest()).await.unwrap());
        engine.doubt_all().await.unwrap();
        replica.heal(&key, lost.clone()).await.unwrap();
        assert_eq!(replica.read(&key).await.unwrap().object, Some(lost));
        engine.close().await.unwrap();
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}

#[test]
fn a_rush_of_writes_waits_for_room_in_memory() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { memtable_bytes: 4_000, ..Options::default() };
        let engine = Engine::open(dir.path(), "test", options).await.unwrap();
        let replica = Replica::start(engine.clone(), rules()).await.unwrap();
        let large = Content::Value(vec![b'v'; 1_000].into());
        let key = Key::new("b", "k").unwrap();
        let write = async |_| {
            let intent = Intent { content: large.clone(), ..intent("") };
            replica.write(&key, &intent).await.map(drop)
        };
        // There is room for each when it comes; then they wait for the key.
        let held = replica.lock(&key).await;
        let mut writes = std::pin::pin!(futures_util::future::join_all((0..8).map(write)));
        assert!((&mut writes).now_or_never().is_none());
        drop(held);
        let written = writes.await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(replica.read(&key).await.unwrap().object.unwrap().siblings().len(), 8);
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}
