//! `/openapi.json`: the HTTP contract for machines, made from the table of routes that is served.
//!
//! OpenAPI 3.1. A path may hold slashes in its last part, which the format has no word for: the parameter's description says so.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use super::routes::{ROUTES, Route};

/// Where it is served.
pub const PATH: &str = "/openapi.json";

/// The description.
pub async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], format!("{:#}\n", description()))
}

fn description() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        // `{*key}` is `{key}` here.
        let path = paths.entry(route.path.replace("{*", "{")).or_insert_with(|| json!({}));
        path[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Starling",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A replicated key-value store",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {"Problem": problem()}},
    })
}

fn operation(route: &Route) -> Value {
    let mut responses = Map::new();
    for (status, meaning) in route.answers {
        let mut answer = json!({"description": meaning});
        if route.contexts {
            let about = "covers what the answer shows: send it with the next write of the key";
            answer["headers"] =
                json!({"Causal-Context": {"description": about, "schema": {"type": "string"}}});
        }
        responses.insert(status.to_string(), answer);
    }
    for status in route.problems {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        let answer = json!({
            "description": "the problem, and what to do",
            "content": {"application/problem+json": {"schema": schema}},
        });
        responses.insert(status.to_string(), answer);
    }
    let mut operation = json!({
        "summary": route.summary, "operationId": id(route),
        "parameters": parameters(route), "responses": responses,
    });
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "required": true, "description": body, "content": {"application/json": {"schema": {}}},
        });
    }
    operation
}

/// A name for the operation that no other has: the method and the words of the path.
fn id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    std::iter::once(route.method)
        .chain(words.filter(|word| !word.is_empty()))
        .collect::<Vec<_>>()
        .join("_")
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    for part in route.path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            continue;
        };
        let about = match name.starts_with('*') {
            true => "the rest of the path, percent-encoded; it may hold slashes",
            false => "percent-encoded",
        };
        parameters.push(json!({
            "name": name.trim_start_matches('*'), "in": "path", "required": true, "description": about,
            "schema": {"type": "string"},
        }));
    }
    for name in route.query.split(", ").filter(|name| !name.is_empty()) {
        let (about, schema) = meaning(name);
        let needed = name == "prefix";
        parameters.push(json!({
            "name": name, "in": "query", "required": needed, "description": about, "schema": schema,
        }));
    }
    if route.contexts {
        parameters.push(json!({
            "name": "Causal-Context", "in": "header", "required": false,
            "description": "the token of the last answer about this key; a write replaces what it covers",
            "schema": {"type": "string"},
        }));
    }
    parameters
}

/// What a query parameter is for, and what it may be.
fn meaning(name: &str) -> (&'static str, Value) {
    let number = || json!({"type": "integer", "minimum": 0});
    let text = || json!({"type": "string"});
    match name {
        "r" => ("replicas that must answer: one, quorum, all or a number", text()),
        "w" => ("replicas that must ack: one, quorum, all or a number", text()),
        "sloppy" => ("whether fallbacks count", json!({"type": "boolean", "default": true})),
        "timeout_ms" => ("milliseconds until the answer is given up", number()),
        "ttl" => ("seconds until the value is gone", number()),
        "limit" => ("things on a page", number()),
        "reverse" => ("from the last to the first", json!({"type": "boolean", "default": false})),
        "prefix" => ("what the keys begin with; it holds one {tag} whole", text()),
        "start" => ("the next of the page before", text()),
        "after" => ("the next of the page before: bucket/key", text()),
        "bucket" => ("of this bucket alone", text()),
        "partition" => ("this one alone", number()),
        _ => ("", text()),
    }
}

/// RFC 9457.
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "status", "detail"],
        "properties": {
            "type": {"type": "string", "description": "stable: what kind of problem it is"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "one sentence, with what to do"},
        },
        "additionalProperties": true,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_and_parameter_is_told_once() {
        let ids: BTreeSet<String> = ROUTES.iter().map(id).collect();
        assert_eq!(ids.len(), ROUTES.len());
        for route in ROUTES {
            for name in route.query.split(", ").filter(|name| !name.is_empty()) {
                assert!(!meaning(name).0.is_empty(), "{}: nobody says what {name} is", route.path);
            }
        }
        let all = description();
        let count = |path: &Value| path.as_object().map_or(0, Map::len);
        let told: usize =
            all["paths"].as_object().map_or(0, |paths| paths.values().map(count).sum());
        assert_eq!(told, ROUTES.len());
        insta::assert_snapshot!(format!("{:#}", all["paths"]["/v1/kv/{bucket}/{key}"]["delete"]));
    }
}
