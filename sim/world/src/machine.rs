//! Machines and the one process that each may run: how the harness starts, stops and breaks them.
//!
//! | call | disk | sockets | packets sent before |
//! |---|---|---|---|
//! | [`kill_process`], or its boot future returns | page cache survives | closed by the kernel: FIN, or RST if unread data was left | arrive |
//! | [`power_loss`] | unsynced data is lost | vanish in silence; packets to the machine find nobody | arrive |
//! | [`pause`] | untouched | open, the kernel goes on acknowledging | arrive |
//!
//! Each start is a madsim node of its own, so that a task's node tells its machine and epoch.
//! A dead process is fenced off first, and its futures are dropped after that.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;

use madsim::task::NodeId;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::process::{MachineId, ProcessId};
use crate::rng::{self, Rng};
use crate::world::{self, Waiters, World};

/// Adds a machine, without power until its first [`start`].
///
/// # Panics
/// When the name or the address is taken, or the address is not a usable unicast address.
pub fn add(name: &str, ip: impl Into<IpAddr>) -> MachineId {
    let ip = ip.into();
    assert!(!ip.is_loopback() && !ip.is_unspecified(), "{ip} is no address of a machine");
    world::with(|w| {
        let taken = w.machines.iter().find(|machine| machine.name == name || machine.ip == ip);
        assert!(taken.is_none(), "a machine named {name} or with address {ip} exists already");
        let id = MachineId(u32::try_from(w.machines.len()).expect("fewer than 2^32 machines"));
        let disk = Disk::new(rng::number(w.seed, "disk", &[u64::from(id.0)]));
        let dice = rng::stream(w.seed, "machine", &[u64::from(id.0)]);
        w.machines.push(Machine { name: name.to_owned(), ip, ..Machine::new(disk, dice) });
        w.net.add_host(id, ip);
        id
    })
}

/// Turns the machine on if it is off, and runs `boot` there as the main task of a new process,
/// which ends when the future does.
///
/// # Panics
/// When the machine is running a process.
pub fn start<F>(machine: MachineId, boot: impl FnOnce() -> F + Send + 'static)
where
    F: Future + Send + 'static,
{
    let madsim = world::with(|w| w.madsim.clone());
    let name = world::with(|w| {
        let machine = w.machine(machine);
        assert!(machine.process.is_none(), "{} is running already", machine.name);
        format!("{}#{}", machine.name, machine.epoch + 1)
    });
    let node = madsim.create_node().name(name).build();
    let process = world::with(|w| w.process_starts(machine, node.id()));
    node.spawn(async move {
        boot().await;
        end(process, End::Exit);
    });
}

/// Kills the machine's process, as SIGKILL does; the machine stays up. Nothing if none runs.
pub fn kill_process(machine: MachineId) {
    end_current(machine, End::Kill);
}

/// Cuts the machine's power. Nothing if it is off.
pub fn power_loss(machine: MachineId) {
    end_current(machine, End::PowerLoss);
}

/// Stops the machine's process in its tracks, as SIGSTOP does: no task runs, timers fire late, the
/// kernel goes on. Nothing if none runs.
pub fn pause(machine: MachineId) {
    set_paused(machine, true);
}

/// Lets a paused process go on. Nothing if it is not paused.
pub fn resume(machine: MachineId) {
    set_paused(machine, false);
}

/// Asks the machine's process to stop, as SIGTERM does: [`shutdown`](crate::signal::shutdown)
/// completes there. Nothing if none runs.
pub fn ask_to_stop(machine: MachineId) {
    world::with(|w| {
        if let Some(running) = &mut w.machine_mut(machine).process {
            running.stop_asked = true;
            let mut waiters = std::mem::take(&mut running.stop_waiters);
            waiters.wake(&mut w.wake);
            w.emit_of_machine(machine, "process_stop_asked", 0, 0);
        }
    });
}

/// True while a process, paused or not, is on the machine.
pub fn is_running(machine: MachineId) -> bool {
    world::with(|w| w.machine(machine).process.is_some())
}

/// True while the machine's process is paused.
pub fn is_paused(machine: MachineId) -> bool {
    world::with(|w| w.machine(machine).process.as_ref().is_some_and(|running| running.paused))
}

/// True when the machine's last process ended by itself: its boot future returned.
pub fn exited(machine: MachineId) -> bool {
    world::with(|w| w.machine(machine).exited)
}

/// How many processes the machine has started.
pub fn epoch(machine: MachineId) -> u32 {
    world::with(|w| w.machine(machine).epoch)
}

/// The machine's name.
pub fn name(machine: MachineId) -> String {
    world::with(|w| w.machine(machine).name.clone())
}

/// The machine's address.
pub fn ip(machine: MachineId) -> IpAddr {
    world::with(|w| w.machine(machine).ip)
}

/// One machine. Its number is its place in the world's list.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    /// False until the first start and after a power loss: packets find nobody.
    pub(crate) powered: bool,
    pub(crate) epoch: u32,
    pub(crate) process: Option<Process>,
    pub(crate) exited: bool,
    pub(crate) clock: Clock,
    /// What the monotonic hand read when the last process started.
    pub(crate) started_reading: u64,
    pub(crate) disk: Disk,
    /// Looks at the disk after each change.
    pub(crate) watcher: Option<Watcher>,
    pub(crate) dice: Rng,
    /// How often each purpose asked for a generator since the last start.
    pub(crate) forks: BTreeMap<String, u64>,
}

/// See [`watch`](crate::disk::watch).
pub(crate) type Watcher = Box<dyn FnMut(&Disk) + Send>;

/// A process that is not dead.
pub(crate) struct Process {
    node: NodeId,
    paused: bool,
    pub(crate) stop_asked: bool,
    pub(crate) stop_waiters: Waiters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Exit,
    Kill,
    PowerLoss,
}

impl Machine {
    /// The harness, as machine 0.
    pub(crate) fn harness() -> Self {
        Self::new(Disk::new(0), rng::stream(0, "harness", &[]))
    }

    fn new(disk: Disk, dice: Rng) -> Self {
        Self {
            name: String::new(),
            ip: IpAddr::from([0, 0, 0, 0]),
            powered: false,
            epoch: 0,
            process: None,
            exited: false,
            clock: Clock::new(),
            started_reading: 0,
            disk,
            watcher: None,
            dice,
            forks: BTreeMap::new(),
        }
    }
}

fn end_current(machine: MachineId, how: End) {
    let epoch = epoch(machine);
    end(ProcessId { machine, epoch }, how);
}

fn end(process: ProcessId, how: End) {
    // The fence comes first: disk, sockets, epoch. Then madsim may drop the futures when it likes.
    let (madsim, node) = world::with(|w| (w.madsim.clone(), w.process_ends(process, how)));
    if let Some(node) = node {
        // Paused tasks would be dropped here and now, as if they were the caller's; resumed, they
        // are dropped in their own name when the executor picks them.
        madsim.resume(node);
        madsim.kill(node);
    }
}

fn set_paused(machine: MachineId, paused: bool) {
    let change = world::with(|w| {
        let running = w.machine_mut(machine).process.as_mut().filter(|p| p.paused != paused)?;
        running.paused = paused;
        let node = running.node;
        let kind = if paused { "process_pause" } else { "process_resume" };
        w.emit_of_machine(machine, kind, 0, 0);
        Some((w.madsim.clone(), node))
    });
    match change {
        Some((madsim, node)) if paused => madsim.pause(node),
        Some((madsim, node)) => madsim.resume(node),
        None => {}
    }
}

impl World {
    fn machine(&self, id: MachineId) -> &Machine {
        assert!(id != MachineId::HARNESS, "the harness is no machine to command");
        &self.machines[id.0 as usize]
    }

    fn machine_mut(&mut self, id: MachineId) -> &mut Machine {
        assert!(id != MachineId::HARNESS, "the harness is no machine to command");
        &mut self.machines[id.0 as usize]
    }

    fn process_starts(&mut self, id: MachineId, node: NodeId) -> ProcessId {
        let now = self.now();
        let machine = self.machine_mut(id);
        machine.powered = true;
        machine.exited = false;
        machine.epoch += 1;
        machine.started_reading = machine.clock.monotonic(now);
        machine.process = Some(Process {
            node,
            paused: false,
            stop_asked: false,
            stop_waiters: Waiters::default(),
        });
        machine.forks.clear();
        let process = ProcessId { machine: id, epoch: machine.epoch };
        self.processes.insert(node, process);
        self.emit(process, "process_start", 0, 0);
        process
    }

    /// Fences off the process, if it is the machine's current one, and says which node to kill.
    fn process_ends(&mut self, process: ProcessId, how: End) -> Option<NodeId> {
        let machine = self.machine_mut(process.machine);
        let over = if how == End::PowerLoss { !machine.powered } else { machine.process.is_none() };
        if machine.epoch != process.epoch || over {
            return None;
        }
        let running = machine.process.take();
        let kind = match how {
            End::Exit => "process_exit",
            End::Kill => "process_kill",
            End::PowerLoss => "power_loss",
        };
        self.emit(process, kind, 0, 0);
        let machine = self.machine_mut(process.machine);
        match how {
            End::Exit | End::Kill => {
                machine.exited = how == End::Exit;
                machine.disk.process_died();
                self.net_process_died(process);
            }
            End::PowerLoss => {
                machine.exited = false;
                machine.powered = false;
                let fate = machine.disk.power_loss();
                self.emit(process, "disk_lost_pending", fate.lost, fate.kept);
                self.net_power_loss(process.machine);
            }
        }
        running.map(|running| running.node)
    }
}
