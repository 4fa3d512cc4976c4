//! `cargo sim crashes`: the storage engine at every crash point of many short lives; see `crate::crash`.

use super::CrashArguments;

/// Tries the seeds, a line each, and says how many points that were. Goes on after a finding.
#[cfg(madsim)]
pub(super) fn crashes(arguments: &CrashArguments) -> u8 {
    use crate::crash::{Tally, explore};
    use crate::output::{self, Status};
    use crate::report::Verdict;

    let (mut status, mut all, mut findings) = (Status::default(), Tally::default(), 0);
    for seed in arguments.seeds.clone() {
        match explore(seed) {
            Ok(tally) => all.add(&tally),
            Err(finding) => {
                status.clear();
                output::line(&finding.to_string());
                findings += 1;
            }
        }
        status.show(&format!("seed {seed}: {} points", all.points()));
    }
    status.clear();
    for (kind, count) in &all.events {
        output::line(&format!("{kind:>28} {count}"));
    }
    output::line(&format!(
        "{} points in {} lives: {} losses of power, {} kills, {} losses of power while opening; {findings} findings",
        all.points(),
        all.lives,
        all.power_losses,
        all.kills,
        all.second_crashes,
    ));
    if findings == 0 { Verdict::Ok.exit_code() } else { Verdict::Safety.exit_code() }
}

/// There is no disk to crash in this build; the caller has said so.
#[cfg(not(madsim))]
pub(super) fn crashes(_arguments: &CrashArguments) -> u8 {
    crate::report::Verdict::Harness.exit_code()
}
