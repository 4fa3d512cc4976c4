//! What closes a datagram: a MAC when the cluster has a secret, else a checksum.
//!
//! With a secret: the first 16 bytes of HMAC-SHA-256 over the datagram (RFC 2104), compared in
//! constant time. It keeps strangers out, and damage. It hides nothing, and it does not stop a
//! datagram from being sent again later: an old one changes nothing, since stamps only grow.
//!
//! Without a secret: CRC-32. It notices damage; whoever knows the format can gossip along.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The most bytes that a seal adds.
pub(super) const SEAL_BYTES_MAX: usize = MAC_BYTES;
const MAC_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Closes datagrams, and tells those that it closed.
#[derive(Clone)]
pub(super) struct Seal {
    /// Keyed once; none without a secret.
    mac: Option<Hmac<Sha256>>,
}

impl Seal {
    /// For members that share `secret`.
    pub(super) fn new(secret: Option<&[u8]>) -> Self {
        // A key of any length will do, so there is no error to see.
        Self { mac: secret.and_then(|secret| Hmac::new_from_slice(secret).ok()) }
    }

    /// Whether a bad seal means a stranger, and not just damage.
    pub(super) fn is_secret(&self) -> bool {
        self.mac.is_some()
    }

    /// Appends the seal.
    pub(super) fn close(&self, datagram: &mut Vec<u8>) {
        match &self.mac {
            Some(mac) => {
                let tag = mac.clone().chain_update(&datagram).finalize().into_bytes();
                datagram.extend_from_slice(&tag[..MAC_BYTES]);
            }
            None => datagram.extend_from_slice(&crc32fast::hash(datagram).to_be_bytes()),
        }
    }

    /// The datagram without its seal, if that fits.
    pub(super) fn open<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        match &self.mac {
            Some(mac) => {
                let (body, tag) =
                    datagram.split_at_checked(datagram.len().checked_sub(MAC_BYTES)?)?;
                mac.clone().chain_update(body).verify_truncated_left(tag).ok()?;
                Some(body)
            }
            None => {
                let (body, crc) = datagram.split_last_chunk::<CRC_BYTES>()?;
                (crc32fast::hash(body) == u32::from_be_bytes(*crc)).then_some(body)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_opens_and_every_flipped_bit_is_noticed() {
        let seals = [None, Some(&b"one"[..]), Some(b"two"), Some(&[7; 500]), Some(b"")];
        for (i, secret) in seals.iter().enumerate() {
            let mut datagram = b"some gossip".to_vec();
            Seal::new(*secret).close(&mut datagram);
            for (j, other) in seals.iter().enumerate() {
                let opened = Seal::new(*other).open(&datagram);
                assert_eq!(opened, (i == j).then_some(&b"some gossip"[..]), "{i} {j}");
            }
            for bit in 0..datagram.len() * 8 {
                datagram[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Seal::new(*secret).open(&datagram), None);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            for length in 0..datagram.len() {
                assert_eq!(Seal::new(*secret).open(&datagram[..length]), None);
            }
        }
    }

    #[test]
    fn the_mac_is_that_of_rfc_4231() {
        let mut datagram = b"what do ya want for nothing?".to_vec();
        Seal::new(Some(b"Jefe")).close(&mut datagram);
        let tag = 0x5bdc_c146_bf60_754e_6a04_2426_0895_75c7_u128;
        assert_eq!(datagram[28..], tag.to_be_bytes());
    }
}
