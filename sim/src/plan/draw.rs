//! From a seed to a plan.
//!
//! Swarm testing (Groce et al., 2012): each seed first draws which kinds of fault and operation it
//! has at all, and how extreme its settings are, and only then the faults and operations. A run
//! with everything on at once rarely reaches what needs calm, such as a full disk in a cluster that
//! is otherwise well.

use crate::dice::{Dice, Die};

use super::{
    Action, At, ClientNo, ClientPlan, Context, Fault, FaultKind, Length, Level, Link, Links,
    Machine, Moment, NodeNo, NodePlan, Operation, Plan, Settings, Trigger, VERSION,
};

/// When faults end in a drawn plan.
const FAULTS_MS: u64 = 40_000;
/// When a drawn plan ends at the earliest.
const TOTAL_MS: u64 = 60_000;

/// What a seed draws before all else.
struct Swarm {
    kinds: Vec<&'static str>,
    faults: u64,
    /// Of a hundred crashes and power losses, how many are tied to a moment of the node's life.
    tied_percent: u64,
    operations: u64,
    keys: u64,
    /// Of a hundred operations, how many go to the first few keys.
    hot_percent: u64,
    bytes_max: u64,
    /// How often each action is drawn beside the others: get, put, put with context, update, delete
    /// with context, blind delete.
    actions: [u64; 6],
    /// Of a hundred operations, how many name their own quorum.
    level_percent: u64,
    sloppy: Vec<Option<bool>>,
    /// The node that most faults of one node strike: what one fault leaves open, such as writes on a
    /// slow disk, only another one there can turn into a loss.
    victim: Option<NodeNo>,
}

/// The plan of `seed`.
pub fn draw(seed: u64) -> Plan {
    let dice = Dice::new(seed);
    let nodes = draw_nodes(dice);
    let settings = draw_settings(dice, nodes.len() as u64);
    let clients = draw_clients(dice, &settings);
    let zones = nodes.iter().map(|n| n.zone).max().unwrap_or(1);
    let swarm = draw_swarm(dice, zones, nodes.len() as u64, &settings);
    let mut plan = Plan {
        version: VERSION,
        seed,
        about: String::new(),
        expect: None,
        length: Length { faults_ms: FAULTS_MS, total_ms: TOTAL_MS },
        nodes,
        settings,
        links: draw_links(dice),
        clients,
        faults: Vec::new(),
        operations: Vec::new(),
    };
    plan.faults = (0..swarm.faults).map(|id| draw_fault(dice, &plan, &swarm, id)).collect();
    let operations = (0..swarm.operations).map(|id| draw_operation(dice, &plan, &swarm, id));
    let mut operations: Vec<Operation> = operations.collect();
    operations.sort_by_key(|op| (op.at_ms, op.id));
    plan.operations = operations;
    plan
}

fn draw_nodes(dice: Dice) -> Vec<NodePlan> {
    let mut die = dice.stream("nodes", 0, 0);
    let count = die.weighted(&[(5, 3u64), (2, 4), (5, 5), (1, 6), (1, 7)]);
    let zones = die.within(1, 3);
    let drifting = die.chance(50);
    (0..count)
        .map(|node| {
            let mut die = dice.stream("node", node, 0);
            let drift_ppm = if drifting { signed(&mut die, 1, 200) } else { 0 };
            NodePlan { zone: (node % zones) as u32 + 1, drift_ppm }
        })
        .collect()
}

fn draw_settings(dice: Dice, nodes: u64) -> Settings {
    let mut die = dice.stream("settings", 0, 0);
    let replicas = die.weighted(&[(1, 1u64), (2, 2), (12, 3), (1, 4), (2, 5)]).min(nodes) as u32;
    let quorums = [(8, Level::Quorum), (1, Level::One), (1, Level::All)];
    Settings {
        replicas,
        read_quorum: die.weighted(&quorums),
        write_quorum: die.weighted(&quorums),
        partitions: die.pick(&[16, 32, 64]),
        vnodes: die.pick(&[8, 32, 256]),
        sync_always: die.chance(85),
        request_timeout_ms: die.pick(&[500, 1_000, 2_000]),
        segment_bytes: die.pick(&[4 << 10, 64 << 10, 1 << 20, 64 << 20]),
        pair_bytes_max: die.pick(&[2 << 10, 10 << 10, 10 << 10]),
        siblings_max: die.pick(&[5, 20, 100, 100]),
        requests_in_flight_max: dice.stream("limits", 0, 0).weighted(&[
            (6, None),
            (1, Some(2)),
            (1, Some(4)),
        ]),
    }
}

fn draw_clients(dice: Dice, settings: &Settings) -> Vec<ClientPlan> {
    let mut die = dice.stream("clients", 0, 0);
    let count = die.within(1, 8);
    (0..count)
        .map(|client| {
            let mut die = dice.stream("client", client, 0);
            ClientPlan {
                retries: die.pick(&[0, 0, 1, 3]),
                retry_pause_ms: die.magnitude(1, 1_000),
                retry_elsewhere: die.chance(60),
                patience_ms: settings.request_timeout_ms * die.pick(&[1, 2, 2, 4]) / 2,
            }
        })
        .collect()
}

fn draw_links(dice: Dice) -> Links {
    let mut die = dice.stream("links", 0, 0);
    let rough = die.chance(30);
    let mut link = |fastest_us: u64, slowest_us: u64| {
        let delay_min_us = die.magnitude(fastest_us, slowest_us);
        let mut ppm = |most| if rough { die.within(0, most) as u32 } else { 0 };
        let (loss_ppm, duplicate_ppm, reorder_ppm) = (ppm(5_000), ppm(2_000), ppm(20_000));
        Link {
            delay_min_us,
            delay_max_us: delay_min_us * die.within(1, 4),
            loss_ppm,
            duplicate_ppm,
            reorder_ppm,
            bandwidth_bytes_per_s: die.chance(20).then(|| die.magnitude(1 << 20, 100 << 20)),
        }
    };
    Links {
        within_zone: link(50, 1_000),
        across_zones: link(300, 20_000),
        clients: link(50, 5_000),
    }
}

fn draw_swarm(dice: Dice, zones: u32, nodes: u64, settings: &Settings) -> Swarm {
    let mut die = dice.stream("swarm", 0, 0);
    let known: Vec<&'static str> =
        FaultKind::NAMES.into_iter().filter(|kind| zones > 1 || *kind != "zone_split").collect();
    let calm = die.chance(5);
    let mut kinds = if calm { Vec::new() } else { die.subset(&known) };
    if kinds.is_empty() && !calm {
        kinds.push(die.pick(&known));
    }
    let mut actions = [0; 6];
    for (action, weight) in actions.iter_mut().enumerate() {
        // Reads and writes are always there; each other action is in half of the seeds.
        *weight = if action < 2 || die.chance(50) { die.magnitude(1, 16) } else { 0 };
    }
    Swarm {
        faults: if kinds.is_empty() { 0 } else { die.magnitude(1, 15) },
        kinds,
        tied_percent: die.pick(&[0, 50, 90]),
        operations: FAULTS_MS / 1_000 * die.pick(&[5, 15, 20, 20, 40]),
        keys: die.magnitude(1, 80),
        hot_percent: die.pick(&[0, 50, 80]),
        bytes_max: die.magnitude(16, settings.pair_bytes_max),
        actions,
        level_percent: die.pick(&[0, 20, 80]),
        sloppy: die.pick(&[vec![None], vec![Some(false)], vec![None, Some(false), Some(true)]]),
        victim: die.chance(50).then(|| NodeNo(die.within(1, nodes) as u32)),
    }
}

fn draw_operation(dice: Dice, plan: &Plan, swarm: &Swarm, id: u64) -> Operation {
    let mut die = dice.stream("operation", 0, id);
    let hot = (swarm.keys / 8).max(1);
    let key =
        if die.chance(swarm.hot_percent) { die.within(1, hot) } else { die.within(1, swarm.keys) };
    // Now and then a value that is too large to be stored.
    let bytes_max =
        if die.within(1, 200) == 1 { plan.settings.pair_bytes_max + 100 } else { swarm.bytes_max };
    let bytes = die.magnitude(1, bytes_max);
    let choices = [
        Action::Get,
        Action::Put { bytes, context: Context::None },
        Action::Put { bytes, context: Context::Last },
        Action::Update { bytes },
        Action::Delete { context: Context::Last },
        Action::Delete { context: Context::None },
    ];
    let weighted: Vec<(u64, Action)> = swarm.actions.into_iter().zip(choices).collect();
    let own_level = die.chance(swarm.level_percent);
    let level = die.weighted(&[
        (3, Level::Quorum),
        (2, Level::One),
        (1, Level::All),
        (1, Level::Count(plan.settings.replicas)),
        (1, Level::Count(1)),
    ]);
    Operation {
        id: id as u32,
        at_ms: die.within(0, plan.length.faults_ms - 1),
        client: ClientNo(die.within(1, plan.clients.len() as u64) as u32),
        node: NodeNo(die.within(1, plan.nodes.len() as u64) as u32),
        key: key_name(key),
        action: die.weighted(&weighted),
        level: own_level.then_some(level),
        sloppy: die.pick(&swarm.sloppy),
    }
}

/// Most keys are plain; some have what trips up paths, tags and encodings.
fn key_name(number: u64) -> String {
    match number % 10 {
        7 => format!("b/{{tag}}/k{number}"),
        8 => format!("büro/ä b%2F?&k{number}"),
        9 => format!("b/a//k{number}/"),
        _ => format!("b/k{number}"),
    }
}

fn draw_fault(dice: Dice, plan: &Plan, swarm: &Swarm, id: u64) -> Fault {
    let mut die = dice.stream("fault", 0, id);
    let end = plan.length.faults_ms;
    let at_ms = die.within(500, end - 500);
    let for_ms = die.magnitude(100, 15_000).min(end - at_ms);
    let kind = die.pick(&swarm.kinds);
    let any = die.pick(&plan.node_numbers());
    let node = swarm.victim.filter(|_| id % 4 != 3).unwrap_or(any);
    let what = draw_fault_kind(&mut die, plan, kind, node);
    let tied = die.chance(swarm.tied_percent);
    let node = *what.nodes().first().unwrap_or(&NodeNo(1));
    let trigger = draw_trigger(&mut die, plan, node);
    let deadly = matches!(what, FaultKind::Crash { .. } | FaultKind::PowerLoss { .. });
    let at = if tied && deadly { At::On(trigger) } else { At::Ms(at_ms) };
    Fault { id: id as u32, at, for_ms, what }
}

fn draw_trigger(die: &mut Die, plan: &Plan, node: NodeNo) -> Trigger {
    let client = ClientNo(die.within(1, plan.clients.len() as u64) as u32);
    let weight = |moment| if moment == Moment::DotMinted { 4 } else { 1 };
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
        Moment::DiskCreate | Moment::DiskSyncDir => die.magnitude(1, 20),
    };
    // A write has left for the other replicas some microseconds after it was named, and is durable
    // here a millisecond or so later.
    let after_us = if event == Moment::DotMinted { die.magnitude(1, 4_000) } else { 0 };
    Trigger { event, machine, count, after_us }
}

fn draw_fault_kind(die: &mut Die, plan: &Plan, kind: &str, node: NodeNo) -> FaultKind {
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
        "crash" => FaultKind::Crash { node },
        "power_loss" => {
            let size =
                die.weighted(&[(5, 1), (2, 1 + die.clone().index(nodes.len())), (3, nodes.len())]);
            let nodes = if size == 1 { vec![node] } else { die.sample(&nodes, size) };
            FaultKind::PowerLoss { nodes }
        }
        "pause" => FaultKind::Pause { node },
        "clock_drift" => FaultKind::ClockDrift { node, ppm: signed(die, 100, 100_000) },
        "clock_step" => FaultKind::ClockStep { node, ms: signed(die, 10, 100_000_000) },
        "slow_disk" => FaultKind::SlowDisk { node, factor: die.magnitude(2, 1_000) as u32 },
        "failing_fsync" => FaultKind::FailingFsync { node, count: die.magnitude(1, 10) as u32 },
        "disk_full" => FaultKind::DiskFull { node, room_bytes: die.magnitude(1, 64 << 10) },
        other => unreachable!("no fault is called {other}"),
    }
}

fn signed(die: &mut Die, least: u64, most: u64) -> i64 {
    let size = die.magnitude(least, most) as i64;
    if die.chance(50) { size } else { -size }
}
