//! `cargo sim staleness`: how stale reads are; see [`crate::run::staleness`].

use super::StalenessArguments;

/// Measures, and shows the table.
#[cfg(madsim)]
pub(super) fn staleness(arguments: &StalenessArguments) -> u8 {
    use crate::output;
    use crate::report::Verdict;
    use crate::run::staleness::{PAUSES_US, ROWS, Staleness, run};

    let StalenessArguments { writes, seed } = *arguments;
    let measured = match run(Staleness { seed, writes }) {
        Ok(measured) => measured,
        Err(error) => {
            output::line(&error);
            return Verdict::Harness.exit_code();
        }
    };
    output::line(&format!(
        "share of reads that see the last acked write; 3 owners, N=3, {writes} writes each, one-way delays between nodes: LNKD-SSD"
    ));
    let mut head = "read so long after the ack ".to_owned();
    PAUSES_US.iter().for_each(|pause| head.push_str(&format!("{:>10}", ms(*pause))));
    output::line(&head);
    let mut strict = true;
    for ((row, fresh), put_us) in ROWS.iter().zip(&measured.fresh).zip(&measured.put_us) {
        let mut line = format!("{:<27}", row.name);
        for seen in fresh {
            line.push_str(&format!("{:>8.2} %", 100.0 * f64::from(*seen) / f64::from(writes)));
        }
        output::line(&format!("{line}   p50 of a write {}", ms(*put_us)));
        strict &= !row.strict || fresh.iter().all(|seen| *seen == writes);
    }
    if strict { Verdict::Ok.exit_code() } else { Verdict::Safety.exit_code() }
}

#[cfg(madsim)]
fn ms(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us / 100 % 10)
}

/// There is no simulated world in this build; `dispatch` has said so.
#[cfg(not(madsim))]
pub(super) fn staleness(_: &StalenessArguments) -> u8 {
    crate::report::Verdict::Harness.exit_code()
}
