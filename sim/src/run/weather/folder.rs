//! What happens to data folders: files that are damaged at rest, and what an operator does, who makes snapshots, opens
//! them, puts them in the place of a folder, and empties a disk that a node refuses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use starling_world::disk::DumpEntry;
use starling_world::{disk, machine, time, trace};

use crate::dice::Dice;
use crate::history::{Disturbance, Endpoint, Fault as Felt};
use crate::plan::{Damage, FaultKind, Kept, NodeNo};
use crate::run::cluster::Death;
use crate::run::lock;
use crate::run::operator::{Opened, covers};
use crate::run::recorder::node_index;

use super::Weather;
use super::script::LOOK;

const FOLDER: &str = "/data";

/// How long an operator waits for a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries while the node is busy with another one.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(200);

/// How long a node may take to find out that it cannot start.
const REFUSAL_WITHIN: Duration = Duration::from_secs(2);

/// One bit of so many bytes rots where a file is worn.
const WORN_BYTES: u64 = 60;

/// What a snapshot or a folder must be refused with: a sentence that names the file.
const TYPED: [&str; 3] = [" is damaged at byte ", "is missing", "has format version"];

/// A snapshot that an operator asked for.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    place: usize,
    node: NodeNo,
    /// The node said that it is whole and durable.
    acked: bool,
    /// What the node held all the while, encoded, in the order of the plan's keys; empty: who knows.
    held: Copies,
}

/// A node's copies, encoded, in the order of the plan's keys.
type Copies = Vec<Option<Vec<u8>>>;

impl Weather {
    /// Damages one of the node's tables; where it is worn, the few that were written last.
    pub(super) fn damage(&self, fault: u32, node: NodeNo, how: Damage) {
        let mut tables = self.files(node, |name| name.ends_with(".sst"));
        let mut die = Dice::new(self.plan.seed).stream("damage", u64::from(fault), 0);
        if tables.is_empty() {
            return;
        }
        let few = match how {
            Damage::Worn => die.within(1, 4) as usize,
            Damage::Rot | Damage::Cut | Damage::Gone => {
                tables = vec![tables.swap_remove(die.index(tables.len()))];
                1
            }
        };
        let newest = tables.len().saturating_sub(few);
        for (number, table) in tables[newest..].iter().enumerate() {
            let purpose =
                Dice::new(self.plan.seed).stream("damaged bits", fault.into(), number as u64);
            if self.spoil(node, table, how, purpose) {
                lock(&self.state).damaged.push((node, starling_world::now()));
            }
        }
    }

    /// The files of the node's folder whose names are such, by name, without those that hold nothing.
    fn files(&self, node: NodeNo, such: impl Fn(&str) -> bool) -> Vec<DumpEntry> {
        let mut files = disk::dump(self.cluster.node_machine(node), FOLDER);
        files.retain(|file| {
            let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let here = file.path.parent() == Some(Path::new(FOLDER));
            here && !file.is_dir && such(name) && !file.durable.is_empty()
        });
        files
    }

    fn spoil(
        &self,
        node: NodeNo,
        file: &DumpEntry,
        how: Damage,
        mut die: crate::dice::Die,
    ) -> bool {
        let (machine, bytes) = (self.cluster.node_machine(node), file.durable.len() as u64);
        match how {
            Damage::Rot => disk::rot(machine, &file.path, &mut die.into_rng()).is_some(),
            Damage::Worn => {
                let mut rng = die.into_rng();
                let flips = 1 + bytes / WORN_BYTES;
                (0..flips).filter(|_| disk::rot(machine, &file.path, &mut rng).is_some()).count()
                    > 0
            }
            Damage::Cut => disk::cut(machine, &file.path, die.within(0, bytes - 1)).is_ok(),
            Damage::Gone => disk::lose(machine, &file.path).is_ok(),
        }
    }

    /// Damages a file of a node that is dead, starts it, and empties its disk if it refuses to start.
    pub(super) async fn damage_file(&self, place: usize, node: NodeNo, file: Kept, how: Damage) {
        self.take_down(place, node, Death::Kill);
        time::sleep(LOOK).await;
        let files = self.files(node, |name| name.starts_with(file.name()));
        let fault = u64::from(self.plan.faults[place].id);
        let mut die = Dice::new(self.plan.seed).stream("damage", fault, 0);
        if !files.is_empty() {
            let chosen = &files[die.index(files.len())];
            self.spoil(node, chosen, how, die);
        }
        // Rot of the last write before a death looks like a torn one; of the rest of the folder nothing may be left.
        let (at, end_ns) = (Endpoint::Node(node_index(node)), starling_world::now());
        let lost = Disturbance { fault: Felt::Forgotten(at), start_ns: 0, end_ns };
        {
            let mut state = lock(&self.state);
            state.log.push(lost);
            state.damaged.push((node, end_ns));
        }
        self.bring_up(place, node);
        let machine = self.cluster.node_machine(node);
        let until = time::now() + REFUSAL_WITHIN;
        while machine::is_running(machine) && time::now() < until {
            time::sleep(LOOK).await;
        }
        if machine::is_running(machine) {
            trace::emit("folder_accepted", u64::from(node.0), 0);
            return;
        }
        let words = self.cluster.last_words(node);
        trace::emit("folder_refused", u64::from(node.0), 0);
        if !TYPED.iter().any(|typed| words.contains(typed)) {
            let text =
                format!("node {node} cannot start with a damaged {file:?} and says: {words}");
            lock(&self.state).wrong.push(text);
        }
        self.take_down(place, node, Death::Kill);
        disk::wipe(machine);
        let lost =
            Disturbance { fault: Felt::RolledBack(at), start_ns: 0, end_ns: starling_world::now() };
        lock(&self.state).log.push(lost);
        self.bring_up(place, node);
    }

    /// Asks for a snapshot; power goes `power_after` that.
    pub(super) async fn take_snapshot(
        &self,
        place: usize,
        node: NodeNo,
        power_after: Option<Duration>,
    ) {
        let machine = self.cluster.node_machine(node);
        let process = machine::epoch(machine);
        let number = {
            let state = &mut lock(&self.state).snapshots;
            state.push(Taken { place, node, acked: false, held: Vec::new() });
            state.len() - 1
        };
        let before = self.cluster.copies(node, self.plan.keys()).await.unwrap_or_default();
        let power = async {
            if let Some(after) = power_after {
                time::sleep(after).await;
                self.take_down(place, node, Death::Power);
            }
        };
        let asked = self.cluster.ask_snapshot(place, node, SNAPSHOT_PATIENCE);
        let (status, ()) = tokio::join!(asked, power);
        let held = self.still_held(node, before).await.unwrap_or_default();
        let taken = &mut lock(&self.state).snapshots[number];
        taken.acked = status == Some(201);
        // Another process may have lost what was in the memory of this one alone.
        if taken.acked && machine::epoch(machine) == process {
            taken.held = held;
        }
    }

    /// What of `before` the node holds now as well. Meanwhile it may have forgotten a tombstone, or pruned an actor, and a snapshot of
    /// any moment since is as good as it is.
    async fn still_held(&self, node: NodeNo, before: Copies) -> Result<Copies, String> {
        let now = self.cluster.copies(node, self.plan.keys()).await?;
        let still = |(before, now): (Option<Vec<u8>>, Option<Vec<u8>>)| {
            before.filter(|before| now.is_some_and(|now| covers(&now, before)))
        };
        Ok(before.into_iter().zip(now).map(still).collect())
    }

    /// Puts a snapshot that is taken now in the place of the folder later on; the node stays down after that.
    pub(super) async fn restore(&self, place: usize, node: NodeNo, third: Duration) {
        let start_ns = starling_world::now();
        let status = self.cluster.ask_snapshot(place, node, third).await;
        if status != Some(201) {
            return;
        }
        time::sleep(third).await;
        self.take_down(place, node, Death::Kill);
        if let Err(error) = self.cluster.put_snapshot_in_place(place, node).await {
            let text = format!("the snapshot of node {node} cannot be put in place: {error}");
            lock(&self.state).wrong.push(text);
        }
        let fault = Felt::RolledBack(Endpoint::Node(node_index(node)));
        let end_ns = starling_world::now();
        lock(&self.state).log.push(Disturbance { fault, start_ns, end_ns });
    }

    /// Opens every snapshot on a machine of its own, once the cluster is whole again; what is wrong with them and with
    /// what operators met before.
    pub(in crate::run) async fn check_snapshots(&self) -> Vec<String> {
        let taken = std::mem::take(&mut lock(&self.state).snapshots);
        for snapshot in taken {
            // Tables that rot do so under all their names.
            let damages = |what: &FaultKind| matches!(what, FaultKind::DamagedTable { node, .. } if *node == snapshot.node);
            if self.plan.faults.iter().any(|fault| damages(&fault.what)) {
                continue;
            }
            if let Err(wrong) = self.check_snapshot(&snapshot).await {
                let Taken { node, acked, .. } = snapshot;
                let heard = if acked { "acked" } else { "begun" };
                let text =
                    format!("the snapshot of node {node}, which was {heard}, is no good: {wrong}");
                lock(&self.state).wrong.push(text);
            }
        }
        std::mem::take(&mut lock(&self.state).wrong)
    }

    async fn check_snapshot(&self, taken: &Taken) -> Result<(), String> {
        let Taken { place, node, acked, .. } = *taken;
        let mut held = taken.held.clone();
        if !acked {
            // What a crash left is no hindrance; or it was finished, and nobody heard of it.
            held = self.cluster.copies(node, self.plan.keys()).await?;
            let deadline = time::now() + SNAPSHOT_PATIENCE;
            loop {
                match self.cluster.ask_snapshot(place, node, SNAPSHOT_PATIENCE).await {
                    Some(201) => break held = self.still_held(node, held).await?,
                    Some(409) => break held.clear(),
                    // The first asker may still be trying, and a node makes one at a time.
                    Some(503) if time::now() < deadline => time::sleep(SNAPSHOT_PAUSE).await,
                    other => {
                        return Err(format!("another of the same name cannot be made: {other:?}"));
                    }
                }
            }
        }
        let opened = self.cluster.open_snapshot(place, node).await?;
        trace::emit("snapshot_opened", u64::from(node.0), 0);
        let Opened { findings, id, copies } = opened;
        if !findings.is_empty() {
            return Err(format!("fsck says: {findings}"));
        }
        if self.cluster.node_id(node).await? == id {
            return Err("it opens under the id of its node".to_owned());
        }
        for (key, (held, copy)) in self.plan.keys().iter().zip(held.iter().zip(&copies)) {
            let Some(held) = held else { continue };
            if !copy.as_ref().is_some_and(|copy| covers(copy, held)) {
                return Err(format!("it lacks what the node held of {key} when it was asked for"));
            }
        }
        Ok(())
    }
}

/// The folder of the snapshot that the fault at `place` asks for.
pub(in crate::run) fn snapshot_folder(place: usize) -> PathBuf {
    Path::new(FOLDER).join("snapshots").join(snapshot_name(place))
}

/// What it is called.
pub(in crate::run) fn snapshot_name(place: usize) -> String {
    format!("of-fault-{place}")
}
