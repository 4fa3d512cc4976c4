//! Nodes that find each other by gossip, stand in for each other, and come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use starling::client::{Client, ClientError, Request, Response};
use starling::config::Config;
use starling::node::{Node, StartError};
use starling::runtime::task::{self, JoinHandle};
use starling::runtime::time;

use super::cluster::{json, story, text};
use super::places;
use super::wait::until;

/// Nodes by name, founded: each knows names and seeds alone.
pub(crate) struct Town {
    folder: tempfile::TempDir,
    places: BTreeMap<String, (SocketAddr, SocketAddr)>,
    founders: Vec<String>,
    nodes: BTreeMap<String, Node>,
    adjust: fn(&mut Config),
}

impl Town {
    pub(crate) fn new(founders: &[&str], others: &[&str], adjust: fn(&mut Config)) -> Self {
        let names = founders.iter().chain(others);
        let places =
            names.map(|name| ((*name).to_owned(), (places::free(), places::free()))).collect();
        let founders = founders.iter().map(|name| (*name).to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        Self { folder, places, founders, nodes: BTreeMap::new(), adjust }
    }

    fn config(&self, name: &str) -> Config {
        let (rpc, http) = self.places[name];
        let mut config = Config::new("town", name, Vec::new());
        config.data = self.folder.path().join(name);
        (config.rpc, config.http) = (rpc.to_string(), http.to_string());
        (config.advertise.rpc, config.advertise.http) = (rpc.to_string(), http.to_string());
        config.founders.clone_from(&self.founders);
        config.seeds = self.founders.iter().map(|f| self.places[f].0.to_string()).collect();
        config.vnodes = if self.founders.iter().any(|f| f == name) { 64 } else { 0 };
        config.ring.partitions = 64;
        config.gossip.interval_ms = 100;
        (self.adjust)(&mut config);
        config
    }

    /// Starts nodes at once, as they may need each other, and waits until each takes each for up, and is ready.
    pub(crate) async fn start(&mut self, names: &[&str]) {
        let starting: Vec<(&str, JoinHandle<Result<Node, StartError>>)> =
            names.iter().map(|name| (*name, task::spawn(Node::start(self.config(name))))).collect();
        for (name, started) in starting {
            let node = started.await.unwrap().unwrap();
            self.nodes.insert(name.to_owned(), node);
        }
        let count = self.nodes.len();
        for name in self.nodes.keys() {
            self.until(name, "/v1/cluster", |view| up(view) == count).await;
        }
        for name in names {
            until("a node is ready", async || {
                let answer = self.send(name, Request::get("/health/ready")).await;
                if answer.status == 200 { Ok(()) } else { Err(text(&answer).to_owned()) }
            })
            .await;
        }
    }

    /// The data folder of a node.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn stop(&mut self, name: &str) {
        self.nodes.remove(name).unwrap().stop().await;
    }

    pub(crate) async fn stop_all(mut self) {
        while let Some((_, node)) = self.nodes.pop_first() {
            node.stop().await;
        }
    }

    async fn try_send(&self, name: &str, request: Request) -> Result<Response, ClientError> {
        let deadline = time::now() + Duration::from_secs(20);
        Client::new(self.places[name].1).send(request, deadline).await
    }

    pub(crate) async fn send(&self, name: &str, request: Request) -> Response {
        self.try_send(name, request).await.unwrap()
    }

    pub(crate) async fn until(
        &self,
        name: &str,
        path: &str,
        holds: impl Fn(&serde_json::Value) -> bool,
    ) {
        until(&format!("{path} at {name}"), async || {
            let answer = self.send(name, Request::get(path)).await;
            let come_true = answer.status == 200 && holds(&json(&answer));
            if come_true { Ok(()) } else { Err(text(&answer).to_owned()) }
        })
        .await;
    }

    /// The home replicas of a key, and everybody else.
    async fn homes(&self, path: &str) -> (Vec<String>, Vec<String>) {
        let any = self.nodes.keys().next().unwrap();
        let answer = self.send(any, Request::get(format!("/v1/cluster/where/{path}"))).await;
        let names = |field: &str| {
            let list = json(&answer)[field].as_array().unwrap().clone();
            list.iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
        };
        (names("home"), names("fallbacks"))
    }
}

fn up(view: &serde_json::Value) -> usize {
    let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
    members.iter().filter(|member| member["status"] == "up").count()
}

#[test]
fn fallbacks_take_writes_for_homes_that_are_away_and_hand_them_over() {
    story(async {
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let mut town = Town::new(&names, &[], |_| {});
        town.start(&names).await;
        let (homes, fallbacks) = town.homes("b/k").await;
        for home in &homes[1..] {
            town.stop(home).await;
        }
        let (home, fallback) = (homes[0].as_str(), fallbacks[0].as_str());
        let put = town.send(home, Request::put("/v1/kv/b/k", "1")).await;
        assert_eq!(put.status, 200, "{}", text(&put));
        let acks = json(&put)["acks"].clone();
        // Two of three answered first: both fallbacks, when the disk of the home replica itself is the slowest.
        assert_eq!(acks["received"], 2, "{acks}");
        assert!(matches!(acks["hinted"].as_u64(), Some(1 | 2)), "{acks}");
        // A client that wants home replicas alone is told that there are too few.
        let strict = town.send(home, Request::put("/v1/kv/b/k?sloppy=false", "2")).await;
        assert_eq!(
            (strict.status, &json(&strict)["hinted"]),
            (503, &0.into()),
            "{}",
            text(&strict)
        );
        let strict = town.send(home, Request::get("/v1/kv/b/k?sloppy=false")).await;
        assert_eq!(strict.status, 503, "{}", text(&strict));
        let read = town.send(fallback, Request::get("/v1/kv/b/k")).await;
        assert!(matches!(read.status, 200 | 300), "{}", text(&read));

        let back: Vec<&str> = homes[1..].iter().map(String::as_str).collect();
        town.start(&back).await;
        for name in town.nodes.keys() {
            let none = |view: &serde_json::Value| view["owners"].as_array().unwrap().is_empty();
            town.until(name, "/v1/cluster/hints", none).await;
        }
        for home in &homes[1..] {
            let own = town.nodes[home].storage();
            let key = starling::domain::key::Key::new("b", "k").unwrap();
            assert!(own.get(&key).await.unwrap().is_some(), "{home} got no hint");
        }
        town.stop_all().await;
    });
}

#[test]
fn with_every_home_away_a_fallback_coordinates_and_nothing_is_lost() {
    story(async {
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let mut town = Town::new(&names, &[], |config| config.replication.n = 2);
        town.start(&names).await;
        let (homes, fallbacks) = town.homes("b/k").await;
        for home in &homes {
            town.stop(home).await;
        }
        let first = town.send(&fallbacks[0], Request::put("/v1/kv/b/k", "1")).await;
        assert_eq!(first.status, 200, "{}", text(&first));
        assert_eq!(json(&first)["acks"]["hinted"], 2);
        let metrics = town.send(&fallbacks[0], Request::get("/metrics")).await;
        let own = "starling_hints_stored_total 1\n";
        assert!(text(&metrics).contains(own), "its own copy is a hint: {}", text(&metrics));
        // The same fallback again, with the context of its own write: one value stays.
        let second = Request::put("/v1/kv/b/k", "2").with_context(first.context);
        let second = town.send(&fallbacks[0], second).await;
        assert_eq!(second.status, 200, "{}", text(&second));
        let back: Vec<&str> = homes.iter().map(String::as_str).collect();
        town.start(&back).await;
        for name in town.nodes.keys() {
            let none = |view: &serde_json::Value| view["owners"].as_array().unwrap().is_empty();
            town.until(name, "/v1/cluster/hints", none).await;
        }
        let read = town.send(&homes[0], Request::get("/v1/kv/b/k?r=all&sloppy=false")).await;
        assert_eq!((read.status, text(&read)), (200, "2"));
        town.stop_all().await;
    });
}

#[test]
fn a_proxy_keeps_nothing_and_passes_everything_on() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &["p"], |_| {});
        town.start(&["n1", "n2", "n3", "p"]).await;
        for at in 0..20 {
            let path = format!("/v1/kv/b/k{at}");
            let put = town.send("p", Request::put(path.clone(), format!("{at}"))).await;
            assert_eq!(put.status, 200, "{}", text(&put));
            assert_eq!(text(&town.send("p", Request::get(path)).await), format!("{at}"));
        }
        assert_eq!(town.nodes["p"].storage().stats().keys, 0);
        town.stop("n2").await;
        for at in 0..20 {
            let got = town.send("p", Request::get(format!("/v1/kv/b/k{at}"))).await;
            assert_eq!(text(&got), format!("{at}"));
            let put = town.send("p", Request::put(format!("/v1/kv/b/new{at}"), "1")).await;
            assert_eq!(put.status, 200, "{}", text(&put));
        }
        let view = town.send("p", Request::get("/v1/cluster")).await;
        let members = json(&view)["members"].as_array().unwrap().clone();
        let n2 = members.iter().find(|member| member["name"] == "n2").unwrap();
        assert_eq!(n2["status"], "stopped", "{n2}");
        town.stop_all().await;
    });
}

#[test]
fn a_founder_waits_for_the_others_once_and_never_again() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &[], |_| {});
        let first = task::spawn(Node::start(town.config("n1")));
        let waits = until("n1 waits for n2 and n3", async || {
            match town.try_send("n1", Request::get("/health/ready")).await {
                Ok(answer) if text(&answer).contains("n2, n3") => Ok(answer),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(waits.status, 503, "{}", text(&waits));
        let refused = town.send("n1", Request::put("/v1/kv/b/k", "1")).await;
        assert_eq!(refused.status, 503, "nothing is taken before the ring is made");
        assert_eq!(town.send("n1", Request::get("/health/live")).await.status, 200);
        let others = [town.config("n2"), town.config("n3")].map(|c| task::spawn(Node::start(c)));
        town.nodes.insert("n1".to_owned(), first.await.unwrap().unwrap());
        for (name, node) in ["n2", "n3"].into_iter().zip(others) {
            town.nodes.insert(name.to_owned(), node.await.unwrap().unwrap());
        }
        assert_eq!(town.send("n3", Request::put("/v1/kv/b/k?w=all", "1")).await.status, 200);
        for name in ["n1", "n2", "n3"] {
            town.stop(name).await;
        }
        // All were down, and one stays away: the others know who makes the ring.
        town.start(&["n3", "n1"]).await;
        assert_eq!(text(&town.send("n1", Request::get("/v1/kv/b/k")).await), "1");
        town.stop_all().await;
    });
}

#[test]
fn a_member_that_moved_is_found_at_its_new_address() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &[], |_| {});
        town.start(&["n1", "n2", "n3"]).await;
        town.stop("n2").await;
        // Only n2 itself is told; the others' seeds still name the old place.
        town.places.insert("n2".to_owned(), (places::free(), places::free()));
        town.start(&["n2"]).await;
        let put = town.send("n1", Request::put("/v1/kv/b/k?w=all&sloppy=false", "1")).await;
        assert_eq!(put.status, 200, "{}", text(&put));
        // And remembered there, for a start at which nobody can be asked.
        let (file, place) = (town.folder.path().join("n1/members.json"), town.places["n2"].0);
        until("n1 remembers that n2 moved", async || {
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            if kept.contains(&place.to_string()) { Ok(()) } else { Err(kept) }
        })
        .await;
        town.stop_all().await;
    });
}

#[test]
fn a_second_process_of_a_name_is_refused_and_a_wrong_secret_is_not_heard() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &["twin", "spy"], |config| {
            config.gossip.secret = "hush".to_owned();
            // Three beats in four intervals say that a name is taken: a busy machine must not lose two of them.
            config.gossip.interval_ms = 500;
        });
        town.start(&["n1", "n2", "n3"]).await;
        let mut twin = town.config("twin");
        "n2".clone_into(&mut twin.node);
        twin.vnodes = 64;
        let refused = Node::start(twin).await.err().map(|error| error.to_string());
        assert!(refused.as_deref().is_some_and(|text| text.contains("n2 already")), "{refused:?}");
        let mut spy = town.config("spy");
        "guess".clone_into(&mut spy.gossip.secret);
        let spy = task::spawn(Node::start(spy));
        let dropped = |text: &str| {
            let line = text.lines().find(|l| l.starts_with("starling_gossip_unauthenticated "));
            line.is_some_and(|line| !line.ends_with(" 0"))
        };
        until("what the spy says is dropped", async || {
            let metrics = town.send("n1", Request::get("/metrics")).await;
            if dropped(text(&metrics)) { Ok(()) } else { Err(text(&metrics).to_owned()) }
        })
        .await;
        let view = json(&town.send("n1", Request::get("/v1/cluster")).await);
        assert_eq!(view["members"].as_array().unwrap().len(), 3, "{view}");
        spy.abort();
        town.stop_all().await;
    });
}

#[test]
fn a_folder_that_was_rolled_back_takes_a_new_id_before_it_mints() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &[], |_| {});
        town.start(&["n1", "n2", "n3"]).await;
        town.stop("n2").await;
        let (data, copy) = (town.folder.path().join("n2"), town.folder.path().join("copy"));
        copy_folder(&data, &copy);
        town.start(&["n2"]).await;
        let id = |town: &Town| town.nodes["n2"].storage().identity().node;
        let before = id(&town);
        assert_eq!(town.send("n2", Request::put("/v1/kv/b/k?w=all", "1")).await.status, 200);
        town.stop("n2").await;
        std::fs::remove_dir_all(&data).unwrap();
        copy_folder(&copy, &data);
        town.start(&["n2"]).await;
        assert_ne!(id(&town), before, "the older copy goes on under the old id");
        // What the copy never saw is still there, and a blind write does not look covered.
        let put = town.send("n2", Request::put("/v1/kv/b/k", "2")).await;
        assert_eq!(put.status, 200, "{}", text(&put));
        let read = town.send("n1", Request::get("/v1/kv/b/k?r=all")).await;
        assert_eq!(json(&read)["siblings"].as_array().map(Vec::len), Some(2), "{}", text(&read));
        town.stop_all().await;
    });
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
