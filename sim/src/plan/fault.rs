//! What goes wrong, when, and for how long.

use serde::{Deserialize, Serialize};

use super::{ClientNo, NodeNo};

/// One fault. Faults may overlap; where two set the same thing, the later one wins until it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its number among the faults of the plan; removing others does not change it.
    pub id: u32,
    /// When it begins.
    pub at: At,
    /// How long it lasts; cut short when healing begins.
    pub for_ms: u64,
    /// What it does.
    pub what: FaultKind,
}

/// When a fault begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// So many milliseconds after every node was ready.
    Ms(u64),
    /// At a moment in the life of a machine.
    On(Trigger),
}

/// A moment in the life of a machine: right after it did what `event` tells for the `count`th time,
/// counted from the moment when every node was ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// What it did.
    pub event: Moment,
    /// Who did it.
    pub machine: Machine,
    /// How many times it does it, this one included; from 1.
    pub count: u64,
    /// How long after it, in simulated microseconds.
    #[serde(default, skip_serializing_if = "super::is_zero_u64")]
    pub after_us: u64,
}

/// A node or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Machine {
    /// A node's: n1, n2, …
    Node(NodeNo),
    /// A client's: c1, c2, …
    Client(ClientNo),
}

/// What faults can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// A node wrote to a file; nothing of it is synced yet.
    DiskWrite,
    /// A node synced a file; nobody has been told yet.
    DiskSync,
    /// A node made a file; the name is not durable yet.
    DiskCreate,
    /// A node synced a folder.
    DiskSyncDir,
    /// A node named a write, which is on its way to the log and to the other replicas.
    DotMinted,
    /// A node is about to write an edit of its manifest.
    EditBegun,
    /// A node forgot what it kept for another, who has it now.
    HintDelivered,
    /// A client heard that its write is acked.
    ClientAcked,
}

impl Moment {
    /// Those in the life of a node.
    pub const OF_NODES: [Moment; 7] = [
        Moment::DiskWrite,
        Moment::DiskSync,
        Moment::DiskCreate,
        Moment::DiskSyncDir,
        Moment::DotMinted,
        Moment::EditBegun,
        Moment::HintDelivered,
    ];

    /// The kind of the event in the trace.
    pub const fn name(self) -> &'static str {
        match self {
            Moment::DiskWrite => "disk_write",
            Moment::DiskSync => "disk_sync",
            Moment::DiskCreate => "disk_create",
            Moment::DiskSyncDir => "disk_sync_dir",
            Moment::DotMinted => "dot_minted",
            Moment::EditBegun => "edit_begun",
            Moment::HintDelivered => "hint_delivered",
            Moment::ClientAcked => "client_acked",
        }
    }
}

impl TryFrom<String> for Machine {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with('c') {
            ClientNo::try_from(text).map(Machine::Client)
        } else {
            NodeNo::try_from(text).map(Machine::Node)
        }
    }
}

impl From<Machine> for String {
    fn from(machine: Machine) -> String {
        match machine {
            Machine::Node(node) => node.to_string(),
            Machine::Client(client) => client.to_string(),
        }
    }
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A bit of it is another.
    Rot,
    /// Bits of most of its blocks are others, and of the few that were written last before it.
    Worn,
    /// Its end is gone.
    Cut,
    /// It is gone; who has it open reads on.
    Gone,
}

/// A file of a node's data folder that is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A segment of the log.
    Log,
    /// The manifest.
    Manifest,
    /// Who the node is.
    Identity,
}

impl Kept {
    /// How its file's name begins.
    pub const fn name(self) -> &'static str {
        match self {
            Kept::Log => "log-",
            Kept::Manifest => "manifest-",
            Kept::Identity => "identity",
        }
    }
}

/// What a fault does. Links between nodes and clients are left alone unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The nodes named hear nothing from the others, nor the others from them.
    Partition {
        /// One side; the other nodes are the other.
        side: Vec<NodeNo>,
    },
    /// Nothing gets from some nodes to some others; the way back is open.
    OneWay {
        /// Whose packets are lost.
        from: Vec<NodeNo>,
        /// On the way to whom.
        to: Vec<NodeNo>,
    },
    /// One node is cut off.
    Isolate {
        /// Which.
        node: NodeNo,
        /// True: from clients too.
        clients: bool,
    },
    /// One zone is cut off from the others.
    ZoneSplit {
        /// Which.
        zone: u32,
    },
    /// Packets take longer, one way.
    SlowLink {
        /// From which node.
        from: NodeNo,
        /// To which.
        to: NodeNo,
        /// By so much at least; up to twice as much.
        extra_ms: u64,
    },
    /// Packets are lost, one way.
    LossyLink {
        /// From which node.
        from: NodeNo,
        /// To which.
        to: NodeNo,
        /// So many of a million.
        loss_ppm: u32,
    },
    /// A link is cut and whole by turns, both ways: half of each period is cut, and it begins so.
    FlappingLink {
        /// One end.
        from: NodeNo,
        /// The other.
        to: NodeNo,
        /// How long a cut and what follows it last together; 10 at least.
        period_ms: u64,
    },
    /// Datagrams between nodes are lost or doubled; connections do not feel it.
    LossyDatagrams {
        /// So many of a million are lost.
        loss_ppm: u32,
        /// So many of a million arrive twice.
        duplicate_ppm: u32,
    },
    /// One node after the other is asked to stop, stays down for a while, and is started again.
    RollingRestart {
        /// Whose turn it is, in this order.
        nodes: Vec<NodeNo>,
        /// How long each is down, and how long it runs before the next is stopped.
        pause_ms: u64,
    },
    /// All processes are killed at once, and start one after the other.
    FullRestart {
        /// In this order.
        order: Vec<NodeNo>,
        /// How long after the one before; the first too.
        pause_ms: u64,
    },
    /// One process is killed and stays away for long: past the detector's bound, or the age of hints.
    Away {
        /// Whose.
        node: NodeNo,
    },
    /// When the fault begins, a copy of the disk is taken. In the last third of the fault the process is dead,
    /// and comes back with that copy for a disk.
    RolledBackDisk {
        /// Whose.
        node: NodeNo,
        /// True: the node was restarted after the first third, so the copy is of a process before the last.
        restarted: bool,
    },
    /// The process is killed and its disk is empty; it starts again, under the same name, when the fault ends.
    WipedDisk {
        /// Whose.
        node: NodeNo,
    },
    /// Some processes, fewer than half, are killed at once and stay away past the detector's bound.
    CrashMinority {
        /// Whose.
        nodes: Vec<NodeNo>,
    },
    /// Several processes stand still at the same time.
    PauseMany {
        /// Whose.
        nodes: Vec<NodeNo>,
    },
    /// The process dies at once, and starts again when the fault ends. What it wrote to files is
    /// there, synced or not.
    Crash {
        /// Whose.
        node: NodeNo,
    },
    /// Power is gone at once, and comes back when the fault ends. Of what was not synced, some
    /// survives.
    PowerLoss {
        /// Whose.
        nodes: Vec<NodeNo>,
    },
    /// The process stands still; its machine still acknowledges packets.
    Pause {
        /// Whose.
        node: NodeNo,
    },
    /// The clock runs too fast or too slow.
    ClockDrift {
        /// Whose.
        node: NodeNo,
        /// By so many millionths.
        ppm: i64,
    },
    /// The wall clock jumps, and jumps back when the fault ends.
    ClockStep {
        /// Whose.
        node: NodeNo,
        /// By so much.
        ms: i64,
    },
    /// The disk takes longer.
    SlowDisk {
        /// Whose.
        node: NodeNo,
        /// So many times as long.
        factor: u32,
    },
    /// The next fsyncs fail, and what they should have made durable is not.
    FailingFsync {
        /// Whose.
        node: NodeNo,
        /// How many.
        count: u32,
    },
    /// One of the node's tables is damaged at rest, once; nothing if it has none. Unless a bit rots, the process is
    /// killed before, and starts again when the fault ends.
    DamagedTable {
        /// Whose.
        node: NodeNo,
        /// How.
        how: Damage,
    },
    /// The next reads of the disk fail.
    FailingReads {
        /// Whose.
        node: NodeNo,
        /// How many.
        count: u32,
    },
    /// The next writes to the disk fail, some after a part of their bytes.
    FailingWrites {
        /// Whose.
        node: NodeNo,
        /// How many.
        count: u32,
    },
    /// The process is killed, and starts again on a folder in which one file is damaged. If it refuses that, as it may by
    /// name alone, an operator empties the disk, and it starts anew.
    DamagedFile {
        /// Whose.
        node: NodeNo,
        /// Which.
        file: Kept,
        /// How.
        how: Damage,
    },
    /// An operator asks the node for a snapshot. When all is over the snapshot is opened elsewhere.
    Snapshot {
        /// Whose.
        node: NodeNo,
        /// The machine loses its power so many microseconds later, and has it back when the fault ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        power_after_us: Option<u64>,
    },
    /// An operator asks the node for a snapshot when the fault begins. In the last third of the fault the process is dead,
    /// and comes back with that snapshot for a data folder.
    RestoredSnapshot {
        /// Whose.
        node: NodeNo,
    },
    /// The disk fills up.
    DiskFull {
        /// Whose.
        node: NodeNo,
        /// What still fits.
        room_bytes: u64,
    },
}

impl FaultKind {
    /// The names of all kinds, in the order of their declaration.
    pub const NAMES: [&'static str; 29] = [
        "partition",
        "one_way",
        "isolate",
        "zone_split",
        "slow_link",
        "lossy_link",
        "flapping_link",
        "lossy_datagrams",
        "rolling_restart",
        "full_restart",
        "away",
        "crash_minority",
        "pause_many",
        "crash",
        "power_loss",
        "pause",
        "clock_drift",
        "clock_step",
        "slow_disk",
        "failing_fsync",
        "disk_full",
        "rolled_back_disk",
        "damaged_table",
        "wiped_disk",
        "failing_reads",
        "failing_writes",
        "damaged_file",
        "snapshot",
        "restored_snapshot",
    ];

    /// True for those that an operator causes, from a machine of his own.
    pub const fn is_operators(&self) -> bool {
        matches!(self, FaultKind::Snapshot { .. } | FaultKind::RestoredSnapshot { .. })
    }

    /// Its name, in plans and reports.
    pub const fn name(&self) -> &'static str {
        match self {
            FaultKind::Partition { .. } => "partition",
            FaultKind::OneWay { .. } => "one_way",
            FaultKind::Isolate { .. } => "isolate",
            FaultKind::ZoneSplit { .. } => "zone_split",
            FaultKind::SlowLink { .. } => "slow_link",
            FaultKind::LossyLink { .. } => "lossy_link",
            FaultKind::FlappingLink { .. } => "flapping_link",
            FaultKind::LossyDatagrams { .. } => "lossy_datagrams",
            FaultKind::RollingRestart { .. } => "rolling_restart",
            FaultKind::FullRestart { .. } => "full_restart",
            FaultKind::Away { .. } => "away",
            FaultKind::CrashMinority { .. } => "crash_minority",
            FaultKind::PauseMany { .. } => "pause_many",
            FaultKind::Crash { .. } => "crash",
            FaultKind::PowerLoss { .. } => "power_loss",
            FaultKind::Pause { .. } => "pause",
            FaultKind::ClockDrift { .. } => "clock_drift",
            FaultKind::ClockStep { .. } => "clock_step",
            FaultKind::SlowDisk { .. } => "slow_disk",
            FaultKind::FailingFsync { .. } => "failing_fsync",
            FaultKind::DiskFull { .. } => "disk_full",
            FaultKind::DamagedTable { .. } => "damaged_table",
            FaultKind::RolledBackDisk { .. } => "rolled_back_disk",
            FaultKind::WipedDisk { .. } => "wiped_disk",
            FaultKind::FailingReads { .. } => "failing_reads",
            FaultKind::FailingWrites { .. } => "failing_writes",
            FaultKind::DamagedFile { .. } => "damaged_file",
            FaultKind::Snapshot { .. } => "snapshot",
            FaultKind::RestoredSnapshot { .. } => "restored_snapshot",
        }
    }
}
