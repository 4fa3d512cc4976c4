//! Small stories: filter, cache, scans, memory, packing.

use super::*;
use crate::domain::key::Token;

#[test]
fn an_absent_key_touches_no_block_but_for_a_false_positive() {
    run(async {
        let made = Made::new(contents(2000), 1000).await;
        let table = made.open().await;
        for n in 0..2000 {
            let absent = Key::new("bucket", &format!("absent-{n}")).unwrap();
            assert_eq!(get(&table, &absent).await.unwrap(), None);
        }
        let stats = table.cache.stats();
        let touched = stats.hits + stats.misses;
        assert!(touched < 30, "{touched} of 2000 lookups touched a block");
    });
}

#[test]
fn a_block_is_read_once_and_a_scan_bypasses_the_cache() {
    run(async {
        let made = Made::new(contents(300), 1 << 20).await;
        let table = made.open().await;
        scan(&table, Bound::Unbounded).await;
        assert_eq!(table.cache.stats(), CacheStats::default());
        for key in made.contents.keys() {
            assert!(get(&table, key).await.unwrap().is_some());
        }
        let stats = table.cache.stats();
        assert_eq!((stats.misses, stats.hits), (1, 299));
        assert!(stats.bytes >= table.properties().raw_bytes);
    });
}

#[test]
fn objects_come_back_as_they_went_in() {
    run(async {
        let dir = temp_dir();
        let path = table_path(dir.path(), ORIGIN.table);
        let mut writer = TableWriter::create(&path, spec(10, BLOCK_BYTES)).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        writer.add(&key, &object("1")).await.unwrap();
        assert_eq!(writer.entries(), 1);
        assert!(writer.bytes() > 0);
        writer.finish().await.unwrap();
        let table = open(&path).await.unwrap();
        assert_eq!(*table.object(&Target::new(&key)).await.unwrap().unwrap(), object("1"));
        assert_eq!(get(&table, &key).await.unwrap(), Some(encoded("1")));
        assert_eq!(table.tokens(), key.token()..=key.token());
    });
}

#[test]
fn what_is_no_object_is_damage_of_its_block_alone() {
    run(async {
        let mut map = contents(50);
        let (key, token) = map.keys().nth(20).map(|key| (key.clone(), key.token())).unwrap();
        map.insert(key.clone(), Bytes::from_static(b"no object"));
        let made = Made::new(map, 100).await;
        let table = made.open().await;
        let error = table.object(&Target::new(&key)).await.unwrap_err();
        let doubtful = error.doubtful().unwrap();
        assert!(doubtful.contains(&token), "{error}");
        assert_ne!(doubtful, table.tokens());
    });
}

#[test]
fn a_table_is_read_on_after_its_file_was_removed() {
    run(async {
        let made = Made::new(contents(100), 500).await;
        let table = made.open().await;
        let mut cursor = table.cursor(Bound::Unbounded);
        cursor.next().await.unwrap();
        crate::runtime::fs::remove_file(&made.path()).await.unwrap();
        for (key, object) in &made.contents {
            assert_eq!(get(&table, key).await.unwrap().as_ref(), Some(object));
        }
        assert_eq!(scan(&table, Bound::Unbounded).await.0.len(), 100);
        assert!(matches!(open(&made.path()).await, Err(TableError::Missing(_))));
    });
}

#[test]
fn values_that_pack_are_packed_and_others_are_not() {
    run(async {
        let key = |n: u64| Key::new("b", &format!("k{n}")).unwrap();
        let text = Bytes::from("to be or not to be, ".repeat(50));
        let packs: Contents = (0..500).map(|n| (key(n), text.clone())).collect();
        let noise = |n: u64| {
            let word = |i: u64| crate::domain::hash::fmix64(n * 1000 + i).to_be_bytes();
            (0..125).flat_map(word).collect::<Vec<u8>>()
        };
        let random: Contents = (0..500).map(|n| (key(n), noise(n).into())).collect();
        let (packed, stored) =
            (Made::new(packs, BLOCK_BYTES).await, Made::new(random, BLOCK_BYTES).await);
        let (a, b) = (packed.open().await, stored.open().await);
        assert!(packed.bytes.len() < 100_000, "{}", packed.bytes.len());
        // Beside the blocks: 13 bytes a block, and filter, index, properties and footer.
        let beside = stored.bytes.len() as u64 - b.properties().raw_bytes;
        assert!(beside < 6000, "{beside} bytes beside {}", b.properties().raw_bytes);
        for (table, made) in [(a, packed), (b, stored)] {
            let (found, errors) = scan(&table, Bound::Unbounded).await;
            assert_eq!(found.into_iter().collect::<Contents>(), made.contents);
            assert!(errors.is_empty());
        }
    });
}

#[test]
fn memory_and_weight_of_ranges_are_as_documented() {
    run(async {
        let key = |n: u64| Key::new("bucket", &format!("key-{n:020}")).unwrap();
        let value = Bytes::from(vec![b'v'; 1000]);
        let map: Contents = (0..20_000).map(|n| (key(n), value.clone())).collect();
        let made = Made::new(map, BLOCK_BYTES).await;
        let table = made.open().await;
        // 2,000,000 of them in such tables: a hundred times this.
        assert!(table.memory_bytes() < 120_000, "{} bytes", table.memory_bytes());
        let blocks_end = table.stored_bytes_in(ALL_TOKENS);
        let half = table.stored_bytes_in(Token(0)..=Token(u64::MAX / 2));
        assert!((blocks_end * 45 / 100..blocks_end * 55 / 100).contains(&half), "{half}");
        assert_eq!(table.stored_bytes_in(Token(0)..=Token(0)), 0);
    });
}

#[test]
fn one_tag_may_fill_many_blocks() {
    run(async {
        let key = |n: u64| Key::new("b", &format!("{{t}}/{n:04}")).unwrap();
        let map: Contents = (0..500).map(|n| (key(n), encoded("1"))).collect();
        let made = Made::new(map, 100).await;
        let table = made.open().await;
        assert!(table.properties().blocks > 100);
        for (key, object) in &made.contents {
            assert_eq!(get(&table, key).await.unwrap().as_ref(), Some(object));
        }
        assert_eq!(scan(&table, Bound::Excluded(&key(250))).await.0.len(), 249);
    });
}

#[test]
#[should_panic(expected = "ascend")]
fn keys_that_do_not_ascend_are_a_bug() {
    run(async {
        let dir = temp_dir();
        let path = table_path(dir.path(), ORIGIN.table);
        let mut writer = TableWriter::create(&path, spec(10, BLOCK_BYTES)).await.unwrap();
        let key = Key::new("b", "k").unwrap();
        writer.add(&key, &object("1")).await.unwrap();
        writer.add(&key, &object("1")).await.unwrap();
    });
}

#[test]
fn names_of_tables() {
    let path = table_path(Path::new("d"), TableId(12));
    assert_eq!(path, Path::new("d/table-0000000012.sst"));
    assert_eq!(table_number("table-0000000012.sst"), Some(TableId(12)));
    for name in
        ["table-12.sst", "table-0000000000.sst", "table-00000000x1.sst", "log-0000000001.log"]
    {
        assert_eq!(table_number(name), None, "{name}");
    }
}
