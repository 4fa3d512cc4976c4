//! One name, several processes: copies of a folder, new disks, clocks that went back.

use super::net::{Net, WALL_MS, address, info};
use crate::domain::causality::NodeId;
use crate::domain::membership::{Event, Health, MemberInfo, Standing};

/// The processes that others take for the member `of`.
fn processes(net: &Net, slots: &[usize], of: usize) -> Vec<u64> {
    let name = format!("node-{of:04}");
    let view = |slot: &usize| net.nodes[*slot].machine.view(&name, net.now());
    slots.iter().filter_map(|slot| view(slot).map(|view| view.info.process)).collect()
}

#[test]
fn a_folder_that_was_rolled_back_is_outdated_until_it_has_a_new_id() {
    for generation in [5, 4, 1] {
        let mut net = Net::settled(4, generation);
        net.crash(3);
        let fresh = net.start(MemberInfo { generation: 5, ..info(3, 3, 50) });
        net.run_ms(3_000);
        net.crash(fresh);
        net.run_ms(10_000);
        let old = net.start(MemberInfo { generation, ..info(3, 3, 60) });
        net.run_ms(1_000);
        assert_eq!(net.standing(old), Standing::Outdated { generation: 5 });
        let told = Event::Standing(Standing::Outdated { generation: 5 });
        assert_eq!(net.events.iter().filter(|(_, slot, e)| *slot == old && *e == told).count(), 1);
        net.run_ms(10_000);
        assert_eq!(processes(&net, &[0, 1, 2], 3), [50, 50, 50], "it announced itself");
        net.call(old, |machine, _, _| machine.renew(NodeId(9_999), 1));
        net.run_ms(8_000);
        assert_eq!(net.standing(old), Standing::Member);
        assert_eq!(processes(&net, &[0, 1, 2], 3), [60, 60, 60]);
        let view = net.nodes[0].machine.view("node-0003", net.now()).unwrap();
        assert_eq!((view.info.node, view.health), (NodeId(9_999), Health::Up));
    }
}

#[test]
fn a_copy_of_the_folder_of_a_live_member_does_not_get_its_name() {
    let mut net = Net::settled(4, 1);
    let copy = net.start(MemberInfo { gossip: address(77), generation: 2, ..info(3, 3, 70) });
    net.run_ms(300);
    // As a restart it would be superseded; the copy was started with a generation of its own.
    assert_eq!(net.standing(copy), Standing::Member);
    net.run_ms(3_000);
    // The original hears of its folder in a newer generation, and stands back.
    assert_eq!(net.standing(3), Standing::Outdated { generation: 2 });
    net.call(3, |machine, _, _| machine.renew(NodeId(8_888), 1));
    net.run_ms(10_000);
    assert_eq!(net.standing(3), Standing::NameTaken { gossip: address(77) });
    assert_eq!(processes(&net, &[0, 1, 2], 3), [70, 70, 70]);
}

#[test]
fn of_two_live_processes_of_one_name_the_newcomer_is_refused() {
    for seed in 0..5 {
        let mut net = Net::settled(4, seed);
        let other = MemberInfo { node: NodeId(7), gossip: address(77), ..info(3, 3, 70) };
        let second = net.start(other);
        net.run_ms(7_000);
        let taken = Standing::NameTaken { gossip: address(3) };
        assert_eq!(net.standing(second), taken, "seed {seed}");
        let told = |(_, slot, event): &(u64, usize, Event)| {
            *slot == second && *event == Event::Standing(taken)
        };
        assert_eq!(net.events.iter().filter(|event| told(event)).count(), 1);
        net.run_ms(60_000);
        assert_eq!(net.standing(second), taken);
        assert_eq!(net.standing(3), Standing::Member);
        assert_eq!(processes(&net, &[0, 1, 2], 3), [3, 3, 3], "the old one stays");
        assert_eq!(net.all_downs(), 0);
        // Once the old one is gone, the name is free.
        net.crash(3);
        net.run_ms(25_000);
        assert_eq!(net.standing(second), Standing::Member);
        assert_eq!(processes(&net, &[0, 1, 2], 3), [70, 70, 70]);
    }
}

#[test]
fn a_machine_with_a_new_disk_takes_its_name_again_after_four_intervals() {
    let mut net = Net::settled(5, 6);
    net.crash(2);
    net.run_ms(8_000);
    let slot = net.start(MemberInfo { node: NodeId(5_555), ..info(2, 2, 20) });
    net.run_ms(3_500);
    assert_eq!(net.standing(slot), Standing::Joining);
    net.run_ms(4_000);
    assert_eq!(net.standing(slot), Standing::Member);
    assert_eq!(processes(&net, &[0, 1, 3, 4], 2), [20, 20, 20, 20]);
    assert!((0..5).filter(|s| *s != 2).all(|s| net.count(s, Health::Up) == 5));
}

#[test]
fn a_clock_that_was_set_back_does_no_harm() {
    let mut net = Net::settled(4, 7);
    net.crash(1);
    net.run_ms(8_000);
    let own = MemberInfo { generation: 2, ..info(1, 1, 10) };
    let slot = net.start_with(own, 12_345, vec![address(0)], Vec::new());
    net.run_ms(4_000);
    assert_eq!(processes(&net, &[0, 2, 3], 1), [10, 10, 10]);
    let view = net.nodes[slot].machine.view("node-0001", net.now()).unwrap();
    assert!(view.incarnation > WALL_MS);
    // And one that could ask nobody at its start, and hears of its old self only later.
    net.crash(slot);
    net.run_ms(8_000);
    (0..4).for_each(|other| net.cut_off(other, 5));
    let own = MemberInfo { generation: 3, ..info(1, 1, 11) };
    let slot = net.start_with(own, 12_345, vec![address(0)], Vec::new());
    assert_eq!(slot, 5);
    net.run_ms(5_000);
    assert_eq!(net.standing(slot), Standing::Member);
    assert_eq!(processes(&net, &[0, 2, 3], 1), [10, 10, 10]);
    net.cuts.clear();
    net.run_ms(6_000);
    assert_eq!(processes(&net, &[0, 2, 3], 1), [11, 11, 11]);
    assert!(net.nodes[slot].machine.counters().raises >= 1);
    assert!([0, 2, 3].iter().all(|slot| net.count(*slot, Health::Up) == 4));
}

#[test]
fn of_two_that_announced_one_name_apart_the_later_born_gives_way() {
    let mut net = Net::settled(6, 8);
    let halves = || (0..3).flat_map(|a| (3..7).map(move |b| (a, b)));
    for (a, b) in halves() {
        net.cut_off(a, b);
        net.cut_off(b, a);
    }
    net.run_ms(20_000);
    // In the other half somebody starts a process under the name of a member of the first.
    let other = MemberInfo { node: NodeId(7), gossip: address(77), ..info(2, 2, 70) };
    let second = net.start_with(other, WALL_MS + net.now_ms(), vec![address(4)], Vec::new());
    net.run_ms(10_000);
    assert_eq!(net.standing(second), Standing::Member);
    net.cuts.clear();
    net.run_ms(30_000);
    assert_eq!(net.standing(second), Standing::NameTaken { gossip: address(2) });
    assert_eq!(net.standing(2), Standing::Member);
    assert_eq!(processes(&net, &[0, 1, 3, 4, 5], 2), [2; 5]);
    assert!([0, 1, 3, 4, 5].iter().all(|slot| net.count(*slot, Health::Up) == 6));
}
