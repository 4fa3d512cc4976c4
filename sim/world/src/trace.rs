//! What happened in a run: a rolling digest over everything, counters per kind, and the events
//! themselves if they were asked for.
//!
//! The digest is the run's identity. It covers every event, whatever is kept, and depends on
//! nothing but the events: kinds enter by their names, never by address or order of first use.

use std::collections::{BTreeMap, VecDeque};

use crate::process::{MachineId, ProcessId};
use crate::world::{self, World};

/// How many events a run keeps. Digest and counters always cover all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// The last so many.
    Last(usize),
    /// All of these kinds.
    Kinds(&'static [&'static str]),
    /// All, for as long as memory lasts: about 48 bytes each.
    All,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Simulated nanoseconds since the start of the run.
    pub at_ns: u64,
    /// The process concerned; for what happens to packets, the machine that sent or received it.
    pub process: ProcessId,
    /// Its kind, a snake_case name.
    pub kind: &'static str,
    /// First number of the kind's own.
    pub a: u64,
    /// Second number of the kind's own.
    pub b: u64,
}

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    keep: Keep,
    digest: Digest,
    kinds: Vec<Kind>,
    by_name: BTreeMap<&'static str, usize>,
    recent: Vec<(usize, usize, usize)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Kind {
    name: &'static str,
    hash: u64,
    count: u64,
    /// Whether [`Keep::Kinds`] names it.
    wanted: bool,
}

/// Entries of the cache from a name's place in memory to its kind. The place decides only how
/// fast the kind is found, never which one it is.
const RECENT: usize = 64;

impl Trace {
    pub(crate) fn new(keep: Keep) -> Self {
        Self {
            keep,
            digest: Digest::new(),
            kinds: Vec::new(),
            by_name: BTreeMap::new(),
            recent: vec![(0, 0, 0); RECENT],
            events: VecDeque::new(),
        }
    }

    /// 128 bits that identify the run.
    pub fn digest(&self) -> u128 {
        self.digest.value()
    }

    /// How often each kind occurred.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.kinds.iter().map(|kind| (kind.name, kind.count)).collect()
    }

    /// How often `kind` occurred.
    pub fn count(&self, kind: &str) -> u64 {
        self.by_name.get(kind).map_or(0, |index| self.kinds[*index].count)
    }

    /// The events that were kept, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    pub(crate) fn push(&mut self, event: Event) {
        let index = self.index_of(event.kind);
        let kind = &mut self.kinds[index];
        kind.count += 1;
        let wanted = kind.wanted;
        self.digest.absorb(event.at_ns);
        let who = u64::from(event.process.machine.0) << 32 | u64::from(event.process.epoch);
        self.digest.absorb(who ^ kind.hash);
        self.digest.absorb(event.a);
        self.digest.absorb(event.b);
        match self.keep {
            Keep::Nothing => {}
            Keep::Kinds(_) if wanted => self.events.push_back(event),
            Keep::Kinds(_) => {}
            Keep::All => self.events.push_back(event),
            Keep::Last(0) => {}
            Keep::Last(limit) => {
                if self.events.len() == limit {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
        }
    }

    fn index_of(&mut self, name: &'static str) -> usize {
        let place = (name.as_ptr() as usize, name.len());
        let slot = (place.0 ^ place.0 >> 6) % RECENT;
        let (address, len, index) = self.recent[slot];
        if (address, len) == place {
            return index;
        }
        let index = self.by_name.get(name).copied().unwrap_or_else(|| {
            let wanted = matches!(self.keep, Keep::Kinds(names) if names.contains(&name));
            self.kinds.push(Kind { name, hash: hash(name), count: 0, wanted });
            self.by_name.insert(name, self.kinds.len() - 1);
            self.kinds.len() - 1
        });
        self.recent[slot] = (place.0, place.1, index);
        index
    }
}

/// Writes an event of the running process into the trace. For the world's own parts; the node
/// writes notes with [`event::note`](crate::event::note).
pub fn emit(kind: &'static str, a: u64, b: u64) {
    world::with(|w| {
        let process = w.current();
        w.emit(process, kind, a, b);
    });
}

/// Has `action` happen at the `nth` event of `kind` from now on that concerns `machine` (1: the
/// next one), right after the step that wrote it and before the task that did goes on: this is how
/// a fault is tied to an event.
///
/// # Panics
/// When `nth` is 0.
pub fn on(
    machine: MachineId,
    kind: &'static str,
    nth: u64,
    action: impl FnOnce() + Send + 'static,
) {
    assert!(nth > 0, "events are counted from 1");
    let hook = Hook { machine, kind, left: nth, action: Box::new(action) };
    world::with(|w| w.hooks.push(hook));
}

/// Something that waits for an event.
pub(crate) struct Hook {
    machine: MachineId,
    kind: &'static str,
    left: u64,
    pub(crate) action: Box<dyn FnOnce() + Send>,
}

/// The digest so far.
pub fn digest() -> u128 {
    world::with(|w| w.trace.digest())
}

/// How often `kind` has occurred so far.
pub fn count(kind: &str) -> u64 {
    world::with(|w| w.trace.count(kind))
}

impl World {
    /// Writes an event of `process`, now.
    pub(crate) fn emit(&mut self, process: ProcessId, kind: &'static str, a: u64, b: u64) {
        for hook in &mut self.hooks {
            if hook.machine == process.machine && hook.kind == kind {
                hook.left = hook.left.saturating_sub(1);
                self.hook_is_due |= hook.left == 0;
            }
        }
        let at_ns = self.now();
        self.trace.push(Event { at_ns, process, kind, a, b });
    }

    /// Takes out the hooks whose event has come.
    pub(crate) fn due_hooks(&mut self) -> Vec<Hook> {
        if !std::mem::take(&mut self.hook_is_due) {
            return Vec::new();
        }
        self.hooks.extract_if(.., |hook| hook.left == 0).collect()
    }

    /// Writes an event that concerns a machine, whatever runs on it.
    pub(crate) fn emit_of_machine(
        &mut self,
        machine: MachineId,
        kind: &'static str,
        a: u64,
        b: u64,
    ) {
        let epoch = self.machines[machine.0 as usize].epoch;
        self.emit(ProcessId { machine, epoch }, kind, a, b);
    }
}

/// Two lanes of folded multiplication: quick, and no lane forgets what it absorbed.
#[derive(Debug)]
struct Digest {
    lanes: [u64; 2],
}

impl Digest {
    const fn new() -> Self {
        Self { lanes: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344] }
    }

    const fn absorb(&mut self, word: u64) {
        self.lanes[0] = fold(self.lanes[0] ^ word, 0x9e37_79b9_7f4a_7c15).wrapping_add(word);
        self.lanes[1] = fold(self.lanes[1].wrapping_add(word), 0xd6e8_feb8_6659_fd93) ^ word;
    }

    const fn value(&self) -> u128 {
        (self.lanes[0] as u128) << 64 | self.lanes[1] as u128
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, a: u64) -> Event {
        Event { at_ns: 1, process: ProcessId::HARNESS, kind, a, b: 0 }
    }

    #[test]
    fn the_digest_covers_what_is_not_kept_and_the_order() {
        let digest = |keep, events: &[Event]| {
            let mut trace = Trace::new(keep);
            for event in events {
                trace.push(*event);
            }
            trace.digest()
        };
        let (one, two) = (event("one", 1), event("two", 2));
        let whole = digest(Keep::All, &[one, two]);
        assert_eq!(whole, digest(Keep::Nothing, &[one, two]));
        assert_eq!(whole, digest(Keep::Last(1), &[one, two]));
        assert_eq!(whole, digest(Keep::Kinds(&["two"]), &[one, two]));
        assert_ne!(whole, digest(Keep::All, &[two, one]));
        assert_ne!(whole, digest(Keep::All, &[one]));
        assert_ne!(whole, digest(Keep::All, &[one, event("two", 3)]));
    }

    #[test]
    fn chosen_kinds_are_kept_and_the_others_counted() {
        let mut trace = Trace::new(Keep::Kinds(&["two"]));
        for event in [event("one", 1), event("two", 2), event("one", 3), event("two", 4)] {
            trace.push(event);
        }
        assert_eq!(trace.events().map(|event| event.a).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((trace.count("one"), trace.count("two")), (2, 2));
    }

    #[test]
    fn a_kind_is_known_by_its_name_not_its_address() {
        let mut trace = Trace::new(Keep::Last(1));
        trace.push(event("note", 1));
        let same_name: &'static str = Box::leak(String::from("note").into_boxed_str());
        trace.push(event(same_name, 2));
        assert_eq!(trace.count("note"), 2);
        assert_eq!(trace.events().map(|event| event.a).collect::<Vec<_>>(), [2]);
    }
}
