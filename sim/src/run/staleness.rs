//! How stale reads are when R + W <= N, beside what is known of it.
//!
//! Bailis et al., "Probabilistically Bounded Staleness for Practical Partial Quorums" (VLDB 2012), fitted the one-way delays of
//! LinkedIn's disks of flash (table 3, LNKD-SSD: 91.22 % Pareto with x_m = 0.235 ms and alpha = 10, else exponential with
//! lambda = 1.66 a millisecond, alike for writes, acks, reads and answers), and computed from them that with N=3, R=W=1 a read
//! at once after the ack sees the write with 97.5 %, and after 1.85 ms with 99.9 %.
//!
//! Here whole nodes run over links with these delays: three that own data, and two proxies. Each client sits beside its node: it
//! writes a new key through one node and, a pause after the ack, reads it through another, or the same, drawn each time. The
//! paper's coordinators keep nothing, as proxies; a replica answers a read with R=1 from what it holds itself, which is the
//! quickest and the stalest that can be had. One write and read at a time, nothing fails. Reads and writes with quorums that
//! overlap are measured beside: they must see every write.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use starling::client::{Client, Request, kv_target};
use starling::config::{Advertise, Config};
use starling::node::Node;
use starling_world::link::{self, LinkSpec};
use starling_world::trace::Keep;
use starling_world::{machine, signal, time};
use tokio::sync::oneshot;

use crate::plan::NodeNo;

use super::WALL_START_MS;
use super::cluster::{HTTP_PORT, RPC_PORT, address, observer_address};

/// How long after the ack the read is sent, in microseconds.
pub const PAUSES_US: [u64; 5] = [0, 500, 1_000, 2_000, 5_000];

/// One row: who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For the table.
    pub name: &'static str,
    /// W, as in a request.
    w: &'static str,
    /// R, as in a request.
    r: &'static str,
    /// The nodes that clients write and read through, first and last.
    through: (u32, u32),
    /// Its reads must see every write.
    pub strict: bool,
}

/// What is measured.
pub const ROWS: [Row; 4] = [
    Row { name: "through proxies, W=1, R=1", w: "one", r: "one", through: (4, 5), strict: false },
    Row {
        name: "through proxies, W=2, R=2",
        w: "quorum",
        r: "quorum",
        through: (4, 5),
        strict: true,
    },
    Row { name: "through replicas, W=1, R=1", w: "one", r: "one", through: (1, 3), strict: false },
    Row {
        name: "through replicas, W=2, R=2",
        w: "quorum",
        r: "quorum",
        through: (1, 3),
        strict: true,
    },
];

/// Those that own data; the others are proxies.
const OWNERS: u32 = 3;
const NODES: u32 = 5;

/// Steps of the distribution's table.
const STEPS: usize = 4096;

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// Of all that chance decides.
    pub seed: u64,
    /// Writes for each row and pause.
    pub writes: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// For each of [`ROWS`] and [`PAUSES_US`]: reads that saw the write before them.
    pub fresh: Vec<Vec<u32>>,
    /// The median time that a write took its client, for each of [`ROWS`], in microseconds.
    pub put_us: Vec<u64>,
}

/// Measures.
///
/// # Errors
/// What went wrong, in words: nothing should.
pub fn run(asked: Staleness) -> Result<Measured, String> {
    let config = starling_world::Config {
        seed: asked.seed,
        wall_start_ms: WALL_START_MS,
        keep_trace: Keep::Kinds(&[]),
    };
    starling_world::run(config, drive(asked)).output
}

async fn drive(asked: Staleness) -> Result<Measured, String> {
    let beside = Duration::from_micros(10);
    link::set_default(LinkSpec { delay_min: beside, delay_max: beside, ..LinkSpec::default() });
    let nodes: Vec<NodeNo> = (1..=NODES).map(NodeNo).collect();
    let machines: Vec<_> =
        nodes.iter().map(|node| machine::add(&node.to_string(), address(*node))).collect();
    let quantiles = lnkd_ssd();
    for from in &machines {
        for to in machines.iter().filter(|to| *to != from) {
            let spec = LinkSpec {
                delay_min: Duration::ZERO,
                quantiles: Some(quantiles),
                ..LinkSpec::default()
            };
            link::set(*from, *to, spec);
        }
    }
    let observer = machine::add("observer", observer_address());
    for (node, at) in nodes.iter().zip(&machines) {
        let config = config(*node);
        machine::start(*at, move || live(config));
    }
    time::sleep(Duration::from_secs(10)).await;
    let (answer, answered) = oneshot::channel();
    machine::start(observer, move || async move {
        // The harness waits below, so somebody listens.
        answer.send(measure(asked).await).ok();
    });
    answered.await.expect("the observer's machine is never stopped")
}

async fn live(config: Config) {
    let name = config.node.clone();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => panic!("{name} cannot start: {error}"),
    };
    // Signals cannot fail in the simulated world.
    signal::shutdown().await.ok();
    drop(node);
}

fn config(node: NodeNo) -> Config {
    let at = |node: u32, port: u16| SocketAddr::new(address(NodeNo(node)), port).to_string();
    let mut config = Config::new("staleness", &node.to_string(), Vec::new());
    config.data = "/data".into();
    (config.http, config.rpc) = (at(node.0, HTTP_PORT), at(node.0, RPC_PORT));
    config.advertise = Advertise { rpc: config.rpc.clone(), http: config.http.clone() };
    config.seeds = (1..=OWNERS).map(|seed| at(seed, RPC_PORT)).collect();
    if node.0 > OWNERS {
        config.vnodes = 0;
    }
    config.founders = (1..=OWNERS).map(|owner| NodeNo(owner).to_string()).collect();
    config
}

async fn measure(asked: Staleness) -> Result<Measured, String> {
    let mut clients: Vec<Client> = (1..=NODES)
        .map(|node| Client::new(SocketAddr::new(address(NodeNo(node)), HTTP_PORT)))
        .collect();
    let mut dice = rand_chacha::ChaCha8Rng::seed_from_u64(asked.seed);
    let mut measured = Measured::default();
    for (number, row) in ROWS.iter().enumerate() {
        let (first, last) = row.through;
        let (mut fresh, mut times) = (Vec::new(), Vec::new());
        for pause in PAUSES_US {
            let mut seen = 0;
            for write in 0..asked.writes {
                let key = format!("{number}-{pause}-{write}");
                let mut any = || ((first - 1) + dice.next_u32() % (last - first + 1)) as usize;
                let (writer, reader) = (any(), any());
                let began = time::now();
                let put =
                    Request::put(kv_target("b", &key, &[("w", row.w)]), Bytes::from_static(b"1"));
                ask(&mut clients[writer], put, &[200]).await?;
                times.push(time::now().since(began).as_micros() as u64);
                time::sleep(Duration::from_micros(pause)).await;
                let get = Request::get(kv_target("b", &key, &[("r", row.r)]));
                seen += u32::from(ask(&mut clients[reader], get, &[200, 404]).await? == 200);
                // What is still on its way of this write does not hold up the next.
                time::sleep(Duration::from_millis(10)).await;
            }
            fresh.push(seen);
        }
        times.sort_unstable();
        measured.put_us.push(times.get(times.len() / 2).copied().unwrap_or(0));
        measured.fresh.push(fresh);
    }
    Ok(measured)
}

/// The status of the answer, which must be one of `expected`.
async fn ask(client: &mut Client, request: Request, expected: &[u16]) -> Result<u16, String> {
    let limit = time::now() + Duration::from_secs(5);
    let answer =
        client.send(request, limit).await.map_err(|error| format!("no answer: {error}"))?;
    let status = answer.status;
    expected
        .contains(&status)
        .then_some(status)
        .ok_or_else(|| format!("answered with {status}: {}", String::from_utf8_lossy(&answer.body)))
}

/// The quantiles of LNKD-SSD, in nanoseconds, made once for the process.
fn lnkd_ssd() -> &'static [u64] {
    static TABLE: Mutex<Option<&'static [u64]>> = Mutex::new(None);
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    table.get_or_insert_with(|| {
        let steps = (0..=STEPS).map(|step| quantile_us(step as f64 / STEPS as f64) * 1_000);
        Box::leak(steps.collect::<Vec<u64>>().into_boxed_slice())
    })
}

/// The microseconds that a `share` of packets of LNKD-SSD stays below: whole ones, so that no last bit of a logarithm matters.
fn quantile_us(share: f64) -> u64 {
    let below = |ms: f64| {
        let pareto = if ms < 0.235 { 0.0 } else { 1.0 - (0.235 / ms).powi(10) };
        0.9122 * pareto + (1.0 - 0.9122) * (1.0 - (-1.66 * ms).exp())
    };
    // The distribution's inverse, by halving. The last step would never end: it ends at 10 ms, where one in 10^8 is.
    let (mut low, mut high) = (0, 10_000);
    while low < high {
        let middle = (low + high) / 2;
        if below(middle as f64 / 1_000.0) < share {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delays_are_those_of_the_paper() {
        // Of half of the packets, and in the tail, that of the exponential part alone.
        assert!((240..255).contains(&quantile_us(0.5)), "{}", quantile_us(0.5));
        assert!((1_850..1_900).contains(&quantile_us(0.996)), "{}", quantile_us(0.996));
        assert!(lnkd_ssd().is_sorted());
    }

    #[test]
    fn reads_are_nearly_always_fresh_and_quorums_that_overlap_always() {
        let asked = Staleness { seed: 1, writes: 300 };
        let measured = run(asked).unwrap();
        for (row, fresh) in ROWS.iter().zip(&measured.fresh) {
            let least = if row.strict { [300; PAUSES_US.len()] } else { [230, 270, 280, 290, 295] };
            let enough = fresh.iter().zip(least).all(|(seen, least)| *seen >= least);
            assert!(enough, "{row:?}: {fresh:?}");
        }
        assert_eq!(run(asked), Ok(measured), "the same seed, the same figures");
    }
}
