//! `cargo sim large`: a thousand whole nodes at rest; see [`crate::run::large`].

use super::LargeArguments;

/// Runs the cluster, says how far it is, and how it went.
#[cfg(madsim)]
pub(super) fn large(arguments: &LargeArguments) -> u8 {
    use std::time::Instant;

    use crate::output::{self, Status};
    use crate::run::large::{COMPLETE_WITHIN, Calm, Large, Progress, run};
    use crate::sweep::guarded;

    let LargeArguments { nodes, owners, seconds, seed } = *arguments;
    let large = Large { seed, nodes, owners: owners.min(nodes), seconds };
    let started = Instant::now();
    let mut status = Status::default();
    // Off a terminal a line now and then is enough. Clocks read simulated time in there.
    let every = if status.interval_ms() < 1_000 { 1 } else { 10 };
    let show = move |progress: Progress| {
        let Progress { seconds: done, ready } = progress;
        if done % every == 0 {
            status
                .show(&format!("{done} of {seconds} simulated s; {ready} of {nodes} nodes serve"));
        }
        if done == seconds {
            status.clear();
        }
    };
    let mut times = (None, None, 0);
    let mut report = guarded(|| {
        let Calm { report, complete, ready, gossip_bytes } = run(large, show);
        times = (complete, ready, gossip_bytes);
        report
    });
    report.real_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let proxies = nodes - large.owners;
    output::line(&format!(
        "{nodes} whole nodes ({} owners, {proxies} proxies), seed {seed}",
        large.owners
    ));
    let (complete, ready, bytes) = times;
    let seconds = |time: Option<std::time::Duration>| {
        time.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    output::line(&format!("  every node served after               {}", seconds(ready)));
    let allowed = COMPLETE_WITHIN.as_secs();
    output::line(&format!(
        "  every node listed every other as up   {} (allowed: {allowed} s)",
        seconds(complete)
    ));
    output::line(&format!("  gossip that a node sent               {bytes} bytes a second"));
    if !report.explanation.is_empty() {
        output::line(&format!("\n{}\n", report.explanation));
    }
    output::line(&report.line());
    report.verdict.exit_code()
}

/// There is no simulated world in this build; `dispatch` has said so.
#[cfg(not(madsim))]
pub(super) fn large(_: &LargeArguments) -> u8 {
    crate::report::Verdict::Harness.exit_code()
}
