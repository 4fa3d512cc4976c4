//! What an HTTP answer, or the lack of one, tells a client. Pure.
//!
//! The rule is that of the history: a refusal is a proof. Only what provably never took effect, and
//! never will, is refused; the rest is unknown.

use serde::Deserialize;
use serde_json::value::RawValue;
use starling::client::{ClientError, Response};

use crate::history::{Got, Kind, Outcome, ValueId};

/// Says what the client heard. `recognise` knows values by their bytes.
pub(super) fn outcome(
    kind: Kind,
    heard: &Result<Response, ClientError>,
    recognise: impl Fn(&[u8]) -> Option<ValueId>,
) -> Outcome {
    match heard {
        Err(ClientError::Connect { .. } | ClientError::Deadline { sent: false, .. }) => {
            Outcome::Refused { status: None }
        }
        Err(ClientError::Invalid { what, source }) => {
            panic!("the harness made a request that cannot be sent: {what}: {source}")
        }
        Err(
            ClientError::Broken { .. }
            | ClientError::Deadline { sent: true, .. }
            | ClientError::TooLarge { .. },
        ) => Outcome::Unknown { status: None, required: None, received: None },
        Ok(response) if kind == Kind::Get => {
            got(response, recognise).unwrap_or_else(|| failure(response))
        }
        Ok(response) => acked(response).unwrap_or_else(|| failure(response)),
    }
}

#[derive(Deserialize)]
struct Siblings<'a> {
    #[serde(borrow)]
    siblings: Vec<Sibling<'a>>,
}

#[derive(Deserialize)]
struct Sibling<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
struct Written {
    acks: Acks,
    siblings: u32,
}

#[derive(Deserialize)]
struct Acks {
    required: u8,
    received: u8,
    hinted: u8,
}

#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default, rename = "type")]
    kind: String,
    required: Option<u8>,
    received: Option<u8>,
}

fn got(response: &Response, recognise: impl Fn(&[u8]) -> Option<ValueId>) -> Option<Outcome> {
    let mut got = Got { context: response.context.is_some(), ..Got::default() };
    let mut show = |bytes: &[u8]| match recognise(bytes) {
        Some(value) => got.values.push(value),
        None => got.strange.push(shortened(bytes)),
    };
    match response.status {
        200 => show(&response.body),
        300 => match serde_json::from_slice::<Siblings<'_>>(&response.body) {
            Ok(body) => {
                let mut deleted = false;
                for sibling in body.siblings {
                    deleted |= sibling.deleted;
                    if let Some(value) = sibling.value {
                        show(value.get().as_bytes());
                    }
                }
                got.deleted_shown = deleted;
            }
            Err(_) => show(&response.body),
        },
        404 if problem(response).kind.contains("no-such-route") => return None,
        404 => {}
        _ => return None,
    }
    Some(Outcome::Got(got))
}

fn acked(response: &Response) -> Option<Outcome> {
    if response.status != 200 {
        return None;
    }
    let body: Written = serde_json::from_slice(&response.body).ok()?;
    let Acks { required, received, hinted } = body.acks;
    Some(Outcome::Acked { siblings: body.siblings, required, received, hinted })
}

fn failure(response: &Response) -> Outcome {
    let status = Some(response.status);
    match response.status {
        // Refused before any work, by the contract.
        400 | 404 | 405 | 408 | 409 | 413 | 429 => Outcome::Refused { status },
        503 if ["over-capacity", "not-ready"]
            .iter()
            .any(|kind| problem(response).kind.contains(kind)) =>
        {
            Outcome::Refused { status }
        }
        _ => {
            let Problem { required, received, .. } = problem(response);
            Outcome::Unknown { status, required, received }
        }
    }
}

fn problem(response: &Response) -> Problem {
    serde_json::from_slice(&response.body).unwrap_or_default()
}

fn shortened(bytes: &[u8]) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    if bytes.len() > SHOWN { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}
