//! Replicas that heal each other, while no client asks for anything.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;
use starling::client::{Request, kv_target};

use super::cluster::{json, story, text};
use super::membership::Town;

const KEYS: usize = 200;

/// A node that lost its disk gets everything back without a read, vouches for nothing until then, and has the same
/// trees as the others afterwards.
#[test]
fn a_wiped_node_heals_without_a_client() {
    story(async {
        let mut town = Town::new(&["n1", "n2", "n3"], &[], |_| {});
        town.start(&["n1", "n2", "n3"]).await;
        for number in 0..KEYS {
            let path = kv_target("b", &format!("k{number}"), &[("w", "all")]);
            let answer = town.send("n1", Request::put(path, r#"{"v":1}"#)).await;
            assert_eq!(answer.status, 200, "{}", text(&answer));
        }
        town.stop("n3").await;
        std::fs::remove_dir_all(town.data("n3")).unwrap();
        town.start(&["n3"]).await;
        town.until("n3", "/v1/cluster/repair", |repair| repair["doubtful"] == 0).await;
        let (healed, other) = (partitions(&town, "n3").await, partitions(&town, "n1").await);
        let keys = |of: &BTreeMap<u64, Value>| {
            of.values().map(|p| p["keys"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(keys(&healed), KEYS as u64);
        for (partition, there) in &other {
            assert_eq!(healed[partition]["root"], there["root"], "partition {partition}");
        }
        town.stop_all().await;
    });
}

/// An operator has a partition compared, sees when that is done, and is told what is no partition.
#[test]
fn an_operator_asks_for_a_comparison() {
    story(async {
        let mut town = Town::new(&["n1", "n2"], &[], |config| config.replication.n = 2);
        town.start(&["n1", "n2"]).await;
        let ask = |query: &str| Request::new(Method::POST, format!("/v1/admin/repair{query}"));
        assert_eq!(town.send("n1", ask("?partition=7")).await.status, 202);
        town.until("n1", "/v1/cluster/repair", |repair| {
            let exchange = &repair["partitions"][7]["exchanges"][0];
            repair["busy"] == false && exchange["with"] == "n2" && exchange["ago_ms"].is_u64()
        })
        .await;
        for wrong in ["?partition=64", "?partition=x", "?all=1"] {
            assert_eq!(town.send("n1", ask(wrong)).await.status, 400, "{wrong}");
        }
        let metrics = town.send("n1", Request::get("/metrics")).await;
        assert!(text(&metrics).contains("starling_doubtful_partitions 0"), "{}", text(&metrics));
        town.stop_all().await;
    });
}

async fn partitions(town: &Town, name: &str) -> BTreeMap<u64, Value> {
    let answer = town.send(name, Request::get("/v1/cluster/repair")).await;
    let list = json(&answer)["partitions"].as_array().unwrap().clone();
    list.into_iter().map(|part| (part["partition"].as_u64().unwrap(), part)).collect()
}
