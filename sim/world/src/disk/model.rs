//! The disk itself: handles, and what each call on a file does.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::faults::{Counters, Faults, errno, os_error};
use super::file::FileBody;
use super::names::{Body, DirBody, Entry, Inode, InodeId, ROOT};
use super::timing::Timing;
use super::{FILE_BYTES_MAX, Fate, OpenMode, PENDING_BYTES_MAX, PENDING_OPS_MAX};

/// An open file. Ids are never given twice, so one from before a crash is refused, not confused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandleId(u64);

#[derive(Clone, Copy, Debug)]
struct Handle {
    inode: InodeId,
    writable: bool,
    holds_lock: bool,
}

/// What a sync did.
#[derive(Debug)]
pub enum Synced {
    /// Everything is durable; the number of changes that were not before.
    Done(u64),
    /// The device failed. The error for the caller, and what became of the dirty pages.
    Failed(io::Error, Fate),
}

/// The disk of one machine.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    handles: BTreeMap<HandleId, Handle>,
    pub(super) journal: Vec<Entry>,
    /// Bytes and changes of files that wait for a sync.
    dirty: (usize, usize),
    /// The length of all files that have a name or a handle.
    pub(super) used: u64,
    last_id: u64,
    /// See [`Disk::changes`].
    changes: u64,
    pub(super) faults: Faults,
    pub(super) timing: Timing,
    pub(super) counters: Counters,
}

impl Disk {
    /// An empty disk. Its faults draw their dice from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut disk = Disk {
            inodes: BTreeMap::new(),
            handles: BTreeMap::new(),
            journal: Vec::new(),
            dirty: (0, 0),
            used: 0,
            last_id: ROOT.0,
            changes: 0,
            faults: Faults::new(seed),
            timing: Timing::new(seed),
            counters: Counters::default(),
        };
        disk.wipe();
        disk
    }

    /// Empties the disk: a new device was put in. Faults and counters stay.
    pub fn wipe(&mut self) {
        self.inodes.clear();
        self.inodes.insert(ROOT, Inode::new(Body::Dir(DirBody::default())));
        self.handles.clear();
        self.journal.clear();
        self.dirty = (0, 0);
        self.used = 0;
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NotADirectory`, `IsADirectory` (a folder opens for reading
    /// only, as on Linux), `StorageFull`.
    pub fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<HandleId> {
        let id = match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.walk(path)?,
            OpenMode::CreateNew => {
                let at = self.name_of(path)?;
                if self.find(&at).is_some() {
                    return Err(os_error(errno::EEXIST));
                }
                self.create(at, Body::File(FileBody::default()))?
            }
        };
        let writable = mode != OpenMode::Read;
        if writable && self.inode(id).is_dir() {
            return Err(os_error(errno::EISDIR));
        }
        Ok(self.handle(Handle { inode: id, writable, holds_lock: false }))
    }

    /// Opens the file at `path`, which is made if missing, and locks it until the handle closes.
    ///
    /// # Errors
    /// `WouldBlock` when another handle holds the lock; those of [`Disk::open`].
    pub fn lock(&mut self, path: &Path) -> io::Result<HandleId> {
        let at = self.name_of(path)?;
        let inode = match self.find(&at) {
            Some(id) if self.inode(id).is_dir() => return Err(os_error(errno::EISDIR)),
            Some(id) if self.inode(id).locked => return Err(os_error(errno::EWOULDBLOCK)),
            Some(id) => id,
            None => self.create(at, Body::File(FileBody::default()))?,
        };
        self.inode_mut(inode).locked = true;
        Ok(self.handle(Handle { inode, writable: true, holds_lock: true }))
    }

    /// Closes a handle. One that a crash has closed already is ignored.
    pub fn close(&mut self, handle: HandleId) {
        let Some(Handle { inode, holds_lock, .. }) = self.handles.remove(&handle) else { return };
        let target = self.inode_mut(inode);
        target.opens -= 1;
        target.locked &= !holds_lock;
        self.release(inode);
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// EIO from the device; EBADF for a handle of a dead process; `IsADirectory`.
    pub fn read(&mut self, handle: HandleId, offset: u64, len: usize) -> io::Result<Bytes> {
        let id = self.handles.get(&handle).ok_or_else(|| os_error(errno::EBADF))?.inode;
        if self.faults.read_fails() {
            self.counters.read_errors += 1;
            return Err(os_error(errno::EIO));
        }
        self.counters.reads += 1;
        Ok(self.file_mut(id)?.read(offset, len))
    }

    /// True when this read would be answered from memory.
    pub fn is_warm(&self, handle: HandleId, offset: u64, len: usize) -> bool {
        self.handles.get(&handle).is_none_or(|handle| match &self.inode(handle.inode).body {
            Body::File(file) => file.is_warm(offset, len),
            Body::Dir(_) => true,
        })
    }

    /// Writes all of `data` at `offset`, growing the file as needed. Not durable until synced.
    ///
    /// # Errors
    /// `StorageFull`: what fits was written. EIO: a prefix may have been. `FileTooLarge`, EBADF.
    pub fn write(&mut self, handle: HandleId, offset: u64, data: Bytes) -> io::Result<()> {
        let id = self.writable(handle)?;
        let seq = self.next();
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or_else(|| os_error(errno::EFBIG))?;
        let mut fits = data.len();
        let mut outcome = Ok(());
        if let Some(room) = self.room_for(id, end) {
            fits = usize::try_from(room.saturating_sub(offset)).map_or(fits, |room| room.min(fits));
            self.counters.full += 1;
            outcome = Err(os_error(errno::ENOSPC));
        }
        if let Some(reached) = self.faults.write_fails(fits) {
            fits = reached;
            self.counters.write_errors += 1;
            outcome = Err(os_error(errno::EIO));
        }
        let durable_later = !self.faults.write_is_lost();
        self.counters.writes += 1;
        self.counters.lost_writes += u64::from(!durable_later);
        self.change(id, |file| {
            file.write(seq, offset as usize, data.slice(..fits), durable_later);
        })?;
        outcome
    }

    /// Cuts or extends (with zeros) the file to `len` bytes. Durable after a sync.
    ///
    /// # Errors
    /// `StorageFull`, `FileTooLarge`, EBADF, `InvalidInput` for a read-only handle; nothing changed.
    pub fn set_len(&mut self, handle: HandleId, len: u64) -> io::Result<()> {
        let Handle { inode: id, writable, .. } =
            *self.handles.get(&handle).ok_or_else(|| os_error(errno::EBADF))?;
        if !writable {
            return Err(os_error(errno::EINVAL));
        }
        if len > FILE_BYTES_MAX {
            return Err(os_error(errno::EFBIG));
        }
        if self.room_for(id, len).is_some() {
            self.counters.full += 1;
            return Err(os_error(errno::ENOSPC));
        }
        let seq = self.next();
        self.change(id, |file| file.set_len(seq, len as usize))
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// EBADF.
    pub fn len(&self, handle: HandleId) -> io::Result<u64> {
        let handle = self.handles.get(&handle).ok_or_else(|| os_error(errno::EBADF))?;
        Ok(self.inode(handle.inode).len())
    }

    /// Makes the file's bytes and length durable, but not its name.
    ///
    /// # Errors
    /// EBADF; a failure of the device is an outcome ([`Synced::Failed`]).
    pub fn sync(&mut self, handle: HandleId) -> io::Result<Synced> {
        let id = self.handles.get(&handle).ok_or_else(|| os_error(errno::EBADF))?.inode;
        Ok(self.sync_inode(id, None))
    }

    /// Makes the file's length durable, and of its bytes those of the sectors that `len` bytes from
    /// `offset` on touch, as a write with `RWF_DSYNC` does. What else was written waits on.
    ///
    /// # Errors
    /// EBADF; a failure of the device is an outcome ([`Synced::Failed`]), as for [`Disk::sync`].
    pub fn sync_range(&mut self, handle: HandleId, offset: u64, len: usize) -> io::Result<Synced> {
        let id = self.handles.get(&handle).ok_or_else(|| os_error(errno::EBADF))?.inode;
        Ok(self.sync_inode(id, Some((offset as usize, len))))
    }

    /// Makes the names in the folder at `path` durable. After a failure they stay pending.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; a failure of the device is an outcome ([`Synced::Failed`]).
    pub fn sync_dir(&mut self, path: &Path) -> io::Result<Synced> {
        let id = self.walk(path)?;
        Ok(self.sync_inode(id, None))
    }

    /// How many calls so far changed what a crash may leave: those that wrote, cut, synced or named
    /// something, in part too. Between two of them one crash is like another.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Closes all handles and frees their locks; the page cache is the kernel's and stays.
    pub fn process_died(&mut self) {
        while let Some((&handle, _)) = self.handles.first_key_value() {
            self.close(handle);
        }
    }

    /// Makes the file durable past all faults.
    pub(super) fn settle_file(&mut self, handle: HandleId) -> io::Result<()> {
        let id = self.writable(handle)?;
        self.change(id, |file| {
            file.sync();
        })
    }

    fn sync_inode(&mut self, id: InodeId, range: Option<(usize, usize)>) -> Synced {
        if let Some(mut dice) = self.faults.sync_fails() {
            self.counters.sync_errors += 1;
            let seq = self.next();
            let mut fate = Fate::default();
            let forget = dice.forgets_pages();
            let changed = self.change(id, |file| {
                fate = file.fail_sync(seq, forget, |_, part| dice.keeps(part));
            });
            debug_assert!(changed.is_ok() || fate == Fate::default(), "a folder has no pages");
            self.counters.lost_units += fate.lost;
            return Synced::Failed(os_error(errno::EIO), fate);
        }
        self.counters.syncs += 1;
        self.changed();
        if self.inode(id).is_dir() {
            return Synced::Done(self.sync_names(id) as u64);
        }
        let mut count = 0;
        let sync = |file: &mut FileBody| {
            count = match range {
                None => file.sync(),
                Some((offset, len)) => file.sync_range(offset, len),
            };
        };
        match self.change(id, sync) {
            Ok(()) => Synced::Done(count as u64),
            Err(error) => Synced::Failed(error, Fate::default()),
        }
    }

    /// The length to which this file may grow, if that is less than `end`.
    fn room_for(&self, id: InodeId, end: u64) -> Option<u64> {
        let len = self.inode(id).len();
        let free = self.faults.capacity?.saturating_sub(self.used);
        (end > len && end - len > free).then_some(len + free)
    }

    /// Changes a file and keeps the books on space and on what waits for a sync.
    fn change(&mut self, id: InodeId, work: impl FnOnce(&mut FileBody)) -> io::Result<()> {
        self.changed();
        let file = self.file_mut(id)?;
        let before = (file.cached.len() as u64, file.dirty());
        work(file);
        let after = (file.cached.len() as u64, file.dirty());
        self.used = self.used + after.0 - before.0;
        self.dirty.0 = self.dirty.0 + after.1.0 - before.1.0;
        self.dirty.1 = self.dirty.1 + after.1.1 - before.1.1;
        if self.dirty.0 > PENDING_BYTES_MAX || self.dirty.1 > PENDING_OPS_MAX {
            self.write_back();
        }
        Ok(())
    }

    /// Makes the data of all files durable, as a kernel does when too much waits.
    fn write_back(&mut self) {
        for inode in self.inodes.values_mut() {
            if let Body::File(file) = &mut inode.body {
                file.sync();
            }
        }
        self.dirty = (0, 0);
        self.counters.write_backs += 1;
    }

    /// Commits the whole journal when too much of it waits.
    pub(super) fn bound_journal(&mut self) {
        if self.journal.len() > PENDING_OPS_MAX {
            self.commit_journal();
            self.counters.write_backs += 1;
        }
    }

    /// Makes everything durable, names and data.
    pub(super) fn sync_all(&mut self) {
        self.write_back();
        self.commit_journal();
    }

    /// Forgets what waits for a sync and who had what open, once a crash has decided it all.
    pub(super) fn start_over(&mut self) {
        self.handles.clear();
        self.dirty = (0, 0);
        self.used = self.inodes.values().map(Inode::len).sum();
    }

    fn writable(&self, handle: HandleId) -> io::Result<InodeId> {
        match self.handles.get(&handle) {
            Some(handle) if handle.writable => Ok(handle.inode),
            Some(_) | None => Err(os_error(errno::EBADF)),
        }
    }

    fn handle(&mut self, handle: Handle) -> HandleId {
        self.inode_mut(handle.inode).opens += 1;
        let id = HandleId(self.next());
        self.handles.insert(id, handle);
        id
    }

    /// Lets go of an inode that nothing refers to any more.
    pub(super) fn release(&mut self, id: InodeId) {
        let Some(inode) = self.inodes.get_mut(&id) else { return };
        if inode.links > 0 || inode.opens > 0 {
            return;
        }
        if !inode.freed {
            inode.freed = true;
            self.used -= inode.len();
        }
        if inode.pins == 0 {
            if let Body::File(file) = &inode.body {
                let (bytes, ops) = file.dirty();
                self.dirty.0 -= bytes;
                self.dirty.1 -= ops;
            }
            self.inodes.remove(&id);
        }
    }

    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    /// A number that this disk has not used before, larger than all that it has.
    pub(super) fn next(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Keeps this disk's numbers ahead of another's, whose inodes it takes over.
    pub(super) fn never_reuse(&mut self, other: &Disk) {
        self.last_id = self.last_id.max(other.last_id);
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        self.inodes.get(&id).expect("an inode outlives what refers to it")
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an inode outlives what refers to it")
    }

    fn file_mut(&mut self, id: InodeId) -> io::Result<&mut FileBody> {
        match &mut self.inode_mut(id).body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(os_error(errno::EISDIR)),
        }
    }
}
