//! Files of the machine that asks.
//!
//! When things happen: a call first takes its time ([`Disk`] draws it from the machine's disk
//! stream), then has its whole effect in one moment, then returns. So
//!
//! - a call that is under way when its process dies has no effect (what a crash may do to calls that
//!   *did* take effect and were not synced, is the disk's business);
//! - a sync that is under way when power goes has made nothing durable by itself, but what it was to
//!   make durable is pending still, any part of which may survive;
//! - a call whose future is dropped by a living process has its effect at that moment or not at all,
//!   by a toss of the disk's coin: in the real world it would go on without its caller;
//! - [`File::write_all_at_and_sync`] is two such calls, and a crash can fall between them.
//!
//! A call of a dead process never reaches the disk.

use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::disk::{DirEntry, OpenMode};
use crate::disk::{Disk, HandleId, Synced, Work};
use crate::process::ProcessId;
use crate::time;
use crate::world::{self, World};

/// An open file with positioned reads and writes. Clones share it; it closes with the last clone.
#[derive(Clone, Debug)]
pub struct File {
    inner: Arc<Open>,
}

/// Holds a lock on a file until dropped or until the process dies.
#[derive(Debug)]
pub struct FileLock {
    _file: Open,
}

/// A handle of one process. Closing one that died with its process does nothing.
#[derive(Debug)]
struct Open {
    process: ProcessId,
    handle: HandleId,
}

impl File {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` ([`OpenMode::CreateNew`]), `PermissionDenied`, `StorageFull`.
    pub async fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
        call(Work::Name, |at| {
            let handle = at.disk().open(path, mode);
            if mode == OpenMode::CreateNew && handle.is_ok() {
                at.emit("disk_create", 0, 0);
            }
            Ok(File { inner: Arc::new(at.own(handle)?) })
        })
        .await
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the disk says; never `UnexpectedEof`.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let handle = self.inner.handle;
        let warm = at_once(|at| at.disk().is_warm(handle, offset, len));
        let work = if warm { Work::WarmRead(len) } else { Work::ColdRead(len) };
        self.call(work, |at| at.disk().read(handle, offset, len)).await
    }

    /// Writes all of `data` at `offset`, growing the file as needed. Not durable until synced.
    ///
    /// # Errors
    /// `StorageFull` and others; part of `data` may have been written.
    pub async fn write_all_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let handle = self.inner.handle;
        let len = data.len();
        self.call(Work::Write(len), |at| {
            at.emit("disk_write", offset, len as u64);
            at.disk().write(handle, offset, data)
        })
        .await
    }

    /// [`write_all_at`](File::write_all_at), then [`sync_data`](File::sync_data) of these bytes, in one
    /// hop: what else was written to the file waits on.
    ///
    /// # Errors
    /// As of both; after an error nothing written since the last good sync can be trusted.
    pub async fn write_all_at_and_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let (handle, len) = (self.inner.handle, data.len());
        self.write_all_at(offset, data).await?;
        self.call(Work::Sync, |at| {
            let synced = at.disk().sync_range(handle, offset, len);
            at.synced("disk_sync", synced)
        })
        .await
    }

    /// Makes the file's bytes and length durable (`fdatasync`). Its name needs [`sync_dir`].
    ///
    /// # Errors
    /// After an error nothing written since the last good sync can be trusted, ever.
    pub async fn sync_data(&self) -> io::Result<()> {
        let handle = self.inner.handle;
        self.call(Work::Sync, |at| {
            let synced = at.disk().sync(handle);
            at.synced("disk_sync", synced)
        })
        .await
    }

    /// Cuts or extends (with zeros) the file to `len` bytes. Durable after a sync.
    ///
    /// # Errors
    /// `StorageFull` and others.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        let handle = self.inner.handle;
        self.call(Work::Name, |at| {
            at.emit("disk_set_len", len, 0);
            at.disk().set_len(handle, len)
        })
        .await
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn len(&self) -> io::Result<u64> {
        let handle = self.inner.handle;
        self.call(Work::WarmRead(0), |at| at.disk().len(handle)).await
    }

    /// A call on this file, by the process that opened it.
    async fn call<T>(
        &self,
        work: Work,
        effect: impl FnOnce(&mut At<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let owner = self.inner.process;
        call(work, |at| {
            assert!(at.process == owner, "a file belongs to the process that opened it");
            effect(at)
        })
        .await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        world::with_if(|w| {
            if w.is_alive(self.process) {
                w.machines[self.process.machine.number() as usize].disk.close(self.handle);
            }
        });
    }
}

/// Makes the folder at `path` and those above it that are missing.
///
/// # Errors
/// `NotADirectory`, `PermissionDenied`, `StorageFull`.
pub async fn create_dir_all(path: &Path) -> io::Result<()> {
    call(Work::Name, |at| at.disk().create_dir_all(path)).await
}

/// The entries of a folder, sorted by name.
///
/// # Errors
/// `NotFound`, `NotADirectory`; `InvalidData` for a name that is not UTF-8.
pub async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    call(Work::Name, |at| at.disk().read_dir(path)).await
}

/// Gives the file at `from` the name `to`, replacing what was there, in one step. Durable after
/// [`sync_dir`]. Starling never renames a file that is open.
///
/// # Errors
/// `NotFound`, `PermissionDenied`.
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    call(Work::Name, |at| {
        at.emit("disk_rename", 0, 0);
        at.disk().rename(from, to)
    })
    .await
}

/// Gives the file at `from` a second name, `to`, which must be free and on the same file system: both
/// lead to the same bytes, and these go with the last name. Durable after [`sync_dir`] of the folder of
/// `to`.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `AlreadyExists`, `PermissionDenied` for a folder, `CrossesDevices`.
pub async fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    call(Work::Name, |at| {
        at.emit("disk_link", 0, 0);
        at.disk().hard_link(from, to)
    })
    .await
}

/// Removes the file's name; its bytes go when the last open handle closes. Durable after
/// [`sync_dir`].
///
/// # Errors
/// `NotFound`, `IsADirectory`, `PermissionDenied`.
pub async fn remove_file(path: &Path) -> io::Result<()> {
    call(Work::Name, |at| {
        at.emit("disk_remove", 0, 0);
        at.disk().remove_file(path)
    })
    .await
}

/// Makes the names in the folder at `path` durable.
///
/// # Errors
/// `NotFound`, or whatever the disk says.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    call(Work::Sync, |at| {
        let synced = at.disk().sync_dir(path);
        at.synced("disk_sync_dir", synced)
    })
    .await
}

/// Takes the exclusive lock of the file at `path`, which is made if missing.
///
/// # Errors
/// `WouldBlock` when another process, or this one, holds it.
pub async fn lock_exclusive(path: &Path) -> io::Result<FileLock> {
    call(Work::Name, |at| {
        let handle = at.disk().lock(path);
        Ok(FileLock { _file: at.own(handle)? })
    })
    .await
}

/// A process at the moment at which its call takes effect.
struct At<'a> {
    world: &'a mut World,
    process: ProcessId,
}

impl At<'_> {
    fn disk(&mut self) -> &mut Disk {
        &mut self.world.machines[self.process.machine.number() as usize].disk
    }

    fn emit(&mut self, kind: &'static str, a: u64, b: u64) {
        self.world.emit(self.process, kind, a, b);
    }

    fn own(&self, handle: io::Result<HandleId>) -> io::Result<Open> {
        Ok(Open { process: self.process, handle: handle? })
    }

    /// Shows the disk to who watches it, if it is not as it was after so many `changes`.
    fn show_watcher(&mut self, changes: u64) {
        let machine = &mut self.world.machines[self.process.machine.number() as usize];
        if let Some(watcher) = &mut machine.watcher
            && machine.disk.changes() != changes
        {
            watcher(&machine.disk);
        }
    }

    fn synced(&mut self, kind: &'static str, synced: io::Result<Synced>) -> io::Result<()> {
        match synced? {
            Synced::Done(changes) => {
                self.emit(kind, changes, 0);
                Ok(())
            }
            Synced::Failed(error, fate) => {
                self.emit("disk_sync_failed", fate.kept, fate.lost);
                Err(error)
            }
        }
    }
}

/// Takes the time that `work` takes, then has the effect, as this module's head describes.
async fn call<T>(work: Work, effect: impl FnOnce(&mut At<'_>) -> io::Result<T>) -> io::Result<T> {
    let (process, latency) = at_once(|at| {
        let now = at.world.now();
        (at.process, at.disk().latency(now, work))
    });
    let mut call = Call { process, effect: Some(effect), gives: PhantomData };
    time::sleep(latency).await;
    call.take_effect(|_| true)
        .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::Interrupted, "process is ending")))
}

/// Looks at the disk of the process that asks, now.
fn at_once<T>(look: impl FnOnce(&mut At<'_>) -> T) -> T {
    world::with(|world| {
        let process = world.current();
        assert!(process != ProcessId::HARNESS, "the harness has no disk: use the module `disk`");
        look(&mut At { world, process })
    })
}

/// A call that is under way.
struct Call<F, T>
where
    F: FnOnce(&mut At<'_>) -> io::Result<T>,
{
    process: ProcessId,
    effect: Option<F>,
    gives: PhantomData<fn() -> T>,
}

impl<F, T> Call<F, T>
where
    F: FnOnce(&mut At<'_>) -> io::Result<T>,
{
    /// Has the effect, once, if the process lives and `wanted` says so. The result is handed out
    /// of the world before it can be dropped: what it holds open closes by asking the world.
    fn take_effect(&mut self, wanted: impl FnOnce(&mut Disk) -> bool) -> Option<io::Result<T>> {
        let effect = self.effect.take()?;
        let process = self.process;
        world::with_if(|world| {
            if !world.is_alive(process) {
                return None;
            }
            let mut at = At { world, process };
            if !wanted(at.disk()) {
                return None;
            }
            let changes = at.disk().changes();
            let result = effect(&mut at);
            at.show_watcher(changes);
            if let Err(error) = &result {
                at.emit(
                    event_of(error),
                    error.raw_os_error().unwrap_or(0).unsigned_abs().into(),
                    0,
                );
            }
            Some(result)
        })
        .flatten()
    }
}

impl<F, T> Drop for Call<F, T>
where
    F: FnOnce(&mut At<'_>) -> io::Result<T>,
{
    fn drop(&mut self) {
        if self.effect.is_some() {
            let unwatched = self.take_effect(Disk::finishes_unwatched);
            drop(unwatched);
        }
    }
}

fn event_of(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::StorageFull {
        "disk_full"
    } else if error.raw_os_error() == Some(5) {
        "disk_io_error"
    } else {
        "disk_refused"
    }
}

#[cfg(test)]
mod tests;
