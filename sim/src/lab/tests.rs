//! Is the laboratory right? Subjects whose quality is known from how they are made.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use starling::runtime::time::Instant;

use super::arena::{self, Change, Outcome};
use super::course::{BEGIN, Course, Incident};
use super::experiment::{self, CrashRow, JoinRow, Plan, Tables};
use super::judge::{self, percentile};
use super::network::Network;
use super::{Belief, Factory, Outbox, Place, Seat, Subject, table};

/// Says "alive" to everybody every 100 ms, and takes whoever was silent for `patience` for dead.
struct Clockwork {
    patience: Duration,
}

/// Sends as [`Clockwork`] does, has whoever it hears up, and never takes anybody for dead.
struct Trusting;

struct Watch {
    seat: Seat,
    patience: Option<Duration>,
    heard: Vec<Option<Instant>>,
    next: Instant,
}

const BEAT: Duration = Duration::from_millis(100);

/// Delays, and the beat: how far what Clockwork measures may be from its patience.
const SLACK: Duration = Duration::from_millis(120);

impl Factory for Clockwork {
    fn name(&self) -> &'static str {
        "clockwork"
    }

    fn settings(&self) -> String {
        format!("patience {:?}", self.patience)
    }

    fn start(&self, seat: Seat) -> Box<dyn Subject> {
        watch(seat, Some(self.patience))
    }
}

impl Factory for Trusting {
    fn name(&self) -> &'static str {
        "trusting"
    }

    fn settings(&self) -> String {
        "none".to_owned()
    }

    fn limit(&self) -> Option<(usize, &'static str)> {
        Some((3, "it trusts three at the most"))
    }

    fn start(&self, seat: Seat) -> Box<dyn Subject> {
        watch(seat, None)
    }
}

fn watch(seat: Seat, patience: Option<Duration>) -> Box<dyn Subject> {
    let next = seat.now;
    Box::new(Watch { heard: vec![None; seat.members], seat, patience, next })
}

impl Subject for Watch {
    fn next_tick(&self) -> Instant {
        self.next
    }

    fn tick(&mut self, now: Instant, _rng: &mut ChaCha8Rng, out: &mut Outbox) {
        // One that was late did not listen; it believes nothing until it has.
        let late = now.since(self.next) > BEAT;
        self.next = now + BEAT;
        for other in (0..self.seat.members).filter(|other| *other != self.seat.place) {
            out.send(other, b"alive".to_vec());
            let Some(heard) = &mut self.heard[other] else { continue };
            if late {
                *heard = now;
            }
            if self.patience.is_some_and(|patience| now.since(*heard) >= patience) {
                out.believe(other, Belief::Down);
            }
        }
    }

    fn receive(
        &mut self,
        now: Instant,
        from: Place,
        content: &[u8],
        _rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        assert_eq!(content, b"alive");
        self.heard[from] = Some(now);
        out.believe(from, Belief::Up);
    }
}

const PATIENT: Clockwork = Clockwork { patience: Duration::from_secs(3) };

fn short(seed: u64, members: usize, seconds: u64) -> Course {
    let warm_up = Duration::from_secs(5);
    let length = warm_up + Duration::from_secs(seconds);
    Course { warm_up, length, ..Course::quiet(seed, members, Duration::ZERO) }
}

fn near(times: &[Duration], wanted: Duration) -> bool {
    times.iter().all(|time| *time + SLACK >= wanted && *time <= wanted + SLACK)
}

#[test]
fn what_takes_three_seconds_measures_three_seconds() {
    for seed in 0..5 {
        let course = short(seed, 4, 50).with_crash(Duration::from_secs(20));
        let found = judge::detections(&course, &arena::run(&PATIENT, &course));
        assert_eq!((found.times.len(), found.missed, found.never_back), (3, 0, 0), "seed {seed}");
        assert!(near(&found.times, PATIENT.patience), "{:?}", found.times);
        assert_eq!(found.agreements, vec![*found.times.iter().max().unwrap()]);
        assert_eq!(found.back.len(), 3);
        assert!(near(&found.back, Duration::ZERO), "{:?}", found.back);
    }
}

#[test]
fn what_never_detects_is_reported_as_such() {
    let course = short(1, 3, 50).with_crash(Duration::from_secs(20));
    let found = judge::detections(&course, &arena::run(&Trusting, &course));
    assert_eq!((found.missed, found.times.len(), found.agreements.len()), (2, 0, 0));
    // Nobody had it down, so nobody took it back.
    assert_eq!((found.back.len(), found.never_back), (0, 0));
}

#[test]
fn a_pause_that_is_longer_than_patience_is_a_mistake_of_the_rest() {
    let mut course = short(1, 4, 60);
    let paused_at = course.measured_from() + Duration::from_secs(10);
    course.incidents = vec![
        (paused_at, Incident::Pause(2)),
        (paused_at + Duration::from_secs(5), Incident::Resume(2)),
    ];
    let found = judge::mistakes(&course, &arena::run(&PATIENT, &course));
    assert_eq!(found.durations.len(), 3);
    assert!(near(&found.durations, Duration::from_secs(2)), "{:?}", found.durations);
    assert!((found.node_hours - 4.0 / 60.0).abs() < 1e-9, "{}", found.node_hours);
}

#[test]
fn a_link_that_is_cut_one_way_blinds_one_observer() {
    let course = short(3, 5, 30).with_bad_link();
    let (_, Incident::Cut(from, to)) = course.incidents[0] else { panic!("a cut") };
    let outcome = arena::run(&PATIENT, &course);
    let downs: Vec<&Change> = outcome.changes.iter().filter(|c| c.after == Belief::Down).collect();
    assert_eq!(downs.len(), 1);
    assert_eq!((downs[0].observer, downs[0].subject), (to, from));
    // It lasts until the end: 30 s less the patience.
    let found = judge::mistakes(&course, &outcome);
    assert!(near(&found.durations, Duration::from_secs(27)), "{:?}", found.durations);
}

#[test]
fn a_flapping_link_is_a_mistake_of_both_each_time() {
    let course = short(3, 5, 40).with_flapping_link(Duration::from_secs(10));
    let found = judge::mistakes(&course, &arena::run(&PATIENT, &course));
    assert_eq!(found.durations.len(), 4);
    assert!(near(&found.durations, Duration::from_secs(7)), "{:?}", found.durations);
}

#[test]
fn a_death_is_no_mistake_and_makes_right_who_was_wrong_before() {
    let mut course = short(1, 3, 100);
    let at = |seconds| course.measured_from() + Duration::from_secs(seconds);
    // Paused at 10, taken for dead by both at 13, dead at 20.
    course.incidents = vec![(at(10), Incident::Pause(1)), (at(20), Incident::Crash(1))];
    let outcome = arena::run(&PATIENT, &course);
    let found = judge::mistakes(&course, &outcome);
    assert_eq!(found.durations.len(), 2);
    assert!(near(&found.durations, Duration::from_secs(7)), "{:?}", found.durations);
    let died = judge::detections(&course, &outcome);
    assert_eq!((died.times, died.missed), (vec![Duration::ZERO; 2], 0));
}

#[test]
fn a_belief_that_is_taken_back_before_the_return_was_no_detection() {
    let course = Course {
        incidents: vec![(BEGIN + Duration::from_secs(10), Incident::Crash(1))],
        ..short(1, 2, 100)
    };
    let change = |seconds, before, after| Change {
        at: BEGIN + Duration::from_secs(seconds),
        observer: 0,
        subject: 1,
        before,
        after,
    };
    let mut outcome = Outcome { ended: course.end(), ..Outcome::default() };
    outcome.changes.push(change(12, Belief::Up, Belief::Down));
    outcome.changes.push(change(14, Belief::Down, Belief::Up));
    assert_eq!(judge::detections(&course, &outcome).missed, 1);
    outcome.changes.push(change(17, Belief::Up, Belief::Down));
    assert_eq!(judge::detections(&course, &outcome).times, [Duration::from_secs(7)]);
}

#[test]
fn loss_copies_and_bytes_are_what_the_network_says() {
    let seconds = 1_000;
    let network = Network { lost_per_mille: 50, twice_per_mille: 0 };
    let count = |network| {
        let course = Course { network, ..short(1, 2, seconds) };
        let received = std::rc::Rc::new(std::cell::Cell::new(0u64));
        let outcome = arena::run(&Counting(std::rc::Rc::clone(&received)), &course);
        (received.get(), outcome)
    };
    let (all, outcome) = count(Network::default());
    // Ten datagrams of five bytes each second, from either; the warm-up is not counted.
    let sent: Vec<u64> = outcome.traffic.iter().map(|t| t.bytes).collect();
    assert!(sent.iter().all(|bytes| bytes.abs_diff(seconds * 50) <= 5), "{sent:?}");
    assert!(outcome.traffic.iter().all(|t| t.busiest <= 55 && t.largest == 5));
    let (some, _) = count(network);
    let lost = 1.0 - some as f64 / all as f64;
    assert!((0.045..0.055).contains(&lost), "{lost}");
    let (more, _) = count(Network { lost_per_mille: 0, twice_per_mille: 100 });
    let twice = more as f64 / all as f64 - 1.0;
    assert!((0.09..0.11).contains(&twice), "{twice}");
}

/// Clockwork that counts what it receives.
struct Counting(std::rc::Rc<std::cell::Cell<u64>>);

struct Counter(Box<dyn Subject>, std::rc::Rc<std::cell::Cell<u64>>);

impl Factory for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn settings(&self) -> String {
        String::new()
    }

    fn start(&self, seat: Seat) -> Box<dyn Subject> {
        Box::new(Counter(PATIENT.start(seat), std::rc::Rc::clone(&self.0)))
    }
}

impl Subject for Counter {
    fn next_tick(&self) -> Instant {
        self.0.next_tick()
    }

    fn tick(&mut self, now: Instant, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        self.0.tick(now, rng, out);
    }

    fn receive(
        &mut self,
        now: Instant,
        from: Place,
        content: &[u8],
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        self.1.set(self.1.get() + 1);
        self.0.receive(now, from, content, rng, out);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let course = |seed| {
        let network = Network { lost_per_mille: 300, twice_per_mille: 10 };
        Course { network, ..short(seed, 4, 130) }.with_pauses(Duration::from_secs(4))
    };
    let hasty = Clockwork { patience: Duration::from_millis(180) };
    let first = arena::run(&hasty, &course(5));
    assert!(first.changes.len() > 20, "something happens");
    assert_eq!(first, arena::run(&hasty, &course(5)));
    assert_ne!(first, arena::run(&hasty, &course(6)));
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let times: Vec<Duration> = (1..=200).rev().map(Duration::from_secs).collect();
    assert_eq!(percentile(&times, 50), Some(Duration::from_secs(100)));
    assert_eq!(percentile(&times, 99), Some(Duration::from_secs(198)));
    assert_eq!(percentile(&times, 100), Some(Duration::from_secs(200)));
    assert_eq!(percentile(&times[..1], 1), Some(Duration::from_secs(200)));
    assert_eq!(percentile(&[], 50), None);
}

#[test]
fn the_rows_are_those_of_the_plan() {
    let plan = Plan { sizes: vec![3], joins: vec![3, 4], ..Plan::quick(1) };
    let plan = Plan { crash_observers: 6, node_hours: 1, ..plan };
    let tables = experiment::run(&[&PATIENT, &Trusting], &plan, &mut |_| {});
    let [ours, theirs] = &tables.crashes[..] else { panic!("one size, two subjects") };
    assert_eq!((ours.runs, ours.missed, ours.not_back), (2, 0, 0));
    assert!(ours.p50_ms.is_some_and(|ms| (2_880..3_120).contains(&ms)), "{ours:?}");
    assert_eq!((theirs.missed, theirs.p50_ms, theirs.agreed_p50_ms), (4, None, None));
    assert_eq!(tables.mistakes.len(), 12);
    let flapping = tables.mistakes.iter().find(|r| r.scenario == "flapping link").unwrap();
    // Two observers, each time that the link is cut, three times a minute for 20 minutes.
    assert_eq!((flapping.mistakes, flapping.per_node_hour), (120, 120.0));
    assert_eq!(flapping.bytes_per_s, 100);
    let complete: Vec<bool> = tables.joins.iter().map(|row| row.complete_ms.is_some()).collect();
    assert_eq!(complete, [true, true, true, false]);
    assert!(tables.joins[3].skipped.is_some());
}

#[test]
fn a_table_reads_well() {
    let crash = |members, subject, p50_ms| CrashRow {
        members,
        subject,
        runs: 100,
        p50_ms,
        p99_ms: p50_ms.map(|ms| ms + 1_111),
        max_ms: p50_ms.map(|ms| ms * 3),
        agreed_p50_ms: p50_ms,
        agreed_p99_ms: None,
        missed: 7,
        back_p50_ms: None,
        back_p99_ms: Some(59),
        not_back: 0,
    };
    let join = |members, skipped, complete_ms| JoinRow {
        members,
        subject: "late",
        skipped,
        complete_ms,
        up_percent: 99.96,
        bytes_per_s: 1_234,
        busiest_second_bytes: 9_876,
        wall_ms: 1_230,
    };
    let tables = Tables {
        seed: 1,
        subjects: vec![("late", "always 3 s".to_owned())],
        crashes: vec![
            crash(3, "late", Some(3_000)),
            crash(3, "never", None),
            crash(100, "late", Some(12_340)),
        ],
        mistakes: Vec::new(),
        joins: vec![
            join(3, None, Some(2_000)),
            join(3, Some("no room"), None),
            join(9, None, None),
        ],
    };
    let text = table::render(&tables);
    let shown: Vec<&str> = text.lines().take(20).collect();
    insta::assert_snapshot!(shown.join("\n"), @"
    Failure detectors, seed 1

    Crashes: seconds until the others know, and until they know it is back

    members  subject  runs    p50    p99    max  all p50  all p99  missed  back p50  back p99  not back
    ---------------------------------------------------------------------------------------------------
    3        late      100   3.00   4.11   9.00     3.00        -       7         -      0.05         0
             never     100      -      -      -        -        -       7         -      0.05         0
    100      late      100  12.34  13.45  37.02    12.34        -       7         -      0.05         0

    Start of all at once: seconds until everybody has everybody up, of 60 s

    members  subject          complete  up at end   B/s  max B/s  real time
    -----------------------------------------------------------------------
    3        late                 2.00     99.9 %  1234     9876     1.23 s
             late     not run: no room
    9        late          not in time     99.9 %  1234     9876     1.23 s

    late: always 3 s.
    Simulated time; one-way delays of 0.25 to 16 ms, each order of magnitude as likely.
    ");
}
