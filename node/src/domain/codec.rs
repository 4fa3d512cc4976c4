//! The byte encoding that everything durable or sent shares: LEB128 varints, length-prefixed bytes.
//!
//! Decoding never panics, never allocates more than the input is long, and refuses varints that are
//! not in their shortest form, so that one value has one encoding.

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes could not be decoded. Nothing was changed; the bytes are damaged or of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("input ends inside {0}")]
    Truncated(&'static str),
    /// A field holds a value that no encoder writes.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
}

/// Appends fields to a buffer.
pub trait Encode: BufMut {
    /// An unsigned integer in 1 to 10 bytes, low seven bits first.
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// Bytes after their length.
    fn put_block(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put_slice(bytes);
    }
}

impl Encode for BytesMut {}
impl Encode for Vec<u8> {}

/// Takes fields off the front of a slice.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the front of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The bytes not yet taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes as they are.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(first)
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*head))
    }

    /// A varint in its shortest form.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::Invalid`] past 64 bits or with padding.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Invalid(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded { Err(DecodeError::Invalid(what)) } else { Ok(value) };
            }
        }
        Err(DecodeError::Invalid(what))
    }

    /// A varint that counts items of at least `each` bytes still to come.
    ///
    /// # Errors
    /// As [`varint`](Self::varint); [`DecodeError::Truncated`] when so many can't follow.
    pub fn count(&mut self, each: usize, what: &'static str) -> Result<usize, DecodeError> {
        let n = usize::try_from(self.varint(what)?).map_err(|_| DecodeError::Invalid(what))?;
        if n.saturating_mul(each) > self.rest.len() {
            return Err(DecodeError::Truncated(what));
        }
        Ok(n)
    }

    /// Length-prefixed bytes, borrowed.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn block(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let n = self.count(1, what)?;
        self.take(n, what)
    }

    /// Length-prefixed bytes, copied: what is kept must not pin the buffer it came in.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn owned_block(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        Ok(Bytes::copy_from_slice(self.block(what)?))
    }

    /// Length-prefixed UTF-8.
    ///
    /// # Errors
    /// As [`count`](Self::count); [`DecodeError::Invalid`] when it is not UTF-8.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.block(what)?).map_err(|_| DecodeError::Invalid(what))
    }

    /// Ends decoding.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varint_round_trips_and_has_one_form(value: u64, junk: [u8; 4]) {
            let mut buf = Vec::new();
            buf.put_varint(value);
            let mut decoder = Decoder::new(&buf);
            prop_assert_eq!(decoder.varint("v").unwrap(), value);
            prop_assert_eq!(decoder.remaining(), 0);
            if let Ok(v) = Decoder::new(&junk).varint("v") {
                let mut again = Vec::new();
                again.put_varint(v);
                prop_assert!(junk.starts_with(&again));
            }
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_allocating() {
        let mut buf = Vec::new();
        buf.put_varint(u64::MAX);
        assert_eq!(Decoder::new(&buf).block("b"), Err(DecodeError::Truncated("b")));
    }
}
