//! What two replicas ask and tell each other in an exchange. Every message has one encoding and a bound.
//!
//! | question | bytes, about | what a lost copy costs |
//! |---|---|---|
//! | [`Roots`](Ask::Roots) | 40, and 11 for each further partition; the answer 1 for each that is equal | a retry |
//! | [`Nodes`](Ask::Nodes) | 30; the answer 1 KiB for each node that differs | a retry |
//! | [`Keys`](Ask::Keys) | a key and 8 bytes for each key of a leaf | a retry |
//! | [`Objects`](Ask::Objects) | the objects | a retry; to merge one twice changes nothing |

use std::sync::Arc;

use super::tree::LEVEL_MAX;
use crate::domain::causality::CausalContext;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::Key;
use crate::domain::object::Object;

/// Partitions that one question compares.
pub const ROOTS_MAX: usize = 256;
/// Hashes in one answer: 64 KiB.
pub const HASHES_MAX: usize = 8192;
/// Keys that one question lists.
pub const KEYS_MAX: usize = 512;
/// Runs of leaves that one question is about.
pub const SPANS_MAX: usize = 64;
/// A message takes no more objects once they have so many bytes.
pub const OBJECTS_BYTES: usize = 64 << 10;

/// A partition's root, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The partition's number.
    pub partition: u32,
    /// How deep the asker's tree is.
    pub bits: u8,
    /// Its root.
    pub root: u64,
}

/// A part of a partition: the keys behind `after` and up to `through` under some runs of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// The level of the nodes.
    pub level: u8,
    /// First and last node of each run, both included; in order, without overlap.
    pub spans: Vec<(u32, u32)>,
    /// Not this key and none before it; `None`: from the beginning.
    pub after: Option<Key>,
    /// No key behind this one; `None`: to the end.
    pub through: Option<Key>,
}

/// What the asking side of an exchange sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// First: do you hold the same?
    Roots {
        /// Somebody's copy is in doubt, so recent writes count as well.
        thorough: bool,
        /// [`ROOTS_MAX`] at the most.
        roots: Vec<Root>,
    },
    /// What are the hashes of `to` under these nodes of `level`?
    Nodes {
        /// The partition.
        partition: u32,
        /// The level of the parents.
        level: u8,
        /// The level of the hashes, not above that.
        to: u8,
        /// In order.
        parents: Vec<u32>,
    },
    /// These are all my keys in a region, with their objects' digests: what do you hold there?
    Keys {
        /// The partition.
        partition: u32,
        /// As for roots.
        thorough: bool,
        /// Where.
        region: Region,
        /// In order; [`KEYS_MAX`] at the most.
        entries: Vec<(Key, u64)>,
    },
    /// Merge these, and give me those.
    Objects {
        /// The partition.
        partition: u32,
        /// What the asker holds.
        put: Vec<(Key, Arc<Object>)>,
        /// What it wants.
        get: Vec<Key>,
    },
}

/// How one partition compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The roots are equal.
    Equal,
    /// The answering side has no tree yet, or is no home replica of it.
    NotReady,
    /// They differ.
    Differs {
        /// How deep the answering side's tree is.
        bits: u8,
        /// Its hashes of level [`LEVEL_STEP`](super::tree::LEVEL_STEP), or of the leaves where one of the two trees is less deep. Empty where
        /// the answer had no room: ask again.
        hashes: Vec<u64>,
    },
}

/// What the answering side holds in a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysAnswer {
    /// What the asker did not list.
    pub fresh: Vec<(Key, Arc<Object>)>,
    /// The places of listed keys whose objects differ, and what the answering side's have seen.
    pub differ: Vec<(u32, CausalContext)>,
    /// The places of listed keys that the answering side does not hold.
    pub want: Vec<u32>,
    /// The answer is about keys up to this one: the rest is to be asked again. `None`: about all.
    pub stopped_at: Option<Key>,
    /// Keys that were left out because they were written a moment ago.
    pub left_out: u32,
}

/// What the answering side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To roots: in their order.
    Roots(Vec<Verdict>),
    /// To nodes: for each parent its hashes.
    Nodes(Vec<u64>),
    /// To keys.
    Keys(KeysAnswer),
    /// To objects.
    Objects {
        /// What was wanted, and what became of a merge where that is not what was put.
        objects: Vec<(Key, Arc<Object>)>,
        /// So many of the wanted keys were looked at; the others are to be asked for again.
        looked_at: u32,
        /// The answering side's copy of some of these keys is in doubt: what it sends of them is the [fresh part](super::vouching).
        doubtful: bool,
    },
    /// The tree that the question is about is not there, or not so deep any more. Try again later.
    NotReady,
}

impl Ask {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        match self {
            Ask::Roots { thorough, roots } => {
                out.put_slice(&[0, u8::from(*thorough)]);
                out.put_varint(roots.len() as u64);
                for root in roots {
                    out.put_varint(u64::from(root.partition));
                    out.put_u8(root.bits);
                    out.put_u64(root.root);
                }
            }
            Ask::Nodes { partition, level, to, parents } => {
                out.put_u8(1);
                out.put_varint(u64::from(*partition));
                out.put_slice(&[*level, *to]);
                out.put_varint(parents.len() as u64);
                parents.iter().for_each(|node| out.put_varint(u64::from(*node)));
            }
            Ask::Keys { partition, thorough, region, entries } => {
                out.put_u8(2);
                out.put_varint(u64::from(*partition));
                out.put_u8(u8::from(*thorough));
                region.encode(out);
                out.put_varint(entries.len() as u64);
                for (key, digest) in entries {
                    key.encode(out);
                    out.put_u64(*digest);
                }
            }
            Ask::Objects { partition, put, get } => {
                out.put_u8(3);
                out.put_varint(u64::from(*partition));
                encode_objects(put, out);
                out.put_varint(get.len() as u64);
                get.iter().for_each(|key| key.encode(out));
            }
        }
    }

    /// Takes a question off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are none.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("question")? {
            0 => {
                let thorough = flag(from)?;
                let count = count(from, 10, ROOTS_MAX, "roots")?;
                let root = |_| {
                    let partition = u32_of(from)?;
                    Ok(Root { partition, bits: level(from)?, root: from.u64("root")? })
                };
                Ask::Roots { thorough, roots: (0..count).map(root).collect::<Result<_, _>>()? }
            }
            1 => {
                let (partition, low, to) = (u32_of(from)?, level(from)?, level(from)?);
                let count = count(from, 1, HASHES_MAX, "nodes")?;
                if low > to || count << (to - low) > HASHES_MAX {
                    return Err(DecodeError::Invalid("nodes"));
                }
                let parents = (0..count).map(|_| u32_of(from)).collect::<Result<_, _>>()?;
                Ask::Nodes { partition, level: low, to, parents }
            }
            2 => {
                let (partition, thorough) = (u32_of(from)?, flag(from)?);
                let region = Region::decode(from)?;
                let count = count(from, 12, KEYS_MAX, "keys")?;
                let entry = |_| Ok((Key::decode(from)?, from.u64("digest")?));
                let entries: Vec<(Key, u64)> = (0..count).map(entry).collect::<Result<_, _>>()?;
                if !entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                    return Err(DecodeError::Invalid("keys"));
                }
                Ask::Keys { partition, thorough, region, entries }
            }
            3 => {
                let (partition, put) = (u32_of(from)?, decode_objects(from)?);
                let count = count(from, 4, KEYS_MAX, "wanted keys")?;
                let get = (0..count).map(|_| Key::decode(from)).collect::<Result<_, _>>()?;
                Ask::Objects { partition, put, get }
            }
            _ => return Err(DecodeError::Invalid("question")),
        })
    }
}

impl Region {
    fn encode(&self, out: &mut impl Encode) {
        out.put_u8(self.level);
        out.put_varint(self.spans.len() as u64);
        for (first, last) in &self.spans {
            out.put_varint(u64::from(*first));
            out.put_varint(u64::from(*last));
        }
        encode_key(self.after.as_ref(), out);
        encode_key(self.through.as_ref(), out);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let level = level(from)?;
        let count = count(from, 2, SPANS_MAX, "spans")?;
        let mut spans = Vec::with_capacity(count);
        let mut least = 0;
        for _ in 0..count {
            let (first, last) = (u32_of(from)?, u32_of(from)?);
            if first < least || last < first || last >> level != 0 {
                return Err(DecodeError::Invalid("spans"));
            }
            least = last + 1;
            spans.push((first, last));
        }
        Ok(Self { level, spans, after: decode_key(from)?, through: decode_key(from)? })
    }
}

impl Answer {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        match self {
            Answer::Roots(verdicts) => {
                out.put_u8(0);
                out.put_varint(verdicts.len() as u64);
                for verdict in verdicts {
                    match verdict {
                        Verdict::Equal => out.put_u8(0),
                        Verdict::NotReady => out.put_u8(1),
                        Verdict::Differs { bits, hashes } => {
                            out.put_slice(&[2, *bits]);
                            encode_hashes(hashes, out);
                        }
                    }
                }
            }
            Answer::Nodes(hashes) => {
                out.put_u8(1);
                encode_hashes(hashes, out);
            }
            Answer::Keys(keys) => {
                out.put_u8(2);
                keys.encode(out);
            }
            Answer::Objects { objects, looked_at, doubtful } => {
                out.put_u8(3);
                encode_objects(objects, out);
                out.put_varint(u64::from(*looked_at));
                out.put_u8(u8::from(*doubtful));
            }
            Answer::NotReady => out.put_u8(4),
        }
    }

    /// Takes an answer off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are none.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8("answer")? {
            0 => {
                let count = count(from, 1, ROOTS_MAX, "verdicts")?;
                let verdict = |_| {
                    Ok(match from.u8("verdict")? {
                        0 => Verdict::Equal,
                        1 => Verdict::NotReady,
                        2 => Verdict::Differs { bits: level(from)?, hashes: decode_hashes(from)? },
                        _ => return Err(DecodeError::Invalid("verdict")),
                    })
                };
                Answer::Roots((0..count).map(verdict).collect::<Result<_, _>>()?)
            }
            1 => Answer::Nodes(decode_hashes(from)?),
            2 => Answer::Keys(KeysAnswer::decode(from)?),
            3 => {
                let objects = decode_objects(from)?;
                Answer::Objects { objects, looked_at: u32_of(from)?, doubtful: flag(from)? }
            }
            4 => Answer::NotReady,
            _ => return Err(DecodeError::Invalid("answer")),
        })
    }
}

impl KeysAnswer {
    fn encode(&self, out: &mut impl Encode) {
        encode_objects(&self.fresh, out);
        out.put_varint(self.differ.len() as u64);
        for (place, seen) in &self.differ {
            out.put_varint(u64::from(*place));
            seen.encode(out);
        }
        out.put_varint(self.want.len() as u64);
        self.want.iter().for_each(|place| out.put_varint(u64::from(*place)));
        encode_key(self.stopped_at.as_ref(), out);
        out.put_varint(u64::from(self.left_out));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fresh = decode_objects(from)?;
        let differing = count(from, 2, KEYS_MAX, "differing keys")?;
        let one = |_| Ok((u32_of(from)?, CausalContext::decode(from)?));
        let differ = (0..differing).map(one).collect::<Result<_, _>>()?;
        let wanted = count(from, 1, KEYS_MAX, "wanted keys")?;
        let want = (0..wanted).map(|_| u32_of(from)).collect::<Result<_, _>>()?;
        let stopped_at = decode_key(from)?;
        Ok(Self { fresh, differ, want, stopped_at, left_out: u32_of(from)? })
    }
}

fn encode_objects(objects: &[(Key, Arc<Object>)], out: &mut impl Encode) {
    out.put_varint(objects.len() as u64);
    for (key, object) in objects {
        key.encode(out);
        object.encode(out);
    }
}

fn decode_objects(from: &mut Decoder<'_>) -> Result<Vec<(Key, Arc<Object>)>, DecodeError> {
    let count = from.count(8, "objects")?;
    let object = |_| Ok((Key::decode(from)?, Arc::new(Object::decode(from)?)));
    (0..count).map(object).collect()
}

fn encode_hashes(hashes: &[u64], out: &mut impl Encode) {
    out.put_varint(hashes.len() as u64);
    hashes.iter().for_each(|hash| out.put_u64(*hash));
}

fn decode_hashes(from: &mut Decoder<'_>) -> Result<Vec<u64>, DecodeError> {
    let count = count(from, 8, HASHES_MAX, "hashes")?;
    (0..count).map(|_| from.u64("hash")).collect()
}

fn encode_key(key: Option<&Key>, out: &mut impl Encode) {
    out.put_u8(u8::from(key.is_some()));
    if let Some(key) = key {
        key.encode(out);
    }
}

fn decode_key(from: &mut Decoder<'_>) -> Result<Option<Key>, DecodeError> {
    Ok(if flag(from)? { Some(Key::decode(from)?) } else { None })
}

fn flag(from: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    match from.u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("flag")),
    }
}

fn level(from: &mut Decoder<'_>) -> Result<u8, DecodeError> {
    let level = from.u8("level")?;
    if level > LEVEL_MAX { Err(DecodeError::Invalid("level")) } else { Ok(level) }
}

fn u32_of(from: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    u32::try_from(from.varint("number")?).map_err(|_| DecodeError::Invalid("number"))
}

fn count(
    from: &mut Decoder<'_>,
    each: usize,
    most: usize,
    what: &'static str,
) -> Result<usize, DecodeError> {
    let count = from.count(each, what)?;
    if count > most { Err(DecodeError::Invalid(what)) } else { Ok(count) }
}
