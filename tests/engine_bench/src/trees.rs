//! What Merkle trees cost a write: a replica's whole way (lock the key, read, mint, log, change the tree) with trees and
//! without, in [turns].

use std::path::Path;
use std::sync::Arc;

use starling::domain::causality::CausalContext;
use starling::domain::key::Key;
use starling::domain::object::Content;
use starling::domain::ring::{Member, NodeIndex, Ring};
use starling::runtime::task;
use starling::service::anti_entropy::trees::Trees;
use starling::service::replica::{Intent, Replica, WriteRules};
use starling::storage::SyncPolicy;

use crate::data::{self, Values};
use crate::starling_side as ours;
use crate::turns::{Side, Turns};

/// Keys that each replica is written; clients have read what they replace.
const KEYS: u32 = 10_000;

/// Prints writes a second of both for each way to sync, and the median of the turns' ratios.
pub fn run(folder: &Path) {
    for (what, sync) in [
        ("write, sync every 10 ms", ours::interval()),
        ("write with a sync each", SyncPolicy::Always),
    ] {
        let (one, other) = (tempfile::tempdir_in(folder), tempfile::tempdir_in(folder));
        let (one, other) = (one.expect("a folder"), other.expect("a folder"));
        let (with, without) = (one.path().to_path_buf(), other.path().to_path_buf());
        let turns = task::block_on(2, async move {
            let first = Writer::open(&with, sync, true).await;
            let second = Writer::open(&without, sync, false).await;
            // The client runs on a worker, as requests do.
            task::spawn(take(first, second)).await.expect("it ends")
        })
        .expect("a runtime");
        turns.print(what, ["with trees", "without"], folder);
    }
}

async fn take(mut first: Writer, mut second: Writer) -> Turns {
    for _ in 0..2 * KEYS {
        first.write().await;
        second.write().await;
    }
    let mut turns = Turns::begin();
    while let Some(side) = turns.next() {
        match side {
            Side::First => first.write().await,
            Side::Second => second.write().await,
        }
    }
    turns
}

/// A replica and its only client.
struct Writer {
    replica: Replica,
    values: Values,
    order: Vec<u32>,
    /// What the client has seen of each key.
    seen: Vec<CausalContext>,
    next: usize,
}

impl Writer {
    async fn open(folder: &Path, sync: SyncPolicy, with_trees: bool) -> Self {
        let engine = ours::open(folder, sync).await;
        let member = Member { name: "n1".to_owned(), zone: String::new(), vnodes: 32 };
        let ring = Ring::build(&[member], 256, 1).expect("a ring");
        let trees =
            if with_trees { Trees::new(&ring, NodeIndex(0), &engine) } else { Trees::none() };
        let replica = Replica::start_with(engine, WriteRules::default(), Arc::new(trees)).await;
        let (order, seen) = (data::shuffled(KEYS, 7), vec![CausalContext::new(); KEYS as usize]);
        let replica = replica.expect("epochs are reserved");
        Self { replica, values: Values::new(1), order, seen, next: 0 }
    }

    async fn write(&mut self) {
        let at = self.order[self.next % self.order.len()];
        self.next += 1;
        let key = Key::new("b", &data::name(at)).expect("a valid name");
        let seen = &mut self.seen[at as usize];
        let content = Content::Value(self.values.next());
        let intent = Intent { seen: seen.clone(), newest_ms: 0, content, expires_at_ms: None };
        let minted = self.replica.write(&key, &intent).await.expect("the disk takes it");
        *seen = minted.context;
        minted.ticket.ackable_here().await.expect("the engine is open");
    }
}
