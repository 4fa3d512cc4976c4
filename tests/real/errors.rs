//! What the HTTP contract says when a request is wrong, or cannot be met.

use hyper::Method;
use starling::client::{Request, Response};

use super::cluster::{Cluster, json, story, text};

const KEY: &str = "/v1/kv/users/ada";

/// One line for a snapshot: status, content type, what else matters, and the body.
fn line(response: &Response) -> String {
    let retry = response.retry_after.map_or(String::new(), |s| format!(" retry-after={s}"));
    let kind = response.content_type.as_deref().unwrap_or("-");
    format!("{} {kind}{retry}\n{}", response.status, text(response))
}

#[test]
fn bad_requests_say_what_to_do() {
    story(async {
        let cluster = Cluster::start(1, |config| config.limits.pair_bytes = 64).await;
        let get = |target: &str| Request::get(target.to_owned());
        let put = |body: &str| Request::put(KEY, body.to_owned());
        let cases = [
            ("not json", put("{\"a\":\n  x}")),
            ("empty body", put("")),
            ("too large", put(&format!("\"{}\"", "x".repeat(64)))),
            ("unknown parameter", get(&format!("{KEY}?w=1"))),
            ("bad level", get(&format!("{KEY}?r=4"))),
            ("bad word", get(&format!("{KEY}?r=most"))),
            ("bad timeout", get(&format!("{KEY}?timeout_ms=0"))),
            ("bad context", put("1").with_context(Some("nonsense".into()))),
            ("no key", get("/v1/kv/users")),
            ("long key", get(&format!("/v1/kv/users/{}", "k".repeat(1025)))),
            ("no route", get("/v2/kv")),
            ("wrong method", Request::new(Method::POST, KEY)),
        ];
        let mut seen = String::new();
        for (name, request) in cases {
            let answer = cluster.send(0, request).await;
            seen.push_str(&format!("# {name}\n{}\n", line(&answer)));
        }
        insta::assert_snapshot!(seen);
        let nothing = cluster.send(0, Request::get(KEY)).await;
        assert_eq!(nothing.status, 404, "nothing was stored by a refused request");
        cluster.stop().await;
    });
}

#[test]
fn a_context_of_another_key_is_refused() {
    story(async {
        let cluster = Cluster::start(1, |_| {}).await;
        let other = cluster.send(0, Request::put("/v1/kv/users/bob", "1")).await;
        let answer = cluster.send(0, Request::put(KEY, "1").with_context(other.context)).await;
        assert_eq!((answer.status, &json(&answer)["type"]), (400, &"bad-context".into()));
        cluster.stop().await;
    });
}

#[test]
fn siblings_over_the_limit_are_refused_with_the_context_that_resolves_them() {
    story(async {
        let cluster = Cluster::start(1, |config| config.limits.siblings = 3).await;
        for value in 0..3 {
            assert_eq!(cluster.send(0, Request::put(KEY, value.to_string())).await.status, 200);
        }
        let refused = cluster.send(0, Request::put(KEY, "3")).await;
        assert_eq!((refused.status, &json(&refused)["limit"]), (409, &3.into()));
        let resolved = cluster.send(0, Request::put(KEY, "4").with_context(refused.context)).await;
        assert_eq!((resolved.status, &json(&resolved)["siblings"]), (200, &1.into()));
        cluster.stop().await;
    });
}

#[test]
fn a_quorum_that_cannot_be_met_says_what_it_has() {
    story(async {
        let mut cluster = Cluster::start(3, |_| {}).await;
        for node in cluster.nodes.drain(1..) {
            node.stop().await;
        }
        let put = cluster.send(0, Request::put(KEY, "1")).await;
        let get = cluster.send(0, Request::get(KEY)).await;
        insta::assert_snapshot!(format!("{}\n{}", line(&put), line(&get)), @r#"
        503 application/problem+json retry-after=1
        {"detail":"1 of 2 required replicas answered, and no more can be reached now: try again","hinted":0,"outcome":"unknown","received":1,"required":2,"status":503,"title":"Service Unavailable","type":"quorum-unmet"}
        503 application/problem+json retry-after=1
        {"detail":"1 of 2 required replicas answered, and no more can be reached now: try again","hinted":0,"outcome":"unknown","received":1,"required":2,"status":503,"title":"Service Unavailable","type":"quorum-unmet"}
        "#);
        let one = cluster.send(0, Request::get(format!("{KEY}?r=one"))).await;
        assert_eq!(one.status, 200, "the write lives on where it was stored");
        cluster.stop().await;
    });
}

#[test]
fn over_capacity_is_refused_before_any_work() {
    story(async {
        let cluster = Cluster::start(1, |config| config.limits.requests_in_flight = 0).await;
        let answer = cluster.send(0, Request::put(KEY, "1")).await;
        insta::assert_snapshot!(line(&answer), @r#"
        503 application/problem+json retry-after=1
        {"detail":"the node is over capacity and did nothing: try again after the time in Retry-After","status":503,"title":"Service Unavailable","type":"over-capacity"}
        "#);
        assert_eq!(cluster.send(0, Request::get("/health/live")).await.status, 200);
        cluster.stop().await;
    });
}
