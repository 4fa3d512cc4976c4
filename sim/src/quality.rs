//! How good the failure detector is, as a sweep's numbers: measured, not judged.
//!
//! Each moment of a run belongs to one [`Scenario`], by the worst that was wrong anywhere within the
//! detector's bound before it. A death is measured under what else was wrong until it was found, a mistaken
//! down under what was wrong until then, and the nodes' time under what was wrong while it went by; so the
//! rows of the table may be compared with each other.
//!
//! | number | what it is |
//! |---|---|
//! | detection | from a process's death to "down" at another node, for each node that lives on |
//! | agreement | the same to the last of them, if all found it |
//! | missed | deaths that lasted past the bound, and the node that never found them |
//! | mistaken | "down" said of a process that was running, paused or cut off though it may be |
//! | mistake | from then until the node took it back, or either ended |

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::history::{
    Belief, Disturbance, Ending, Endpoint, Evidence, Fault, Health, Life, Membership,
};

/// What was wrong, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Nothing that matters to the detector.
    Quiet,
    /// Links lost, slowed or doubled packets.
    Loss,
    /// Some process was dead, or just started.
    Crash,
    /// Some process stood still.
    Pauses,
    /// Something got through one way only.
    OneWay,
    /// Nothing got through, either way, between some nodes.
    Partition,
}

/// The numbers of each scenario that occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    rows: BTreeMap<Scenario, Row>,
}

/// The numbers of one scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    detection_ms: Vec<u64>,
    agreement_ms: Vec<u64>,
    missed: u64,
    mistakes_ms: Vec<u64>,
    node_ms: u64,
}

impl Scenario {
    /// All of them, in the order of the table.
    pub const ALL: [Scenario; 6] = [
        Scenario::Quiet,
        Scenario::Loss,
        Scenario::Crash,
        Scenario::Pauses,
        Scenario::OneWay,
        Scenario::Partition,
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Quiet => "quiet",
            Scenario::Loss => "loss",
            Scenario::Crash => "crash",
            Scenario::Pauses => "pauses",
            Scenario::OneWay => "one way",
            Scenario::Partition => "partition",
        }
    }
}

impl Quality {
    /// Measures one run; nothing if its nodes do not gossip.
    pub fn measure(evidence: &Evidence) -> Self {
        let mut quality = Self::default();
        let Some(membership) = &evidence.membership else { return quality };
        let run = Run { membership, disturbances: &evidence.disturbances };
        run.deaths(&mut quality);
        run.mistakes(&mut quality);
        run.time(&mut quality);
        quality
    }

    /// Counts `other` in.
    pub fn add(&mut self, other: &Quality) {
        for (scenario, row) in &other.rows {
            let own = self.rows.entry(*scenario).or_default();
            own.detection_ms.extend(&row.detection_ms);
            own.agreement_ms.extend(&row.agreement_ms);
            own.missed += row.missed;
            own.mistakes_ms.extend(&row.mistakes_ms);
            own.node_ms += row.node_ms;
        }
    }

    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table; empty if there is nothing to tell.
    pub fn render(&self) -> String {
        let mut page = String::new();
        if self.is_empty() {
            return page;
        }
        put(
            &mut page,
            "detector",
            [
                "found",
                "p50",
                "p99",
                "agreed p50",
                "p99",
                "missed",
                "mistaken",
                "/node-h",
                "for p50",
            ],
        );
        for scenario in Scenario::ALL {
            let Some(row) = self.rows.get(&scenario) else { continue };
            let hours = row.node_ms as f64 / 3.6e6;
            let rate = format!("{:.2}", row.mistakes_ms.len() as f64 / hours.max(1e-9));
            let cells = [
                row.detection_ms.len().to_string(),
                percentile(&row.detection_ms, 50),
                percentile(&row.detection_ms, 99),
                percentile(&row.agreement_ms, 50),
                percentile(&row.agreement_ms, 99),
                row.missed.to_string(),
                row.mistakes_ms.len().to_string(),
                rate,
                percentile(&row.mistakes_ms, 50),
            ];
            put(&mut page, &format!("  {}", scenario.name()), cells.each_ref().map(String::as_str));
        }
        page
    }

    fn row(&mut self, scenario: Scenario) -> &mut Row {
        self.rows.entry(scenario).or_default()
    }
}

struct Run<'a> {
    membership: &'a Membership,
    disturbances: &'a [Disturbance],
}

impl Run<'_> {
    fn deaths(&self, quality: &mut Quality) {
        for death in &self.membership.lives {
            let Some((died_ns, Ending::Killed)) = death.end else { continue };
            let next = self.lives_of(death).find(|life| life.start_ns >= died_ns);
            let back_ns = next.map_or(self.membership.end_ns, |life| life.start_ns);
            let mut found = Vec::new();
            let mut blind = 0;
            for observer in self.watchers(death, died_ns, back_ns) {
                let heard = self.beliefs(observer, death).find(|belief| {
                    (died_ns..back_ns).contains(&belief.at_ns) && is_gone(belief.state)
                });
                match heard {
                    Some(belief) => found.push(belief.at_ns - died_ns),
                    None => blind += 1,
                }
            }
            let late = back_ns - died_ns > self.membership.down_within_ns;
            let last_ns = found.iter().copied().max().unwrap_or(0);
            let others = |fault| !matches!(fault, Fault::Down(at) | Fault::PowerLoss(at) if at == Endpoint::Node(death.node));
            let row = quality.row(self.scenario(died_ns, died_ns + last_ns, &others));
            row.detection_ms.extend(found.iter().map(|ns| ns / 1_000_000));
            row.missed += if late { blind } else { 0 };
            if blind == 0 && !found.is_empty() {
                row.agreement_ms.push(last_ns / 1_000_000);
            }
        }
    }

    /// The processes of other nodes that knew the dead one for a while and lived until it was back, or
    /// past the bound.
    fn watchers(&self, death: &Life, died_ns: u64, back_ns: u64) -> impl Iterator<Item = &Life> {
        let bound_ns = self.membership.down_within_ns;
        let (node, until_ns) = (death.node, back_ns.min(died_ns + bound_ns));
        self.membership.lives.iter().filter(move |life| {
            life.node != node
                && life.start_ns + bound_ns <= died_ns
                && life.end.is_none_or(|(end_ns, _)| end_ns >= until_ns)
        })
    }

    fn mistakes(&self, quality: &mut Quality) {
        for belief in self.membership.beliefs.iter().filter(|b| b.state == Health::Down) {
            let alive = |life: &&Life, node| {
                life.node == node
                    && life.start_ns <= belief.at_ns
                    && life.end.is_none_or(|(end_ns, _)| end_ns > belief.at_ns)
            };
            let mut lives = self.membership.lives.iter();
            let Some(subject) = lives.find(|life| alive(life, belief.subject)) else { continue };
            let mut lives = self.membership.lives.iter();
            let Some(observer) = lives.find(|life| alive(life, belief.observer)) else { continue };
            let end_of =
                |life: &Life| life.end.map_or(self.membership.end_ns, |(end_ns, _)| end_ns);
            let back = self.beliefs(observer, subject).find(|b| b.at_ns > belief.at_ns);
            let over_ns = back.map_or(u64::MAX, |b| b.at_ns);
            let over_ns = over_ns.min(end_of(subject)).min(end_of(observer));
            let from_ns = belief.at_ns.saturating_sub(self.membership.down_within_ns);
            let row = quality.row(self.scenario(from_ns, belief.at_ns, &|_| true));
            row.mistakes_ms.push(over_ns.saturating_sub(belief.at_ns) / 1_000_000);
        }
    }

    /// Adds the time that nodes lived to the scenarios that it passed in.
    fn time(&self, quality: &mut Quality) {
        let bound_ns = self.membership.down_within_ns;
        let mut edges: Vec<u64> = vec![0, self.membership.end_ns];
        for disturbance in self.disturbances {
            edges.extend([disturbance.start_ns, disturbance.end_ns.saturating_add(bound_ns)]);
        }
        edges.retain(|edge| *edge <= self.membership.end_ns);
        edges.sort_unstable();
        edges.dedup();
        for span in edges.windows(2) {
            let (from_ns, to_ns) = (span[0], span[1]);
            let lived = self.membership.lives.iter().map(|life| {
                let end_ns = life.end.map_or(u64::MAX, |(end_ns, _)| end_ns);
                end_ns.min(to_ns).saturating_sub(life.start_ns.max(from_ns))
            });
            let lived_ns: u64 = lived.sum();
            // What ended just before the bound's reach is over for this span.
            let reach_ns = (from_ns + 1).saturating_sub(bound_ns);
            quality.row(self.scenario(reach_ns, from_ns, &|_| true)).node_ms +=
                lived_ns / 1_000_000;
        }
    }

    /// The worst that was wrong at some time between the two.
    fn scenario(&self, from_ns: u64, to_ns: u64, counts: &dyn Fn(Fault) -> bool) -> Scenario {
        let felt = self.disturbances.iter().filter(|d| d.start_ns <= to_ns && d.end_ns >= from_ns);
        let felt: Vec<Fault> = felt.map(|d| d.fault).filter(|fault| counts(*fault)).collect();
        let scenarios = felt.iter().map(|fault| scenario_of(*fault, &felt));
        scenarios.max().unwrap_or(Scenario::Quiet)
    }

    fn beliefs(&self, observer: &Life, subject: &Life) -> impl Iterator<Item = &Belief> {
        let (observer, subject) = (*observer, subject.node);
        let end_ns = observer.end.map_or(u64::MAX, |(end_ns, _)| end_ns);
        self.membership.beliefs.iter().filter(move |belief| {
            (belief.observer, belief.subject) == (observer.node, subject)
                && (observer.start_ns..=end_ns).contains(&belief.at_ns)
        })
    }

    fn lives_of(&self, life: &Life) -> impl Iterator<Item = &Life> {
        let node = life.node;
        self.membership.lives.iter().filter(move |life| life.node == node)
    }
}

/// What a fault is to the detector, beside the others that are felt with it.
fn scenario_of(fault: Fault, felt: &[Fault]) -> Scenario {
    let is_node = |at| matches!(at, Endpoint::Node(_));
    match fault {
        Fault::Down(at) | Fault::PowerLoss(at) if is_node(at) => Scenario::Crash,
        Fault::Paused(at) if is_node(at) => Scenario::Pauses,
        Fault::Isolated(at) if is_node(at) => Scenario::Partition,
        Fault::LinkCut { from, to } if is_node(from) && is_node(to) => {
            let back = Fault::LinkCut { from: to, to: from };
            if felt.contains(&back) { Scenario::Partition } else { Scenario::OneWay }
        }
        Fault::LinkBad { from, to } | Fault::LinkRough { from, to }
            if is_node(from) && is_node(to) =>
        {
            Scenario::Loss
        }
        Fault::DatagramsRough { .. } => Scenario::Loss,
        Fault::Down(_)
        | Fault::PowerLoss(_)
        | Fault::Paused(_)
        | Fault::Isolated(_)
        | Fault::LinkCut { .. }
        | Fault::LinkBad { .. }
        | Fault::LinkRough { .. }
        | Fault::DiskTrouble(_)
        | Fault::RolledBack(_)
        | Fault::Forgotten(_)
        | Fault::Damaged(_)
        | Fault::ClockWrong(_) => Scenario::Quiet,
    }
}

const fn is_gone(state: Health) -> bool {
    matches!(state, Health::Down | Health::Stopped)
}

/// In seconds; a dash if there is none.
fn percentile(all_ms: &[u64], percent: usize) -> String {
    let mut sorted = all_ms.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).map_or_else(|| "-".to_owned(), |ms| format!("{:.2} s", *ms as f64 / 1e3))
}

fn put(page: &mut String, name: &str, cells: [&str; 9]) {
    let line = cells.iter().fold(format!("{name:<14}"), |line, cell| format!("{line}{cell:>11}"));
    writeln!(page, "{line}").expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::NodeIndex;

    const S: u64 = 1_000_000_000;

    fn life(node: u32, from_s: u64, end: Option<(u64, Ending)>) -> Life {
        let end = end.map(|(at_s, how)| (at_s * S, how));
        Life { node: NodeIndex(node), start_ns: from_s * S, end }
    }

    fn says(observer: u32, subject: u32, at_s: u64, state: Health) -> Belief {
        let (observer, subject) = (NodeIndex(observer), NodeIndex(subject));
        Belief { observer, subject, at_ns: at_s * S, state }
    }

    fn evidence(lives: Vec<Life>, beliefs: Vec<Belief>, faults: &[(Fault, u64, u64)]) -> Evidence {
        let membership = Membership {
            lives,
            beliefs,
            members: 3,
            end_ns: 100 * S,
            down_within_ns: 10 * S,
            ..Membership::default()
        };
        let disturbance = |&(fault, from_s, to_s): &(Fault, u64, u64)| Disturbance {
            fault,
            start_ns: from_s * S,
            end_ns: to_s * S,
        };
        Evidence {
            membership: Some(membership),
            disturbances: faults.iter().map(disturbance).collect(),
            ..Evidence::default()
        }
    }

    fn at(node: u32) -> Endpoint {
        Endpoint::Node(NodeIndex(node))
    }

    #[test]
    fn deaths_and_mistakes_are_told_by_scenario() {
        let lives = vec![
            life(0, 0, None),
            life(1, 0, None),
            life(2, 0, Some((20, Ending::Killed))),
            life(2, 40, None),
        ];
        let beliefs = vec![
            says(0, 2, 23, Health::Down),
            says(1, 2, 25, Health::Down),
            says(0, 2, 41, Health::Up),
            says(1, 0, 71, Health::Down),
            says(1, 0, 73, Health::Up),
        ];
        let faults = [(Fault::Down(at(2)), 20, 40), (Fault::Paused(at(0)), 65, 72)];
        let quality = Quality::measure(&evidence(lives, beliefs, &faults));
        // Of 100 s, 30 (20..50) are the crash's, 17 (65..82) the pause's.
        insta::assert_snapshot!(quality.render(), @"
        detector            found        p50        p99 agreed p50        p99     missed   mistaken    /node-h    for p50
          quiet                 2     3.00 s     5.00 s     5.00 s     5.00 s          0          0       0.00          -
          crash                 0          -          -          -          -          0          0       0.00          -
          pauses                0          -          -          -          -          0          1      70.59     2.00 s
        ");
    }

    #[test]
    fn a_death_that_nobody_finds_is_missed() {
        let lives = vec![life(0, 0, None), life(1, 0, Some((20, Ending::Killed)))];
        let faults = [(Fault::Down(at(1)), 20, 100)];
        let quality = Quality::measure(&evidence(lives.clone(), Vec::new(), &faults));
        assert_eq!(quality.rows[&Scenario::Quiet].missed, 1);
        let found = vec![says(0, 1, 22, Health::Down)];
        let quality = Quality::measure(&evidence(lives, found, &faults));
        assert_eq!(quality.rows[&Scenario::Quiet].missed, 0);
        assert_eq!(quality.rows[&Scenario::Quiet].detection_ms, [2_000]);
    }

    #[test]
    fn what_was_wrong_is_the_worst_of_it() {
        let cut = |from, to| Fault::LinkCut { from: at(from), to: at(to) };
        let rough = Fault::LinkRough { from: at(0), to: at(1) };
        let worst = |faults: &[Fault]| {
            let faults: Vec<_> = faults.iter().map(|fault| (*fault, 50, 60)).collect();
            let mistake = vec![says(0, 1, 65, Health::Down)];
            let lives = vec![life(0, 0, None), life(1, 0, None)];
            let quality = Quality::measure(&evidence(lives, mistake, &faults));
            let mut rows = quality.rows.iter().filter(|(_, row)| !row.mistakes_ms.is_empty());
            rows.next().map(|(scenario, _)| *scenario).unwrap()
        };
        assert_eq!(worst(&[]), Scenario::Quiet);
        assert_eq!(worst(&[Fault::ClockWrong(at(0)), Fault::DiskTrouble(at(1))]), Scenario::Quiet);
        assert_eq!(worst(&[rough]), Scenario::Loss);
        assert_eq!(worst(&[rough, Fault::Down(at(2))]), Scenario::Crash);
        assert_eq!(worst(&[Fault::Down(at(2)), Fault::Paused(at(1))]), Scenario::Pauses);
        assert_eq!(worst(&[Fault::Paused(at(1)), cut(0, 1)]), Scenario::OneWay);
        assert_eq!(worst(&[cut(0, 1), cut(1, 0)]), Scenario::Partition);
    }

    #[test]
    fn runs_add_up() {
        let lives = vec![life(0, 0, None), life(1, 0, None)];
        let one = Quality::measure(&evidence(lives, vec![says(0, 1, 5, Health::Down)], &[]));
        let mut both = one.clone();
        both.add(&one);
        assert_eq!(both.rows[&Scenario::Quiet].mistakes_ms.len(), 2);
        assert_eq!(both.rows[&Scenario::Quiet].node_ms, 2 * one.rows[&Scenario::Quiet].node_ms);
        assert_eq!(Quality::default().render(), "");
    }
}
