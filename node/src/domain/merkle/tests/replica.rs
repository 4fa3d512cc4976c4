//! A replica in memory that can exchange with another one, and counts what that takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
use crate::domain::codec::Decoder;
use crate::domain::key::{Key, Token};
use crate::domain::merkle::answering::{self, Held};
use crate::domain::merkle::exchange::{Broken, Exchange, Step, Summary};
use crate::domain::merkle::message::{Answer, Ask, KEYS_MAX, Region, Root, Verdict};
use crate::domain::merkle::tree::{Tree, bits_for};
use crate::domain::merkle::vouching::{self, Settled, Testimony};
use crate::domain::merkle::{Section, digest, holding::Holding};
use crate::domain::object::{Content, Object, Sibling};
use crate::domain::policy::Policy;
use crate::runtime::time::Instant;

/// One partition, the whole ring.
pub(super) fn section() -> Section {
    Section::new(Token(0), Token(u64::MAX))
}

pub(super) fn key(number: u32) -> Key {
    Key::new("b", &format!("k{number}")).unwrap()
}

/// `seen` replaced by a write of `node`, its `counter`th.
pub(super) fn write(seen: Option<&Object>, node: u64, counter: u64, value: &str) -> Object {
    let dot = Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter };
    let content = Content::Value(value.as_bytes().to_vec().into());
    let new = Sibling { dot, content, written_at_ms: counter, expires_at_ms: None };
    let mut object = seen.cloned().unwrap_or_default();
    let context = seen.map_or_else(CausalContext::new, |object| object.context().clone());
    object.write(&context, new);
    object
}

/// What an exchange took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) round_trips: u64,
    pub(super) bytes: u64,
    pub(super) objects: u64,
    /// Entries read from the data, on both sides.
    pub(super) read: u64,
    pub(super) summary: Summary,
}

#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) data: BTreeMap<Key, Arc<Object>>,
    pub(super) holding: Holding,
    /// It is in doubt, and nothing in it is fresh.
    pub(super) doubtful: bool,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self { data: BTreeMap::new(), holding: Holding::empty(section()), doubtful: false }
    }

    /// Of `data`, with the tree that a scan makes.
    pub(super) fn of(data: BTreeMap<Key, Arc<Object>>) -> Self {
        let mut holding = Holding::new(section());
        holding.begin(data.len() as u64);
        let page: Vec<(Key, u64)> = data.iter().map(|(k, o)| (k.clone(), o.digest())).collect();
        for page in page.chunks(100_000).chain([&[][..]]) {
            holding.page_begins().unwrap();
            holding.page_ends(page);
        }
        Self { data, holding, doubtful: false }
    }

    pub(super) fn put(&mut self, key: Key, object: Object, recent_at: Option<Instant>) {
        let old = self.data.get(&key).map(|object| object.digest());
        self.holding.change(&key, (old, Some(object.digest())), recent_at);
        self.data.insert(key, Arc::new(object));
    }

    /// Merges, and returns the result.
    pub(super) fn merge(&mut self, key: &Key, object: &Object) -> Arc<Object> {
        let mut merged = self.data.get(key).map(|object| Object::clone(object)).unwrap_or_default();
        if merged.merge(object) {
            self.put(key.clone(), merged, None);
        }
        self.data[key].clone()
    }

    /// Puts what `other` vouches for in the place of what is under `key`.
    fn settle(&mut self, key: &Key, other: &Self) {
        let object = other.data.get(key).filter(|_| !other.doubtful);
        let object = object.map(|object| Object::clone(object));
        let testimony = Testimony { doubtful: other.doubtful, object };
        let old = self.data.remove(key).expect("what is settled is held");
        let Settled { keep, tell } = vouching::settle(Policy::Siblings, &old, &[testimony], None);
        assert!(tell.is_empty() || other.doubtful, "{tell:?}");
        let new = (!keep.is_empty()).then(|| keep.digest());
        self.holding.change(key, (Some(old.digest()), new), None);
        if new.is_some() {
            self.data.insert(key.clone(), Arc::new(keep));
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        self.holding.tree().unwrap()
    }

    /// The tree, made anew.
    pub(super) fn rebuilt(&self) -> Tree {
        rebuilt(self.data.iter(), self.tree().bits())
    }

    fn held(&self, now: Instant, region: &Region) -> (Vec<Held>, bool) {
        let mut held = Vec::new();
        for (first, last) in &region.spans {
            let (first, last) = section().tokens_of(region.level, *first, *last);
            let mut range =
                self.data.range((Bound::Included(Key::lowest(first)), Bound::Unbounded));
            for (key, object) in range.by_ref() {
                if key.token() > last || region.through.as_ref().is_some_and(|to| key > to) {
                    break;
                }
                if region.after.as_ref().is_some_and(|after| key <= after) {
                    continue;
                }
                if held.len() == KEYS_MAX {
                    return (held, true);
                }
                let recent = self.holding.is_recent(now, key);
                let doubtful = self.doubtful;
                held.push(Held { key: key.clone(), object: object.clone(), recent, doubtful });
            }
        }
        (held, false)
    }

    /// Answers as a node would.
    fn answer(&mut self, now: Instant, ask: Ask, cost: &mut Cost) -> Answer {
        match ask {
            Ask::Roots { roots, .. } => {
                let mut room = 1024;
                let tree = self.holding.tree();
                let verdicts = roots.iter().map(|asked| answering::root(tree, *asked, &mut room));
                Answer::Roots(verdicts.collect())
            }
            Ask::Nodes { level, to, parents, .. } => {
                answering::nodes(self.holding.tree(), level, to, &parents)
                    .map_or(Answer::NotReady, Answer::Nodes)
            }
            Ask::Keys { thorough, region, entries, .. } => {
                let (held, cut) = self.held(now, &region);
                cost.read += held.len() as u64;
                let cut = held.last().filter(|_| cut).map(|held| held.key.clone());
                let answer = answering::keys(&entries, &held, cut, thorough);
                cost.objects += answer.fresh.len() as u64;
                Answer::Keys(answer)
            }
            Ask::Objects { put, get, .. } => {
                let mut objects = Vec::new();
                for (key, object) in put {
                    cost.objects += 1;
                    let merged = self.merge(&key, &object);
                    if merged != object && !self.doubtful {
                        objects.push((key, merged));
                    }
                }
                // Two at a time, so that the rest is asked for again.
                let looked_at = get.len().min(2) as u32;
                let got = get
                    .iter()
                    .take(2)
                    .filter(|_| !self.doubtful)
                    .filter_map(|key| Some((key.clone(), self.data.get(key)?.clone())));
                objects.extend(got);
                cost.objects += objects.len() as u64;
                Answer::Objects { objects, looked_at, doubtful: self.doubtful }
            }
        }
    }
}

pub(super) fn rebuilt<'a>(
    data: impl Iterator<Item = (&'a Key, &'a Arc<Object>)>,
    bits: u8,
) -> Tree {
    let mut tree = Tree::new(bits);
    for (key, object) in data {
        tree.change(section().node_of(key.token(), bits), None, Some(digest(key, object)));
    }
    tree
}

/// The depth of the tree of so many keys, for tests that build one by hand.
pub(super) fn depth(keys: usize) -> u8 {
    bits_for(keys as u64)
}

/// Has `asker` exchange with `other`, through the bytes of the messages.
pub(super) fn exchange(
    asker: &mut Replica,
    other: &mut Replica,
    now: Instant,
    thorough: bool,
) -> Result<Cost, Broken> {
    exchange_with(asker, other, now, thorough, |_, _, _| {})
}

/// [`exchange`], with `meanwhile` after each question.
pub(super) fn exchange_with(
    asker: &mut Replica,
    other: &mut Replica,
    now: Instant,
    thorough: bool,
    mut meanwhile: impl FnMut(&mut Replica, &mut Replica, u64),
) -> Result<Cost, Broken> {
    let mut cost = Cost::default();
    let tree = asker.tree();
    let root = Root { partition: 7, bits: tree.depth(), root: tree.root() };
    let ask = Ask::Roots { thorough, roots: vec![root] };
    let Answer::Roots(mut verdicts) = call(other, now, &ask, &mut cost) else {
        panic!("no answer to roots")
    };
    let verdict = verdicts.remove(0);
    if verdict == Verdict::Equal {
        return Ok(cost);
    }
    let begun = Exchange::begin(7, asker.holding.tree(), &verdict, thorough)?;
    let mut exchange = begun.expect("roots that differ");
    for _ in 0..1_000_000 {
        match exchange.step() {
            Step::Ask(ask) => {
                let answer = call(other, now, &ask, &mut cost);
                meanwhile(asker, other, cost.round_trips);
                exchange.answered(&section(), asker.holding.tree(), answer)?;
            }
            Step::List(region) => {
                let (held, cut) = asker.held(now, &region);
                cost.read += held.len() as u64;
                exchange.listed(held, cut);
            }
            Step::Merge(objects) => {
                for (key, object) in objects {
                    asker.merge(&key, &object);
                }
            }
            Step::Settle(keys) => keys.iter().for_each(|key| asker.settle(key, other)),
            Step::Done => {
                cost.summary = exchange.summary();
                return Ok(cost);
            }
        }
    }
    panic!("the exchange does not end")
}

fn call(other: &mut Replica, now: Instant, ask: &Ask, cost: &mut Cost) -> Answer {
    let mut bytes = Vec::new();
    ask.encode(&mut bytes);
    let mut from = Decoder::new(&bytes);
    let heard = Ask::decode(&mut from).unwrap();
    assert_eq!((&heard, from.remaining()), (ask, 0));
    let answer = other.answer(now, heard, cost);
    let mut back = Vec::new();
    answer.encode(&mut back);
    let mut from = Decoder::new(&back);
    assert_eq!(Answer::decode(&mut from).as_ref(), Ok(&answer));
    cost.round_trips += 1;
    cost.bytes += (bytes.len() + back.len()) as u64;
    answer
}
