//! What was put, and what a crash may leave of it.
//!
//! The log is one sequence, so a crash leaves a beginning of all that was done, in the order in which it
//! was done: at least through the last write that was confirmed, at most through the last one that
//! was begun. Two things are freer: a hint whose end was begun may be gone before what was done until then
//! is there, since its owner has it; and keys in doubt may hold any version that was ever put, or none; and there is no doubt where
//! nothing rotted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use starling::domain::causality::{Actor, CausalContext, Dot, NodeId};
use starling::domain::key::Key;
use starling::domain::object::{Content, Object, Sibling};

/// Every put and every hint of a run has its own, rising.
pub(super) type Version = u32;

/// Something that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Put { key: u8, version: Version },
    Remove { key: u8 },
    Hint { owner: u8, key: u8, version: Version },
    HintEnd { owner: u8, key: u8 },
}

/// What the engine holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) puts: BTreeMap<u8, Version>,
    pub(super) hints: BTreeMap<(u8, u8), Version>,
}

/// What was found in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) state: State,
    /// Keys that are in doubt.
    pub(super) doubtful: BTreeSet<u8>,
    /// Something is.
    pub(super) any_doubt: bool,
}

/// What may be found after a crash at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Expect {
    /// What is there in any case, as far as no deed changed it.
    pub(super) base: State,
    pub(super) deeds: Vec<Deed>,
    /// So many of them are durable.
    pub(super) durable: usize,
    /// Something rotted, so there may be doubt.
    pub(super) rotten: bool,
    /// The key of every version that was ever put; hints are not among them.
    pub(super) ever: BTreeMap<Version, u8>,
}

impl State {
    pub(super) fn apply(&mut self, deed: Deed) {
        match deed {
            Deed::Put { key, version } => {
                self.puts.insert(key, version);
            }
            Deed::Remove { key } => {
                self.puts.remove(&key);
            }
            Deed::Hint { owner, key, version } => {
                self.hints.insert((owner, key), version);
            }
            Deed::HintEnd { owner, key } => {
                self.hints.remove(&(owner, key));
            }
        }
    }
}

impl Expect {
    /// What reads see now.
    pub(super) fn now(&self) -> State {
        let mut state = self.base.clone();
        self.deeds.iter().for_each(|deed| state.apply(*deed));
        state
    }

    /// Says what is wrong with `found` in a living engine, if something is.
    pub(super) fn check_now(&self, found: &Found) -> Result<(), String> {
        self.check_doubt(found)?;
        differences(&self.now(), found, &[]).map_or(Ok(()), Err)
    }

    /// Says what is wrong with `found` after a crash, if something is.
    pub(super) fn check(&self, found: &Found) -> Result<(), String> {
        self.check_doubt(found)?;
        let (durable, rest) = self.deeds.split_at(self.durable);
        let mut state = self.base.clone();
        durable.iter().for_each(|deed| state.apply(*deed));
        let Some(first) = differences(&state, found, rest) else { return Ok(()) };
        for (at, deed) in rest.iter().enumerate() {
            state.apply(*deed);
            if differences(&state, found, &rest[at + 1..]).is_none() {
                return Ok(());
            }
        }
        Err(format!("confirmed and not so: {first}; begun since then: {rest:?}"))
    }

    fn check_doubt(&self, found: &Found) -> Result<(), String> {
        if found.any_doubt && !self.rotten {
            return Err("something is in doubt and nothing was damaged".to_owned());
        }
        for (key, version) in &found.state.puts {
            if self.ever.get(version) != Some(key) {
                return Err(format!("key {key} has version {version}, which was never put there"));
            }
        }
        Ok(())
    }
}

/// How `found` is not `state`; keys in doubt may be anything, and hints that end in `rest` be gone.
fn differences(state: &State, found: &Found, rest: &[Deed]) -> Option<String> {
    let vouched = |key: &u8| !found.doubtful.contains(key);
    let keys: BTreeSet<u8> = state.puts.keys().chain(found.state.puts.keys()).copied().collect();
    for key in keys.into_iter().filter(vouched) {
        let (wanted, got) = (state.puts.get(&key), found.state.puts.get(&key));
        if wanted != got {
            return Some(format!("key {key} had version {wanted:?} and has {got:?}"));
        }
    }
    let mut wanted = state.hints.clone();
    let ends = |(owner, key): (u8, u8)| rest.contains(&Deed::HintEnd { owner, key });
    wanted.retain(|hint, _| found.state.hints.contains_key(hint) || !ends(*hint));
    (wanted != found.state.hints)
        .then(|| format!("hints were {:?} and are {:?}", state.hints, found.state.hints))
}

/// The key of number `key`.
pub(super) fn key(key: u8) -> Key {
    Key::new("b", &format!("key-{key}")).expect("a short name is a key")
}

/// The name of a member.
pub(super) fn owner(owner: u8) -> String {
    format!("m{owner}")
}

/// The object of a version: it covers all lower ones, so a merge with them is this one again.
pub(super) fn object(key: u8, version: Version) -> Arc<Object> {
    let dot = |counter: u64| Dot { actor: Actor { node: NodeId(7), epoch: 1 }, counter };
    let mut seen = CausalContext::new();
    (1..u64::from(version)).for_each(|counter| seen.add(dot(counter)));
    let sibling = Sibling {
        dot: dot(version.into()),
        content: Content::Value(value(key, version)),
        written_at_ms: 1_767_225_600_000,
        expires_at_ms: None,
    };
    let mut object = Object::new();
    object.write(&seen, sibling);
    Arc::new(object)
}

/// The version of an object that is under `key`.
pub(super) fn version(key: u8, found: &Object) -> Result<Version, String> {
    let [sibling] = found.siblings() else {
        return Err(format!("key {key} holds {} siblings", found.siblings().len()));
    };
    let version = Version::try_from(sibling.dot.counter).unwrap_or(Version::MAX);
    if *found != *object(key, version.min(1 << 20)) {
        return Err(format!("key {key} holds an object that was never put: {found:?}"));
    }
    Ok(version)
}

/// Bytes that do not compress, so that tables have the size that options say, and of lengths from a
/// few bytes to some blocks.
fn value(key: u8, version: Version) -> Bytes {
    let len = [8, 40, 150, 600][version as usize % 4] + usize::from(key);
    let mut word = u64::from(version) << 8 | u64::from(key);
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}
