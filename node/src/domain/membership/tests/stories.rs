//! The life of a cluster: members come, stop, move, restart.

use super::net::{Net, WALL_MS, address, info};
use crate::domain::membership::{Event, Health, MemberInfo, Options, Rule, Standing};

fn events_of(net: &Net, slot: usize) -> Vec<Event> {
    net.events.iter().filter(|(_, whose, _)| *whose == slot).map(|(_, _, e)| e.clone()).collect()
}

#[test]
fn the_first_member_needs_nobody_and_a_second_finds_it() {
    let mut net = Net::empty(1);
    net.start(info(0, 0, 1));
    net.run_ms(1);
    assert_eq!(events_of(&net, 0), [Event::Standing(Standing::Member)]);
    net.start(info(1, 1, 2));
    net.run_ms(1_500);
    let name = |slot: usize| info(slot, slot, 0).name;
    let found = [Event::Standing(Standing::Member), Event::Learned(name(0)), Event::Up(name(0))];
    assert!(found.iter().all(|event| events_of(&net, 1).contains(event)), "{:?}", net.events);
    assert_eq!(net.health(0, 1), Health::Up);
}

#[test]
fn a_seed_that_is_down_does_not_keep_others_from_starting() {
    let mut net = Net::empty(1);
    net.nodes.clear();
    let seeds = vec![address(1), address(9)];
    net.start_with(info(1, 1, 1), WALL_MS, vec![address(9)], Vec::new());
    net.start_with(info(2, 2, 2), WALL_MS, seeds, Vec::new());
    net.run_ms(900);
    assert_eq!(net.standing(0), Standing::Joining);
    net.run_ms(4_000);
    assert_eq!(net.standing(0), Standing::Member);
    assert_eq!((net.count(0, Health::Up), net.count(1, Health::Up)), (2, 2));
}

#[test]
fn a_restart_is_up_at_once_and_keeps_its_name() {
    let mut net = Net::settled(5, 2);
    net.crash(3);
    net.run_ms(10_000);
    assert_eq!(net.downs(3).len(), 4);
    net.events.clear();
    let again = MemberInfo { generation: 2, ..info(3, 3, 77) };
    let slot = net.start(again);
    net.run_ms(3_000);
    assert_eq!(net.standing(slot), Standing::Member);
    for other in [0, 1, 2, 4] {
        assert_eq!(net.health(other, 3), Health::Up, "at {other}");
        let name = info(3, 3, 0).name;
        assert!(events_of(&net, other).contains(&Event::Restarted(name)), "{:?}", net.events);
        assert_eq!(net.count(other, Health::Up), 5);
    }
}

#[test]
fn a_restart_before_anybody_noticed_takes_nobody_down() {
    let mut net = Net::settled(5, 3);
    for slot in 0..5 {
        net.crash(slot);
        net.start(MemberInfo { generation: 2, ..info(slot, slot, 100 + slot as u64) });
        net.run_ms(6_000);
    }
    assert_eq!(net.all_downs(), 0, "{:?}", net.events);
    assert!((5..10).all(|slot| net.count(slot, Health::Up) == 5));
}

#[test]
fn goodbye_is_believed_at_once_and_spreads() {
    let mut net = Net::settled(30, 4);
    net.call(7, |machine, _, out| machine.goodbye(out));
    net.run_ms(20);
    let told = (0..30).filter(|&slot| net.health(slot, 7) == Health::Stopped).count();
    assert!(told >= 17, "{told} know at once");
    net.run_ms(4_000);
    assert_eq!((0..30).filter(|&slot| net.health(slot, 7) == Health::Stopped).count(), 30);
    net.run_ms(30_000);
    assert_eq!(net.all_downs(), 0);
    // It is silent for good; and a later start under its name is up again.
    net.start(MemberInfo { generation: 2, ..info(7, 7, 99) });
    net.run_ms(5_000);
    assert!((0..30).filter(|slot| *slot != 7).all(|slot| net.count(slot, Health::Up) == 30));
}

#[test]
fn a_new_address_spreads_without_anybody_going_down() {
    let mut net = Net::settled(10, 5);
    net.move_to(4, address(400));
    net.call(4, |machine, _, _| {
        machine.update_own(|own| {
            own.gossip = address(400);
            own.http = "elsewhere:8080".into();
            own.name = "another".into();
        });
    });
    net.run_ms(6_000);
    for slot in (0..10).filter(|slot| *slot != 4) {
        let view = net.nodes[slot].machine.view("node-0004", net.now()).unwrap();
        assert_eq!((view.info.gossip, &*view.info.http), (address(400), "elsewhere:8080"));
        assert_eq!(view.health, Health::Up);
        assert!(events_of(&net, slot).contains(&Event::Changed("node-0004".into())));
    }
    net.run_ms(30_000);
    assert_eq!(net.all_downs(), 0);
    assert!((0..10).all(|slot| net.count(slot, Health::Up) == 10));
}

#[test]
fn the_load_travels_without_a_new_incarnation() {
    let mut net = Net::settled(3, 6);
    let before = net.nodes[0].machine.view("node-0001", net.now()).unwrap();
    net.call(1, |machine, _, _| machine.update_own(|own| own.load = 42));
    net.run_ms(3_000);
    let after = net.nodes[0].machine.view("node-0001", net.now()).unwrap();
    assert_eq!((after.info.load, after.incarnation), (42, before.incarnation));
}

#[test]
fn a_whole_cluster_restarts_in_any_order_from_what_it_remembers() {
    for seed in 0..4 {
        let mut net = Net::settled(6, seed);
        (0..6).for_each(|slot| net.crash(slot));
        net.run_ms(3_600_000);
        net.events.clear();
        // The order, and the addresses: every second node has moved. Nobody has a seed.
        for at in 0..6 {
            let who = (at + seed as usize) % 6;
            let all = (0..6).filter(|other| *other != who).map(|other| info(other, other, 9));
            let moved = if who % 2 == 0 { address(200 + who) } else { address(who) };
            let own = MemberInfo { gossip: moved, generation: 2, ..info(who, who, 50 + at as u64) };
            let wall = WALL_MS + net.now_ms();
            net.start_with(own, wall, Vec::new(), all.collect());
            net.run_ms(700);
        }
        net.run_ms(12_000);
        for slot in 6..12 {
            assert_eq!(net.standing(slot), Standing::Member);
            assert_eq!(net.count(slot, Health::Up), 6, "seed {seed}: {:?}", net.events);
        }
        assert_eq!(net.all_downs(), 0);
    }
}

#[test]
fn what_is_remembered_is_unknown_until_heard_and_down_when_two_ask_in_vain() {
    let mut net = Net::empty(1);
    let gone = || vec![info(5, 5, 5)];
    net.start_with(info(0, 0, 1), WALL_MS, Vec::new(), gone());
    net.run_ms(3_000);
    assert_eq!(net.health(0, 5), Health::Unknown);
    net.run_ms(20_000);
    assert_eq!(net.health(0, 5), Health::Down, "of two members one decides");
    net.start(info(1, 1, 2));
    net.start_with(info(2, 2, 3), WALL_MS, vec![address(0)], gone());
    net.run_ms(20_000);
    assert_eq!(net.health(2, 5), Health::Down);
    // Nobody ever heard it, so nobody who does not remember it is told.
    assert!(net.nodes[1].machine.view("node-0005", net.now()).is_none());
}

#[test]
fn a_newcomer_learns_from_two_members_that_a_third_is_down() {
    let mut net = Net::settled(4, 8);
    net.crash(3);
    net.run_ms(20_000);
    let slot = net.start(info(4, 4, 44));
    net.run_ms(5_000);
    assert_eq!(net.health(slot, 3), Health::Down);
    assert_eq!(net.count(slot, Health::Up), 4);
    let view = net.nodes[slot].machine.view("node-0003", net.now()).unwrap();
    assert!(view.suspected_by.len() >= 2, "{view:?}");
    // And it is found by all when it comes back after an hour.
    net.run_ms(3_600_000);
    net.start(MemberInfo { generation: 2, ..info(3, 3, 33) });
    net.run_ms(10_000);
    assert!([0, 1, 2, slot].iter().all(|slot| net.count(*slot, Health::Up) == 5));
}

#[test]
fn two_halves_of_a_cluster_find_each_other_again() {
    let mut net = Net::settled(8, 9);
    for (a, b) in (0..4).flat_map(|a| (4..8).map(move |b| (a, b))) {
        net.cut_off(a, b);
        net.cut_off(b, a);
    }
    net.run_ms(60_000);
    assert!((0..8).all(|slot| net.count(slot, Health::Down) == 4));
    net.cuts.clear();
    net.run_ms(8_000);
    assert!((0..8).all(|slot| net.count(slot, Health::Up) == 8));
}

#[test]
fn one_seed_gives_one_story() {
    let story = || {
        let mut net = Net::empty(12);
        net.options = Options { rule: Rule::Count { missed: 3 }, ..Options::default() };
        net = net.grown(7);
        net.loss = 0.2;
        net.crash(2);
        net.run_ms(30_000);
        let counters: Vec<_> = net.nodes.iter().map(|node| node.machine.counters()).collect();
        (net.events, counters)
    };
    assert_eq!(story(), story());
}
