//! Long work in short steps: other tasks of the thread get their turn in between.

use crate::runtime::task;

/// After so many bytes others get their turn: some tenths of a millisecond of merging, reading and encoding.
const STRIDE_BYTES: usize = 16 << 10;

/// Counts what was done since others had their turn. What is read from memory waits for nothing, so that a page of objects
/// would hold up every request of its thread for as long as it takes.
#[derive(Debug, Default)]
pub(super) struct Stride {
    bytes: usize,
}

impl Stride {
    /// So many bytes were worked on.
    pub(super) async fn did(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= STRIDE_BYTES {
            self.bytes = 0;
            task::yield_now().await;
        }
    }
}
