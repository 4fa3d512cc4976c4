//! `starling fsck`: is a data folder whole, and what follows if it is not. In plain words, or in JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::status::size;
use super::{Exit, Failure, block_on, print};
use crate::storage::fsck::{Finding, Outcome, Report, Verdict, check};
use crate::storage::{ITSELF, OpenError, TokenRange};

/// What `starling fsck` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The data folder of a node that is not running. Nothing in it is changed
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// Print the report in JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Exit codes: 0 healthy, 1 damaged, and the node heals it from its replicas once it runs,
2 damaged, and somebody has to do something first, 3 the node runs or the disk refuses, 64 wrong usage.";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let folder = args.data.display();
    let report = block_on(async {
        check(&args.data).await.map_err(|error| match &error {
            OpenError::Disk { source, .. }
                if [std::io::ErrorKind::NotFound, std::io::ErrorKind::NotADirectory]
                    .contains(&source.kind()) =>
            {
                Failure::usage(error.to_string())
            }
            OpenError::Locked(_) => Failure::unavailable(format!(
                "cannot check {folder}: a node runs on it; stop it first, or check a snapshot of it"
            )),
            OpenError::Disk { .. }
            | OpenError::Options(_)
            | OpenError::ForeignCluster { .. }
            | OpenError::Damaged { .. }
            | OpenError::Version { .. } => {
                Failure::unavailable(format!("cannot check {folder}: {error}"))
            }
        })
    })?;
    if report.empty {
        return Err(Failure::usage(format!(
            "{folder} holds no node's data: is it the right folder?"
        )));
    }
    if args.json {
        print(&format!("{:#}\n", document(&report)))?;
    } else {
        print(&page(&args.data.display().to_string(), &report))?;
    }
    Ok(match report.verdict() {
        Verdict::Healthy => Exit::Ok,
        Verdict::Heals => Exit::HEALS,
        Verdict::Refuses => Exit::REFUSES,
    })
}

fn page(folder: &str, report: &Report) -> String {
    let mut page = match (&report.identity, &report.cluster) {
        (Some(identity), Some(cluster)) => format!(
            "{folder}: node {:016x} of cluster {cluster}, started {} times\n",
            identity.node.0, identity.generation
        ),
        _ => format!("{folder}: of an unknown node\n"),
    };
    for stats in &report.hints {
        let (count, bytes) = (stats.count, size(stats.bytes));
        page.push_str(&match &*stats.owner {
            ITSELF => {
                format!("holds {} of its own, made while in doubt: {bytes}\n", many(count, "write"))
            }
            owner => format!("keeps {} for {owner}: {bytes}\n", many(count, "hint")),
        });
    }
    for range in &report.doubts {
        page.push_str(&format!("was damaged before, and is being healed: {}\n", tokens(*range)));
    }
    for note in &report.notes {
        page.push_str(&format!("note: {note}\n"));
    }
    for finding in &report.findings {
        page.push_str(&told(finding));
    }
    if report.unlisted > 0 {
        page.push_str(&format!("… and {} more\n", report.unlisted));
    }
    page.push_str(&closing(report));
    page
}

/// A finding: what, where, what follows, what to do.
fn told(finding: &Finding) -> String {
    let at = finding.offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
    let mut text = format!("damaged: {}{at}: {}\n", finding.file.display(), finding.what);
    if let Some(range) = finding.doubtful {
        text.push_str(&format!("  in doubt: {}\n", tokens(range)));
    }
    let (next, advice) = match finding.outcome {
        Outcome::Slows => (
            "the node starts and reads the table without it, which takes longer",
            "nothing; compaction writes the table anew",
        ),
        Outcome::Heals => (
            "the node starts, counts for no quorum in that range, and its replicas heal it",
            "start it, and keep the others running; with a single replica, restore a snapshot",
        ),
        Outcome::Unnoticed => (
            "the node starts and notices nothing, and reads may lack something",
            "move the file away if it is a table: it is then missing, and is healed; else restore \
             a snapshot",
        ),
        Outcome::Unreadable => (
            "what cannot be read is unknown; the node may not start, or not answer",
            "look at the disk and the system's log, then check again",
        ),
        Outcome::Refuses => (
            "the node does not start, since what is lost is not known",
            "restore a snapshot, or move the folder away and start empty: the replicas have the data",
        ),
        Outcome::RefusesNewer => {
            ("the node does not start", "use the release that wrote it, or a later one")
        }
    };
    text.push_str(&format!("  then: {next}\n  to do: {advice}\n"));
    text
}

fn closing(report: &Report) -> String {
    let counts = &report.counts;
    let held = format!(
        "{} with {} in {} ({}), {} of log with {} ({}), {} of them in no table yet",
        many(counts.tables, "table"),
        many(counts.entries, "entry"),
        many(counts.blocks, "block"),
        size(counts.table_bytes),
        many(counts.segments, "segment"),
        many(counts.records, "record"),
        size(counts.log_bytes),
        counts.unflushed,
    );
    let found = report.findings.len() as u64 + report.unlisted;
    match report.verdict() {
        Verdict::Healthy => format!("healthy: {held}\n"),
        Verdict::Heals => {
            format!(
                "damaged, and heals by itself: {} found; sound are {held}\n",
                many(found, "damage")
            )
        }
        Verdict::Refuses => {
            format!("damaged, do something: {} found; sound are {held}\n", many(found, "damage"))
        }
    }
}

/// A range of tokens, and how much of the ring that is.
fn tokens(range: TokenRange) -> String {
    let TokenRange { first, last } = range;
    if range == TokenRange::ALL {
        return "any key".to_owned();
    }
    let share = ((last.0 - first.0) as f64 + 1.0) / 2f64.powi(64) * 100.0;
    format!("keys with tokens {:016x} to {:016x}, {share:.4} % of the ring", first.0, last.0)
}

fn many(count: u64, what: &str) -> String {
    match what.strip_suffix('y') {
        _ if count == 1 => format!("1 {what}"),
        Some(stem) => format!("{count} {stem}ies"),
        None => format!("{count} {what}s"),
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Slows => "slows",
        Outcome::Heals => "heals",
        Outcome::Unnoticed => "unnoticed",
        Outcome::Unreadable => "unreadable",
        Outcome::Refuses => "refuses",
        Outcome::RefusesNewer => "refuses_newer",
    }
}

/// The report for programs. Numbers of 64 bits that are no counts are strings of hex digits.
fn document(report: &Report) -> Value {
    let range = |range: &TokenRange| {
        let hex = |token: u64| format!("{token:016x}");
        json!({"first": hex(range.first.0), "last": hex(range.last.0)})
    };
    let finding = |finding: &Finding| {
        json!({
            "file": finding.file.display().to_string(), "offset": finding.offset,
            "what": finding.what, "doubtful": finding.doubtful.as_ref().map(range),
            "outcome": word(finding.outcome),
        })
    };
    let counts = &report.counts;
    let verdict = match report.verdict() {
        Verdict::Healthy => "healthy",
        Verdict::Heals => "heals",
        Verdict::Refuses => "refuses",
    };
    let hints = report
        .hints
        .iter()
        .map(|hints| json!({"owner": &*hints.owner, "count": hints.count, "bytes": hints.bytes}));
    json!({
        "verdict": verdict,
        "node": report.identity.map(|identity| format!("{:016x}", identity.node.0)),
        "generation": report.identity.map(|identity| identity.generation),
        "cluster": report.cluster,
        "tables": counts.tables, "table_bytes": counts.table_bytes, "blocks": counts.blocks,
        "entries": counts.entries, "log_segments": counts.segments, "log_bytes": counts.log_bytes,
        "log_batches": counts.batches, "log_records": counts.records,
        "unflushed": counts.unflushed,
        "hints": hints.collect::<Vec<_>>(),
        "doubts": report.doubts.iter().map(range).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_unlisted": report.unlisted,
        "notes": report.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::Token;

    fn with(findings: Vec<Finding>) -> Report {
        let mut report = Report::default();
        findings.into_iter().for_each(|finding| report.add(finding));
        report.counts.tables = 1;
        (report.counts.entries, report.counts.blocks) = (40, 3);
        report.counts.table_bytes = 4096;
        report
    }

    #[test]
    fn a_damaged_block_is_told_with_what_follows() {
        let doubtful = TokenRange { first: Token(0), last: Token(u64::MAX / 4) };
        let report = with(vec![Finding {
            file: "table-0000000001.sst".into(),
            offset: Some(512),
            what: "its checksum does not match".to_owned(),
            doubtful: Some(doubtful),
            outcome: Outcome::Heals,
        }]);
        insta::assert_snapshot!(page("data", &report), @r"
        data: of an unknown node
        damaged: table-0000000001.sst at byte 512: its checksum does not match
          in doubt: keys with tokens 0000000000000000 to 3fffffffffffffff, 25.0000 % of the ring
          then: the node starts, counts for no quorum in that range, and its replicas heal it
          to do: start it, and keep the others running; with a single replica, restore a snapshot
        damaged, and heals by itself: 1 damage found; sound are 1 table with 40 entries in 3 blocks (4.0 KiB), 0 segments of log with 0 records (0 B), 0 of them in no table yet
        ");
        assert_eq!(document(&report)["findings"][0]["doubtful"]["last"], "3fffffffffffffff");
        assert_eq!(document(&report)["verdict"], "heals");
    }

    #[test]
    fn a_healthy_folder_ends_with_its_sizes() {
        let page = page("data", &with(Vec::new()));
        insta::assert_snapshot!(page, @r"
        data: of an unknown node
        healthy: 1 table with 40 entries in 3 blocks (4.0 KiB), 0 segments of log with 0 records (0 B), 0 of them in no table yet
        ");
    }

    #[test]
    fn the_gravest_finding_decides() {
        let finding = |outcome| Finding {
            file: PathBuf::new(),
            offset: None,
            what: String::new(),
            doubtful: None,
            outcome,
        };
        for (outcomes, expected) in [
            (vec![Outcome::Slows], Verdict::Heals),
            (vec![Outcome::Heals, Outcome::Slows], Verdict::Heals),
            (vec![Outcome::Refuses, Outcome::Heals], Verdict::Refuses),
            (vec![Outcome::Unnoticed], Verdict::Refuses),
            (vec![Outcome::Heals, Outcome::Unreadable], Verdict::Refuses),
            (vec![Outcome::RefusesNewer], Verdict::Refuses),
        ] {
            let report = with(outcomes.into_iter().map(finding).collect());
            assert_eq!(report.verdict(), expected);
        }
    }
}
