//! What is known without being shown: values that expired, and what was deleted and forgotten.

use super::points;
use super::tale::{client, during, node, tell};
use crate::history::{Fault, KeyIndex};

const NONE: [u8; 0] = [];

#[test]
fn a_value_with_a_time_to_live_is_shown_until_then_and_not_after() {
    // Clocks may differ by 100 ms.
    for (name, expected, tale) in [
        (
            "in time",
            &[][..],
            "a: put 1 t500 @0-5 => acked \n b: get @400-410 => 1 \n z: final => gone",
        ),
        (
            "at once",
            &[6],
            "a: put 1 t500 @0-5 => acked \n b: get @300-310 => none \n z: final @900-910 => gone",
        ),
        ("lost before its time", &[1], "a: put 1 t9000 @0-5 => acked \n z: final => none"),
        (
            "shown late, within what clocks may differ",
            &[],
            "a: put 1 t500 @0-5 => acked \n b: get @590-600 => 1 \n z: final @900-910 => gone",
        ),
        (
            "shown too late",
            &[4],
            "a: put 1 t500 @0-5 => acked \n b: get @610-620 => 1 \n z: final @900-910 => gone",
        ),
        (
            "written again without one",
            &[],
            "a: put 1 t500 @0-5 => acked \n b: put 1 retry a @10-15 => acked \n c: get @700-710 => 1 \n z: final @900-910 => 1",
        ),
        (
            "nobody knows whether it was taken, and when",
            &[],
            "a: put 1 t500 @0-5 => unknown \n b: get @610-620 => 1 \n z: final @900-910 => gone",
        ),
        (
            "deleted by nobody",
            &[2, 6],
            "a: put 1 @0-5 => acked \n b: get @610-620 => gone \n z: final @900-910 => 1",
        ),
        (
            "what it replaced stays replaced",
            &[4],
            "a: put 1 => acked \n b: put 2 from a t100 @10-15 => acked \n c: get @300-310 => 1 \n z: final @900-910 => gone",
        ),
    ] {
        let mut tale = tell(tale);
        // Not about availability: a bad client excuses each failure.
        tale.disturbances = vec![during(0, 10_000, Fault::Paused(client(0)))];
        let found = points(&tale);
        assert_eq!(
            found.iter().filter(|p| expected.contains(p)).count(),
            expected.len(),
            "{name}: {found:?}"
        );
        assert!(found.iter().all(|p| expected.contains(p)), "{name}: {found:?}");
    }
    let mut odd =
        tell("a: put 1 t500 @0-5 => acked \n b: get @610-620 => 1 \n z: final @900-910 => gone");
    odd.disturbances = vec![during(0, 9, Fault::ClockWrong(node(0)))];
    assert_eq!(points(&odd), NONE, "by whose clock?");
}

#[test]
fn what_was_forgotten_need_not_be_shown_and_must_not_come_back() {
    let tale = "a: put 1 @0-5 => acked \n b: del from a @10-15 => acked \n c: get @100-110 => none \n z: final @200-210 => none";
    let mut evidence = tell(tale);
    for state in &mut evidence.finals {
        state.copies.iter_mut().for_each(|copy| copy.bytes = None);
    }
    assert_eq!(points(&evidence), [1, 6], "nobody said that it was forgotten");
    evidence.forgotten = vec![(KeyIndex(0), 150 * 1_000_000)];
    assert_eq!(points(&evidence), [6], "nor before the first read");
    evidence.forgotten = vec![(KeyIndex(0), 50 * 1_000_000)];
    assert_eq!(points(&evidence), NONE);
    evidence.forgotten = vec![(KeyIndex(1), 50 * 1_000_000)];
    assert_eq!(points(&evidence), [1, 6], "another key");
    // What no delete had seen is not forgotten with it.
    let mut beside =
        tell("a: put 1 @0-5 => acked \n b: del @10-15 => acked \n z: final @200-210 => none");
    beside.forgotten = vec![(KeyIndex(0), 50 * 1_000_000)];
    assert_eq!(points(&beside), [1]);
    let mut back =
        tell("a: put 1 @0-5 => acked \n b: del from a @10-15 => acked \n z: final @200-210 => 1");
    back.forgotten = vec![(KeyIndex(0), 50 * 1_000_000)];
    assert_eq!(points(&back), [4]);
}
