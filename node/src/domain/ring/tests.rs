//! The ring's promises over random memberships, and a few rings to look at.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn member(name: &str, zone: &str, vnodes: u32) -> Member {
    Member { name: name.into(), zone: zone.into(), vnodes }
}

/// One line a partition: its first token, home replicas, fallbacks; then what each member holds.
fn render(ring: &Ring) -> String {
    let mut out = String::new();
    let names = |nodes: &[NodeIndex]| {
        nodes.iter().map(|&node| ring.member(node).name.as_str()).collect::<Vec<_>>().join(" ")
    };
    for partition in (0..ring.partitions()).map(PartitionId) {
        let start = ring.token_range(partition).0.0 >> 56;
        let (home, fallbacks) = (names(ring.home(partition)), names(ring.fallbacks(partition)));
        writeln!(out, "{start:02x}..  {home} | {fallbacks}").unwrap();
    }
    for (at, member) in ring.members().iter().enumerate() {
        let node = NodeIndex(at as u16);
        let (held, share) = (ring.replicas_held(node), ring.share(node));
        writeln!(out, "{} zone {:?}: {held} held, {share:.2}", member.name, member.zone).unwrap();
    }
    out
}

#[test]
fn three_equal_members() {
    let members = [member("n1", "", 256), member("n2", "", 256), member("n3", "", 256)];
    insta::assert_snapshot!(render(&Ring::build(&members, 8, 2).unwrap()), @r#"
    00..  n2 n1 | n3
    20..  n3 n2 | n1
    40..  n3 n1 | n2
    60..  n1 n3 | n2
    80..  n1 n2 | n3
    a0..  n3 n2 | n1
    c0..  n3 n2 | n1
    e0..  n3 n1 | n2
    n1 zone "": 5 held, 0.94
    n2 zone "": 5 held, 0.94
    n3 zone "": 6 held, 1.12
    "#);
}

#[test]
fn two_zones_hold_a_copy_each() {
    let members = [
        member("a1", "a", 256),
        member("a2", "a", 256),
        member("a3", "a", 256),
        member("b1", "b", 256),
    ];
    insta::assert_snapshot!(render(&Ring::build(&members, 8, 2).unwrap()), @r#"
    00..  a1 b1 | a2 a3
    20..  a3 b1 | a2 a1
    40..  a2 b1 | a1 a3
    60..  a2 b1 | a3 a1
    80..  a3 b1 | a1 a2
    a0..  a1 b1 | a2 a3
    c0..  a1 b1 | a3 a2
    e0..  b1 a2 | a1 a3
    a1 zone "a": 3 held, 1.12
    a2 zone "a": 3 held, 1.12
    a3 zone "a": 2 held, 0.75
    b1 zone "b": 8 held, 1.00
    "#);
}

#[test]
fn a_big_member_holds_more_and_a_proxy_nothing() {
    let members = [
        member("big", "", 512),
        member("mid", "", 256),
        member("new", "", 256),
        member("proxy", "", 0),
    ];
    insta::assert_snapshot!(render(&Ring::build(&members, 8, 1).unwrap()), @r#"
    00..  big | mid new
    20..  new | mid big
    40..  mid | big new
    60..  big | mid new
    80..  new | big mid
    a0..  big | new mid
    c0..  big | new mid
    e0..  mid | big new
    big zone "": 4 held, 1.00
    mid zone "": 2 held, 1.00
    new zone "": 2 held, 1.00
    proxy zone "": 0 held, 0.00
    "#);
}

#[test]
fn one_member_holds_all_and_one_partition_is_enough() {
    let ring = Ring::build(&[member("n1", "", 256)], 1, 3).unwrap();
    let all = PartitionId(0);
    assert_eq!(ring.n(), 1);
    assert_eq!(ring.partition_of(Token(u64::MAX)), all);
    assert_eq!(ring.token_range(all), (Token(0), Token(u64::MAX)));
    assert_eq!(ring.home(all), [NodeIndex(0)]);
    assert_eq!(ring.fallbacks(all), []);
}

#[test]
fn a_table_that_cannot_be_is_refused_with_advice() {
    let one = [member("n1", "", 256)];
    let refused = |members: &[Member], q, n| Ring::build(members, q, n).unwrap_err().to_string();
    let rows = [
        refused(&one, 0, 3),
        refused(&one, 1000, 3),
        refused(&one, PARTITIONS_MAX * 2, 3),
        refused(&one, 8, 0),
        refused(&[], 8, 3),
        refused(&[member("p", "", 0)], 8, 3),
        refused(&[member("", "", 1)], 8, 3),
        refused(&[member("n1", "a", 1), member("n1", "b", 1)], 8, 3),
        refused(&[member("n1", "", 5000)], 8, 3),
        refused(&vec![member("n1", "", 1); MEMBERS_MAX + 1], 8, 3),
    ];
    insta::assert_snapshot!(rows.join("\n"), @r#"
    0 partitions: use a power of two from 1 to 65536
    1000 partitions: use a power of two from 1 to 65536
    131072 partitions: use a power of two from 1 to 65536
    0 replicas of each partition: use 1 or more (3 is usual)
    no member owns data: give at least one member a vnodes above 0
    no member owns data: give at least one member a vnodes above 0
    a member has an empty name: give every member a name of its own
    two members are named "n1": give every member a name of its own
    member "n1" has 5000 vnodes: use at most 4096
    4097 members: use at most 4096
    "#);
}

/// Up to a dozen members in up to four zones, of unlike sizes, proxies among them.
fn memberships() -> impl Strategy<Value = Vec<Member>> {
    let vnodes = prop_oneof![6 => Just(64u32), 1 => Just(16), 1 => Just(128), 1 => Just(0)];
    (1..=4usize).prop_flat_map(move |zones| {
        let member = ("[a-z]{1,3}[0-9]{0,2}", 0..zones, vnodes.clone());
        prop::collection::vec(member, 1..12).prop_map(|all| {
            let unique: std::collections::BTreeMap<_, _> =
                all.into_iter().map(|(name, zone, vnodes)| (name, (zone, vnodes))).collect();
            let to_member = |(name, (zone, vnodes)): (String, (usize, u32))| Member {
                name,
                zone: format!("z{zone}"),
                vnodes,
            };
            unique.into_iter().map(to_member).collect()
        })
    })
}

proptest! {
    #[test]
    fn every_ring_keeps_its_promises(
        members in memberships(), log_q in 0u32..7, n in 1usize..5,
    ) {
        let Ok(ring) = Ring::build(&members, 1 << log_q, n) else {
            prop_assert!(members.iter().all(|m| m.vnodes == 0));
            return Ok(());
        };
        let owners: BTreeSet<NodeIndex> = (0..members.len() as u16)
            .map(NodeIndex)
            .filter(|&node| ring.member(node).vnodes > 0)
            .collect();
        let zones_of = |nodes: &mut dyn Iterator<Item = NodeIndex>| {
            nodes.map(|node| ring.member(node).zone.clone()).collect::<BTreeSet<_>>().len()
        };
        let zones = zones_of(&mut owners.iter().copied());
        prop_assert_eq!(ring.n(), n.min(owners.len()));

        let mut held = vec![0u32; members.len()];
        for partition in (0..ring.partitions()).map(PartitionId) {
            let list = ring.preference_list(partition);
            prop_assert_eq!(list.len(), owners.len());
            prop_assert_eq!(&list.iter().copied().collect::<BTreeSet<_>>(), &owners);
            let home = ring.home(partition);
            prop_assert_eq!(zones_of(&mut home.iter().copied()), zones.min(ring.n()));
            for node in home {
                held[usize::from(node.0)] += 1;
            }
        }
        for (at, &held) in held.iter().enumerate() {
            let node = NodeIndex(at as u16);
            prop_assert_eq!(ring.replicas_held(node), held);
            let fair = ring.fair[at];
            let most = (fair - 1e-3).ceil().max(fair * 1.05 + 1e-3);
            prop_assert!(f64::from(held) <= most, "{held} held, {fair} fair\n{}", render(&ring));
        }
    }

    #[test]
    fn the_order_of_the_members_makes_no_difference(
        members in memberships().prop_shuffle(), log_q in 0u32..5, n in 1usize..4,
    ) {
        let mut sorted = members.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let (one, other) = (Ring::build(&members, 1 << log_q, n), Ring::build(&sorted, 1 << log_q, n));
        prop_assert_eq!(&one, &other);
        let Ok(ring) = one else { return Ok(()) };
        for (at, member) in ring.members().iter().enumerate() {
            prop_assert_eq!(ring.index_of(&member.name), Some(NodeIndex(at as u16)));
            // Whatever differs, the digest differs.
            let mut changed = members.clone();
            changed.retain(|m| m.name != member.name);
            if let Ok(changed) = Ring::build(&changed, 1 << log_q, n) {
                prop_assert_ne!(changed.digest(), ring.digest());
            }
        }
        prop_assert_eq!(ring.index_of("no such member"), None);
    }

    #[test]
    fn partitions_cut_the_tokens_without_gap_or_overlap(token: u64, log_q in 0u32..12) {
        let ring = Ring::build(&[member("n1", "", 1)], 1 << log_q, 1).unwrap();
        let partition = ring.partition_of(Token(token));
        let (first, last) = ring.token_range(partition);
        prop_assert!(first.0 <= token && token <= last.0);
        prop_assert_eq!(ring.partition_of(first), partition);
        prop_assert_eq!(ring.partition_of(last), partition);
        match last.0.checked_add(1) {
            Some(next) => prop_assert_eq!(ring.partition_of(Token(next)).0, partition.0 + 1),
            None => prop_assert_eq!(partition.0 + 1, ring.partitions()),
        }
    }
}
