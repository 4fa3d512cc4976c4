//! Last write wins: of concurrent siblings the one with the highest (stamp, dot) stays, the others are superseded.
//!
//! Stamps are those of a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014), one for each key: Unix
//! milliseconds of the coordinator, raised above every write that the new one covers. The dot is the clock's lower part:
//! where stamps are equal an actor's later dot is the higher, so a coordinator that writes a key many times within a
//! millisecond need not run ahead of time.
//!
//! ```text
//! the law    a write's (stamp, dot) is above that of every write in its context
//! so         an object's one sibling is the highest of all writes that its context knows
//! and merge  is (union of contexts, the higher sibling): a join of two semilattices
//! ```
//!
//! Hence merge is commutative, associative and idempotent, replicas that heard of the same writes are byte-equal, and a
//! causally later write wins whatever the clocks say: skew decides between concurrent writes alone. The law is why a
//! client's token carries the highest stamp of what it covers: its coordinator may not have heard of all that.
//! Values from before a bucket got this policy keep no such law, and compete by their coordinators' clocks.
//!
//! A token's stamp comes from outside, so it is refused if it is too far ahead of the coordinator's clock and not known
//! there: a forged one would leave no room above it. It is not clamped, which would break the law. Other replicas'
//! stamps are believed, however odd: to refuse one would keep replicas from being equal.

use super::super::causality::{CausalContext, Dot};
use super::super::policy::Policy;
use super::{Object, Sibling};

/// A token's stamp lies too far in the future.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the context is {ahead_ms} ms ahead of this node's clock: set the clocks of all nodes")]
pub struct TooFarAhead {
    /// How far.
    pub ahead_ms: u64,
}

/// What a token says: which writes it covers, and how new they are.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The writes.
    pub context: &'a CausalContext,
    /// No write in it has a higher stamp; 0 if the bucket keeps siblings.
    pub newest_ms: u64,
}

/// Whether the stamp in a token may be believed at `now_ms` by who holds `state`.
///
/// # Errors
/// [`TooFarAhead`] by more than `skew_max_ms`, and not known here.
pub fn check(
    state: Option<&Object>,
    seen: Seen<'_>,
    now_ms: u64,
    skew_max_ms: u64,
) -> Result<(), TooFarAhead> {
    let ahead_ms = seen.newest_ms.saturating_sub(now_ms);
    if ahead_ms > skew_max_ms && !knows(state, seen.context) {
        return Err(TooFarAhead { ahead_ms });
    }
    Ok(())
}

/// The stamp of a write under `dot` on `state` that covers `seen`, at `now_ms` of the coordinator's clock.
pub fn stamp(state: Option<&Object>, seen: Seen<'_>, now_ms: u64, dot: Dot) -> u64 {
    let mut stamp = now_ms;
    if let Some((ms, top)) = state.and_then(Object::highest) {
        stamp = stamp.max(if dot > top { ms } else { ms.saturating_add(1) });
    }
    if !knows(state, seen.context) {
        stamp = stamp.max(seen.newest_ms.saturating_add(1));
    }
    stamp
}

fn knows(state: Option<&Object>, context: &CausalContext) -> bool {
    state.map_or(context.is_empty(), |state| state.context.covers(context))
}

impl Object {
    /// The stamp and dot of the sibling that wins.
    fn highest(&self) -> Option<(u64, Dot)> {
        self.siblings.iter().map(rank).max()
    }

    /// The highest stamp of a sibling, in Unix milliseconds; 0 without one.
    pub fn newest_ms(&self) -> u64 {
        self.highest().map_or(0, |(ms, _)| ms)
    }

    /// [`write`](Self::write), after which one sibling is left if the last write wins. It is `new` if its stamp follows
    /// [the law](self).
    ///
    /// # Panics
    /// As it.
    pub fn write_under(
        &mut self,
        policy: Policy,
        seen: &CausalContext,
        new: Sibling,
    ) -> CausalContext {
        let context = self.write(seen, new);
        match policy {
            Policy::Siblings => context,
            Policy::LastWrite => {
                self.keep_highest();
                self.context.clone()
            }
        }
    }

    /// Merges `other`, of the same key, into `self`; true when `self` changed.
    pub fn merge_under(&mut self, policy: Policy, other: &Object) -> bool {
        match policy {
            Policy::Siblings => self.merge(other),
            Policy::LastWrite => {
                let before = (self.siblings.len(), self.highest());
                let grows = !self.context.covers(&other.context);
                if grows {
                    self.context.join(&other.context);
                }
                other.siblings.iter().for_each(|sibling| self.insert(sibling.clone()));
                self.keep_highest();
                self.check();
                grows || before != (self.siblings.len(), self.highest())
            }
        }
    }

    fn keep_highest(&mut self) {
        let highest = self.highest();
        self.siblings.retain(|sibling| Some(rank(sibling)) == highest);
    }
}

fn rank(sibling: &Sibling) -> (u64, Dot) {
    (sibling.written_at_ms, sibling.dot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::causality::{Actor, NodeId};
    use super::super::Content;
    use super::*;

    const LWW: Policy = Policy::LastWrite;

    /// A replica of one key, with a clock of its own.
    #[derive(Clone, Default)]
    struct Replica {
        held: Object,
        minted: u64,
        now_ms: u64,
    }

    /// What a client got from a replica.
    #[derive(Clone, Default)]
    struct Token(CausalContext, u64);

    impl Replica {
        fn write(&mut self, node: u64, token: &Token) -> (Sibling, Token) {
            self.minted += 1;
            let actor = Actor { node: NodeId(node), epoch: 1 };
            let dot = Dot { actor, counter: self.minted };
            let seen = Seen { context: &token.0, newest_ms: token.1 };
            let written_at_ms = stamp(Some(&self.held), seen, self.now_ms, dot);
            let content = Content::Value(format!("{node}.{}", self.minted).into());
            let new = Sibling { dot, content, written_at_ms, expires_at_ms: None };
            let context = self.held.write_under(LWW, &token.0, new.clone());
            assert_eq!(self.held.siblings(), std::slice::from_ref(&new), "the new write wins here");
            (new, Token(context, written_at_ms))
        }
    }

    /// Who does what: (replica, 0: write blindly, 1: write with the last token, 2: merge from, 3: read a token), and how far its
    /// clock jumps.
    fn histories() -> impl Strategy<Value = Vec<(usize, usize, usize, i64)>> {
        prop::collection::vec((0..3_usize, 0..4_usize, 0..3_usize, -50..50_i64), 1..60)
    }

    fn play(
        history: &[(usize, usize, usize, i64)],
    ) -> (Vec<Replica>, Vec<(Sibling, CausalContext)>) {
        let mut replicas = vec![Replica { now_ms: 1_000, ..Replica::default() }; 3];
        let mut token = Token::default();
        let mut writes = Vec::new();
        for &(at, what, other, jump) in history {
            let now_ms = replicas[at].now_ms.saturating_add_signed(jump);
            replicas[at].now_ms = now_ms;
            match what {
                0 | 1 => {
                    let with = if what == 0 { Token::default() } else { token.clone() };
                    let mut seen = replicas[at].held.context().clone();
                    seen.join(&with.0);
                    let (new, got) = replicas[at].write(at as u64, &with);
                    writes.push((new, seen));
                    token = got;
                }
                2 => {
                    let from = replicas[other].held.clone();
                    replicas[at].held.merge_under(LWW, &from);
                }
                _ => {
                    let held = &replicas[at].held;
                    token = Token(held.context().clone(), held.newest_ms());
                }
            }
        }
        (replicas, writes)
    }

    fn merged(objects: &[&Object]) -> Object {
        let mut all = Object::new();
        for object in objects {
            all.merge_under(LWW, object);
        }
        all
    }

    proptest! {
        #[test]
        fn a_causally_later_write_has_the_higher_stamp_whatever_the_clocks(history in histories()) {
            let (_, writes) = play(&history);
            for (later, seen) in &writes {
                for (earlier, _) in writes.iter().filter(|(earlier, _)| seen.contains(earlier.dot)) {
                    prop_assert!(rank(later) > rank(earlier), "{later:?} covers {earlier:?}");
                }
            }
        }

        #[test]
        fn merge_is_a_join_and_keeps_the_highest_write(history in histories()) {
            let (replicas, writes) = play(&history);
            let [a, b, c] = [0, 1, 2].map(|at: usize| &replicas[at].held);
            prop_assert_eq!(merged(&[a, b]), merged(&[b, a]));
            prop_assert_eq!(merged(&[&merged(&[a, b]), c]), merged(&[a, &merged(&[b, c])]));
            prop_assert_eq!(&merged(&[a, a]), a);
            let all = merged(&[a, b, c]);
            prop_assert!(all.siblings().len() <= 1);
            // The highest of all that were ever written is what all see in the end.
            let highest = writes.iter().map(|(new, _)| rank(new)).max();
            prop_assert_eq!(all.highest(), highest);
            // A merge without the policy, as hints go through on their way, loses nothing of it.
            let mut plain = a.clone();
            plain.merge(b);
            prop_assert_eq!(merged(&[&plain, c]), all);
        }
    }

    #[test]
    fn a_merge_says_whether_anything_changed() {
        let (mut one, mut other) = (Replica::default(), Replica::default());
        one.write(1, &Token::default());
        let mut held = one.held.clone();
        assert!(!held.merge_under(LWW, &one.held));
        other.now_ms = 5;
        other.write(2, &Token::default());
        assert!(held.merge_under(LWW, &other.held));
        assert!(!held.merge_under(LWW, &other.held));
        assert!(!held.merge_under(LWW, &one.held));
        assert_eq!(held.siblings(), other.held.siblings());
    }

    #[test]
    fn a_stamp_from_too_far_ahead_is_refused_unless_it_is_known_here() {
        let mut fast = Replica { now_ms: 9_000, ..Replica::default() };
        let (_, token) = fast.write(1, &Token::default());
        let seen = Seen { context: &token.0, newest_ms: token.1 };
        assert_eq!(check(None, seen, 1_000, 7_999), Err(TooFarAhead { ahead_ms: 8_000 }));
        assert_eq!(check(None, seen, 1_000, 8_000), Ok(()));
        assert_eq!(check(Some(&fast.held), seen, 1_000, 0), Ok(()));
    }
}
