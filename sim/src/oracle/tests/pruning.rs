//! What pruning excuses: the writes whose actor was dropped, from then on, and nothing else.

use super::points;
use super::tale::{MS, tell};
use crate::history::{KeyIndex, Pruned};
use crate::oracle::judge_counting;

/// The points of `tale`, and the accusations let go, when actors were dropped at these milliseconds that had minted at those.
fn judged(tale: &str, dropped: &[(u64, &[u64])]) -> (Vec<u8>, u64) {
    let mut evidence = tell(tale);
    let pruned = |(from_ms, minted_ms): &(u64, &[u64])| Pruned {
        key: KeyIndex(0),
        from_ns: from_ms * MS,
        minted_ns: minted_ms.iter().map(|ms| ms * MS).collect(),
    };
    evidence.pruned = dropped.iter().map(pruned).collect();
    let (_, excused) = judge_counting(&evidence).expect("evidence");
    (points(&evidence), excused)
}

#[test]
fn a_write_comes_back_only_if_its_actor_was_dropped_before() {
    let back = "a: put 1 @100-110 => acked \n b: put 2 from a @120-130 => acked \n \
                c: get @600-610 => 1,2 \n z: final @900-910 => 2";
    assert_eq!(judged(back, &[]), (vec![4, 5], 0));
    assert_eq!(judged(back, &[(500, &[105])]), (vec![], 2));
    assert_eq!(judged(back, &[(620, &[105])]), (vec![4, 5], 0), "dropped after the read");
    assert_eq!(judged(back, &[(500, &[90, 115])]), (vec![4, 5], 0), "the actor of others");
    // What covers it was not dropped, and stays.
    assert_eq!(judged(back, &[(500, &[125])]), (vec![4, 5], 0), "the later one's alone");
    let unsure = "a: put 1 @100-110 => unknown \n r: get @112-118 => 1 \n \
                  b: put 2 from r @120-130 => acked \n c: get @600-610 => 1,2 \n z: final @900-910 => 2";
    assert_eq!(judged(unsure, &[(500, &[300])]), (vec![7], 2), "it may have been minted later");
    let mut other = tell(back);
    other.pruned = vec![Pruned { key: KeyIndex(1), from_ns: 0, minted_ns: vec![105 * MS] }];
    assert_eq!(points(&other), [4, 5], "another key's");
}

#[test]
fn it_may_be_one_sibling_more_and_no_two() {
    let more = |count| {
        format!(
            "a: put 1 @100-110 => acked \n b: put 2 from a @120-130 => acked \n \
             c: put 3 from b @140-150 => acked 2/{count} \n z: final @900-910 => 3"
        )
    };
    assert_eq!(judged(&more(1), &[]).0, [0_u8; 0]);
    assert_eq!(judged(&more(2), &[]).0, [5]);
    assert_eq!(judged(&more(2), &[(135, &[105])]), (vec![], 1));
    assert_eq!(judged(&more(3), &[(135, &[105])]).0, [5]);
    assert_eq!(judged(&more(2), &[(160, &[105])]).0, [5], "dropped after the ack");
}

#[test]
fn no_write_is_lost_for_it() {
    let lost = "a: put 1 @100-110 => acked \n z: final @900-910 => none";
    assert_eq!(judged(lost, &[(500, &[105])]), (vec![1], 0));
    let stale = "a: put 1 @100-110 => acked \n b: get @600-610 => none \n z: final @900-910 => 1";
    assert_eq!(judged(stale, &[(500, &[105])]), (vec![6], 0));
}
