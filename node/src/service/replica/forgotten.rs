//! What was forgotten a moment ago.
//!
//! The home replicas of a key forget it one after the other. An exchange that runs in between finds that one of them still has
//! it and the others lack it, and would give it back to them: then it is found, waits and is proven once more, for nothing. So for a short
//! time a replica takes no object from an exchange that it has just forgotten. That loses nothing: who sends it has it, and a later
//! exchange brings it if it is still there by then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::key::Token;
use crate::runtime::time::{self, Instant};

/// For so long an object is not taken back.
const FOR: Duration = Duration::from_secs(10);
/// So many are remembered at the most.
const COUNT_MAX: usize = 4096;

/// Objects by their keys' tokens and their digests.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    until: BTreeMap<(Token, u64), Instant>,
    /// In order of time.
    order: VecDeque<(Token, u64)>,
}

impl Forgotten {
    pub(super) fn add(&mut self, token: Token, digest: u64) {
        if self.order.len() == COUNT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
        if self.until.insert((token, digest), time::now() + FOR).is_none() {
            self.order.push_back((token, digest));
        }
    }

    /// True when this object was forgotten a moment ago.
    pub(super) fn contains(&self, token: Token, digest: u64) -> bool {
        self.until.get(&(token, digest)).is_some_and(|until| time::now() < *until)
    }
}
