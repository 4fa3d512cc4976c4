//! What `get`, `put` and `delete` say, and where.

use super::*;

fn at(json: bool) -> KeyArgs {
    KeyArgs {
        bucket: "b".to_owned(),
        key: "k/1".to_owned(),
        node: "http://h:1".parse().unwrap(),
        sloppy: Some(false),
        timeout_ms: Some(9),
        json,
    }
}

fn answer(status: u16, body: &'static str, context: Option<&str>) -> Response {
    let body = Bytes::from_static(body.as_bytes());
    let context = context.map(str::to_owned);
    Response { status, context, retry_after: None, content_type: None, body }
}

fn said(said: Result<Said, Failure>) -> (String, String, Exit) {
    let Said { stdout, stderr, exit } = said.unwrap();
    (String::from_utf8(stdout).unwrap(), stderr, exit)
}

#[test]
fn options_become_parameters() {
    let target = at(false).target(&[("w", Some("all".to_owned())), ("ttl", None)]);
    assert_eq!(target, "/v1/kv/b/k/1?w=all&sloppy=false&timeout_ms=9");
}

#[test]
fn a_value_goes_to_stdout_as_it_was_written() {
    let one = answer(200, r#"{"b": 1.00, "a":2}"#, Some("t"));
    let (stdout, stderr, exit) = said(told_of_get(&at(false), &one));
    assert_eq!(stdout, "{\"b\": 1.00, \"a\":2}\n");
    assert_eq!((stderr.as_str(), exit), ("context: t", Exit::Ok));
    let (stdout, stderr, _) = said(told_of_get(&at(true), &one));
    assert_eq!(stdout, "{\"status\":200,\"value\":{\"b\": 1.00, \"a\":2},\"context\":\"t\"}\n");
    assert_eq!(stderr, "");
}

#[test]
fn siblings_go_to_stderr_with_what_to_do() {
    let body = r#"{"siblings":[{"value":[1],"written_at":"2025-01-01T00:00:00Z"},{"deleted":true}],"context":"t"}"#;
    let two = answer(300, body, Some("t"));
    let (stdout, stderr, exit) = said(told_of_get(&at(false), &two));
    assert_eq!((stdout.as_str(), exit), ("", Exit::Conflict));
    insta::assert_snapshot!(stderr, @r#"
    b/k/1 has 2 siblings, written concurrently:
      [1]  # 2025-01-01T00:00:00Z
      (deleted)
    context: t
    to settle it: starling put b k/1 VALUE --context TOKEN
    "#);
    let (stdout, _, exit) = said(told_of_get(&at(true), &two));
    assert_eq!(exit, Exit::Conflict);
    insta::assert_snapshot!(stdout.trim_end(), @r#"
    {"status":300,"siblings":[{"value":[1],"written_at":"2025-01-01T00:00:00Z"},{"deleted":true}],"context":"t"}
    "#);
}

#[test]
fn a_missing_key_has_its_own_exit_code() {
    let none = answer(404, r#"{"type":"no-such-key"}"#, Some("t"));
    let (stdout, stderr, exit) = said(told_of_get(&at(false), &none));
    assert_eq!((stdout.as_str(), exit), ("", Exit::NotFound));
    assert_eq!(stderr, "there is no b/k/1\ncontext: t");
    let (stdout, _, _) = said(told_of_get(&at(true), &none));
    assert_eq!(stdout, "{\"status\":404,\"context\":\"t\"}\n");
}

#[test]
fn a_write_tells_its_acks_and_the_siblings_it_made() {
    let body = r#"{"context":"t","acks":{"required":2,"received":3,"hinted":1},"siblings":2}"#;
    let done = answer(200, body, Some("t"));
    let (stdout, stderr, exit) = said(told_of_write(&at(false), "write", "stored", &done));
    assert_eq!((stdout.as_str(), exit), ("", Exit::Ok));
    insta::assert_snapshot!(stderr, @r#"
    stored: 3 acks, 1 of them by fallbacks, 2 required
    the key now has 2 siblings; to settle it, read it, and write with the context of that:
      starling get b k/1
      starling put b k/1 VALUE --context TOKEN
    context: t
    "#);
    let (stdout, stderr, _) = said(told_of_write(&at(true), "write", "stored", &done));
    assert_eq!((stdout, stderr.as_str()), (format!("{body}\n"), ""));
}

#[test]
fn errors_have_exit_codes() {
    let exit = |status| {
        told_of_write(&at(false), "write", "stored", &answer(status, "", None)).unwrap_err().exit
    };
    assert_eq!([400, 404, 405, 413].map(exit), [Exit::Usage; 4]);
    assert_eq!([408, 429, 500, 503, 504].map(exit), [Exit::Unavailable; 5]);
    assert_eq!(exit(409), Exit::Conflict);
    let failed = told_of_get(&at(false), &answer(503, "", None)).unwrap_err();
    assert_eq!(failed, Failure::unavailable("cannot read b/k/1: HTTP status 503"));
}

#[test]
fn text_without_quotes_is_caught_early() {
    assert_eq!(value_of("[1, 2]").unwrap(), "[1, 2]");
    let refused = value_of("it's").unwrap_err();
    assert_eq!(refused.exit, Exit::Usage);
    assert!(refused.message.ends_with(r#"text needs quotes within quotes: '"it's"'"#));
}
