//! Where a member's points lie on the ring.
//!
//! A member with v vnodes cuts the ring into v equal arcs and puts one point into each. How far into
//! its arc each point lies is a shuffle of 0/v, 1/v, … (a "Latin square" sample), plus a part of the
//! last step. Shuffle and part come from murmur3 of `name 0x00 index`: a point depends on its own
//! member's name and vnodes and on nothing else, so no point moves when another member comes or goes.
//!
//! Every point is as good as random to every other member, but one member's points never bunch. That
//! keeps members nearer to their fair share before the bound of the walk has to interfere, and the
//! less it interferes, the less moves at a join.

use crate::domain::key::murmur3;

/// The points of the member `name`, sorted.
pub(super) fn of_member(name: &str, vnodes: u32) -> Vec<u64> {
    let hashes: Vec<(u64, u64)> = (0..vnodes).map(|index| hash(name, index)).collect();
    let mut arcs: Vec<usize> = (0..hashes.len()).collect();
    arcs.sort_by_key(|&arc| (hashes[arc].1, arc));
    let v = u128::from(vnodes.max(1));
    let mut points: Vec<u64> = arcs
        .into_iter()
        .enumerate()
        .map(|(step, arc)| {
            // In units of 2^-64: how far into the arc, then how far round the ring.
            let into_arc = (((step as u128) << 64) + u128::from(hashes[arc].0)) / v;
            ((((arc as u128) << 64) + into_arc) / v) as u64
        })
        .collect();
    points.sort_unstable();
    points
}

/// How far clockwise from `start` the nearest of the sorted `points` lies.
pub(super) fn distance(points: &[u64], start: u64) -> u64 {
    let at = points.partition_point(|&point| point < start);
    let nearest = points.get(at).or_else(|| points.first());
    nearest.map_or(u64::MAX, |point| point.wrapping_sub(start))
}

fn hash(name: &str, index: u32) -> (u64, u64) {
    let mut bytes = Vec::with_capacity(name.len() + 5);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&index.to_be_bytes());
    murmur3(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arc_holds_one_point() {
        for vnodes in [1u32, 2, 3, 100, 256, 1000] {
            let points = of_member("n1", vnodes);
            assert_eq!(points.len(), vnodes as usize);
            for (arc, point) in points.iter().enumerate() {
                let holds = (u128::from(*point) * u128::from(vnodes)) >> 64;
                assert_eq!(holds, arc as u128, "{vnodes} vnodes");
            }
        }
    }

    #[test]
    fn the_walk_is_clockwise_and_wraps() {
        assert_eq!(distance(&[10, 20], 10), 0);
        assert_eq!(distance(&[10, 20], 11), 9);
        assert_eq!(distance(&[10, 20], 21), 10u64.wrapping_sub(21));
        assert_eq!(distance(&[], 21), u64::MAX);
    }
}
