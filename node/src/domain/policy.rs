//! What becomes of concurrent values, a setting of each bucket.
//!
//! With [`Policy::Siblings`] all of them are kept until a client resolves them. With [`Policy::LastWrite`] one is: see
//! [`lww`](super::object::lww). Replicas that disagree on a bucket's policy would undo each other's merges and lose values,
//! so nodes compare the [digest](Policies::digest) of all policies before they talk. How contexts are [pruned](Pruning) is
//! one setting for all buckets; replicas that prune differently would never become equal, so it is in the digest too.

use std::collections::BTreeSet;

use super::key::murmur3;
use super::object::pruning::Pruning;

/// What becomes of concurrent values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Policy {
    /// All are kept.
    #[default]
    Siblings,
    /// The one with the highest stamp is kept.
    LastWrite,
}

/// The policy of every bucket, and how contexts are kept short. The same on every node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policies {
    /// All others keep siblings.
    last_write: BTreeSet<String>,
    pruning: Pruning,
}

impl Policies {
    /// Last write wins in these buckets, and in no other.
    pub fn new(last_write: impl IntoIterator<Item = String>) -> Self {
        Self { last_write: last_write.into_iter().collect(), pruning: Pruning::default() }
    }

    /// The same, with other bounds on contexts.
    pub fn with_pruning(self, pruning: Pruning) -> Self {
        Self { pruning, ..self }
    }

    /// When a context loses what it knows of old actors.
    pub fn pruning(&self) -> Pruning {
        self.pruning
    }

    /// The policy of `bucket`.
    pub fn of(&self, bucket: &str) -> Policy {
        match self.last_write.contains(bucket) {
            true => Policy::LastWrite,
            false => Policy::Siblings,
        }
    }

    /// 64 bits that tell these policies from others; 0 if every bucket keeps siblings and contexts are pruned as by default.
    pub fn digest(&self) -> u64 {
        let mut names = Vec::new();
        for name in &self.last_write {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        if self.pruning != Pruning::default() {
            // No name is empty.
            names.push(0);
            names.extend_from_slice(&(self.pruning.actors_max as u64).to_le_bytes());
            names.extend_from_slice(&self.pruning.age_s.to_le_bytes());
        }
        if names.is_empty() { 0 } else { murmur3(&names).0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(names: &[&str]) -> Policies {
        Policies::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn buckets_keep_siblings_unless_said() {
        let some = policies(&["a", "b"]);
        assert_eq!(some.of("a"), Policy::LastWrite);
        assert_eq!(some.of("c"), Policy::Siblings);
    }

    #[test]
    fn other_policies_have_another_digest() {
        assert_eq!(policies(&[]).digest(), 0);
        assert_eq!(policies(&["a", "b"]).digest(), policies(&["b", "a"]).digest());
        let all =
            [&[][..], &["a"], &["b"], &["ab"], &["a", "b"]].map(|names| policies(names).digest());
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let pruned = |actors_max, age_s| {
            policies(&["a"]).with_pruning(Pruning { actors_max, age_s }).digest()
        };
        assert_eq!(pruned(50, 86_400), policies(&["a"]).digest());
        assert_eq!(BTreeSet::from([pruned(50, 86_400), pruned(50, 1), pruned(2, 1)]).len(), 3);
    }
}
