//! What an exchange costs, against the figures that it is held to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::replica::{Cost, Replica, depth, exchange, key, write};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::time::Instant;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn data(keys: u32) -> BTreeMap<Key, Arc<Object>> {
    let value = "v".repeat(100);
    (0..keys).map(|n| (key(n), Arc::new(write(None, 1, u64::from(n) + 1, &value)))).collect()
}

/// An equal partition takes one question, one answer, 200 bytes with their heads, and no look at the data. One
/// differing key among a million takes four round trips and 16 KiB at the most, and one object, whoever has
/// the newer one.
#[test]
fn the_cost_of_an_exchange() {
    const KEYS: u32 = 1_000_000;
    let mut here = Replica::of(data(KEYS));
    assert_eq!(here.tree().bits(), depth(KEYS as usize));
    let mut there = here.clone();
    let equal = exchange(&mut here, &mut there, NOW, false).unwrap();
    assert_eq!((equal.round_trips, equal.objects, equal.read), (1, 0, 0));
    println!("equal: {equal:?}");
    // A frame's head has 16 bytes, a request's 20 more, a reply's 8.
    assert!(equal.bytes + 60 <= 200, "{equal:?}");

    let newer = |replica: &Replica, number: u32, counter| {
        write(replica.data.get(&key(number)).map(|old| &**old), 2, counter, "newer")
    };
    let mut changes: Vec<(&str, Cost)> = Vec::new();
    let object = newer(&here, 77, 1);
    here.put(key(77), object, None);
    changes.push(("newer here", exchange(&mut here, &mut there, NOW, false).unwrap()));
    let object = newer(&there, 4_711, 2);
    there.put(key(4_711), object, None);
    changes.push(("newer there", exchange(&mut here, &mut there, NOW, false).unwrap()));
    here.put(key(KEYS), write(None, 2, 3, "only here"), None);
    changes.push(("only here", exchange(&mut here, &mut there, NOW, false).unwrap()));
    there.put(key(KEYS + 1), write(None, 2, 4, "only there"), None);
    changes.push(("only there", exchange(&mut here, &mut there, NOW, false).unwrap()));
    for (what, cost) in changes {
        println!("{what}: {cost:?}");
        assert!(cost.round_trips <= 4, "{what}: {cost:?}");
        assert!(cost.bytes <= 16 << 10, "{what}: {cost:?}");
        assert_eq!(cost.objects, 1, "{what}: {cost:?}");
    }
    assert_eq!(here.data, there.data);
    assert_eq!(here.tree(), there.tree());
}
