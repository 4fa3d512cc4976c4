//! The tables that a manifest names: each opened as a start does it, then read to its last byte.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::{Finding, Outcome, Report};
use crate::domain::causality::NodeId;
use crate::domain::key::Token;
use crate::storage::doubt::TokenRange;
use crate::storage::manifest::edit::{State, TableMeta};
use crate::storage::store::Place;
use crate::storage::table::check::{self as blocks, TableFlaw};
use crate::storage::table::{BlockCache, TableError, TableId, table_path};
use crate::storage::version::Graveyard;

/// Checks all tables of `state`.
pub(super) async fn check(dir: &Path, id: NodeId, state: &State, report: &mut Report) {
    let place = Place {
        folder: dir.to_path_buf(),
        id,
        cache: Arc::new(BlockCache::new(0)),
        graveyard: Arc::new(Graveyard::default()),
    };
    for meta in state.tables.values() {
        report.counts.tables += 1;
        report.counts.table_bytes += meta.bytes;
        table(&place, meta, report).await;
    }
}

async fn table(place: &Place, meta: &TableMeta, report: &mut Report) {
    let path = table_path(&place.folder, TableId(meta.id));
    let table = match place.open(meta).await {
        Ok(live) => live.file.table.clone(),
        Err(error) => {
            // The manifest knows its bounds better than a file that can't be read.
            report.add(lost(error, meta.tokens()));
            return;
        }
    };
    if !table.has_filter() {
        report.add(Finding {
            file: path.clone(),
            offset: None,
            what: "its filter is damaged".to_owned(),
            doubtful: None,
            outcome: Outcome::Slows,
        });
    }
    let contents = blocks::check(&table, |flaw| report.add(finding(&path, meta, flaw))).await;
    report.counts.blocks += contents.blocks;
    report.counts.entries += contents.entries;
}

/// A table that does not open.
fn lost(error: TableError, tokens: TokenRange) -> Finding {
    let damaged = |file, offset, what| Finding {
        file,
        offset,
        what,
        doubtful: Some(tokens),
        outcome: Outcome::Heals,
    };
    match error {
        TableError::Missing(path) => damaged(path, None, "it is missing".to_owned()),
        TableError::Foreign { path, found, .. } => {
            let what = format!("it is table {} of folder {:016x}", found.table.0, found.folder.0);
            damaged(path, None, what)
        }
        TableError::Damaged { path, offset, what, .. } => {
            damaged(path, Some(offset), what.to_owned())
        }
        TableError::Version { path, found, known } => Finding {
            file: path,
            offset: None,
            what: format!("it has format version {found}, this release reads {known}"),
            doubtful: None,
            outcome: Outcome::RefusesNewer,
        },
        TableError::Unreadable { path, offset, source, .. } => Finding {
            file: path,
            offset: Some(offset),
            what: format!("cannot read it: {source}"),
            doubtful: Some(tokens),
            outcome: Outcome::Unreadable,
        },
        // Nothing is written here.
        TableError::Write { path, doing, source } => Finding {
            file: path,
            offset: None,
            what: format!("cannot {doing} it: {source}"),
            doubtful: None,
            outcome: Outcome::Unreadable,
        },
    }
}

fn finding(path: &Path, meta: &TableMeta, flaw: TableFlaw) -> Finding {
    let tokens =
        |range: RangeInclusive<Token>| TokenRange { first: *range.start(), last: *range.end() };
    match flaw {
        TableFlaw::Noticed(error) => {
            let doubtful = error.doubtful().map_or(meta.tokens(), tokens);
            lost(error, doubtful)
        }
        TableFlaw::Unnoticed { offset, what } => Finding {
            file: path.to_path_buf(),
            offset: Some(offset),
            what: what.to_owned(),
            doubtful: Some(meta.tokens()),
            outcome: Outcome::Unnoticed,
        },
    }
}
