//! What the replica mints under.

use std::time::Duration;

use super::*;
use crate::runtime::task;
use crate::storage::Options;

fn intent(value: &'static str) -> Intent {
    let content = Content::Value(Bytes::from_static(value.as_bytes()));
    Intent { seen: CausalContext::new(), content, expires_at_ms: None }
}

#[test]
fn a_renewed_replica_mints_under_its_new_id_alone() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), 9).await.unwrap();
        let old = engine.identity().node;
        let new = replica.renew_identity().await.unwrap().node;
        assert_ne!(new, old);
        let key = Key::new("b", "k").unwrap();
        let minted = replica.write(&key, intent("1")).await.unwrap();
        minted.ticket.durable().await.unwrap();
        let first = minted.object.siblings()[0].dot.actor;
        assert_eq!(first.node, new);
        engine.close().await.unwrap();

        // The next process mints under it too, above everything that was reserved.
        let engine = Engine::open(dir.path(), "test", Options::default()).await.unwrap();
        let replica = Replica::start(engine.clone(), 9).await.unwrap();
        let minted = replica.write(&key, intent("2")).await.unwrap();
        let actors: Vec<_> = minted.object.siblings().iter().map(|s| s.dot.actor).collect();
        assert!(actors.iter().all(|actor| actor.node == new), "{actors:?}");
        assert!(actors.iter().any(|actor| actor.epoch > first.epoch), "{actors:?}");
        engine.close().await.unwrap();
        assert!(replica.renew_identity().await.is_err());
    };
    task::block_on(1, crate::runtime::time::timeout(Duration::from_secs(60), test))
        .unwrap()
        .unwrap();
}
