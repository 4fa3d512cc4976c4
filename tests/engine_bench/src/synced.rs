//! One writer that syncs each put, in [turns].

use std::path::Path;

use starling::runtime::task;
use starling::storage::SyncPolicy;

use crate::data::{self, Values};
use crate::peer::Peer;
use crate::starling_side as ours;
use crate::turns::{Side, Turns};

/// Prints puts a second of both, and the median of the turns' ratios.
pub fn run(folder: &Path) {
    let (one, other) = (tempfile::tempdir_in(folder), tempfile::tempdir_in(folder));
    let (one, other) = (one.expect("a folder"), other.expect("a folder"));
    let peer = Peer::open(other.path());
    let one = one.path().to_path_buf();
    let turns = task::block_on(2, async move {
        // The client runs on a worker, as requests do.
        task::spawn(async move {
            let engine = ours::open(&one, SyncPolicy::Always).await;
            let (mut values, mut at) = (Values::new(1), 0);
            let mut turns = Turns::begin();
            while let Some(side) = turns.next() {
                at += 1;
                let (name, value) = (data::name(at), values.next());
                match side {
                    Side::First => ours::put(&engine, &name, value, 9).await,
                    Side::Second => {
                        let put = peer.pairs.insert(name.as_bytes(), &value[..]);
                        put.expect("the disk takes it");
                        peer.sync();
                    }
                }
            }
            engine.close().await.expect("the disk takes it");
            turns
        })
        .await
        .expect("it ends")
    })
    .expect("a runtime");
    turns.print("put with a sync each", ["starling", "fjall"], folder);
}
