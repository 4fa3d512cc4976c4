//! The binary as an operator meets it: three processes on loopback, killed and started again.
#![cfg(not(madsim))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use starling::client::{Client, Request};
use starling::runtime::{task, time};

#[path = "../../tests/real/places.rs"]
mod places;
#[path = "../../tests/real/wait.rs"]
mod wait;

use wait::until;

const NODES: usize = 3;
const WRITERS: usize = 8;

struct Processes {
    folder: tempfile::TempDir,
    http: Vec<SocketAddr>,
    children: Vec<Option<Child>>,
}

impl Processes {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places: Vec<(SocketAddr, SocketAddr)> =
            (0..NODES).map(|_| (places::free(), places::free())).collect();
        let seeds: Vec<String> = places.iter().map(|place| format!("\"{}\"", place.1)).collect();
        let seeds = seeds.join(", ");
        for (at, (http, rpc)) in places.iter().enumerate() {
            let data = folder.path().join(format!("data{at}"));
            let config = format!(
                "cluster: test\nnode: n{at}\ndata: {}\nhttp: \"{http}\"\nrpc: \"{rpc}\"\nthreads: 1\n\
                 log: {{level: warn}}\nfounders: [n0, n1, n2]\nseeds: [{seeds}]\n",
                data.display()
            );
            std::fs::write(folder.path().join(format!("n{at}.yml")), config).unwrap();
        }
        let http = places.iter().map(|place| place.0).collect();
        let mut this = Self { folder, http, children: (0..NODES).map(|_| None).collect() };
        for at in 0..NODES {
            this.boot(at);
        }
        this.ready().await;
        this
    }

    fn boot(&mut self, at: usize) {
        let config = self.folder.path().join(format!("n{at}.yml"));
        self.children[at] = Some(serve(&config));
    }

    /// Waits until every node hears every other, and is ready.
    async fn ready(&mut self) {
        for (at, &address) in self.http.iter().enumerate() {
            let mut client = Client::new(address);
            let child = self.children[at].as_mut().unwrap();
            until(&format!("n{at} hears all others and is ready"), async || {
                if let Some(ended) = child.try_wait().unwrap() {
                    return Err(format!("its process ended: {ended}"));
                }
                let answer = client.send(Request::get("/v1/cluster"), soon()).await;
                let view = answer.map_err(|error| error.to_string())?.body;
                let view: serde_json::Value = serde_json::from_slice(&view).unwrap();
                // One that does not serve yet says why instead.
                let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
                let up = members.iter().filter(|member| member["status"] == "up");
                if up.count() < NODES {
                    return Err(view.to_string());
                }
                match client.send(Request::get("/health/ready"), soon()).await {
                    Ok(ready) if ready.status == 200 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }

    /// Sends a signal, such as `STOP`, to the process of a node.
    fn signal(&self, at: usize, signal: &str) {
        let pid = self.children[at].as_ref().unwrap().id();
        let line = format!("kill -{signal} {pid}");
        assert!(Command::new("sh").arg("-c").arg(line).status().unwrap().success());
    }

    fn kill(&mut self, at: usize) {
        let mut child = self.children[at].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

fn serve(config: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.arg("serve").arg("--config").arg(config);
    let quiet = Stdio::null;
    command.stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
}

fn soon() -> time::Instant {
    time::now() + Duration::from_secs(10)
}

/// Writers that overwrite keys of their own and remember what was acked last.
struct Load {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
    writers: Vec<task::JoinHandle<Written>>,
}

#[derive(Default)]
struct Written {
    acked: BTreeMap<String, u64>,
    /// The write that was under way when the load was stopped, if it failed: it may have happened.
    unknown: BTreeMap<String, u64>,
    errors: Vec<String>,
}

impl Load {
    fn start(addresses: &[SocketAddr]) -> Self {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let writers = (0..WRITERS)
            .map(|writer| {
                let address = addresses[writer % addresses.len()];
                task::spawn(write(writer, address, stop.clone(), acks.clone()))
            })
            .collect();
        Self { stop, acks, writers }
    }

    async fn reach(&self, acks: usize) {
        until(&format!("{acks} writes are acked"), async || {
            let (reached, writers) = (self.acks.load(Ordering::Relaxed), self.writers.iter());
            let ended = writers.filter(|writer| writer.is_finished()).count();
            let told = format!("{reached} are, and {ended} of {WRITERS} writers met an error");
            if reached >= acks { Ok(()) } else { Err(told) }
        })
        .await;
    }

    async fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.writers {
            let one = writer.await.unwrap();
            all.acked.extend(one.acked);
            all.unknown.extend(one.unknown);
            all.errors.extend(one.errors);
        }
        all
    }
}

async fn write(
    writer: usize,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
) -> Written {
    let mut client = Client::new(address);
    let mut written = Written::default();
    let mut contexts: BTreeMap<String, String> = BTreeMap::new();
    for value in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("/v1/kv/load/{writer}-{}", value % 5);
        // A disk that stands still for seconds on a busy machine is no fault of the nodes.
        let request = Request::put(format!("{key}?timeout_ms=30000"), value.to_string());
        let request = request.with_context(contexts.get(&key).cloned());
        match client.send(request, soon() + Duration::from_secs(30)).await {
            Ok(answer) if answer.status == 200 => {
                contexts.extend(answer.context.map(|context| (key.clone(), context)));
                written.acked.insert(key, value);
                acks.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                written.unknown.insert(key, value);
                written.errors.push(format!("{other:?}"));
                break;
            }
        }
    }
    written
}

/// Reads every acked key from every live node and checks that the last acked write is there.
async fn check(written: &Written, addresses: &[SocketAddr]) {
    assert!(!written.acked.is_empty());
    for &address in addresses {
        let mut client = Client::new(address);
        for (key, value) in &written.acked {
            let answer = client.send(Request::get(key.clone()), soon()).await.unwrap();
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            let shows = |value: u64| match answer.status {
                200 => body == value.to_string(),
                _ => body.contains(&format!("\"value\":{value},")),
            };
            let unknown = written.unknown.get(key).copied();
            let superseded = unknown.is_some_and(shows);
            assert!(shows(*value) || superseded, "{key}: acked {value}, read {body}");
        }
    }
}

#[test]
fn killing_one_of_three_under_load_fails_no_request_and_loses_nothing() {
    task::block_on(1, async {
        let mut processes = Processes::start().await;
        let living = processes.http[..2].to_vec();
        let load = Load::start(&living);
        load.reach(500).await;
        processes.kill(2);
        load.reach(1500).await;
        processes.boot(2);
        processes.ready().await;
        load.reach(2000).await;
        let written = load.end().await;
        assert_eq!(written.errors, Vec::<String>::new(), "two of three are a quorum");
        check(&written, &processes.http).await;
    })
    .unwrap();
}

#[test]
fn kill_9_of_all_three_and_a_restart_loses_no_acked_write() {
    task::block_on(1, async {
        let mut processes = Processes::start().await;
        for round in 1..=3 {
            let load = Load::start(&processes.http);
            load.reach(300 * round).await;
            for at in 0..NODES {
                processes.kill(at);
            }
            let written = load.end().await;
            for at in 0..NODES {
                processes.boot(at);
            }
            processes.ready().await;
            check(&written, &processes.http).await;
        }
    })
    .unwrap();
}

#[test]
fn a_node_that_is_cut_off_lets_its_requests_end_and_stops_at_once() {
    const REQUEST: Duration = Duration::from_secs(2);
    task::block_on(1, async {
        let mut processes = Processes::start().await;
        // They hold their connections, and neither hear nor say anything.
        processes.signal(1, "STOP");
        processes.signal(2, "STOP");
        let mut client = Client::new(processes.http[0]);
        let target = format!("/v1/kv/b/k?w=all&timeout_ms={}", REQUEST.as_millis());
        let waiting =
            task::spawn(async move { client.send(Request::put(target, "1"), soon()).await });
        let mut watcher = Client::new(processes.http[0]);
        loop {
            let answer = watcher.send(Request::get("/v1/cluster"), soon()).await.unwrap();
            let view: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            // The question itself may be one of them.
            if view["requests_in_flight"].as_u64() >= Some(1) && !waiting.is_finished() {
                break;
            }
            assert!(!waiting.is_finished(), "the request was to wait for the others");
        }
        let began = time::now();
        processes.signal(0, "TERM");
        let mut child = processes.children[0].take().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if time::now().since(began) > Duration::from_secs(30) {
                child.kill().unwrap();
            }
            time::sleep(Duration::from_millis(5)).await;
        };
        let took = time::now().since(began);
        assert!(status.success(), "{status} after {took:?}");
        assert!(took < REQUEST + Duration::from_secs(3), "took {took:?} to stop");
        let answer = waiting.await.unwrap();
        let refused = answer.as_ref().is_ok_and(|answer| matches!(answer.status, 503 | 504));
        assert!(refused, "the request was cut off: {answer:?}");
    })
    .unwrap();
}

#[test]
fn a_folder_in_use_and_a_missing_file_are_refused_with_a_reason() {
    let run = |config: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
        command.arg("serve").arg("--config").arg(config).output().unwrap()
    };
    let missing = run(Path::new("/nonexistent/node.yml"));
    assert!(!missing.status.success());
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("/nonexistent/node.yml"), "{text}");
    task::block_on(1, async {
        let processes = Processes::start().await;
        let text = std::fs::read_to_string(processes.folder.path().join("n0.yml")).unwrap();
        let twin = processes.folder.path().join("twin.yml");
        // The same folder, other ports.
        let other = |line: &&str| !line.starts_with("http: ") && !line.starts_with("rpc: ");
        let text: Vec<&str> = text.lines().filter(other).collect();
        std::fs::write(&twin, text.join("\n")).unwrap();
        let second = run(&twin);
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(!second.status.success() && text.contains("in use"), "{text}");
    })
    .unwrap();
}

#[test]
fn a_snapshot_of_a_node_that_serves_is_checked_and_restored() {
    task::block_on(2, async {
        let mut processes = Processes::start().await;
        let mut client = Client::new(processes.http[0]);
        let put = |key: &str, value: &str| {
            Request::put(format!("/v1/kv/b/{key}?w=all"), value.to_owned())
        };
        assert_eq!(client.send(put("k", "1"), soon()).await.unwrap().status, 200);
        let starling = |line: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
            let output = command.args(line.split(' ')).output().unwrap();
            let text =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.code(), text)
        };
        let data = processes.folder.path().join("data0");
        let snapshot = format!("snapshot --node http://{} --name s", processes.http[0]);
        let (code, text) = starling(&snapshot);
        let folder = data.join("snapshots/s");
        assert!(code == Some(0) && text.starts_with(folder.to_str().unwrap()), "{text}");
        assert_eq!(client.send(put("later", "2"), soon()).await.unwrap().status, 200);
        let (code, text) = starling(&snapshot);
        assert!(code == Some(64) && text.contains("there already"), "{code:?} {text}");
        assert_eq!(starling(&format!("{snapshot}/../x")).0, Some(64));

        let fsck = |folder: &Path| starling(&format!("fsck --data {}", folder.display()));
        let (code, text) = fsck(&folder);
        assert!(code == Some(0) && text.contains("healthy: 1 table with"), "{code:?} {text}");
        let (code, text) = fsck(&data);
        assert!(code == Some(3) && text.contains("a node runs on it"), "{code:?} {text}");
        assert_eq!(fsck(&processes.folder.path().join("none")).0, Some(64));
        processes.kill(0);
        assert_eq!(fsck(&data).0, Some(0));

        let old = processes.folder.path().join("old");
        std::fs::rename(&data, &old).unwrap();
        std::fs::rename(old.join("snapshots/s"), &data).unwrap();
        std::fs::copy(old.join("members.json"), data.join("members.json")).unwrap();
        processes.boot(0);
        processes.ready().await;
        // What it had, what it lacks and hears from the others, and what is new.
        for (key, value) in [("k", "1"), ("later", "2")] {
            let mut client = Client::new(processes.http[0]);
            let get = Request::get(format!("/v1/kv/b/{key}?r=all"));
            let answer = client.send(get, soon()).await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (200, value.as_bytes()), "{key}");
        }
        let mut client = Client::new(processes.http[0]);
        assert_eq!(client.send(put("new", "3"), soon()).await.unwrap().status, 200);
        processes.kill(0);
        // One whose manifest is gone is refused, by both.
        let manifests = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
        for path in manifests.filter(|p| p.display().to_string().contains("manifest-")) {
            std::fs::remove_file(path).unwrap();
        }
        let (code, text) = fsck(&data);
        assert!(code == Some(2) && text.contains("do something"), "{code:?} {text}");
    })
    .unwrap();
}

#[test]
fn keys_are_listed_and_conflicts_found_from_the_command_line() {
    task::block_on(2, async {
        let processes = Processes::start().await;
        let starling = |node: usize, line: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
            command.args(line).arg("--node").arg(processes.http[node].to_string());
            let done = command.output().unwrap();
            let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
            (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned(), stderr)
        };
        for (node, key) in
            ["{ada}/1", "{ada}/2", "{ada}/2", "{bob}/1", "{bob}/1"].iter().enumerate()
        {
            let value = format!("{{\"node\":{node}}}");
            let (code, _, stderr) = starling(node % 3, &["put", "shop", key, &value, "--w", "all"]);
            assert_eq!(code, Some(0), "{stderr}");
        }
        let (code, listed, stderr) = starling(1, &["list", "shop", "{ada}/"]);
        assert_eq!(
            (code, &*listed),
            (Some(0), "{ada}/1\t{\"node\":0}\n{ada}/2\t(2 values)\n"),
            "{stderr}"
        );
        let (_, listed, _) = starling(2, &["list", "shop", "{ada}/", "--reverse", "--json"]);
        let keys: Vec<serde_json::Value> =
            listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&keys[0]["key"], &keys[1]["key"]), (&"{ada}/2".into(), &"{ada}/1".into()));
        let (code, _, stderr) = starling(0, &["list", "shop", "ada"]);
        assert_eq!(code, Some(64), "{stderr}");
        let (code, conflicts, stderr) = starling(0, &["conflicts", "--bucket", "shop"]);
        assert_eq!(code, Some(0), "{stderr}");
        let mut named: Vec<&str> =
            conflicts.lines().map(|line| line.split(": ").next().unwrap()).collect();
        named.sort_unstable();
        assert_eq!(named, ["shop/{ada}/2", "shop/{bob}/1"], "{conflicts}");
        assert_eq!(starling(0, &["conflicts", "--bucket", "none"]).1, "");
    })
    .unwrap();
}
