//! Query parameters of key requests: known names only, each checked against what is allowed.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::config::Config;
use crate::domain::key::Key;
use crate::domain::listing::Listing;
use crate::domain::quorum::Level;
use crate::service::coordinator::Wanted;

/// The longest time to live, in seconds: a hundred years.
const TTL_MAX_S: u64 = 100 * 365 * 24 * 3600;

/// The most things on a page.
pub const PAGE_MAX: usize = 1_000;
/// Things on a page when the request does not say.
const PAGE: usize = 100;

/// What a request's parameters ask for, with the node's defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// R or W.
    pub required: u8,
    /// Whether fallbacks may stand in for home replicas.
    pub sloppy: bool,
    /// Time until the request's deadline.
    pub timeout: Duration,
    /// How long the value is to live; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl Parameters {
    /// How many replicas must answer, and which count.
    pub fn wanted(&self) -> Wanted {
        Wanted { required: self.required, sloppy: self.sloppy }
    }
}

/// Which request the parameters belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// GET, HEAD: takes `r`.
    Read,
    /// PUT: takes `w` and `ttl`.
    Put,
    /// DELETE: takes `w`.
    Delete,
}

impl Operation {
    /// The names of its parameters.
    pub(super) const fn allowed(self) -> &'static str {
        match self {
            Self::Read => "r, sloppy, timeout_ms",
            Self::Put => "w, sloppy, ttl, timeout_ms",
            Self::Delete => "w, sloppy, timeout_ms",
        }
    }
}

/// Reads the parameters of `query`.
///
/// # Errors
/// 400 for an unknown name or a value that is not allowed.
pub fn parse(
    query: Option<&str>,
    operation: Operation,
    config: &Config,
    replicas: u8,
) -> Result<Parameters, Problem> {
    let default = match operation {
        Operation::Read => config.replication.r,
        Operation::Put | Operation::Delete => config.replication.w,
    };
    let mut level = default;
    let timeout_max_ms = config.timeouts.request_max_ms;
    let mut parameters = Parameters {
        required: 0,
        sloppy: true,
        timeout: Duration::from_millis(config.timeouts.request_ms),
        ttl: None,
    };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = |allowed: &str| {
            let detail = format!("{name}={value} is not allowed: {allowed}");
            Problem::bad_request("bad-parameter", detail)
        };
        let number = || value.parse::<u64>().ok();
        match (name, operation) {
            ("r", Operation::Read) | ("w", Operation::Put | Operation::Delete) => {
                level = Level::parse(value).ok_or_else(|| {
                    wrong(&format!("use one, quorum, all or a number from 1 to {replicas}"))
                })?;
            }
            ("sloppy", _) => {
                parameters.sloppy = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(wrong("use true or false")),
                };
            }
            ("timeout_ms", _) => {
                let ms = number().filter(|ms| (1..=timeout_max_ms).contains(ms));
                let ms = ms.ok_or_else(|| wrong(&format!("use 1 to {timeout_max_ms}")))?;
                parameters.timeout = Duration::from_millis(ms);
            }
            ("ttl", Operation::Put) => {
                let seconds = number();
                let seconds =
                    seconds.ok_or_else(|| wrong("use a number of seconds, at least 1"))?;
                parameters.ttl = Some(ttl(seconds)?);
            }
            _ => {
                let detail =
                    format!("there is no parameter {name} here: use {}", operation.allowed());
                return Err(Problem::bad_request("unknown-parameter", detail));
            }
        }
    }
    parameters.required = level
        .of(replicas)
        .map_err(|error| Problem::bad_request("bad-parameter", format!("r or w {error}")))?;
    Ok(parameters)
}

/// A time to live.
///
/// # Errors
/// 400: none, or more than a hundred years.
pub fn ttl(seconds: u64) -> Result<Duration, Problem> {
    if !(1..=TTL_MAX_S).contains(&seconds) {
        let detail = format!("ttl={seconds} is not allowed: use a number of seconds, at least 1");
        return Err(Problem::bad_request("bad-parameter", detail));
    }
    Ok(Duration::from_secs(seconds))
}

/// Reads the parameters of a batch: of its reads and of its writes.
///
/// # Errors
/// As [`parse`].
pub fn batch(
    query: Option<&str>,
    config: &Config,
    replicas: u8,
) -> Result<(Parameters, Parameters), Problem> {
    let without = |name: &str| {
        let pairs = query.unwrap_or_default().split('&');
        pairs.filter(|pair| !pair.starts_with(name)).collect::<Vec<_>>().join("&")
    };
    let reads = parse(Some(&without("w=")), Operation::Read, config, replicas)?;
    let writes = parse(Some(&without("r=")), Operation::Delete, config, replicas)?;
    Ok((reads, writes))
}

/// The partition that `?partition=` names; `None`: all are meant.
///
/// # Errors
/// 400 for another parameter, or a value that is no number.
pub fn partition(query: Option<&str>) -> Result<Option<u32>, Problem> {
    let mut partition = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some(value) = pair.strip_prefix("partition=") else {
            let detail = format!("there is no parameter {pair} here: use {PARTITION}");
            return Err(Problem::bad_request("unknown-parameter", detail));
        };
        let number = value.parse::<u32>().map_err(|_| {
            let detail = format!("partition={value} is not allowed: use a partition's number");
            Problem::bad_request("bad-parameter", detail)
        })?;
        partition = Some(number);
    }
    Ok(partition)
}

/// The parameters of `query`, by name and percent-decoded value.
///
/// # Errors
/// 400 for a value that is not UTF-8.
fn pairs(query: Option<&str>) -> Result<Vec<(&str, String)>, Problem> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| {
                let detail = format!("{name} is not UTF-8 after percent-decoding");
                Problem::bad_request("bad-parameter", detail)
            })?;
            Ok((name, value))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// A number of things on a page, from 1 to [`PAGE_MAX`].
fn page_limit(value: &str) -> Result<usize, Problem> {
    value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
        let detail = format!("limit={value} is not allowed: use 1 to {PAGE_MAX}");
        Problem::bad_request("bad-parameter", detail)
    })
}

/// The parameters of a listing,
pub(super) const LISTING: &str = "prefix, start, limit, reverse, r, timeout_ms";
/// of conflicts,
pub(super) const CONFLICTS: &str = "bucket, after, limit";
/// and of a repair.
pub(super) const PARTITION: &str = "partition";

/// Which conflicts are asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflicts {
    /// Of this bucket; `None`: of all.
    pub bucket: Option<String>,
    /// Behind this key; `None`: from the start.
    pub after: Option<Key>,
    /// So many at the most.
    pub limit: usize,
}

/// Reads the parameters of `/v1/cluster/conflicts`.
///
/// # Errors
/// 400 for an unknown name or a value that is not allowed.
pub fn conflicts(query: Option<&str>) -> Result<Conflicts, Problem> {
    let mut wanted = Conflicts { bucket: None, after: None, limit: PAGE };
    for (name, value) in pairs(query)? {
        match name {
            "bucket" => wanted.bucket = Some(value),
            "after" => {
                let (bucket, name) = value.split_once('/').unwrap_or((&value, ""));
                wanted.after = Some(named(bucket, name)?);
            }
            "limit" => wanted.limit = page_limit(&value)?,
            _ => {
                let detail = format!("there is no parameter {name} here: use {CONFLICTS}");
                return Err(Problem::bad_request("unknown-parameter", detail));
            }
        }
    }
    Ok(wanted)
}

/// Reads the parameters of a listing of `bucket`: how many things are wanted of which keys, and of how many replicas. The
/// listing's own sizes are left to the caller.
///
/// # Errors
/// 400 for an unknown name, a value that is not allowed, or a prefix without a whole tag.
pub fn listing(
    bucket: &str,
    query: Option<&str>,
    config: &Config,
    replicas: u8,
) -> Result<(Listing, usize, Parameters), Problem> {
    let bad = |detail: &str| Problem::bad_request("bad-parameter", detail);
    let (mut prefix, mut start, mut limit, mut reverse) = (None, None, PAGE, false);
    let mut rest = Vec::new();
    for (name, value) in pairs(query)? {
        match name {
            "prefix" => prefix = Some(value),
            "start" => start = Some(value),
            "limit" => limit = page_limit(&value)?,
            "reverse" => {
                reverse = match value.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => return Err(bad("reverse is not allowed so: use true or false")),
                };
            }
            "r" | "timeout_ms" => rest.push(format!("{name}={value}")),
            _ => {
                let detail = format!("there is no parameter {name} here: use {LISTING}");
                return Err(Problem::bad_request("unknown-parameter", detail));
            }
        }
    }
    let untagged =
        "keys are listed within one tag: use a prefix that holds it whole, such as prefix={user:1}";
    let prefix = prefix.ok_or_else(|| Problem::bad_request("bad-prefix", untagged))?;
    let prefix = named(bucket, &prefix)?;
    if !prefix.is_tagged() {
        return Err(Problem::bad_request("bad-prefix", untagged));
    }
    let after = start.map(|start| named(bucket, &start)).transpose()?;
    if after.as_ref().is_some_and(|after| after.token() != prefix.token()) {
        return Err(bad("start has another tag than prefix: use the next of the page before"));
    }
    let parameters = parse(Some(&rest.join("&")), Operation::Read, config, replicas)?;
    Ok((Listing { prefix, after, reverse, entries: 0, bytes: 0 }, limit, parameters))
}

/// The name of a bucket in a path, percent-decoded.
///
/// # Errors
/// 400 when it is not UTF-8.
pub fn bucket_of(path: &str) -> Result<String, Problem> {
    decoded(path).ok_or_else(|| {
        Problem::bad_request("bad-key", "bucket is not UTF-8 after percent-decoding")
    })
}

fn named(bucket: &str, name: &str) -> Result<Key, Problem> {
    Key::new(bucket, name).map_err(|error| Problem::bad_request("bad-key", error))
}

/// The key named by a path's rest, `{bucket}/{key}`, each percent-decoded.
///
/// # Errors
/// 400 when the names are not allowed.
pub fn key_of(rest: &str) -> Result<Key, Problem> {
    let bad = |detail: String| Problem::bad_request("bad-key", detail);
    let (bucket, name) =
        rest.split_once('/').ok_or_else(|| bad("the path lacks a key: /{bucket}/{key}".into()))?;
    let decode = |text: &str, what: &str| {
        decoded(text).ok_or_else(|| bad(format!("{what} is not UTF-8 after percent-decoding")))
    };
    let (bucket, name) = (decode(bucket, "bucket")?, decode(name, "key")?);
    named(&bucket, &name)
}
