//! Keys and tokens: where on the ring a key lives, and the order in which stores keep keys.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

use super::codec::{DecodeError, Decoder, Encode};

/// The longest bucket name, in bytes.
pub const BUCKET_BYTES_MAX: usize = 128;
/// The longest key name, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// A point on the ring: the first 64 bits of murmur3 x64 128, seed 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Murmur3 x64 128 with seed 0 of `bytes`, as its first and second 64 bits.
pub fn murmur3(bytes: &[u8]) -> (u64, u64) {
    let mut input = bytes;
    // Reading from a slice can't fail, so neither can the hash; zero would only misplace a key.
    let hash = murmur3::murmur3_x64_128(&mut input, 0).unwrap_or_default();
    (hash as u64, (hash >> 64) as u64)
}

/// Why a bucket or key name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bucket name is empty or too long.
    #[error("bucket name has {0} bytes: use 1 to {BUCKET_BYTES_MAX}")]
    BucketLength(usize),
    /// The bucket name holds a slash or a control character.
    #[error("bucket name holds a slash or a control character: use other characters")]
    BucketCharacter,
    /// The key name is empty or too long.
    #[error("key has {0} bytes: use 1 to {KEY_BYTES_MAX}")]
    KeyLength(usize),
}

/// A bucket and a name within it, with its token.
///
/// Keys are ordered by (token, bucket, name). Partitions are arcs of tokens, so each partition is
/// one contiguous range of keys.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    token: Token,
    /// `bucket 0x00 name`
    raw: Bytes,
    bucket_len: u8,
}

impl Key {
    /// Makes a key, or says what is wrong with the names.
    ///
    /// # Errors
    /// [`KeyError`]: the client should fix its request.
    pub fn new(bucket: &str, name: &str) -> Result<Self, KeyError> {
        if bucket.is_empty() || bucket.len() > BUCKET_BYTES_MAX {
            return Err(KeyError::BucketLength(bucket.len()));
        }
        if bucket.chars().any(|c| c == '/' || c.is_control()) {
            return Err(KeyError::BucketCharacter);
        }
        if name.is_empty() || name.len() > KEY_BYTES_MAX {
            return Err(KeyError::KeyLength(name.len()));
        }
        let mut raw = Vec::with_capacity(bucket.len() + 1 + name.len());
        raw.extend_from_slice(bucket.as_bytes());
        raw.push(0);
        raw.extend_from_slice(name.as_bytes());
        let token = match tag(name) {
            None => Token(murmur3(&raw).0),
            Some(tag) => {
                let mut tagged = raw[..=bucket.len()].to_vec();
                tagged.extend_from_slice(tag.as_bytes());
                Token(murmur3(&tagged).0)
            }
        };
        Ok(Self { token, raw: raw.into(), bucket_len: bucket.len() as u8 })
    }

    /// Sorts before every key of `token` and behind all of those before it: a bound for scans. It is no
    /// key that anybody can store.
    pub fn lowest(token: Token) -> Self {
        Self { token, raw: Bytes::from_static(b"\0"), bucket_len: 0 }
    }

    /// A bound for scans among the keys of `token`, as if it were the key whose [raw](Self::raw) form this is. Perhaps no key has
    /// it.
    pub fn bound(token: Token, raw: Bytes) -> Self {
        Self { token, raw, bucket_len: 0 }
    }

    /// A bound behind all keys of its token whose names begin with its own.
    pub fn behind_extensions(&self) -> Self {
        // Names are UTF-8, which has no byte 0xff.
        let raw: Vec<u8> = self.raw.iter().copied().chain([0xff]).collect();
        Self::bound(self.token, raw.into())
    }

    /// Whether its name holds a whole `{tag}`: all keys whose names begin with it have its token then.
    pub fn is_tagged(&self) -> bool {
        tag(self.name()).is_some()
    }

    /// Where the key lives on the ring.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        std::str::from_utf8(&self.raw[..usize::from(self.bucket_len)]).unwrap_or_default()
    }

    /// The name within the bucket.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.raw[usize::from(self.bucket_len) + 1..]).unwrap_or_default()
    }

    /// Bytes that the key counts for: bucket and name.
    pub fn size_bytes(&self) -> usize {
        self.raw.len() - 1
    }

    /// `bucket 0x00 name`: keys of one token are ordered by it.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The key of which `raw` is the [raw](Self::raw) form and `token` the token. The token is taken
    /// as it is, not computed again: for those who stored both under a checksum.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when no key has that form.
    pub fn from_raw(token: Token, raw: Bytes) -> Result<Self, DecodeError> {
        let invalid = DecodeError::Invalid("key");
        let text = std::str::from_utf8(&raw).map_err(|_| invalid)?;
        // A bucket holds no control character, so the first one ends it.
        let (bucket, name) = text.split_once('\0').ok_or(invalid)?;
        let lengths = (1..=BUCKET_BYTES_MAX).contains(&bucket.len())
            && (1..=KEY_BYTES_MAX).contains(&name.len());
        if !lengths || bucket.chars().any(|c| c == '/' || c.is_control()) {
            return Err(invalid);
        }
        let bucket_len = bucket.len() as u8;
        Ok(Self { token, raw, bucket_len })
    }

    /// This key with its [raw](Self::raw) form in `raw`, whose bytes are the same: for those who keep keys packed.
    pub(crate) fn with_raw(&self, raw: Bytes) -> Self {
        debug_assert_eq!(self.raw, raw, "another key's raw form");
        Self { raw, ..*self }
    }

    /// This key in memory of its own: for who keeps it longer than what it was packed with.
    pub(crate) fn detached(&self) -> Self {
        self.with_raw(Bytes::copy_from_slice(&self.raw))
    }

    /// 32 bits that tell this key from others, for binding a context to it.
    pub fn fingerprint(&self) -> u32 {
        murmur3(&self.raw).1 as u32
    }

    /// Appends the key's encoding: bucket and name, each after its length.
    pub fn encode(&self, out: &mut impl Encode) {
        out.put_block(self.bucket().as_bytes());
        out.put_block(self.name().as_bytes());
    }

    /// Takes a key off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes hold no valid key.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let bucket = from.str("bucket")?;
        let name = from.str("key")?;
        Self::new(bucket, name).map_err(|_| DecodeError::Invalid("key"))
    }
}

/// The part of a name between its first `{` and the next `}`, if there is one and it is not empty.
fn tag(name: &str) -> Option<&str> {
    let open = name.find('{')?;
    let rest = &name[open + 1..];
    let tag = &rest[..rest.find('}')?];
    (!tag.is_empty()).then_some(tag)
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.token.cmp(&other.token).then_with(|| self.raw.cmp(&other.raw))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket(), self.name())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}@{}", self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_one_tag_live_together_in_order() {
        let a = Key::new("b", "{user:1}.a").unwrap();
        let b = Key::new("b", "~{user:1}.b").unwrap();
        let other = Key::new("b", "user:1").unwrap();
        assert_eq!(a.token(), b.token());
        assert_eq!(a.token(), other.token(), "the tag alone is hashed, as if it were the name");
        assert!(a < b);
        assert_ne!(Key::new("c", "{user:1}").unwrap().token(), a.token(), "buckets differ");
        assert_ne!(Key::new("b", "{}x").unwrap().token(), Key::new("b", "{}y").unwrap().token());
    }

    #[test]
    fn names_out_of_bounds_are_refused() {
        assert_eq!(Key::new("", "k"), Err(KeyError::BucketLength(0)));
        assert_eq!(Key::new("a/b", "k"), Err(KeyError::BucketCharacter));
        assert_eq!(Key::new("b", ""), Err(KeyError::KeyLength(0)));
        assert_eq!(Key::new("b", &"k".repeat(1025)), Err(KeyError::KeyLength(1025)));
        assert!(Key::new("b", &"k".repeat(1024)).is_ok());
    }

    #[test]
    fn encoding_round_trips() {
        let key = Key::new("büro", "a/b {c}\u{0}").unwrap();
        let mut buf = Vec::new();
        key.encode(&mut buf);
        assert_eq!(Key::decode(&mut Decoder::new(&buf)), Ok(key.clone()));
        let raw = Bytes::copy_from_slice(key.raw());
        assert_eq!(Key::from_raw(key.token(), raw), Ok(key));
    }

    #[test]
    fn what_is_no_key_has_no_raw_form() {
        for raw in ["", "\0", "b", "b\0", "\0k", "a/b\0k", "\u{1}\0k"] {
            assert!(Key::from_raw(Token(0), Bytes::from(raw)).is_err(), "{raw:?}");
        }
        assert!(Key::from_raw(Token(0), Bytes::from_static(b"b\0\xff")).is_err());
        assert!(Key::from_raw(Token(0), Bytes::from("b".repeat(129) + "\0k")).is_err());
    }
}
