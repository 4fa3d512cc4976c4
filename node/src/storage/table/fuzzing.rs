//! Entries for fuzzers: the decoders of a table's parts, behind their checksums.
//!
//! The tests beside this module forge every byte of a whole table; here are its parts alone.

use bytes::Bytes;

use super::block::{self, Block};
use super::filter::{Filter, Hashes};
use super::footer::Footer;
use super::index::Index;
use super::{Origin, Properties, TableId};
use crate::domain::causality::NodeId;

/// A block as it is in the file, with whatever checksum, and the same bytes as an unpacked payload.
/// Each entry that a walk over the payload finds has a place within it.
pub fn table_block(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let origin = Origin { folder: NodeId(1), table: TableId(1) };
    block::unpack_unchecked(&bytes).map(search).ok();
    block::unpack(origin, 0, &bytes, bytes::BytesMut::zeroed).map(search).ok();
    search(bytes);
}

fn search(payload: Bytes) {
    let Ok(block) = Block::new(payload) else { return };
    let Ok(mut walk) = block.walk_all() else { return };
    while let Ok(Some(place)) = walk.next(&block) {
        let object = block.object(&place);
        if let Ok(key) = block.key(&place) {
            assert!(block.order(&place, key.token(), key.raw()).is_eq(), "{key:?} is not itself");
            // Keys out of order may hide each other; that is all that they may do.
            drop((block.get(key.token(), key.raw()), object));
        }
    }
}

/// Footer, index, properties and filter: the first byte says how long the file claims to be.
pub fn table_meta(bytes: &[u8]) {
    let Some((&claim, bytes)) = bytes.split_first() else { return };
    let file_bytes = 1u64.checked_shl(u32::from(claim)).unwrap_or(u64::MAX);
    if let Ok(footer) = Footer::decode(bytes, file_bytes) {
        assert!(footer.properties_at < file_bytes, "{footer:?} in {file_bytes} bytes");
    }
    let properties = Properties::decode(bytes, file_bytes);
    if let Ok(properties) = &properties {
        let mut again = Vec::new();
        properties.encode(&mut again);
        assert_eq!(again, bytes, "two encodings");
        if let Some(filter) = Filter::decode(bytes) {
            filter.may_hold(Hashes::new(&properties.first));
        }
    }
    // As long as its blocks are said to be in the last eight bytes.
    let Some((section, end)) = bytes.split_last_chunk() else { return };
    let Ok(index) = Index::decode(section, u64::from_be_bytes(*end)) else { return };
    for at in 0..index.len() {
        let tokens = index.tokens(at, crate::domain::key::Token(u64::MAX));
        assert!(!tokens.is_empty(), "no token may be in block {at}");
        assert!(index.find(*tokens.start(), b"").is_none_or(|found| found <= at));
        assert!(!index.place(at).is_empty());
    }
    let mut again = Vec::new();
    index.encode(&mut again);
    assert_eq!(again, section, "two encodings");
}
