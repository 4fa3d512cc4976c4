//! How a drawn plan's cluster comes into being.

use crate::dice::Dice;

use super::super::{Founding, FoundingLoss, Moment, Plan};

/// Of a hundred clusters, how many are founded.
const FOUNDED_PERCENT: u64 = 40;

/// What a node that starts does: it writes no objects yet.
const MOMENTS: [Moment; 4] =
    [Moment::DiskWrite, Moment::DiskSync, Moment::DiskCreate, Moment::DiskSyncDir];

pub(super) fn draw_founding(dice: Dice, plan: &Plan) -> Option<Founding> {
    let mut die = dice.stream("founding", 0, 0);
    if !die.chance(FOUNDED_PERCENT) {
        return None;
    }
    let owners = plan.owners();
    let seeds = die.within(1, 3.min(owners.len() as u64)) as usize;
    let seeds = die.sample(&owners, seeds);
    let struck = if die.chance(50) { die.within(1, owners.len() as u64) as usize } else { 0 };
    let struck = die.sample(&owners, struck);
    let loss = |node| FoundingLoss {
        node,
        event: die.pick(&MOMENTS),
        // A start takes about ten of each.
        count: die.magnitude(1, 12),
        for_ms: die.magnitude(10, 2_500),
    };
    Some(Founding { seeds, power_losses: struck.into_iter().map(loss).collect() })
}
