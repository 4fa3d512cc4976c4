//! One line of hex for each message, and what damage does.

use super::*;
use crate::domain::causality::{Actor, Dot, NodeId};
use crate::domain::object::Sibling;
use crate::rpc::frame::{FrameReader, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn key() -> Key {
    Key::new("b", "k").unwrap()
}

fn context() -> CausalContext {
    std::iter::once(Dot { actor: Actor { node: NodeId(0xaa), epoch: 2 }, counter: 1 }).collect()
}

fn object(value: &'static [u8]) -> Arc<Object> {
    let mut object = Object::new();
    let dot = Dot { actor: Actor { node: NodeId(0xaa), epoch: 2 }, counter: 1 };
    let content = Content::Value(value.into());
    let new = Sibling { dot, content, written_at_ms: 7, expires_at_ms: None };
    object.write(&CausalContext::new(), new);
    Arc::new(object)
}

fn write() -> WriteRequest {
    WriteRequest {
        key: key(),
        seen: context(),
        newest_ms: 300,
        content: Content::Value(b"1".as_slice().into()),
        expires_at_ms: Some(127),
        w: 2,
        sloppy: true,
        fallback: false,
    }
}

fn listing(after: Option<Key>, reverse: bool) -> Listing {
    let prefix = Key::new("b", "{t}").unwrap();
    Listing { prefix, after, reverse, entries: 3, bytes: 300 }
}

fn requests() -> Vec<Request> {
    let delete = WriteRequest {
        content: Content::Tombstone,
        expires_at_ms: None,
        seen: CausalContext::new(),
        newest_ms: 0,
        sloppy: false,
        fallback: true,
        ..write()
    };
    vec![
        Request::Ping,
        Request::Replicate { key: key(), object: object(b"{}") },
        Request::Fetch { key: key(), known: None },
        Request::Fetch { key: key(), known: Some(0x1122_3344_5566_7788) },
        Request::Write(write()),
        Request::Write(delete),
        Request::Hint { owner: "n2".into(), key: key(), object: object(b"{}") },
        Request::FetchHinted { key: key() },
        Request::List(listing(None, true)),
        Request::List(listing(Some(key()), false)),
        Request::HandOver { key: key(), object: object(b"{}") },
    ]
}

fn replies() -> Vec<Reply> {
    let written = WriteReply {
        context: context(),
        newest_ms: 300,
        siblings: 300,
        required: 2,
        received: 3,
        hinted: 1,
    };
    let mut replies = vec![
        Reply::Pong,
        Reply::Stored,
        Reply::Found(object(b"{}")),
        Reply::Same,
        Reply::Absent,
        Reply::Written(written),
        Reply::Listed(Page { entries: vec![(key(), object(b"{}"))], more: true }),
    ];
    let refusals = [
        Refusal::Overloaded { retry_after_ms: 100 },
        Refusal::StorageStalled { reason: "disk full".to_owned() },
        Refusal::NotHome,
        Refusal::TooManySiblings { context: context(), limit: 50 },
        Refusal::QuorumUnmet { required: 2, received: 1, hinted: 0 },
        Refusal::DeadlineExceeded { required: 3, received: 2, hinted: 1 },
        Refusal::PairTooLarge { limit: 10_240 },
        Refusal::Unready,
        Refusal::Doubtful { held: None },
        Refusal::Doubtful { held: Some(0xd16e57) },
        Refusal::TooFarAhead { ahead_ms: 300 },
    ];
    replies.extend(refusals.map(Reply::Refused));
    replies
}

fn request_frame(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    let remaining = Duration::from_micros(1500);
    encode_request(9, 0xabcd, remaining, request, PAYLOAD_BYTES_MAX, &mut out).unwrap();
    out
}

fn reply_frame(reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    encode_reply(9, reply, PAYLOAD_BYTES_MAX, &mut out);
    out
}

#[test]
fn each_request_has_its_own_encoding() {
    let now = Instant::from_nanos(5);
    let head = RequestHead { request_id: 0xabcd, deadline: now + Duration::from_millis(2) };
    let mut lines = Vec::new();
    for request in requests() {
        let frame = request_frame(&request);
        let payload = &frame[HEADER_BYTES..];
        let (head_bytes, body) = payload.split_at(17);
        lines.push(format!("{} | {}", hex(head_bytes), hex(body)));
        assert_eq!(decode_request(payload, now), Ok((9, head, request)));
    }
    let last = Request::Write(WriteRequest { expires_at_ms: Some(u64::MAX), ..write() });
    let decoded = decode_request(&request_frame(&last)[HEADER_BYTES..], now);
    assert_eq!(decoded, Ok((9, head, last)), "an expiry at the end of the range");
    // number 9, request id abcd, 2 ms (1.5 rounded up) | tag, then: key "b" "k", and by tag: object;
    // nothing; digest; context, w, flags, expiry, value.
    insta::assert_snapshot!(lines.join("\n"), @r#"
    0000000000000009000000000000abcd02 | 00
    0000000000000009000000000000abcd02 | 010162016b010100000000000000aa0201000100000000000000aa02010701027b7d
    0000000000000009000000000000abcd02 | 020162016b
    0000000000000009000000000000abcd02 | 030162016b1122334455667788
    0000000000000009000000000000abcd02 | 040162016b0100000000000000aa0201000217ac027f0131
    0000000000000009000000000000abcd02 | 040162016b00000208
    0000000000000009000000000000abcd02 | 05026e320162016b010100000000000000aa0201000100000000000000aa02010701027b7d
    0000000000000009000000000000abcd02 | 060162016b
    0000000000000009000000000000abcd02 | 0a0162037b747d0103ac02
    0000000000000009000000000000abcd02 | 0a0162037b747d020162016b03ac02
    0000000000000009000000000000abcd02 | 080162016b010100000000000000aa0201000100000000000000aa02010701027b7d
    "#);
}

#[test]
fn each_reply_has_its_own_encoding() {
    let mut lines = Vec::new();
    for reply in replies() {
        let frame = reply_frame(&reply);
        let (number, body) = frame[HEADER_BYTES..].split_at(8);
        assert_eq!(number, 9u64.to_be_bytes());
        lines.push(hex(body));
        assert_eq!(decode_reply(&frame[HEADER_BYTES..]), Ok((9, reply)));
    }
    // Tag, then: nothing; object; context, newest stamp, siblings, required, received, hinted; refusal.
    insta::assert_snapshot!(lines.join("\n"), @r#"
    00
    01
    02010100000000000000aa0201000100000000000000aa02010701027b7d
    03
    04
    050100000000000000aa020100ac02ac02020301
    0901010162016b010100000000000000aa0201000100000000000000aa02010701027b7d
    060064
    0601096469736b2066756c6c
    0602
    06030100000000000000aa02010032
    0604020100
    0605030201
    06068050
    0607
    0608
    06090000000000d16e57
    060aac02
    "#);
}

#[test]
fn a_hint_names_an_owner_that_may_be_a_member() {
    for (length, valid) in [(0, false), (1, true), (255, true), (256, false)] {
        let owner = "n".repeat(length).into();
        let frame = request_frame(&Request::Hint { owner, key: key(), object: object(b"{}") });
        let decoded = decode_request(&frame[HEADER_BYTES..], Instant::from_nanos(5));
        assert_eq!(decoded.is_ok(), valid, "{length} bytes: {decoded:?}");
    }
}

#[test]
fn a_reply_over_the_limit_becomes_a_refusal() {
    let mut out = Vec::new();
    encode_reply(3, &Reply::Found(object(&[7; 500])), 100, &mut out);
    let refusal = Reply::Refused(Refusal::PairTooLarge { limit: 100 });
    assert_eq!(decode_reply(&out[HEADER_BYTES..]), Ok((3, refusal)));
}

#[test]
fn a_request_over_the_limit_leaves_no_bytes() {
    let request = Request::Replicate { key: key(), object: object(&[7; 500]) };
    let mut out = b"before".to_vec();
    assert!(encode_request(1, 2, Duration::ZERO, &request, 100, &mut out).is_err());
    assert_eq!(out, b"before");
}

/// Takes all frames of `bytes` that make sense, as a connection would.
fn read_all(bytes: &[u8]) -> usize {
    let mut reader = FrameReader::new(PAYLOAD_BYTES_MAX);
    reader.push(bytes);
    assert!(reader.capacity() <= bytes.len() + (16 << 10), "{} bytes", reader.capacity());
    let mut taken = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        let request = decode_request(frame.payload, Instant::from_nanos(1));
        if request.is_err() && decode_reply(frame.payload).is_err() {
            break;
        }
        taken += 1;
    }
    taken
}

proptest! {
    #[test]
    fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..2000)) {
        read_all(&junk);
        let _ = decode_request(&junk, Instant::from_nanos(1));
        let _ = decode_reply(&junk);
    }

    /// Behind a right checksum too: a payload may come from another version, or from malice.
    #[test]
    fn mutated_payloads_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frames: Vec<Vec<u8>> = requests().iter().map(request_frame).collect();
        frames.extend(replies().iter().map(reply_frame));
        let mut payload = which.get(&frames)[HEADER_BYTES..].to_vec();
        for (at, byte) in edits {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        payload.truncate(cut.index(payload.len()) + 1);
        if let Ok((number, head, request)) = decode_request(&payload, Instant::from_nanos(0)) {
            let remaining = head.deadline.since(Instant::from_nanos(0));
            let mut again = Vec::new();
            encode_request(number, head.request_id, remaining, &request, PAYLOAD_BYTES_MAX,
                &mut again).unwrap();
            // One encoding each; only times past any clock are cut short.
            prop_assert!(remaining.as_secs() > 1 << 30 || again[HEADER_BYTES..] == payload);
        }
        if let Ok((number, reply)) = decode_reply(&payload) {
            let mut again = Vec::new();
            encode_reply(number, &reply, PAYLOAD_BYTES_MAX, &mut again);
            prop_assert_eq!(&again[HEADER_BYTES..], &payload);
        }
    }

    #[test]
    fn mutated_streams_never_panic(
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut bytes: Vec<u8> = requests().iter().flat_map(request_frame).collect();
        let whole = read_all(&bytes);
        prop_assert_eq!(whole, requests().len());
        let at = at.index(bytes.len());
        let changed = bytes[at] != byte;
        bytes[at] = byte;
        prop_assert_eq!(read_all(&bytes) < whole, changed, "a changed byte was not noticed");
    }
}
