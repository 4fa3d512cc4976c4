//! The run, with a store in place of Starling's node that is simple enough to be right: all nodes
//! share one map. And with that store broken on purpose, which the run must find.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use starling::client::kv_target;
use starling::domain::causality::{Actor, CausalContext, Dot, NodeId};
use starling::domain::codec::Decoder;
use starling::domain::object::{Content, Object, Sibling};
use starling::http::io::HyperIo;
use starling_world::net::TcpListener;
use starling_world::task;

use crate::plan::{self, Level, NodeNo, Plan, Settings};
use crate::report::{Report, Verdict};

use super::cluster::{HTTP_PORT, address};
use super::system::{Gauge, Question, Site, System};
use super::{Keeping, lock, run_system};

/// What is wrong with the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Every so many writes, one is acked and forgotten.
    Forgets(u64),
    /// Nodes stop to answer for good after so many requests, all together.
    Stops(u64),
    /// Nodes panic at their so many-th request.
    Panics(u64),
}

#[derive(Default)]
struct Map {
    objects: BTreeMap<String, Object>,
    writes: u64,
    requests: u64,
}

struct OneMap {
    bug: Bug,
    map: Arc<Mutex<Map>>,
}

impl System for OneMap {
    fn boot(&self, site: Site) -> Pin<Box<dyn Future<Output = String> + Send>> {
        let (bug, map) = (self.bug, Arc::clone(&self.map));
        Box::pin(async move {
            let plan = Arc::clone(&site.plan);
            task::spawn(answer_questions(site.questions, Arc::clone(&map), site.plan));
            let at = (address(site.node), HTTP_PORT);
            let listener = TcpListener::bind(at).await.unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (map, plan) = (Arc::clone(&map), Arc::clone(&plan));
                let service = hyper::service::service_fn(move |request| {
                    let (map, plan) = (Arc::clone(&map), Arc::clone(&plan));
                    async move { Ok::<_, Infallible>(serve(request, &map, &plan, bug).await) }
                });
                task::spawn(async move {
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(HyperIo::new(stream), service)
                            .await,
                    );
                });
            }
        })
    }
}

async fn answer_questions(
    mut questions: tokio::sync::mpsc::UnboundedReceiver<Question>,
    map: Arc<Mutex<Map>>,
    plan: Arc<Plan>,
) {
    while let Some(question) = questions.recv().await {
        match question {
            Question::Homes(keys, answer) => {
                let homes: Vec<NodeNo> = (1..=plan.settings.replicas).map(NodeNo).collect();
                answer.send(vec![homes; keys.len()]).ok();
            }
            // It does neither, so nobody asks.
            Question::View(_) | Question::HintsLeft(_) | Question::Trees(_) | Question::Id(_) => {}
            Question::Doubts(answer) => {
                answer.send(false).ok();
            }
            Question::Gauges(answer) => {
                let bound = plan.settings.siblings_max.into();
                let siblings = lock(&map).objects.values().map(|o| o.siblings().len()).max();
                let value = siblings.unwrap_or(0) as u64;
                answer.send(vec![Gauge { name: "siblings_max", value, bound }]).ok();
            }
            Question::Copies(keys, answer) => {
                let map = lock(&map);
                let copy = |key: &String| {
                    let (bucket, name) = key.split_once('/')?;
                    let mut bytes = Vec::new();
                    map.objects.get(&kv_target(bucket, name, &[]))?.encode(&mut bytes);
                    Some(bytes)
                };
                answer.send(keys.iter().map(copy).collect()).ok();
            }
        }
    }
}

async fn serve(
    request: Request<Incoming>,
    map: &Mutex<Map>,
    plan: &Plan,
    bug: Bug,
) -> Response<Full<Bytes>> {
    if request.uri().path() == "/health/ready" {
        return Response::new(Full::default());
    }
    let count = {
        let mut map = lock(map);
        map.requests += 1;
        map.requests
    };
    assert!(bug != Bug::Panics(count), "planted");
    if let Bug::Stops(after) = bug
        && count > after
    {
        std::future::pending::<()>().await;
    }
    let key = request.uri().path().to_owned();
    let method = request.method().clone();
    let required = required_acks(request.uri().query().unwrap_or_default(), &plan.settings);
    let seen = request.headers().get("causal-context").map(|token| {
        let token = token.to_str().unwrap();
        let bytes: Vec<u8> = (0..token.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap())
            .collect();
        CausalContext::decode(&mut Decoder::new(&bytes)).unwrap()
    });
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let Ok(body) = body else { return status(400, Bytes::new(), None) };
    let mut map = lock(map);
    if method == Method::GET {
        return read(map.objects.entry(key).or_default());
    }
    map.writes += 1;
    let counter = map.writes;
    let content = if method == Method::PUT { Content::Value(body) } else { Content::Tombstone };
    let before = map.objects.get(&key).cloned();
    let object = map.objects.entry(key.clone()).or_default();
    let seen = seen.unwrap_or_default();
    let beside = object.siblings().iter().filter(|sibling| !seen.contains(sibling.dot)).count();
    if beside >= plan.settings.siblings_max as usize {
        return status(409, Bytes::new(), None);
    }
    let dot = Dot { actor: Actor { node: NodeId(1), epoch: counter }, counter: 1 };
    let new = Sibling { dot, content, written_at_ms: 0, expires_at_ms: None };
    let context = object.write(&seen, new);
    let siblings = object.siblings().len();
    if let (Bug::Forgets(every), Some(before)) = (bug, before)
        && counter.is_multiple_of(every)
    {
        map.objects.insert(key, before);
    }
    let acks = format!("{{\"required\":{required},\"received\":{required},\"hinted\":0}}");
    let body = format!("{{\"context\":\"\",\"acks\":{acks},\"siblings\":{siblings}}}");
    status(200, body.into(), Some(&context))
}

fn required_acks(query: &str, settings: &Settings) -> u32 {
    let level = query.split('&').find_map(|pair| pair.strip_prefix("w="));
    settings.count(match level {
        None => settings.write_quorum,
        Some("one") => Level::One,
        Some("quorum") => Level::Quorum,
        Some("all") => Level::All,
        Some(count) => Level::Count(count.parse().unwrap()),
    })
}

fn read(object: &Object) -> Response<Full<Bytes>> {
    let values: Vec<&Bytes> = object.siblings().iter().filter_map(|s| s.visible(0)).collect();
    let context = (!object.is_empty()).then_some(object.context());
    match (values.as_slice(), object.siblings().len()) {
        ([], _) => status(404, Bytes::new(), context),
        ([value], 1) => status(200, (*value).clone(), context),
        (values, all) => {
            let mut rows: Vec<String> = values
                .iter()
                .map(|value| format!("{{\"value\":{}}}", str::from_utf8(value).unwrap()))
                .collect();
            if values.len() < all {
                rows.push("{\"deleted\":true}".to_owned());
            }
            let body = format!("{{\"siblings\":[{}],\"context\":\"\"}}", rows.join(","));
            status(300, body.into(), context)
        }
    }
}

fn status(code: u16, body: Bytes, context: Option<&CausalContext>) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(code);
    if let Some(context) = context {
        let mut bytes = Vec::new();
        context.encode(&mut bytes);
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        response = response.header("causal-context", token);
    }
    response.body(Full::new(body)).unwrap()
}

fn run(plan: &Plan, bug: Bug) -> Report {
    run_system(plan, Keeping::Nothing, Arc::new(OneMap { bug, map: Arc::default() })).0
}

/// The plan of `seed`, without what the one map does not know.
fn draw(seed: u64) -> Plan {
    let mut plan = plan::draw(seed);
    plan.settings.last_write.clear();
    plan.operations.retain(|operation| operation.action.name() != "list");
    plan.clients.iter_mut().for_each(|client| client.batch_max = None);
    plan.operations.iter_mut().for_each(|operation| operation.ttl_s = None);
    plan
}

#[test]
fn a_right_store_is_found_right_whatever_the_faults() {
    for seed in 0..4 {
        let plan = draw(seed);
        let report = run(&plan, Bug::None);
        assert_eq!(report.verdict, Verdict::Ok, "seed {seed}: {}", report.explanation);
        assert!(report.simulated_ms >= plan.length.total_ms);
        assert_eq!(run(&plan, Bug::None), report, "seed {seed} twice");
    }
}

#[test]
fn a_store_that_forgets_is_found_unsafe() {
    let report = run(&draw(1), Bug::Forgets(20));
    assert_eq!(report.verdict, Verdict::Safety, "{}", report.explanation);
}

#[test]
fn a_store_that_stops_is_found_stuck() {
    let report = run(&draw(1), Bug::Stops(100));
    assert_eq!(report.verdict, Verdict::Liveness, "{}", report.explanation);
    assert!(report.explanation.contains("still fails after"), "{}", report.explanation);
}

#[test]
#[should_panic(expected = "planted")]
fn a_panic_in_a_node_ends_the_run() {
    run(&draw(1), Bug::Panics(50));
}

/// The small canonical plan: three real nodes, one of which crashes right after it wrote to its
/// log, and one client that writes, reads, updates and deletes.
fn canonical_plan() -> Plan {
    let mut plan = Plan::from_json(include_str!("canonical.json")).unwrap();
    plan.about.clear();
    plan
}

#[test]
fn the_trace_of_the_canonical_plan_is_known() {
    let (report, trace) = super::run(&canonical_plan(), Keeping::Trace);
    assert_eq!(report.verdict, Verdict::Ok, "{}", report.explanation);
    // Packets, disk calls and moments change with every detail of the code; the story does not.
    let story: Vec<String> = trace
        .iter()
        .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        .filter(|line| {
            let kind = line.split(' ').nth(1).unwrap_or_default();
            !["packet_", "tcp_", "disk_", "final_"].iter().any(|other| kind.starts_with(other))
        })
        .collect();
    insta::assert_snapshot!(story.join("\n"));
}
