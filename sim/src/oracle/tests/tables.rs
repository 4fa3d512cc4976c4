//! Hand-written histories for points 1, 2, 4, 5, 6 and 11, with what must be said of each.

use super::points;
use super::tale::{client, during, node, tell};
use crate::history::Fault;
use crate::oracle::{Malformed, judge};

/// What it shows, expected points, tale.
type Row = (&'static str, &'static [u8], &'static str);

fn run(rows: &[Row]) {
    for (name, expected, tale) in rows {
        let mut evidence = tell(tale);
        // These tables are not about availability: a bad client excuses each failure.
        evidence.disturbances = vec![during(0, 10_000, Fault::Paused(client(0)))];
        let found = judge(&evidence).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(points(&evidence), *expected, "{name}: {found:#?}");
        for violation in found {
            assert!(!violation.explanation.is_empty(), "{name}");
            assert!(!violation.ops.is_empty() && !violation.story.is_empty(), "{name}");
        }
    }
}

#[test]
fn acked_writes_are_kept_or_superseded() {
    run(&[
        ("kept", &[], "a: put 1 => acked \n z: final => 1"),
        ("lost", &[1], "a: put 1 => acked \n z: final => none"),
        (
            "superseded",
            &[],
            "a: put 1 => acked \n b: get => 1 \n c: put 2 from b => acked \n z: final => 2",
        ),
        (
            "a blind write supersedes nothing",
            &[1],
            "a: put 1 => acked \n c: put 2 => acked \n z: final => 2",
        ),
        (
            "superseded in steps, through tokens of acks",
            &[],
            "a: put 1 => acked \n b: put 2 from a => acked \n c: put 3 from b => acked \n z: final => 3",
        ),
        (
            "superseded by a write of unknown outcome that is shown",
            &[],
            "a: put 1 => acked \n b: put 2 from a => unknown \n z: final => 2",
        ),
        (
            "a superseder of unknown outcome must be accounted for itself",
            &[1],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: put 3 => acked \n z: final => 3",
        ),
        (
            "it is: somebody read it and wrote on",
            &[],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: get r1 => 2
             d: put 3 from c => acked \n z: final => 3",
        ),
        (
            "a refused superseder excuses nothing",
            &[1],
            "a: put 1 => acked \n b: put 2 from a => refused 400 \n c: put 3 => acked \n z: final => 3",
        ),
        (
            "a token that covered what its reader was not shown",
            &[1],
            "a: put 1 => acked \n b: get => 1 \n c: put 2 => acked 2/2 \n d: put 3 from b => acked
             z: final => 3",
        ),
        (
            "a token used twice makes siblings",
            &[],
            "a: put 1 => acked \n b: put 2 from a => acked \n c: put 3 from a => acked 2/2 \n z: final => 2,3",
        ),
    ]);
}

#[test]
fn writes_without_an_answer_may_be_anywhere() {
    run(&[
        (
            "an unanswered write may vanish",
            &[],
            "a: put 1 => unknown \n b: get r1 => none \n z: final => none",
        ),
        ("and may hang until the end", &[], "a: put 1 @0-90 => unknown \n z: final @20-30 => none"),
        ("and may come late", &[], "a: put 1 => unknown \n b: get => none \n z: final => 1"),
        (
            "one shown value stands for both attempts",
            &[],
            "a: put 1 => unknown \n b: put 1 retry a => acked \n z: final => 1",
        ),
        (
            "an acked retry is lost, though its twin had been superseded before",
            &[1],
            "a: put 1 => unknown \n b: get => 1 \n c: put 1 retry a => acked
             d: put 2 from b => acked \n z: final => 2",
        ),
        (
            "whoever read after the retry may have seen either",
            &[],
            "a: put 1 => unknown \n c: put 1 retry a => acked \n b: get => 1
             d: put 2 from b => acked \n z: final => 2",
        ),
        (
            "without a final read nothing is lost yet",
            &[],
            "a: put 1 => acked \n b: put 2 => acked 2/2",
        ),
    ]);
}

#[test]
fn deletes_are_writes_like_any_other() {
    run(&[
        ("deleted", &[], "a: put 1 => acked \n b: del from a => acked \n z: final => gone"),
        (
            "a blind delete stands beside the value",
            &[],
            "a: put 1 => acked \n b: del => acked 2/2 \n z: final => 1,del",
        ),
        (
            "it does not take the value away",
            &[1],
            "a: put 1 => acked \n b: del => acked \n z: final => gone",
        ),
        ("a lost delete", &[1, 4], "a: put 1 => acked \n b: del from a => acked \n z: final => 1"),
        (
            "a lost tombstone",
            &[1],
            "a: put 1 => acked \n b: del from a => acked \n z: final => none",
        ),
        (
            "written over",
            &[],
            "a: put 1 => acked \n b: del from a => acked \n c: get => gone
             d: put 2 from c => acked \n z: final => 2",
        ),
        (
            "written beside",
            &[],
            "a: put 1 => acked \n b: del from a => acked \n c: put 2 => acked 2/2 \n z: final => 2,del",
        ),
        (
            "an unanswered delete may excuse",
            &[],
            "a: put 1 => acked \n b: del from a => unknown \n z: final => gone",
        ),
    ]);
}

#[test]
fn a_loss_after_a_power_loss_is_point_eleven() {
    let tale = "a: put 1 => acked \n z: final => none";
    let mut evidence = tell(tale);
    evidence.disturbances = vec![during(2, 18, Fault::Down(node(1)))];
    assert_eq!(points(&evidence), [1], "a crash takes no page cache along");
    evidence.disturbances.push(during(3, 8, Fault::PowerLoss(node(0))));
    assert_eq!(points(&evidence), [11]);
    evidence.rules.sync_always = false;
    assert_eq!(points(&evidence), [0; 0], "acks may run ahead of fsync");
    evidence.disturbances.pop();
    assert_eq!(points(&evidence), [0; 0], "and of the system's own memory");
    evidence.disturbances[0].start_ns = 16_000_000;
    assert_eq!(points(&evidence), [1], "for as long as the lag");
    evidence.disturbances.push(during(3, 18, Fault::PowerLoss(node(0))));
    evidence.disturbances[1].start_ns = 14_000_000;
    assert_eq!(points(&evidence), [0; 0], "still within the lag");
    evidence.disturbances[1].start_ns = 16_000_000;
    assert_eq!(points(&evidence), [11], "but no further than the lag");
    evidence.disturbances[1].fault = Fault::DiskTrouble(node(0));
    assert_eq!(points(&evidence), [1], "nor does a disk that fails later undo it");
    evidence.disturbances[1].start_ns = 14_000_000;
    assert_eq!(points(&evidence), [0; 0], "one that fails before it was synced may");
    evidence.rules.sync_always = true;
    assert_eq!(points(&evidence), [1], "acks wait for fsync");
    let mut before = tell("x: get => none \n a: put 1 => acked \n z: final => none");
    before.disturbances = vec![during(0, 5, Fault::PowerLoss(node(0)))];
    assert_eq!(points(&before), [1], "it was over when the write began");
}

#[test]
fn what_is_read_was_written() {
    run(&[
        ("by somebody, unanswered", &[], "a: put 1 => unknown \n b: get r1 => 1"),
        ("while it is being written", &[], "a: put 1 @0-50 => unknown \n b: get r1 @20-30 => 1"),
        ("by nobody", &[2], "b: get => 1"),
        ("by nobody, not even nearly", &[2], "a: put 1 => acked \n b: get => 1,?{\"v\":"),
        ("to another key", &[2], "a: put 1 k1 => acked \n b: get => 1"),
        ("after the read", &[2], "b: get @0-5 => 1 \n a: put 1 @6-9 => acked"),
        ("a refused write", &[2], "a: put 1 => refused 429 \n b: get => 1"),
        (
            "refused once, then written",
            &[],
            "a: put 1 => refused 503 \n c: put 1 retry a => acked \n b: get => 1",
        ),
        ("a tombstone from nowhere", &[2], "a: put 1 => acked \n b: get => 1,del"),
        ("the same, alone", &[2], "b: get => gone"),
        (
            "a refused delete",
            &[2],
            "a: put 1 => acked \n d: del from a => refused 503 \n b: get => 1,del",
        ),
    ]);
}

#[test]
fn the_dead_stay_dead() {
    run(&[
        ("to strict reads", &[4, 6], "a: put 1 => acked \n b: del from a => acked \n c: get => 1"),
        (
            "not to sloppy ones",
            &[],
            "a: put 1 => acked \n b: del from a => acked \n c: get sloppy => 1",
        ),
        (
            "nor when R+W is only N",
            &[],
            "a: put 1 => acked \n b: del from a w1 => acked \n c: get => 1",
        ),
        (
            "but acks count, not W",
            &[4, 6],
            "a: put 1 => acked \n b: del from a w1 => acked 2 \n c: get => 1",
        ),
        (
            "and only those of homes",
            &[],
            "a: put 1 => acked \n b: del from a sloppy => acked 2h1 \n c: get => 1",
        ),
        (
            "nor to reads that began before the ack",
            &[],
            "a: put 1 => acked \n c: get @10-40 => 1 \n b: del from a @12-30 => acked",
        ),
        (
            "nor after an unanswered delete",
            &[],
            "a: put 1 => acked \n b: del from a => unknown \n c: get => 1",
        ),
        (
            "beside what killed it",
            &[4, 5],
            "a: put 1 => acked \n b: put 2 from a => acked \n c: get => 1,2",
        ),
        (
            "in the final read whatever W was",
            &[4, 5],
            "a: put 1 => acked \n b: put 2 from a w1 => acked \n d: get r1 => 2
             e: put 3 from d w1 => acked \n z: final => 1,3",
        ),
    ]);
}

#[test]
fn a_twin_of_the_dead_may_live() {
    run(&[
        (
            "a late twin is not the dead one",
            &[],
            "a: put 1 => unknown \n b: put 1 retry a => acked \n c: get => 1
             d: put 2 from c => acked \n e: get => 1,2",
        ),
        (
            "no twin: unanswered, but read, then covered",
            &[4, 5],
            "a: put 1 => unknown \n c: get => 1 \n d: put 2 from c => acked \n e: get => 1,2",
        ),
        (
            "the twin was refused",
            &[4, 5],
            "a: put 1 => refused 503 \n b: put 1 retry a => acked \n c: get => 1
             d: put 2 from c => acked \n e: get => 1,2",
        ),
        (
            "a late twin, though the other is covered by name and whoever saw the bytes wrote on",
            &[],
            "a: put 1 => unknown \n b: put 1 retry a => acked \n c: get => 1 \n d: put 2 from c => acked
             f: put 3 from b => acked 2/2 \n e: get => 1,2,3",
        ),
        ("an unanswered killer binds no final read", &[],
            "a: put 1 => acked \n b: del from a => unknown \n z: final => 1"),
        (
            "its twin began after it was covered",
            &[],
            "a: put 1 => unknown \n c: get => 1 \n d: put 2 from c => acked
             x: put 1 retry a => acked 2/2 \n e: get => 1,2",
        ),
        (
            "both twins are covered by name",
            &[4, 5],
            "a: put 1 => unknown \n b: get => 1 \n c: put 1 from b retry a => acked
             d: put 2 from c => acked \n e: get => 1,2",
        ),
        (
            "a tombstone covered by a write",
            &[4, 5],
            "a: del => acked \n b: put 1 from a => acked \n c: get => 1,del",
        ),
        (
            "another delete may be shown",
            &[],
            "a: del => acked \n b: put 1 from a => acked \n x: del => unknown \n c: get => 1,del",
        ),
    ]);
}

#[test]
fn siblings_are_concurrent() {
    run(&[
        ("blind writes", &[], "a: put 1 => acked \n b: put 2 => acked 2/2 \n c: get => 1,2"),
        (
            "one covered the other",
            &[5],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: get sloppy => 1,2",
        ),
        (
            "in two steps",
            &[5],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: get r1 sloppy => 2
             d: put 3 from c => unknown \n e: get r1 sloppy => 1,3",
        ),
        (
            "all attempts of the later one covered it",
            &[5],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: put 2 from a retry b => unknown
             d: get sloppy => 1,2",
        ),
        (
            "one attempt of the later one did not",
            &[],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: put 2 retry b => unknown
             d: get sloppy => 1,2",
        ),
        (
            "a delete beside what it deleted",
            &[5],
            "a: put 1 => acked \n b: del from a => unknown \n d: get sloppy => 1,del",
        ),
        ("twice the same", &[5], "a: put 1 => acked \n b: get => 1,1"),
        ("an ack that counts none", &[5], "a: put 1 => acked 2/0"),
        ("an ack that counts one too many", &[5], "a: put 1 => acked 2/2"),
        ("unanswered ones count", &[], "a: put 1 => unknown \n b: put 2 => acked 2/2"),
        ("refused ones do not", &[5], "a: put 1 => refused 429 \n b: put 2 => acked 2/2"),
        (
            "concurrent requests count",
            &[],
            "a: put 1 @0-20 => acked 2/2 \n b: put 2 @10-30 => acked",
        ),
        (
            "two clients that read, modify and write: two siblings",
            &[],
            "a: put 1 => acked \n b: put 2 c0 from a => acked \n c: put 3 c1 from a => acked 2/2
             g: get c0 => 2,3 \n h: get c1 => 2,3 \n i: put 4 c0 from g => acked 2/1
             j: put 5 c1 from h => acked 2/2 \n k: get => 4,5",
        ),
        (
            "never three",
            &[5],
            "a: put 1 => acked \n b: put 2 c0 from a => acked \n c: put 3 c1 from a => acked 2/2
             g: get c0 => 2,3 \n h: get c1 => 2,3 \n i: put 4 c0 from g => acked 2/1
             j: put 5 c1 from h => acked 2/3",
        ),
    ]);
}

#[test]
fn a_write_is_refused_for_siblings_only_when_there_can_be_so_many() {
    for (name, want, tale) in [
        ("two beside it", vec![], "a: put 1 => acked \n b: put 2 => acked 2/2 \n c: put 3 => refused 409"),
        ("one beside it", vec![12], "a: put 1 => acked \n c: put 3 => refused 409"),
        (
            "it covers one of them",
            vec![12],
            "a: put 1 => acked \n b: put 2 => acked 2/2 \n c: put 3 from a => refused 409",
        ),
        (
            "its token may cover all of them",
            vec![],
            "a: put 1 => acked \n b: put 2 => acked 2/2 \n c: put 3 => refused 409 \n d: put 4 from c => acked
             e: final => 4",
        ),
    ] {
        let mut evidence = tell(tale);
        evidence.rules.siblings_max = Some(2);
        assert_eq!(points(&evidence), want, "{name}");
    }
}

#[test]
fn where_the_last_write_wins_one_value_is_shown_and_none_that_was_covered() {
    for (name, want, tale) in [
        (
            "either of two",
            vec![],
            "a: put 1 => acked \n b: put 2 => acked \n c: get => 1 \n e: final => 1",
        ),
        ("both", vec![5], "a: put 1 => acked \n b: put 2 => acked \n c: get => 1,2"),
        ("an ack that counts both", vec![5], "a: put 1 => acked \n b: put 2 => acked 2/2"),
        ("nothing", vec![1], "a: put 1 => acked \n e: final => none"),
        ("nothing yet", vec![6], "a: put 1 => acked \n e: get => none"),
        (
            "what the later one covered",
            vec![4],
            "a: put 1 => acked \n b: put 2 from a => acked \n e: final => 1",
        ),
        (
            "what a read had covered, at once",
            vec![4],
            "a: put 1 => acked \n c: get => 1 \n b: put 2 from c => acked \n e: get => 1",
        ),
        (
            "a third, which lost against what was covered",
            vec![],
            "a: put 1 => acked \n b: put 3 => acked \n c: put 2 from a => acked \n e: final => 3",
        ),
    ] {
        let mut evidence = tell(tale);
        evidence.history.keys[0].last_write = true;
        assert_eq!(points(&evidence), want, "{name}");
    }
}

#[test]
fn strict_reads_are_fresh() {
    run(&[
        ("the latest", &[], "a: put 1 => acked \n b: get => 1"),
        ("nothing", &[6], "a: put 1 => acked \n b: get => none"),
        ("an older one", &[4, 6], "a: put 1 => acked \n b: put 2 from a => acked \n c: get => 1"),
        ("one of two siblings", &[6], "a: put 1 => acked \n b: put 2 => acked 2/2 \n c: get => 1"),
        (
            "what superseded it, unanswered",
            &[],
            "a: put 1 => acked \n b: put 2 from a => unknown \n c: get => 2",
        ),
        (
            "a later one, concurrent with the read",
            &[],
            "a: put 1 => acked \n c: get @20-40 => 2 \n b: put 2 from a @25-60 => acked",
        ),
        (
            "a concurrent one instead of it",
            &[6],
            "a: put 1 => acked \n c: get @20-40 => 2 \n b: put 2 @25-60 => acked 2/2",
        ),
        ("R=1 W=2 promises nothing", &[], "a: put 1 => acked \n b: get r1 => none"),
        ("W=3 does", &[6], "a: put 1 w3 => acked \n b: get r1 => none"),
        ("acks of fallbacks do not count", &[], "a: put 1 sloppy => acked 2h1 \n b: get => none"),
        ("sloppy writes with home acks do", &[6], "a: put 1 sloppy => acked \n b: get => none"),
        ("sloppy reads may be stale", &[], "a: put 1 => acked \n b: get sloppy => none"),
        (
            "a lost tombstone lets the next read see nothing",
            &[6],
            "a: put 1 => acked \n b: del from a => acked \n c: get => none",
        ),
        ("fewer acks than asked for", &[6], "a: put 1 => acked 1"),
        ("a hint where none was allowed", &[6], "a: put 1 => acked 3h1"),
        ("more acks than home replicas", &[6], "a: put 1 => acked 4"),
    ]);
}

#[test]
fn evidence_that_contradicts_itself_is_refused() {
    let rows = [
        ("a token from the future", "a: put 1 @0-50 => acked \n b: put 2 from a @10-60 => acked"),
        ("a token that never came", "a: put 1 => unknown \n b: put 2 from a => acked"),
        ("a 404 gives none", "a: get => none \n b: put 2 from a => acked"),
        ("of another key", "a: put 1 k1 => acked \n b: put 2 from a => acked"),
        ("a value written twice", "a: put 1 => acked \n b: put 1 => acked"),
        ("a retry of something else", "a: put 1 => unknown \n b: put 2 retry a => acked"),
        ("backwards", "a: put 1 @10-9 => acked"),
        ("out of order", "a: put 1 @10-12 => acked \n b: put 2 @9-13 => acked"),
        ("a missing final read", "a: put 1 => acked \n b: put 2 k1 => acked \n z: final => 1"),
        ("a late answer", "a: put 1 @0-90 => acked \n z: final @20-30 => 1"),
        ("a late operation", "a: put 1 => acked \n z: final => 1 \n b: get => 1"),
        ("a GET that is acked", "a: get => acked"),
    ];
    for (name, tale) in rows {
        let error: Malformed = judge(&tell(tale)).expect_err(name);
        assert!(error.to_string().contains("recorded wrongly"), "{name}: {error}");
    }
}

#[test]
fn a_violation_tells_its_story() {
    let evidence = tell(
        "a: put 1 => acked \n b: get c1 => 1 \n n: put 9 => acked 2/2 \n c: put 2 c1 n2 from b => acked
         z: final => 2",
    );
    let found = judge(&evidence).unwrap();
    let text = format!("{}\n{}", found[0].explanation, found[0].story.join("\n"));
    insta::assert_snapshot!(text, @r"
    key b/k0: the acked write #2 (v9) is lost. The final read #4 of all home replicas shows v2: the write is not among that, and no request behind it had a token that could cover the write; no read ever showed it. No machine lost its power after it began.
    #1    0.010000s +0.005000s c2 -> n1  GET, r=2/3  =>  showed v1
    #2    0.020000s +0.005000s c1 -> n1  PUT v9, w=2/3  =>  acked 2 of 2, 2 siblings
    #3    0.030000s +0.005000s c2 -> n3  PUT v2 with the token of #1, w=2/3  =>  acked 2 of 2, 1 sibling
    #4    0.040000s +0.001000s c1 -> n1  GET, r=3/3  =>  showed v2
    ");
}
