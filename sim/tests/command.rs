//! `cargo sim …` as its users run it.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling-sim"));
    command.args(arguments);
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    for arguments in [&["sweep", "--seeds", "x"][..], &["dance"], &["replay", "no-such-file"]] {
        let output = sim(arguments).output().unwrap();
        // Without the simulated world, replays say so before they look for a file.
        let replay = cfg!(not(madsim)) && arguments[0] == "replay";
        let expected = if replay { 4 } else { 64 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn a_plan_is_printed_as_it_is_read() {
    let output = sim(&["plan", "17"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let plan = starling_sim::plan::Plan::from_json(&text(&output)).unwrap();
    assert_eq!(plan, starling_sim::plan::draw(17));
}

/// `RUSTFLAGS` in the environment overrides what makes the simulated world; such a build says so.
#[cfg(not(madsim))]
#[test]
fn a_build_without_the_simulated_world_says_so_and_exits_with_4() {
    for arguments in [&["sweep"][..], &["replay", "1"], &["corpus"], &["minimize", "1"]] {
        let output = sim(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}");
        assert!(text(&output).contains("built without cfg(madsim)"), "{}", text(&output));
        assert!(text(&output).contains("RUSTFLAGS"), "{}", text(&output));
    }
}

/// A run's identity is its plan: the same alone and as the last of many, whatever the folder, the
/// environment and the number of runs at once.
#[cfg(madsim)]
#[test]
fn a_plan_has_one_digest_alone_and_as_the_17th_of_a_sweep() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("twins");
    let elsewhere = folder.join("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    for seed in 0..17 {
        let file = folder.join(format!("{seed:02}.json"));
        std::fs::write(file, short_plan(100 + seed).to_json()).unwrap();
    }
    let last = folder.join("16.json");

    let swept =
        sim(&["corpus", folder.to_str().unwrap(), "--digests", "--jobs", "3"]).output().unwrap();
    assert!(swept.status.success(), "{}", text(&swept));
    let digest_of_line = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    let swept_text = text(&swept);
    let of_last = swept_text.lines().find(|line| line.starts_with(last.to_str().unwrap()));
    let in_sweep = digest_of_line(of_last.unwrap());

    let alone = sim(&["replay", "16.json"])
        .current_dir(&folder)
        .env_clear()
        .env("LANG", "tr_TR.UTF-8")
        .env("HOME", &elsewhere)
        .output()
        .unwrap();
    let verbose = sim(&["replay", last.to_str().unwrap(), "-v"])
        .current_dir(&elsewhere)
        .env("EXTRA", "x".repeat(5_000))
        .output()
        .unwrap();
    for output in [alone, verbose] {
        assert!(output.status.success(), "{}", text(&output));
        let told = text(&output);
        let line = told.lines().rev().find(|line| line.contains(", digest ")).unwrap();
        assert_eq!(digest_of_line(line), in_sweep);
    }
    assert_eq!(in_sweep.len(), 32, "{in_sweep}");
}

/// The plan of a seed, cut to a tenth of its length.
#[cfg(madsim)]
fn short_plan(seed: u64) -> starling_sim::plan::Plan {
    use starling_sim::plan::At;
    let mut plan = starling_sim::plan::draw(seed);
    plan.length.faults_ms /= 10;
    plan.length.total_ms /= 10;
    plan.operations.retain_mut(|operation| {
        operation.at_ms /= 10;
        operation.id % 10 == 0
    });
    for fault in &mut plan.faults {
        fault.for_ms /= 10;
        if let At::Ms(ms) = &mut fault.at {
            *ms /= 10;
        }
    }
    plan
}
