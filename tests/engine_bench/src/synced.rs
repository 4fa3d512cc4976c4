//! One writer that syncs each put. A disk's mood changes from second to second, so both engines take turns of a tenth of
//! a second, and each turn is compared with the one beside it.

use std::path::Path;
use std::time::{Duration, Instant};

use starling::runtime::task;
use starling::storage::SyncPolicy;

use crate::data::{self, Values};
use crate::peer::Peer;
use crate::starling_side as ours;

const TURNS: usize = 100;
const TURN: Duration = Duration::from_millis(100);

/// Prints puts a second of both, and the median of the turns' ratios.
pub fn run(folder: &Path) {
    let (one, other) = (tempfile::tempdir_in(folder), tempfile::tempdir_in(folder));
    let (one, other) = (one.expect("a folder"), other.expect("a folder"));
    let peer = Peer::open(other.path());
    let (one, folder) = (one.path().to_path_buf(), folder.to_path_buf());
    let turns = task::block_on(2, async move {
        // The client runs on a worker, as requests do.
        task::spawn(async move {
            let engine = ours::open(&one, SyncPolicy::Always).await;
            let (mut turns, mut values, mut at) = (Vec::new(), Values::new(1), 0);
            for turn in 0..=TURNS {
                let (mut mine, mut his) = (0.0, 0.0);
                for which in [turn % 2, (turn + 1) % 2] {
                    let (started, mut puts) = (Instant::now(), 0);
                    while started.elapsed() < TURN {
                        at += 1;
                        puts += 1;
                        let (name, value) = (data::name(at), values.next());
                        if which == 0 {
                            ours::put(&engine, &name, value, 9).await;
                        } else {
                            let put = peer.pairs.insert(name.as_bytes(), &value[..]);
                            put.expect("the disk takes it");
                            peer.sync();
                        }
                    }
                    let rate = f64::from(puts) / started.elapsed().as_secs_f64();
                    if which == 0 { mine = rate } else { his = rate }
                }
                // The first one warms both up.
                if turn > 0 {
                    turns.push((mine, his));
                }
            }
            engine.close().await.expect("the disk takes it");
            turns
        })
        .await
        .expect("it ends")
    })
    .expect("a runtime");
    let middle = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = turns.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("{TURNS} turns of {TURN:?} each, medians, in {}", folder.display());
    let (mine, his, ratio) =
        (middle(|turn| turn.0), middle(|turn| turn.1), middle(|turn| turn.0 / turn.1));
    println!("starling {mine:.0}/s, fjall {his:.0}/s, ratio {ratio:.2}");
}
