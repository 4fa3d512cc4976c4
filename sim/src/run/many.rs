//! Clients that ask for many keys at once. In the history each key has an operation of its own, so every check of
//! single requests holds for batches and listings too.
//!
//! A listing is a strict read of each key of the tag that its pages cover; a key that it passes over is deleted or
//! unknown to R replicas. What it shows of a key that nobody writes, twice, or out of order is strange.

use serde::Deserialize;
use serde_json::value::RawValue;
use starling::client::{Request, Response};

use crate::history::{Got, Kind, Outcome};
use crate::plan::{NodeNo, Operation};

use super::client::{Ask, Session};

/// Pages of a listing at the most.
const PAGES_MAX: usize = 20;

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next: Option<String>,
}

/// One result, or one item, as far as it differs from a single answer.
#[derive(Deserialize)]
struct One<'a> {
    key: Option<String>,
    status: Option<u16>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    context: Option<String>,
}

impl Session {
    /// Sends all of them at once, with the default quorums.
    pub(super) async fn batch(&mut self, operations: &[Operation]) {
        let asks: Vec<Ask> = operations
            .iter()
            .map(|operation| Ask { level: None, sloppy: None, ..self.ask(operation) })
            .collect();
        let node = operations[0].node;
        let ids: Vec<_> = asks.iter().map(|ask| self.begin(ask, node, None)).collect();
        let ops: Vec<String> = asks.iter().map(operation_json).collect();
        let target = format!("/v1/batch?timeout_ms={}", self.manners.patience_ms);
        let mut request = Request::new(hyper::Method::POST, target);
        request.body = format!("{{\"ops\":[{}]}}", ops.join(",")).into();
        let heard = self.send(node, request).await;
        let results = match &heard {
            Ok(response) if response.status == 200 => {
                serde_json::from_slice::<Results<'_>>(&response.body).ok().map(|all| all.results)
            }
            Ok(_) | Err(_) => None,
        };
        for (at, (id, ask)) in ids.into_iter().zip(&asks).enumerate() {
            let single = results.as_ref().map(|results| Ok(single(results[at], None)));
            self.end(id, ask, single.as_ref().unwrap_or(&heard));
        }
    }

    /// Lists the keys of the tag of `operation`, page by page.
    pub(super) async fn list(
        &mut self,
        operation: &Operation,
        limit: u64,
        reverse: bool,
        end_ns: u64,
    ) {
        let (bucket, name) = operation.key.split_once('/').unwrap_or_default();
        let Some((tag, _)) = name.split_once('}') else { return };
        let prefix = format!("{bucket}/{tag}}}");
        let mut keys = self.plan.keys();
        keys.retain(|key| key.starts_with(&prefix));
        keys.sort_unstable();
        if reverse {
            keys.reverse();
        }
        let asks: Vec<Ask> = keys
            .into_iter()
            .map(|key| Ask { key, sloppy: Some(false), ..self.ask(operation) })
            .collect();
        let mut from = 0;
        let mut start = String::new();
        for _ in 0..PAGES_MAX {
            if starling_world::now() >= end_ns || from == asks.len() {
                return;
            }
            let level = asks[0].level.map(|level| format!("&r={level}")).unwrap_or_default();
            let target = format!(
                "/v1/kv/{bucket}?prefix={}}}&limit={limit}&reverse={reverse}&timeout_ms={}{level}{start}",
                tag, self.manners.patience_ms
            );
            let request = Request::get(target.replace('{', "%7B").replace('}', "%7D"));
            let Some((through, next)) = self.page(&asks[from..], operation.node, request).await
            else {
                return;
            };
            let Some(next) = next else { return };
            from += through;
            start = format!("&start={next}");
        }
    }

    /// One page that may cover `asks`: how many it covered, and where the next begins. `None`: there is no page.
    async fn page(
        &mut self,
        asks: &[Ask],
        node: NodeNo,
        request: Request,
    ) -> Option<(usize, Option<String>)> {
        let ids: Vec<_> = asks.iter().map(|ask| self.begin(ask, node, None)).collect();
        let heard = self.send(node, request).await;
        let page = match &heard {
            Ok(response) if response.status == 200 => {
                serde_json::from_slice::<Page<'_>>(&response.body).ok()
            }
            Ok(_) | Err(_) => None,
        };
        let Some(page) = page else {
            for (id, ask) in ids.into_iter().zip(asks) {
                self.end(id, ask, &heard);
            }
            return None;
        };
        let name = |ask: &Ask| ask.key.split_once('/').unwrap_or_default().1.to_owned();
        let through = match &page.next {
            None => asks.len(),
            Some(next) => asks.iter().position(|ask| name(ask) == *next).map_or(0, |at| at + 1),
        };
        let mut items = page.items.into_iter().peekable();
        for (at, (id, ask)) in ids.into_iter().zip(asks).enumerate() {
            let is_next = |item: &&RawValue| one(item).key.as_deref() == Some(&*name(ask));
            if at >= through {
                // It is left to the next page, so this one says nothing of it.
                self.recorder.end(id, Outcome::Refused { status: Some(404) });
            } else if let Some(item) = items.next_if(is_next) {
                self.end(id, ask, &Ok(single(item, Some(200))));
            } else {
                let mut got = Got { passed_over: true, ..Got::default() };
                if at + 1 == through {
                    got.strange = items.by_ref().map(|item| item.get().to_owned()).collect();
                }
                self.recorder.end(id, Outcome::Got(got));
            }
        }
        Some((through, page.next))
    }
}

fn one(json: &RawValue) -> One<'_> {
    serde_json::from_str(json.get()).unwrap_or(One {
        key: None,
        status: None,
        value: None,
        context: None,
    })
}

/// A result as the answer to a single request. `status` is that of an item, which has none.
fn single(json: &RawValue, status: Option<u16>) -> Response {
    let One { status: own, value, context, .. } = one(json);
    let shown = if value.is_some() { 200 } else { 300 };
    let status = own.unwrap_or(status.map_or(500, |_| shown));
    let body = match value {
        Some(value) => value.get().to_owned(),
        None => json.get().to_owned(),
    };
    Response { status, context, retry_after: None, content_type: None, body: body.into() }
}

fn operation_json(ask: &Ask) -> String {
    let (bucket, name) = ask.key.split_once('/').unwrap_or_default();
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let context = ask.context.as_ref();
    let context = context.map(|received| format!(",\"context\":{}", text(&received.token)));
    let key = format!("\"bucket\":{},\"key\":{}", text(bucket), text(name));
    let context = context.unwrap_or_default();
    match ask.kind {
        Kind::Get => format!("{{\"get\":{{{key}}}}}"),
        Kind::Put { .. } => {
            let value = String::from_utf8_lossy(&ask.body);
            let ttl = ask.ttl_s.map(|seconds| format!(",\"ttl\":{seconds}")).unwrap_or_default();
            format!("{{\"put\":{{{key},\"value\":{value}{context}{ttl}}}}}")
        }
        Kind::Delete => format!("{{\"delete\":{{{key}{context}}}}}"),
    }
}
