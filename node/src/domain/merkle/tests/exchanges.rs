//! Two replicas exchange: afterwards both hold the merge of both, whatever they held.

use std::sync::Arc;

use proptest::prelude::*;

use super::replica::{Replica, exchange, exchange_with, key, write};
use crate::domain::codec::Decoder;
use crate::domain::key::Key;
use crate::domain::merkle::answering::{self, Held};
use crate::domain::merkle::exchange::{Broken, Exchange, Step};
use crate::domain::merkle::holding::RECENT;
use crate::domain::merkle::message::{Answer, Ask, Verdict};
use crate::domain::object::Object;
use crate::runtime::time::Instant;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// One key on two replicas: what each of them holds of three writes.
#[derive(Clone, Debug)]
enum Fate {
    Same,
    OnlyHere,
    OnlyThere,
    NewerHere,
    NewerThere,
    Siblings,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Same),
        1 => Just(Fate::OnlyHere),
        1 => Just(Fate::OnlyThere),
        1 => Just(Fate::NewerHere),
        1 => Just(Fate::NewerThere),
        1 => Just(Fate::Siblings),
    ]
}

fn arrange(fates: &[Fate]) -> (Replica, Replica) {
    let (mut here, mut there) = (Replica::new(), Replica::new());
    for (number, fate) in fates.iter().enumerate() {
        let (counter, key) = (3 * number as u64, key(number as u32));
        let base = write(None, 1, counter + 1, "base");
        let newer = write(Some(&base), 1, counter + 2, "newer");
        let other = write(Some(&base), 2, counter + 1, "other");
        let (mine, theirs) = match fate {
            Fate::Same => (Some(base.clone()), Some(base)),
            Fate::OnlyHere => (Some(base), None),
            Fate::OnlyThere => (None, Some(base)),
            Fate::NewerHere => (Some(newer), Some(base)),
            Fate::NewerThere => (Some(base), Some(newer)),
            Fate::Siblings => (Some(newer), Some(other)),
        };
        mine.into_iter().for_each(|object| here.put(key.clone(), object, None));
        theirs.into_iter().for_each(|object| there.put(key.clone(), object, None));
    }
    for replica in [&mut here, &mut there] {
        *replica = Replica::of(std::mem::take(&mut replica.data));
    }
    (here, there)
}

fn merged(here: &Replica, there: &Replica) -> Vec<(Key, Arc<Object>)> {
    let mut all = here.data.clone();
    for (key, object) in &there.data {
        let merged = all.entry(key.clone()).or_default();
        Arc::make_mut(merged).merge(object);
    }
    all.into_iter().collect()
}

proptest! {
    #[test]
    fn both_hold_the_merge_afterwards(fates in prop::collection::vec(fate(), 0..300)) {
        let (mut here, mut there) = arrange(&fates);
        let expected = merged(&here, &there);
        let cost = exchange(&mut here, &mut there, NOW, false).unwrap();
        for replica in [&here, &there] {
            let held: Vec<_> = replica.data.clone().into_iter().collect();
            prop_assert_eq!(&held, &expected);
            prop_assert_eq!(replica.tree(), &replica.rebuilt());
        }
        let count = |fate: fn(&Fate) -> bool| fates.iter().filter(|f| fate(f)).count() as u64;
        let differ = count(|fate| !matches!(fate, Fate::Same));
        let twice = count(|fate| matches!(fate, Fate::Siblings));
        prop_assert_eq!(cost.objects, differ + twice, "each object goes one way, siblings go both");
        if differ == 0 {
            prop_assert_eq!((cost.round_trips, cost.read), (1, 0));
        }
    }

    #[test]
    fn a_copy_in_doubt_becomes_what_the_other_vouches_for_and_tells_nothing(
        fates in prop::collection::vec(fate(), 0..300),
        asks in any::<bool>(),
    ) {
        let (mut here, mut there) = arrange(&fates);
        let before = there.data.clone();
        here.doubtful = true;
        if asks {
            exchange(&mut here, &mut there, NOW, true).unwrap();
            prop_assert_eq!(&here.data, &before, "all else was let go");
        } else {
            exchange(&mut there, &mut here, NOW, true).unwrap();
            let mut all = before.iter();
            let has_all = all.all(|(key, o)| here.data[key].context().covers(o.context()));
            prop_assert!(has_all);
        }
        prop_assert_eq!(&there.data, &before);
        prop_assert_eq!(here.tree(), &here.rebuilt());
    }

    #[test]
    fn what_is_written_meanwhile_is_never_lost_and_heals_in_the_next(
        fates in prop::collection::vec(fate(), 1..120),
        writes in prop::collection::vec((0..140u32, any::<bool>(), 1..12u64), 0..20),
    ) {
        let (mut here, mut there) = arrange(&fates);
        let mut counter = 10_000;
        let mut newest = Vec::new();
        let meanwhile = |here: &mut Replica, there: &mut Replica, trip: u64| {
            for (number, at_here, _) in writes.iter().filter(|(_, _, at)| *at == trip) {
                counter += 1;
                let (side, node) = if *at_here { (here as &mut Replica, 3) } else { (there as &mut Replica, 4) };
                let key = key(*number);
                let new = write(side.data.get(&key).map(|old| &**old), node, counter, "meanwhile");
                newest.push((key.clone(), new.siblings().last().unwrap().dot));
                side.put(key, new, None);
            }
        };
        let first = exchange_with(&mut here, &mut there, NOW, false, meanwhile);
        prop_assert!(first.is_ok());
        exchange(&mut here, &mut there, NOW, false).unwrap();
        prop_assert_eq!(&here.data, &there.data);
        for (key, dot) in newest {
            prop_assert!(here.data[&key].context().contains(dot));
        }
    }

    #[test]
    fn bytes_from_outside_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut tagged = bytes.clone();
        for tag in 0..6 {
            tagged.insert(0, tag);
            if let Ok(ask) = Ask::decode(&mut Decoder::new(&tagged)) {
                let mut again = Vec::new();
                ask.encode(&mut again);
                prop_assert!(tagged.starts_with(&again));
            }
            if let Ok(answer) = Answer::decode(&mut Decoder::new(&tagged)) {
                let mut again = Vec::new();
                answer.encode(&mut again);
                prop_assert!(tagged.starts_with(&again));
            }
            tagged.remove(0);
        }
    }
}

#[test]
fn a_wiped_replica_gets_everything_and_one_with_everything_gives_it() {
    let (mut full, mut wiped) = arrange(&vec![Fate::OnlyHere; 3000]);
    let cost = exchange(&mut wiped, &mut full, NOW, true).unwrap();
    assert_eq!((wiped.data.len(), cost.objects), (3000, 3000));
    let mut wiped = Replica::new();
    let cost = exchange(&mut full, &mut wiped, NOW, true).unwrap();
    assert_eq!((wiped.data.len(), cost.summary.sent, cost.summary.received), (3000, 3000, 0));
    assert_eq!(wiped.data, full.data);
}

#[test]
fn many_keys_of_one_tag_are_paged() {
    let (mut here, mut there) = (Replica::new(), Replica::new());
    for number in 0..1500u64 {
        let key = Key::new("b", &format!("{{tag}}{number}")).unwrap();
        let side = if number % 3 == 0 { &mut here } else { &mut there };
        side.put(key, write(None, 1, number + 1, "v"), None);
    }
    exchange(&mut here, &mut there, NOW, false).unwrap();
    assert_eq!((here.data.len(), &here.data), (1500, &there.data));
}

#[test]
fn writes_of_a_moment_ago_are_left_out_unless_it_is_thorough() {
    for (recent_here, thorough) in [(true, false), (false, false), (true, true), (false, true)] {
        let (mut here, mut there) = arrange(&vec![Fate::Same; 20]);
        let side = if recent_here { &mut here } else { &mut there };
        side.put(key(50), write(None, 3, 1, "under way"), Some(NOW));
        let changed = write(side.data.get(&key(5)).map(|old| &**old), 3, 2, "under way");
        side.put(key(5), changed, Some(NOW));
        let cost = exchange(&mut here, &mut there, NOW, thorough).unwrap();
        let expected = if thorough { (2, 0) } else { (0, 2) };
        assert_eq!((cost.objects, cost.summary.left_out), expected, "{recent_here} {thorough}");
        let later = exchange(&mut here, &mut there, NOW + RECENT, false).unwrap();
        assert_eq!(later.objects, 2 - cost.objects, "{recent_here} {thorough}");
        assert_eq!(here.data, there.data);
    }
}

#[test]
fn an_answer_to_another_question_ends_the_exchange() {
    let (here, there) = arrange(&vec![Fate::OnlyHere; 100]);
    let (bits, hashes) = (there.tree().bits(), there.tree().children(0, 0, 4).unwrap_or(vec![0]));
    let verdict = Verdict::Differs { bits, hashes };
    let begin = || Exchange::begin(1, here.holding.tree(), &verdict, false).unwrap().unwrap();
    let tree = here.holding.tree();
    let answers = [
        Answer::Nodes(vec![1, 2, 3]),
        Answer::Roots(Vec::new()),
        Answer::Objects { objects: Vec::new(), looked_at: 9, doubtful: true },
        Answer::NotReady,
        Answer::Keys(answering::keys(&[], &[], Some(key(3)), false)),
    ];
    for answer in answers {
        let mut exchange = begin();
        assert!(matches!(exchange.step(), Step::List(_)));
        let refused = exchange.answered(here.holding.section(), tree, answer.clone());
        assert!(refused.is_err(), "{answer:?}");
    }
    let missing = Exchange::begin(1, None, &verdict, false);
    assert_eq!(missing.err(), Some(Broken::NotReady));
}

#[test]
fn an_answer_that_does_not_move_on_ends_the_exchange() {
    let (here, _) = arrange(&vec![Fate::OnlyHere; 100]);
    let verdict = Verdict::Differs { bits: 0, hashes: vec![0] };
    let mut exchange = Exchange::begin(1, here.holding.tree(), &verdict, false).unwrap().unwrap();
    let held: Vec<Held> = here
        .data
        .iter()
        .map(|(key, object)| Held {
            key: key.clone(),
            object: object.clone(),
            recent: false,
            doubtful: false,
        })
        .collect();
    let stop = held[5].key.clone();
    for expected in [Ok(()), Err(Broken::Strange)] {
        let Step::List(_) = exchange.step() else { panic!("a list comes first") };
        exchange.listed(held.clone(), false);
        let Step::Ask(Ask::Keys { .. }) = exchange.step() else { panic!("then the keys") };
        let answer = answering::keys(&[], &[], Some(stop.clone()), false);
        let told = exchange.answered(here.holding.section(), None, Answer::Keys(answer));
        assert_eq!(told, expected);
    }
}
