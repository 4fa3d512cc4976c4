//! All peers of a node, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::changes::Changes;
use super::identity::LocalInfo;
use super::link;
use super::options::Options;
use super::peer::{Peer, Shared};
use crate::runtime::task;

/// The asking side of a node: one connection to each peer, made and kept by a task of its own. Clones
/// are the same peers; when the last one is dropped the connections close.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peers: BTreeMap<String, Peer>,
    changes: Arc<Changes>,
}

impl Peers {
    /// Starts to connect to each of `peers` (member name, `host:port`) and to keep it so. Addresses are
    /// resolved anew at every attempt.
    ///
    /// # Panics
    /// When `options` contradict each other, or a peer has this node's own name.
    pub fn start(local: &LocalInfo, peers: Vec<(String, String)>, options: Options) -> Self {
        options.check();
        let options = Arc::new(options);
        let changes = Arc::new(Changes::default());
        let mut by_name = BTreeMap::new();
        for (name, addr) in peers {
            assert_ne!(name, local.name(), "a node is no peer of itself");
            let (options, changes) = (Arc::clone(&options), Arc::clone(&changes));
            let shared = Arc::new(Shared::new(&name, &addr, local.clone(), options, changes));
            task::spawn(link::run(Arc::clone(&shared)));
            by_name.insert(name, Peer { shared });
        }
        Self { inner: Arc::new(Inner { peers: by_name, changes }) }
    }

    /// The peer of that member name; `None`: there is none.
    pub fn get(&self, name: &str) -> Option<Peer> {
        self.inner.peers.get(name).cloned()
    }

    /// All peers, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.inner.peers.values()
    }

    /// Counts the changes of usability, of all peers together.
    pub fn version(&self) -> u64 {
        self.inner.changes.version()
    }

    /// Waits until [`version`](Self::version) is no longer `seen`, and returns it.
    pub async fn changed(&self, seen: u64) -> u64 {
        self.inner.changes.after(seen).await
    }

    /// Closes every connection for good. Open calls end as lost.
    pub fn stop(&self) {
        self.inner.stop();
    }
}

impl Inner {
    fn stop(&self) {
        for peer in self.peers.values() {
            peer.shared.stop.notify_one();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
