//! What this copy of the data cannot vouch for: ranges of tokens in which a file was damaged or
//! missing, so that writes which were confirmed may be gone.
//!
//! In such a range "not found" proves nothing, an object may be an older one than was confirmed, and a
//! write must be minted with a fresh actor. A range leaves the set when somebody has exchanged it
//! with every other live home replica ([`Engine::trust`](super::Engine::trust)); a write alone
//! clears nothing, since it was merged with what is known here, which may lack something.
//!
//! Ranges are of tokens, not keys, so that a partition can be cut out of one exactly.
//!
//! Invariants: ranges are sorted, and neither overlap nor touch; there are never more than
//! [`RANGES_MAX`]: past that the two nearest become one, which doubts more than it must, never less.

use crate::domain::key::{Key, Token};

/// More ranges than this are joined. Each is 16 bytes in the manifest.
pub(super) const RANGES_MAX: usize = 4096;

/// All tokens from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange {
    /// The lowest token.
    pub first: Token,
    /// The highest token, not below the first.
    pub last: Token,
}

impl TokenRange {
    /// The whole ring.
    pub const ALL: Self = Self { first: Token(0), last: Token(u64::MAX) };

    /// The tokens of all keys from `first` to `last`.
    pub fn of_keys(first: &Key, last: &Key) -> Self {
        Self { first: first.token(), last: last.token() }
    }

    /// True when `token` lies in it.
    pub fn contains(&self, token: Token) -> bool {
        self.first <= token && token <= self.last
    }

    /// True when some token lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A set of tokens, as few ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Doubts {
    ranges: Vec<TokenRange>,
}

impl Doubts {
    pub(super) fn ranges(&self) -> &[TokenRange] {
        &self.ranges
    }

    pub(super) fn contains(&self, token: Token) -> bool {
        let at = self.ranges.partition_point(|range| range.last < token);
        self.ranges.get(at).is_some_and(|range| range.contains(token))
    }

    /// True when all of `range` is in the set.
    pub(super) fn covers(&self, range: TokenRange) -> bool {
        let at = self.ranges.partition_point(|held| held.last < range.first);
        self.ranges
            .get(at)
            .is_some_and(|held| held.contains(range.first) && held.contains(range.last))
    }

    /// Adds the tokens of `range`.
    pub(super) fn add(&mut self, range: TokenRange) {
        assert!(range.first <= range.last, "{range:?} is no range");
        let mut new = range;
        // Those that touch it become part of it.
        self.ranges.retain(|held| {
            let apart = held.last.0 < new.first.0.saturating_sub(1)
                || held.first.0.saturating_sub(1) > new.last.0;
            if !apart {
                new.first = new.first.min(held.first);
                new.last = new.last.max(held.last);
            }
            apart
        });
        let at = self.ranges.partition_point(|held| held.last < new.first);
        self.ranges.insert(at, new);
        if self.ranges.len() > RANGES_MAX {
            self.join_nearest();
        }
    }

    /// Takes the tokens of `range` out.
    pub(super) fn remove(&mut self, range: TokenRange) {
        assert!(range.first <= range.last, "{range:?} is no range");
        let mut left = Vec::with_capacity(self.ranges.len() + 1);
        for held in &self.ranges {
            if !held.overlaps(&range) {
                left.push(*held);
                continue;
            }
            if held.first < range.first {
                left.push(TokenRange { first: held.first, last: Token(range.first.0 - 1) });
            }
            if held.last > range.last {
                left.push(TokenRange { first: Token(range.last.0 + 1), last: held.last });
            }
        }
        self.ranges = left;
        if self.ranges.len() > RANGES_MAX {
            self.join_nearest();
        }
    }

    fn join_nearest(&mut self) {
        let gap = |at: &usize| self.ranges[at + 1].first.0 - self.ranges[*at].last.0;
        if let Some(at) = (0..self.ranges.len() - 1).min_by_key(gap) {
            self.ranges[at].last = self.ranges[at + 1].last;
            self.ranges.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64) -> TokenRange {
        TokenRange { first: Token(first), last: Token(last) }
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_tokens(
            steps in prop::collection::vec((any::<bool>(), 0..60u64, 0..12u64), 0..40),
        ) {
            let mut doubts = Doubts::default();
            let mut model = [false; 80];
            for (add, first, more) in steps {
                let last = first + more;
                if add { doubts.add(range(first, last)) } else { doubts.remove(range(first, last)) }
                model[first as usize..=last as usize].fill(add);
                for (token, expected) in model.iter().enumerate() {
                    prop_assert_eq!(doubts.contains(Token(token as u64)), *expected);
                }
                let apart = doubts.ranges().windows(2).all(|w| w[0].last.0 + 1 < w[1].first.0);
                prop_assert!(apart, "{:?}", doubts);
                let all = model[first as usize..=last as usize].iter().all(|held| *held);
                prop_assert_eq!(doubts.covers(range(first, last)), all);
            }
        }
    }

    #[test]
    fn the_ends_of_the_ring_are_tokens_too() {
        let mut doubts = Doubts::default();
        doubts.add(TokenRange::ALL);
        doubts.remove(range(0, 0));
        doubts.remove(range(u64::MAX, u64::MAX));
        assert_eq!(doubts.ranges(), [range(1, u64::MAX - 1)]);
        doubts.remove(TokenRange::ALL);
        assert!(doubts.ranges().is_empty());
    }

    #[test]
    fn past_the_limit_it_doubts_more_never_less() {
        let mut doubts = Doubts::default();
        for n in 0..RANGES_MAX as u64 + 10 {
            doubts.add(range(n * 10, n * 10 + 1));
        }
        assert_eq!(doubts.ranges().len(), RANGES_MAX);
        for n in 0..RANGES_MAX as u64 + 10 {
            assert!(doubts.covers(range(n * 10, n * 10 + 1)));
        }
    }
}
