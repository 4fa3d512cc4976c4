//! The parts of a file that hold any number of entries: members and buckets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Reader, default_member, shown};
use crate::config::{BUCKETS_MAX, Conflicts, MEMBERS_MAX, Member};
use crate::domain::key::BUCKET_BYTES_MAX;

pub(super) fn members(root: &mut Reader<'_>, vnodes_default: u32) -> Vec<Member> {
    let allowed = format!("a list of 1 to {MEMBERS_MAX} members, each with name, rpc and http");
    let list = match root.tree.get("members") {
        Some(Value::Array(list)) if (1..=MEMBERS_MAX).contains(&list.len()) => list.as_slice(),
        Some(Value::Array(list)) => {
            let found = list.len();
            root.mistakes.add("members", format!("found {found} members; allowed: {allowed}"));
            &[]
        }
        Some(other) => {
            let found = shown(other);
            root.mistakes.add("members", format!("found {found}; allowed: {allowed}"));
            &[]
        }
        None => &[],
    };
    let mut members = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let at = format!("members[{index}]");
        let Value::Object(tree) = entry else {
            let found = shown(entry);
            root.mistakes.add(at, format!("found {found}; allowed: name, rpc, http, zone, vnodes"));
            // Holds the place, so that the rules between fields count members as the file does.
            members.push(default_member("", String::new(), String::new()));
            continue;
        };
        let mut reader = Reader { tree, at, mistakes: root.mistakes };
        reader.refuse_unknown("members[]");
        members.push(Member {
            name: reader.text("members[].name"),
            rpc: reader.address("members[].rpc", None),
            http: reader.address("members[].http", None),
            zone: reader.text("members[].zone"),
            vnodes: match tree.contains_key("vnodes") {
                true => reader.number("members[].vnodes"),
                false => vnodes_default,
            },
        });
    }
    members
}

/// The buckets that are named. What stands there of a bucket with a mistake is its default.
pub(super) fn buckets(root: &mut Reader<'_>) -> BTreeMap<String, Conflicts> {
    let allowed = format!("up to {BUCKETS_MAX} buckets, such as sessions: {{ conflicts: lww }}");
    let named = match root.tree.get("buckets") {
        Some(Value::Object(named)) if named.len() <= BUCKETS_MAX => named,
        Some(Value::Object(named)) => {
            let found = named.len();
            root.mistakes.add("buckets", format!("found {found} buckets; allowed: {allowed}"));
            return BTreeMap::new();
        }
        Some(Value::Null) | None => return BTreeMap::new(),
        Some(other) => {
            let found = shown(other);
            root.mistakes.add("buckets", format!("found {found}; allowed: {allowed}"));
            return BTreeMap::new();
        }
    };
    let mut buckets = BTreeMap::new();
    for (name, entry) in named {
        let at = format!("buckets.{name}");
        if name.is_empty()
            || name.len() > BUCKET_BYTES_MAX
            || name.chars().any(|c| c == '/' || c.is_control())
        {
            let problem = format!(
                "is no name of a bucket; allowed: 1 to {BUCKET_BYTES_MAX} bytes without a slash or control characters"
            );
            root.mistakes.add(at, problem);
            continue;
        }
        let Value::Object(tree) = entry else {
            let found = shown(entry);
            root.mistakes.add(at, format!("found {found}; allowed: conflicts"));
            continue;
        };
        let mut reader = Reader { tree, at, mistakes: root.mistakes };
        reader.refuse_unknown("buckets{}");
        let conflicts = match reader.text("buckets{}.conflicts").as_str() {
            "lww" => Conflicts::Lww,
            _ => Conflicts::Siblings,
        };
        buckets.insert(name.clone(), conflicts);
    }
    buckets
}
