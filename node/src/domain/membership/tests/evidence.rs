//! Which reports count, and what a pause does to what was heard before it.

use super::net::Net;
use crate::domain::membership::wire::Claim;
use crate::domain::membership::{Health, hash_of};

/// Four members, of whom the last crashed 2.5 s ago: silent, and not asked yet.
fn silent_fourth() -> Net {
    let mut net = Net::settled(4, 21);
    net.crash(3);
    net.run_ms(2_500);
    assert_eq!(net.health(0, 3), Health::Up);
    net
}

/// What 1 and 2 (as many as `reporters`) tell 0 of 3, `beats` of their heartbeats ago; of an older
/// heartbeat than 0 knows, if `stale`.
fn tell(net: &mut Net, reporters: &[usize], beats: u64, stale: bool) {
    let target = hash_of("node-0003");
    let machine = &net.nodes[0].machine;
    let mut stamp = machine.members.get(target).expect("known").record.stamp;
    if stale {
        stamp.incarnation -= 1;
    }
    let reporters = reporters
        .iter()
        .map(|slot| hash_of(&format!("node-{slot:04}")))
        .map(|hash| {
            (hash, machine.members.get(hash).map_or(0, |e| e.record.stamp.beat.heartbeat()))
        })
        .map(|(hash, heartbeat)| (hash, heartbeat - beats.min(heartbeat)))
        .collect();
    let claims = vec![Claim { target, stamp, reporters }];
    net.call(0, |machine, now, out| machine.take_claims(claims, now, out));
}

#[test]
fn two_live_members_that_know_as_much_take_a_silent_one_down() {
    // (reporters, how many beats ago, of older news, what is believed then)
    let table: &[(&[usize], u64, bool, Health)] = &[
        (&[1, 2], 0, false, Health::Down),
        (&[1, 2], 8, false, Health::Down),
        (&[1, 2], 9, false, Health::Up),
        (&[1, 2], 0, true, Health::Up),
        (&[1], 0, false, Health::Up),
        (&[1, 1], 0, false, Health::Up),
        (&[1, 3], 0, false, Health::Up),
        (&[1, 9], 0, false, Health::Up),
    ];
    for (reporters, beats, stale, health) in table {
        let mut net = silent_fourth();
        tell(&mut net, reporters, *beats, *stale);
        assert_eq!(net.health(0, 3), *health, "{reporters:?} {beats} {stale}");
    }
}

#[test]
fn a_member_that_was_just_heard_is_not_down_whatever_others_say() {
    let mut net = Net::settled(4, 22);
    net.run_ms(500);
    tell(&mut net, &[1, 2], 0, false);
    assert_eq!(net.health(0, 3), Health::Up);
    net.run_ms(10_000);
    assert_eq!(net.all_downs(), 0);
}

#[test]
fn a_report_ends_when_it_is_not_renewed() {
    let mut net = silent_fourth();
    tell(&mut net, &[1], 0, false);
    let machine = &net.nodes[0].machine;
    let entry = machine.members.get(hash_of("node-0003")).expect("known");
    let counting = |seconds| {
        machine.reporters(entry, net.now() + std::time::Duration::from_secs(seconds)).len()
    };
    assert_eq!((counting(0), counting(8), counting(9)), (1, 1, 0));
    // The same report, passed on by somebody else later, is no younger.
    net.run_ms(300);
    let told = net.now();
    tell(&mut net, &[1], 1, false);
    let machine = &net.nodes[0].machine;
    let entry = machine.members.get(hash_of("node-0003")).expect("known");
    assert!(machine.reporters(entry, told + std::time::Duration::from_secs(8)).is_empty());
}

#[test]
fn the_time_of_an_own_pause_is_nobodys_silence() {
    let mut net = Net::settled(5, 23);
    (1..5).for_each(|other| net.cut_off(other, 0));
    net.pause(0, 60_000);
    net.run_ms(60_100);
    for view in net.nodes[0].machine.members(net.now()) {
        assert!(view.heartbeat_age.as_millis() < 3_000, "{view:?}");
        assert!(view.phi < 8.0, "{view:?}");
        assert_eq!(view.health, Health::Up);
    }
}

#[test]
fn a_listed_member_that_was_never_heard_counts_among_those_who_could_confirm() {
    // Of three listed members the third never started, and 1 stops hearing 0: that is one bad link.
    let table = [(1, Health::Down), (2, Health::Down), (3, Health::Suspect)];
    for (listed, health) in table {
        let mut net = Net::empty(23);
        net.options.members_min = listed;
        let mut net = net.grown(2);
        net.cuts.insert((0, 1));
        net.run_ms(20_000);
        assert_eq!(net.health(1, 0), health, "{listed} listed");
    }
}

#[test]
fn reports_from_before_an_own_pause_wait_until_the_rest_was_read() {
    let mut net = silent_fourth();
    // Nothing comes through in the pause, so that only what is told below is heard.
    (1..3).for_each(|other| net.cut_off(other, 0));
    net.pause(0, 10_000);
    net.run_ms(10_001);
    tell(&mut net, &[1, 2], 0, false);
    assert_ne!(net.health(0, 3), Health::Down, "what it reads first may be ten seconds old");
    // What is still said when it has settled counts.
    let down = (0..80).any(|_| {
        net.run_ms(100);
        tell(&mut net, &[1, 2], 0, false);
        net.health(0, 3) == Health::Down
    });
    assert!(down);
}
