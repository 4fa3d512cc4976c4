//! What a configuration file may say, and what is said about one that is wrong.

use super::*;

fn no_env() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn member(name: &str, number: u16) -> Member {
    let at = |port: u16| format!("127.0.0.1:{port}");
    Member::new(name, at(7000 + number), at(8000 + number))
}

fn three() -> Vec<Member> {
    vec![member("a", 1), member("b", 2), member("c", 3)]
}

const SMALL: &str = "
cluster: demo
node: b
members:
  - { name: a, rpc: 127.0.0.1:7001, http: 127.0.0.1:8001 }
  - { name: b, rpc: 127.0.0.1:7002, http: 127.0.0.1:8002 }
  - { name: c, rpc: 127.0.0.1:7003, http: 127.0.0.1:8003 }
";

#[test]
fn a_small_file_is_the_defaults() {
    let config = Config::from_yaml(SMALL, &no_env()).unwrap();
    assert_eq!(config, Config::new("demo", "b", three()));
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.http, "127.0.0.1:8002");
    assert_eq!(config.members[1].vnodes, 256);
    assert_eq!(config.timeouts.request_ms, 5_000);
    assert_eq!(config.limits.pair_bytes, 10_240);
}

#[test]
fn the_printed_example_is_the_defaults() {
    let config = Config::from_yaml(&fields::example(), &no_env()).unwrap();
    let mut members = three();
    for (index, member) in members.iter_mut().enumerate() {
        member.zone = format!("rack-{}", index + 1);
    }
    assert_eq!(config, Config::new("demo", "a", members));
    let uncommented = fields::example().replace("\n# http: ", "\nhttp: ");
    let uncommented = uncommented.replace("\n# rpc: ", "\nrpc: ").replace("\n# data: ", "\ndata: ");
    assert_eq!(Config::from_yaml(&uncommented, &no_env()), Ok(config));
}

const EVERY_FIELD: &str = "
cluster: c1
node: a
data: /var/lib/starling
http: 0.0.0.0:80
rpc: '[::]:81'
threads: 4
members:
  - {name: a, rpc: a.internal:81, http: a.internal:80, zone: z, vnodes: 7}
  - {name: p, rpc: p:1, http: p:2, vnodes: 0}
zone: yard
datacenter: west
vnodes: 9
seeds: 'seed.internal:81, 10.0.0.1:81'
advertise: {rpc: out:81, http: out:80}
gossip: {interval_ms: 200, fanout: 2, detector: count, missed_beats: 5, secret: hush}
hints: {bytes_max: 4096, age_s: 60}
anti_entropy: {period_ms: 5000, bytes_per_s: 1048576}
ring: {partitions: 64, vnodes: 8}
replication: {n: 1, r: one, w: 1}
timeouts:
  {request_ms: 9, request_max_ms: 60000, connect_ms: 2, header_read_ms: 3, body_read_ms: 4,
   write_ms: 8, idle_ms: 5, drain_ms: 6}
limits:
  pair_bytes: 1048576
  siblings: 7
  connections: 8
  requests_in_flight: 9
  header_bytes: 8192
  peer_queue_bytes: 65536
  peer_requests: 7
storage: {sync: interval, segment_bytes: 4096, memtable_bytes: 5000, table_bytes: 6000,
  block_bytes: 700, cache_bytes: 0, gather_us: 50}
buckets: {sessions: {conflicts: lww}, 'a.b c': {conflicts: siblings}, plain: {}}
log: {format: json, level: trace}
";

#[test]
fn every_field_can_be_set_in_the_file() {
    let config = Config::from_yaml(EVERY_FIELD, &no_env()).unwrap();
    let mut expected = Config::new("c1", "a", vec![]);
    let mut a = Member::new("a", "a.internal:81", "a.internal:80");
    (a.zone, a.vnodes) = ("z".to_owned(), 7);
    let mut p = Member::new("p", "p:1", "p:2");
    p.vnodes = 0;
    expected.members = vec![a, p];
    expected.data = PathBuf::from("/var/lib/starling");
    (expected.http, expected.rpc) = ("0.0.0.0:80".to_owned(), "[::]:81".to_owned());
    expected.threads = 4;
    (expected.zone, expected.vnodes) = ("yard".to_owned(), 9);
    expected.datacenter = "west".to_owned();
    let buckets = [("sessions", Conflicts::Lww), ("a.b c", Conflicts::Siblings)];
    expected.buckets = buckets.map(|(name, conflicts)| (name.to_owned(), conflicts)).into();
    expected.buckets.insert("plain".to_owned(), Conflicts::Siblings);
    assert_eq!(config.policies(), Policies::new(["sessions".to_owned()]));
    expected.seeds = vec!["seed.internal:81".to_owned(), "10.0.0.1:81".to_owned()];
    expected.advertise = Advertise { rpc: "out:81".to_owned(), http: "out:80".to_owned() };
    expected.gossip = Gossip {
        interval_ms: 200,
        fanout: 2,
        detector: Detector::Count(5),
        secret: "hush".to_owned(),
    };
    expected.hints = Hints { bytes_max: 4096, age_s: 60 };
    expected.anti_entropy = AntiEntropy { period_ms: 5_000, bytes_per_s: 1_048_576 };
    expected.ring = Ring { partitions: 64, vnodes: 8 };
    expected.replication = Replication { n: 1, r: Level::One, w: Level::Count(1) };
    expected.timeouts = Timeouts {
        request_ms: 9,
        request_max_ms: 60_000,
        connect_ms: 2,
        header_read_ms: 3,
        body_read_ms: 4,
        write_ms: 8,
        idle_ms: 5,
        drain_ms: 6,
    };
    expected.limits = Limits {
        vector_actors: 50,
        vector_age_s: 86_400,
        pair_bytes: 1_048_576,
        siblings: 7,
        siblings_warn: 25,
        lww_skew_ms: 86_400_000,
        connections: 8,
        requests_in_flight: 9,
        header_bytes: 8_192,
        peer_queue_bytes: 65_536,
        peer_requests: 7,
    };
    expected.storage = Storage {
        sync: Sync::Interval,
        segment_bytes: 4_096,
        memtable_bytes: 5_000,
        table_bytes: 6_000,
        block_bytes: 700,
        cache_bytes: 0,
        gather_us: 50,
    };
    expected.log = Log { format: LogFormat::Json, level: LogLevel::Trace };
    assert_eq!(config, expected);
}

#[test]
fn the_environment_overrides_single_fields() {
    let env = env(&[
        ("PATH", "/bin"),
        ("STARLING_NODE", "c"),
        ("STARLING_HTTP", "0.0.0.0:9"),
        ("STARLING_STORAGE__SYNC", "interval"),
        ("STARLING_REPLICATION__R", "3"),
        ("STARLING_MEMBERS__0__ZONE", "east"),
    ]);
    let config = Config::from_yaml(SMALL, &env).unwrap();
    let mut expected = Config::new("demo", "c", three());
    expected.http = "0.0.0.0:9".to_owned();
    expected.storage.sync = Sync::Interval;
    expected.replication.r = Level::Count(3);
    expected.members[0].zone = "east".to_owned();
    assert_eq!(config, expected);
}

#[test]
fn a_badly_broken_file_gets_every_mistake_told() {
    let text = "
clutser: demo
node: 7
http: localhost
threads: -1
members:
  - { name: a, rpc: 127.0.0.1:7001, http: 127.0.0.1:8001 }
  - { name: a, rpc: 127.0.0.1, http: 127.0.0.1:8001, zones: x }
  - b
  - { name: 'c d', rpc: 127.0.0.1:0, vnodes: 1.5 }
ring: { partitions: 1000 }
replication: { n: 3, r: most, w: 4 }
timeouts: 5
limits: { pair_bytes: 1048577 }
storage: { sync: [always] }
log: { level: verbose, colour: true }
";
    let env = env(&[
        ("STARLING_LOG__FORMAT", "xml"),
        ("STARLING_HTP", "x"),
        ("STARLING_MEMBERS__9__ZONE", "x"),
        ("STARLING_TIMEOUTS__IDLE_MS", "soon"),
    ]);
    insta::assert_snapshot!(Config::from_yaml(text, &env).unwrap_err(), @r#"
    26 mistakes in the configuration:
      STARLING_HTP: names no field; did you mean STARLING_HTTP?
      STARLING_LOG__FORMAT: found "xml"; allowed: text or json
      STARLING_MEMBERS__9__ZONE: there is no member 9; the file lists 4
      STARLING_TIMEOUTS__IDLE_MS: found "soon"; allowed: a whole number from 1 to 3600000
      clutser: no such field; did you mean cluster?
      cluster: found nothing; allowed: 1 to 64 letters, digits, "-", "_" or "."
      node: found 7 (put it in quotes); allowed: 1 to 64 letters, digits, "-", "_" or "."
      threads: found -1; allowed: a whole number from 0 to 1024
      ring.partitions: found 1000; allowed: a power of two from 1 to 65536
      members[1].zones: no such field; did you mean zone?
      members[1].rpc: found "127.0.0.1"; allowed: host:port, such as 10.0.0.5:7001
      members[2]: found "b"; allowed: name, rpc, http, zone, vnodes
      members[3].name: found "c d"; allowed: 1 to 64 letters, digits, "-", "_" or "."
      members[3].http: found nothing; allowed: host:port, such as 10.0.0.5:7001
      members[3].vnodes: found 1.5; allowed: a whole number from 0 to 4096
      http: found "localhost"; allowed: host:port, such as 10.0.0.5:7001
      replication.r: found "most"; allowed: one, quorum, all, or a number from 1 to replication.n
      timeouts: found 5; allowed: request_ms, request_max_ms, connect_ms, header_read_ms, body_read_ms, write_ms, idle_ms, drain_ms
      limits.pair_bytes: found 1048577; allowed: a whole number from 1 to 1048576
      storage.sync: found a list; allowed: always or interval
      log.colour: no such field; allowed here: format, level
      log.level: found "verbose"; allowed: error, warn, info, debug or trace
      members[1].name: another member is called "a" too
      members[1].http: 127.0.0.1:8001 is used twice among the members
      members[3].rpc: found port 0; allowed: the port that others connect to
      replication.w: found 4; allowed: at most replication.n, 3
    "#);
}

#[test]
fn buckets_are_checked_like_all_else() {
    let text = format!(
        "{SMALL}buckets: {{ a/b: {{}}, s: {{ conflict: lww }}, t: {{ conflicts: both }}, u: lww }}"
    );
    insta::assert_snapshot!(Config::from_yaml(&text, &no_env()).unwrap_err(), @r#"
    4 mistakes in the configuration:
      buckets.a/b: is no name of a bucket; allowed: 1 to 128 bytes without a slash or control characters
      buckets.s.conflict: no such field; did you mean conflicts?
      buckets.t.conflicts: found "both"; allowed: siblings or lww
      buckets.u: found "lww"; allowed: conflicts
    "#);
}

#[test]
fn rules_between_fields_are_checked() {
    let text = format!("{SMALL}replication: {{ n: 4, w: 5 }}\ntimeouts: {{ request_max_ms: 9 }}");
    let env = env(&[("STARLING_NODE", "z")]);
    insta::assert_snapshot!(Config::from_yaml(&text, &env).unwrap_err(), @r#"
    3 mistakes in the configuration:
      node: found "z"; allowed: a, b, c; or any other name with vnodes: 0, a proxy
      replication.n: found 4; allowed: at most 3, the members that own data
      timeouts.request_ms: found 5000; allowed: at most timeouts.request_max_ms, 9
    "#);
}

#[test]
fn a_cluster_can_be_found_by_gossip_instead_of_listed() {
    let base = "cluster: c\nnode: b\nrpc: 10.0.0.2:7001\nhttp: 10.0.0.2:8001\n";
    let founded = format!("{base}seeds: [10.0.0.1:7001]\nfounders: [a, b, c]\n");
    let config = Config::from_yaml(&founded, &no_env()).unwrap();
    assert_eq!(config.ring_names(), ["a", "b", "c"]);
    assert_eq!(config.own().rpc, "10.0.0.2:7001");
    let proxy = format!("{founded}vnodes: 0\n").replace("node: b", "node: p");
    assert_eq!(Config::from_yaml(&proxy, &no_env()).unwrap().own().vnodes, 0);
    let mut told = String::new();
    for text in [
        base.to_owned(),
        format!("{base}founders: [a, b]"),
        format!("{base}founders: [a, c, a]"),
        format!("{founded}members: [{{name: b, rpc: h:1, http: h:2}}]\nreplication: {{n: 1}}"),
        format!("{founded}vnodes: 0"),
        format!("{founded}http: 0.0.0.0:80").replace("http: 10.0.0.2:8001\n", ""),
    ] {
        told += &Config::from_yaml(&text, &no_env()).unwrap_err().to_string();
        told += "\n";
    }
    insta::assert_snapshot!(told, @r#"
    1 mistake in the configuration:
      members: found nothing; allowed: a list of members, each with name, rpc and http; or leave it out and list founders (names) and seeds (addresses)
    1 mistake in the configuration:
      replication.n: found 3; allowed: at most 2, the members that own data
    2 mistakes in the configuration:
      founders: "a" stands there twice
      node: found "b"; allowed: a, c, a; or any other name with vnodes: 0, a proxy
    1 mistake in the configuration:
      founders: members are listed too; allowed: one of the two
    1 mistake in the configuration:
      vnodes: found 0 for a founder; allowed: at least 1, as it owns data
    1 mistake in the configuration:
      advertise.http: found 0.0.0.0:80; allowed: an address that others can connect to
    "#);
}

#[test]
fn text_that_is_no_mapping_is_refused() {
    insta::assert_snapshot!(Config::from_yaml("a: [1", &no_env()).unwrap_err(), @r#"
    1 mistake in the configuration:
      cannot be read as YAML: unclosed bracket '[' at line 1, column 4
    "#);
    insta::assert_snapshot!(Config::from_yaml("- a", &no_env()).unwrap_err(), @r#"
    1 mistake in the configuration:
      found a list; allowed: fields, such as "node: a"
    "#);
    insta::assert_snapshot!(Config::from_yaml("node: a\nnode: b", &no_env()).unwrap_err(), @r#"
    1 mistake in the configuration:
      cannot be read as YAML: duplicate mapping key `node` is not allowed here at line 2, column 1
    "#);
    insta::assert_snapshot!(Config::from_yaml("", &no_env()).unwrap_err(), @r#"
    3 mistakes in the configuration:
      cluster: found nothing; allowed: 1 to 64 letters, digits, "-", "_" or "."
      node: found nothing; allowed: 1 to 64 letters, digits, "-", "_" or "."
      members: found nothing; allowed: a list of members, each with name, rpc and http; or leave it out and list founders (names) and seeds (addresses)
    "#);
}

#[test]
fn every_path_of_the_table_is_read() {
    for field in fields::FIELDS {
        let (group, name) = field.path.split_once('.').unwrap_or(("", field.path));
        let text = match group {
            "" => format!("{name}: [[x]]\n"),
            "members[]" => format!("members: [{{{name}: [x]}}]\n"),
            "buckets{}" => format!("buckets: {{a: {{{name}: [x]}}}}\n"),
            _ => format!("{group}: {{{name}: [x]}}\n"),
        };
        let errors = Config::from_yaml(&text, &no_env()).unwrap_err();
        let path = field.path.replace("[]", "[0]").replace("{}", ".a");
        let told = errors.mistakes.iter().filter(|mistake| mistake.path == path).count();
        assert_eq!(told, 1, "{path}: {errors}");
    }
}
