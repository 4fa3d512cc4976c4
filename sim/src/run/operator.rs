//! What an operator does from a machine of his own, and on a node's machine while no node runs there.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use starling::client::{Client, Request};
use starling::domain::causality::NodeId;
use starling::domain::codec::Decoder;
use starling::domain::object::Object;
use starling::storage::{Engine, Options, fsck};
use starling_world::process::MachineId;
use starling_world::{disk, fs, machine, time};
use tokio::sync::oneshot;

use crate::plan::NodeNo;

use super::budget;
use super::cluster::Cluster;
use super::node;
use super::system::Question;
use super::weather::{snapshot_folder, snapshot_name};

/// A snapshot that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// What fsck found before, a sentence each; empty: nothing.
    pub(super) findings: String,
    /// Under which id it runs.
    pub(super) id: NodeId,
    /// What it holds, encoded, in the order of the plan's keys.
    pub(super) copies: Vec<Option<Vec<u8>>>,
}

impl Cluster {
    /// Asks `node` for the snapshot of the fault at `place`; the status of its answer, if one came in time.
    pub(super) async fn ask_snapshot(
        &self,
        place: usize,
        node: NodeNo,
        limit: Duration,
    ) -> Option<u16> {
        let (address, operator) = (self.http_address(node), self.operator(place));
        let target = format!("/v1/admin/snapshots/{}", snapshot_name(place));
        let (answer, answered) = oneshot::channel();
        machine::start(operator, move || async move {
            let mut client = Client::new(address);
            let deadline = time::now() + limit;
            let heard = client.send(Request::new(Method::POST, target), deadline).await;
            // The harness has given up waiting if nobody listens.
            answer.send(heard.ok().map(|response| response.status)).ok();
        });
        answered.await.ok().flatten()
    }

    /// Makes the snapshot of the fault at `place` the data folder of `node`, which must not run.
    pub(super) async fn put_snapshot_in_place(
        &self,
        place: usize,
        node: NodeNo,
    ) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        machine::start(self.node_machine(node), move || async move {
            answer.send(put_in_place(&snapshot_folder(place)).await).ok();
        });
        let done = answered.await.map_err(|_| "the machine died".to_owned())?;
        done.map_err(|error| error.to_string())
    }

    /// Copies the disk of `node` to the operator's machine, and checks and opens there the snapshot of the fault at `place`.
    pub(super) async fn open_snapshot(&self, place: usize, node: NodeNo) -> Result<Opened, String> {
        let operator = self.operator(place);
        disk::restore(operator, &disk::snapshot(self.node_machine(node)));
        let (answer, answered) = oneshot::channel();
        let (folder, keys) = (snapshot_folder(place), self.plan.keys());
        machine::start(operator, move || async move {
            answer.send(open(&folder, &keys).await).ok();
        });
        match time::timeout(Duration::from_millis(budget::READY_MS), answered).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => Err("it does not open in time".to_owned()),
        }
    }

    /// Under which id `node` runs.
    pub(super) async fn node_id(&self, node: NodeNo) -> Result<NodeId, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(node, Question::Id(answer), answered).await
    }

    /// The machine from which the fault at `place` is caused. What it did before is over, or given up.
    fn operator(&self, place: usize) -> MachineId {
        let operator = self.operator_machine(place);
        machine::kill_process(operator);
        operator
    }
}

async fn put_in_place(snapshot: &Path) -> std::io::Result<()> {
    let data = snapshot.ancestors().nth(2).unwrap_or(snapshot);
    for entry in fs::read_dir(data).await?.iter().filter(|entry| !entry.is_dir) {
        fs::remove_file(&data.join(&entry.name)).await?;
    }
    for entry in fs::read_dir(snapshot).await? {
        fs::rename(&snapshot.join(&entry.name), &data.join(&entry.name)).await?;
    }
    fs::sync_dir(snapshot).await?;
    fs::sync_dir(data).await
}

async fn open(folder: &Path, keys: &[String]) -> Result<Opened, String> {
    let report =
        fsck::check(folder).await.map_err(|error| format!("fsck cannot read it: {error}"))?;
    let findings: Vec<String> = report.findings.iter().map(|f| f.what.clone()).collect();
    let engine = Engine::open(folder, "sim", Options::default()).await;
    let engine = engine.map_err(|error| format!("it does not open: {error}"))?;
    let copies = node::copies(&engine, keys).await;
    let id = engine.identity().node;
    engine.close().await.map_err(|error| format!("it does not close: {error}"))?;
    Ok(Opened { findings: findings.join("; "), id, copies })
}

/// True when the encoded object `later` has all that `earlier` had.
pub(super) fn covers(later: &[u8], earlier: &[u8]) -> bool {
    let decode = |bytes| Object::decode(&mut Decoder::new(bytes)).ok();
    let (Some(mut later), Some(earlier)) = (decode(later), decode(earlier)) else { return false };
    !later.merge(&earlier)
}
