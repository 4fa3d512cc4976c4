//! Many keys at once: keys in conflict, buckets where the last write wins, batches, listings.

use starling::client::Request;
use starling::config::Conflicts;

use super::cluster::{Cluster, json, story};

#[test]
fn each_key_in_conflict_is_named_once_by_all_nodes_together() {
    story(async {
        let cluster = Cluster::start(3, |_| {}).await;
        for key in 0..40 {
            for value in 0..=key % 3 {
                let put = Request::put(format!("/v1/kv/b{}/k{key}", key % 2), value.to_string());
                assert_eq!(cluster.send(value, put).await.status, 200);
            }
        }
        // Two values or more, in the bucket of odd keys.
        let wanted = (0..40).filter(|key| key % 3 > 0 && key % 2 == 1);
        let wanted: Vec<String> = wanted.map(|key| format!("k{key}")).collect();
        let mut named = Vec::new();
        for node in 0..3 {
            let mut after = String::new();
            loop {
                let target = format!("/v1/cluster/conflicts?bucket=b1&limit=2{after}");
                let page = json(&cluster.send(node, Request::get(target)).await);
                let conflicts = page["conflicts"].as_array().unwrap();
                assert!(conflicts.len() <= 2);
                for conflict in conflicts {
                    assert_eq!(conflict["bucket"], "b1");
                    assert!(conflict["siblings"].as_u64() >= Some(2), "{conflict}");
                    named.push(conflict["key"].as_str().unwrap().to_owned());
                }
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={}", next.replace('/', "%2F"));
            }
        }
        named.sort_unstable();
        let mut wanted = wanted;
        wanted.sort_unstable();
        assert_eq!(named, wanted);
        for wrong in ["limit=0", "limit=1001", "after=b", "colour=red"] {
            let target = format!("/v1/cluster/conflicts?{wrong}");
            assert_eq!(cluster.send(0, Request::get(target)).await.status, 400, "{wrong}");
        }
        cluster.stop().await;
    });
}

#[test]
fn where_the_last_write_wins_a_later_one_does_and_siblings_are_never_shown() {
    story(async {
        let lww = ("sessions".to_owned(), Conflicts::Lww);
        let cluster = Cluster::start(3, |config| config.buckets.extend([lww.clone()])).await;
        let key = "/v1/kv/sessions/ada";
        for value in 0..9 {
            let put = cluster.send(value % 3, Request::put(key, value.to_string())).await;
            assert_eq!((put.status, &json(&put)["siblings"]), (200, &1.into()));
        }
        let read = cluster.send(0, Request::get(format!("{key}?r=all"))).await;
        assert_eq!(read.status, 200);
        let put = Request::put(key, "10").with_context(read.context);
        let put = cluster.send(1, put).await;
        let read = cluster.send(2, Request::get(key)).await;
        assert_eq!((read.status, &read.body[..]), (200, &b"10"[..]));
        let gone = cluster.send(2, Request::delete(key).with_context(put.context)).await;
        assert_eq!(gone.status, 200);
        assert_eq!(cluster.send(0, Request::get(key)).await.status, 404);
        // Another bucket keeps its siblings.
        for (node, value) in ["1", "2"].into_iter().enumerate() {
            cluster.send(node, Request::put("/v1/kv/carts/ada", value)).await;
        }
        assert_eq!(cluster.send(0, Request::get("/v1/kv/carts/ada?r=all")).await.status, 300);
        cluster.stop().await;
    });
}

#[test]
fn a_batch_answers_each_operation_as_if_it_had_come_alone() {
    story(async {
        let cluster = Cluster::start(3, |config| config.limits.pair_bytes = 64).await;
        let post = |body: String| {
            let mut request = Request::new(hyper::Method::POST, "/v1/batch");
            request.body = body.into();
            request
        };
        let put = |key: &str, value: &str| {
            format!(r#"{{"put":{{"bucket":"b","key":"{key}","value":{value}}}}}"#)
        };
        let get = |key: &str| format!(r#"{{"get":{{"bucket":"b","key":"{key}"}}}}"#);
        let batch = |ops: &[String]| post(format!("{{\"ops\":[{}]}}", ops.join(",")));
        let statuses = |answer: &serde_json::Value| -> Vec<u64> {
            let results = answer["results"].as_array().unwrap().iter();
            results.map(|result| result["status"].as_u64().unwrap()).collect()
        };

        let long = format!("\"{}\"", "x".repeat(64));
        let ops =
            [put("a", "{ \"x\": 1.0e0 }"), put("b", "2"), put("", "3"), put("c", &long), get("d")];
        let first = json(&cluster.send(0, batch(&ops)).await);
        assert_eq!(statuses(&first), [200, 200, 400, 413, 404], "{first}");
        let context = first["results"][0]["context"].as_str().unwrap().to_owned();
        assert_eq!(first["results"][0]["acks"]["required"], 2);
        assert_eq!(first["results"][4]["type"], "no-such-key");

        // What is stored is byte for byte what was sent, alone or in a batch.
        let alone = cluster.send(1, Request::get("/v1/kv/b/a")).await;
        assert_eq!(&alone.body[..], b"{ \"x\": 1.0e0 }");
        let delete = r#"{"delete":{"bucket":"b","key":"a","context":"TOKEN"}}"#;
        let wrong = delete.replace("TOKEN", "nonsense");
        let ops = [delete.replace("TOKEN", &context), wrong, put("b", "4"), get("b")];
        let second = json(&cluster.send(2, batch(&ops[..3])).await);
        assert_eq!(statuses(&second), [200, 400, 200], "{second}");
        let third = cluster.send(0, batch(&[get("a"), get("b")])).await;
        let text = String::from_utf8_lossy(&third.body).into_owned();
        let third = json(&third);
        assert_eq!(statuses(&third), [404, 300], "{text}");
        assert!(third["results"][0]["context"].is_string(), "a tombstone's: {text}");
        assert_eq!(third["results"][1]["siblings"].as_array().unwrap().len(), 2);

        let many = vec![get("a"); 1_001];
        for (status, request) in [
            (413, batch(&many)),
            (400, post("{\"ops\":[{\"fly\":{}}]}".into())),
            (400, post("[".into())),
            (413, post(" ".repeat((8 << 20) + 1))),
            (405, Request::get("/v1/batch")),
        ] {
            assert_eq!(cluster.send(0, request).await.status, status);
        }
        let all = json(&cluster.send(0, batch(&many[1..])).await);
        assert_eq!(all["results"].as_array().unwrap().len(), 1_000);
        cluster.stop().await;
    });
}

#[test]
fn the_keys_of_a_tag_are_listed_in_order_page_by_page() {
    story(async {
        let small = |config: &mut starling::config::Config| config.storage.memtable_bytes = 4096;
        let cluster = Cluster::start(3, small).await;
        let name = |at: usize| format!("{{user:1}}/order/{at:03}");
        let target = |key: &str| starling::client::kv_target("shop", key, &[]);
        for at in 0..60 {
            let put = Request::put(target(&name(at)), format!("\"{at} {}\"", "x".repeat(200)));
            assert_eq!(cluster.send(at % 3, put).await.status, 200);
        }
        cluster.send(0, Request::put(target("{user:1}/other"), "1")).await;
        cluster.send(0, Request::put(target("{user:2}/order/1"), "1")).await;
        let gone = cluster.send(0, Request::get(target(&name(7)))).await;
        cluster.send(1, Request::delete(target(&name(7))).with_context(gone.context)).await;
        cluster.send(2, Request::put(target(&name(8)), "2")).await;

        let wanted: Vec<String> = (0..60).filter(|at| *at != 7).map(name).collect();
        for reverse in [false, true] {
            let mut listed = Vec::new();
            let mut start = String::new();
            loop {
                let page = format!(
                    "/v1/kv/shop?prefix=%7Buser:1%7D/order/&limit=7&reverse={reverse}&r=all{start}"
                );
                let page = cluster.send(listed.len() % 3, Request::get(page)).await;
                assert_eq!(page.status, 200);
                let page = json(&page);
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= 7);
                for item in items {
                    let key = item["key"].as_str().unwrap().to_owned();
                    assert!(item["context"].is_string());
                    let siblings = item["siblings"].as_array().map(Vec::len);
                    assert_eq!(siblings, (key == name(8)).then_some(2), "{item}");
                    listed.push(key);
                }
                let Some(next) = page["next"].as_str() else { break };
                start = format!("&start={}", next.replace('{', "%7B").replace('}', "%7D"));
            }
            if reverse {
                listed.reverse();
            }
            assert_eq!(listed, wanted, "reverse={reverse}");
        }
        for (wrong, kind) in [
            ("", "bad-prefix"),
            ("?prefix=a", "bad-prefix"),
            ("?prefix=%7Ba", "bad-prefix"),
            ("?prefix=%7Ba%7D&start=b", "bad-parameter"),
            ("?prefix=%7Ba%7D&limit=1001", "bad-parameter"),
            ("?prefix=%7Ba%7D&w=1", "unknown-parameter"),
        ] {
            let refused = cluster.send(0, Request::get(format!("/v1/kv/shop{wrong}"))).await;
            assert_eq!((refused.status, &json(&refused)["type"]), (400, &kind.into()), "{wrong}");
        }
        assert_eq!(cluster.send(0, Request::put("/v1/kv/shop", "1")).await.status, 405);
        cluster.stop().await;
    });
}
