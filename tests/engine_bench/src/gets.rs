//! Gets of pairs that are there, and of such that are not, in [turns]: what was loaded and overwritten twice is
//! several times as large as the block caches.

use std::path::Path;

use starling::runtime::task;
use starling::storage::Engine;

use crate::data::{self, Values};
use crate::peer::{self, Peer};
use crate::starling_side as ours;
use crate::turns::{Side, Turns};

/// Orders in which all pairs are written, one after the other.
const PASSES: [u64; 3] = [2, 3, 6];

/// Prints gets a second of both, and the median of the turns' ratios.
pub fn run(folder: &Path, pairs: u32) {
    let (one, other) = (tempfile::tempdir_in(folder), tempfile::tempdir_in(folder));
    let (one, other) = (one.expect("a folder"), other.expect("a folder"));
    eprintln!("loading fjall …");
    let peer = fill_theirs(other.path(), pairs);
    let one = one.path().to_path_buf();
    let (present, absent) = task::block_on(2, async move {
        // The client runs on a worker, as requests do.
        task::spawn(async move {
            eprintln!("loading starling …");
            let engine = fill_ours(&one, pairs).await;
            let present = take(&engine, &peer, &data::shuffled(pairs, 4), true).await;
            let absent = take(&engine, &peer, &data::shuffled(pairs, 5), false).await;
            engine.close().await.expect("the disk takes it");
            (present, absent)
        })
        .await
        .expect("it ends")
    })
    .expect("a runtime");
    present.print("get, present", ["starling", "fjall"], folder);
    absent.print("get, absent", ["starling", "fjall"], folder);
}

async fn take(engine: &Engine, peer: &Peer, order: &[u32], there: bool) -> Turns {
    eprintln!("gets of {} …", if there { "what is there" } else { "nothing" });
    let name = if there { data::name } else { data::absent };
    // Each has its own way through the same order, so neither reads what the other one just warmed.
    let (mut mine, mut his) = (order.iter().cycle(), order.iter().cycle());
    let mut turns = Turns::begin();
    while let Some(side) = turns.next() {
        let next = if side == Side::First { mine.next() } else { his.next() };
        let name = name(*next.expect("there are pairs"));
        let found = match side {
            Side::First => ours::get(engine, &name).await.is_some(),
            Side::Second => peer.pairs.get(name.as_bytes()).expect("it reads").is_some(),
        };
        assert_eq!(found, there, "{name}");
    }
    turns
}

async fn fill_ours(folder: &Path, pairs: u32) -> Engine {
    let engine = ours::open(folder, ours::interval()).await;
    let mut values = Values::new(1);
    for (counter, pass) in (1..).zip(PASSES) {
        for at in data::shuffled(pairs, pass) {
            ours::put(&engine, &data::name(at), values.next(), counter).await;
        }
    }
    engine.barrier().ackable().await.expect("the engine is open");
    ours::settle(&engine).await;
    engine
}

fn fill_theirs(folder: &Path, pairs: u32) -> Peer {
    let peer = Peer::open(folder);
    let mut values = Values::new(1);
    for pass in PASSES {
        for at in data::shuffled(pairs, pass) {
            let insert = peer.pairs.insert(data::name(at).as_bytes(), &values.next()[..]);
            insert.expect("the disk takes it");
        }
    }
    peer.sync();
    peer::settle(folder);
    peer
}
