//! How many replies make an answer: consistency levels, and the tallies of one request.
//!
//! The coordinator tells the story (sends, waits, gives up); the tally decides whether there are
//! enough replies, what the answer is and whom to repair. Each request has a tally of its own.
//!
//! Sources: DeCandia et al., "Dynamo" (2007), section 4.5; Riak's get and put cores.

use std::fmt;
use std::sync::Arc;

use super::object::Object;
use super::policy::Policy;
use super::ring::NodeIndex;

/// How many of N replicas must answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Level {
    /// One replica.
    One,
    /// More than half: N/2 + 1.
    Quorum,
    /// Every replica.
    All,
    /// Exactly so many.
    Count(u8),
}

/// A level that no request can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one, quorum, all or a number from 1 to {n}")]
pub struct LevelError {
    /// Replicas of each key.
    pub n: u8,
}

impl Level {
    /// Reads `one`, `quorum`, `all` or a number.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "one" => Some(Self::One),
            "quorum" => Some(Self::Quorum),
            "all" => Some(Self::All),
            number => number.parse().ok().map(Self::Count),
        }
    }

    /// The number that the level means with `n` replicas.
    ///
    /// # Errors
    /// [`LevelError`] for a number outside 1..=n.
    pub fn of(self, n: u8) -> Result<u8, LevelError> {
        match self {
            Self::One => Ok(1),
            Self::Quorum => Ok(n / 2 + 1),
            Self::All => Ok(n),
            Self::Count(count) if (1..=n).contains(&count) => Ok(count),
            Self::Count(_) => Err(LevelError { n }),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Too few replies so far, and enough may still come.
    Waiting,
    /// Enough.
    Met,
    /// Enough can't come any more.
    Unmeetable,
}

/// Counts the acks of one write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteTally {
    /// W.
    pub required: u8,
    /// Replicas that hold the write durably by their own sync policy.
    pub received: u8,
    /// Of these, fallbacks that hold it with a hint.
    pub hinted: u8,
    outstanding: u8,
}

impl WriteTally {
    /// A write that needs `required` acks out of `asked` replicas.
    pub fn new(required: u8, asked: u8) -> Self {
        assert!(required >= 1, "a write needs at least one ack");
        Self { required, received: 0, hinted: 0, outstanding: asked }
    }

    /// One replica holds the write.
    pub fn ack(&mut self) {
        assert!(self.outstanding > 0, "more replies than requests: {self:?}");
        self.outstanding -= 1;
        self.received += 1;
    }

    /// One fallback holds the write, with a hint.
    pub fn ack_hinted(&mut self) {
        self.ack();
        self.hinted += 1;
    }

    /// One replica refused, or will not answer.
    pub fn fail(&mut self) {
        assert!(self.outstanding > 0, "more replies than requests: {self:?}");
        self.outstanding -= 1;
    }

    /// Where the write stands.
    pub fn standing(&self) -> Standing {
        standing(self.required, self.received, self.outstanding)
    }
}

/// Gathers the replies to one read.
#[derive(Debug)]
pub struct ReadTally {
    required: u8,
    outstanding: u8,
    replies: Vec<(NodeIndex, Option<Arc<Object>>)>,
    /// Who cannot vouch for its copy, and the digest of what is left of it.
    doubtful: Vec<(NodeIndex, Option<u64>)>,
}

/// What a read's replies say together.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The merge of all replies; `None` when no replica knows the key.
    pub object: Option<Arc<Object>>,
    /// Replicas whose reply lacks something that the merge has, in the order they answered; then those in
    /// doubt that do not hold just the same.
    pub stale: Vec<NodeIndex>,
}

impl ReadTally {
    /// A read that needs `required` replies out of `asked` replicas.
    pub fn new(required: u8, asked: u8) -> Self {
        assert!(required >= 1, "a read needs at least one reply");
        let replies = Vec::with_capacity(usize::from(asked));
        Self { required, outstanding: asked, replies, doubtful: Vec::new() }
    }

    /// One more replica was asked.
    pub fn ask(&mut self) {
        self.outstanding += 1;
    }

    /// The replica `from` holds `object` for the key.
    pub fn reply(&mut self, from: NodeIndex, object: Option<Arc<Object>>) {
        assert!(self.outstanding > 0, "more replies than requests: {self:?}");
        self.outstanding -= 1;
        self.replies.push((from, object));
    }

    /// One replica refused, or will not answer.
    pub fn fail(&mut self) {
        assert!(self.outstanding > 0, "more replies than requests: {self:?}");
        self.outstanding -= 1;
    }

    /// The replica `from` cannot vouch for its copy, of which something with the digest `held` is left. That counts
    /// as no reply, and is no part of the answer: an older version may have come to light that a forgotten
    /// tombstone had covered. But it may be repaired.
    pub fn doubt(&mut self, from: NodeIndex, held: Option<u64>) {
        self.fail();
        self.doubtful.push((from, held));
    }

    /// R.
    pub fn required(&self) -> u8 {
        self.required
    }

    /// Replies so far.
    pub fn received(&self) -> u8 {
        self.replies.len() as u8
    }

    /// Where the read stands.
    pub fn standing(&self) -> Standing {
        standing(self.required, self.received(), self.outstanding)
    }

    /// Merges the replies under the bucket's policy, and says who lacks part of the merge.
    pub fn answer(self, policy: Policy) -> ReadAnswer {
        let mut merged: Option<Arc<Object>> = None;
        for (_, reply) in &self.replies {
            let Some(object) = reply else { continue };
            match &mut merged {
                None => merged = Some(settled(policy, object)),
                Some(all) if Arc::ptr_eq(all, object) || all == object => {}
                Some(all) => {
                    Arc::make_mut(all).merge_under(policy, object);
                }
            }
        }
        let lacks = |reply: &Option<Arc<Object>>| match (&merged, reply) {
            (Some(all), Some(own)) => !Arc::ptr_eq(all, own) && all != own,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let stale = self.replies.iter().filter(|(_, r)| lacks(r)).map(|(from, _)| *from);
        let digest = merged.as_ref().map(|object| object.digest());
        let others = |held: &Option<u64>| digest.is_some() && *held != digest;
        let doubtful = self.doubtful.iter().filter(|(_, held)| others(held)).map(|(from, _)| *from);
        let stale = stale.chain(doubtful).collect();
        ReadAnswer { object: merged, stale }
    }
}

/// `object` as its bucket keeps it: what is kept as a hint was merged without the policy.
fn settled(policy: Policy, object: &Arc<Object>) -> Arc<Object> {
    if policy == Policy::Siblings || object.siblings().len() <= 1 {
        return object.clone();
    }
    let mut settled = Object::new();
    settled.merge_under(policy, object);
    Arc::new(settled)
}

fn standing(required: u8, received: u8, outstanding: u8) -> Standing {
    if received >= required {
        Standing::Met
    } else if received.saturating_add(outstanding) >= required {
        Standing::Waiting
    } else {
        Standing::Unmeetable
    }
}

#[cfg(test)]
mod tests {
    use super::super::causality::{Actor, CausalContext, Dot, NodeId};
    use super::super::object::{Content, Sibling};
    use super::*;

    fn object(dots: &[(u64, u64)]) -> Arc<Object> {
        let mut object = Object::new();
        for &(node, counter) in dots {
            let dot = Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter };
            let content = Content::Value(format!("{node}:{counter}").into());
            let sibling = Sibling { dot, content, written_at_ms: 0, expires_at_ms: None };
            object.write(&CausalContext::new(), sibling);
        }
        Arc::new(object)
    }

    #[test]
    fn levels_mean_numbers() {
        let table =
            [("one", 3, Ok(1)), ("quorum", 3, Ok(2)), ("quorum", 4, Ok(3)), ("all", 5, Ok(5))];
        for (text, n, want) in table {
            assert_eq!(Level::parse(text).unwrap().of(n), want, "{text} of {n}");
        }
        assert_eq!(Level::parse("4").unwrap().of(3), Err(LevelError { n: 3 }));
        assert_eq!(Level::parse("0").unwrap().of(3), Err(LevelError { n: 3 }));
        assert_eq!(Level::parse("most"), None);
    }

    #[test]
    fn a_write_is_met_at_w_and_unmeetable_when_too_few_are_left() {
        let mut tally = WriteTally::new(2, 3);
        tally.fail();
        assert_eq!(tally.standing(), Standing::Waiting);
        tally.ack();
        assert_eq!(tally.standing(), Standing::Waiting);
        let mut other = tally;
        tally.ack();
        assert_eq!(tally.standing(), Standing::Met);
        other.fail();
        assert_eq!(other.standing(), Standing::Unmeetable);
    }

    #[test]
    fn a_copy_in_doubt_counts_for_nothing_and_is_repaired() {
        let (old, new) = (object(&[(1, 1)]), object(&[(2, 1)]));
        for (held, stale) in [
            (None, vec![NodeIndex(0)]),
            (Some(old.digest()), vec![NodeIndex(0)]),
            (Some(new.digest()), vec![]),
        ] {
            let mut tally = ReadTally::new(1, 2);
            tally.doubt(NodeIndex(0), held);
            assert_eq!(tally.standing(), Standing::Waiting);
            tally.reply(NodeIndex(1), Some(new.clone()));
            assert_eq!(tally.standing(), Standing::Met);
            assert_eq!(
                tally.answer(Policy::Siblings),
                ReadAnswer { object: Some(new.clone()), stale }
            );
        }
        let mut tally = ReadTally::new(1, 2);
        tally.doubt(NodeIndex(0), Some(old.digest()));
        tally.reply(NodeIndex(1), None);
        assert_eq!(
            tally.answer(Policy::Siblings),
            ReadAnswer { object: None, stale: vec![] },
            "nothing to send"
        );
        let mut tally = ReadTally::new(2, 2);
        tally.doubt(NodeIndex(0), None);
        assert_eq!(tally.standing(), Standing::Unmeetable);
    }

    #[test]
    fn the_answer_is_the_merge_and_names_who_lacks_part_of_it() {
        let (a, b) = (object(&[(1, 1)]), object(&[(2, 1)]));
        type Replies = Vec<Option<Arc<Object>>>;
        let cases: [(&str, Replies, Vec<u16>); 5] = [
            ("equal", vec![Some(a.clone()), Some(a.clone())], vec![]),
            ("one knows nothing", vec![Some(a.clone()), None], vec![1]),
            ("the first knows nothing", vec![None, Some(a.clone())], vec![0]),
            ("both lack something", vec![Some(a.clone()), Some(b.clone())], vec![0, 1]),
            ("nobody knows", vec![None, None], vec![]),
        ];
        for (name, replies, stale) in cases {
            let mut tally = ReadTally::new(2, 2);
            let mut want = Object::new();
            for (at, reply) in replies.iter().enumerate() {
                assert_eq!(tally.standing(), Standing::Waiting, "{name}");
                tally.reply(NodeIndex(at as u16), reply.clone());
                reply.iter().for_each(|o| {
                    want.merge(o);
                });
            }
            assert_eq!(tally.standing(), Standing::Met, "{name}");
            let answer = tally.answer(Policy::Siblings);
            assert_eq!(
                answer.stale,
                stale.into_iter().map(NodeIndex).collect::<Vec<_>>(),
                "{name}"
            );
            assert_eq!(answer.object.is_none(), want.is_empty(), "{name}");
            assert_eq!(*answer.object.unwrap_or_default(), want, "{name}");
        }
    }
}
