//! Points 3, 7 and 12: the harness's own knowledge against what clients heard.

use super::points;
use super::tale::{client, during, node, tell};
use crate::history::{Disturbance, Endpoint, Evidence, Fault, NodeIndex, Sample};

#[test]
fn home_replicas_are_byte_equal_after_healing() {
    let tale = "a: put 1 => acked \n z: final => 1";
    assert_eq!(points(&tell(tale)), [0; 0]);
    let broken = |change: fn(&mut Evidence)| {
        let mut evidence = tell(tale);
        change(&mut evidence);
        points(&evidence)
    };
    assert_eq!(broken(|e| e.finals[0].copies[2].bytes = Some(vec![8])), [3]);
    assert_eq!(broken(|e| e.finals[0].copies[1].bytes = None), [3]);
    let nobody = |e: &mut Evidence| e.finals[0].copies.iter_mut().for_each(|c| c.bytes = None);
    assert_eq!(broken(nobody), [3], "shown, and held by nobody");
    assert_eq!(points(&tell("a: put 1 => acked \n z: final => unknown 503")), [3, 7]);
    let mut never_written = tell("a: get => none \n z: final => none");
    nobody(&mut never_written);
    assert_eq!(points(&never_written), [0; 0]);
}

/// One failed request at 1,000..1,050 ms under some faults.
fn fails(request: &str, faults: &[Disturbance]) -> Vec<u8> {
    let mut evidence = tell(&format!("a: {request} @1000-1050 => unknown 503"));
    evidence.disturbances = faults.to_vec();
    points(&evidence)
}

fn cut(from: Endpoint, to: Endpoint) -> Fault {
    Fault::LinkCut { from, to }
}

/// Recovery takes 100 ms, detection 500 ms, a failover 50 ms, a request 100 ms of its 300 ms at the most.
#[test]
fn failures_need_an_excuse() {
    const NONE: [u8; 0] = [];
    // A home replica (n0) is asked; n1 and n2 are the others, n3 and n4 are none.
    assert_eq!(fails("get", &[]), [7]);
    assert_eq!(fails("put 1", &[]), [7]);
    assert_eq!(fails("get", &[during(900, 950, Fault::Down(node(0)))]), NONE, "the asked node");
    assert_eq!(fails("get", &[during(600, 850, Fault::Down(node(0)))]), [7], "long recovered");
    assert_eq!(fails("get", &[during(1051, 1060, Fault::Down(node(0)))]), [7], "only later");
    assert_eq!(fails("get", &[during(900, 950, Fault::Paused(client(0)))]), NONE, "the client");
    assert_eq!(fails("get", &[during(900, 950, Fault::Paused(client(1)))]), [7], "another client");
    assert_eq!(fails("get", &[during(900, 950, cut(client(0), node(0)))]), NONE, "their link");
    assert_eq!(fails("get", &[during(900, 950, cut(node(0), client(0)))]), NONE, "either way");
    assert_eq!(fails("get", &[during(0, 2000, Fault::ClockWrong(node(0)))]), [7], "no excuse");
    let one = during(900, 2000, Fault::Isolated(node(1)));
    let two = during(900, 2000, Fault::DiskTrouble(node(2)));
    assert_eq!(fails("get", &[one]), [7], "two of three are enough");
    assert_eq!(fails("get", &[one, two]), NONE, "one of three is not");
    assert_eq!(fails("get r1", &[one, two]), [7], "unless one is asked for");
    assert_eq!(fails("get r3", &[one]), NONE);
    let doubtful = during(900, 2000, Fault::Damaged(node(1)));
    assert_eq!(fails("get r3", &[doubtful]), NONE, "its answer counts for no R");
    assert_eq!(fails("put 1 w3", &[doubtful]), [7], "its ack counts for W");
    assert_eq!(fails("get", &[doubtful]), [7], "two are left");
    let bad = Fault::LinkBad { from: node(1), to: node(0) };
    assert_eq!(fails("get r3", &[during(0, 2000, bad)]), NONE);
    let elsewhere = Fault::LinkBad { from: node(1), to: node(2) };
    assert_eq!(fails("get r3", &[during(0, 2000, elsewhere)]), [7], "a home replica coordinates");
    assert_eq!(fails("get", &[during(0, 2000, Fault::Down(node(3)))]), [7], "not needed");
}

#[test]
fn only_a_full_node_may_refuse_for_being_full() {
    let tale = "b: get @0-690 => unknown 504
                a: get @900-950 => none
                c: get n1 @900-1100 => none
                e: get @1000-1050 => refused 503
                d: get @1010-1060 => none";
    let judged = |in_flight_max| {
        let mut evidence = tell(tale);
        evidence.rules.in_flight_max = in_flight_max;
        // What fails is judged for `e` alone.
        evidence.history.ops[0].outcome = evidence.history.ops[1].outcome.clone();
        points(&evidence)
    };
    assert_eq!(judged(u64::MAX), [7]);
    assert_eq!(judged(3), [7], "b has passed its deadline, c is with another node");
    assert_eq!(judged(2), [0; 0], "a may still be there, and d is");
}

#[test]
fn a_forwarding_node_needs_a_coordinator() {
    const NONE: [u8; 0] = [];
    assert_eq!(fails("put 1 n3", &[]), [7]);
    assert_eq!(
        fails("put 1 n3", &[during(700, 2000, Fault::Paused(node(0)))]),
        NONE,
        "not noticed yet"
    );
    assert_eq!(
        fails("put 1 n3", &[during(400, 2000, Fault::Paused(node(0)))]),
        [7],
        "long noticed"
    );
    assert_eq!(
        fails("put 1 n3", &[during(400, 1040, Fault::Paused(node(0)))]),
        NONE,
        "it came back"
    );
    assert_eq!(
        fails("put 1 n3", &[during(0, 2000, Fault::DiskTrouble(node(0)))]),
        NONE,
        "half alive"
    );
    let apart = during(0, 2000, cut(node(0), node(1)));
    assert_eq!(fails("put 1 n3", &[apart]), [7], "both still reach n2");
    let alone = [apart, during(0, 2000, cut(node(2), node(0)))];
    assert_eq!(fails("put 1 n3", &alone), NONE, "n0 may be chosen and reaches nobody");
    assert_eq!(fails("put 1 w1 n3", &alone), [7]);
}

/// As [`fails`], where n3 and n4 may stand in for n0, n1 and n2.
fn fails_sloppy(request: &str, faults: &[Disturbance]) -> Vec<u8> {
    let mut evidence = tell(&format!("a: {request} @1000-1050 => unknown 503"));
    evidence.history.keys[0].fallbacks = vec![NodeIndex(3), NodeIndex(4)];
    evidence.history.ops[0].asked.timeout_ns = 600 * super::tale::MS;
    evidence.disturbances = faults.to_vec();
    points(&evidence)
}

#[test]
fn sloppy_writes_need_any_w_nodes() {
    const NONE: [u8; 0] = [];
    let gone = |n| during(100, 2000, Fault::Down(node(n)));
    assert_eq!(fails_sloppy("put 1 sloppy", &[gone(1), gone(2)]), [7], "n3 and n4 stand in");
    assert_eq!(fails_sloppy("put 1", &[gone(1), gone(2)]), NONE, "not for a strict write");
    assert_eq!(fails_sloppy("get sloppy", &[gone(1), gone(2)]), NONE, "nor for a read");
    assert_eq!(fails_sloppy("del sloppy", &[gone(1), gone(2)]), [7]);
    let most = [gone(1), gone(2), gone(3), gone(4)];
    assert_eq!(fails_sloppy("put 1 sloppy", &most), NONE, "nobody is left");
    assert_eq!(fails_sloppy("put 1 sloppy w1", &most), [7]);
    let paused = during(900, 2000, Fault::Paused(node(1)));
    assert_eq!(fails_sloppy("put 1 sloppy w3", &[paused]), [7], "not noticed, and replaced");
    // Asked of a fallback.
    let homes = [gone(0), gone(1), gone(2)];
    assert_eq!(fails_sloppy("put 1 sloppy n3", &homes), [7], "a fallback coordinates");
    assert_eq!(fails_sloppy("put 1 sloppy n3 w3", &homes), NONE, "two of three");
    assert_eq!(
        fails_sloppy("put 1 sloppy n5", &homes),
        NONE,
        "a proxy has nobody to forward it to"
    );
    let half = [gone(0), gone(1), during(900, 2000, Fault::Paused(node(2)))];
    assert_eq!(fails_sloppy("put 1 sloppy n3", &half), NONE, "forwarded to one that is not absent");
    let mut tight = tell("a: put 1 @1000-1050 => unknown");
    tight.rules.tight = true;
    assert_eq!(points(&tight), NONE, "limits that may strike at any time");
}

#[test]
fn kinds_of_failure() {
    let heard = |outcome: &str| points(&tell(&format!("a: put 1 @1000-1050 => {outcome}")));
    assert_eq!(heard("refused 429"), [7]);
    assert_eq!(heard("refused 503"), [7]);
    assert_eq!(heard("refused"), [7]);
    assert_eq!(heard("unknown"), [7]);
    assert_eq!(heard("unknown 504"), [7]);
    assert_eq!(heard("refused 400"), [0; 0]);
    assert_eq!(heard("refused 413"), [0; 0]);
    let mut hasty = tell("a: put 1 @1000-1050 => unknown");
    hasty.history.ops[0].asked.timeout_ns = 50_000_000;
    assert_eq!(points(&hasty), [0; 0], "no time to answer even when all is well");
    let mut busy = tell("a: put 1 @1000-1130 => unknown");
    busy.history.ops[0].asked.timeout_ns = 130_000_000;
    assert_eq!(points(&busy), [7], "time enough when all is well");
    busy.disturbances = vec![during(0, 2000, Fault::Paused(node(2)))];
    assert_eq!(points(&busy), [0; 0], "but not for a failover");
}

#[test]
fn gauges_stay_within_bounds() {
    let sample = |at_ns, value| Sample {
        at_ns,
        node: NodeIndex(1),
        gauge: "rpc_in_flight".into(),
        value,
        bound: 64,
    };
    let mut evidence = tell("");
    evidence.samples = vec![sample(1, 63), sample(2, 64)];
    assert_eq!(points(&evidence), [0; 0]);
    evidence.samples.extend([sample(3, 65), sample(4, 90), sample(5, 70)]);
    assert_eq!(points(&evidence), [12]);
    let found = super::judge(&evidence).unwrap();
    assert_eq!(found.len(), 1, "once for each gauge of each node");
    insta::assert_snapshot!(found[0].explanation, @"rpc_in_flight of n2 was over its bound in 3 samples: first 65 at 0.000000s (bound 64), at worst 90 at 0.000000s (bound 64).");
}
