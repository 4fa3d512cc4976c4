//! A scan over a table, in key order. It reads ahead in pieces of the file, and bypasses the cache:
//! one scan of a large table would otherwise push out everything that is read often.

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::TableError;
use super::block::{Block, Flaw, Walk};
use super::reader::Table;
use crate::domain::key::Key;

/// The largest piece that is read ahead, unless one block is larger.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// The first piece: a scan that ends soon has not read much for nothing. Each next one is twice it.
const PIECE_BYTES_MIN: u64 = 32 << 10;

/// What a scan yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The object, encoded. It shares the memory of its block.
    pub object: Bytes,
}

/// A scan. It holds one piece and one block, and the table open.
#[derive(Debug)]
pub struct Cursor {
    table: Arc<Table>,
    from: Bound<Key>,
    /// The key that came last.
    last: Option<Key>,
    block: Option<Open>,
    /// The number of the block behind that.
    next: usize,
    /// Bytes of the file, and where they are.
    piece: Bytes,
    piece_at: u64,
    piece_bytes: u64,
}

/// The block that the scan is in.
#[derive(Debug)]
struct Open {
    at: usize,
    block: Block,
    walk: Walk,
}

impl Cursor {
    pub(super) fn new(table: Arc<Table>, from: Bound<Key>) -> Self {
        let next = match &from {
            Bound::Included(key) | Bound::Excluded(key) => {
                table.index().find(key.token(), key.raw()).unwrap_or(0)
            }
            Bound::Unbounded => 0,
        };
        Self {
            table,
            from,
            last: None,
            block: None,
            next,
            piece: Bytes::new(),
            piece_at: 0,
            piece_bytes: PIECE_BYTES_MIN,
        }
    }

    /// The next entry; `None` at the end. After an error the scan stands behind the block that
    /// the error is about: the next call goes on with the one after it. A call whose future was dropped
    /// skips nothing.
    ///
    /// # Errors
    /// [`TableError::Damaged`], [`TableError::Unreadable`]: entries of the tokens in doubt are left out.
    pub async fn next(&mut self) -> Result<Option<Entry>, TableError> {
        loop {
            if let Some(mut open) = self.block.take() {
                match self.step(&mut open) {
                    Ok(None) => {}
                    Ok(Some(entry)) => {
                        self.last = Some(entry.key.clone());
                        self.block = Some(open);
                        return Ok(Some(entry));
                    }
                    Err(flaw) => return Err(self.table.flawed(open.at, flaw)),
                }
            }
            if self.next >= self.table.index().len() {
                return Ok(None);
            }
            let at = self.next;
            let read = self.stored(at).await;
            // Only now: a call that is dropped while it waits must not skip the block.
            self.next += 1;
            let payload = self.table.unpack(at, &read?)?;
            let opened = self.open(at, payload);
            self.block = Some(opened.map_err(|flaw| self.table.flawed(at, flaw))?);
        }
    }

    /// The next entry of the open block that is not below the start.
    fn step(&self, open: &mut Open) -> Result<Option<Entry>, Flaw> {
        while let Some(place) = open.walk.next(&open.block)? {
            let order = |key: &Key| open.block.order(&place, key.token(), key.raw());
            let wanted = match &self.from {
                Bound::Included(from) => order(from).is_ge(),
                Bound::Excluded(from) => order(from).is_gt(),
                Bound::Unbounded => true,
            };
            // Whoever merges scans relies on their order.
            if self.last.as_ref().is_some_and(|last| order(last).is_le()) {
                return Err("its keys are not in order");
            }
            if wanted {
                let key = open.block.key(&place)?;
                return Ok(Some(Entry { key, object: open.block.object(&place) }));
            }
        }
        Ok(None)
    }

    fn open(&self, at: usize, payload: Bytes) -> Result<Open, Flaw> {
        let block = Block::new(payload)?;
        let walk = match &self.from {
            Bound::Included(key) | Bound::Excluded(key) if self.last.is_none() => {
                block.walk_towards(key.token(), key.raw())?
            }
            Bound::Included(_) | Bound::Excluded(_) | Bound::Unbounded => block.walk_all()?,
        };
        Ok(Open { at, block, walk })
    }

    /// The block as it is in the file.
    async fn stored(&mut self, at: usize) -> Result<Bytes, TableError> {
        let place = self.table.index().place(at);
        if let Some(stored) = self.in_piece(&place) {
            return Ok(stored);
        }
        let mut ahead = place.clone();
        for block in at + 1..self.table.index().len() {
            let end = self.table.index().place(block).end;
            if end - place.start > self.piece_bytes {
                break;
            }
            ahead.end = end;
        }
        let read = match self.table.read(at, ahead.clone()).await {
            // Perhaps it is another block that can't be read.
            Err(_) if ahead != place => self.table.read(at, place.clone()).await,
            read => read,
        };
        (self.piece, self.piece_at) = (read?, place.start);
        self.piece_bytes = (2 * self.piece_bytes).min(PIECE_BYTES_MAX);
        let len = (place.end - place.start) as usize;
        Ok(self.piece.slice(..len))
    }

    fn in_piece(&self, place: &Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(place.start.checked_sub(self.piece_at)?).ok()?;
        let end = start.checked_add((place.end - place.start) as usize)?;
        (end <= self.piece.len()).then(|| self.piece.slice(start..end))
    }
}
