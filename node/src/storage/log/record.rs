//! One accepted change, as a batch of the log holds it; the table is in the [parent](super).

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::Key;
use crate::domain::object::Object;

const PUT: u8 = 1;
const HINT: u8 = 2;
const HINT_DONE: u8 = 3;

/// What a record takes beside the bytes of its names, keys and objects, at most.
pub(in crate::storage) const RECORD_OVERHEAD_BYTES: usize = 32;

/// What replay finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Record {
    /// `object` is what this node holds under `key` from here on.
    Put { key: Key, object: Object },
    /// `object` is what this node keeps under `key` for the member `owner` from here on.
    Hint { owner: Arc<str>, key: Key, object: Object, since_ms: u64 },
    /// The hint is no longer needed if it is still the one with this digest.
    HintDone { owner: Arc<str>, key: Key, digest: u64 },
}

impl Record {
    /// Appends a put of an object that is encoded already.
    pub(in crate::storage) fn encode_put(key: &Key, object: &[u8], out: &mut BytesMut) {
        out.put_u8(PUT);
        key.encode(out);
        out.put_slice(object);
    }

    /// Appends a hint.
    pub(in crate::storage) fn encode_hint(
        owner: &str,
        key: &Key,
        object: &Object,
        since_ms: u64,
        out: &mut BytesMut,
    ) {
        out.put_u8(HINT);
        out.put_block(owner.as_bytes());
        key.encode(out);
        object.encode(out);
        out.put_varint(since_ms);
    }

    /// Appends the end of a hint.
    pub(in crate::storage) fn encode_hint_done(
        owner: &str,
        key: &Key,
        digest: u64,
        out: &mut BytesMut,
    ) {
        out.put_u8(HINT_DONE);
        out.put_block(owner.as_bytes());
        key.encode(out);
        out.put_u64(digest);
    }

    /// Takes a record off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no record that this release knows.
    pub(in crate::storage) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("record kind")? {
            PUT => Self::Put { key: Key::decode(from)?, object: Object::decode(from)? },
            HINT => Self::Hint {
                owner: from.str("owner")?.into(),
                key: Key::decode(from)?,
                object: Object::decode(from)?,
                since_ms: from.varint("hint time")?,
            },
            HINT_DONE => Self::HintDone {
                owner: from.str("owner")?.into(),
                key: Key::decode(from)?,
                digest: from.u64("digest")?,
            },
            _ => return Err(DecodeError::Invalid("record kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::causality::{Actor, CausalContext, Dot, NodeId};
    use crate::domain::object::{Content, Sibling};

    #[test]
    fn each_kind_has_its_own_encoding_and_comes_back() {
        let key = Key::new("b", "k").unwrap();
        let dot = Dot { actor: Actor { node: NodeId(0xaa), epoch: 2 }, counter: 1 };
        let content = Content::Value(b"1".as_slice().into());
        let mut object = Object::new();
        let new = Sibling { dot, content, written_at_ms: 7, expires_at_ms: None };
        object.write(&CausalContext::new(), new);

        let mut out = BytesMut::new();
        let mut ends = Vec::new();
        Record::encode_put(&key, &object.to_bytes(), &mut out);
        ends.push(out.len());
        Record::encode_hint("n2", &key, &object, 300, &mut out);
        ends.push(out.len());
        Record::encode_hint_done("n2", &key, 0x1122, &mut out);
        ends.push(out.len());

        let starts = std::iter::once(0).chain(ends.iter().copied());
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let lines: Vec<_> = starts.zip(&ends).map(|(from, to)| hex(&out[from..*to])).collect();
        // Kind, owner, key, object, since or digest.
        insta::assert_snapshot!(lines.join("\n"), @r#"
        010162016b010100000000000000aa0201000100000000000000aa020107010131
        02026e320162016b010100000000000000aa0201000100000000000000aa020107010131ac02
        03026e320162016b0000000000001122
        "#);

        let mut from = Decoder::new(&out);
        let owner: Arc<str> = "n2".into();
        let put = Record::Put { key: key.clone(), object: object.clone() };
        assert_eq!(Record::decode(&mut from), Ok(put));
        let hint = Record::Hint { owner: owner.clone(), key: key.clone(), object, since_ms: 300 };
        assert_eq!(Record::decode(&mut from), Ok(hint));
        assert_eq!(Record::decode(&mut from), Ok(Record::HintDone { owner, key, digest: 0x1122 }));
        assert_eq!(from.finish(), Ok(()));
        assert!(Record::decode(&mut Decoder::new(&[4])).is_err());
    }
}
