//! Plans as text: JSON with one operation and one fault a line, so that a person can read a plan,
//! cut lines out of it, and see in a diff what changed.
//!
//! Reading checks what the type cannot say, so that the run may rely on it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{At, ClientNo, FaultKind, Level, Machine, NodeNo, Plan, VERSION};

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not JSON, or not of a plan's shape.
    #[error("not a plan: {0}")]
    Shape(#[from] serde_json::Error),
    /// Of a version that this build does not know.
    #[error(
        "plan has version {0}, this build reads version {VERSION}: draw it again from its seed"
    )]
    Version(u32),
    /// It contradicts itself.
    #[error("plan cannot run: {0}")]
    Contradiction(String),
}

impl Plan {
    /// Reads a plan and checks that it can run.
    ///
    /// # Errors
    /// [`PlanError`] says what to mend.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        let plan: Plan = serde_json::from_str(text)?;
        if plan.version != VERSION {
            return Err(PlanError::Version(plan.version));
        }
        plan.check().map_err(PlanError::Contradiction)?;
        Ok(plan)
    }

    /// The plan as text; ends with a newline.
    pub fn to_json(&self) -> String {
        let mut fields = vec![field("version", &self.version), field("seed", &self.seed)];
        if !self.about.is_empty() {
            fields.push(field("about", &self.about));
        }
        if let Some(expect) = &self.expect {
            fields.push(field("expect", expect));
        }
        fields.push(field("length", &self.length));
        fields.push(lines("nodes", &self.nodes));
        fields.push(field("settings", &self.settings));
        if let Some(founding) = &self.founding {
            fields.push(field("founding", founding));
        }
        fields.push(field("links", &self.links));
        fields.push(lines("clients", &self.clients));
        fields.push(lines("faults", &self.faults));
        fields.push(lines("operations", &self.operations));
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    /// Says what in the plan cannot be.
    fn check(&self) -> Result<(), String> {
        let settings = &self.settings;
        if self.nodes.is_empty() || self.clients.is_empty() {
            return Err("it needs a node and a client".to_owned());
        }
        if self.nodes.iter().all(|node| node.proxy) {
            return Err("it needs a node that is no proxy".to_owned());
        }
        if !settings.partitions.is_power_of_two() {
            return Err(format!("{} partitions: use a power of two", settings.partitions));
        }
        if settings.replicas == 0 {
            return Err("0 replicas: use at least 1".to_owned());
        }
        if self.length.total_ms < self.length.faults_ms {
            return Err("it ends before its faults do".to_owned());
        }
        let levels = self.operations.iter().filter_map(|op| op.level);
        for level in levels.chain([settings.read_quorum, settings.write_quorum]) {
            if matches!(level, Level::Count(n) if n == 0 || n > settings.replicas) {
                return Err(format!("a quorum of {level} of {} replicas", settings.replicas));
            }
        }
        let mut ids = BTreeSet::new();
        for operation in &self.operations {
            let (bucket, name) = operation.key.split_once('/').unwrap_or_default();
            if bucket.is_empty() || name.is_empty() {
                return Err(format!("key \"{}\" is not of the form bucket/key", operation.key));
            }
            self.check_node(operation.node)?;
            self.check_client(operation.client)?;
            if !ids.insert(operation.id) {
                return Err(format!("two operations with id {}", operation.id));
            }
        }
        self.check_founding()?;
        self.check_faults()
    }

    fn check_founding(&self) -> Result<(), String> {
        let Some(founding) = &self.founding else { return Ok(()) };
        if founding.seeds.is_empty() {
            return Err("a cluster that is founded needs a seed".to_owned());
        }
        let losses = &founding.power_losses;
        for node in founding.seeds.iter().chain(losses.iter().map(|loss| &loss.node)) {
            self.check_node(*node)?;
        }
        match losses.iter().find(|loss| loss.count == 0) {
            Some(loss) => Err(format!("{} waits for the event 0: the first is 1", loss.node)),
            None => Ok(()),
        }
    }

    fn check_faults(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for fault in &self.faults {
            if !ids.insert(fault.id) {
                return Err(format!("two faults with id {}", fault.id));
            }
            if let At::On(trigger) = &fault.at {
                match trigger.machine {
                    Machine::Node(node) => self.check_node(node)?,
                    Machine::Client(client) => self.check_client(client)?,
                }
                if trigger.count == 0 {
                    return Err(format!(
                        "fault {} waits for the event 0: the first is 1",
                        fault.id
                    ));
                }
            }
            if let FaultKind::FlappingLink { period_ms: ..10, .. } = fault.what {
                return Err(format!("fault {} flaps faster than every 10 ms", fault.id));
            }
            for node in fault.what.nodes() {
                self.check_node(node)?;
            }
        }
        Ok(())
    }

    fn check_client(&self, client: ClientNo) -> Result<(), String> {
        let known = client.0 as usize <= self.clients.len();
        known.then_some(()).ok_or_else(|| format!("there is no client {client}"))
    }

    fn check_node(&self, node: NodeNo) -> Result<(), String> {
        let known = node.0 as usize <= self.nodes.len();
        known.then_some(()).ok_or_else(|| format!("there is no node {node}"))
    }
}

impl FaultKind {
    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<NodeNo> {
        match self {
            FaultKind::Partition { side: nodes }
            | FaultKind::PowerLoss { nodes }
            | FaultKind::RollingRestart { nodes, .. }
            | FaultKind::FullRestart { order: nodes, .. }
            | FaultKind::CrashMinority { nodes }
            | FaultKind::PauseMany { nodes } => nodes.clone(),
            FaultKind::OneWay { from, to } => from.iter().chain(to).copied().collect(),
            FaultKind::SlowLink { from, to, .. }
            | FaultKind::LossyLink { from, to, .. }
            | FaultKind::FlappingLink { from, to, .. } => vec![*from, *to],
            FaultKind::Isolate { node, .. }
            | FaultKind::Crash { node }
            | FaultKind::Away { node }
            | FaultKind::RolledBackDisk { node, .. }
            | FaultKind::WipedDisk { node }
            | FaultKind::Pause { node }
            | FaultKind::ClockDrift { node, .. }
            | FaultKind::ClockStep { node, .. }
            | FaultKind::DamagedTable { node, .. }
            | FaultKind::SlowDisk { node, .. }
            | FaultKind::FailingFsync { node, .. }
            | FaultKind::FailingReads { node, .. }
            | FaultKind::FailingWrites { node, .. }
            | FaultKind::DamagedFile { node, .. }
            | FaultKind::Snapshot { node, .. }
            | FaultKind::RestoredSnapshot { node }
            | FaultKind::DiskFull { node, .. } => vec![*node],
            FaultKind::ZoneSplit { .. } | FaultKind::LossyDatagrams { .. } => Vec::new(),
        }
    }
}

fn compact(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a plan has string keys alone, so it can be written")
}

fn field(name: &str, value: &impl Serialize) -> String {
    format!("  \"{name}\": {}", compact(value))
}

fn lines(name: &str, values: &[impl Serialize]) -> String {
    if values.is_empty() {
        return format!("  \"{name}\": []");
    }
    let rows: Vec<String> = values.iter().map(|v| format!("    {}", compact(v))).collect();
    format!("  \"{name}\": [\n{}\n  ]", rows.join(",\n"))
}
