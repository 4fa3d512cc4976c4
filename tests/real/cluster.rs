//! A cluster of real nodes on loopback, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use starling::client::{Client, Request, Response};
use starling::config::{Config, Member};
use starling::domain::membership::Health;
use starling::node::Node;
use starling::runtime::{task, time};

use super::places;
use super::wait::until;

/// Running nodes; their data goes with them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) addresses: Vec<SocketAddr>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until each has its connections to the others, and vouches for what it holds.
    pub(crate) async fn start(count: usize, adjust: impl Fn(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places: Vec<(SocketAddr, SocketAddr)> =
            (0..count).map(|_| (places::free(), places::free())).collect();
        let member = |(at, (rpc, http)): (usize, &(SocketAddr, SocketAddr))| {
            Member::new(&format!("n{}", at + 1), rpc.to_string(), http.to_string())
        };
        let members: Vec<Member> = places.iter().enumerate().map(member).collect();
        let mut nodes = Vec::new();
        for (at, (rpc, http)) in places.iter().enumerate() {
            let mut config = Config::new("test", &format!("n{}", at + 1), members.clone());
            config.data = folder.path().join(format!("n{}", at + 1));
            config.http = http.to_string();
            config.rpc = rpc.to_string();
            config.ring.partitions = 64;
            config.gossip.interval_ms = 100;
            adjust(&mut config);
            nodes.push(Node::start(config).await.unwrap());
        }
        let addresses = places.iter().map(|place| place.1).collect();
        let cluster = Self { nodes, addresses, _folder: folder };
        cluster.connected().await;
        cluster
    }

    async fn connected(&self) {
        let all_up = |node: &Node| {
            let app = node.app();
            let heard = app.gossip.members();
            if heard.len() < self.nodes.len() || heard.iter().any(|m| m.health != Health::Up) {
                return false;
            }
            let cluster = app.coordinator.cluster();
            let members = 0..cluster.ring().members().len();
            members
                .map(|at| starling::domain::ring::NodeIndex(at as u16))
                .all(|at| cluster.peer(at).is_none_or(starling::rpc::Peer::is_usable))
        };
        for node in &self.nodes {
            until("a node hears all others, and vouches for what it holds", async || {
                let (heard, settled) = (all_up(node), node.app().anti_entropy.is_settled());
                if heard && settled { Ok(()) } else { Err(format!("{heard}, {settled}")) }
            })
            .await;
        }
    }

    /// Sends one request to the node at `at`, on a connection of its own.
    pub(crate) async fn send(&self, at: usize, request: Request) -> Response {
        let deadline = time::now() + Duration::from_secs(20);
        Client::new(self.addresses[at]).send(request, deadline).await.unwrap()
    }

    /// Stops every node gracefully.
    pub(crate) async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

/// Runs a test's story on a runtime of one thread.
pub(crate) fn story(main: impl Future<Output = ()>) {
    task::block_on(1, main).unwrap();
}

/// The body as text.
pub(crate) fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

/// The body as JSON.
pub(crate) fn json(response: &Response) -> serde_json::Value {
    serde_json::from_slice(&response.body).unwrap()
}
