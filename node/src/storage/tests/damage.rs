//! Files that a crash tore, or that rot: cut, or refused; never a wrong value.

use super::*;
use crate::storage::log::format::Place;

/// Three writes, each a batch of its own, then a crash. The last batch is not declared durable.
async fn crashed(options: Options) -> (Image, Contents, Contents) {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path(), options).await;
    put(&engine, 1, "one").await;
    put(&engine, 2, "two").await;
    let before = contents(&engine).await;
    put(&engine, 1, "three").await;
    let after = contents(&engine).await;
    (image(dir.path()).await, before, after)
}

/// The start of the last batch in the bytes of a segment.
fn last_batch(segment: &[u8]) -> usize {
    segment.windows(4).rposition(|bytes| bytes == crate::storage::log::format::BATCH_MAGIC).unwrap()
}

/// Opens a folder with these files, writes something, and opens it twice more.
async fn survives(files: &Image, expected: &Contents) {
    let dir = folder(files).await;
    let engine = open(dir.path(), plain()).await;
    assert_eq!(&contents(&engine).await, expected);
    let crashed = folder(&image(dir.path()).await).await;
    put(&engine, 9, "later").await;
    engine.close().await.unwrap();
    let mut later = expected.clone();
    later.insert(key(9), object("later"));
    assert_eq!(contents(&open(dir.path(), plain()).await).await, later);
    assert_eq!(&contents(&open(crashed.path(), plain()).await).await, expected);
}

#[test]
fn a_write_torn_at_any_byte_is_cut() {
    run(async {
        let (files, before, after) = crashed(plain()).await;
        let name = segments(&files).pop().unwrap();
        let whole = files[&name].clone();
        let last = last_batch(&whole);
        for cut in last..=whole.len() {
            let expected = if cut == whole.len() { &after } else { &before };
            let mut torn = files.clone();
            torn.insert(name.clone(), whole[..cut].to_vec());
            survives(&torn, expected).await;
            // The rest of the file was extended, but not written.
            torn.get_mut(&name).unwrap().resize(whole.len() + 5000, 0);
            survives(&torn, expected).await;
        }
    });
}
