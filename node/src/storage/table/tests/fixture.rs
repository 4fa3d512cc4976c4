//! A table that an earlier build wrote is read, and written again byte for byte.

use super::*;

/// Made by format version 1 from [`fixture`], as hexadecimal digits, 32 bytes a line.
const VERSION_1: &str = include_str!("version_1.hex");

fn fixture() -> Contents {
    contents(60)
}

fn bytes() -> Vec<u8> {
    let digits: Vec<u8> = VERSION_1.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn a_table_of_version_1_is_read() {
    run(async {
        let made = Made::new(contents(1), 1).await;
        let table = made.open_as(&bytes()).await.unwrap();
        let (found, errors) = scan(&table, Bound::Unbounded).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(found.into_iter().collect::<Contents>(), fixture());
        for (key, object) in &fixture() {
            assert_eq!(get(&table, key).await.unwrap().as_ref(), Some(object));
        }
        assert_eq!(table.properties().batches, 3..=9);
        assert!(table.has_filter());
    });
}

#[test]
fn this_build_writes_the_same_table() {
    let made = run(Made::new(fixture(), 700));
    let lines: Vec<String> = made
        .bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    let written = lines.join("\n");
    assert!(made.bytes == bytes(), "the format changed: a new version is due. Written:\n{written}");
}
