//! After the faults: is the cluster whole again, and do its replicas agree?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use starling::domain::codec::Decoder;
use starling::domain::object::{Content, Object};
use starling_world::{machine, time, trace};
use tokio::sync::oneshot;

use crate::history::{
    FinalState, Got, Health, HintsLeft, KeyIndex, KeyInfo, NodeIndex, OpId, Outcome, ReplicaCopy,
    Unrepaired, View,
};
use crate::plan::{ClientNo, NodeNo, Plan};

use super::budget;
use super::client::Session;
use super::cluster::Cluster;
use super::recorder::Recorder;
use super::system::Abilities;

/// What a healed cluster shows; empty where something was not done in time.
#[derive(Debug, Default)]
pub(super) struct Healed {
    pub(super) finals: Vec<FinalState>,
    /// What each node lists, as soon as all agree, or as late as they may.
    pub(super) views: Vec<View>,
    /// What is left of hints, as soon as that is nothing, or as late as it may be.
    pub(super) hints_left: Option<Vec<HintsLeft>>,
    /// What home replicas hold when hints are delivered and nothing was read since the load.
    pub(super) unrepaired: Vec<Unrepaired>,
    /// How long the replicas took to be equal after the last fault had ended; `None`: they were not in time.
    pub(super) converged_ms: Option<u64>,
}

/// Waits until every node is ready, all home replicas of every key hold the same, every member is up everywhere and every
/// hint is delivered, as far as the nodes have those `abilities`; takes the replicas' copies; and only then reads
/// every key from all of its home replicas. So nothing but the nodes themselves makes replicas equal. Of nodes that do not heal, the copies are taken
/// after the reads and their repair. Does nothing if `stuck` says something already, and adds to
/// it what was not done in time.
pub(super) async fn heal(
    plan: &Arc<Plan>,
    cluster: &Arc<Cluster>,
    recorder: &Arc<Recorder>,
    abilities: Abilities,
    stuck: &mut Vec<String>,
) -> Healed {
    let mut healed = Healed::default();
    let since_ns = starling_world::now();
    if stuck.is_empty() {
        *stuck = cluster.all_ready(budget::READY_MS).await;
    }
    if !stuck.is_empty() {
        return healed;
    }
    if let Err(why) = mend(plan, cluster, recorder, (abilities, since_ns), &mut healed).await {
        stuck.push(why);
    }
    healed
}

async fn mend(
    plan: &Arc<Plan>,
    cluster: &Arc<Cluster>,
    recorder: &Arc<Recorder>,
    (abilities, since_ns): (Abilities, u64),
    healed: &mut Healed,
) -> Result<(), String> {
    if abilities.heals {
        (healed.converged_ms, _) = converged(plan, cluster, recorder, since_ns).await?;
    }
    // A write of the load that arrived between the last look at the copies and the reads would be taken for a loss.
    let stragglers_ns = budget::straggler_ms(plan) * 1_000_000;
    time::sleep_until(time::Instant::from_nanos(since_ns + stragglers_ns)).await;
    if abilities.gossips {
        healed.views = settled_views(plan, cluster).await?;
    }
    if abilities.hints {
        healed.hints_left = Some(drained_hints(plan, cluster).await?);
        healed.unrepaired = unrepaired(cluster, recorder).await?;
    }
    // In every other plan what was deleted is forgotten before the final reads; in the others they still see the tombstones.
    if abilities.heals && plan.seed % 2 == 1 {
        all_forgotten(cluster, recorder, budget::forget_ms(plan)).await?;
    }
    let keys = recorder.keys();
    let (reads, copies) = if abilities.heals {
        hold_trees_against_data(plan, cluster).await?;
        // A scan meets damage that no cache hides, and that is healed too.
        let (_, copies) = converged(plan, cluster, recorder, since_ns).await?;
        (read_everything(plan, cluster, recorder).await?, copies)
    } else {
        let reads = read_everything(plan, cluster, recorder).await?;
        (reads, settled_copies(cluster, &keys).await?)
    };
    healed.finals = finals(&keys, &reads, copies);
    Ok(())
}

/// What each node lists once all list the same and nobody is missed, or when the time for it is over.
async fn settled_views(plan: &Plan, cluster: &Cluster) -> Result<Vec<View>, String> {
    let deadline = time::now() + Duration::from_nanos(budget::agree_within_ns(plan));
    loop {
        let mut views = Vec::with_capacity(plan.nodes.len());
        for node in plan.node_numbers() {
            views.push(cluster.view(node).await?);
        }
        let whole = |view: &View| view.members.iter().all(|row| row.health == Health::Up);
        let same =
            |pair: &[View]| (&pair[0].members, pair[0].ring) == (&pair[1].members, pair[1].ring);
        if views.iter().all(whole) && views.windows(2).all(same) || time::now() >= deadline {
            return Ok(views);
        }
        time::sleep(Duration::from_millis(200)).await;
    }
}

/// The hints that are left once there are none, or when the time for it is over.
async fn drained_hints(plan: &Plan, cluster: &Cluster) -> Result<Vec<HintsLeft>, String> {
    let deadline = time::now() + Duration::from_millis(budget::DRAIN_MS);
    loop {
        let mut left = Vec::new();
        for node in plan.node_numbers() {
            left.extend(cluster.hints_left(node).await?);
        }
        left.retain(|row| row.count > 0);
        if left.is_empty() || time::now() >= deadline {
            return Ok(left);
        }
        time::sleep(Duration::from_millis(200)).await;
    }
}

/// What each home replica of each key would show by itself.
async fn unrepaired(cluster: &Cluster, recorder: &Recorder) -> Result<Vec<Unrepaired>, String> {
    let keys = recorder.keys();
    let all: Vec<KeyIndex> = (0..keys.len() as u32).map(KeyIndex).collect();
    let mut shown = Vec::new();
    for (key, copies) in copies(cluster, &keys, &all).await? {
        for ReplicaCopy { node, bytes } in copies {
            shown.push(Unrepaired { node, key, got: show(bytes.as_deref(), recorder)? });
        }
    }
    Ok(shown)
}

/// Waits until the home replicas of every key hold the same, nobody is in doubt and no hint is left; how long that took,
/// counted from `since_ns` (`None`: it was not so when the time for it was over), and what they hold.
///
/// To look is to read: damage that nobody met is met here.
async fn converged(
    plan: &Plan,
    cluster: &Cluster,
    recorder: &Recorder,
    since_ns: u64,
) -> Result<(Option<u64>, BTreeMap<KeyIndex, Vec<ReplicaCopy>>), String> {
    let keys = recorder.keys();
    let all: Vec<KeyIndex> = (0..keys.len() as u32).map(KeyIndex).collect();
    let deadline = time::now() + Duration::from_millis(budget::converge_ms(plan));
    loop {
        let at_ns = starling_world::now();
        let mut whole = true;
        for node in plan.owners() {
            whole &= !cluster.doubts(node).await? && cluster.hints_left(node).await?.is_empty();
        }
        let copies = copies(cluster, &keys, &all).await?;
        let equal = |copies: &Vec<ReplicaCopy>| {
            copies.windows(2).all(|pair| pair[0].bytes == pair[1].bytes)
        };
        if whole && copies.values().all(equal) {
            return Ok((Some((at_ns - since_ns) / 1_000_000), copies));
        }
        if time::now() >= deadline {
            return Ok((None, copies));
        }
        time::sleep(Duration::from_millis(budget::CONVERGE_LOOK_MS)).await;
    }
}

/// Waits until no home replica holds a key of which nothing but tombstones is left.
async fn all_forgotten(
    cluster: &Cluster,
    recorder: &Recorder,
    within_ms: u64,
) -> Result<(), String> {
    let keys = recorder.keys();
    let all: Vec<KeyIndex> = (0..keys.len() as u32).map(KeyIndex).collect();
    let deadline = time::now() + Duration::from_millis(within_ms);
    loop {
        let copies = copies(cluster, &keys, &all).await?;
        let is_spent = |copy: &ReplicaCopy| {
            let bytes = copy.bytes.as_deref().unwrap_or_default();
            let object = Object::decode(&mut Decoder::new(bytes)).ok();
            object.and_then(|object| object.spent_at_ms()) == Some(0)
        };
        let left = copies.iter().find(|(_, copies)| copies.iter().any(is_spent));
        let Some((key, _)) = left else { return Ok(()) };
        if time::now() >= deadline {
            return Err(format!(
                "what was deleted of {} is not forgotten {} s after every member was up and every hint \
                 delivered",
                keys[key.0 as usize].name,
                within_ms / 1_000
            ));
        }
        time::sleep(Duration::from_millis(500)).await;
    }
}

/// Every tree must be there, and be the one that a scan of the data makes.
async fn hold_trees_against_data(plan: &Plan, cluster: &Cluster) -> Result<(), String> {
    let deadline = time::now() + Duration::from_millis(budget::REPAIR_MS);
    for node in plan.owners() {
        loop {
            let trees = cluster.trees(node).await?;
            if !trees.wrong.is_empty() {
                return Err(format!(
                    "the trees of partitions {:?} of {node} are not those of what it holds",
                    trees.wrong
                ));
            }
            if trees.unready == 0 {
                break;
            }
            if time::now() >= deadline {
                return Err(format!("{} trees of {node} are not built in time", trees.unready));
            }
            time::sleep(Duration::from_millis(budget::CONVERGE_LOOK_MS)).await;
        }
    }
    Ok(())
}

/// What a reader would be shown of an object, encoded.
fn show(bytes: Option<&[u8]>, recorder: &Recorder) -> Result<Got, String> {
    let Some(bytes) = bytes else { return Ok(Got::default()) };
    let object = Object::decode(&mut Decoder::new(bytes))
        .map_err(|error| format!("what a replica holds is no object: {error}"))?;
    let mut got = Got { context: true, ..Got::default() };
    for sibling in object.siblings() {
        match &sibling.content {
            Content::Tombstone => got.deleted_shown = true,
            Content::Value(value) => match recorder.recognise(value) {
                Some(value) => got.values.push(value),
                None => got.strange.push(String::from_utf8_lossy(value).chars().take(40).collect()),
            },
        }
    }
    Ok(got)
}

/// The observer reads every key with `r=all`, each from another node than the one before, until it
/// has an answer. Gives the reads that were answered, in the order of the keys.
async fn read_everything(
    plan: &Arc<Plan>,
    cluster: &Arc<Cluster>,
    recorder: &Arc<Recorder>,
) -> Result<Vec<OpId>, String> {
    let observer = ClientNo(plan.clients.len() as u32 + 1);
    let mut session = Session::new(plan, cluster, recorder, observer);
    let (answer, answered) = oneshot::channel();
    let plan = Arc::clone(plan);
    machine::start(cluster.observer(), move || async move {
        // The harness has given up waiting if nobody listens.
        answer.send(read_each(&plan, &mut session).await).ok();
    });
    answered.await.expect("the observer's machine is never stopped")
}

async fn read_each(plan: &Plan, session: &mut Session) -> Result<Vec<OpId>, String> {
    let mut reads = Vec::new();
    for (place, key) in plan.keys().iter().enumerate() {
        let node = NodeNo((place % plan.nodes.len()) as u32 + 1);
        reads.push(read_one(session, key, node).await?);
    }
    Ok(reads)
}

async fn read_one(session: &mut Session, key: &str, node: NodeNo) -> Result<OpId, String> {
    let deadline = time::now() + Duration::from_millis(budget::FINAL_READ_MS);
    loop {
        match session.read_all(key, node).await {
            (id, Outcome::Got(_)) => return Ok(id),
            (_, outcome) if time::now() >= deadline => {
                return Err(format!(
                    "a read of key {key} with r=all, asked of {node} after every fault had ended and \
                     every node was ready, still fails after {} s: {outcome:?}",
                    budget::FINAL_READ_MS / 1_000
                ));
            }
            (_, _) => time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The copies of each key by home replica, once they are equal, or as they are when read repair has
/// had its time.
async fn settled_copies(
    cluster: &Cluster,
    keys: &[KeyInfo],
) -> Result<BTreeMap<KeyIndex, Vec<ReplicaCopy>>, String> {
    let deadline = time::now() + Duration::from_millis(budget::REPAIR_MS);
    let mut settled = BTreeMap::new();
    let mut open: Vec<KeyIndex> = (0..keys.len() as u32).map(KeyIndex).collect();
    loop {
        let copies = copies(cluster, keys, &open).await?;
        let over = time::now() >= deadline;
        for (key, copies) in copies {
            let equal = copies.windows(2).all(|pair| pair[0].bytes == pair[1].bytes);
            if equal || over {
                settled.insert(key, copies);
            }
        }
        open.retain(|key| !settled.contains_key(key));
        if open.is_empty() {
            return Ok(settled);
        }
        time::sleep(Duration::from_millis(500)).await;
    }
}

/// The copies of `wanted` keys now, one question to each node.
async fn copies(
    cluster: &Cluster,
    keys: &[KeyInfo],
    wanted: &[KeyIndex],
) -> Result<BTreeMap<KeyIndex, Vec<ReplicaCopy>>, String> {
    let mut held: BTreeMap<NodeIndex, Vec<KeyIndex>> = BTreeMap::new();
    for key in wanted {
        for home in &keys[key.0 as usize].homes {
            held.entry(*home).or_default().push(*key);
        }
    }
    let mut copies: BTreeMap<KeyIndex, Vec<ReplicaCopy>> = BTreeMap::new();
    for (node, of) in held {
        let names = of.iter().map(|key| keys[key.0 as usize].name.clone()).collect();
        let found = cluster.copies(NodeNo(node.0 + 1), names).await?;
        for (key, bytes) in of.into_iter().zip(found) {
            copies.entry(key).or_default().push(ReplicaCopy { node, bytes });
        }
    }
    Ok(copies)
}

fn finals(
    keys: &[KeyInfo],
    reads: &[OpId],
    mut copies: BTreeMap<KeyIndex, Vec<ReplicaCopy>>,
) -> Vec<FinalState> {
    let mut finals = Vec::with_capacity(keys.len());
    for (place, read) in reads.iter().enumerate() {
        let key = KeyIndex(place as u32);
        let copies = copies.remove(&key).unwrap_or_default();
        for copy in &copies {
            let digest = copy.bytes.as_deref().map_or(0, crate::dice::fnv1a_bytes);
            trace::emit("final_copy", u64::from(key.0) << 32 | u64::from(copy.node.0), digest);
        }
        finals.push(FinalState { key, read: *read, copies });
    }
    finals
}
