//! The storage engine survives a crash at every point; see `starling_sim::crash`.
#![cfg(madsim)]

use starling_sim::crash::{Tally, explore};

/// Enough for thousands of points; `cargo sim crashes` goes on from there.
const SEEDS: u64 = 8;

#[test]
fn what_was_confirmed_survives_a_crash_at_every_point() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        match explore(seed) {
            Ok(one) => tally.add(&one),
            Err(finding) => panic!("{finding}"),
        }
    }
    println!("{} points: {tally:?}", tally.points());
    assert!(tally.power_losses > 3_000, "{tally:?}");
    assert!(tally.kills > 1_000, "{tally:?}");
    assert!(tally.second_crashes > 1_000, "{tally:?}");
    for kind in [
        "compaction_done",
        "hints_carried",
        "log_released",
        "manifest_born",
        "memtable_flushed",
        "range_doubted",
        "segment_rolled",
        "torn_edit_cut",
        "torn_tail_cut",
        "unborn_manifest_dropped",
        "unborn_segment_dropped",
    ] {
        assert!(tally.count(kind) > 0, "no {kind}: {tally:?}");
    }
}
