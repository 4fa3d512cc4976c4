//! Whatever happens to a table's bytes: the right answer, or an error that names what is in doubt.

use super::*;

/// Asks a table, which has other bytes than were written, for everything in every way. Each key is
/// there with its value, or in doubt; nothing else is. How many were in doubt.
async fn ask(made: &Made, table: &Arc<Table>) -> usize {
    for (key, object) in &made.contents {
        match get(table, key).await {
            Ok(found) => assert_eq!(found.as_ref(), Some(object), "{key}"),
            Err(error) => assert!(error.doubtful().unwrap().contains(&key.token()), "{error}"),
        }
        let absent = Key::new(key.bucket(), &format!("{}+", key.name())).unwrap();
        match get(table, &absent).await {
            Ok(found) => assert_eq!(found, None),
            Err(error) => assert!(error.doubtful().unwrap().contains(&absent.token()), "{error}"),
        }
    }
    let (found, errors) = scan(table, Bound::Unbounded).await;
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "out of order");
    for (key, object) in &found {
        assert_eq!(made.contents.get(key), Some(object), "{key}");
    }
    let doubtful: Vec<_> = errors.iter().map(|error| error.doubtful().unwrap()).collect();
    let found: Contents = found.into_iter().collect();
    for key in made.contents.keys().filter(|key| !found.contains_key(*key)) {
        assert!(
            doubtful.iter().any(|tokens| tokens.contains(&key.token())),
            "{key} is silently gone"
        );
    }
    made.contents.len() - found.len()
}

#[test]
fn any_flipped_bit_of_any_byte_is_seen_or_harmless() {
    run(async {
        // Small, with packed and stored blocks, tags over block borders and without.
        let made = Made::new(contents(30), 300).await;
        let blocks = made.open().await.properties().blocks as usize;
        assert!(blocks > 3);
        let (mut refused, mut partly) = (0, 0);
        for at in 0..made.bytes.len() {
            let mut bytes = made.bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            match made.open_as(&bytes).await {
                Err(TableError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("byte {at}: {error}"),
                Ok(table) => {
                    let lost = ask(&made, &table).await;
                    assert!(lost < made.contents.len(), "one bit took everything");
                    partly += usize::from(lost > 0);
                }
            }
        }
        // Index, properties and footer are refused; every byte of a block is seen.
        assert!(
            refused > 72 && partly > made.bytes.len() / 2,
            "{refused} refused, {partly} partly"
        );
        made.open_as(&made.bytes).await.unwrap();
    });
}

#[test]
fn every_bit_of_one_block_header_and_of_the_footer_is_seen() {
    run(async {
        let made = Made::new(contents(30), 300).await;
        let end = made.bytes.len();
        for at in (0..block::HEADER_BYTES).chain(end - 72..end) {
            for bit in 0..8 {
                let mut bytes = made.bytes.clone();
                bytes[at] ^= 1 << bit;
                match made.open_as(&bytes).await {
                    Err(TableError::Damaged { .. }) => assert!(at > 100),
                    Err(error) => panic!("byte {at}: {error}"),
                    Ok(table) => assert!(at < 100 && ask(&made, &table).await > 0, "byte {at}"),
                }
            }
        }
    });
}

#[test]
fn a_file_cut_at_any_byte_is_refused_and_one_cut_while_open_is_damaged() {
    run(async {
        let made = Made::new(contents(30), 300).await;
        for len in 0..made.bytes.len() {
            let opened = made.open_as(&made.bytes[..len]).await;
            assert!(matches!(opened, Err(TableError::Damaged { .. })), "{len}: {opened:?}");
            let mut zeros = made.bytes[..len].to_vec();
            zeros.resize(made.bytes.len(), 0);
            assert!(
                made.open_as(&zeros).await.is_err() || made.bytes[len..].iter().all(|b| *b == 0)
            );
        }
        let table = made.open_as(&made.bytes).await.unwrap();
        let file = File::open(&made.path(), OpenMode::ReadWrite).await.unwrap();
        file.set_len(500).await.unwrap();
        let lost = ask(&made, &table).await;
        assert!(lost > 10 && lost < 30, "{lost} of 30");
    });
}

#[test]
fn a_block_in_the_wrong_place_is_damage() {
    run(async {
        // Twenty objects of one length in blocks of one entry each: blocks are exchangeable.
        let key = |n: u64| Key::new("b", &format!("k{n:02}")).unwrap();
        let made = Made::new((0..20).map(|n| (key(n), encoded("1"))).collect(), 1).await;
        let table = made.open().await;
        let (a, b) = (table.index().place(3), table.index().place(4));
        assert_eq!(a.end - a.start, b.end - b.start);
        let mut bytes = made.bytes.clone();
        let (a, b) = (a.start as usize..a.end as usize, b.start as usize..b.end as usize);
        bytes[a.clone()].copy_from_slice(&made.bytes[b.clone()]);
        let table = made.open_as(&bytes).await.unwrap();
        assert_eq!(ask(&made, &table).await, 1);
        // The same table of another folder, and under another number.
        for (folder, number) in [(NodeId(1), 7), (NodeId(0xf01d), 8)] {
            let origin = Origin { folder, table: TableId(number) };
            let cache = Arc::new(BlockCache::new(0));
            let opened = Table::open(&made.path(), origin, cache).await;
            assert!(matches!(opened, Err(TableError::Foreign { .. })), "{opened:?}");
        }
    });
}

/// The file with another footer, and that with the right checksum.
fn forged(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() - footer::FOOTER_BYTES;
    let footer = &mut bytes[at..];
    change(footer);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&footer[..56]);
    crc.update(&footer[60..]);
    footer[56..60].copy_from_slice(&crc.finalize().to_be_bytes());
    bytes
}

#[test]
fn hostile_footers_are_refused_before_memory_is_taken_for_them() {
    run(async {
        let made = Made::new(contents(30), 300).await;
        let len = made.bytes.len() as u64;
        let hostile = [
            0,
            1,
            len - 72,
            len - 71,
            len,
            len + 1,
            1 << 40,
            u64::MAX / 2,
            u64::MAX - 71,
            u64::MAX,
        ];
        for field in [0, 8, 16] {
            for value in hostile {
                let bytes = forged(&made.bytes, |f| {
                    f[field..field + 8].copy_from_slice(&value.to_be_bytes())
                });
                let opened = made.open_as(&bytes).await;
                assert!(
                    matches!(opened, Err(TableError::Damaged { .. })),
                    "{field} {value}: {opened:?}"
                );
            }
        }
        let newer = forged(&made.bytes, |f| f[63] = 2);
        let opened = made.open_as(&newer).await;
        assert!(
            matches!(opened, Err(TableError::Version { found: 2, known: 1, .. })),
            "{opened:?}"
        );
        made.open_as(&forged(&made.bytes, |_| ())).await.unwrap();
    });
}

#[test]
fn forged_sections_and_blocks_never_panic() {
    run(async {
        // Every checksum is right, so that the decoders behind them meet wrong bytes.
        let made = Made::new(contents(30), 300).await;
        let sound = made.open().await;
        let meta = u64::from_be_bytes(*made.bytes[made.bytes.len() - 72..].first_chunk().unwrap())
            as usize;
        for at in 0..made.bytes.len() - footer::FOOTER_BYTES {
            for flip in [0x01, 0xff] {
                let mut bytes = made.bytes.clone();
                bytes[at] ^= flip;
                if at < meta {
                    repair_block(&sound, &mut bytes, at as u64);
                }
                let Ok(table) = made.open_as(&repair_sections(&bytes)).await else { continue };
                // The answers may be wrong now; there must be an end of them.
                for key in made.contents.keys() {
                    drop(get(&table, key).await);
                }
                assert!(scan(&table, Bound::Unbounded).await.0.len() <= 30);
            }
        }
    });
}

fn repair_block(table: &Table, bytes: &mut [u8], at: u64) {
    let blocks = 0..table.index().len();
    let mut places = blocks.map(|block| table.index().place(block));
    let Some(place) = places.find(|place| place.contains(&at)) else { return };
    let block = &mut bytes[place.start as usize..place.end as usize];
    let mut crc = crc32fast::Hasher::new();
    crc.update(&ORIGIN.folder.0.to_be_bytes());
    crc.update(&ORIGIN.table.0.to_be_bytes());
    crc.update(&place.start.to_be_bytes());
    crc.update(&block[4..]);
    block[..4].copy_from_slice(&crc.finalize().to_be_bytes());
}

fn repair_sections(bytes: &[u8]) -> Vec<u8> {
    forged(bytes, |footer| {
        let end = bytes.len() - footer.len();
        let at = |n: usize| u64::from_be_bytes(*footer[n..].first_chunk().unwrap()) as usize;
        let ends = [at(0), at(8), at(16), end];
        for (n, section) in ends.windows(2).enumerate() {
            let crc = crc32fast::hash(&bytes[section[0]..section[1]]);
            footer[24 + 4 * n..28 + 4 * n].copy_from_slice(&crc.to_be_bytes());
        }
    })
}

#[test]
fn a_damaged_filter_is_done_without() {
    run(async {
        let made = Made::new(contents(300), 1000).await;
        let mut bytes = made.bytes.clone();
        let filter = u64::from_be_bytes(*bytes[bytes.len() - 72..].first_chunk().unwrap()) as usize;
        bytes[filter + 3] ^= 0xff;
        let table = made.open_as(&bytes).await.unwrap();
        assert!(!table.has_filter());
        assert_eq!(ask(&made, &table).await, 0);
        assert!(made.open_as(&made.bytes).await.unwrap().has_filter());
    });
}
