//! Folders, and the journal of changes to them.
//!
//! A folder has two lists of names: the live one, which every path walks, and the durable one, which
//! is what is left when power goes. A change of names is an entry of one journal for the whole disk,
//! so that a rename is one step even between two folders. Syncing a folder plays onto the durable
//! lists every entry that concerns the folder, together with those it depends on; a loss of power
//! plays any set of entries that is closed under the same dependencies:
//!
//! - an entry depends on each earlier one that concerns the same name of the same folder;
//! - a rename of a folder depends on all earlier entries (a folder must never end up inside itself).
//!
//! Stricter than ext4: a new file's name is not durable because the file was synced, and a new
//! folder's name is not durable because the folder was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::faults::{errno, os_error};
use super::file::FileBody;
use super::{DirEntry, Disk, Fate};

/// The longest name that Linux's filesystems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// What a machine's paths start from.
pub(super) const ROOT: InodeId = InodeId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(pub(super) u64);

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// Names in live folders that lead to it.
    pub(super) links: u32,
    /// Open handles.
    pub(super) opens: u32,
    /// Durable names and journal entries that refer to it: it must outlive them.
    pub(super) pins: u32,
    /// Its space was given back: it has neither name nor handle.
    pub(super) freed: bool,
    /// It is locked by an open handle.
    pub(super) locked: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(FileBody),
    Dir(DirBody),
}

#[derive(Clone, Debug, Default)]
pub(super) struct DirBody {
    pub(super) live: BTreeMap<String, InodeId>,
    pub(super) durable: BTreeMap<String, InodeId>,
}

/// One name in one folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) dir: InodeId,
    pub(super) name: String,
}

/// One change of names that is not durable yet.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) inode: InodeId,
    pub(super) change: NameChange,
    /// It moved a folder.
    moves_dir: bool,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Create(Name),
    Remove(Name),
    Rename(Name, Name),
}

impl NameChange {
    fn names(&self) -> (&Name, Option<&Name>) {
        match self {
            NameChange::Create(at) | NameChange::Remove(at) => (at, None),
            NameChange::Rename(from, to) => (from, Some(to)),
        }
    }

    fn any(&self, mut test: impl FnMut(&Name) -> bool) -> bool {
        let (first, second) = self.names();
        test(first) || second.is_some_and(test)
    }
}

impl Inode {
    pub(super) fn new(body: Body) -> Self {
        Inode { body, links: 1, opens: 0, pins: 0, freed: false, locked: false }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    /// The length that readers see; 0 for a folder.
    pub(super) fn len(&self) -> u64 {
        match &self.body {
            Body::File(file) => file.cached.len() as u64,
            Body::Dir(_) => 0,
        }
    }
}

impl Disk {
    /// Makes the folder at `path` and those above it that are missing.
    ///
    /// # Errors
    /// `AlreadyExists` when `path` is a file, `NotADirectory` when something above it is one,
    /// `StorageFull`.
    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let error = match self.walk(path) {
            Ok(id) if self.inode(id).is_dir() => return Ok(()),
            Ok(_) => return Err(os_error(errno::EEXIST)),
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        let Some(parent) = path.parent() else { return Err(error) };
        self.create_dir_all(parent)?;
        let at = self.name_of(path)?;
        self.create(at, Body::Dir(DirBody::default()))?;
        Ok(())
    }

    /// The entries of the folder at `path`, sorted by name.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(self.walk(path)?)?;
        let entry = |(name, id): (&String, &InodeId)| {
            let inode = self.inode(*id);
            DirEntry { name: name.clone(), is_dir: inode.is_dir(), len: inode.len() }
        };
        Ok(dir.live.iter().map(entry).collect())
    }

    /// Gives what is at `from` the name `to`, replacing what was there, in one step.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `IsADirectory`, `DirectoryNotEmpty`, `InvalidInput` for a folder
    /// into itself.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.name_of(from)?, self.name_of(to)?);
        let id = self.find(&from).ok_or_else(|| os_error(errno::ENOENT))?;
        let moves_dir = self.inode(id).is_dir();
        if moves_dir && self.is_within(to.dir, id) {
            return Err(os_error(errno::EINVAL));
        }
        if let Some(old) = self.find(&to) {
            if old == id {
                return Ok(());
            }
            match (&self.inode(old).body, moves_dir) {
                (Body::Dir(_), false) => return Err(os_error(errno::EISDIR)),
                (Body::File(_), true) => return Err(os_error(errno::ENOTDIR)),
                (Body::Dir(dir), true) if !dir.live.is_empty() => {
                    return Err(os_error(errno::ENOTEMPTY));
                }
                (Body::Dir(_), true) | (Body::File(_), false) => {}
            }
            self.unlink(&to, old);
        }
        self.live_names(from.dir).remove(&from.name);
        self.live_names(to.dir).insert(to.name.clone(), id);
        self.log(id, NameChange::Rename(from, to), moves_dir);
        Ok(())
    }

    /// Gives the file at `from` a second name, `to`: both lead to the same bytes.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `AlreadyExists`, `PermissionDenied` for a folder.
    pub fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.name_of(from)?;
        let id = self.find(&from).ok_or_else(|| os_error(errno::ENOENT))?;
        let to = self.name_of(to)?;
        if self.find(&to).is_some() {
            return Err(os_error(errno::EEXIST));
        }
        if self.inode(id).is_dir() {
            return Err(os_error(errno::EPERM));
        }
        self.live_names(to.dir).insert(to.name.clone(), id);
        self.inode_mut(id).links += 1;
        self.log(id, NameChange::Create(to), false);
        Ok(())
    }

    /// Removes the file's name; its bytes go when its last handle closes.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `IsADirectory`.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let at = self.name_of(path)?;
        let id = self.find(&at).ok_or_else(|| os_error(errno::ENOENT))?;
        if self.inode(id).is_dir() {
            return Err(os_error(errno::EISDIR));
        }
        self.log(id, NameChange::Remove(at.clone()), false);
        self.unlink(&at, id);
        Ok(())
    }

    /// Makes the names in the folder durable; says how many changes that were.
    pub(super) fn sync_names(&mut self, dir: InodeId) -> usize {
        let mut wanted = BTreeSet::new();
        let mut all_before = false;
        let mut chosen = vec![false; self.journal.len()];
        for (entry, chosen) in self.journal.iter().zip(&mut chosen).rev() {
            *chosen = all_before || entry.change.any(|at| at.dir == dir || wanted.contains(at));
            if *chosen {
                all_before |= entry.moves_dir;
                let (first, second) = entry.change.names();
                wanted.insert(first.clone());
                wanted.extend(second.cloned());
            }
        }
        let mut chosen = chosen.into_iter();
        self.play_journal(|_| chosen.next().unwrap_or(false))
    }

    /// Plays the journal's entries that `take` wants, and that depend on no earlier one it does not
    /// want, onto the durable names; says what became of all.
    pub(super) fn settle_names(&mut self, mut keep: impl FnMut(u64) -> bool) -> Fate {
        let mut fate = Fate::default();
        let mut lost: BTreeSet<Name> = BTreeSet::new();
        self.play_journal(|entry| {
            let stands = if entry.moves_dir {
                lost.is_empty()
            } else {
                !entry.change.any(|at| lost.contains(at))
            };
            let kept = keep(entry.seq) && stands;
            if !kept {
                let (first, second) = entry.change.names();
                lost.insert(first.clone());
                lost.extend(second.cloned());
            }
            fate.count(kept);
            kept
        });
        for entry in std::mem::take(&mut self.journal) {
            self.unpin_entry(entry.inode, &entry.change);
        }
        fate
    }

    /// Makes all names durable.
    pub(super) fn commit_journal(&mut self) {
        self.play_journal(|_| true);
    }

    fn play_journal(&mut self, mut take: impl FnMut(&Entry) -> bool) -> usize {
        let before = self.journal.len();
        for entry in std::mem::take(&mut self.journal) {
            if !take(&entry) {
                self.journal.push(entry);
                continue;
            }
            match &entry.change {
                NameChange::Create(at) => self.make_durable(at, entry.inode),
                NameChange::Remove(at) => self.drop_durable(at),
                NameChange::Rename(from, to) => {
                    self.drop_durable(from);
                    self.make_durable(to, entry.inode);
                }
            }
            self.unpin_entry(entry.inode, &entry.change);
        }
        before - self.journal.len()
    }

    fn make_durable(&mut self, at: &Name, id: InodeId) {
        self.pin(id);
        if let Some(replaced) = self.durable_names(at.dir).insert(at.name.clone(), id) {
            self.unpin(replaced);
        }
    }

    fn drop_durable(&mut self, at: &Name) {
        if let Some(removed) = self.durable_names(at.dir).remove(&at.name) {
            self.unpin(removed);
        }
    }

    /// Makes a new inode under a name that is free.
    pub(super) fn create(&mut self, at: Name, body: Body) -> io::Result<InodeId> {
        if self.faults.capacity.is_some_and(|capacity| self.used >= capacity) {
            self.counters.full += 1;
            return Err(os_error(errno::ENOSPC));
        }
        let id = InodeId(self.next());
        self.inodes.insert(id, Inode::new(body));
        self.live_names(at.dir).insert(at.name.clone(), id);
        self.log(id, NameChange::Create(at), false);
        Ok(id)
    }

    fn log(&mut self, inode: InodeId, change: NameChange, moves_dir: bool) {
        let seq = self.next();
        self.pin(inode);
        let (first, second) = change.names();
        self.pin(first.dir);
        if let Some(second) = second {
            self.pin(second.dir);
        }
        self.journal.push(Entry { seq, inode, change, moves_dir });
        self.changed();
        self.bound_journal();
    }

    /// Takes a name out of the live folder. The inode goes with its last one if nothing else holds it.
    fn unlink(&mut self, at: &Name, id: InodeId) {
        self.live_names(at.dir).remove(&at.name);
        self.inode_mut(id).links -= 1;
        self.release(id);
    }

    pub(super) fn find(&self, at: &Name) -> Option<InodeId> {
        self.dir(at.dir).ok()?.live.get(&at.name).copied()
    }

    /// Follows a path to its inode.
    pub(super) fn walk(&self, path: &Path) -> io::Result<InodeId> {
        let mut trail = vec![ROOT];
        for part in path.components() {
            let here = trail.last().copied().unwrap_or(ROOT);
            match part {
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
                Component::ParentDir => {
                    self.dir(here)?;
                    trail.pop();
                }
                Component::Normal(name) => {
                    let name = name.to_str().ok_or_else(|| os_error(errno::EINVAL))?;
                    let found = self.dir(here)?.live.get(name).copied();
                    trail.push(found.ok_or_else(|| os_error(errno::ENOENT))?);
                }
            }
        }
        Ok(trail.last().copied().unwrap_or(ROOT))
    }

    /// The folder that `path` is in, which must exist, and its last component, which need not.
    pub(super) fn name_of(&self, path: &Path) -> io::Result<Name> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(os_error(errno::EISDIR));
        };
        let dir = self.walk(parent)?;
        self.dir(dir)?;
        let name = name.to_str().ok_or_else(|| os_error(errno::EINVAL))?;
        if name.len() > NAME_BYTES_MAX {
            return Err(os_error(errno::ENAMETOOLONG));
        }
        Ok(Name { dir, name: name.to_owned() })
    }

    /// True when folder `inner` is `outer` or somewhere below it.
    fn is_within(&self, inner: InodeId, outer: InodeId) -> bool {
        inner == outer
            || self
                .dir(outer)
                .is_ok_and(|dir| dir.live.values().any(|child| self.is_within(inner, *child)))
    }

    pub(super) fn dir(&self, id: InodeId) -> io::Result<&DirBody> {
        match &self.inode(id).body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(os_error(errno::ENOTDIR)),
        }
    }

    fn live_names(&mut self, dir: InodeId) -> &mut BTreeMap<String, InodeId> {
        &mut self.dir_mut(dir).live
    }

    fn durable_names(&mut self, dir: InodeId) -> &mut BTreeMap<String, InodeId> {
        &mut self.dir_mut(dir).durable
    }

    fn dir_mut(&mut self, id: InodeId) -> &mut DirBody {
        match &mut self.inode_mut(id).body {
            Body::Dir(dir) => dir,
            Body::File(_) => unreachable!("names live in folders alone"),
        }
    }

    pub(super) fn pin(&mut self, id: InodeId) {
        self.inode_mut(id).pins += 1;
    }

    fn unpin_entry(&mut self, id: InodeId, change: &NameChange) {
        let (first, second) = change.names();
        self.unpin(id);
        self.unpin(first.dir);
        if let Some(second) = second {
            self.unpin(second.dir);
        }
    }

    fn unpin(&mut self, id: InodeId) {
        self.inode_mut(id).pins -= 1;
        self.release(id);
    }
}
