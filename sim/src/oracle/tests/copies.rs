//! Point 9 by copies, point 6 for reads of nothing, and what a disk that was rolled back excuses.

use super::points;
use super::tale::{during, node, tell};
use crate::history::{
    Endpoint, Evidence, Fault, Got, HintDeed, HintStep, Hints, KeyIndex, Life, Membership,
    NodeIndex, Unrepaired, ValueId,
};

const NONE: [u8; 0] = [];

/// What n0, n1 and n2 would show of key 0.
fn with_copies(tale: &str, shown: [&[u64]; 3]) -> Evidence {
    let mut evidence = tell(tale);
    let copy = |(at, values): (usize, &&[u64])| Unrepaired {
        node: NodeIndex(at as u32),
        key: KeyIndex(0),
        got: Got {
            values: values.iter().map(|value| ValueId(*value)).collect(),
            context: !values.is_empty(),
            ..Got::default()
        },
    };
    evidence.unrepaired = shown.iter().enumerate().map(copy).collect();
    evidence
}

#[test]
fn so_many_acks_are_so_many_copies() {
    let tale = "a: put 1 sloppy => acked 2h1 \n z: final => 1";
    assert_eq!(points(&with_copies(tale, [&[1], &[1], &[]])), NONE);
    assert_eq!(points(&with_copies(tale, [&[1], &[], &[]])), [9], "the hint was forgotten");
    assert_eq!(points(&with_copies(tale, [&[], &[], &[]])), [9], "the read found it somewhere");
    // What superseded it counts as well: it covers it.
    let tale = "a: put 1 => acked \n b: put 2 from a => acked \n z: final => 2";
    assert_eq!(points(&with_copies(tale, [&[2], &[2], &[]])), NONE);
    assert_eq!(points(&with_copies(tale, [&[2], &[1], &[]])), [9]);
    // A write of unknown outcome may be anywhere, and so may one that sees no token of it.
    let tale = "a: put 1 => unknown \n b: put 2 => acked \n z: final => 1,2";
    let unsure = |shown| {
        let mut evidence = with_copies(tale, shown);
        evidence.disturbances = vec![during(0, 8, Fault::Down(node(0)))];
        points(&evidence)
    };
    assert_eq!(unsure([&[1, 2], &[2], &[]]), NONE);
    assert_eq!(unsure([&[1, 2], &[1], &[]]), [9]);
}

#[test]
fn what_may_undo_acks_excuses_missing_copies() {
    let tale = "a: put 1 sloppy => acked 2h1 \n z: final => 1";
    let missing = || with_copies(tale, [&[1], &[], &[]]);
    assert_eq!(points(&missing()), [9]);
    let mut lazy = missing();
    lazy.rules.sync_always = false;
    assert_eq!(points(&lazy), NONE, "the owner may have lost what it was handed");
    let mut late = missing();
    late.hints = Some(Hints { steps: vec![expired_of(0)], ..Hints::default() });
    assert_eq!(points(&late), NONE);
    // An ack of a home replica is not excused by that.
    let mut late = with_copies(tale, [&[], &[], &[]]);
    late.hints = Some(Hints { steps: vec![expired_of(0)], ..Hints::default() });
    assert_eq!(points(&late), [9]);
}

fn expired_of(key: u32) -> HintStep {
    HintStep {
        at_ns: 1 << 40,
        holder: NodeIndex(3),
        owner: NodeIndex(1),
        key: KeyIndex(key),
        what: HintDeed::Expired,
    }
}

#[test]
fn a_disk_that_was_rolled_back_undoes_one_ack_and_no_more() {
    let rolled = |tale: &str, from, to| {
        let mut evidence = tell(tale);
        evidence.disturbances = vec![during(from, to, Fault::RolledBack(node(0)))];
        points(&evidence)
    };
    let alone = "a: put 1 w1 @100-110 => acked \n z: final => none";
    assert_eq!(points(&tell(alone)), [1]);
    assert_eq!(rolled(alone, 50, 500), NONE, "nobody else had it");
    assert_eq!(rolled(alone, 200, 500), [1], "it is in the copy");
    assert_eq!(rolled(alone, 10, 50), [1], "it came after that");
    let hinted = "a: put 1 w1 sloppy @100-110 => acked 1h1 \n z: final => none";
    assert_eq!(rolled(hinted, 200, 500), NONE, "a fallback may have handed it over after the copy");
    let two = "a: put 1 @100-110 => acked \n z: final => none";
    assert_eq!(rolled(two, 50, 500), [1], "another one had it");
    // The one that forgot is in doubt: its answer counts for no R.
    let read = "a: put 1 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    assert_eq!(points(&tell(read)), [6]);
    assert_eq!(rolled(read, 50, 500), [6]);
    assert_eq!(rolled(read, 10, 50), [6]);
}

#[test]
fn a_disk_that_forgot_undoes_one_ack_and_excuses_who_reads_it() {
    let forgot = |tale: &str, from, to| {
        let mut evidence = tell(tale);
        evidence.disturbances = vec![during(from, to, Fault::Forgotten(node(0)))];
        points(&evidence)
    };
    let alone = "a: put 1 w1 @100-110 => acked \n z: final => none";
    assert_eq!(forgot(alone, 50, 500), NONE, "nobody else had it");
    assert_eq!(forgot(alone, 10, 50), [1], "it came after that");
    let two = "a: put 1 @100-110 => acked \n z: final => none";
    assert_eq!(forgot(two, 50, 500), [1], "another one had it");
    // It does not know, so its answer counts.
    let read = "a: put 1 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    assert_eq!(forgot(read, 50, 500), NONE);
    assert_eq!(forgot(read, 10, 50), [6]);
    let all = "a: put 1 w3 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    assert_eq!(forgot(all, 50, 500), [6], "one of those who were asked had it");
}

#[test]
fn damage_undoes_one_ack_and_excuses_no_stale_read() {
    let damaged = |tale: &str, from, on: &[u32]| {
        let mut evidence = tell(tale);
        let of = |at: &u32| during(from, 900, Fault::Damaged(node(*at)));
        evidence.disturbances = on.iter().map(of).collect();
        points(&evidence)
    };
    let alone = "a: put 1 w1 @100-110 => acked \n z: final => none";
    assert_eq!(damaged(alone, 200, &[0]), NONE, "nobody else had it");
    assert_eq!(damaged(alone, 50, &[0]), [1], "it came after that");
    let two = "a: put 1 @100-110 => acked \n z: final => none";
    assert_eq!(damaged(two, 200, &[0]), [1], "another one had it");
    assert_eq!(damaged(two, 200, &[0, 1]), NONE);
    // The damage is older, and was met when there was no room for what had been written since.
    let unsalvaged = |tale: &str, key, on: &[(u32, u64)]| {
        let mut evidence = tell(tale);
        evidence.disturbances = vec![during(50, 900, Fault::Damaged(node(0)))];
        let note = |(node, at): &(u32, u64)| (KeyIndex(key), NodeIndex(*node), at * 1_000_000);
        evidence.unsalvaged = on.iter().map(note).collect();
        points(&evidence)
    };
    assert_eq!(unsalvaged(alone, 0, &[(0, 200), (0, 300)]), NONE);
    assert_eq!(unsalvaged(alone, 1, &[(0, 200)]), [1], "another key");
    assert_eq!(unsalvaged(alone, 0, &[(0, 60)]), [1], "it came after that");
    assert_eq!(unsalvaged(two, 0, &[(0, 200), (0, 300)]), [1], "one replica, however often");
    // The other ack was a fallback's, whose hint grew too old meanwhile.
    let mut evidence = tell("a: put 1 sloppy @100-110 => acked 2h1 \n z: final => none");
    evidence.disturbances = vec![during(200, 900, Fault::Damaged(node(0)))];
    assert_eq!(points(&evidence), [1], "the hint is there");
    evidence.hints = Some(Hints { steps: vec![expired_of(0)], ..Hints::default() });
    assert!(!points(&evidence).contains(&1));
    // The damaged one's answer counts for no R.
    let read = "a: put 1 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    assert_eq!(damaged(read, 200, &[0]), [6]);
}

#[test]
fn who_forgot_can_only_ask_the_living() {
    let read = |tale: &str, damaged_at, faults: &[(u64, u64, Fault)]| {
        let mut evidence = tell(tale);
        evidence.disturbances = faults.iter().map(|(from, to, f)| during(*from, *to, *f)).collect();
        evidence.disturbances.push(during(damaged_at, 900, Fault::Damaged(node(0))));
        points(&evidence)
    };
    let stale = "a: put 1 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    let away = |at, from, to| [(from, to, Fault::Isolated(node(at)))];
    assert_eq!(read(stale, 200, &away(1, 150, 700)), NONE, "n1 alone may have it");
    assert_eq!(read(stale, 200, &away(1, 120, 190)), [6], "it was back when n0 asked");
    assert_eq!(read(stale, 200, &away(1, 620, 700)), [6], "it left after the read");
    assert_eq!(read(stale, 50, &away(1, 120, 700)), [6], "the write came after the damage");
    assert_eq!(read(stale, 200, &away(0, 150, 700)), [6], "n0 heard from nobody, and answers none");
    assert_eq!(read(stale, 200, &away(3, 150, 700)), [6], "n3 is no home replica");
    let cut = [(150, 700, Fault::LinkCut { from: node(0), to: node(2) })];
    assert_eq!(read(stale, 200, &cut), NONE);
    // Two more had it, and two were asked.
    let all = "a: put 1 w3 @100-110 => acked \n b: get @600-610 => none \n z: final => 1";
    assert_eq!(read(all, 200, &away(1, 150, 700)), [6]);
    // What it covered is dead for such a read only if it met the write.
    let dead = "a: put 1 @100-110 => acked \n b: put 2 from a @120-130 => acked \n \
                c: get @600-610 => 1 \n z: final => 2";
    assert_eq!(points(&tell(dead)), [4, 6]);
    assert_eq!(read(dead, 200, &away(1, 150, 700)), NONE);
}

#[test]
fn nothing_is_said_by_homes_alone() {
    let read = |asked: &str, faults: &[(u64, u64, Fault)]| {
        let mut evidence = tell(&format!("a: get sloppy {asked} @100-200 => none"));
        evidence.hints = Some(Hints::default());
        evidence.disturbances = faults.iter().map(|(from, to, f)| during(*from, *to, *f)).collect();
        points(&evidence)
    };
    let down = |at| (50, 300, Fault::Down(node(at)));
    assert_eq!(read("n3", &[]), NONE);
    assert_eq!(read("n3", &[down(0)]), NONE, "two are left");
    assert_eq!(read("n3", &[down(0), down(1)]), [6]);
    assert_eq!(read("n3 r1", &[down(0), down(1)]), NONE, "one is enough");
    assert_eq!(read("n3", &[down(0), (150, 300, Fault::Down(node(1)))]), NONE, "it ran at first");
    assert_eq!(read("n3", &[down(0), (50, 300, Fault::Paused(node(1)))]), [6]);
    let mut evidence = tell("a: get sloppy n3 @100-200 => none");
    evidence.hints = Some(Hints::default());
    evidence.disturbances =
        vec![during(50, 300, Fault::Down(node(0))), during(50, 300, Fault::Paused(node(1)))];
    let life = Life { node: NodeIndex(1), start_ns: evidence.history.ops[0].start_ns, end: None };
    evidence.membership = Some(Membership { lives: vec![life], ..Membership::default() });
    assert!(!points(&evidence).contains(&6), "it was started anew, and ran");
    // A way through another node is a way.
    let cut = |from, to| (50, 300, Fault::LinkCut { from: node(from), to: node(to) });
    assert_eq!(read("n3", &[down(0), cut(1, 3)]), NONE, "through n2");
    assert_eq!(read("n3", &[down(0), cut(1, 3), cut(2, 1)]), [6]);
    let client = Fault::Isolated(Endpoint::Client(crate::history::ClientId(0)));
    assert_eq!(read("n3", &[down(0), (50, 300, client)]), NONE);
    let mut evidence = tell(
        "a: put 1 @10-20 => unknown \n b: del @30-40 => unknown \n c: get sloppy n3 @100-200 => gone",
    );
    evidence.hints = Some(Hints::default());
    evidence.disturbances = [0, 1].map(|at| during(5, 300, Fault::Down(node(at)))).to_vec();
    assert_eq!(points(&evidence), NONE, "a fallback that knows a tombstone may say so");
}
