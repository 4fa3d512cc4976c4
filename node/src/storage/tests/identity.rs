//! A folder takes a new node id: in one step, and with all that is in it.

use super::*;
use crate::storage::identity::EPOCH_BLOCK;
use crate::storage::{ClaimError, RenewError};

#[test]
fn a_renewed_folder_has_a_new_id_and_all_of_its_data() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "before").await;
        let old = engine.identity();
        let block = engine.reserve_epochs(0).await.unwrap();
        let clone = engine.clone();
        let new = engine.renew_identity().await.unwrap();
        assert_ne!(new.node, old.node);
        assert_eq!(new.generation, old.generation + 1);
        assert_eq!((engine.identity(), clone.identity()), (new, new));
        assert_eq!(engine.reserve_epochs(0).await.unwrap().first, block.through + 1);
        put(&engine, 2, "after").await;
        let expected = contents(&engine).await;
        assert_eq!(expected.len(), 2);

        let crashed = folder(&image(dir.path()).await).await;
        engine.close().await.unwrap();
        for folder in [crashed.path(), dir.path()] {
            let engine = open(folder, plain()).await;
            assert_eq!(contents(&engine).await, expected);
            assert_eq!(engine.identity().node, new.node);
            assert_eq!(engine.identity().generation, new.generation + 1);
            assert_eq!(
                engine.reserve_epochs(0).await.unwrap().through,
                block.through + 2 * EPOCH_BLOCK
            );
            // And again, on a log that bears neither id.
            let third = engine.renew_identity().await.unwrap();
            assert!(third.node != new.node && third.node != old.node);
            put(&engine, 3, "third").await;
            engine.close().await.unwrap();
            let engine = open(folder, plain()).await;
            assert_eq!(engine.identity().node, third.node);
            assert_eq!(contents(&engine).await.len(), 3);
        }
    });
}

#[test]
fn copies_of_a_folder_take_different_ids() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        engine.close().await.unwrap();
        let copy = image(dir.path()).await;
        let mut ids = vec![engine.identity().node];
        for _ in 0..3 {
            let dir = folder(&copy).await;
            ids.push(open(dir.path(), plain()).await.renew_identity().await.unwrap().node);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    });
}

/// A crash between any two steps of the replacement: the new file in part or whole under its other
/// name, or under its own.
#[test]
fn a_crash_at_any_point_leaves_the_old_id_or_the_new_one_and_the_data() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        put(&engine, 2, "two").await;
        let before = image(dir.path()).await;
        let old = engine.identity();
        let new = engine.renew_identity().await.unwrap();
        let after = image(dir.path()).await;
        let expected = contents(&engine).await;
        let whole = after["identity"].clone();
        for written in 0..=whole.len() {
            let mut files = before.clone();
            files.insert("identity.tmp".to_owned(), whole[..written].to_vec());
            let dir = folder(&files).await;
            let engine = open(dir.path(), plain()).await;
            assert_eq!(engine.identity().node, old.node, "{written} bytes");
            assert_eq!(contents(&engine).await, expected);
            let again = engine.renew_identity().await.unwrap();
            assert!(again.node != old.node && again.node != new.node);
        }
        let dir = folder(&after).await;
        let engine = open(dir.path(), plain()).await;
        assert_eq!(engine.identity().node, new.node);
        assert_eq!(contents(&engine).await, expected);
    });
}

#[test]
fn a_renewal_that_fails_leaves_the_old_id() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        let old = engine.identity();
        // Nothing can be written under the name of a folder.
        let obstacle = dir.path().join("identity.tmp");
        fs::create_dir_all(&obstacle).await.unwrap();
        let failed = engine.renew_identity().await;
        assert!(matches!(failed, Err(RenewError::Disk { .. })), "{failed:?}");
        assert_eq!(engine.identity(), old);
        put(&engine, 1, "one").await;
        fs::rename(&obstacle, &dir.path().join("elsewhere")).await.unwrap();
        let new = engine.renew_identity().await.unwrap();
        assert_ne!(new.node, old.node);
        engine.close().await.unwrap();
        assert!(matches!(engine.renew_identity().await, Err(RenewError::Closed)));
        let engine = open(dir.path(), plain()).await;
        assert_eq!(engine.identity().node, new.node);
        assert_eq!(contents(&engine).await.len(), 1);
    });
}

#[test]
fn a_segment_of_another_folder_is_refused_after_a_renewal_too() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        engine.renew_identity().await.unwrap();
        engine.close().await.unwrap();
        let mut files = image(dir.path()).await;
        let other = temp_dir();
        let engine = open(other.path(), plain()).await;
        put(&engine, 1, "other").await;
        engine.close().await.unwrap();
        let name = segments(&files).pop().unwrap();
        files.insert(name.clone(), image(other.path()).await[&name].clone());
        let dir = folder(&files).await;
        let (file, _) = damage(Engine::open(dir.path(), CLUSTER, plain()).await);
        assert_eq!(file, dir.path().join(name));
    });
}

#[test]
fn a_folder_is_that_of_one_member() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        assert!(matches!(engine.claim("").await, Err(ClaimError::Name)));
        engine.claim("n1").await.unwrap();
        engine.claim("n1").await.unwrap();
        engine.close().await.unwrap();
        assert!(matches!(engine.claim("n1").await, Err(ClaimError::Closed)));
        let engine = open(dir.path(), plain()).await;
        engine.renew_identity().await.unwrap();
        let refused = engine.claim("n2").await.unwrap_err();
        assert!(matches!(&refused, ClaimError::Foreign { found, .. } if found == "n1"));
        assert!(refused.to_string().contains("belongs to the node \"n1\", not \"n2\""));
        engine.claim("n1").await.unwrap();
    });
}

#[test]
fn a_folder_of_the_first_format_is_read_and_claimed() {
    run(async {
        let mut rest = Vec::new();
        for field in [7u64, 3, 2 * EPOCH_BLOCK, 7] {
            rest.extend(field.to_be_bytes());
        }
        rest.push(CLUSTER.len() as u8);
        rest.extend(CLUSTER.as_bytes());
        let mut bytes = b"\xffSTARLID\0\0\0\x01".to_vec();
        let crc = crc32fast::hash(&[&bytes[..], &rest].concat());
        bytes.extend(crc.to_be_bytes());
        bytes.extend(rest);
        let dir = folder(&Image::from([("identity".to_owned(), bytes)])).await;
        let engine = open(dir.path(), plain()).await;
        assert_eq!((engine.identity().node, engine.identity().generation), (NodeId(7), 4));
        assert_eq!(engine.reserve_epochs(0).await.unwrap().first, 2 * EPOCH_BLOCK + 1);
        engine.claim("n1").await.unwrap();
        engine.close().await.unwrap();
        let engine = open(dir.path(), plain()).await;
        assert!(matches!(engine.claim("n2").await, Err(ClaimError::Foreign { .. })));
    });
}
