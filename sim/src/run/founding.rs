//! Power losses while the cluster comes into being: before there are clients, or times to tell faults by.

use std::sync::Arc;
use std::time::Duration;

use starling_world::{task, time, trace};
use tokio::sync::oneshot;

use crate::history::{Disturbance, Endpoint, Fault};
use crate::plan::FoundingLoss;

use super::cluster::{Cluster, Death};
use super::lock;
use super::recorder::node_index;

/// How it goes.
#[derive(Default)]
pub(super) struct Founding {
    /// Every node was ready: what has not struck yet never will.
    over: bool,
    /// Losses so far.
    struck: u32,
    /// Nodes without power now.
    dark: u32,
}

impl Cluster {
    /// Has each of the plan's power losses strike in its moment. To be called before nodes start.
    pub(super) fn disturb_founding(self: &Arc<Self>) {
        let losses = self.plan.founding.iter().flat_map(|founding| &founding.power_losses);
        for loss in losses.copied() {
            let (tell, struck) = oneshot::channel();
            let cluster = Arc::clone(self);
            trace::on(self.node_machine(loss.node), loss.event.name(), loss.count, move || {
                tell.send(cluster.strike_founder(loss)).ok();
            });
            let cluster = Arc::clone(self);
            task::spawn(async move {
                // An error says that it never came to that, and the run is over.
                if let Ok(true) = struck.await {
                    cluster.relight_founder(loss).await;
                }
            });
        }
    }

    /// False: the founding is over, and nothing happened.
    fn strike_founder(&self, loss: FoundingLoss) -> bool {
        {
            let mut founding = lock(&self.founding);
            if founding.over {
                return false;
            }
            founding.struck += 1;
            founding.dark += 1;
        }
        trace::emit("founder_struck", u64::from(loss.node.0), 0);
        self.hold_down(loss.node, Death::Power);
        true
    }

    async fn relight_founder(self: &Arc<Self>, loss: FoundingLoss) {
        let start_ns = starling_world::now();
        time::sleep(Duration::from_millis(loss.for_ms)).await;
        self.release(loss.node);
        let fault = Fault::PowerLoss(Endpoint::Node(node_index(loss.node)));
        let end_ns = starling_world::now();
        lock(&self.down_log).push(Disturbance { fault, start_ns, end_ns });
        lock(&self.founding).dark -= 1;
    }

    /// Lets nobody be struck any more, and waits until all have their power back; true if anybody was struck.
    pub(super) async fn end_founding(&self) -> bool {
        lock(&self.founding).over = true;
        while lock(&self.founding).dark > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        lock(&self.founding).struck > 0
    }
}
