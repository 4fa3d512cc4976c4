//! Who is asking: the process whose task is running now.

use crate::world::{self, World};

/// A machine of the world, in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub(crate) u32);

impl MachineId {
    /// The harness itself: it has a clock and tasks, but no address, no disk and no death.
    pub const HARNESS: MachineId = MachineId(0);

    /// Its number: 0 for the harness, then 1, 2, … in the order of [`add`](crate::machine::add).
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// One start of one machine's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The machine that it runs on.
    pub machine: MachineId,
    /// How many processes the machine has started, this one included; 0 for the harness.
    pub epoch: u32,
}

impl ProcessId {
    /// The harness.
    pub const HARNESS: ProcessId = ProcessId { machine: MachineId::HARNESS, epoch: 0 };
}

/// The process whose task is running; [`ProcessId::HARNESS`] in tasks of the harness. It may be
/// dead already: destructors of a dead process run late.
pub fn current() -> ProcessId {
    world::with(|w| w.current())
}

/// Does something in the name of the running process; if that is dead, nothing, for ever: its task
/// is about to be dropped.
pub(crate) async fn when_alive<R>(act: impl FnOnce(&mut World, ProcessId) -> R) -> R {
    match world::with(|w| w.current_alive().map(|process| act(w, process))) {
        Some(result) => result,
        None => std::future::pending().await,
    }
}

impl World {
    /// The process whose task is running now.
    pub(crate) fn current(&self) -> ProcessId {
        let node = madsim::plugin::node();
        self.processes.get(&node).copied().unwrap_or(ProcessId::HARNESS)
    }

    /// False from the moment at which `process` was killed, exited or lost power. The harness does
    /// not die.
    pub(crate) fn is_alive(&self, process: ProcessId) -> bool {
        let machine = &self.machines[process.machine.0 as usize];
        let current = machine.epoch == process.epoch && machine.process.is_some();
        current || process == ProcessId::HARNESS
    }

    /// The process whose task is running now, unless it is dead.
    pub(crate) fn current_alive(&self) -> Option<ProcessId> {
        Some(self.current()).filter(|process| self.is_alive(*process))
    }
}
