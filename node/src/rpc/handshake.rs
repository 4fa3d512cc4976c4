//! The first two frames of a connection: who calls, and whether they are welcome.
//!
//! ```text
//! caller                                   called
//!   | -- Hello   cluster, name, …, "to n2" --> |   same cluster? really n2? a member?
//!   | <-- Welcome  cluster, name, … ---------- |   or Refused, with the reason, and the end
//!   | -- Request …                             |
//! ```
//!
//! Nodes whose buckets have different conflict policies refuse each other too: one would drop as superseded what the other
//! keeps, and between them a key could lose every value. So a change of policy is a restart of all nodes.
//!
//! A wrong address in a configuration file, a node of another cluster on a reused address, or a node
//! of another version shows here, on both sides, before anything was asked for.
//!
//! What it does not do: prove who somebody is. The network between nodes is trusted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{self, FrameError, FrameReader, Kind, VERSION};
use super::identity::{LocalInfo, PeerInfo, Sighting};
use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder, Encode};

/// The longest cluster or member name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// No handshake frame is longer: strangers get no larger buffer.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 2048;

/// What both sides say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The cluster's name.
    pub cluster: String,
    /// The sender's member name.
    pub name: String,
    /// The member name of whom the sender means to talk to.
    pub to: String,
    /// The sender's id, generation and nonce.
    pub sighting: Sighting,
    /// The newest that the sender has seen of the receiver; `None`: nothing.
    pub saw_you: Option<Sighting>,
    /// The [digest](crate::domain::policy::Policies::digest) of the sender's conflict policies.
    pub policies: u64,
}

/// Why a caller is not welcome. It tries again later all the same: configurations get fixed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// The called node belongs to another cluster.
    #[error("it belongs to cluster \"{cluster}\": check the addresses and cluster names")]
    OtherCluster {
        /// The called node's cluster.
        cluster: String,
    },
    /// The called node speaks another version of the protocol.
    #[error("it speaks protocol version {speaks}: run one version on all nodes")]
    OtherVersion {
        /// The called node's version.
        speaks: u8,
    },
    /// The called node is another member.
    #[error("it is member \"{name}\": check the members' addresses")]
    OtherMember {
        /// The called node's name.
        name: String,
    },
    /// The called node's buckets have other conflict policies, or it prunes contexts differently.
    #[error(
        "it resolves conflicts differently: let `buckets`, `limits.vector_actors` and `limits.vector_age_s` say the same on all nodes"
    )]
    OtherPolicies,
    /// The called node knows no member of the caller's name.
    #[error("it knows no member of this name: add it to its configuration")]
    UnknownMember,
    /// The called node has as many connections as it may.
    #[error("it has no connections left")]
    TooManyConnections,
    /// The called node is about to stop.
    #[error("it is stopping")]
    Stopping,
    /// The hello could not be read.
    #[error("it could not read the hello")]
    Malformed,
}

/// Why a handshake failed. The connection is closed; nothing was asked for on it.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream failed.
    #[error("handshake failed: {0}")]
    Io(#[from] io::Error),
    /// The other side closed the connection without an answer.
    #[error("connection was closed during the handshake")]
    Closed,
    /// The other side sent no frame.
    #[error("handshake failed: {0}")]
    Frame(#[from] FrameError),
    /// The other side sent a frame that makes no sense.
    #[error("handshake failed: {0}")]
    Decode(#[from] DecodeError),
    /// A frame came that has no place in a handshake.
    #[error("handshake failed: a {0:?} frame came instead")]
    OutOfPlace(Kind),
    /// The other side refuses us.
    #[error("refused by the peer: {0}")]
    Refused(HandshakeRefusal),
    /// We refuse the other side, and have told it.
    #[error("refused member \"{name}\" of cluster \"{cluster}\", who was told: {refusal}")]
    Stranger {
        /// What it calls itself; empty when it did not get so far.
        name: String,
        /// What it calls its cluster; empty when it did not get so far.
        cluster: String,
        /// What it was told.
        refusal: HandshakeRefusal,
    },
}

/// The caller's side: introduces `local` to member `to` and waits for the welcome.
pub(super) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    frames: &mut FrameReader,
    local: &LocalInfo,
    to: &str,
    addr: SocketAddr,
) -> Result<PeerInfo, HandshakeError> {
    let newest = |seen: Sighting| local.newest_of(seen.node);
    let hello = introduction(local, to, local.last_seen(to).and_then(newest));
    send(stream, Kind::Hello, |out| hello.encode(out)).await?;
    let (kind, payload) = receive(stream, frames).await?;
    match kind {
        Kind::Welcome => {}
        Kind::Refused => {
            return Err(HandshakeError::Refused(HandshakeRefusal::decode(&payload)?));
        }
        Kind::Hello | Kind::Request | Kind::Reply | Kind::Goodbye => {
            return Err(HandshakeError::OutOfPlace(kind));
        }
    }
    let they = Introduction::decode(&payload)?;
    let refusal = if they.cluster != local.cluster() {
        HandshakeRefusal::OtherCluster { cluster: they.cluster }
    } else if they.name != to {
        HandshakeRefusal::OtherMember { name: they.name }
    } else if they.policies != local.policies() {
        HandshakeRefusal::OtherPolicies
    } else {
        return Ok(met(local, they, addr));
    };
    Err(HandshakeError::Refused(refusal))
}

/// The called side: reads the hello and answers it. `admit` says whether there is a member of a name,
/// or why it can't come in.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    frames: &mut FrameReader,
    local: &LocalInfo,
    addr: SocketAddr,
    admit: impl FnOnce(&str) -> Result<(), HandshakeRefusal>,
) -> Result<PeerInfo, HandshakeError> {
    let hello = match receive(stream, frames).await {
        Ok((Kind::Hello, payload)) => Introduction::decode(&payload).map_err(HandshakeError::from),
        Ok((kind, _)) => Err(HandshakeError::OutOfPlace(kind)),
        Err(error) => Err(error),
    };
    let they = match hello {
        Ok(they) => they,
        Err(error @ (HandshakeError::Io(_) | HandshakeError::Closed)) => return Err(error),
        Err(error) => {
            let refusal = if matches!(error, HandshakeError::Frame(FrameError::Version(_))) {
                HandshakeRefusal::OtherVersion { speaks: VERSION }
            } else {
                HandshakeRefusal::Malformed
            };
            refuse(stream, &refusal).await?;
            return Err(error);
        }
    };
    let refusal = if they.cluster != local.cluster() {
        Some(HandshakeRefusal::OtherCluster { cluster: local.cluster().to_owned() })
    } else if they.to != local.name() {
        Some(HandshakeRefusal::OtherMember { name: local.name().to_owned() })
    } else if they.policies != local.policies() {
        Some(HandshakeRefusal::OtherPolicies)
    } else {
        admit(&they.name).err()
    };
    if let Some(refusal) = refusal {
        refuse(stream, &refusal).await?;
        let Introduction { name, cluster, .. } = they;
        return Err(HandshakeError::Stranger { name, cluster, refusal });
    }
    let welcome = introduction(local, &they.name, local.newest_of(they.sighting.node));
    send(stream, Kind::Welcome, |out| welcome.encode(out)).await?;
    Ok(met(local, they, addr))
}

fn introduction(local: &LocalInfo, to: &str, saw_you: Option<Sighting>) -> Introduction {
    Introduction {
        cluster: local.cluster().to_owned(),
        name: local.name().to_owned(),
        to: to.to_owned(),
        sighting: local.sighting(),
        saw_you,
        policies: local.policies(),
    }
}

fn met(local: &LocalInfo, they: Introduction, addr: SocketAddr) -> PeerInfo {
    local.meet(&they.name, they.sighting);
    let Introduction { name, sighting, saw_you, .. } = they;
    PeerInfo { name: Arc::from(name), sighting, addr, saw_us: saw_you }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Result<(), HandshakeError> {
    let mut out = Vec::new();
    frame::encode(kind, HANDSHAKE_BYTES_MAX, &mut out, payload)?;
    Ok(stream.write_all(&out).await?)
}

/// Tells the other side why, and that nothing more will come.
pub(super) async fn refuse(
    stream: &mut (impl AsyncWrite + Unpin),
    refusal: &HandshakeRefusal,
) -> Result<(), HandshakeError> {
    send(stream, Kind::Refused, |out| refusal.encode(out)).await?;
    Ok(stream.shutdown().await?)
}

async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    frames: &mut FrameReader,
) -> Result<(Kind, Vec<u8>), HandshakeError> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok((frame.kind, frame.payload.to_vec()));
        }
        if frames.fill(stream).await? == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}

impl Introduction {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for name in [&self.cluster, &self.name, &self.to] {
            out.put_block(name.as_bytes());
        }
        encode_sighting(&self.sighting, out);
        match &self.saw_you {
            None => out.put_u8(0),
            Some(seen) => {
                out.put_u8(1);
                encode_sighting(seen, out);
            }
        }
        out.put_u64(self.policies);
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(payload);
        let cluster = name(&mut from, "cluster name")?;
        let sender = name(&mut from, "member name")?;
        let to = name(&mut from, "name of the called member")?;
        let sighting = decode_sighting(&mut from)?;
        let saw_you = match from.u8("sighting")? {
            0 => None,
            1 => Some(decode_sighting(&mut from)?),
            _ => return Err(DecodeError::Invalid("sighting")),
        };
        let policies = from.u64("policies")?;
        from.finish()?;
        Ok(Self { cluster, name: sender, to, sighting, saw_you, policies })
    }
}

impl HandshakeRefusal {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HandshakeRefusal::OtherCluster { cluster } => {
                out.put_u8(0);
                out.put_block(cluster.as_bytes());
            }
            HandshakeRefusal::OtherVersion { speaks } => out.put_slice(&[1, *speaks]),
            HandshakeRefusal::OtherMember { name } => {
                out.put_u8(2);
                out.put_block(name.as_bytes());
            }
            HandshakeRefusal::UnknownMember => out.put_u8(3),
            HandshakeRefusal::TooManyConnections => out.put_u8(4),
            HandshakeRefusal::Stopping => out.put_u8(5),
            HandshakeRefusal::Malformed => out.put_u8(6),
            HandshakeRefusal::OtherPolicies => out.put_u8(7),
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(payload);
        let refusal = match from.u8("refusal")? {
            0 => Self::OtherCluster { cluster: name(&mut from, "cluster name")? },
            1 => Self::OtherVersion { speaks: from.u8("version")? },
            2 => Self::OtherMember { name: name(&mut from, "member name")? },
            3 => Self::UnknownMember,
            4 => Self::TooManyConnections,
            5 => Self::Stopping,
            6 => Self::Malformed,
            7 => Self::OtherPolicies,
            _ => return Err(DecodeError::Invalid("refusal")),
        };
        from.finish()?;
        Ok(refusal)
    }
}

fn name(from: &mut Decoder<'_>, what: &'static str) -> Result<String, DecodeError> {
    let name = from.str(what)?;
    // It will be logged: no line breaks, no terminal codes.
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(DecodeError::Invalid(what));
    }
    Ok(name.to_owned())
}

fn encode_sighting(seen: &Sighting, out: &mut Vec<u8>) {
    out.put_u64(seen.node.0);
    out.put_varint(seen.generation);
    out.put_u64(seen.process);
}

fn decode_sighting(from: &mut Decoder<'_>) -> Result<Sighting, DecodeError> {
    let node = NodeId(from.u64("node id")?);
    let generation = from.varint("generation")?;
    Ok(Sighting { node, generation, process: from.u64("process nonce")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_introduction_is_names_id_generation_nonce_and_what_was_seen() {
        let sighting = Sighting { node: NodeId(0xaa), generation: 300, process: 0xbb };
        let saw_you = Some(Sighting { node: NodeId(0xcc), generation: 2, process: 0xdd });
        let text = |s: &str| s.to_owned();
        let hello = Introduction {
            cluster: text("c"),
            name: text("n1"),
            to: text("n2"),
            sighting,
            saw_you,
            policies: 0xee,
        };
        let mut out = Vec::new();
        hello.encode(&mut out);
        assert_eq!(Introduction::decode(&out), Ok(hello));
        // "c", "n1", "n2", then twice: node id, generation, nonce; 01 says that something was seen; then the policies.
        insta::assert_snapshot!(hex(&out), @"01 63 02 6e 31 02 6e 32 00 00 00 00 00 00 00 aa ac 02 00 00 00 00 00 00 00 bb 01 00 00 00 00 00 00 00 cc 02 00 00 00 00 00 00 00 dd 00 00 00 00 00 00 00 ee");
    }

    #[test]
    fn each_refusal_has_its_own_short_form() {
        let text = |s: &str| s.to_owned();
        let all = [
            HandshakeRefusal::OtherCluster { cluster: text("b") },
            HandshakeRefusal::OtherVersion { speaks: 1 },
            HandshakeRefusal::OtherMember { name: text("n3") },
            HandshakeRefusal::UnknownMember,
            HandshakeRefusal::TooManyConnections,
            HandshakeRefusal::Stopping,
            HandshakeRefusal::Malformed,
            HandshakeRefusal::OtherPolicies,
        ];
        let mut lines = Vec::new();
        for refusal in all {
            let mut out = Vec::new();
            refusal.encode(&mut out);
            lines.push(format!("{:11} {refusal}", hex(&out)));
            assert_eq!(HandshakeRefusal::decode(&out), Ok(refusal));
        }
        insta::assert_snapshot!(lines.join("\n"), @r#"
        00 01 62    it belongs to cluster "b": check the addresses and cluster names
        01 01       it speaks protocol version 1: run one version on all nodes
        02 02 6e 33 it is member "n3": check the members' addresses
        03          it knows no member of this name: add it to its configuration
        04          it has no connections left
        05          it is stopping
        06          it could not read the hello
        07          it resolves conflicts differently: let `buckets`, `limits.vector_actors` and `limits.vector_age_s` say the same on all nodes
        "#);
    }

    #[test]
    fn names_that_would_spoil_a_log_are_refused() {
        let mut out = Vec::new();
        HandshakeRefusal::OtherMember { name: "a\nb".to_owned() }.encode(&mut out);
        assert_eq!(HandshakeRefusal::decode(&out), Err(DecodeError::Invalid("member name")));
    }

    proptest! {
        #[test]
        fn junk_is_refused_without_a_panic(junk: Vec<u8>) {
            let _ = Introduction::decode(&junk);
            let _ = HandshakeRefusal::decode(&junk);
        }
    }
}
