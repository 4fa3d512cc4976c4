//! Who this node is, durably: the file `identity`.
//!
//! It is small, and replaced whole: written under another name, synced, renamed, and the folder
//! synced. So a crash leaves the old one or the new one. Integers are big-endian.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `ff` `STARLID` |
//! | 8 | 4 | format version, 2; version 1 has no name |
//! | 12 | 4 | CRC-32 of bytes 0 to 11 and of all from 16 to the end |
//! | 16 | 8 | node id |
//! | 24 | 8 | generation: rises with each open, and now and then while it is open |
//! | 32 | 8 | epochs up to this one are reserved |
//! | 40 | 8 | folder id: the first node id, which all segments of the log bear |
//! | 48 | 1 to 10, n | cluster name: its length as a varint, UTF-8 |
//! | … | 1 to 10, n | member name, likewise; empty: none has [claimed](super::Engine::claim) the folder yet |
//!
//! Epochs name actors, and an actor that comes twice makes new writes look already seen: silent
//! loss. So a block of epochs is durable before the first one is used, and a start begins above
//! everything ever reserved. The epochs of a block that were not used are never used.
//!
//! None of that helps a folder that was rolled back to an older copy of itself: it would reserve the
//! same block again. Its generation tells it to those who have heard of a later one. Whoever finds out takes a new node id ([`Engine::renew_identity`](super::Engine::renew_identity)) before it mints
//! anything, so that its actors are new whatever the epoch.
//! A [snapshot](super::checkpoint) knows from the start that it is an older copy: it has no `identity`,
//! but the same bytes in a file `identity.snapshot`, and whoever opens it mints a new node id. The file is the only place that changes:
//! the log stays as it is, because its segments bear the folder's id, which is never changed. So there
//! is no moment at which a crash leaves an identity and a log that do not fit.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use rand::RngCore;

use super::error::{ClaimError, OpenError, RenewError, ReserveError};
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::runtime::fs::{self, File, OpenMode};
use crate::runtime::{event, rng};

/// Epochs are reserved so many at a time: one sync for a million actors.
pub const EPOCH_BLOCK: u64 = 1 << 20;

/// The longest name of a cluster or of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

pub(super) const FILE: &str = "identity";
pub(super) const TEMP: &str = "identity.tmp";
/// What a snapshot has in the place of [`FILE`].
pub(super) const MARKER: &str = "identity.snapshot";
pub(super) const MARKER_TEMP: &str = "identity.snapshot.tmp";
const MAGIC: &[u8; 8] = b"\xffSTARLID";
const VERSION: u32 = 2;
/// Larger counters than this were never written; refusing them keeps sums from overflowing.
const COUNTER_MAX: u64 = 1 << 62;

/// The node, and how often it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Minted at random with the folder; the same ever after, unless it is renewed.
    pub node: NodeId,
    /// Raised durably by each open, from 1, by each renewal, and by [`Engine::raise_generation`](super::Engine::raise_generation).
    pub generation: u64,
}

/// Epochs that this process may use, and nobody else ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBlock {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub through: u64,
}

/// The identity file of an open folder.
#[derive(Debug)]
pub(super) struct IdentityFile {
    folder: PathBuf,
    record: Record,
    /// The folder is a snapshot that was restored, and nobody has taken note of that durably.
    restored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    node: NodeId,
    generation: u64,
    reserved_through: u64,
    folder: NodeId,
    cluster: String,
    /// Empty: nobody's yet.
    member: String,
}

impl IdentityFile {
    /// Reads or mints the identity and raises its generation, durably. `has_log`: the folder holds
    /// log segments, so an identity must be there too, because it is always written first; but for a
    /// snapshot, which gets a new one.
    pub(super) async fn open(
        folder: &Path,
        cluster: &str,
        has_log: bool,
    ) -> Result<Self, OpenError> {
        if cluster.len() > NAME_BYTES_MAX {
            return Err(OpenError::Options("the cluster's name is longer than 1024 bytes"));
        }
        let path = folder.join(FILE);
        let found = read(&path).await?;
        let marker = folder.join(MARKER);
        // Until the mark is gone it is not known whether an earlier start came further than the identity.
        let copied = read(&marker).await?;
        let restored = copied.is_some();
        let mut record = match found.or(copied.map(|copy| copy.renewed("node-id-restored"))) {
            Some(record) => record,
            None if has_log => {
                return Err(OpenError::damaged(&path, 0, "it is missing, and a log is there"));
            }
            None => {
                sync_ancestors(folder).await?;
                let node = NodeId(rng::fork("node-id").next_u64());
                let cluster = cluster.to_owned();
                let (generation, reserved_through, member) = (0, 0, String::new());
                Record { node, generation, reserved_through, folder: node, cluster, member }
            }
        };
        if record.cluster != cluster {
            return Err(OpenError::ForeignCluster {
                folder: folder.to_path_buf(),
                found: record.cluster,
                expected: cluster.to_owned(),
            });
        }
        record.generation += 1;
        replace(folder, (TEMP, FILE), &record).await.map_err(OpenError::disk("write", &path))?;
        if restored {
            event::note("snapshot_restored", 0, record.node.0);
            tracing::info!(id = %record.node, "a snapshot was restored: the node has a new id");
        }
        Ok(Self { folder: folder.to_path_buf(), record, restored })
    }

    /// True when the folder is a restored snapshot, and [`forget_restored`](Self::forget_restored) was not called.
    pub(super) fn is_restored(&self) -> bool {
        self.restored
    }

    /// What follows from the folder being a restored snapshot is durable. A mark that stays costs the next start
    /// the same again.
    pub(super) async fn forget_restored(&mut self) {
        if !std::mem::take(&mut self.restored) {
            return;
        }
        let marker = self.folder.join(MARKER);
        let removed = fs::remove_file(&marker).await;
        if let Err(error) = removed {
            tracing::warn!(path = %marker.display(), %error, "the mark of a restored snapshot stays");
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { node: self.record.node, generation: self.record.generation }
    }

    /// What the log's segments bear.
    pub(super) fn folder_id(&self) -> NodeId {
        self.record.folder
    }

    /// Notes durably that the folder is that of the member `name`, if it is nobody's yet.
    pub(super) async fn claim(&mut self, name: &str) -> Result<(), ClaimError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(ClaimError::Name);
        }
        if self.record.member == name {
            return Ok(());
        }
        if !self.record.member.is_empty() {
            let (found, expected) = (self.record.member.clone(), name.to_owned());
            return Err(ClaimError::Foreign { folder: self.folder.clone(), found, expected });
        }
        let next = Record { member: name.to_owned(), ..self.record.clone() };
        if let Err(source) = replace(&self.folder, (TEMP, FILE), &next).await {
            return Err(ClaimError::Disk { path: self.folder.join(FILE), source });
        }
        self.record = next;
        Ok(())
    }

    /// The folder, and what a copy of it is to know.
    pub(super) fn copied(&self) -> (PathBuf, Copied) {
        (self.folder.clone(), Copied(self.record.clone()))
    }

    /// Gives the folder a new node id and the next generation, durably.
    pub(super) async fn renew(&mut self) -> Result<Identity, RenewError> {
        let mut next = self.record.clone().renewed("node-id-renewed");
        next.generation += 1;
        if let Err(source) = replace(&self.folder, (TEMP, FILE), &next).await {
            // Nobody hears of the new id, so nothing was minted under it whatever the disk holds now.
            return Err(RenewError::Disk { path: self.folder.join(FILE), source });
        }
        self.record = next;
        event::note("identity_renewed", 0, self.record.node.0);
        Ok(self.identity())
    }

    /// Gives the folder the next generation, durably.
    pub(super) async fn raise(&mut self) -> Result<Identity, RenewError> {
        let next = Record { generation: self.record.generation + 1, ..self.record.clone() };
        if let Err(source) = replace(&self.folder, (TEMP, FILE), &next).await {
            return Err(RenewError::Disk { path: self.folder.join(FILE), source });
        }
        self.record = next;
        Ok(self.identity())
    }

    /// Reserves the next block that begins at `at_least` or behind it, durably.
    pub(super) async fn reserve(&mut self, at_least: u64) -> Result<EpochBlock, ReserveError> {
        let first = (self.record.reserved_through + 1).max(at_least);
        let mut next = self.record.clone();
        next.reserved_through = first + (EPOCH_BLOCK - 1);
        if let Err(source) = replace(&self.folder, (TEMP, FILE), &next).await {
            // Nobody got this block, so the next call may try it again.
            return Err(ReserveError::Disk { path: self.folder.join(FILE), source });
        }
        self.record = next;
        event::note("epochs_reserved", 0, self.record.reserved_through);
        Ok(EpochBlock { first, through: self.record.reserved_through })
    }
}

/// Whose copy a snapshot is.
#[derive(Clone, Debug)]
pub(super) struct Copied(Record);

impl Copied {
    /// What the copy's segments, manifests and tables bear.
    pub(super) fn folder_id(&self) -> NodeId {
        self.0.folder
    }
}

/// Makes a whole snapshot of `folder`, which holds all else, durably.
pub(super) async fn mark(folder: &Path, copied: &Copied) -> io::Result<()> {
    replace(folder, (MARKER_TEMP, MARKER), &copied.0).await
}

/// What an identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) identity: Identity,
    /// What segments, manifests and tables bear.
    pub(super) folder: NodeId,
    pub(super) cluster: String,
}

/// Reads the identity of `folder`, and changes nothing; `None`: there is none.
///
/// # Errors
/// [`OpenError::Damaged`], [`OpenError::Version`], [`OpenError::Disk`].
pub(super) async fn look(folder: &Path) -> Result<Option<Seen>, OpenError> {
    look_at(&folder.join(FILE)).await
}

/// [`look`], at what a snapshot has instead.
///
/// # Errors
/// As of it.
pub(super) async fn look_at_marker(folder: &Path) -> Result<Option<Seen>, OpenError> {
    look_at(&folder.join(MARKER)).await
}

async fn look_at(path: &Path) -> Result<Option<Seen>, OpenError> {
    Ok(read(path).await?.map(|record| Seen {
        identity: Identity { node: record.node, generation: record.generation },
        folder: record.folder,
        cluster: record.cluster,
    }))
}

async fn read(path: &Path) -> Result<Option<Record>, OpenError> {
    let file = match File::open(path, OpenMode::Read).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OpenError::disk("open", path)(e)),
    };
    let bytes_max = 80 + 2 * NAME_BYTES_MAX;
    let bytes = file.read_at(0, bytes_max).await.map_err(OpenError::disk("read", path))?;
    let damaged = |what| OpenError::damaged(path, 0, what);
    if bytes.len() < 16 || bytes[..8] != MAGIC[..] {
        return Err(damaged("it is not an identity file"));
    }
    let (head, rest) = bytes.split_at(16);
    if checksum(&head[..12], rest).to_be_bytes() != head[12..16] {
        return Err(damaged("its checksum does not match"));
    }
    let version = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if version == 0 || version > VERSION {
        return Err(OpenError::Version {
            file: path.to_path_buf(),
            found: version,
            known: VERSION,
        });
    }
    Record::decode(rest, version).map(Some).map_err(|_| damaged("its fields are not valid"))
}

/// Replaces the file in one durable step.
async fn replace(folder: &Path, (temp, name): (&str, &str), record: &Record) -> io::Result<()> {
    let (temp, path) = (folder.join(temp), folder.join(name));
    // What an earlier attempt left is not trusted, whatever it holds.
    match fs::remove_file(&temp).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let file = File::open(&temp, OpenMode::CreateNew).await?;
    file.write_all_at_and_sync(0, record.encode()).await?;
    // Files are never renamed while open.
    drop(file);
    fs::rename(&temp, &path).await?;
    fs::sync_dir(folder).await
}

/// Makes the names of a new folder and of those above it durable. A folder that this process may
/// not read or write is not one that it made, and was there before.
async fn sync_ancestors(folder: &Path) -> Result<(), OpenError> {
    for above in folder.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs::sync_dir(above).await {
            Ok(()) => {}
            Err(e) if not_ours(&e) => {}
            Err(e) => return Err(OpenError::disk("sync", above)(e)),
        }
    }
    Ok(())
}

fn not_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    [InvalidInput, PermissionDenied, ReadOnlyFilesystem].contains(&error.kind())
}

fn checksum(head: &[u8], rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(rest);
    crc.finalize()
}

impl Record {
    /// The same folder under another node id, from the dice called `purpose`.
    fn renewed(mut self, purpose: &'static str) -> Self {
        let (old, mut ids) = (self.node, rng::fork(purpose));
        while self.node == old || self.node == self.folder {
            self.node = NodeId(ids.next_u64());
        }
        self
    }

    fn encode(&self) -> Bytes {
        let mut rest = BytesMut::new();
        rest.put_u64(self.node.0);
        rest.put_u64(self.generation);
        rest.put_u64(self.reserved_through);
        rest.put_u64(self.folder.0);
        rest.put_block(self.cluster.as_bytes());
        rest.put_block(self.member.as_bytes());
        let mut out = BytesMut::with_capacity(16 + rest.len());
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        let crc = checksum(&out, &rest);
        out.put_u32(crc);
        out.put_slice(&rest);
        out.freeze()
    }

    fn decode(bytes: &[u8], version: u32) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let node = NodeId(from.u64("node id")?);
        let generation = from.u64("generation")?;
        let reserved_through = from.u64("epochs")?;
        let folder = NodeId(from.u64("folder id")?);
        let cluster = from.str("cluster")?.to_owned();
        let member = if version > 1 { from.str("member")?.to_owned() } else { String::new() };
        from.finish()?;
        if generation > COUNTER_MAX || reserved_through > COUNTER_MAX {
            return Err(DecodeError::Invalid("counter"));
        }
        Ok(Self { node, generation, reserved_through, folder, cluster, member })
    }
}
