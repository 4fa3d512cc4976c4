//! A tree that is built while writes go on is the tree of what is there in the end.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;

use super::replica::{Replica, key, rebuilt, section, write};
use crate::domain::key::Key;
use crate::domain::merkle::holding::{Holding, Progress, RECENT, RECENT_MAX};
use crate::domain::merkle::tree::{BITS_MIN, LEAF_KEYS};
use crate::domain::object::Object;
use crate::runtime::time::Instant;

/// What happens at one moment of a build.
#[derive(Clone, Debug)]
enum Event {
    Write(u32),
    PageBegins,
    /// The scan looks at the data, so many keys.
    Look(usize),
    PageEnds,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..60u32).prop_map(Event::Write),
        2 => Just(Event::PageBegins),
        2 => (1..8usize).prop_map(Event::Look),
        2 => Just(Event::PageEnds),
    ]
}

#[derive(Default)]
struct Stage {
    data: BTreeMap<Key, Arc<Object>>,
    writes: u64,
    from: Option<Bound<Key>>,
    page: Option<Vec<(Key, u64)>>,
}

impl Stage {
    fn write(&mut self, holding: &mut Holding, number: u32) {
        self.writes += 1;
        let key = key(number);
        let old = self.data.get(&key).cloned();
        let new = write(old.as_deref(), 1, self.writes, "v");
        holding.change(&key, (old.map(|old| old.digest()), Some(new.digest())), None);
        self.data.insert(key, Arc::new(new));
    }

    fn look(&mut self, count: usize) {
        if let (Some(from), None) = (&self.from, &self.page) {
            let range = self.data.range((from.clone(), Bound::Unbounded)).take(count);
            self.page = Some(range.map(|(key, object)| (key.clone(), object.digest())).collect());
        }
    }

    fn end(&mut self, holding: &mut Holding) -> Progress {
        let Some(page) = self.page.take() else { return Progress::Reading };
        self.from = None;
        holding.page_ends(&page)
    }
}

proptest! {
    #[test]
    fn a_build_among_writes_is_the_tree_of_what_is_there(
        before in prop::collection::vec(0..60u32, 0..40),
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut holding = Holding::new(section());
        let mut stage = Stage::default();
        before.into_iter().for_each(|number| stage.write(&mut holding, number));
        holding.begin(0);
        let mut ready = false;
        for event in events {
            match event {
                Event::Write(number) => stage.write(&mut holding, number),
                Event::PageBegins if stage.from.is_none() => stage.from = holding.page_begins(),
                Event::PageBegins => {}
                Event::Look(count) => stage.look(count),
                Event::PageEnds => ready |= stage.end(&mut holding) == Progress::Ready,
            }
        }
        while !ready {
            if stage.from.is_none() {
                stage.from = holding.page_begins();
            }
            stage.look(3);
            ready = stage.end(&mut holding) == Progress::Ready;
        }
        let tree = holding.tree().unwrap();
        prop_assert_eq!(tree, &rebuilt(stage.data.iter(), tree.bits()));
        stage.write(&mut holding, 7);
        let tree = holding.tree().unwrap();
        prop_assert_eq!(tree, &rebuilt(stage.data.iter(), tree.bits()));
    }
}

#[test]
fn a_tree_that_is_too_small_stays_in_use_while_a_deeper_one_is_built() {
    let mut replica = Replica::new();
    let most = (LEAF_KEYS << BITS_MIN) as u32;
    for number in 0..most {
        replica.put(key(number), write(None, 1, u64::from(number) + 1, "v"), None);
    }
    assert!(!replica.holding.wants_build());
    replica.put(key(most), write(None, 1, u64::from(most) + 1, "v"), None);
    assert!(replica.holding.wants_build());
    replica.holding.begin(0);
    let root = replica.tree().root();
    assert!(replica.holding.page_begins().is_some());
    let page: Vec<(Key, u64)> =
        replica.data.iter().map(|(key, object)| (key.clone(), object.digest())).collect();
    assert_eq!(replica.holding.page_ends(&page), Progress::Reading);
    assert_eq!((replica.tree().bits(), replica.tree().root()), (BITS_MIN, root));
    assert!(replica.holding.page_begins().is_some());
    assert_eq!(replica.holding.page_ends(&[]), Progress::Ready);
    assert_eq!((replica.tree().bits(), replica.tree().root()), (11, root));
    assert!(!replica.holding.wants_build());
}

#[test]
fn a_build_that_was_given_up_makes_no_tree() {
    let mut holding = Holding::new(section());
    assert!(holding.page_begins().is_none(), "nothing is being built");
    holding.begin(0);
    assert!(holding.page_begins().is_some());
    holding.distrust();
    assert_eq!(holding.page_ends(&[]), Progress::GivenUp);
    assert!(holding.tree().is_none() && holding.wants_build());
}

#[test]
fn recent_writes_are_remembered_for_a_while_and_are_few() {
    let mut holding = Holding::empty(section());
    let now = Instant::from_nanos(1);
    holding.change(&key(1), (None, Some(1)), Some(now));
    holding.change(&key(2), (None, Some(1)), None);
    assert!(holding.is_recent(now, &key(1)));
    assert!(!holding.is_recent(now, &key(2)), "it came from an exchange");
    assert!(!holding.is_recent(now + RECENT, &key(1)));
    for number in 0..RECENT_MAX as u32 {
        holding.change(&key(100 + number), (None, Some(1)), Some(now));
    }
    assert!(!holding.is_recent(now, &key(1)), "it was pushed out");
    assert!(holding.is_recent(now, &key(100)));
}
