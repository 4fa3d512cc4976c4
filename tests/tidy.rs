//! The rules that keep the code easy to find one's way in, checked on the source itself.
//!
//! Floors (imports only go down), names that only the runtime facade may use, `biased;` in every
//! `select!`, module docs, and sizes of files and functions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// The floor of each module of the node. A module may name its own floor and those below; the pairs
/// of `STRANGERS` may not name each other.
const FLOORS: &[(&str, u8)] = &[
    ("runtime", 0),
    ("domain", 1),
    ("config", 1),
    ("storage", 2),
    ("rpc", 2),
    ("service", 3),
    ("http", 4),
    ("client", 4),
    ("logging", 4),
    ("node", 5),
    ("cli", 6),
];

const STRANGERS: &[(&str, &str)] = &[("storage", "rpc"), ("config", "runtime")];

/// Names that only `runtime/` may use, each with what to use instead.
const BANNED: &[(&str, &str)] = &[
    ("tokio::net", "runtime::net"),
    ("tokio::time", "runtime::time"),
    ("tokio::spawn", "runtime::task::spawn"),
    ("tokio::task", "runtime::task"),
    ("tokio::fs", "runtime::fs"),
    ("tokio::signal", "runtime::signal"),
    ("tokio::runtime", "runtime::task::block_on"),
    ("tokio::join!", "a FuturesUnordered or two awaits"),
    ("std::thread", "runtime::task"),
    ("std::fs", "runtime::fs"),
    ("std::time::Instant", "runtime::time::Instant"),
    ("SystemTime", "runtime::time::wall_clock_ms"),
    ("getrandom", "runtime::rng"),
    ("thread_rng", "runtime::rng"),
    ("rand::rng()", "runtime::rng"),
    ("rand::random", "runtime::rng"),
    ("from_os_rng", "runtime::rng"),
    ("RandomState", "BTreeMap"),
    ("lazy_static", "a value passed down"),
    ("#[ignore", "a test that runs"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

fn everything() -> Vec<(String, String)> {
    ["node", "sim", "tests"].iter().flat_map(|folder| sources(&root().join(folder))).collect()
}

/// The lines of a file that are code, without comments and without its `#[cfg(test)]` tail.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.lines().position(|l| l.starts_with("#[cfg(test)]")).unwrap_or(usize::MAX);
    let lines = text.lines().enumerate().take_while(move |(at, _)| *at < tests);
    lines.map(|(at, l)| (at + 1, l.split("//").next().unwrap_or(""))).filter(|(_, l)| !l.is_empty())
}

fn complain(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

#[test]
fn imports_only_go_down() {
    let floor = |name: &str| FLOORS.iter().find(|f| f.0 == name).map(|f| f.1);
    let mut problems = Vec::new();
    for (path, text) in sources(&root().join("node/src")) {
        let rest = path.trim_start_matches("node/src/");
        let own = rest.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(own_floor) = floor(own) else {
            if !matches!(own, "lib" | "main") {
                problems.push(format!("{path}: give the module {own} a floor in tests/tidy.rs"));
            }
            continue;
        };
        for (at, line) in code(&text) {
            for named in line.split("crate::").skip(1) {
                let end = named.find(|c: char| !c.is_alphanumeric() && c != '_');
                let other = &named[..end.unwrap_or(named.len())];
                let Some(other_floor) = floor(other) else { continue };
                let strangers = STRANGERS
                    .iter()
                    .any(|&(a, b)| (a, b) == (own, other) || (b, a) == (own, other));
                if other_floor > own_floor || strangers {
                    problems.push(format!("{path}:{at}: {own} must not know {other}"));
                }
            }
        }
    }
    complain("an import goes up", &problems);
}

#[test]
fn only_the_facade_names_the_world() {
    let mut problems = Vec::new();
    for (path, text) in sources(&root().join("node/src")) {
        // The command line starts processes and reads the terminal: the real world only.
        let exempt = ["node/src/runtime/", "node/src/cli/"].iter().any(|p| path.starts_with(p));
        if exempt || path.ends_with("tests.rs") {
            continue;
        }
        for (at, line) in code(&text) {
            for (name, instead) in BANNED.iter().filter(|(name, _)| line.contains(name)) {
                problems.push(format!("{path}:{at}: {name}: use {instead}"));
            }
        }
    }
    complain("a name that only runtime/ may use", &problems);
}

#[test]
fn no_test_is_ignored_and_every_select_is_biased() {
    let ignore = concat!("#[ign", "ore");
    let mut problems = Vec::new();
    for (path, text) in everything() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let line = line.split("//").next().unwrap_or("");
            if line.contains(ignore) && !path.ends_with("tidy.rs") {
                problems.push(format!("{path}:{}: a test that does not run", at + 1));
            }
            let opens = line.contains("select! {") && !line.contains('"');
            if opens && lines.get(at + 1).is_none_or(|next| next.trim() != "biased;") {
                problems.push(format!("{path}:{}: select! without biased;", at + 1));
            }
        }
    }
    complain("not deterministic, or not run", &problems);
}

#[test]
fn every_module_says_what_it_is() {
    let silent = |(_, text): &(String, String)| !text.trim_start().starts_with("//!");
    let problems: Vec<String> = everything().into_iter().filter(silent).map(|(p, _)| p).collect();
    complain("a file without //! at its top", &problems);
}

#[test]
fn files_and_functions_stay_small() {
    let mut problems = Vec::new();
    for (path, text) in everything() {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            problems.push(format!("{path} has {} lines: split it", lines.len()));
        }
        // rustfmt puts a function's closing brace at the indentation of its first line.
        for (at, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let heads =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "const fn "];
            if !heads.iter().any(|head| trimmed.starts_with(head)) || trimmed.ends_with(';') {
                continue;
            }
            let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
            let Some(length) = lines[at..].iter().position(|l| *l == close) else { continue };
            if length + 1 > FUNCTION_LINES_MAX {
                problems.push(format!("{path}:{}: a function of {} lines", at + 1, length + 1));
            }
        }
    }
    complain("too large", &problems);
}

#[test]
fn the_top_level_holds_only_what_the_layout_names() {
    let allowed =
        ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "node", "sim", "tests", "seeds"];
    let made_by_tools = ["target", "starling-dev"];
    let mut problems = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = allowed.contains(&&*name) || made_by_tools.contains(&&*name);
        if !known && !name.starts_with('.') {
            problems.push(name);
        }
    }
    complain("does not belong at the top level", &problems);
}
