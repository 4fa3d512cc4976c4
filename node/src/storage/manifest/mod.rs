//! The manifest: which tables there are, where the log starts, and what cannot be vouched for. An
//! atomic, append-only log of edits.
//!
//! # Files
//!
//! A manifest is a file `manifest-<10 digits>.log`, numbered from 1. Integers are big-endian. It
//! starts with a header:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `ff` `STARMAN` |
//! | 8 | 4 | format version, 1; magic, version and checksum stay where they are in every version |
//! | 12 | 4 | CRC-32 of bytes 0 to 11 and 16 to 39 |
//! | 16 | 8 | the manifest's number, as in its name |
//! | 24 | 8 | the folder's id: that of the first node in it, see [`identity`](super::identity) |
//! | 32 | 8 | life: a random number that tells its bytes from those of any other file |
//!
//! Edits follow without gaps, numbered 1, 2, 3, …; the first one makes an empty state into all that
//! was known when the file was made:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `ff ed 17 81`, which is in no UTF-8 text |
//! | 4 | 4 | CRC-32 of all that follows in this edit |
//! | 8 | 4 | length of the changes in bytes |
//! | 12 | 4 | number of changes |
//! | 16 | 8 | the edit's number |
//! | 24 | 8 | the manifest's life |
//! | 32 | … | changes |
//!
//! A change is a kind and its fields; integers among them are varints, keys as `domain` encodes them:
//!
//! | kind | fields | meaning |
//! |---|---|---|
//! | 1 add | number, level (1 byte), first key, last key, bytes, entries, first batch, last batch | the table counts from here on |
//! | 2 remove | number | it counts no more |
//! | 3 next table | number | lower numbers are used up |
//! | 4 log | segment, batch | the log starts at this segment (0: at its first); puts through this batch are in tables |
//! | 5 doubt | first and last token, 8 bytes each | these tokens cannot be vouched for |
//! | 6 trust | first and last token, 8 bytes each | these can be again |
//!
//! # Rules
//!
//! They are those of the [log](super::log), in a simpler shape, since each file starts with all that
//! was known before it:
//!
//! **One at a time.** An edit is written and synced in one call; the next one is written after that
//! succeeded. So a valid edit proves that the one before it was durable.
//!
//! **Birth.** A manifest is created in one step with its first edit; until that is whole, the file
//! does not count. A new one is made when the node starts, when the old one has grown, and when a
//! write or sync failed: nothing is ever appended after a failure, nor to a file of an earlier
//! process, so what may be in the operating system's cache alone is never built on. The old file is
//! removed after the birth, durably, before any file that the new one no longer names.
//!
//! **Which one counts.** The one with the highest number that was born. No file is renamed, and no
//! other file points to it.
//!
//! **Reading.** Edits count up to the first that is not valid. What stands behind it is a torn tail,
//! unless a later edit is valid: that is damage, and the folder is not opened.
//!
//! **Doubt comes first.** Rot of the last edit looks like a write that a crash tore, and a file that was cut between two
//! edits looks whole. What is lost so is found again: a table that should be there is missing, and its range in doubt; the
//! log is longer than it need be, or lacks its start and is refused; what was trusted is doubted again. But a doubt that
//! is forgotten is gone for good. So it is only ever written down in a first edit, and an empty edit, the **mark**,
//! follows with a sync of its own before anybody relies on it: without its first edit the file is damaged, not unborn. An orderly
//! close ends with a mark as well, so that afterwards rot of any edit is seen.
//!
//! **Order.** A table is added after its file and name are durable, and its file goes after the edit
//! that removes it is; the same holds for segments of the log. So every name in a manifest is a file,
//! and a file that is in no manifest is an orphan, which the next start removes. After a commit that
//! failed it is unknown whether a crash would find the edit: its files stay until a later one works.

pub(super) mod edit;
pub(super) mod format;
pub(super) mod read;

use std::io;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use rand::RngCore;

use self::edit::{Change, State};
use self::format::{Header, encode_edit};
use super::log::append::Device;
use crate::domain::causality::NodeId;
use crate::runtime::event;
use crate::runtime::fs::{self, File};
use crate::runtime::rng::{self, Rng};

/// A manifest below this is not written anew for its size.
const REWRITE_BYTES_MIN: u64 = 256 << 10;

/// The path of manifest `number` in `folder`.
pub(super) fn manifest_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("manifest-{number:010}.log"))
}

/// The number of the manifest that is called `name`; `None` when it is no manifest.
pub(super) fn manifest_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("manifest-")?.strip_suffix(".log")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = if plain { digits.parse().ok()? } else { return None };
    (number > 0 && number < u64::MAX / 2).then_some(number)
}

/// The manifest's writing end, and all that it says.
#[derive(Debug)]
pub(super) struct Manifest<D> {
    device: D,
    folder: PathBuf,
    id: NodeId,
    lives: Rng,
    state: State,
    next_number: u64,
    /// `None` until the first birth, and after a failure until the next one.
    open: Option<Open>,
    /// Files that the next birth makes void.
    void: Vec<PathBuf>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    life: u64,
    /// The number of its last edit.
    last: u64,
    bytes: u64,
    /// Its size at its birth.
    born_bytes: u64,
    /// Its last edit is empty.
    marked: bool,
}

impl<D: Device> Manifest<D> {
    /// Goes on from what was [found](read::find). Nothing is written before the first commit, which
    /// is a birth.
    pub(super) fn new(device: D, folder: &Path, id: NodeId, found: read::Found) -> Self {
        Self {
            device,
            folder: folder.to_path_buf(),
            id,
            lives: rng::fork("manifest-life"),
            state: found.state.unwrap_or_default(),
            next_number: found.next_number,
            open: None,
            void: found.void,
        }
    }

    /// What the edits so far amount to.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// A number for a table that no other one ever had, once an edit says so: a table that was
    /// never added leaves an orphan at most, which the next start removes.
    pub(super) fn take_table_number(&mut self) -> u64 {
        self.state.next_table = self.state.next_table.max(1);
        let number = self.state.next_table;
        self.state.next_table += 1;
        number
    }

    /// Uses no table number up to `taken`: a file of that name may be left.
    pub(super) fn skip_table_numbers(&mut self, taken: u64) {
        self.state.next_table = self.state.next_table.max(taken + 1);
    }

    /// Makes `changes` in one durable step.
    ///
    /// # Errors
    /// Whatever the disk says: the state is as it was, but a crash may find it changed. Commit again,
    /// these changes or others, before any file of either goes.
    pub(super) async fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut next = self.state.clone();
        for change in changes {
            next.apply(change).expect("only changes that can be made are committed");
        }
        let doubts = changes.iter().any(|change| matches!(change, Change::Doubt(_)));
        match self.open.take() {
            Some(open) if !doubts && open.bytes < REWRITE_BYTES_MIN.max(open.born_bytes * 4) => {
                self.append(open, changes).await?;
            }
            Some(open) => {
                self.void.push(open.path);
                self.bear(&next).await?;
            }
            None => self.bear(&next).await?,
        }
        self.state = next;
        Ok(())
    }

    /// Says, with an empty edit, that the last one was durable, unless one that is empty does so already. Call it
    /// last: the next commit is a birth.
    ///
    /// # Errors
    /// Whatever the disk says. Nothing is lost by that, but rot of the last edit looks like a torn write.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some(open) if !open.marked => {
                self.append(open, &[]).await?;
                self.void.extend(self.open.take().map(|open| open.path));
            }
            Some(open) => self.void.push(open.path),
            None => {}
        }
        Ok(())
    }

    async fn append(&mut self, mut open: Open, changes: &[Change]) -> io::Result<()> {
        let mut data = BytesMut::new();
        encode_edit(open.last + 1, open.life, changes, &mut data);
        let bytes = data.len() as u64;
        event::note("edit_begun", bytes, open.last + 1);
        if let Err(error) = self.device.append(&open.file, open.bytes, data.freeze()).await {
            self.void.push(open.path);
            return Err(error);
        }
        open.last += 1;
        open.bytes += bytes;
        open.marked = changes.is_empty();
        self.open = Some(open);
        Ok(())
    }

    /// Makes the next file, with all of `state` in it.
    async fn bear(&mut self, state: &State) -> io::Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        let life = self.lives.next_u64();
        let mut data = BytesMut::new();
        Header { number, folder: self.id, life }.encode(&mut data);
        encode_edit(1, life, &state.changes(), &mut data);
        let bytes = data.len() as u64;
        let path = manifest_path(&self.folder, number);
        match self.device.create(&path, data.freeze()).await {
            Ok(file) => {
                let born_bytes = bytes;
                let open = Open { path, file, life, last: 1, bytes, born_bytes, marked: false };
                event::note("manifest_born", 0, number);
                if state.doubts.ranges().is_empty() {
                    self.open = Some(open);
                } else {
                    self.append(open, &[]).await?;
                }
                self.remove_void().await;
                Ok(())
            }
            Err(error) => {
                // Whole or not, the next one counts in its place; on a full disk its bytes are needed.
                remove(&path).await;
                self.void.push(path);
                Err(error)
            }
        }
    }

    /// Removes the files that the newest one has replaced. One that stays is void all the same.
    async fn remove_void(&mut self) {
        let void = std::mem::take(&mut self.void);
        for path in &void {
            remove(path).await;
        }
        if !void.is_empty()
            && let Err(error) = fs::sync_dir(&self.folder).await
        {
            tracing::debug!(%error, "void manifests may come back");
        }
    }
}

async fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a void manifest");
    }
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;
