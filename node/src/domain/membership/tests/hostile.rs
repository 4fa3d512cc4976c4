//! Bytes that nobody should have sent, and what any member may send at most.

use proptest::prelude::*;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::net::{Net, WALL_MS, address, info};
use crate::domain::membership::seal::Seal;
use crate::domain::membership::wire::{
    self, Beat, Claim, DATAGRAM_BYTES_MAX, Dropped, Header, Message, Record, Stamp,
};
use crate::domain::membership::{
    Effects, MEMBERS_MAX, Machine, MemberInfo, Options, TEXT_BYTES_MAX, hash_of,
};
use crate::runtime::time::Instant;

fn stamp(incarnation: u64, heartbeat: u64) -> Stamp {
    let mut beat = Beat::default();
    (0..heartbeat).for_each(|_| beat = beat.next());
    Stamp { incarnation, beat }
}

fn sender(name: &str, process: u64, stamp: Stamp) -> Header {
    Header { sender: hash_of(name), process, announced: true, stamp, load: 3 }
}

/// One message of each kind.
fn messages() -> Vec<Message> {
    let claims = vec![Claim { target: 5, stamp: stamp(7, 8), reporters: vec![(1, 2), (3, 4)] }];
    let stamps =
        vec![(9, stamp(WALL_MS, 5)), (1, Stamp { beat: stamp(0, 1).beat.stop(), ..stamp(3, 0) })];
    let six = MemberInfo { gossip: "[2001:db8::7]:7000".parse().unwrap(), ..info(3, 3, 3) };
    let records = [info(2, 2, 2), six].map(|info| Record { info, stamp: stamp(4, 4), born: 9 });
    vec![
        Message::Digest { first: 3, last: 1, stamps: stamps.clone(), claims: claims.clone() },
        Message::News { answers: true, stamps, wants: vec![7, 8], claims, records: records.into() },
        Message::Ping { origin: 1 },
        Message::Pong { origin: 1, target: 2, stamp: stamp(1, 2) },
        Message::AskPing { target: 3 },
    ]
}

#[test]
fn every_message_reads_as_it_was_written() {
    for secret in [None, Some(&b"secret"[..])] {
        let seal = Seal::new(secret);
        for message in messages() {
            let header = sender("a", 5, stamp(WALL_MS, 100));
            let bytes = wire::encode(77, &header, &message, &seal);
            assert_eq!(wire::decode(77, &bytes, &seal), Ok((header, message)));
            assert_eq!(wire::decode(78, &bytes, &seal), Err(Dropped::Foreign));
        }
    }
}

#[test]
fn the_longest_record_fits_one_datagram() {
    let long = || "x".repeat(TEXT_BYTES_MAX).into();
    let six = "[2001:db8:1111:2222:3333:4444:5555:7777]:65535".parse().unwrap();
    let info = MemberInfo {
        name: long(),
        rpc: long(),
        http: long(),
        zone: long(),
        datacenter: long(),
        gossip: six,
        generation: 1 << 62,
        vnodes: u32::MAX,
        load: u32::MAX,
        ..info(0, 0, u64::MAX)
    };
    assert_eq!(info.check(), Ok(()));
    let too_long = "x".repeat(TEXT_BYTES_MAX + 1).into();
    assert!(MemberInfo { zone: too_long, ..info.clone() }.check().is_err());
    assert!(MemberInfo { name: "".into(), ..info.clone() }.check().is_err());
    // Two of such members find each other.
    let mut net = Net::empty(1);
    net.options.secret = Some(vec![1]);
    net.start(MemberInfo { gossip: address(0), ..info.clone() });
    let name: String = "y".repeat(TEXT_BYTES_MAX);
    net.start(MemberInfo { gossip: address(1), name: name.as_str().into(), ..info });
    net.run_ms(5_000);
    assert_eq!((net.known(0), net.known(1)), (2, 2));
    assert!(net.longest <= DATAGRAM_BYTES_MAX);
}

#[test]
fn other_clusters_and_strangers_are_dropped_and_counted() {
    let mut net = Net::empty(1);
    net.options.secret = Some(b"right".to_vec());
    net.start(info(0, 0, 1));
    let right = net.options.clone();
    net.options.secret = Some(b"wrong".to_vec());
    net.start(info(1, 1, 2));
    net.options = Options { cluster: "other".into(), ..right.clone() };
    net.start(info(2, 2, 3));
    net.options = Options { secret: None, ..right };
    net.start(info(3, 3, 4));
    net.run_ms(10_000);
    let counters = net.nodes[0].machine.counters();
    assert!(counters.unauthenticated >= 10 && counters.foreign >= 5, "{counters:?}");
    assert_eq!(counters.sent, 0, "strangers got answers");
    assert!((0..4).all(|slot| net.known(slot) == 1));
}

#[test]
fn no_more_members_are_kept_than_the_limit() {
    let mut machine = Machine::new(info(0, 0, 1), WALL_MS, Options::default(), Instant::default());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (seal, cluster) = (Seal::new(None), hash_of("starling"));
    for at in 0..MEMBERS_MAX + 100 {
        let info = MemberInfo { name: format!("m{at}").into(), ..info(1, 1, 1) };
        if at % 2 == 0 {
            machine.remember(info);
            continue;
        }
        let header = sender(&info.name, 1, stamp(1, 1));
        let records = vec![Record { info, stamp: stamp(1, 1), born: 1 }];
        let news = Message::News {
            answers: false,
            stamps: vec![],
            wants: vec![],
            claims: vec![],
            records,
        };
        let bytes = wire::encode(cluster, &header, &news, &seal);
        machine.receive(Instant::default(), address(1), &bytes, &mut rng, &mut Effects::default());
    }
    assert_eq!(machine.members(Instant::default()).len(), MEMBERS_MAX + 1);
    assert_eq!(machine.counters().refused, 100);
}

#[test]
fn one_datagram_causes_a_bounded_answer() {
    let mut net = Net::empty(2);
    for slot in 0..600 {
        net.start(info(slot, slot, slot as u64));
    }
    net.run_ms(8_000);
    assert_eq!(net.known(0), 600);
    let header = Header { announced: false, ..sender("newcomer", 5, Stamp::default()) };
    let empty = Message::Digest { first: 0, last: u64::MAX, stamps: vec![], claims: vec![] };
    let bytes = wire::encode(hash_of("starling"), &header, &empty, &Seal::new(None));
    let before = net.nodes[0].machine.counters();
    net.deliver(0, address(999), &bytes);
    assert_eq!(net.nodes[0].machine.counters().sent - before.sent, 16);
    assert!(net.longest <= DATAGRAM_BYTES_MAX);
}

/// A machine that knows a few others, and is fed what may come.
fn victim() -> (Machine, ChaCha8Rng) {
    let mut machine = Machine::new(info(0, 0, 1), WALL_MS, Options::default(), Instant::default());
    (1..4).for_each(|slot| machine.remember(info(slot, slot, 1)));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    machine.tick(Instant::default(), &mut rng, &mut Effects::default());
    (machine, rng)
}

#[test]
fn damaged_datagrams_are_counted_and_change_nothing() {
    let (mut machine, mut rng) = victim();
    let (seal, cluster, now) = (Seal::new(None), hash_of("starling"), Instant::default());
    let before = format!("{:?}", machine.members(now));
    let mut out = Effects::default();
    let mut fed = 0;
    for message in messages() {
        let bytes = wire::encode(cluster, &sender("node-0001", 5, stamp(9, 9)), &message, &seal);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            machine.receive(now, address(1), &bytes, &mut rng, &mut out);
            machine.receive(now, address(1), &bytes[..bit / 8], &mut rng, &mut out);
            fed += 2;
        }
    }
    assert_eq!(machine.counters().malformed, fed);
    assert_eq!(format!("{:?}", machine.members(now)), before);
    assert!(out.datagrams.is_empty() && out.events.is_empty());
}

proptest! {
    #[test]
    fn well_sealed_nonsense_never_panics(seed: u64) {
        // Bits flip before the seal is put on, so the decoder and the machine see them.
        let (mut machine, mut rng) = victim();
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let (seal, cluster) = (Seal::new(None), hash_of("starling"));
        let mut now = Instant::default();
        for round in 0..60 {
            let names = ["node-0000", "node-0001", "node-0009"];
            let header = sender(names[round % 3], dice.next_u64(), stamp(WALL_MS + 1, 3));
            let all = messages();
            let message = &all[dice.random_range(0..all.len())];
            let mut bytes = wire::encode(cluster, &header, message, &seal);
            bytes.truncate(bytes.len() - 4);
            for _ in 0..dice.random_range(0..4) {
                let at = dice.random_range(11..bytes.len());
                bytes[at] = dice.random();
            }
            seal.close(&mut bytes);
            let mut out = Effects::default();
            now = now + std::time::Duration::from_millis(dice.random_range(0..700));
            machine.receive(now, address(1), &bytes, &mut rng, &mut out);
            machine.tick(now, &mut rng, &mut out);
            for (_, bytes) in out.datagrams {
                prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
                prop_assert!(wire::decode(cluster, &bytes, &seal).is_ok());
            }
            machine.members(now);
        }
    }

    #[test]
    fn random_bytes_are_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..1_500)) {
        let (mut machine, mut rng) = victim();
        let mut out = Effects::default();
        machine.receive(Instant::default(), address(1), &bytes, &mut rng, &mut out);
        prop_assert_eq!(machine.counters().malformed, 1);
        prop_assert!(out.datagrams.is_empty() && out.events.is_empty());
    }
}
