//! Plans drawn from seeds: complete, stable under removal, the same after JSON.

use std::collections::BTreeMap;

use super::*;

#[test]
fn every_fault_kind_action_and_setting_is_drawn_within_two_hundred_seeds() {
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut actions: BTreeMap<&str, u32> = BTreeMap::new();
    let mut rare = [0; 15];
    let (mut calm, mut tied, mut strict, mut sizes) = (0, 0, 0, BTreeMap::<usize, u32>::new());
    for seed in 0..200 {
        let plan = draw(seed);
        calm += u32::from(plan.faults.is_empty());
        *sizes.entry(plan.nodes.len()).or_default() += 1;
        let settings = &plan.settings;
        let drawn = [
            settings.detector == Some(Detector::Phi),
            settings.detector == Some(Detector::Count),
            settings.hint_age_s.is_some(),
            settings.peer_queue_bytes.is_some(),
            settings.http_idle_ms.is_some(),
            plan.nodes.iter().any(|node| node.proxy),
            settings.hint_bytes_max.is_some(),
            settings.peer_requests_max.is_some(),
            settings.engine.is_none(),
            settings.engine == Some(draw::SMALLEST),
            !settings.last_write.is_empty(),
            settings.siblings_max == 2,
            plan.clients.iter().any(|client| client.batch_max.is_some()),
            plan.founding.is_some(),
            plan.founding.as_ref().is_some_and(|founding| !founding.power_losses.is_empty()),
        ];
        rare.iter_mut().zip(drawn).for_each(|(times, is)| *times += u32::from(is));
        for fault in &plan.faults {
            *kinds.entry(fault.what.name()).or_default() += 1;
            tied += u32::from(matches!(fault.at, At::On(_)));
        }
        for operation in &plan.operations {
            *actions.entry(operation.action.name()).or_default() += 1;
            strict += u32::from(operation.sloppy == Some(false));
        }
    }
    for name in FaultKind::NAMES {
        // Some have a seed to themselves, a few in a hundred each; a tenth of the seeds damages tables and does little else.
        let alone = ["rolled_back_disk", "restored_snapshot", "damaged_file", "wiped_disk"];
        let least = if alone.contains(&name) { 2 } else { 10 };
        assert!(kinds.get(name).is_some_and(|times| *times > least), "{name}: {kinds:?}");
    }
    assert_eq!(kinds.len(), FaultKind::NAMES.len(), "a fault's name is missing in NAMES");
    assert_eq!(actions.len(), 6, "{actions:?}");
    assert!(calm > 4 && tied > 5 && strict > 1_000, "{calm} calm, {tied} tied, {strict} strict");
    assert_eq!(sizes.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
    assert!(rare.iter().all(|times| *times > 4), "{rare:?}");
}

#[test]
fn drawn_faults_fit_their_plan() {
    for seed in 0..300 {
        let plan = draw(seed);
        assert!(plan.settings.replicas as usize <= plan.owners().len(), "seed {seed}");
        for fault in &plan.faults {
            let sorted = |nodes: &[NodeNo]| {
                let mut all = nodes.to_vec();
                all.sort_unstable();
                all.dedup();
                all
            };
            if let FaultKind::CrashMinority { nodes } = &fault.what {
                let minority = 2 * nodes.len() < plan.nodes.len();
                assert!(minority && fault.for_ms >= 10_000, "seed {seed}: {fault:?}");
            } else if let FaultKind::FullRestart { order, .. } = &fault.what {
                assert_eq!(sorted(order), plan.node_numbers(), "seed {seed}");
            } else if let FaultKind::PauseMany { nodes } = &fault.what {
                let all = sorted(nodes);
                assert!(all.len() == nodes.len() && all.len() > 1, "seed {seed}: {fault:?}");
            } else if let FaultKind::Away { .. } = fault.what {
                assert!(fault.for_ms >= 10_000, "seed {seed}");
            }
            let At::Ms(at_ms) = fault.at else { continue };
            assert!(at_ms + fault.for_ms <= plan.length.faults_ms, "seed {seed}: {fault:?}");
        }
    }
}

#[test]
fn a_plan_survives_its_own_text() {
    for seed in 0..50 {
        let mut plan = draw(seed);
        plan.about = "why \"it\" is kept".to_owned();
        plan.expect =
            Some(Expect { verdict: "safety".to_owned(), digest: Some("00ff".to_owned()) });
        let read = Plan::from_json(&plan.to_json()).unwrap();
        assert_eq!(read, plan);
    }
}

#[test]
fn draws_are_apart_from_each_other() {
    // The faults and operations of a seed are each drawn from a stream of their own, so drawing
    // them again alone gives the same.
    let plan = draw(3);
    let again = draw(3);
    assert_eq!(plan, again);
    assert_ne!(draw(4).operations, plan.operations);
    let mut ids: Vec<u32> = plan.operations.iter().map(|op| op.id).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..ids.len() as u32), "ids number the operations");
}

#[test]
fn plans_that_cannot_run_are_refused_by_name() {
    let plan = draw(1);
    let refusal = |change: fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        Plan::from_json(&plan.to_json()).unwrap_err().to_string()
    };
    insta::assert_snapshot!(refusal(|p| p.version = 9), @"plan has version 9, this build reads version 1: draw it again from its seed");
    insta::assert_snapshot!(refusal(|p| p.operations[0].node = NodeNo(9)), @"plan cannot run: there is no node n9");
    insta::assert_snapshot!(refusal(|p| p.operations[0].client = ClientNo(9)), @"plan cannot run: there is no client c9");
    insta::assert_snapshot!(refusal(|p| p.operations[0].key = "k".into()), @r#"plan cannot run: key "k" is not of the form bucket/key"#);
    insta::assert_snapshot!(refusal(|p| p.operations[1].id = p.operations[0].id), @"plan cannot run: two operations with id 133");
    insta::assert_snapshot!(refusal(|p| p.settings.partitions = 3), @"plan cannot run: 3 partitions: use a power of two");
    insta::assert_snapshot!(refusal(|p| p.nodes.iter_mut().for_each(|n| n.proxy = true)), @"plan cannot run: it needs a node that is no proxy");
    let flap = |period_ms| {
        let mut plan = plan.clone();
        let what = FaultKind::FlappingLink { from: NodeNo(1), to: NodeNo(2), period_ms };
        plan.faults = vec![Fault { id: 0, at: At::Ms(1), for_ms: 1, what }];
        Plan::from_json(&plan.to_json())
    };
    insta::assert_snapshot!(flap(9).unwrap_err().to_string(), @"plan cannot run: fault 0 flaps faster than every 10 ms");
    assert!(flap(10).is_ok());
    let founding = |p: &mut Plan, seeds: &[u32]| {
        let seeds = seeds.iter().copied().map(NodeNo).collect();
        p.founding = Some(Founding { seeds, power_losses: Vec::new() });
    };
    let refused = |seeds: &[u32]| {
        let mut plan = plan.clone();
        founding(&mut plan, seeds);
        Plan::from_json(&plan.to_json()).unwrap_err().to_string()
    };
    insta::assert_snapshot!(refused(&[]), @"plan cannot run: a cluster that is founded needs a seed");
    insta::assert_snapshot!(refused(&[1, 9]), @"plan cannot run: there is no node n9");
    insta::assert_snapshot!(refusal(|p| p.length.total_ms = 1), @"plan cannot run: it ends before its faults do");
    let typo = plan.to_json().replace("\"at_ms\"", "\"at\"");
    insta::assert_snapshot!(Plan::from_json(&typo).unwrap_err().to_string().split(',').next().unwrap(), @"not a plan: unknown field `at`");
    assert!(Plan::from_json("{").is_err());
}

#[test]
fn a_plan_reads_well() {
    let mut plan = draw(2);
    plan.operations.truncate(3);
    plan.faults.truncate(3);
    plan.clients.truncate(2);
    insta::assert_snapshot!(plan.to_json());
}

#[test]
fn kept_plans_say_why_and_are_written_as_this_build_writes_them() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    let mut kept = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let plan = Plan::from_json(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(!plan.about.is_empty(), "{} does not say why it is kept", path.display());
        assert_eq!(plan.expect, None, "{} is kept to be found ok", path.display());
        assert!(plan.to_json() == text, "write it anew: cargo sim plan {}", path.display());
        kept += 1;
    }
    assert!(kept >= 3, "{kept} plans are kept");
}
