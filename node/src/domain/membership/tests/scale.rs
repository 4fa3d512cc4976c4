//! Large clusters: what they send, and how soon they are complete.

use super::net::{Net, info};
use crate::domain::membership::Health;

#[test]
fn a_hundred_idle_nodes_send_little_and_only_short_datagrams() {
    let mut net = Net::empty(5);
    // With a secret, which makes the longest datagrams, and starts far apart in time.
    net.options.secret = Some(b"a secret".to_vec());
    for slot in 0..100 {
        net.start(info(slot, slot, slot as u64));
        net.advance_wall_ms(86_400_000);
        net.run_ms(10);
    }
    net.run_ms(15_000);
    assert!((0..100).all(|slot| net.count(slot, Health::Up) == 100));
    let sent = |net: &Net| -> Vec<(u64, u64)> {
        let counters = net.nodes.iter().map(|node| node.machine.counters());
        counters.map(|c| (c.sent_bytes, c.sent)).collect()
    };
    let before = sent(&net);
    net.run_ms(20_000);
    for (slot, (now, then)) in sent(&net).iter().zip(before).enumerate() {
        // 28 bytes of UDP and IP to each datagram.
        let bytes = (now.0 - then.0 + 28 * (now.1 - then.1)) / 20;
        assert!(bytes <= 10_000, "node {slot} sends {bytes} bytes/s");
        assert!(bytes >= 3_000, "node {slot} sends {bytes} bytes/s: too few to be true");
    }
    assert!(net.longest <= 1_400, "{}", net.longest);
    assert!(net.longest > 1_300, "{}: no datagram was full", net.longest);
    assert_eq!(net.all_downs(), 0);
}

#[test]
fn a_thousand_nodes_that_start_at_once_know_all_within_fifteen_seconds() {
    const N: usize = 1_000;
    let mut net = Net::empty(1);
    for slot in 0..N {
        net.start(info(slot, slot, slot as u64));
    }
    let complete = |net: &Net| (0..N).filter(|&slot| net.known(slot) == N).count();
    while complete(&net) < N {
        net.run_ms(1_000);
        println!("{} ms: {} complete", net.now_ms(), complete(&net));
        assert!(net.now_ms() < 15_000, "{} of {N} complete", complete(&net));
    }
    assert_eq!(net.all_downs(), 0);
    let sent: u64 = net.nodes.iter().map(|n| n.machine.counters().sent_bytes).sum();
    println!("{} bytes of each node", sent / N as u64);
    assert!(net.longest <= 1_400, "{}", net.longest);
}
