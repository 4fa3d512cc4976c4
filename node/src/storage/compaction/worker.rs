//! Carries out the jobs, one at a time, in parts and steps. The rules are in the [parent](super).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;

use super::pace::Pace;
use super::picker::{Job, Piece, pick};
use crate::domain::key::Key;
use crate::domain::object::Object;
use crate::runtime::time::{self, Instant};
use crate::runtime::{event, task};
use crate::storage::log::append::Device;
use crate::storage::manifest::edit::{Change, LEVELS};
use crate::storage::merge::Merge;
use crate::storage::store::{Closing, Edit, RETRY_MAX, RETRY_MIN, Store};
use crate::storage::table::{Origin, Spec, TableError, TableWriter};
use crate::storage::version::{Live, Version};

/// Entries between two looks at the clock and at the rest of the world.
const STEP_ENTRIES: u32 = 32;
/// Work between two pauses.
const STEP: Duration = Duration::from_millis(4);

/// Why a job was not finished.
enum Stop {
    Closing,
    Failed(TableError),
}

impl From<Closing> for Stop {
    fn from(Closing: Closing) -> Self {
        Self::Closing
    }
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Failed(error)
    }
}

/// Does what there is to do until the end is asked for.
pub(in crate::storage) async fn run<D: Device>(store: &Store<D>) {
    let shared = &store.shared;
    let mut after: Vec<Option<Key>> = vec![None; LEVELS];
    let (mut pace, mut pause) = (Pace::new(), RETRY_MIN);
    while !shared.is_closing() {
        let version = shared.view().version.clone();
        let Some(job) = pick(&pieces(&version), shared.options.memtable_bytes, &after) else {
            drop(version);
            shared.compacting(false);
            shared.compaction_rung().await;
            continue;
        };
        shared.compacting(true);
        let mut work = Work::new(store, &version, &job, &mut pace);
        drop(version);
        match work.run().await {
            Ok(()) => {
                pause = RETRY_MIN;
                after[job.from] = work.upper_last.take();
                event::note("compaction_done", job.from as u64, work.written);
            }
            Err(Stop::Closing) => {
                work.discard().await;
                return;
            }
            Err(Stop::Failed(error)) => {
                work.discard().await;
                tracing::warn!(%error, "tables cannot be merged; retrying");
                event::note("compaction_failed", job.from as u64, job.to as u64);
                shared.count_table_failure(error.to_string());
                shared.rest(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

fn pieces(version: &Version) -> Vec<Vec<Piece>> {
    let piece = |live: &Live| Piece {
        id: live.meta.id,
        first: live.meta.first.clone(),
        last: live.meta.last.clone(),
        bytes: live.meta.bytes,
        sick: live.is_sick(),
    };
    version.levels.iter().map(|level| level.iter().map(piece).collect()).collect()
}

/// Inputs of the lower level that one edit replaces.
#[derive(Debug)]
struct Part {
    /// The last of their keys.
    last: Key,
    tables: Vec<u64>,
}

/// A job under way.
struct Work<'a, D> {
    store: &'a Store<D>,
    pace: &'a mut Pace,
    level: usize,
    merge: Merge,
    parts: VecDeque<Part>,
    /// Removed when all parts are done.
    upper: Vec<u64>,
    upper_last: Option<Key>,
    batches: (u64, u64),
    /// A table that comes out has so many entries at most.
    entries_max: u64,
    writing: Option<(Origin, TableWriter)>,
    /// How a removed key is encoded.
    removed: BytesMut,
    /// From first to last key: the tables of the levels below the outputs.
    beneath: Vec<(Key, Key)>,
    /// Finished outputs of this part.
    finished: Vec<Live>,
    /// What this part's inputs put in doubt.
    doubts: Vec<Change>,
    /// Bytes of all outputs.
    written: u64,
    step_from: Instant,
}

impl<'a, D: Device> Work<'a, D> {
    fn new(store: &'a Store<D>, version: &Version, job: &Job, pace: &'a mut Pace) -> Self {
        let find = |ids: &[u64], level: usize| -> Vec<Live> {
            let in_job = |live: &&Live| ids.contains(&live.meta.id);
            version.levels[level].iter().filter(in_job).cloned().collect()
        };
        let upper = find(&job.upper, job.from);
        let lower = find(&job.lower, job.to);
        let all = || upper.iter().chain(&lower).map(|live| &live.meta);
        let (bytes, entries) =
            all().fold((0, 0), |(b, e), meta| (b + meta.bytes, e + meta.entries));
        let target = store.shared.options.table_bytes;
        // Twice what fits at the mean, so that a table is rarely cut for its entries.
        let mean = 2 * u128::from(entries) * u128::from(target) / u128::from(bytes.max(1));
        let batches = all().map(|meta| meta.batches).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let upper_last = upper.iter().map(|live| live.meta.last.clone()).max();
        let parts = parts(&lower, target);
        let mut groups: Vec<Vec<Live>> = match job.from {
            // They overlap: each is a source of its own.
            0 => upper.into_iter().map(|live| vec![live]).collect(),
            _ => vec![upper],
        };
        groups.push(lower);
        // Only this task changes levels below 0, so these stay what lies beneath.
        let deeper = version.levels.iter().skip(job.to + 1).flatten();
        let mut removed = BytesMut::new();
        Object::new().encode(&mut removed);
        Self {
            store,
            pace,
            level: job.to,
            merge: Merge::of_tables(&groups),
            parts,
            upper: job.upper.clone(),
            upper_last,
            batches: batches.unwrap_or_default(),
            entries_max: u64::try_from(mean).unwrap_or(u64::MAX).clamp(64, entries.max(64)),
            writing: None,
            removed,
            beneath: deeper.map(|live| (live.meta.first.clone(), live.meta.last.clone())).collect(),
            finished: Vec::new(),
            doubts: Vec::new(),
            written: 0,
            step_from: time::now(),
        }
    }

    async fn run(&mut self) -> Result<(), Stop> {
        let mut entries = 0;
        while let Some((key, object)) = self.merge.next().await? {
            self.note_doubts();
            while self.parts.front().is_some_and(|part| key > part.last) {
                self.end_part().await?;
            }
            if !(object == self.removed && self.is_bottom(&key)) {
                self.add(&key, &object).await?;
            }
            entries += 1;
            if entries == STEP_ENTRIES {
                entries = 0;
                self.breathe().await?;
            }
        }
        self.note_doubts();
        while self.parts.len() > 1 {
            self.end_part().await?;
        }
        self.end().await?;
        Ok(())
    }

    /// True when no version of `key` lies beneath the outputs, so that its removal needs no marker any more.
    fn is_bottom(&self, key: &Key) -> bool {
        !self.beneath.iter().any(|(first, last)| first <= key && key <= last)
    }

    /// What was damaged is in doubt for reads at once, and in the manifest before the table goes.
    fn note_doubts(&mut self) {
        if !self.merge.damage.is_empty() {
            self.store.shared.damaged(&self.merge.damage);
            let met = self.merge.damage.drain(..);
            self.doubts.extend(met.map(|damage| Change::Doubt(damage.range)));
        }
    }

    async fn add(&mut self, key: &Key, object: &[u8]) -> Result<(), Stop> {
        if self.writing.is_none() {
            let origin = self.store.next_table().await;
            let spec = Spec {
                origin,
                entries_max: self.entries_max,
                batches: self.batches.0..=self.batches.1,
                block_bytes: self.store.shared.options.block_bytes,
            };
            let created = TableWriter::create(&self.store.path(origin), spec).await;
            match created {
                Ok(writer) => self.writing = Some((origin, writer)),
                Err(error) => {
                    self.store.discard(origin).await;
                    return Err(error.into());
                }
            }
        }
        let Some((_, writer)) = &mut self.writing else { return Ok(()) };
        writer.add_encoded(key, object).await?;
        let full = writer.bytes() >= self.store.shared.options.table_bytes;
        if full || writer.entries() >= self.entries_max {
            self.finish_table().await?;
        }
        Ok(())
    }

    async fn finish_table(&mut self) -> Result<(), Stop> {
        let Some((origin, writer)) = self.writing.take() else { return Ok(()) };
        let adopted = match writer.finish().await {
            Ok(properties) => self.store.adopt(origin, self.level, properties).await,
            Err(error) => Err(error),
        };
        match adopted {
            Ok(live) => {
                self.written += live.meta.bytes;
                self.store.shared.count_compaction(live.meta.bytes, false);
                self.finished.push(live);
                Ok(())
            }
            Err(error) => {
                self.store.discard(origin).await;
                Err(error.into())
            }
        }
    }

    /// Puts the outputs of the first part in the place of its inputs.
    async fn end_part(&mut self) -> Result<(), Stop> {
        let removed = self.parts.pop_front().map_or(Vec::new(), |part| part.tables);
        self.replace(removed).await
    }

    /// Ends the last part and the job.
    async fn end(&mut self) -> Result<(), Stop> {
        let mut removed = self.parts.pop_front().map_or(Vec::new(), |part| part.tables);
        removed.append(&mut self.upper);
        self.replace(removed).await?;
        self.store.shared.count_compaction(0, true);
        Ok(())
    }

    async fn replace(&mut self, removed: Vec<u64>) -> Result<(), Stop> {
        self.finish_table().await?;
        let added = std::mem::take(&mut self.finished);
        let changes = std::mem::take(&mut self.doubts);
        if !changes.is_empty() {
            self.store.shared.salvaged().await;
        }
        self.store.install(Edit { added, removed, changes, flushed: None }).await?;
        Ok(())
    }

    /// Lets others work, as long as is fair.
    async fn breathe(&mut self) -> Result<(), Stop> {
        let shared = &self.store.shared;
        if shared.is_closing() {
            return Err(Stop::Closing);
        }
        let (now, syncs) = (time::now(), shared.syncs());
        let worked = now.since(self.step_from);
        if worked < STEP {
            task::yield_now().await;
            return Ok(());
        }
        let level0 = shared.view().version.levels.first().map_or(0, Vec::len);
        let pause = self.pace.pause(now, worked, syncs, level0);
        if pause.is_zero() {
            task::yield_now().await;
        } else {
            shared.rest(pause).await;
        }
        self.step_from = time::now();
        Ok(())
    }

    /// Removes what no edit names. After an edit that may be there nothing is: the next start knows.
    async fn discard(&mut self) {
        if let Some((origin, writer)) = self.writing.take() {
            drop(writer);
            self.store.discard(origin).await;
        }
        for live in self.finished.drain(..) {
            live.file.doom();
        }
    }
}

/// The lower inputs in runs of about one output.
fn parts(lower: &[Live], target: u64) -> VecDeque<Part> {
    let mut parts: VecDeque<Part> = VecDeque::new();
    let mut bytes = target;
    for live in lower {
        let last = live.meta.last.clone();
        match parts.back_mut() {
            Some(part) if bytes + live.meta.bytes <= target => {
                part.tables.push(live.meta.id);
                part.last = last;
                bytes += live.meta.bytes;
            }
            Some(_) | None => {
                parts.push_back(Part { last, tables: vec![live.meta.id] });
                bytes = live.meta.bytes;
            }
        }
    }
    parts
}
