//! The `Causal-Context` token: a causal context as text that clients carry and need not understand.
//!
//! ```text
//! base64url, no padding, of:
//!   version 1 (1 byte) | key's fingerprint (4) | the context's encoding | crc32 of all before (4)
//!   version 2 (1 byte) | key's fingerprint (4) | newest stamp varint | the context's encoding | crc32 (4)
//! ```
//!
//! The second is for buckets where the last write wins: no write in the context has a higher stamp ([`lww`](super::object::lww)).
//!
//! A token is bound to its key: a context of another key would claim writes that its holder never saw.
//! The checksum finds tokens that were cut, mixed up or mistyped; equal contexts of one key are
//! equal tokens.
//!
//! What it does not do: a token is neither secret nor signed. A client that forges one can make its
//! own write replace siblings of this key that it never read, as it could by reading them first; and it
//! can name dots that nobody has minted yet. No forgery makes a node panic or use a dot twice
//! ([`mint`](super::mint)).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::causality::CausalContext;
use super::codec::{Decoder, Encode as _};
use super::key::Key;

/// The longest token that is accepted, in characters: room for more than two hundred pairs of the
/// longest kind, four times what pruning leaves in a context.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

const VERSION: u8 = 1;
/// With a stamp.
const STAMPED: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

/// Why a token is refused. Nothing was written; the client has to get a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// More characters than any token has.
    #[error(
        "causal context has {0} characters, at most {TOKEN_BYTES_MAX} are accepted: read the key \
         again and use the Causal-Context that it returns"
    )]
    TooLong(usize),
    /// Not even the alphabet is right.
    #[error(
        "causal context is not base64url: read the key again and use the Causal-Context that it \
         returns, as it is"
    )]
    NotBase64Url,
    /// Made by another version of this program.
    #[error(
        "causal context is of version {0}, which this node does not know: read the key again and \
         use the Causal-Context that it returns"
    )]
    UnknownVersion(u8),
    /// Cut off or changed.
    #[error(
        "causal context is damaged: read the key again and use the Causal-Context that it returns"
    )]
    Damaged,
    /// Whole, but of another key.
    #[error(
        "causal context belongs to another key: read this key again and use the Causal-Context \
         that it returns"
    )]
    OtherKey,
}

/// The token of `context`, for `key` alone, with the highest stamp in it if it is not 0. A context so large that its token is longer than
/// [`TOKEN_BYTES_MAX`] is written down all the same; [`decode`] will refuse it.
pub fn encode(context: &CausalContext, newest_ms: u64, key: &Key) -> String {
    let mut bytes = vec![if newest_ms == 0 { VERSION } else { STAMPED }];
    bytes.extend_from_slice(&key.fingerprint().to_be_bytes());
    if newest_ms > 0 {
        bytes.put_varint(newest_ms);
    }
    context.encode(&mut bytes);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The context that `token` carries for `key`, and the highest stamp in it; 0: it does not say.
///
/// # Errors
/// [`TokenError`]: the client should read the key again.
pub fn decode(token: &str, key: &Key) -> Result<(CausalContext, u64), TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong(token.len()));
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::NotBase64Url)?;
    // Before the checksum: another version may have another one.
    let stamped = match bytes.first() {
        Some(&VERSION) => false,
        Some(&STAMPED) => true,
        Some(&other) => return Err(TokenError::UnknownVersion(other)),
        None => return Err(TokenError::Damaged),
    };
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(TokenError::Damaged);
    }
    let (fingerprint, context) = body[1..].split_first_chunk().ok_or(TokenError::Damaged)?;
    if u32::from_be_bytes(*fingerprint) != key.fingerprint() {
        return Err(TokenError::OtherKey);
    }
    let mut from = Decoder::new(context);
    let damaged = |_| TokenError::Damaged;
    let newest_ms = if stamped { from.varint("stamp").map_err(damaged)? } else { 0 };
    let context = CausalContext::decode(&mut from).map_err(damaged)?;
    from.finish().map_err(damaged)?;
    if stamped && newest_ms == 0 {
        return Err(TokenError::Damaged);
    }
    Ok((context, newest_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::causality::{Actor, Dot, NodeId};

    fn key(name: &str) -> Key {
        Key::new("b", name).unwrap()
    }

    fn contexts() -> impl Strategy<Value = CausalContext> {
        let counter = prop_oneof![4 => 1..9u64, 1 => 1..=u64::MAX];
        let dot = (any::<u64>(), any::<u64>(), counter).prop_map(|(node, epoch, counter)| Dot {
            actor: Actor { node: NodeId(node % 3), epoch: epoch % 4 },
            counter,
        });
        prop::collection::vec(dot, 0..20).prop_map(|dots| dots.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_token_carries_its_context_for_its_key_alone(context in contexts(), newest_ms: u64) {
            let token = encode(&context, newest_ms, &key("k"));
            prop_assert_eq!(decode(&token, &key("k")), Ok((context, newest_ms)));
            prop_assert_eq!(decode(&token, &key("other")), Err(TokenError::OtherKey));
        }

        #[test]
        fn a_flipped_bit_is_refused(
            context in contexts(), at: prop::sample::Index, bit in 0..8u8,
        ) {
            let token = encode(&context, 0, &key("k"));
            // A bit of the bytes beneath the text …
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            let byte = at.index(bytes.len());
            bytes[byte] ^= 1 << bit;
            prop_assert!(decode(&URL_SAFE_NO_PAD.encode(&bytes), &key("k")).is_err());
            // … and one of the text (the eighth leaves no UTF-8).
            let mut text = token.into_bytes();
            let byte = at.index(text.len());
            text[byte] ^= 1 << (bit % 7);
            prop_assert!(decode(std::str::from_utf8(&text).unwrap(), &key("k")).is_err());
        }

        #[test]
        fn a_token_that_was_cut_is_refused(context in contexts(), at: prop::sample::Index) {
            let token = encode(&context, 0, &key("k"));
            prop_assert!(decode(&token[..at.index(token.len())], &key("k")).is_err());
        }

        #[test]
        fn noise_never_panics(text: String, version in VERSION..=STAMPED, bytes: Vec<u8>) {
            prop_assert!(decode(&text, &key("k")).is_err());
            // Noise under a good head and checksum reaches the innermost decoder.
            let mut whole = vec![version];
            whole.extend_from_slice(&key("k").fingerprint().to_be_bytes());
            whole.extend_from_slice(&bytes);
            whole.extend_from_slice(&crc32fast::hash(&whole).to_be_bytes());
            if let Ok((context, newest_ms)) = decode(&URL_SAFE_NO_PAD.encode(&whole), &key("k")) {
                prop_assert_eq!(encode(&context, newest_ms, &key("k")), URL_SAFE_NO_PAD.encode(&whole));
            }
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let token = encode(&CausalContext::new(), 0, &key("k"));
        insta::assert_snapshot!(token, @"AY7jbqsAAH4BLtw");
        let refused = |token: &str, name: &str| decode(token, &key(name)).unwrap_err();
        let rows = [
            refused(&"A".repeat(TOKEN_BYTES_MAX + 1), "k"),
            refused("not base64!", "k"),
            refused("", "k"),
            refused("AQ", "k"),
            refused(&token[..8], "k"),
            refused("_w", "k"),
            refused(&token, "other"),
        ];
        let text: Vec<String> = rows.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text.join("\n"), @"
        causal context has 8193 characters, at most 8192 are accepted: read the key again and use the Causal-Context that it returns
        causal context is not base64url: read the key again and use the Causal-Context that it returns, as it is
        causal context is damaged: read the key again and use the Causal-Context that it returns
        causal context is damaged: read the key again and use the Causal-Context that it returns
        causal context is damaged: read the key again and use the Causal-Context that it returns
        causal context is of version 255, which this node does not know: read the key again and use the Causal-Context that it returns
        causal context belongs to another key: read this key again and use the Causal-Context that it returns
        ");
    }
}
