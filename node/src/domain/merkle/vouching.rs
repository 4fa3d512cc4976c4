//! What a copy in doubt may tell others, and what becomes of what they do not know.
//!
//! A folder that was rolled back, restored or damaged may bring an old value to light whose tombstone was
//! [forgotten](crate::domain::forgetting) meanwhile. Nothing about the value tells it from a write that nobody else has heard of. So:
//!
//! - A copy in doubt sends nothing of what it holds, but what this node has minted since the doubt began, or was sent by whoever
//!   minted it, read it from copies that are not in doubt, or kept it as a hint: the *fresh* writes. They
//!   are kept beside the copy as well, each with all that its writer had seen, as a fallback would keep them: as a hint, for the
//!   copy itself. So they outlive the process, and others hear what each replaced. They end once the copy is trusted. In an
//!   exchange a copy in doubt takes what the other side has, and keeps back what the other side has not seen.
//! - What is kept back is settled before the exchange ends, and so before the copy is trusted: all live home replicas are asked for it.
//!   What one of them vouches for stays, and they bring it to each other; the rest is let go.
//! - A copy that is in doubt itself vouches for its fresh writes alone. Where nobody is who is not in doubt (a new cluster, or
//!   one whose folders were all restored), nobody denies anything: then everything counts, as it did before there was forgetting.
//!
//! No acked write is lost by that while fewer than W replicas were hit. Its coordinator has it: as its own copy, or as a hint for
//! itself or for another; and so has one more of the W that acked, unless it was hit too. This copy was hit: what it let go it might as well have lost.
//! What it acked while it was in doubt it keeps as fresh.

use crate::domain::object::Object;
use crate::domain::policy::Policy;

/// What one other live home replica says about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Its copy is in doubt: what it says is what it has written since, and what it does not say proves nothing.
    pub doubtful: bool,
    /// What it vouches for; `None`: nothing.
    pub object: Option<Object>,
}

/// What is to become of an object that was kept back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What takes its place here; empty: nothing does.
    pub keep: Object,
    /// What the others are to hear of it; empty: nothing.
    pub tell: Object,
}

/// Settles `own`, which this copy in doubt holds of a key of a bucket with this policy, with what all other live home replicas say.
/// `fresh`: what was written here of the key since the doubt began.
pub fn settle(
    policy: Policy,
    own: &Object,
    others: &[Testimony],
    fresh: Option<&Object>,
) -> Settled {
    if others.iter().all(|other| other.doubtful) {
        let mut keep = own.clone();
        others.iter().filter_map(|other| other.object.as_ref()).for_each(|object| {
            keep.merge_under(policy, object);
        });
        return Settled { tell: keep.clone(), keep };
    }
    let tell = fresh.cloned().unwrap_or_default();
    let mut keep = tell.clone();
    for object in others.iter().filter_map(|other| other.object.as_ref()) {
        keep.merge_under(policy, object);
    }
    Settled { keep, tell }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
    use crate::domain::object::{Content, Sibling};

    /// Node, epoch and counter.
    type Name = (u64, u64, u64);

    fn dot((node, epoch, counter): Name) -> Dot {
        Dot { actor: Actor { node: NodeId(node), epoch }, counter }
    }

    /// Writes of these dots, each on top of those before it that `seen` names.
    fn object(writes: &[(Name, &[Name])]) -> Object {
        let mut object = Object::new();
        for (write, seen) in writes {
            let mut context = CausalContext::new();
            seen.iter().for_each(|seen| context.add(dot(*seen)));
            let content = Content::Value(format!("{write:?}").into());
            let new = Sibling { dot: dot(*write), content, written_at_ms: 0, expires_at_ms: None };
            object.write(&context, new);
        }
        object
    }

    fn says(object: Option<&Object>) -> Testimony {
        Testimony { doubtful: false, object: object.cloned() }
    }

    fn doubts(object: Option<&Object>) -> Testimony {
        Testimony { doubtful: true, object: object.cloned() }
    }

    const OLD: Name = (2, 1, 1);
    const NEW: Name = (3, 1, 1);
    const OWN: Name = (1, 5, 1);

    #[test]
    fn what_nobody_vouches_for_is_let_go() {
        let (old, new) = (object(&[(OLD, &[])]), object(&[(NEW, &[])]));
        let settled = settle(Policy::Siblings, &old, &[says(None), says(None)], None);
        assert_eq!(settled, Settled { keep: Object::new(), tell: Object::new() });
        // The key was forgotten and written again: the old value is still no sibling of the new one.
        let mut both = old.clone();
        both.merge(&new);
        let settled = settle(Policy::Siblings, &both, &[says(None), says(Some(&new))], None);
        assert_eq!(settled, Settled { keep: new.clone(), tell: Object::new() });
        // One who is in doubt does not deny, one who is not does.
        let settled = settle(Policy::Siblings, &old, &[doubts(None), says(None)], None);
        assert_eq!(settled.keep, Object::new());
    }

    #[test]
    fn what_one_vouches_for_stays_and_is_for_that_one_to_tell() {
        let old = object(&[(OLD, &[])]);
        let settled = settle(Policy::Siblings, &old, &[says(None), says(Some(&old))], None);
        assert_eq!(settled, Settled { keep: old.clone(), tell: Object::new() });
        // The fresh part of a copy in doubt as well.
        let settled = settle(Policy::Siblings, &old, &[says(None), doubts(Some(&old))], None);
        assert_eq!(settled.keep, old);
    }

    #[test]
    fn what_was_minted_since_is_kept_and_told_without_the_rest() {
        let own = object(&[(OLD, &[]), (OWN, &[])]);
        let fresh = object(&[(OWN, &[])]);
        let settled = settle(Policy::Siblings, &own, &[says(None)], Some(&fresh));
        assert_eq!(settled, Settled { keep: fresh.clone(), tell: fresh });
        // A fresh write that was replaced since stays replaced.
        let own = object(&[(OWN, &[]), ((1, 5, 2), &[OWN])]);
        let others = [says(Some(&object(&[(OWN, &[])])))];
        let settled = settle(Policy::Siblings, &own, &others, Some(&own));
        assert_eq!(settled.keep, own);
    }

    /// Seed 75000829: what is told of a fresh write says what it replaced, wherever that is.
    #[test]
    fn what_a_fresh_write_replaced_is_replaced_everywhere() {
        let own = object(&[(OLD, &[]), (OWN, &[OLD])]);
        let settled =
            settle(Policy::Siblings, &own, &[says(Some(&object(&[(OLD, &[])])))], Some(&own));
        assert_eq!(settled, Settled { keep: own.clone(), tell: own.clone() });
        let mut other = object(&[(OLD, &[]), (NEW, &[])]);
        other.merge(&settled.tell);
        let dots: Vec<Dot> = other.siblings().iter().map(|sibling| sibling.dot).collect();
        assert_eq!(dots, [dot(OWN), dot(NEW)]);
    }

    #[test]
    fn where_all_are_in_doubt_everything_counts() {
        let (old, new) = (object(&[(OLD, &[])]), object(&[(NEW, &[])]));
        let settled = settle(Policy::Siblings, &old, &[doubts(None), doubts(Some(&new))], None);
        assert_eq!(settled.keep.siblings().len(), 2);
        assert_eq!(settled.keep, settled.tell);
        assert_eq!(settle(Policy::Siblings, &old, &[], None).keep, old);
    }
}
