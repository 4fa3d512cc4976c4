//! Files that a crash tore, or that rot: cut, or refused; never a wrong value.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::storage::log::format::{BATCH_MAGIC, Batch, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp};
use crate::storage::log::record::Record;

/// Three writes, each a batch of its own, then a crash. The last batch is not declared durable.
async fn crashed(options: Options) -> (Image, Contents, Contents) {
    let dir = temp_dir();
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
    segment.windows(4).rposition(|bytes| bytes == BATCH_MAGIC).unwrap()
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

/// Two segments: the first with batches 1 and 2, and, void, the mark of an orderly close; the second
/// with batches 3 and 4, the last one not declared. Returns what a cut of batch 4 leaves, too.
async fn two_segments() -> (Image, Contents, Contents) {
    let dir = temp_dir();
    let engine = open(dir.path(), plain()).await;
    put(&engine, 1, "one").await;
    put(&engine, 2, "two").await;
    engine.close().await.unwrap();
    let engine = open(dir.path(), plain()).await;
    put(&engine, 3, "three").await;
    let before = contents(&engine).await;
    put(&engine, 1, "four").await;
    (image(dir.path()).await, before, contents(&engine).await)
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    run(async {
        let (files, before, after) = two_segments().await;
        let names = segments(&files);
        let void_from = last_batch(&files[&names[0]]);
        let undeclared_from = last_batch(&files[&names[1]]);
        for (name, bytes) in &files {
            for at in 0..bytes.len() {
                let mut rotten = files.clone();
                rotten.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
                let dir = folder(&rotten).await;
                let opened = Engine::open(dir.path(), CLUSTER, plain()).await;
                if name.starts_with("manifest-") {
                    // It says nothing yet that the log does not.
                    assert_eq!(contents(&opened.unwrap()).await, after, "{name} at {at}");
                } else if *name == names[0] && at >= void_from {
                    assert_eq!(contents(&opened.unwrap()).await, after, "{name} at {at}");
                } else if *name == names[1] && at >= undeclared_from {
                    assert_eq!(contents(&opened.unwrap()).await, before, "{name} at {at}");
                } else {
                    let (file, offset) = damage(opened);
                    assert_eq!(file, dir.path().join(name));
                    assert!(offset <= at as u64, "reported {offset}, was at {at}");
                }
            }
        }
    });
}

#[test]
fn after_an_orderly_close_the_last_batch_is_declared_too() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), plain()).await;
        put(&engine, 1, "one").await;
        engine.close().await.unwrap();
        let mut files = image(dir.path()).await;
        let name = segments(&files).pop().unwrap();
        files.get_mut(&name).unwrap()[SEGMENT_HEADER_BYTES + 50] ^= 1;
        let dir = folder(&files).await;
        damage(Engine::open(dir.path(), CLUSTER, plain()).await);
    });
}

#[test]
fn a_segment_torn_at_its_birth_does_not_count() {
    run(async {
        let (files, before, after) = crashed(plain()).await;
        // Opening carries the batch that is not proven over into a new segment.
        let dir = folder(&files).await;
        let engine = open(dir.path(), plain()).await;
        let born = image(dir.path()).await;
        drop(engine);
        let names = segments(&born);
        assert_eq!(names.len(), 2);
        let whole = born[&names[1]].clone();
        let mut lost = born.clone();
        let last = last_batch(&lost[&names[0]]);
        lost.get_mut(&names[0]).unwrap()[last + 20] ^= 1;
        survives(&lost, &after).await;
        for cut in 0..whole.len() {
            let mut torn = born.clone();
            torn.insert(names[1].clone(), whole[..cut].to_vec());
            survives(&torn, &after).await;
            // The same when the old segment's copy had never reached the disk.
            lost.insert(names[1].clone(), whole[..cut].to_vec());
            survives(&lost, &before).await;
            torn.insert(names[1].clone(), whole.clone());
            torn.get_mut(&names[1]).unwrap()[cut] ^= 0x10;
            survives(&torn, &after).await;
        }
    });
}

/// A batch that stands behind the last one of `segment`, with one record that must not be seen.
fn forged(segment: &[u8], number: u64, durable_through: u64) -> Vec<u8> {
    let life = SegmentHeader::decode(segment).unwrap().life;
    let mut batch = Batch::new(number, bytes::BytesMut::new());
    batch.push(|out| Record::encode_put(&key(13), &object("resurrected").to_bytes(), out));
    batch.stamp(Stamp { life, durable_through, at_birth: false });
    batch.buffer.to_vec()
}

#[test]
fn what_follows_a_torn_batch_is_cut_and_never_comes_back() {
    run(async {
        let (mut files, before, _) = crashed(plain()).await;
        let name = segments(&files).pop().unwrap();
        let segment = files.get_mut(&name).unwrap();
        let last = last_batch(segment);
        // Batch 3 is torn, batch 4 came through whole: neither was durable.
        segment[last + 10] ^= 1;
        let next = forged(segment, 4, 2);
        segment.extend(next);
        survives(&files, &before).await;
    });
}

#[test]
fn only_the_batch_that_must_come_next_counts() {
    run(async {
        let (files, _, after) = crashed(plain()).await;
        let name = segments(&files).pop().unwrap();
        let header = SegmentHeader::decode(&files[&name]).unwrap();
        let other = SegmentHeader { life: header.life ^ 1, ..header };
        let mut other_life = bytes::BytesMut::new();
        other.encode(&mut other_life);
        for stale in [
            forged(&other_life, 4, 3),
            forged(&files[&name], 5, 3),
            forged(&files[&name], 3, 2),
            forged(&files[&name], 1, 0),
        ] {
            let mut files = files.clone();
            files.get_mut(&name).unwrap().extend(stale);
            survives(&files, &after).await;
        }
        // The control: this one is right.
        let mut files = files.clone();
        let next = forged(&files[&name], 4, 3);
        files.get_mut(&name).unwrap().extend(next);
        let mut more = after;
        more.insert(key(13), object("resurrected"));
        survives(&files, &more).await;
    });
}

#[test]
fn a_later_batch_proves_that_a_missing_one_was_durable() {
    run(async {
        let (mut files, _, _) = crashed(plain()).await;
        let name = segments(&files).pop().unwrap();
        let segment = files.get_mut(&name).unwrap();
        let last = last_batch(segment);
        segment[last + 10] ^= 1;
        let next = forged(segment, 4, 3);
        // However much junk is between them, also across the pieces in which files are read.
        segment.resize((1 << 20) - 2, 0xff);
        segment.extend(&next);
        let dir = folder(&files).await;
        let (_, offset) = damage(Engine::open(dir.path(), CLUSTER, plain()).await);
        assert_eq!(offset, last as u64);

        // Bytes of another life prove nothing.
        let mut header = SegmentHeader::decode(&files[&name]).unwrap();
        header.life ^= 1;
        let mut bytes = bytes::BytesMut::new();
        header.encode(&mut bytes);
        let foreign = forged(&bytes, 4, 3);
        let (mut files, before, _) = crashed(plain()).await;
        let segment = files.get_mut(&name).unwrap();
        let last = last_batch(segment);
        segment[last + 10] ^= 1;
        segment.extend(&foreign);
        survives(&files, &before).await;
    });
}

#[test]
fn any_subset_of_the_last_writes_sectors_is_cut_or_whole() {
    run(async {
        let dir = temp_dir();
        let engine = open(dir.path(), Options { prefill_bytes: 10_000, ..plain() }).await;
        put(&engine, 1, "one").await;
        let old = image(dir.path()).await;
        let before = contents(&engine).await;
        put(&engine, 1, &"two".repeat(1500)).await;
        let new = image(dir.path()).await;
        let after = contents(&engine).await;
        let name = segments(&new).pop().unwrap();
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..60 {
            let mut files = new.clone();
            let segment = files.get_mut(&name).unwrap();
            let share = dice.random_range(0.0..=1.0);
            for (at, sector) in segment.chunks_mut(512).enumerate() {
                if dice.random_bool(share) {
                    let from = at * 512;
                    sector.copy_from_slice(&old[&name][from..from + sector.len()]);
                }
            }
            let whole = *segment == new[&name];
            survives(&files, if whole { &after } else { &before }).await;
        }
    });
}

#[test]
fn a_missing_or_foreign_file_is_damage() {
    run(async {
        let (files, _, _) = two_segments().await;
        let (other, _, _) = two_segments().await;
        let names = segments(&files);
        for missing in ["identity", &names[0]] {
            let mut files = files.clone();
            files.remove(missing);
            let dir = folder(&files).await;
            let (file, _) = damage(Engine::open(dir.path(), CLUSTER, plain()).await);
            assert_eq!(file, dir.path().join(missing));
        }
        for (name, from) in [(&names[0], &other), (&names[1], &other)] {
            let mut files = files.clone();
            files.insert(name.clone(), from[name].clone());
            let dir = folder(&files).await;
            let (file, _) = damage(Engine::open(dir.path(), CLUSTER, plain()).await);
            assert_eq!(file, dir.path().join(name));
        }
        let mut renamed = files.clone();
        renamed.insert("log-0000000009.log".to_owned(), files[&names[1]].clone());
        let dir = folder(&renamed).await;
        damage(Engine::open(dir.path(), CLUSTER, plain()).await);
    });
}

#[test]
fn another_format_version_is_named() {
    run(async {
        let (files, _, _) = two_segments().await;
        let name = segments(&files).pop().unwrap();
        for (name, header_bytes) in [(name.as_str(), SEGMENT_HEADER_BYTES), ("identity", 0)] {
            let mut files = files.clone();
            let bytes = files.get_mut(name).unwrap();
            let end = if header_bytes == 0 { bytes.len() } else { header_bytes };
            bytes[11] = 9;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[..12]);
            crc.update(&bytes[16..end]);
            bytes[12..16].copy_from_slice(&crc.finalize().to_be_bytes());
            let dir = folder(&files).await;
            let opened = Engine::open(dir.path(), CLUSTER, plain()).await;
            assert!(matches!(opened, Err(OpenError::Version { found: 9, .. })), "{opened:?}");
        }
    });
}

#[test]
fn files_that_are_no_segments_are_left_alone() {
    run(async {
        let (mut files, _, after) = crashed(plain()).await;
        for name in ["log-1.log", "log-0000000000.log", "log-00000000x1.log", "notes.txt"] {
            files.insert(name.to_owned(), b"mine".to_vec());
        }
        let dir = folder(&files).await;
        assert_eq!(contents(&open(dir.path(), plain()).await).await, after);
        assert_eq!(image(dir.path()).await["notes.txt"], b"mine");
        assert_eq!(image(dir.path()).await["log-1.log"], b"mine");
    });
}
