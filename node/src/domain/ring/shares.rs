//! How many partitions each member should be home replica of, and how many it may be at most.
//!
//! Shares are in proportion to vnodes, within what is possible:
//!
//! - a member holds a partition at most once, so nobody's share is above Q;
//! - with at least N zones, a zone holds a partition at most once: its share is at most Q;
//! - with N zones or fewer, every zone holds every partition at least once: its share is at least
//!   Q, and whatever it can't take because of the other zones, they take.
//!
//! Where a share is cut or raised, the others of its level (zones, or members of one zone) take the
//! difference in proportion. The sum is always Q·N.

use std::collections::BTreeMap;

use super::Member;

/// A member may hold at most its fair share times this.
const BOUND: f64 = 1.05;

/// For each node: what it should hold, and what it may hold at most.
pub(super) struct Shares {
    /// Partitions that the node should be home replica of.
    pub(super) fair: Vec<f64>,
    /// Partitions that it may be home replica of.
    pub(super) capacity: Vec<u32>,
    /// For each node, its zone as a small number.
    pub(super) zone: Vec<usize>,
    /// Zones that the home replicas of each partition lie in.
    pub(super) spread: usize,
}

/// Shares of `nodes`, all with vnodes, in a ring of `partitions` with `n` home replicas each.
pub(super) fn fair(nodes: &[&Member], partitions: u32, n: usize) -> Shares {
    let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        zones.entry(&node.zone).or_default().push(at);
    }
    let q = f64::from(partitions);
    let spread = n.min(zones.len());
    let weight = |at: &usize| f64::from(nodes[*at].vnodes);

    let of_zones: Vec<Claim> = zones
        .values()
        .map(|inside| Claim {
            weight: inside.iter().map(weight).sum(),
            least: if zones.len() <= n { q } else { 0.0 },
            most: q * inside.len().min(n - spread + 1) as f64,
        })
        .collect();
    let mut shares = Shares {
        fair: vec![0.0; nodes.len()],
        capacity: vec![0; nodes.len()],
        zone: vec![0; nodes.len()],
        spread,
    };
    let totals = divide(q * n as f64, &of_zones);
    for (number, (inside, total)) in zones.values().zip(totals).enumerate() {
        let claim = |at: &usize| Claim { weight: weight(at), least: 0.0, most: q };
        let claims: Vec<Claim> = inside.iter().map(claim).collect();
        for (&at, fair) in inside.iter().zip(divide(total, &claims)) {
            shares.fair[at] = fair;
            shares.capacity[at] = capacity(fair).min(partitions);
            shares.zone[at] = number;
        }
    }
    shares
}

/// The whole partitions that a node of this fair share may hold: 5 % more, rounded down, but never
/// less than the fair share rounded up, or there would not be room for all.
fn capacity(fair: f64) -> u32 {
    // Shares come from a division: what is whole on paper may be a hair off.
    const HAIR: f64 = 1e-6;
    (fair - HAIR).ceil().max((fair * BOUND + HAIR).floor()) as u32
}

/// What one asks for, and the bounds on what it can get.
struct Claim {
    weight: f64,
    least: f64,
    most: f64,
}

/// Divides `total` in proportion to the weights, within the bounds of each: finds the level whose
/// bounded products with the weights add up. Halving sixty-four times finds it to the last bit, and
/// does the same on every machine.
fn divide(total: f64, claims: &[Claim]) -> Vec<f64> {
    let at_level =
        |level: f64| claims.iter().map(move |c| (c.weight * level).clamp(c.least, c.most));
    let lightest = claims.iter().map(|c| c.weight).fold(f64::INFINITY, f64::min);
    let (mut low, mut high) = (0.0, total / lightest);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if at_level(middle).sum::<f64>() < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at_level(high).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares_of(nodes: &[(&str, u32)], partitions: u32, n: usize) -> Vec<f64> {
        let members: Vec<Member> = nodes
            .iter()
            .map(|&(zone, vnodes)| Member { name: "x".into(), zone: zone.into(), vnodes })
            .collect();
        let shares = fair(&members.iter().collect::<Vec<_>>(), partitions, n);
        let total: f64 = shares.fair.iter().sum();
        assert!((total - f64::from(partitions) * n as f64).abs() < 1e-3, "{total}");
        shares.fair.iter().map(|fair| (fair * 100.0).round() / 100.0).collect()
    }

    #[test]
    fn shares_follow_vnodes_as_far_as_zones_and_copies_allow() {
        // One zone: in proportion.
        assert_eq!(shares_of(&[("", 1), ("", 1), ("", 2)], 64, 1), [16.0, 16.0, 32.0]);
        // Nobody holds a partition twice: the heavy one is cut at Q, the others share the rest.
        assert_eq!(shares_of(&[("", 9), ("", 1), ("", 1)], 64, 2), [64.0, 32.0, 32.0]);
        // As many zones as replicas: each zone holds all, divided by vnodes within it.
        let three = [("a", 256), ("a", 256), ("b", 256), ("c", 256), ("c", 512)];
        assert_eq!(shares_of(&three, 96, 3), [48.0, 48.0, 96.0, 32.0, 64.0]);
        // More zones than replicas: in proportion, but no zone holds a partition twice.
        let four = [("a", 900), ("b", 100), ("c", 100), ("d", 100)];
        assert_eq!(shares_of(&four, 90, 2), [90.0, 30.0, 30.0, 30.0]);
        // Fewer zones: the small one still holds all.
        let two = [("a", 256), ("a", 256), ("a", 256), ("b", 256)];
        assert_eq!(shares_of(&two, 90, 3), [60.0, 60.0, 60.0, 90.0]);
    }

    #[test]
    fn capacity_is_five_percent_more_or_the_next_whole_partition() {
        assert_eq!(capacity(100.0), 105);
        assert_eq!(capacity(6.4), 7);
        assert_eq!(capacity(7.0), 7);
        assert_eq!(capacity(153.6), 161);
    }
}
