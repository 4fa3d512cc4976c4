//! Looking at every byte of an open table: each block's checksum, the order of its keys, that index
//! and filter lead to them, that the objects can be read, and that the properties are right.
//!
//! For people who ask whether a folder is whole. It changes nothing, and bypasses the cache.

use super::block::{Block, Flaw};
use super::filter::Hashes;
use super::{Table, TableError};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::task;

/// What is wrong with a table that opened.
#[derive(Debug)]
pub(in crate::storage) enum TableFlaw {
    /// Reads notice it, and put its tokens in doubt.
    Noticed(TableError),
    /// Reads do not notice it: bytes with right checksums that no release should have written.
    Unnoticed {
        /// Where in the file.
        offset: u64,
        /// What is wrong, in words.
        what: Flaw,
    },
}

/// What the blocks hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Contents {
    pub(in crate::storage) blocks: u64,
    pub(in crate::storage) entries: u64,
}

/// Reads all of `table` and gives every flaw to `tell`; what is sound in it.
pub(in crate::storage) async fn check(table: &Table, mut tell: impl FnMut(TableFlaw)) -> Contents {
    let (mut sound, mut last, mut damaged) = (Contents::default(), None, false);
    let mut raw_bytes = 0;
    for at in 0..table.index().len() {
        let place = table.index().place(at);
        let offset = place.start;
        let payload = match table.read(at, place).await {
            Ok(stored) => table.unpack(at, &stored),
            Err(error) => Err(error),
        };
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => {
                damaged = true;
                tell(TableFlaw::Noticed(error));
                continue;
            }
        };
        raw_bytes += payload.len() as u64;
        let found = Block::new(payload).and_then(|block| entries(table, at, &block, &mut last));
        match found {
            Ok(Found { entries, hidden }) => {
                sound.blocks += 1;
                sound.entries += entries;
                if let Some(what) = hidden {
                    tell(TableFlaw::Unnoticed { offset, what });
                }
            }
            Err(flaw) => {
                damaged = true;
                tell(TableFlaw::Noticed(table.flawed(at, flaw)));
            }
        }
        task::yield_now().await;
    }
    let properties = table.properties();
    let same = properties.entries == sound.entries
        && properties.raw_bytes == raw_bytes
        && last.as_ref() == Some(&properties.last);
    if !damaged && !same {
        let what = "its properties are not those of its blocks";
        tell(TableFlaw::Unnoticed { offset: 0, what });
    }
    sound
}

struct Found {
    entries: u64,
    /// What reads would not notice.
    hidden: Option<Flaw>,
}

/// Goes over the entries of the block `at`, whose keys come behind `last`.
fn entries(table: &Table, at: usize, block: &Block, last: &mut Option<Key>) -> Result<Found, Flaw> {
    let (mut walk, mut found) = (block.walk_all()?, Found { entries: 0, hidden: None });
    while let Some(place) = walk.next(block)? {
        let key = block.key(&place)?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err("its keys are not in order");
        }
        let object = block.object(&place);
        Object::from_bytes(&object).map_err(|_| "one of its objects is not valid")?;
        let properties = table.properties();
        if key < properties.first || key > properties.last {
            found.hidden = Some("a key lies outside of the range that its properties tell");
        } else if table.index().find(key.token(), key.raw()) != Some(at) {
            found.hidden = Some("the index does not lead to one of its keys");
        } else if !table.passes_filter(Hashes::new(&key)) {
            found.hidden = Some("the filter denies a key that is there");
        }
        found.entries += 1;
        *last = Some(key);
    }
    Ok(found)
}
