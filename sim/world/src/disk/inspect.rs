//! Looking at a disk from outside, copying it, and putting a copy back.

use std::path::{Path, PathBuf};

use super::Disk;
use super::names::{Body, InodeId};

/// One file or folder, as the harness sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpEntry {
    /// Its path.
    pub path: PathBuf,
    /// True for a folder.
    pub is_dir: bool,
    /// The bytes that processes read; empty for a folder.
    pub content: Vec<u8>,
    /// The bytes that are there if power goes now and no unsynced change survives.
    pub durable: Vec<u8>,
}

/// A copy of everything that processes saw on a disk at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot(Disk);

impl Disk {
    /// Everything below the folder or file at `path`, each folder before what is in it, sorted by
    /// name; nothing when there is no such path.
    pub fn dump(&self, path: &Path) -> Vec<DumpEntry> {
        let mut entries = Vec::new();
        if let Ok(id) = self.walk(path) {
            self.visit(path, id, &mut |path, id| {
                let (content, durable) = match &self.inode(id).body {
                    Body::File(file) => (file.cached.clone(), file.durable.clone()),
                    Body::Dir(_) => Default::default(),
                };
                let is_dir = self.inode(id).is_dir();
                entries.push(DumpEntry { path: path.to_owned(), is_dir, content, durable });
            });
        }
        entries
    }

    /// The bytes in use: the lengths of all files that have a name or a handle.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// A copy of what processes see now, as a backup tool would make it: all of it durable.
    pub fn snapshot(&self) -> Snapshot {
        let mut copy = self.clone();
        copy.process_died();
        copy.sync_all();
        for inode in copy.inodes.values_mut() {
            if let Body::File(file) = &mut inode.body {
                file.durable.clone_from(&file.cached);
            }
        }
        copy.read_back();
        Snapshot(copy)
    }

    /// Puts a copy back, of this disk or another. All handles are void; faults and counters stay.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.inodes.clone_from(&snapshot.0.inodes);
        self.journal.clear();
        self.never_reuse(&snapshot.0);
        self.read_back();
    }

    /// The files at or below `path` with their durable lengths in bytes, sorted by path.
    pub(super) fn files_below(&self, path: &Path) -> Vec<(PathBuf, InodeId, u64)> {
        let mut files = Vec::new();
        if let Ok(id) = self.walk(path) {
            self.visit(path, id, &mut |path, id| {
                if let Body::File(file) = &self.inode(id).body {
                    files.push((path.to_owned(), id, file.durable.len() as u64));
                }
            });
        }
        files
    }

    fn visit(&self, path: &Path, id: InodeId, each: &mut impl FnMut(&Path, InodeId)) {
        each(path, id);
        if let Body::Dir(dir) = &self.inode(id).body {
            for (name, child) in &dir.live {
                self.visit(&path.join(name), *child, each);
            }
        }
    }
}
