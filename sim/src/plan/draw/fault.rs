//! The faults of a drawn plan: of which kind, when, and for how long.

use crate::dice::{Dice, Die};

use super::super::{
    At, ClientNo, Damage, Fault, FaultKind, Kept, Machine, Moment, NodeNo, Plan, Trigger,
};
use super::{Shape, Swarm, signed};

pub(super) fn draw_fault(dice: Dice, plan: &Plan, swarm: &Swarm, id: u64) -> Fault {
    match swarm.shape {
        Shape::OwnerAway => return owner_away(dice, plan, id),
        Shape::HandedOver if id == 0 => return owner_away(dice, plan, id),
        Shape::HandedOver => return all_dark(dice, plan, id),
        Shape::RolledBack => return rolled_back(dice, plan, id),
        Shape::Wiped => return wiped(dice, plan, id),
        Shape::Mixed | Shape::Damaged | Shape::Torn => {}
    }
    let mut die = dice.stream("fault", 0, id);
    let kind = die.pick(&swarm.kinds);
    let (at_ms, for_ms) = draw_times(&mut die, plan, kind);
    let any = die.pick(&plan.node_numbers());
    let node = swarm.victim.filter(|_| id % 4 != 3).unwrap_or(any);
    let what = draw_fault_kind(&mut die, plan, kind, node);
    let tied = die.chance(swarm.tied_percent);
    let node = *what.nodes().first().unwrap_or(&NodeNo(1));
    let trigger = draw_trigger(&mut die, plan, node);
    let deadly = matches!(
        what,
        FaultKind::Crash { .. } | FaultKind::PowerLoss { .. } | FaultKind::FullRestart { .. }
    );
    let at = if tied && deadly { At::On(trigger) } else { At::Ms(at_ms) };
    Fault { id: id as u32, at, for_ms, what }
}

/// When a fault of this kind begins, and how long it lasts.
fn draw_times(die: &mut Die, plan: &Plan, kind: &str) -> (u64, u64) {
    let end = plan.length.faults_ms;
    let nodes = plan.nodes.len() as u64;
    match kind {
        // Long enough that the dead are found dead, and that they come back under load.
        "away" | "crash_minority" => {
            (die.within(500, end / 3), die.within(10_000, 25_000.min(end / 2)))
        }
        // Long enough for most of the nodes to have their turn.
        "rolling_restart" => {
            (die.within(500, end / 2), (nodes * die.magnitude(500, 4_000)).min(end / 2))
        }
        "full_restart" => (die.within(500, end * 2 / 3), die.within(1_000, 12_000)),
        "flapping_link" | "lossy_datagrams" | "pause_many" => {
            (die.within(500, end / 2), die.magnitude(1_000, 20_000))
        }
        // There are tables by then.
        "damaged_table" => (die.within(end / 8, end - 3_000), die.within(100, 3_000)),
        _ => {
            let at_ms = die.within(500, end - 500);
            let for_ms = if die.chance(15) {
                die.within(10_000, 25_000)
            } else {
                die.magnitude(100, 15_000)
            };
            (at_ms, for_ms.min(end - at_ms))
        }
    }
}

/// The one fault of [`Shape::OwnerAway`], and the first of [`Shape::HandedOver`].
fn owner_away(dice: Dice, plan: &Plan, id: u64) -> Fault {
    let mut die = dice.stream("fault", 0, id);
    let end = plan.length.faults_ms;
    let at = At::Ms(die.within(1_000, end / 4));
    let node = die.pick(&plan.owners());
    Fault {
        id: id as u32,
        at,
        for_ms: die.within(end / 4, end * 3 / 4 - 1_000),
        what: FaultKind::Away { node },
    }
}

/// The second fault of [`Shape::HandedOver`]: all lose power right after one of them forgot what it kept for another.
fn all_dark(dice: Dice, plan: &Plan, id: u64) -> Fault {
    let mut die = dice.stream("fault", 0, id);
    let trigger = Trigger {
        event: Moment::HintDelivered,
        machine: Machine::Node(die.pick(&plan.owners())),
        count: die.magnitude(1, 40),
        after_us: die.magnitude(1, 12_000),
    };
    let what = FaultKind::PowerLoss { nodes: plan.node_numbers() };
    Fault { id: id as u32, at: At::On(trigger), for_ms: die.magnitude(100, 5_000), what }
}

/// The one fault of [`Shape::RolledBack`]: what the node holds is not what it held.
fn rolled_back(dice: Dice, plan: &Plan, id: u64) -> Fault {
    let mut die = dice.stream("fault", 0, id);
    let end = plan.length.faults_ms;
    let at = At::Ms(die.within(1_000, end / 3));
    let (node, restarted) = (die.pick(&plan.owners()), die.chance(70));
    let file = die.pick(&[Kept::Log, Kept::Log, Kept::Manifest, Kept::Identity]);
    let how = die.pick(&[Damage::Rot, Damage::Rot, Damage::Worn, Damage::Cut, Damage::Gone]);
    let what = die.weighted(&[
        (3, FaultKind::RolledBackDisk { node, restarted }),
        (3, FaultKind::RestoredSnapshot { node }),
        (4, FaultKind::DamagedFile { node, file, how }),
    ]);
    Fault { id: id as u32, at, for_ms: die.within(end / 5, end / 2), what }
}

/// The one fault of [`Shape::Wiped`].
fn wiped(dice: Dice, plan: &Plan, id: u64) -> Fault {
    let mut die = dice.stream("fault", 0, id);
    let end = plan.length.faults_ms;
    let at = At::Ms(die.within(1_000, end * 2 / 3));
    let what = FaultKind::WipedDisk { node: die.pick(&plan.owners()) };
    Fault { id: id as u32, at, for_ms: die.magnitude(100, end / 3), what }
}

fn draw_trigger(die: &mut Die, plan: &Plan, node: NodeNo) -> Trigger {
    let client = ClientNo(die.within(1, plan.clients.len() as u64) as u32);
    let weight = |moment| match moment {
        Moment::DotMinted | Moment::EditBegun => 4,
        Moment::DiskWrite
        | Moment::DiskSync
        | Moment::DiskCreate
        | Moment::DiskSyncDir
        | Moment::HintDelivered
        | Moment::ClientAcked => 1,
    };
    let own = die.weighted(&Moment::OF_NODES.map(|moment| (weight(moment), moment)));
    let (event, machine) = if die.chance(40) {
        (Moment::ClientAcked, Machine::Client(client))
    } else {
        (own, Machine::Node(node))
    };
    // Segments are made now and then; batches are written, and acks heard, all the time.
    let count = match event {
        Moment::DiskWrite | Moment::DiskSync | Moment::DotMinted | Moment::ClientAcked => {
            die.magnitude(1, 200)
        }
        Moment::DiskCreate | Moment::DiskSyncDir | Moment::EditBegun | Moment::HintDelivered => {
            die.magnitude(1, 20)
        }
    };
    // A write has left for the other replicas some microseconds after it was named, and is durable
    // here a millisecond or so later. So is an edit; and under an interval what was handed over is some later yet.
    let named = matches!(event, Moment::DotMinted | Moment::EditBegun | Moment::HintDelivered);
    let after_us = if named { die.magnitude(1, 4_000) } else { 0 };
    Trigger { event, machine, count, after_us }
}

fn draw_fault_kind(die: &mut Die, plan: &Plan, kind: &str, node: NodeNo) -> FaultKind {
    let nodes = plan.node_numbers();
    let others: Vec<NodeNo> = nodes.iter().copied().filter(|n| *n != node).collect();
    match kind {
        "partition" | "one_way" | "isolate" | "zone_split" | "slow_link" | "lossy_link"
        | "flapping_link" | "lossy_datagrams" => draw_bad_links(die, plan, kind, node),
        "crash" => FaultKind::Crash { node },
        "power_loss" => {
            let size =
                die.weighted(&[(5, 1), (2, 1 + die.clone().index(nodes.len())), (3, nodes.len())]);
            let nodes = if size == 1 { vec![node] } else { die.sample(&nodes, size) };
            FaultKind::PowerLoss { nodes }
        }
        "away" => FaultKind::Away { node },
        "crash_minority" => FaultKind::CrashMinority {
            nodes: some_with(die, &others, node, nodes.len().div_ceil(2) - 1),
        },
        "rolling_restart" => {
            FaultKind::RollingRestart { nodes, pause_ms: die.magnitude(100, 2_000) }
        }
        "full_restart" => FaultKind::FullRestart {
            order: shuffled(die, &nodes),
            pause_ms: die.magnitude(10, 3_000),
        },
        "pause_many" => FaultKind::PauseMany { nodes: some_with(die, &others, node, nodes.len()) },
        "pause" => FaultKind::Pause { node },
        "clock_drift" => FaultKind::ClockDrift { node, ppm: signed(die, 100, 100_000) },
        "clock_step" => FaultKind::ClockStep { node, ms: signed(die, 10, 100_000_000) },
        "damaged_table" => {
            let how = die.weighted(&[
                (3, Damage::Rot),
                (5, Damage::Worn),
                (1, Damage::Cut),
                (1, Damage::Gone),
            ]);
            FaultKind::DamagedTable { node, how }
        }
        "snapshot" => {
            let power_after_us = die.chance(60).then(|| die.magnitude(10, 60_000));
            FaultKind::Snapshot { node, power_after_us }
        }
        "failing_reads" => FaultKind::FailingReads { node, count: die.magnitude(1, 10) as u32 },
        "failing_writes" => FaultKind::FailingWrites { node, count: die.magnitude(1, 10) as u32 },
        "slow_disk" => FaultKind::SlowDisk { node, factor: die.magnitude(2, 1_000) as u32 },
        "failing_fsync" => FaultKind::FailingFsync { node, count: die.magnitude(1, 10) as u32 },
        "disk_full" => FaultKind::DiskFull { node, room_bytes: die.magnitude(1, 64 << 10) },
        other => unreachable!("no fault called {other} is drawn so"),
    }
}

/// What is wrong with links.
fn draw_bad_links(die: &mut Die, plan: &Plan, kind: &str, node: NodeNo) -> FaultKind {
    let nodes = plan.node_numbers();
    let others: Vec<NodeNo> = nodes.iter().copied().filter(|n| *n != node).collect();
    let other = die.pick(&others);
    match kind {
        "partition" => {
            let size = 1 + die.index(nodes.len() - 1);
            FaultKind::Partition { side: die.sample(&nodes, size) }
        }
        "one_way" => {
            let size = 1 + die.index(others.len());
            let to = die.sample(&others, size);
            if die.chance(50) {
                FaultKind::OneWay { from: vec![node], to }
            } else {
                FaultKind::OneWay { from: to, to: vec![node] }
            }
        }
        "isolate" => FaultKind::Isolate { node, clients: die.chance(30) },
        "zone_split" => {
            let zones = plan.nodes.iter().map(|n| n.zone).max().unwrap_or(1);
            FaultKind::ZoneSplit { zone: die.within(1, u64::from(zones)) as u32 }
        }
        "slow_link" => {
            FaultKind::SlowLink { from: node, to: other, extra_ms: die.magnitude(5, 3_000) }
        }
        "lossy_link" => FaultKind::LossyLink {
            from: node,
            to: other,
            loss_ppm: die.magnitude(10_000, 800_000) as u32,
        },
        "flapping_link" => {
            FaultKind::FlappingLink { from: node, to: other, period_ms: die.magnitude(100, 8_000) }
        }
        "lossy_datagrams" => FaultKind::LossyDatagrams {
            // As often as not so little that nobody may notice.
            loss_ppm: if die.chance(50) { 10_000 } else { die.magnitude(20_000, 600_000) as u32 },
            duplicate_ppm: die.within(0, 100_000) as u32,
        },
        other => unreachable!("no bad link is called {other}"),
    }
}

/// `node` and some of `others`, `most` together at the most, in no order; two at least where there may be.
fn some_with(die: &mut Die, others: &[NodeNo], node: NodeNo, most: usize) -> Vec<NodeNo> {
    let most = most.clamp(1, others.len() + 1) as u64;
    let size = die.within(2.min(most), most) as usize;
    let mut some = die.sample(others, size - 1);
    some.insert(0, node);
    some
}

fn shuffled(die: &mut Die, nodes: &[NodeNo]) -> Vec<NodeNo> {
    let mut left = nodes.to_vec();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        order.push(left.swap_remove(die.index(left.len())));
    }
    order
}
