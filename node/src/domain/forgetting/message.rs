//! What is asked and answered about keys that are to be forgotten. Every message has one encoding and a bound.

use crate::domain::causality::NodeId;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::Key;

/// Keys that one message names.
pub const KEYS_MAX: usize = 512;

/// From the driver of a round to an owner of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What stands in the way of forgetting? Changes nothing; a lost one costs the round.
    Hold {
        /// Are there hints for these? In order.
        partitions: Vec<u32>,
        /// Is this what you hold: the key, and the digest of its object?
        entries: Vec<(Key, u64)>,
    },
    /// All hold these, and nothing is in the way: forget them. A lost one brings them back to the others, for another round.
    Forget {
        /// The key, and the digest of its object.
        entries: Vec<(Key, u64)>,
    },
}

/// Which process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its node.
    pub node: NodeId,
    /// The generation of its folder when it began to serve.
    pub generation: u64,
}

/// The answer to [`Question::Hold`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who answers.
    pub process: Process,
    /// The generation of its folder now.
    pub generation: u64,
    /// For how long it had run when it began to look, in milliseconds.
    pub began_ms: u64,
    /// And when it was done.
    pub ended_ms: u64,
    /// The partitions asked about for which there are hints, or may be after a restart. In order.
    pub hinted: Vec<u32>,
    /// The places of the entries that are held exactly so, spent and durably. In order.
    pub held: Vec<u32>,
}

/// What an owner of the ring answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Hold`].
    Holding(Holding),
    /// To [`Question::Forget`]: so many were removed.
    Forgotten(u32),
}

impl Question {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        match self {
            Self::Hold { partitions, entries } => {
                out.put_u8(0);
                encode_numbers(partitions, out);
                encode_entries(entries, out);
            }
            Self::Forget { entries } => {
                out.put_u8(1);
                encode_entries(entries, out);
            }
        }
    }

    /// Takes a question off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are none.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("question of forgetting")? {
            0 => Self::Hold { partitions: decode_numbers(from)?, entries: decode_entries(from)? },
            1 => Self::Forget { entries: decode_entries(from)? },
            _ => return Err(DecodeError::Invalid("question of forgetting")),
        })
    }
}

impl Answer {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        match self {
            Self::Holding(holding) => {
                out.put_u8(0);
                out.put_u64(holding.process.node.0);
                out.put_varint(holding.process.generation);
                out.put_varint(holding.generation);
                out.put_varint(holding.began_ms);
                out.put_varint(holding.ended_ms);
                encode_numbers(&holding.hinted, out);
                encode_numbers(&holding.held, out);
            }
            Self::Forgotten(count) => {
                out.put_u8(1);
                out.put_varint(u64::from(*count));
            }
        }
    }

    /// Takes an answer off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are none.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("answer about forgetting")? {
            0 => Self::Holding(Holding {
                process: Process {
                    node: NodeId(from.u64("node id")?),
                    generation: from.varint("generation")?,
                },
                generation: from.varint("generation")?,
                began_ms: from.varint("running time")?,
                ended_ms: from.varint("running time")?,
                hinted: decode_numbers(from)?,
                held: decode_numbers(from)?,
            }),
            1 => Self::Forgotten(number(from)?),
            _ => return Err(DecodeError::Invalid("answer about forgetting")),
        })
    }
}

fn encode_entries(entries: &[(Key, u64)], out: &mut impl Encode) {
    out.put_varint(entries.len() as u64);
    for (key, digest) in entries {
        key.encode(out);
        out.put_u64(*digest);
    }
}

fn decode_entries(from: &mut Decoder<'_>) -> Result<Vec<(Key, u64)>, DecodeError> {
    let count = bounded(from, 12, "keys to forget")?;
    (0..count).map(|_| Ok((Key::decode(from)?, from.u64("digest")?))).collect()
}

fn encode_numbers(numbers: &[u32], out: &mut impl Encode) {
    out.put_varint(numbers.len() as u64);
    numbers.iter().for_each(|number| out.put_varint(u64::from(*number)));
}

fn decode_numbers(from: &mut Decoder<'_>) -> Result<Vec<u32>, DecodeError> {
    let count = bounded(from, 1, "numbers")?;
    (0..count).map(|_| number(from)).collect()
}

fn bounded(from: &mut Decoder<'_>, each: usize, what: &'static str) -> Result<usize, DecodeError> {
    let count = from.count(each, what)?;
    if count > KEYS_MAX { Err(DecodeError::Invalid(what)) } else { Ok(count) }
}

fn number(from: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    u32::try_from(from.varint("number")?).map_err(|_| DecodeError::Invalid("number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_one_encoding_and_comes_back() {
        let entries = vec![(Key::new("b", "k").unwrap(), 0x1122)];
        let hold = Question::Hold { partitions: vec![3, 300], entries: entries.clone() };
        for question in [hold, Question::Forget { entries }] {
            let mut bytes = Vec::new();
            question.encode(&mut bytes);
            assert_eq!(Question::decode(&mut Decoder::new(&bytes)), Ok(question));
        }
        let process = Process { node: NodeId(7), generation: 2 };
        let holding = Holding {
            process,
            generation: 3,
            began_ms: 5,
            ended_ms: 900,
            hinted: vec![300],
            held: vec![0],
        };
        for answer in [Answer::Holding(holding), Answer::Forgotten(9)] {
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            assert_eq!(Answer::decode(&mut Decoder::new(&bytes)), Ok(answer));
        }
        assert!(Question::decode(&mut Decoder::new(&[2])).is_err());
        assert!(Answer::decode(&mut Decoder::new(&[2])).is_err());
        // More than a message may name.
        let mut bytes = vec![1];
        bytes.put_varint(KEYS_MAX as u64 + 1);
        bytes.resize(20_000, 0);
        assert!(Question::decode(&mut Decoder::new(&bytes)).is_err());
    }
}
