//! What the HTTP contract promises when all is well.

use starling::client::{Request, kv_target};

use super::cluster::{Cluster, json, story, text};
use super::wait::until;

const KEY: &str = "/v1/kv/users/ada";

#[test]
fn what_one_node_took_every_node_serves_byte_for_byte() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let body = "{ \"name\":\t\"Ada\",  \"n\": 1.50 }";
        let put = cluster.send(0, Request::put(format!("{KEY}?w=all"), body)).await;
        assert_eq!(put.status, 200, "{}", text(&put));
        let acks = json(&put)["acks"].clone();
        assert_eq!((&acks["required"], &acks["received"]), (&3.into(), &3.into()));
        for at in 0..3 {
            let got = cluster.send(at, Request::get(KEY)).await;
            assert_eq!((got.status, text(&got)), (200, body));
            assert_eq!(got.content_type.as_deref(), Some("application/json"));
            assert!(got.context.is_some());
        }
        cluster.stop().await;
    });
}

#[test]
fn a_write_with_a_context_replaces_exactly_what_was_seen() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let first = cluster.send(0, Request::put(KEY, "1")).await;
        let second = Request::put(format!("{KEY}?w=all"), "2").with_context(first.context.clone());
        let second = cluster.send(1, second).await;
        assert_eq!(json(&second)["siblings"], 1);
        assert_eq!(text(&cluster.send(2, Request::get(KEY)).await), "2");

        // A writer who saw only the first write does not undo the second.
        let late = cluster.send(2, Request::put(KEY, "3").with_context(first.context)).await;
        assert_eq!(json(&late)["siblings"], 2);
        let both = cluster.send(0, Request::get(format!("{KEY}?r=all"))).await;
        assert_eq!(both.status, 300);
        let mut values: Vec<_> = json(&both)["siblings"].as_array().unwrap().clone();
        values.sort_by_key(|sibling| sibling["value"].as_u64());
        assert_eq!((&values[0]["value"], &values[1]["value"]), (&2.into(), &3.into()));
        assert_eq!(json(&both)["context"], both.context.clone().unwrap());

        let merged = cluster.send(1, Request::put(KEY, "5").with_context(both.context)).await;
        assert_eq!(json(&merged)["siblings"], 1);
        assert_eq!(text(&cluster.send(0, Request::get(KEY)).await), "5");
        cluster.stop().await;
    });
}

#[test]
fn a_blind_writers_context_covers_its_own_write_and_no_other() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let _unseen = cluster.send(0, Request::put(KEY, "\"unseen\"")).await;
        let blind = cluster.send(0, Request::put(KEY, "\"blind\"")).await;
        assert_eq!(json(&blind)["siblings"], 2);
        let next = cluster.send(0, Request::put(KEY, "\"next\"").with_context(blind.context)).await;
        assert_eq!(json(&next)["siblings"], 2, "the unseen value must live on");
        let both = cluster.send(1, Request::get(KEY)).await;
        assert!(text(&both).contains("unseen") && text(&both).contains("next"), "{}", text(&both));
        assert!(!text(&both).contains("blind"));
        cluster.stop().await;
    });
}

#[test]
fn a_delete_leaves_a_tombstone_whose_context_is_known() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let put = cluster.send(0, Request::put(KEY, "1")).await;
        let delete = cluster.send(1, Request::delete(KEY).with_context(put.context)).await;
        assert_eq!(delete.status, 200);
        let got = cluster.send(2, Request::get(KEY)).await;
        assert_eq!(got.status, 404);
        assert!(got.context.is_some(), "the tombstone is known");
        let never = cluster.send(2, Request::get("/v1/kv/users/nobody")).await;
        assert_eq!((never.status, never.context), (404, None));

        // Deleting what nobody saw is concurrent with a later blind write.
        let again = cluster.send(0, Request::put(KEY, "2")).await;
        assert_eq!(json(&again)["siblings"], 2);
        let both = cluster.send(1, Request::get(KEY)).await;
        assert_eq!(both.status, 300);
        assert!(text(&both).contains("\"deleted\":true"), "{}", text(&both));
        cluster.stop().await;
    });
}

#[test]
fn equal_concurrent_values_are_shown_once() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        cluster.send(0, Request::put(KEY, "7")).await;
        let twin = cluster.send(1, Request::put(KEY, "7")).await;
        assert_eq!(json(&twin)["siblings"], 2);
        let got = cluster.send(2, Request::get(KEY)).await;
        assert_eq!((got.status, text(&got)), (200, "7"));
        cluster.stop().await;
    });
}

#[test]
fn an_expired_value_is_gone() {
    story(async {
        let cluster = Cluster::start(1, |_| {}).await;
        cluster.send(0, Request::put(format!("{KEY}?ttl=1"), "1")).await;
        until("the value ends with its ttl", async || {
            let answer = cluster.send(0, Request::get(KEY)).await;
            if answer.status == 404 { Ok(()) } else { Err(answer.status.to_string()) }
        })
        .await;
        cluster.stop().await;
    });
}

#[test]
fn keys_may_hold_slashes_and_any_letters() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let target = kv_target("bücher", "a/b c?d%/ü", &[]);
        assert_eq!(cluster.send(0, Request::put(target.clone(), "1")).await.status, 200);
        assert_eq!(cluster.send(1, Request::get(target)).await.status, 200);
        let where_is = cluster.send(2, Request::get("/v1/cluster/where/b/%C3%BC/x")).await;
        assert_eq!(json(&where_is)["key"], "ü/x");
        assert_eq!(json(&where_is)["home"].as_array().unwrap().len(), 3);
        cluster.stop().await;
    });
}

#[test]
fn any_node_serves_any_key() {
    story(async {
        // Five nodes, three replicas: each key has two nodes that only forward.
        let cluster = Cluster::start(5, |_| {}).await;
        for key in 0..20 {
            let target = format!("/v1/kv/b/{key}");
            let put = cluster.send(key % 5, Request::put(target.clone(), key.to_string())).await;
            assert_eq!(put.status, 200, "{}", text(&put));
            for at in 0..5 {
                let got = cluster.send(at, Request::get(target.clone())).await;
                assert_eq!((got.status, text(&got)), (200, key.to_string().as_str()));
            }
        }
        cluster.stop().await;
    });
}

#[test]
fn a_restart_keeps_what_was_acked_and_mints_on() {
    story(async {
        let folder = tempfile::tempdir().unwrap();
        let mut context = None;
        for round in 0..4 {
            let data = folder.path().join("kept");
            let cluster = Cluster::start(1, |config| config.data.clone_from(&data)).await;
            if round > 0 {
                assert_eq!(
                    text(&cluster.send(0, Request::get(KEY)).await),
                    (round - 1).to_string()
                );
            }
            let request = Request::put(KEY, round.to_string()).with_context(context);
            let put = cluster.send(0, request).await;
            assert_eq!(json(&put)["siblings"], 1);
            context = put.context;
            cluster.stop().await;
        }
    });
}

#[test]
fn health_metrics_and_cluster_answer() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        cluster.send(0, Request::put(KEY, "1")).await;
        for path in ["/health/live", "/health/ready"] {
            assert_eq!(cluster.send(1, Request::get(path)).await.status, 200);
        }
        let metrics = cluster.send(0, Request::get("/metrics")).await;
        assert!(text(&metrics).contains("starling_writes_total 1\n"), "{}", text(&metrics));
        assert!(text(&metrics).ends_with("# EOF\n"));
        let contract = json(&cluster.send(0, Request::get("/openapi.json")).await);
        assert_eq!(contract["openapi"], "3.1.0");
        assert_eq!(
            contract["paths"]["/v1/kv/{bucket}/{key}"]["put"]["operationId"],
            "put_v1_kv_bucket_key"
        );
        let view = json(&cluster.send(0, Request::get("/v1/cluster")).await);
        let up = view["members"].as_array().unwrap().iter().filter(|m| m["status"] == "up").count();
        assert_eq!((up, &view["ring"]["n"]), (3, &3.into()));
        let ring = json(&cluster.send(2, Request::get("/v1/cluster/ring")).await);
        assert_eq!(ring["digest"], view["ring"]["digest"], "equal members, equal tables");
        assert_eq!(ring["partitions"].as_array().unwrap().len(), 64);
        cluster.stop().await;
    });
}
