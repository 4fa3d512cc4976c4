//! Reading a file front to back in large pieces, whatever the size of what is asked for.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::BATCH_HEADER_BYTES;
use crate::runtime::fs::{File, OpenMode};
use crate::storage::error::OpenError;

/// Large enough that a hop to the disk costs little, small enough to forget about.
const PIECE_BYTES: usize = 1 << 20;

/// A file and the piece of it that was read last.
#[derive(Debug)]
pub(super) struct Window {
    path: PathBuf,
    file: File,
    len: u64,
    start: u64,
    piece: Bytes,
}

impl Window {
    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path, OpenMode::Read).await.map_err(OpenError::disk("open", path))?;
        let len = file.len().await.map_err(OpenError::disk("read", path))?;
        Ok(Self { path: path.to_path_buf(), file, len, start: 0, piece: Bytes::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The `n` bytes at `offset`, or as many as the file has there. They share the piece's memory.
    pub(super) async fn bytes(&mut self, offset: u64, n: usize) -> Result<Bytes, OpenError> {
        let n = self.len.saturating_sub(offset).min(n as u64) as usize;
        if !self.holds(offset, n) {
            let want = self.len.saturating_sub(offset).min(n.max(PIECE_BYTES) as u64) as usize;
            let read = self.file.read_at(offset, want).await;
            self.piece = read.map_err(OpenError::disk("read", &self.path))?;
            self.start = offset;
        }
        // The file may have become shorter than it was: then there is less here.
        let from = (offset - self.start) as usize;
        Ok(self.piece.slice(from..self.piece.len().min(from + n)))
    }

    /// The bytes from `offset` on that are at hand: enough for a batch's header, unless the file
    /// ends before that.
    pub(super) async fn piece(&mut self, offset: u64) -> Result<Bytes, OpenError> {
        let end = self.start + self.piece.len() as u64;
        let at_hand = if offset >= self.start { end.saturating_sub(offset) as usize } else { 0 };
        if at_hand >= BATCH_HEADER_BYTES {
            return self.bytes(offset, at_hand).await;
        }
        self.bytes(offset, PIECE_BYTES).await
    }

    fn holds(&self, offset: u64, n: usize) -> bool {
        offset >= self.start && offset + n as u64 <= self.start + self.piece.len() as u64
    }
}
