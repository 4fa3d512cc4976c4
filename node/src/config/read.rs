//! From YAML text and environment to a [`Config`]: parse into a tree, lay the environment over it,
//! then walk tree and field table together and gather every mistake. A wrong value is reported and
//! read on as its default, so that one mistake never hides another.

mod lists;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::address::HostPort;
use super::fields::{self, Default, Field, Kind};
use super::mistakes::{Mistakes, nearest};
use super::{
    Advertise, AntiEntropy, Config, ConfigErrors, Detector, Gossip, Hints, Limits, Log, LogFormat,
    LogLevel, MEMBERS_MAX, Member, Replication, Ring, Storage, Sync, Timeouts,
};
use crate::domain::quorum::Level;

const ENV_PREFIX: &str = "STARLING_";

/// See [`Config::from_yaml`].
pub(super) fn from_yaml(
    text: &str,
    env: &BTreeMap<String, String>,
) -> Result<Config, ConfigErrors> {
    let mut mistakes = Mistakes::default();
    let parsed = match serde_saphyr::from_str::<Option<Value>>(text) {
        Ok(parsed) => parsed.unwrap_or_else(|| Value::Object(Map::new())),
        Err(error) => {
            mistakes.add("", not_yaml(&error));
            return mistakes.into_result(read(&Map::new(), &mut Mistakes::default()));
        }
    };
    let Value::Object(mut tree) = parsed else {
        mistakes.add("", format!("found {}; allowed: fields, such as \"node: a\"", shown(&parsed)));
        return mistakes.into_result(read(&Map::new(), &mut Mistakes::default()));
    };
    overlay(&mut tree, env, &mut mistakes);
    let config = read(&tree, &mut mistakes);
    check(&config, &mut mistakes);
    mistakes.into_result(config)
}

/// All defaults; what has none is empty.
pub(super) fn defaults() -> Config {
    read(&Map::new(), &mut Mistakes::default())
}

/// See [`Member::new`].
pub(super) fn default_member(name: &str, rpc: String, http: String) -> Member {
    let (tree, mut unheard) = (Map::new(), Mistakes::default());
    let mut reader = Reader { tree: &tree, at: String::new(), mistakes: &mut unheard };
    Member {
        name: name.to_owned(),
        rpc,
        http,
        zone: reader.text("members[].zone"),
        vnodes: reader.number("ring.vnodes"),
    }
}

fn not_yaml(error: &serde_saphyr::Error) -> String {
    let problem =
        error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    format!("cannot be read as YAML: {}", problem.lines().next().unwrap_or("unknown problem"))
}

/// Puts the environment's values into the tree.
fn overlay(tree: &mut Map<String, Value>, env: &BTreeMap<String, String>, mistakes: &mut Mistakes) {
    for (variable, text) in env {
        let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
        let name = name.to_ascii_lowercase();
        let steps: Vec<&str> = name.split("__").collect();
        let general = match steps[..] {
            ["members", _, field] => format!("members[].{field}"),
            _ => steps.join("."),
        };
        let Some(field) = fields::find(&general) else {
            mistakes.add(variable.clone(), unknown_variable(variable));
            continue;
        };
        let number = match field.kind {
            Kind::Number { .. } | Kind::PowerOfTwo { .. } | Kind::Quorum => text.parse().ok(),
            Kind::Name
            | Kind::Path
            | Kind::Address
            | Kind::Names
            | Kind::Addresses
            | Kind::Secret
            | Kind::Choice(_) => None::<u64>,
        };
        let value = number.map_or_else(|| Value::from(text.as_str()), Value::from);
        if let Err(problem) = wrong(field.kind, &value) {
            mistakes.add(variable.clone(), problem);
            continue;
        }
        if let Err(problem) = put(tree, &steps, value) {
            mistakes.add(variable.clone(), problem);
        }
    }
}

fn unknown_variable(variable: &str) -> String {
    let spelled = |field: &Field| {
        let path = field.path.replace("[]", ".0").replace('.', "__");
        format!("{ENV_PREFIX}{}", path.to_ascii_uppercase())
    };
    // Names of buckets keep their letters, which a variable's name does not.
    let settable = fields::FIELDS.iter().filter(|field| !field.path.contains("{}"));
    let known: Vec<String> = settable.map(spelled).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match nearest(variable, &known) {
        Some(name) => format!("names no field; did you mean {name}?"),
        None => "names no field; unset it, or see starling config --example".to_owned(),
    }
}

/// Sets the value at `steps`, one, two (a section's field) or three of them (a member's field).
fn put(tree: &mut Map<String, Value>, steps: &[&str], value: Value) -> Result<(), String> {
    let section = match *steps {
        ["members", index, _] => {
            let members = tree.get_mut("members").and_then(Value::as_array_mut);
            let count = members.as_ref().map_or(0, |members| members.len());
            let entry = index.parse::<usize>().ok().and_then(|index| members?.get_mut(index));
            entry.ok_or_else(|| format!("there is no member {index}; the file lists {count}"))?
        }
        [section, _] => tree.entry(section).or_insert_with(|| Value::Object(Map::new())),
        _ => {
            tree.insert(steps.concat(), value);
            return Ok(());
        }
    };
    if section.is_null() {
        *section = Value::Object(Map::new());
    }
    // A section that is no mapping is a mistake of the file, told when it is read.
    if let (Value::Object(section), Some(name)) = (section, steps.last()) {
        section.insert((*name).to_owned(), value);
    }
    Ok(())
}

fn read(tree: &Map<String, Value>, mistakes: &mut Mistakes) -> Config {
    let empty = Map::new();
    let mut root = Reader { tree, at: String::new(), mistakes };
    root.refuse_unknown("");
    let cluster = root.text("cluster");
    let node = root.text("node");
    let data = PathBuf::from(root.text("data"));
    let threads = root.number("threads");
    let ring = {
        let mut at = root.section("ring", &empty);
        Ring { partitions: at.number("ring.partitions"), vnodes: at.number("ring.vnodes") }
    };
    let members = lists::members(&mut root, ring.vnodes);
    let own = members.iter().find(|member| member.name == node);
    let http = root.address("http", own.map(|own| &own.http));
    let rpc = root.address("rpc", own.map(|own| &own.rpc));
    let own = own.map(|own| (own.rpc.clone(), own.http.clone()));
    let (own_rpc, own_http) = own.unwrap_or_else(|| (rpc.clone(), http.clone()));
    let (zone, datacenter) = (root.text("zone"), root.text("datacenter"));
    let vnodes = match root.tree.contains_key("vnodes") {
        true => root.number("vnodes"),
        false => ring.vnodes,
    };
    let (seeds, founders) = (root.list("seeds"), root.list("founders"));
    let advertise = {
        let mut at = root.section("advertise", &empty);
        Advertise {
            rpc: at.address("advertise.rpc", Some(&own_rpc)),
            http: at.address("advertise.http", Some(&own_http)),
        }
    };
    let gossip = gossip(&mut root.section("gossip", &empty));
    let mut at = root.section("hints", &empty);
    let hints = Hints { bytes_max: at.number("hints.bytes_max"), age_s: at.number("hints.age_s") };
    let anti_entropy = anti_entropy(&mut root.section("anti_entropy", &empty));
    let replication = replication(&mut root.section("replication", &empty));
    let timeouts = timeouts(&mut root.section("timeouts", &empty));
    let limits = limits(&mut root.section("limits", &empty));
    let storage = storage(&mut root.section("storage", &empty));
    let log = log(&mut root.section("log", &empty));
    let buckets = lists::buckets(&mut root);
    Config {
        cluster,
        node,
        data,
        http,
        rpc,
        threads,
        zone,
        vnodes,
        datacenter,
        seeds,
        founders,
        members,
        advertise,
        ring,
        replication,
        gossip,
        timeouts,
        limits,
        storage,
        hints,
        anti_entropy,
        log,
        buckets,
    }
}

fn gossip(at: &mut Reader<'_>) -> Gossip {
    let phi = Detector::Phi(at.number("gossip.phi_threshold"));
    let count = Detector::Count(at.number("gossip.missed_beats"));
    Gossip {
        interval_ms: at.number("gossip.interval_ms"),
        fanout: at.number("gossip.fanout"),
        detector: match at.text("gossip.detector").as_str() {
            "count" => count,
            _ => phi,
        },
        secret: at.secret("gossip.secret"),
    }
}

fn anti_entropy(at: &mut Reader<'_>) -> AntiEntropy {
    AntiEntropy {
        period_ms: at.number("anti_entropy.period_ms"),
        bytes_per_s: at.number("anti_entropy.bytes_per_s"),
    }
}

fn replication(at: &mut Reader<'_>) -> Replication {
    Replication {
        n: at.number("replication.n"),
        r: at.quorum("replication.r"),
        w: at.quorum("replication.w"),
    }
}

fn timeouts(at: &mut Reader<'_>) -> Timeouts {
    Timeouts {
        request_ms: at.number("timeouts.request_ms"),
        request_max_ms: at.number("timeouts.request_max_ms"),
        connect_ms: at.number("timeouts.connect_ms"),
        header_read_ms: at.number("timeouts.header_read_ms"),
        body_read_ms: at.number("timeouts.body_read_ms"),
        write_ms: at.number("timeouts.write_ms"),
        idle_ms: at.number("timeouts.idle_ms"),
        drain_ms: at.number("timeouts.drain_ms"),
    }
}

fn limits(at: &mut Reader<'_>) -> Limits {
    Limits {
        pair_bytes: at.number("limits.pair_bytes"),
        siblings: at.number("limits.siblings"),
        siblings_warn: at.number("limits.siblings_warn"),
        vector_actors: at.number("limits.vector_actors"),
        vector_age_s: at.number("limits.vector_age_s"),
        lww_skew_ms: at.number("limits.lww_skew_ms"),
        connections: at.number("limits.connections"),
        requests_in_flight: at.number("limits.requests_in_flight"),
        header_bytes: at.number("limits.header_bytes"),
        peer_queue_bytes: at.number("limits.peer_queue_bytes"),
        peer_requests: at.number("limits.peer_requests"),
    }
}

fn storage(at: &mut Reader<'_>) -> Storage {
    Storage {
        sync: match at.text("storage.sync").as_str() {
            "interval" => Sync::Interval,
            _ => Sync::Always,
        },
        segment_bytes: at.number("storage.segment_bytes"),
        memtable_bytes: at.number("storage.memtable_bytes"),
        table_bytes: at.number("storage.table_bytes"),
        block_bytes: at.number("storage.block_bytes"),
        cache_bytes: at.number("storage.cache_bytes"),
        gather_us: at.number("storage.gather_us"),
    }
}

fn log(at: &mut Reader<'_>) -> Log {
    Log {
        format: match at.text("log.format").as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        level: match at.text("log.level").as_str() {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => LogLevel::Info,
        },
    }
}

/// Reads the fields of one section, at the path `at` of the file.
struct Reader<'a> {
    tree: &'a Map<String, Value>,
    at: String,
    mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    /// The section of the root called `name`; `empty` if it is missing or not a section.
    fn section<'b>(&'b mut self, name: &str, empty: &'b Map<String, Value>) -> Reader<'b> {
        let tree = match self.tree.get(name) {
            Some(Value::Object(section)) => section,
            None | Some(Value::Null) => empty,
            Some(other) => {
                let known = fields::names_in(name).join(", ");
                self.mistakes.add(name, format!("found {}; allowed: {known}", shown(other)));
                empty
            }
        };
        let mut reader = Reader { tree, at: name.to_owned(), mistakes: self.mistakes };
        reader.refuse_unknown(name);
        reader
    }

    fn refuse_unknown(&mut self, section: &str) {
        let known = fields::names_in(section);
        for name in self.tree.keys().filter(|name| !known.contains(&name.as_str())) {
            let problem = match nearest(name, &known) {
                Some(meant) => format!("no such field; did you mean {meant}?"),
                None => format!("no such field; allowed here: {}", known.join(", ")),
            };
            self.mistakes.add(self.path(name), problem);
        }
    }

    fn path(&self, name: &str) -> String {
        let name: String = name.chars().take(80).collect();
        if self.at.is_empty() { name } else { format!("{}.{name}", self.at) }
    }

    /// The field's value if the file has a right one. A wrong one is reported.
    fn value(&mut self, field: &Field) -> Option<&Value> {
        let name = field.path.rsplit('.').next().unwrap_or(field.path);
        let problem = match (self.tree.get(name), field.default) {
            (None, Default::Required) => format!("found nothing; allowed: {}", field.kind),
            (None, Default::Number(_) | Default::Text(_) | Default::SameAs(_)) => return None,
            (Some(value), _) => match wrong(field.kind, value) {
                Ok(()) => return Some(value),
                Err(problem) => problem,
            },
        };
        self.mistakes.add(self.path(name), problem);
        None
    }

    fn text(&mut self, path: &str) -> String {
        let field = known(path);
        match (self.value(field), field.default) {
            (Some(Value::String(text)), _) => text.clone(),
            (_, Default::Text(text)) => text.to_owned(),
            (_, Default::Required | Default::Number(_) | Default::SameAs(_)) => String::new(),
        }
    }

    /// The number at `path`. The table's limits keep every number within its type.
    fn number<T: TryFrom<u64> + std::default::Default>(&mut self, path: &str) -> T {
        let field = known(path);
        let number = match (self.value(field).and_then(Value::as_u64), field.default) {
            (Some(number), _) | (None, Default::Number(number)) => number,
            (None, Default::Required | Default::Text(_) | Default::SameAs(_)) => 0,
        };
        T::try_from(number).unwrap_or_default()
    }

    fn address(&mut self, path: &str, default: Option<&String>) -> String {
        let written = self.value(known(path)).and_then(Value::as_str).map(str::to_owned);
        written.or_else(|| default.cloned()).unwrap_or_else(|| "127.0.0.1:0".to_owned())
    }

    /// The texts at `path`; none by default.
    fn list(&mut self, path: &str) -> Vec<String> {
        self.value(known(path)).and_then(texts).unwrap_or_default()
    }

    fn secret(&mut self, path: &str) -> String {
        self.value(known(path)).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn quorum(&mut self, path: &str) -> Level {
        self.value(known(path)).and_then(quorum).unwrap_or(Level::Quorum)
    }
}

fn known(path: &str) -> &'static Field {
    fields::find(path).expect("every path read here stands in the field table")
}

fn quorum(value: &Value) -> Option<Level> {
    match value.as_str() {
        Some("one") => Some(Level::One),
        Some("quorum") => Some(Level::Quorum),
        Some("all") => Some(Level::All),
        Some(_) => None,
        None => {
            let count = u8::try_from(value.as_u64()?).ok()?;
            (count > 0).then_some(Level::Count(count))
        }
    }
}

/// A list of texts, written as one or separated by commas.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(
            text.split(',').map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect(),
        ),
        Value::Array(list) => list.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// True for at most [`MEMBERS_MAX`] texts that are all `right`.
fn all_are(value: &Value, right: impl Fn(&str) -> bool) -> bool {
    texts(value).is_some_and(|list| list.len() <= MEMBERS_MAX && list.iter().all(|t| right(t)))
}

/// Says what is wrong with `value` as a `kind`, if anything is.
fn wrong(kind: Kind, value: &Value) -> Result<(), String> {
    let right = match kind {
        Kind::Name => value.as_str().is_some_and(is_name),
        Kind::Path => value.as_str().is_some_and(|text| !text.is_empty() && !text.contains('\0')),
        Kind::Address => value.as_str().is_some_and(|text| text.parse::<HostPort>().is_ok()),
        Kind::Number { min, max } => value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::PowerOfTwo { min, max } => {
            value.as_u64().is_some_and(|n| (min..=max).contains(&n) && n.is_power_of_two())
        }
        Kind::Quorum => quorum(value).is_some(),
        Kind::Names => all_are(value, is_name),
        Kind::Addresses => all_are(value, |text| text.parse::<HostPort>().is_ok()),
        Kind::Secret => value.as_str().is_some_and(|text| text.len() <= 256),
        Kind::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
    };
    if right {
        return Ok(());
    }
    let quote =
        matches!(kind, Kind::Name | Kind::Path) && (value.is_number() || value.is_boolean());
    let hint = if quote { " (put it in quotes)" } else { "" };
    Err(format!("found {}{hint}; allowed: {kind}", shown(value)))
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

/// A value for a message, cut short.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a section".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// See [`Config::check`].
pub(super) fn check(config: &Config, mistakes: &mut Mistakes) {
    let Config { members, replication, .. } = config;
    check_members(members, mistakes);
    check_place(config, mistakes);
    let owners = match members.is_empty() {
        true => config.founders.len(),
        false => members.iter().filter(|member| member.vnodes > 0).count(),
    };
    let n = replication.n;
    let known = !mistakes.under("members") && !mistakes.under("founders");
    if owners < usize::from(n) && known && !mistakes.under("replication.n") {
        let problem = format!("found {n}; allowed: at most {owners}, the members that own data");
        mistakes.add("replication.n", problem);
    }
    for (path, quorum) in [("replication.r", replication.r), ("replication.w", replication.w)] {
        if quorum.of(n).is_err() && !mistakes.under("replication.n") {
            mistakes.add(path, format!("found {quorum}; allowed: at most replication.n, {n}"));
        }
    }
    let (default, most) = (config.timeouts.request_ms, config.timeouts.request_max_ms);
    if default > most && !mistakes.under("timeouts") {
        let problem = format!("found {default}; allowed: at most timeouts.request_max_ms, {most}");
        mistakes.add("timeouts.request_ms", problem);
    }
}

/// The ring is made of members or of founders, and this node is one of them or a proxy.
fn check_place(config: &Config, mistakes: &mut Mistakes) {
    if mistakes.under("members") || mistakes.under("founders") {
        return;
    }
    let Config { node, members, founders, .. } = config;
    if members.is_empty() && founders.is_empty() {
        let problem = "found nothing; allowed: a list of members, each with name, rpc and http; or \
                       leave it out and list founders (names) and seeds (addresses)";
        mistakes.add("members", problem);
        return;
    }
    if !members.is_empty() && !founders.is_empty() {
        mistakes.add("founders", "members are listed too; allowed: one of the two");
        return;
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = founders.iter().find(|name| !seen.insert(*name)) {
        mistakes.add("founders", format!("{twice:?} stands there twice"));
    }
    if mistakes.under("node") {
        return;
    }
    let names = config.ring_names();
    if !names.contains(&node.as_str()) && config.vnodes > 0 {
        let names = names.join(", ");
        let problem =
            format!("found {node:?}; allowed: {names}; or any other name with vnodes: 0, a proxy");
        mistakes.add("node", problem);
    }
    if names.contains(&node.as_str()) && members.is_empty() && config.vnodes == 0 {
        mistakes.add("vnodes", "found 0 for a founder; allowed: at least 1, as it owns data");
    }
    for (path, address) in
        [("advertise.rpc", &config.advertise.rpc), ("advertise.http", &config.advertise.http)]
    {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        if matches!(host, "0.0.0.0" | "[::]") && members.is_empty() {
            let problem =
                format!("found {address}; allowed: an address that others can connect to");
            mistakes.add(path, problem);
        }
    }
}

/// No two members share a name or an address, and each can be connected to.
fn check_members(members: &[Member], mistakes: &mut Mistakes) {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (index, member) in members.iter().enumerate() {
        let at = format!("members[{index}]");
        if mistakes.at(&at) {
            continue;
        }
        let name_at = format!("{at}.name");
        if !names.insert(&member.name) && !mistakes.at(&name_at) {
            mistakes.add(name_at, format!("another member is called {:?} too", member.name));
        }
        for (field, address) in [("rpc", &member.rpc), ("http", &member.http)] {
            let path = format!("{at}.{field}");
            if mistakes.at(&path) {
                continue;
            }
            if address.ends_with(":0") {
                mistakes.add(path, "found port 0; allowed: the port that others connect to");
            } else if !addresses.insert(address) {
                mistakes.add(path, format!("{address} is used twice among the members"));
            }
        }
    }
}
