//! A table is the map that it was written from, for random contents, block sizes and bounds.

use proptest::prelude::*;

use super::*;

/// Names that share tokens, prefixes and nothing, in two buckets.
fn key() -> impl Strategy<Value = Key> {
    let name = prop_oneof![
        "[a-c]{1,3}",
        "\\{t\\}[a-c]{1,3}",
        "\\{(t|u)\\}a long prefix that is shared/[a-c]{1,2}",
        "[a-c]{1,2}.{0,40}",
    ];
    (prop::bool::ANY, name).prop_filter_map("no key", |(bucket, name)| {
        Key::new(if bucket { "b" } else { "b2" }, &name).ok()
    })
}

fn value() -> impl Strategy<Value = Bytes> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(any::<u8>(), 2000..2100),
        (0..3000usize).prop_map(|n| vec![b'x'; n]),
    ];
    value.prop_map(|bytes| encoded(&bytes.into_iter().map(char::from).collect::<String>()))
}

fn bound() -> impl Strategy<Value = Bound<Key>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_table_is_the_map_that_it_was_written_from(
        map in prop::collection::btree_map(key(), value(), 1..120),
        block_bytes in prop_oneof![Just(1usize), 10..400usize, Just(BLOCK_BYTES)],
        asked in prop::collection::vec(key(), 20),
        bounds in prop::collection::vec(bound(), 6),
        cache in prop_oneof![Just(0u64), Just(5000), Just(1 << 20)],
    ) {
        run(async {
            let dir = temp_dir();
            let path = table_path(dir.path(), ORIGIN.table);
            let properties = write(&path, &map, block_bytes).await;
            let cache = Arc::new(BlockCache::new(cache));
            let table = Arc::new(Table::open(&path, ORIGIN, cache).await.unwrap());
            prop_assert_eq!(table.properties(), &properties);
            prop_assert_eq!(properties.entries, map.len() as u64);
            prop_assert_eq!(Some(&properties.first), map.keys().next());
            prop_assert_eq!(Some(&properties.last), map.keys().last());
            // Twice: from the disk, and from the cache.
            for key in map.keys().chain(&asked).chain(map.keys()).chain(&asked) {
                prop_assert_eq!(get(&table, key).await.unwrap(), map.get(key).cloned());
            }
            for from in &bounds {
                let (found, errors) = scan(&table, from.as_ref()).await;
                let range = map.range::<Key, _>((from.as_ref(), Bound::Unbounded));
                let expected: Vec<_> = range.map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(found, expected);
                prop_assert!(errors.is_empty());
            }
            Ok(())
        })?;
    }
}
