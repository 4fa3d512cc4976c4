//! Raises the generation of this node's folder while it runs, so that an older copy of the folder is told from it.
//!
//! Whoever starts with a generation that others have heard of takes a new id and doubts all it holds
//! ([`membership`](crate::domain::membership)). A copy of the folder of a process that has ended since, and was started again, is found out by
//! that. A copy of the last process, such as the snapshot of a virtual machine, would start with a generation that nobody knows. So the
//! generation rises after each start too, durably, and then gossip tells it:
//!
//! - for each question whether a key may be forgotten ([`forgetting`](crate::domain::forgetting)): a copy that was taken before must not
//!   be trusted once the key is forgotten;
//! - once a period, if anything was written since it last rose: a copy that is older than that, and lacks acked writes, is found
//!   out as long as some live member has heard of what came after it.
//!
//! A raise costs one small file, two syncs and a rename, and some 150 bytes of gossip to each member; questions that come together share
//! one, and in large clusters it rises less often.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::gossip::Gossip;
use crate::runtime::{event, time};
use crate::storage::Engine;

/// How often it may rise, and how often it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// No more often than this.
    pub least: Duration,
    /// If anything was written, at least so often.
    pub most: Duration,
}

/// The generation of the folder, as long as this process has it.
pub struct Generation {
    engine: Engine,
    gossip: Gossip,
    pace: Pace,
    wanted: Notify,
}

impl Generation {
    /// That of the folder of `engine`, told to others by `gossip`.
    pub fn new(engine: Engine, gossip: Gossip, pace: Pace) -> Arc<Self> {
        Arc::new(Self { engine, gossip, pace, wanted: Notify::new() })
    }

    /// The latest that is durable. Others hear of it within some intervals of gossip.
    pub fn now(&self) -> u64 {
        self.engine.identity().generation
    }

    /// Asks for a higher one soon.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Raises it when it is time; never returns.
    pub async fn rise(self: Arc<Self>) {
        let mut told = self.engine.stats().records;
        loop {
            let wanted = time::timeout(self.pace.most, self.wanted.notified()).await.is_ok();
            let written = self.engine.stats().records;
            if wanted || written != told {
                told = written;
                self.raise().await;
            }
            time::sleep(self.pace.least).await;
        }
    }

    async fn raise(&self) {
        match self.engine.raise_generation().await {
            Ok(generation) => {
                event::note("generation_raised", 0, generation);
                self.gossip.raise_generation(generation);
            }
            // Who waits for it asks again, and forgets nothing until then.
            Err(error) => tracing::warn!(%error, "the folder's generation could not be raised"),
        }
    }
}
