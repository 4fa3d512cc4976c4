//! One round: some candidates, asked about twice. The service asks; what the answers prove is decided here.
//!
//! ```text
//! Round::new ─ ask all owners ─ first(answers) ─ wait ─ ask all owners ─ second(answers) ─▶ what to forget
//!                               keeps what is proven       ▲                │ too early
//!                               as far as it goes          └── wait ────────┘
//! ```
//!
//! The first answers say from when on nothing was in the way, the second ones until when, each in the running time of the member that
//! answers: from the end of its first look to the beginning of its second. And the generation of each member's folder must have risen in
//! between: what is a copy of the folder as it was before is told from it by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::{Holding, KEYS_MAX, Process, Question};
use crate::domain::key::Key;
use crate::domain::ring::NodeIndex;

/// A key that may be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its partition.
    pub partition: u32,
    /// The key.
    pub key: Key,
    /// The digest of what the driver holds under it.
    pub digest: u64,
    /// Its home replicas.
    pub home: Vec<NodeIndex>,
}

/// Answers by member; who is missing has not answered.
type Answers = BTreeMap<NodeIndex, Holding>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Round {
    candidates: Vec<Candidate>,
    owners: Vec<NodeIndex>,
    /// Who answered first, and for how long it had run by then.
    first: BTreeMap<NodeIndex, (Process, u64)>,
    /// The generation of its folder then.
    generations: BTreeMap<NodeIndex, u64>,
}

/// What the second answers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proven {
    /// These may be forgotten, by their home replicas.
    Forget(Vec<Candidate>),
    /// Nothing is in the way, and somebody has not run for long enough, or could not raise its generation: ask again.
    TooEarly,
    /// Somebody did not answer, or is another process than before: the round is void.
    Void,
}

impl Round {
    /// A round about `candidates`, [`KEYS_MAX`] at the most, in a ring of `owners`.
    ///
    /// # Panics
    /// With more.
    pub fn new(candidates: Vec<Candidate>, owners: Vec<NodeIndex>) -> Self {
        assert!(candidates.len() <= KEYS_MAX, "{} candidates", candidates.len());
        Self { candidates, owners, first: BTreeMap::new(), generations: BTreeMap::new() }
    }

    /// Whom to ask.
    pub fn owners(&self) -> &[NodeIndex] {
        &self.owners
    }

    /// What it is about still.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// What to ask `owner`.
    pub fn question(&self, owner: NodeIndex) -> Question {
        let partitions: BTreeSet<u32> = self.candidates.iter().map(|c| c.partition).collect();
        Question::Hold {
            partitions: partitions.into_iter().collect(),
            entries: entries(&self.candidates, owner),
        }
    }

    /// The first answers. False: nothing is proven so far, and the round is over.
    pub fn first(&mut self, answers: &Answers) -> bool {
        if !self.is_answered(answers) {
            return false;
        }
        self.keep(answers);
        self.first = answers.iter().map(|(from, a)| (*from, (a.process, a.ended_ms))).collect();
        self.generations = answers.iter().map(|(from, a)| (*from, a.generation)).collect();
        !self.candidates.is_empty()
    }

    /// The second answers, when every member must have run for `quiet` since the first.
    pub fn second(&mut self, answers: &Answers, quiet: Duration) -> Proven {
        if !self.is_answered(answers) {
            return Proven::Void;
        }
        let ran = |owner: &NodeIndex| {
            let ((process, since), answer) = (self.first.get(owner)?, answers.get(owner)?);
            (*process == answer.process).then(|| answer.began_ms.saturating_sub(*since))
        };
        let ran: Option<Vec<u64>> = self.owners.iter().map(ran).collect();
        let Some(ran) = ran else { return Proven::Void };
        self.keep(answers);
        let rose = |(from, first): (&NodeIndex, &u64)| answers[from].generation > *first;
        if ran.iter().any(|ran| u128::from(*ran) < quiet.as_millis())
            || !self.generations.iter().all(rose)
        {
            return Proven::TooEarly;
        }
        Proven::Forget(std::mem::take(&mut self.candidates))
    }

    fn is_answered(&self, answers: &Answers) -> bool {
        self.owners.iter().all(|owner| answers.contains_key(owner))
    }

    /// Gives up the candidates that somebody does not hold, or keeps a hint for the partition of.
    fn keep(&mut self, answers: &Answers) {
        let mut stands = vec![true; self.candidates.len()];
        for (from, answer) in answers {
            let held: BTreeSet<u32> = answer.held.iter().copied().collect();
            let mut place = 0;
            for (candidate, stands) in self.candidates.iter().zip(&mut stands) {
                if candidate.home.contains(from) {
                    *stands &= held.contains(&place);
                    place += 1;
                }
                *stands &= !answer.hinted.contains(&candidate.partition);
            }
        }
        let mut stands = stands.into_iter();
        self.candidates.retain(|_| stands.next() == Some(true));
    }
}

/// The candidates that `owner` is a home replica of, as messages name them.
pub fn entries(candidates: &[Candidate], owner: NodeIndex) -> Vec<(Key, u64)> {
    let own = candidates.iter().filter(|candidate| candidate.home.contains(&owner));
    own.map(|candidate| (candidate.key.clone(), candidate.digest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::causality::NodeId;

    const QUIET: Duration = Duration::from_secs(10);

    /// Key n lives in partition n, at nodes n, n + 1 and n + 2 of four.
    fn candidate(n: u16) -> Candidate {
        let home = (n..n + 3).map(|at| NodeIndex(at % 4)).collect();
        let key = Key::new("b", &format!("k{n}")).unwrap();
        Candidate { partition: u32::from(n), key, digest: u64::from(n), home }
    }

    fn round() -> Round {
        Round::new(vec![candidate(0), candidate(1)], (0..4).map(NodeIndex).collect())
    }

    /// All hold all, at this running time.
    fn answers(round: &Round, ran_ms: u64) -> Answers {
        let answer = |owner: &NodeIndex| {
            let Question::Hold { entries, .. } = round.question(*owner) else { panic!() };
            let process = Process { node: NodeId(owner.0.into()), generation: 1 };
            let held = (0..entries.len() as u32).collect();
            let (began_ms, ended_ms) = (ran_ms, ran_ms + 100);
            let (generation, hinted) = (1 + ran_ms / 100, Vec::new());
            (*owner, Holding { process, generation, began_ms, ended_ms, hinted, held })
        };
        round.owners().iter().map(answer).collect()
    }

    #[test]
    fn homes_are_asked_for_their_keys_and_all_for_hints() {
        let round = round();
        let keys = |node: u16| match round.question(NodeIndex(node)) {
            Question::Hold { partitions, entries } => (partitions, entries.len()),
            Question::Forget { .. } => panic!(),
        };
        assert_eq!((keys(0), keys(1)), ((vec![0, 1], 1), (vec![0, 1], 2)));
        assert_eq!((keys(2), keys(3)), ((vec![0, 1], 2), (vec![0, 1], 1)));
    }

    #[test]
    fn what_all_hold_twice_with_a_quiet_time_between_is_proven() {
        let mut round = round();
        assert!(round.first(&answers(&round, 1000)));
        assert_eq!(round.second(&answers(&round, 11_099), QUIET), Proven::TooEarly);
        let all = vec![candidate(0), candidate(1)];
        assert_eq!(round.second(&answers(&round, 11_100), QUIET), Proven::Forget(all));
    }

    type Change = fn(&mut Answers);

    #[test]
    fn whatever_is_in_the_way_at_either_time_keeps_what_it_is_about() {
        let table: [(&str, Change, Option<Vec<u16>>); 6] = [
            ("nothing", |_| {}, Some(vec![0, 1])),
            (
                "a home does not hold key 0",
                |a| a.get_mut(&NodeIndex(0)).unwrap().held.clear(),
                Some(vec![1]),
            ),
            (
                "a home of both holds the second alone",
                |a| a.get_mut(&NodeIndex(1)).unwrap().held = vec![1],
                Some(vec![1]),
            ),
            (
                "a fallback of key 0 keeps a hint",
                |a| a.get_mut(&NodeIndex(3)).unwrap().hinted = vec![0],
                Some(vec![1]),
            ),
            (
                "hints for both",
                |a| a.get_mut(&NodeIndex(3)).unwrap().hinted = vec![0, 1],
                Some(vec![]),
            ),
            ("somebody does not answer", |a| drop(a.remove(&NodeIndex(3))), None),
        ];
        for (name, change, left) in table {
            let expected = left.clone().map(|left| left.into_iter().map(candidate).collect());
            let mut first = round();
            let mut changed = answers(&first, 0);
            change(&mut changed);
            let goes_on = first.first(&changed);
            assert_eq!(goes_on, left.as_ref().is_some_and(|left| !left.is_empty()), "{name}");
            if goes_on {
                let proven = first.second(&answers(&first, 20_000), QUIET);
                assert_eq!(proven, expected.clone().map_or(Proven::Void, Proven::Forget), "{name}");
            }
            let mut second = round();
            assert!(second.first(&answers(&second, 0)));
            let mut changed = answers(&second, 20_000);
            change(&mut changed);
            let proven = second.second(&changed, QUIET);
            assert_eq!(proven, expected.map_or(Proven::Void, Proven::Forget), "{name}, later");
        }
    }

    #[test]
    fn nothing_is_forgotten_before_every_member_is_told_from_an_older_copy_of_it() {
        let mut round = round();
        assert!(round.first(&answers(&round, 1000)));
        let mut later = answers(&round, 20_000);
        later.get_mut(&NodeIndex(3)).unwrap().generation = 11;
        assert_eq!(round.second(&later, QUIET), Proven::TooEarly);
        later.get_mut(&NodeIndex(3)).unwrap().generation = 12;
        assert_eq!(round.second(&later, QUIET), Proven::Forget(vec![candidate(0), candidate(1)]));
    }

    #[test]
    fn who_was_paused_has_not_run_and_who_was_started_again_proves_nothing() {
        let mut paused = round();
        assert!(paused.first(&answers(&paused, 0)));
        let mut later = answers(&paused, 20_000);
        later.get_mut(&NodeIndex(3)).unwrap().began_ms = 400;
        assert_eq!(paused.second(&later, QUIET), Proven::TooEarly);
        for change in [|p: &mut Process| p.generation = 2, |p: &mut Process| p.node = NodeId(9)] {
            let mut other = round();
            assert!(other.first(&answers(&other, 0)));
            let mut later = answers(&other, 20_000);
            change(&mut later.get_mut(&NodeIndex(3)).unwrap().process);
            assert_eq!(other.second(&later, QUIET), Proven::Void);
        }
    }
}
