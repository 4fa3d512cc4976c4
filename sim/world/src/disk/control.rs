//! The harness's hands on the disks of machines. Every fault leaves an event in the trace.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rand::Rng;

use super::{Counters, Disk, DumpEntry, Rotten, Snapshot, Unit};
use crate::process::MachineId;
use crate::world;

fn on<T>(machine: MachineId, work: impl FnOnce(&mut Disk) -> T) -> T {
    assert!(machine != MachineId::HARNESS, "the harness has no disk");
    world::with(|w| work(&mut w.machines[machine.number() as usize].disk))
}

fn note(machine: MachineId, kind: &'static str, a: u64, b: u64) {
    world::with(|w| w.emit_of_machine(machine, kind, a, b));
}

/// Makes everything on the machine's disk take `factor` times as long; 1 heals it.
///
/// # Panics
/// When `factor` is negative or over a million.
pub fn slow(machine: MachineId, factor: f64) {
    on(machine, |disk| disk.slow(factor));
    note(machine, "disk_slow", factor.to_bits(), 0);
}

/// Stalls the machine's disk: nothing that is asked of it from now on is answered before
/// `duration` has passed.
pub fn stall(machine: MachineId, duration: Duration) {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let until = world::now().saturating_add(ns);
    on(machine, |disk| disk.stall_until(until));
    note(machine, "disk_stall", ns, 0);
}

/// See [`Disk::fail_syncs`].
pub fn fail_syncs(machine: MachineId, times: u64) {
    on(machine, |disk| disk.fail_syncs(times));
    note(machine, "disk_fail_syncs", times, 0);
}

/// See [`Disk::fail_reads`].
pub fn fail_reads(machine: MachineId, times: u64) {
    on(machine, |disk| disk.fail_reads(times));
    note(machine, "disk_fail_reads", times, 0);
}

/// See [`Disk::fail_writes`].
pub fn fail_writes(machine: MachineId, times: u64) {
    on(machine, |disk| disk.fail_writes(times));
    note(machine, "disk_fail_writes", times, 0);
}

/// See [`Disk::lose_writes`].
pub fn lose_writes(machine: MachineId, times: u64) {
    on(machine, |disk| disk.lose_writes(times));
    note(machine, "disk_lose_writes", times, 0);
}

/// See [`Disk::limit_capacity`].
pub fn limit_capacity(machine: MachineId, bytes: Option<u64>) {
    on(machine, |disk| disk.limit_capacity(bytes));
    note(machine, "disk_capacity", bytes.unwrap_or(u64::MAX), 0);
}

/// Ends every fault: a healthy disk of any capacity. What was lost or has rotted stays so.
pub fn heal(machine: MachineId) {
    on(machine, Disk::heal);
    note(machine, "disk_heal", 0, 0);
}

/// See [`Disk::rot`].
pub fn rot(machine: MachineId, prefix: impl AsRef<Path>, rng: &mut impl Rng) -> Option<Rotten> {
    let rotten = on(machine, |disk| disk.rot(prefix.as_ref(), rng));
    if let Some(rotten) = &rotten {
        note(machine, "disk_rot", rotten.offset, u64::from(rotten.bit));
    }
    rotten
}

/// Makes a file disappear, as a filesystem check does that finds no more than its inode. Who has it open reads on.
///
/// # Errors
/// That of [`Disk::remove_file`].
pub fn lose(machine: MachineId, path: impl AsRef<Path>) -> std::io::Result<()> {
    on(machine, |disk| disk.lose(path.as_ref()))?;
    note(machine, "disk_lost_file", 0, 0);
    Ok(())
}

/// Cuts a file at rest to `len` bytes. Nothing if it is not longer.
///
/// # Errors
/// `NotFound`, `IsADirectory`.
pub fn cut(machine: MachineId, path: impl AsRef<Path>, len: u64) -> std::io::Result<()> {
    on(machine, |disk| disk.cut(path.as_ref(), len))?;
    note(machine, "disk_cut_file", len, 0);
    Ok(())
}

/// The bytes in use: the lengths of all files that have a name or a handle.
pub fn used(machine: MachineId) -> u64 {
    on(machine, |disk| disk.used())
}

/// Puts an empty disk into the machine. What a running process had open is void.
pub fn wipe(machine: MachineId) {
    on(machine, Disk::wipe);
    note(machine, "disk_wipe", 0, 0);
}

/// A copy of what processes see on the machine's disk now, as a backup tool would make it.
pub fn snapshot(machine: MachineId) -> Snapshot {
    on(machine, |disk| disk.snapshot())
}

/// Puts a copy back. What a running process had open is void.
pub fn restore(machine: MachineId, snapshot: &Snapshot) {
    on(machine, |disk| disk.restore(snapshot));
    note(machine, "disk_restore", 0, 0);
}

/// Everything at or below `path`, with what processes see and what is durable.
pub fn dump(machine: MachineId, path: impl AsRef<Path>) -> Vec<DumpEntry> {
    on(machine, |disk| disk.dump(path.as_ref()))
}

/// What a loss of power could take now, in the order of the calls.
pub fn pending(machine: MachineId) -> Vec<Unit> {
    on(machine, |disk| disk.pending())
}

/// Has the machine's next loss of power keep exactly these of its pending units, less those that
/// cannot stand without one that is not among them.
pub fn keep_at_next_power_loss(machine: MachineId, kept: BTreeSet<Unit>) {
    on(machine, |disk| disk.keep_at_next_power_loss(kept));
}

/// Has `watcher` look at the machine's disk after every call of a process that [changed](Disk::changes)
/// it: at every moment at which a crash may leave something else than before. It must not call the world.
pub fn watch(machine: MachineId, watcher: impl FnMut(&Disk) + Send + 'static) {
    world::with(|w| w.machines[machine.number() as usize].watcher = Some(Box::new(watcher)));
}

/// Puts another disk into the machine, as it is, with what waits for a sync; faults and counters are
/// its own.
///
/// # Panics
/// When a process runs on the machine.
pub fn put(machine: MachineId, mut disk: Disk) {
    assert!(!crate::machine::is_running(machine), "a disk is changed while nobody uses it");
    disk.process_died();
    on(machine, |old| *old = disk);
}

/// What happened on the machine's disk so far.
pub fn counters(machine: MachineId) -> Counters {
    on(machine, |disk| disk.counters())
}
