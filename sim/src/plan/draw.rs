//! From a seed to a plan.
//!
//! Swarm testing (Groce et al., 2012): each seed first draws which kinds of fault and operation it
//! has at all, and how extreme its settings are, and only then the faults and operations. A run
//! with everything on at once rarely reaches what needs calm, such as a full disk in a cluster that
//! is otherwise well.

mod fault;
mod founding;

use crate::dice::{Dice, Die};

use super::{
    Action, ClientNo, ClientPlan, Context, Detector, EngineSettings, FaultKind, Length, Level,
    Link, Links, NodeNo, NodePlan, Operation, Plan, Settings, VERSION,
};

/// When faults end in a drawn plan.
const FAULTS_MS: u64 = 40_000;
/// As many tables as can be: what a seed has whose tables are damaged.
pub const SMALLEST: EngineSettings = EngineSettings {
    memtable_bytes: 1 << 10,
    table_bytes: 1 << 10,
    block_bytes: 256,
    cache_bytes: 0,
};
/// When a drawn plan ends at the earliest.
const TOTAL_MS: u64 = 60_000;

/// What the faults of a seed are like as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Any, at any time.
    Mixed,
    /// One owner goes away early and stays away, and clients go on writing to its keys.
    OwnerAway,
    /// The same, and once it is back and is handed what others kept for it, all lose power.
    HandedOver,
    /// The disk of one owner is put back to an older copy, to a snapshot, or emptied because a file was damaged, and nothing
    /// else goes wrong: a node that finds nobody to ask cannot know that its disk is old.
    RolledBack,
    /// An owner loses its disk, and nothing else goes wrong.
    Wiped,
    /// Tables of any node are damaged while processes and machines die.
    Damaged,
    /// Power goes again and again in the midst of writes.
    Torn,
}

/// What a seed draws before all else.
struct Swarm {
    shape: Shape,
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
    /// Keys are used one after the other, each for a while, and deleted: so that there is time to forget them.
    passing: bool,
    /// Of a hundred operations, how many are listings.
    list_percent: u64,
    /// The node that most faults of one node strike: what one fault leaves open, such as writes on a
    /// slow disk, only another one there can turn into a loss.
    victim: Option<NodeNo>,
}

/// The plan of `seed`.
pub fn draw(seed: u64) -> Plan {
    let dice = Dice::new(seed);
    let nodes = draw_nodes(dice);
    let mut settings = draw_settings(dice, &nodes);
    let shape = draw_shape(dice);
    // Half of those whose tables are damaged keep what was drawn: older versions lie deeper where tables are large.
    if shape == Shape::Torn || shape == Shape::Damaged && dice.stream("smallest", 0, 0).chance(50) {
        settings.engine = Some(SMALLEST);
    }
    if shape == Shape::OwnerAway && is_passing(dice) {
        // Who comes back with what was deleted meanwhile hears of it by exchanges alone.
        settings.hint_age_s = Some(3);
    }
    if shape == Shape::HandedOver {
        // Who acks before the sync has more to lose, and who keeps the only copy.
        let mut die = dice.stream("handed over", 0, 0);
        settings.sync_always = die.chance(40);
        settings.replicas = if die.chance(70) { 1 } else { settings.replicas };
    }
    let clients = draw_clients(dice, &settings);
    let mut plan = Plan {
        version: VERSION,
        seed,
        about: String::new(),
        expect: None,
        length: Length { faults_ms: FAULTS_MS, total_ms: TOTAL_MS },
        nodes,
        settings,
        founding: None,
        links: draw_links(dice),
        clients,
        faults: Vec::new(),
        operations: Vec::new(),
    };
    plan.founding = founding::draw_founding(dice, &plan);
    let swarm = draw_swarm(dice, &plan, shape);
    plan.faults = (0..swarm.faults).map(|id| fault::draw_fault(dice, &plan, &swarm, id)).collect();
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
    let mut die = dice.stream("proxies", 0, 0);
    let proxies = die.weighted(&[(5, 0u64), (1, 1)]);
    (0..count + proxies)
        .map(|node| {
            let mut die = dice.stream("node", node, 0);
            let drift_ppm = if drifting { signed(&mut die, 1, 200) } else { 0 };
            NodePlan { zone: (node % zones) as u32 + 1, drift_ppm, proxy: node >= count }
        })
        .collect()
}

fn draw_settings(dice: Dice, nodes: &[NodePlan]) -> Settings {
    let owners = nodes.iter().filter(|node| !node.proxy).count() as u64;
    let (mut gossip, mut tight) = (dice.stream("gossip", 0, 0), dice.stream("tight", 0, 0));
    let mut die = dice.stream("settings", 0, 0);
    let replicas = die.weighted(&[(1, 1u64), (2, 2), (12, 3), (1, 4), (2, 5)]).min(owners) as u32;
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
        engine: draw_engine(dice),
        pair_bytes_max: die.pick(&[2 << 10, 10 << 10, 10 << 10]),
        siblings_max: {
            let usual = die.pick(&[5, 20, 100, 100]);
            if dice.stream("crowd", 0, 0).chance(12) { 2 } else { usual }
        },
        requests_in_flight_max: dice.stream("limits", 0, 0).weighted(&[
            (6, None),
            (1, Some(2)),
            (1, Some(4)),
        ]),
        gossip_interval_ms: Some(gossip.pick(&[250, 500, 500, 1_000])),
        detector: gossip.pick(&[None, Some(Detector::Phi), Some(Detector::Count)]),
        hint_age_s: gossip.chance(25).then(|| gossip.within(3, 9)),
        anti_entropy_ms: dice.stream("anti entropy", 0, 0).weighted(&[
            (2, Some(2_000)),
            (2, Some(10_000)),
            (1, None),
        ]),
        hint_bytes_max: dice
            .stream("hints", 0, 0)
            .weighted(&[(6, false), (1, true)])
            .then(|| dice.stream("hints", 0, 1).magnitude(300, 16 << 10)),
        last_write: dice.stream("last write", 0, 0).weighted(&[
            (12, vec![]),
            (2, vec!["büro".to_owned()]),
            (3, vec!["b".to_owned()]),
            (1, vec!["b".to_owned(), "büro".to_owned()]),
        ]),
        pruning: {
            let mut die = dice.stream("pruning", 0, 0);
            die.chance(25).then(|| (die.within(2, 6) as usize, die.within(1, 8)))
        },
        peer_queue_bytes: tight.chance(6).then(|| tight.magnitude(256, 8 << 10)),
        http_idle_ms: tight.chance(6).then(|| tight.within(500, 3_000)),
        peer_requests_max: tight.chance(6).then(|| tight.within(1, 4) as u32),
    }
}

/// So small that nearly every run flushes and compacts.
fn draw_engine(dice: Dice) -> Option<EngineSettings> {
    let mut die = dice.stream("engine", 0, 0);
    die.chance(92).then(|| EngineSettings {
        memtable_bytes: die.magnitude(1 << 10, 8 << 10),
        table_bytes: die.magnitude(1 << 10, 64 << 10),
        block_bytes: die.magnitude(256, 16 << 10),
        cache_bytes: die.pick(&[0, 4 << 10, 1 << 20]),
    })
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
                batch_max: {
                    let mut die = dice.stream("batch", client, 0);
                    die.chance(20).then(|| die.within(2, 20) as u32)
                },
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

fn draw_shape(dice: Dice) -> Shape {
    dice.stream("shape", 0, 0).weighted(&[
        (8, Shape::OwnerAway),
        (10, Shape::RolledBack),
        (10, Shape::Damaged),
        (5, Shape::Wiped),
        (6, Shape::Torn),
        (5, Shape::HandedOver),
        (56, Shape::Mixed),
    ])
}

fn draw_swarm(dice: Dice, plan: &Plan, shape: Shape) -> Swarm {
    let zones = plan.nodes.iter().map(|n| n.zone).max().unwrap_or(1);
    let (nodes, settings) = (plan.nodes.len() as u64, &plan.settings);
    let mut die = dice.stream("swarm", 0, 0);
    let known: Vec<&'static str> =
        FaultKind::NAMES.into_iter().filter(|kind| may_mix(kind, zones)).collect();
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
    let mut faults = if kinds.is_empty() { 0 } else { die.magnitude(1, 15) };
    let mut keys = die.magnitude(1, 80);
    if shape == Shape::Damaged {
        // Few keys, so that older versions lie beneath newer ones, and writes that not all have heard of.
        let mut die = dice.stream("damaged", 0, 0);
        kinds = vec!["damaged_table", "damaged_table", "damaged_table", "isolate", "crash"];
        (faults, keys) = (die.within(6, 16), die.within(4, 24));
    }
    let passing = is_passing(dice);
    if passing {
        // Deletes that cover what was read, more often than values that stay.
        (actions[4], actions[2]) = (12, actions[2].min(4));
        keys = keys.max(12);
    }
    if shape == Shape::Mixed && !kinds.is_empty() && !plan.settings.last_write.is_empty() {
        // Where stamps decide, clocks are wrong more often than not.
        let mut die = dice.stream("skew", 0, 0);
        if die.chance(75) {
            kinds.extend(["clock_step"; 3]);
            faults += die.within(2, 8);
        }
    }
    let mut tied_percent = die.pick(&[0, 50, 90]);
    if shape == Shape::Torn {
        (kinds, tied_percent) = (vec!["power_loss"], 95);
        faults = dice.stream("torn", 0, 0).within(4, 15);
    }
    Swarm {
        shape,
        faults: match shape {
            Shape::Mixed | Shape::Damaged | Shape::Torn => faults,
            Shape::OwnerAway | Shape::RolledBack | Shape::Wiped => 1,
            Shape::HandedOver => 2,
        },
        kinds,
        tied_percent,
        operations: FAULTS_MS / 1_000 * die.pick(&[5, 15, 20, 20, 40]),
        keys,
        hot_percent: die.pick(&[0, 50, 80]),
        bytes_max: die.magnitude(16, settings.pair_bytes_max),
        actions,
        passing,
        level_percent: die.pick(&[0, 20, 80]),
        sloppy: match (die.index(3), shape) {
            (_, Shape::OwnerAway | Shape::HandedOver) | (0, _) => vec![None],
            (1, _) | (2, Shape::Damaged) => vec![Some(false)],
            (_, _) => vec![None, Some(false), Some(true)],
        },
        list_percent: dice.stream("lists", 0, 0).weighted(&[(5, 0), (2, 3), (1, 20)]),
        victim: die.chance(50).then(|| NodeNo(die.within(1, nodes) as u32)),
    }
}

fn is_passing(dice: Dice) -> bool {
    dice.stream("passing", 0, 0).chance(35)
}

/// Whether a fault of this kind goes with any other, and with this many zones.
fn may_mix(kind: &str, zones: u32) -> bool {
    match kind {
        "zone_split" => zones > 1,
        "rolled_back_disk" | "restored_snapshot" | "damaged_file" | "wiped_disk" => false,
        _ => true,
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
    let mut list = dice.stream("list", 0, id);
    let lists = list.chance(swarm.list_percent);
    // Where there are listings, there is something to list.
    let key = if swarm.list_percent > 0 && list.chance(60) { 10 * key + TAGGED } else { key };
    let own_level = die.chance(swarm.level_percent);
    let level = die.weighted(&[
        (3, Level::Quorum),
        (2, Level::One),
        (1, Level::All),
        (1, Level::Count(plan.settings.replicas)),
        (1, Level::Count(1)),
    ]);
    let at_ms = die.within(0, plan.length.faults_ms - 1);
    let key = match swarm.passing {
        true => passing_key(dice, (plan.length.faults_ms, at_ms), swarm.keys, id),
        false => key,
    };
    Operation {
        id: id as u32,
        at_ms,
        client: ClientNo(die.within(1, plan.clients.len() as u64) as u32),
        node: NodeNo(die.within(1, plan.nodes.len() as u64) as u32),
        key: key_name(if lists { TAGGED } else { key }),
        action: {
            let single = die.weighted(&weighted);
            let many = Action::List { limit: list.within(1, 5), reverse: list.chance(50) };
            if lists { many } else { single }
        },
        ttl_s: draw_ttl(dice, id),
        level: own_level.then_some(level),
        sloppy: die.pick(&swarm.sloppy),
    }
}

/// The key whose turn it is at `at_ms`, or one of those around it.
fn passing_key(dice: Dice, (faults_ms, at_ms): (u64, u64), keys: u64, id: u64) -> u64 {
    let turn = keys * at_ms / faults_ms;
    let around = dice.stream("passing", 1, id).within(0, (keys / 8).max(1));
    1 + (turn + around) % keys
}

/// In a third of the seeds some values expire: within the run, or long after it.
fn draw_ttl(dice: Dice, id: u64) -> Option<u32> {
    let percent = dice.stream("ttl", 0, 0).weighted(&[(6, 0u64), (2, 10), (1, 60)]);
    let mut die = dice.stream("ttl", 1, id);
    die.chance(percent).then(|| die.pick(&[1, 2, 5, 15, 1_000]))
}
/// The number of a key with a tag.
const TAGGED: u64 = 7;

/// Most keys are plain; some have what trips up paths, tags and encodings.
fn key_name(number: u64) -> String {
    match number % 10 {
        7 => format!("b/{{tag}}/k{number}"),
        8 => format!("büro/ä b%2F?&k{number}"),
        9 => format!("b/a//k{number}/"),
        _ => format!("b/k{number}"),
    }
}

fn signed(die: &mut Die, least: u64, most: u64) -> i64 {
    let size = die.magnitude(least, most) as i64;
    if die.chance(50) { size } else { -size }
}
