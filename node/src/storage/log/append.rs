//! Writing the log: one batch at a time, each durable before the next.
//!
//! [`Log::write`] appends to the open segment, or gives birth to a new one: when the batch doesn't
//! fit, and after any failure. See the rules in the [parent](super).

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use rand::RngCore;

use super::format::{Batch, Place, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp};
use super::segment_path;
use crate::domain::causality::NodeId;
use crate::runtime::fs::{self, File, OpenMode};
use crate::runtime::rng::{self, Rng};

/// How segments get onto the disk. A trait only so that tests can fail and delay it.
pub(in crate::storage) trait Device: fmt::Debug + Send + Sync + 'static {
    /// Makes the file at `path` with `data` in it. Data and name are durable when it succeeds.
    fn create(&self, path: &Path, data: Bytes) -> impl Future<Output = io::Result<File>> + Send;

    /// Writes `data` at `offset`. It is durable when it succeeds.
    fn append(
        &self,
        file: &File,
        offset: u64,
        data: Bytes,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug)]
pub(in crate::storage) struct Disk;

impl Device for Disk {
    async fn create(&self, path: &Path, data: Bytes) -> io::Result<File> {
        let file = File::open(path, OpenMode::CreateNew).await?;
        file.write_all_at_and_sync(0, data).await?;
        fs::sync_dir(path.parent().unwrap_or(Path::new("."))).await?;
        Ok(file)
    }

    async fn append(&self, file: &File, offset: u64, data: Bytes) -> io::Result<()> {
        file.write_all_at_and_sync(offset, data).await
    }
}

/// What the log needs to know to go on where replay, or nothing, left it.
#[derive(Debug)]
pub(in crate::storage) struct Start {
    pub(in crate::storage) folder: PathBuf,
    /// The folder's id.
    pub(in crate::storage) id: NodeId,
    pub(in crate::storage) segment_bytes: u64,
    pub(in crate::storage) prefill_bytes: usize,
    /// Where the proven part of the log ends.
    pub(in crate::storage) end: Place,
    /// The last batch of that part; 0 for none.
    pub(in crate::storage) durable_through: u64,
    /// The number of the next segment: higher than that of any file in the folder.
    pub(in crate::storage) next_segment: u64,
}

/// The log's writing end. Everything up to `end` is durable, and nothing else is ever built on.
#[derive(Debug)]
pub(in crate::storage) struct Log<D> {
    device: D,
    start: Start,
    lives: Rng,
    /// `None` until the first birth, and after a failure until the next one.
    open: Option<OpenSegment>,
    /// The last batch that the log declares durable.
    declared: u64,
}

/// The segment that is written to; it ends where the log ends.
#[derive(Debug)]
struct OpenSegment {
    file: File,
    life: u64,
    /// So far the file holds bytes; behind the log's end they are zeros.
    filled: u64,
}

impl<D: Device> Log<D> {
    pub(in crate::storage) fn new(device: D, start: Start) -> Self {
        // The first birth declares everything before it.
        let declared = start.durable_through;
        Self { device, start, lives: rng::fork("log-life"), open: None, declared }
    }

    /// The last durable batch.
    pub(in crate::storage) fn durable_through(&self) -> u64 {
        self.start.durable_through
    }

    /// True when a crash now would leave no proof in the log that its last batch was durable.
    pub(in crate::storage) fn last_is_undeclared(&self) -> bool {
        self.start.durable_through > self.declared
    }

    /// Where the log ends.
    pub(in crate::storage) fn end(&self) -> Place {
        self.start.end
    }

    /// The path of the segment that is written next.
    pub(in crate::storage) fn path(&self) -> PathBuf {
        let open = self.open.is_some();
        let number = if open { self.start.end.segment } else { self.start.next_segment };
        segment_path(&self.start.folder, number)
    }

    /// Writes the next batch. It is durable when this succeeds.
    ///
    /// # Errors
    /// Whatever the disk says. Nothing is durable that was not before; the file is given up. Call
    /// again with the same batch: a new segment is tried.
    pub(in crate::storage) async fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        let fits = self.start.end.offset + batch.buffer.len() as u64 <= self.start.segment_bytes;
        match self.open.take() {
            Some(segment) if fits => self.append(segment, batch).await,
            Some(_) | None => self.bear(std::slice::from_mut(batch)).await,
        }
    }

    /// Gives birth to the next segment, with `carried` in it. They are durable when this succeeds.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(in crate::storage) async fn bear(&mut self, carried: &mut [Batch]) -> io::Result<()> {
        let number = self.start.next_segment;
        self.start.next_segment += 1;
        self.open = None;
        let life = self.lives.next_u64();
        let data = self.newborn(number, life, carried);
        let (path, end) = (segment_path(&self.start.folder, number), data.len() as u64);
        let data = fill(data, self.room_to_fill(end));
        let filled = data.len() as u64;
        match self.device.create(&path, data.freeze()).await {
            Ok(file) => {
                self.open = Some(OpenSegment { file, life, filled });
                self.start.end = Place { segment: number, offset: end };
                self.declared = self.start.durable_through;
                self.start.durable_through += carried.len() as u64;
                Ok(())
            }
            Err(error) => {
                // It does not count, whatever of it is there: the next one has a higher number and
                // follows the same place. On a full disk its bytes are needed.
                if let Err(left) = fs::remove_file(&path).await
                    && left.kind() != io::ErrorKind::NotFound
                {
                    tracing::debug!(path = %path.display(), error = %left, "void segment stays");
                }
                Err(error)
            }
        }
    }

    async fn append(&mut self, mut segment: OpenSegment, batch: &mut Batch) -> io::Result<()> {
        self.check_next(batch, self.start.durable_through + 1);
        let durable_through = self.start.durable_through;
        batch.stamp(Stamp { life: segment.life, durable_through, at_birth: false });
        let (at, bytes) = (self.start.end.offset, batch.buffer.len());
        let end = at + bytes as u64;
        let mut data = std::mem::take(&mut batch.buffer);
        if end > segment.filled {
            // Behind a large batch zeros cost more than they save: it fills most of them next time.
            let zeros =
                if bytes > self.start.prefill_bytes / 4 { 0 } else { self.room_to_fill(end) };
            data = fill(data, zeros);
            segment.filled = at + data.len() as u64;
        }
        let data = data.freeze();
        let written = self.device.append(&segment.file, at, data.clone()).await;
        // The device is done with it, so as a rule the memory comes back without a copy.
        batch.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        batch.buffer.truncate(bytes);
        written?;
        self.start.end.offset = end;
        self.start.durable_through = batch.number;
        self.declared = durable_through;
        self.open = Some(segment);
        Ok(())
    }

    /// The bytes of a new segment that holds `carried`.
    fn newborn(&self, number: u64, life: u64, carried: &mut [Batch]) -> BytesMut {
        let durable_through = self.start.durable_through;
        let bytes: usize = carried.iter().map(|b| b.buffer.len()).sum();
        let mut data =
            BytesMut::with_capacity(SEGMENT_HEADER_BYTES + bytes + self.start.prefill_bytes);
        let header = SegmentHeader {
            number,
            folder: self.start.id,
            life,
            follows: self.start.end,
            first_batch: durable_through + 1,
            born_through: durable_through + carried.len() as u64,
        };
        header.encode(&mut data);
        for (batch, expected) in carried.iter_mut().zip(header.first_batch..) {
            self.check_next(batch, expected);
            batch.stamp(Stamp { life, durable_through, at_birth: true });
            data.put_slice(&batch.buffer);
        }
        data
    }

    fn check_next(&self, batch: &Batch, expected: u64) {
        assert_eq!(batch.number, expected, "batches go into the log in order: {:?}", self.start);
    }

    /// How many zeros go behind `end`.
    fn room_to_fill(&self, end: u64) -> usize {
        let room = self.start.segment_bytes.saturating_sub(end);
        self.start.prefill_bytes.min(usize::try_from(room).unwrap_or(usize::MAX))
    }
}

fn fill(mut data: BytesMut, zeros: usize) -> BytesMut {
    data.resize(data.len() + zeros, 0);
    data
}
