//! `starling get`, `put`, `delete`: one key at a time.
//!
//! The value goes to stdout, byte for byte as it was written; the causal context, and siblings,
//! go to stderr. With `--json` the answer goes to stdout as one JSON object, for programs.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::node_url::{NodeUrl, ask, failure};
use super::{Exit, Failure, block_on, note, print_bytes};
use crate::client::{Request, Response, kv_target};

#[cfg(test)]
mod tests;

/// The most that `put BUCKET KEY -` reads: no node takes a longer value.
const STDIN_BYTES_MAX: u64 = 2 * crate::config::PAIR_BYTES_MAX as u64;

/// How much longer than the request's own deadline its answer is waited for.
const GRACE: Duration = Duration::from_secs(1);

/// Waited for when the request leaves its deadline to the node.
const PATIENCE: Duration = Duration::from_secs(61);

/// What all three take.
#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// The bucket
    bucket: String,
    /// The key; it may contain slashes
    key: String,
    /// Any node of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    node: NodeUrl,
    /// Let fallbacks stand in for replicas that are down [default: true]
    #[arg(long, value_name = "BOOL")]
    sloppy: Option<bool>,
    /// Give up after so many milliseconds [default: the node's]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: Option<u64>,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// What `starling get` takes.
#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    at: KeyArgs,
    /// Replicas that must answer: one, quorum, all or a number
    #[arg(long, value_name = "R")]
    r: Option<String>,
}

/// What `starling put` takes.
#[derive(Debug, clap::Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    at: KeyArgs,
    /// The value, any JSON; -: read it from stdin
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    write: WriteArgs,
    /// Forget the value after so many seconds
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

/// What `starling delete` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    at: KeyArgs,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    /// Replicas that must ack: one, quorum, all or a number
    #[arg(long, value_name = "W")]
    w: Option<String>,
    /// The causal context of the last get: the write replaces exactly what was seen then. Without
    /// it, the value is added beside what is there
    #[arg(long, value_name = "TOKEN")]
    context: Option<String>,
}

impl KeyArgs {
    fn target(&self, own: &[(&'static str, Option<String>)]) -> String {
        let shared = [
            ("sloppy", self.sloppy.map(|sloppy| sloppy.to_string())),
            ("timeout_ms", self.timeout_ms.map(|ms| ms.to_string())),
        ];
        let all: Vec<(&str, &str)> = own
            .iter()
            .chain(&shared)
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
            .collect();
        kv_target(&self.bucket, &self.key, &all)
    }

    fn send(&self, request: Request) -> Result<Response, Failure> {
        let patience = self.timeout_ms.map_or(PATIENCE, |ms| Duration::from_millis(ms) + GRACE);
        block_on(ask(&self.node, request, patience))
    }

    fn name(&self) -> String {
        format!("{}/{}", self.bucket, self.key)
    }
}

/// A body of siblings, or of one write's acks, read leniently.
#[derive(Debug, Default, Deserialize)]
struct Siblings<'a> {
    #[serde(borrow, default)]
    siblings: Vec<Sibling<'a>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Sibling<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "is_false")]
    deleted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written_at: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What `get --json` prints.
#[derive(Debug, Serialize)]
struct GetAnswer<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    siblings: Vec<Sibling<'a>>,
    context: Option<&'a str>,
}

/// What a command says: to stdout, to stderr, to the shell.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    stdout: Vec<u8>,
    stderr: String,
    exit: Exit,
}

impl Said {
    fn say(self) -> Result<Exit, Failure> {
        print_bytes(&self.stdout)?;
        if !self.stderr.is_empty() {
            note(&self.stderr);
        }
        Ok(self.exit)
    }
}

pub(super) fn get(args: &GetArgs) -> Result<Exit, Failure> {
    let answer = args.at.send(Request::get(args.at.target(&[("r", args.r.clone())])))?;
    told_of_get(&args.at, &answer)?.say()
}

fn told_of_get(at: &KeyArgs, answer: &Response) -> Result<Said, Failure> {
    let name = at.name();
    let context = answer.context.as_deref();
    let exit = match answer.status {
        200 => Exit::Ok,
        300 => Exit::Conflict,
        404 => Exit::NotFound,
        _ => return Err(failure(&format!("cannot read {name}"), answer)),
    };
    let unread = |error| Failure::unavailable(format!("cannot read {name}: odd answer: {error}"));
    let siblings = match exit {
        Exit::Conflict => serde_json::from_slice::<Siblings<'_>>(&answer.body).map_err(unread)?,
        Exit::Ok | Exit::NotFound | Exit::Unavailable | Exit::Usage => Siblings::default(),
    };
    if at.json {
        let value = match exit {
            Exit::Ok => Some(serde_json::from_slice(&answer.body).map_err(unread)?),
            Exit::Conflict | Exit::NotFound | Exit::Unavailable | Exit::Usage => None,
        };
        let siblings = siblings.siblings;
        let answer = GetAnswer { status: answer.status, value, siblings, context };
        let mut stdout = serde_json::to_vec(&answer).map_err(unread)?;
        stdout.push(b'\n');
        return Ok(Said { stdout, stderr: String::new(), exit });
    }
    let context = context.map(|token| format!("context: {token}"));
    Ok(match exit {
        Exit::Conflict => {
            let stderr = conflict(at, &siblings.siblings, context.as_deref().unwrap_or_default());
            Said { stdout: Vec::new(), stderr, exit }
        }
        Exit::NotFound => {
            let known = context.map(|context| format!("\n{context}")).unwrap_or_default();
            let stderr = format!("there is no {name}{known}");
            Said { stdout: Vec::new(), stderr, exit }
        }
        Exit::Ok | Exit::Unavailable | Exit::Usage => {
            let mut stdout = answer.body.to_vec();
            stdout.push(b'\n');
            Said { stdout, stderr: context.unwrap_or_default(), exit }
        }
    })
}

fn conflict(at: &KeyArgs, siblings: &[Sibling<'_>], context: &str) -> String {
    let name = at.name();
    let mut lines = format!("{name} has {} siblings, written concurrently:\n", siblings.len());
    for sibling in siblings {
        let value = match sibling.value {
            Some(value) => value.get(),
            None if sibling.deleted => "(deleted)",
            None => "(unknown)",
        };
        let when = sibling.written_at.as_deref().map(|at| format!("  # {at}")).unwrap_or_default();
        lines.push_str(&format!("  {value}{when}\n"));
    }
    let (bucket, key) = (&at.bucket, &at.key);
    format!("{lines}{context}\nto settle it: starling put {bucket} {key} VALUE --context TOKEN")
}

pub(super) fn put(args: &PutArgs) -> Result<Exit, Failure> {
    let value = value_of(&args.value)?;
    let own = [("w", args.write.w.clone()), ("ttl", args.ttl.map(|ttl| ttl.to_string()))];
    let request = Request::put(args.at.target(&own), value);
    let answer = args.at.send(request.with_context(args.write.context.clone()))?;
    told_of_write(&args.at, "write", "stored", &answer)?.say()
}

pub(super) fn delete(args: &DeleteArgs) -> Result<Exit, Failure> {
    let request = Request::delete(args.at.target(&[("w", args.write.w.clone())]));
    let answer = args.at.send(request.with_context(args.write.context.clone()))?;
    told_of_write(&args.at, "delete", "deleted", &answer)?.say()
}

/// The bytes to store: the argument's, or all of stdin. The node judges them; but text without
/// quotes, which is so easily typed, is caught here, where the hint can name the shell.
fn value_of(argument: &str) -> Result<Bytes, Failure> {
    if argument == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| Failure::usage(format!("cannot read the value: {error}")))?;
        return Ok(Bytes::from(bytes));
    }
    match serde_json::from_str::<&RawValue>(argument) {
        Ok(_) => Ok(Bytes::copy_from_slice(argument.as_bytes())),
        Err(error) => {
            let quoted = serde_json::Value::from(argument);
            Err(Failure::usage(format!(
                "the value is not JSON: {error}\n  text needs quotes within quotes: '{quoted}'"
            )))
        }
    }
}

/// The answer to a write, read leniently.
#[derive(Debug, Default, Deserialize)]
struct Written {
    #[serde(default)]
    acks: Acks,
    #[serde(default)]
    siblings: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Acks {
    #[serde(default)]
    required: u64,
    #[serde(default)]
    received: u64,
    #[serde(default)]
    hinted: u64,
}

fn told_of_write(
    at: &KeyArgs,
    doing: &str,
    done: &str,
    answer: &Response,
) -> Result<Said, Failure> {
    if answer.status != 200 {
        let failed = failure(&format!("cannot {doing} {}", at.name()), answer);
        // A write to a node always has a key to go to: 404 means that this is no Starling node.
        let exit = if answer.status == 404 { Exit::Usage } else { failed.exit };
        return Err(Failure { exit, ..failed });
    }
    let exit = Exit::Ok;
    if at.json {
        let stdout = [&answer.body[..], b"\n"].concat();
        return Ok(Said { stdout, stderr: String::new(), exit });
    }
    let written: Written = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Acks { required, received, hinted } = written.acks;
    let hinted = match hinted {
        0 => String::new(),
        count => format!(", {count} of them by fallbacks"),
    };
    let mut stderr = format!("{done}: {received} acks{hinted}, {required} required");
    if written.siblings > 1 {
        let (bucket, key, count) = (&at.bucket, &at.key, written.siblings);
        stderr.push_str(&format!(
            "\nthe key now has {count} siblings; to settle it, read it, and write with the context \
             of that:\n  starling get {bucket} {key}\n  starling put {bucket} {key} VALUE --context TOKEN"
        ));
    }
    if let Some(context) = &answer.context {
        stderr.push_str(&format!("\ncontext: {context}"));
    }
    Ok(Said { stdout: Vec::new(), stderr, exit })
}
