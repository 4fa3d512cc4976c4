//! One block: packing and unpacking it, and finding entries in it. The bytes are in the [parent](super).
//!
//! Nothing here trusts what it reads: a checksum guards against accidents, not against a file that
//! somebody made. Every offset is checked where it is used, and wrong ones are an error in words.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use super::Origin;
use crate::domain::codec::{DecodeError, Decoder, Encode};
use crate::domain::key::{Key, Token};

pub(super) const HEADER_BYTES: usize = 13;
/// Every so many entries one that shares nothing: a search walks over at most so many heads.
const RESTART_EVERY: usize = 16;
const STORED: u8 = 0;
const LZ4: u8 = 1;
/// No LZ4 block unpacks to more than this many times its length: what says otherwise is refused
/// before memory is taken for it.
const LZ4_RATIO_MAX: usize = 255;

/// What is wrong with a block, in words.
pub(super) type Flaw = &'static str;

/// Gathers entries, then packs them into a block. Kept from block to block for its memory.
pub(super) struct Builder {
    heads: Vec<u8>,
    objects: Vec<u8>,
    /// Offsets of a head and of its object, each from the start of its own buffer.
    restarts: Vec<(u32, u32)>,
    /// The name at the last restart.
    base: Vec<u8>,
    entries: usize,
    table: CompressTable,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            heads: Vec::new(),
            objects: Vec::new(),
            restarts: Vec::new(),
            base: Vec::new(),
            entries: 0,
            table: CompressTable::large(),
        }
    }

    /// Adds an entry, whose object `put_object` appends.
    pub(super) fn push(&mut self, key: &Key, put_object: impl FnOnce(&mut Vec<u8>)) {
        let start = self.objects.len();
        put_object(&mut self.objects);
        let object_bytes = self.objects.len() - start;
        let mut shared = 0;
        if self.entries.is_multiple_of(RESTART_EVERY) {
            self.restarts.push((offset(self.heads.len()), offset(start)));
            self.base.clear();
            self.base.extend_from_slice(key.raw());
        } else {
            shared = self.base.iter().zip(key.raw()).take_while(|(a, b)| a == b).count();
        }
        let rest = &key.raw()[shared..];
        self.heads.put_u64(key.token().0);
        self.heads.put_varint(shared as u64);
        self.heads.put_varint(rest.len() as u64);
        self.heads.put_varint(object_bytes as u64);
        self.heads.put_slice(rest);
        self.entries += 1;
    }

    /// Bytes of the payload so far.
    pub(super) fn payload_bytes(&self) -> usize {
        self.heads.len() + self.objects.len() + 8 * self.restarts.len() + 4
    }

    /// Appends the block to `out` and starts the next one. It will be at `offset` of the file. Returns its bytes
    /// in the file and those of its payload.
    pub(super) fn seal(&mut self, origin: Origin, at: u64, out: &mut BytesMut) -> (usize, usize) {
        let mut payload = std::mem::take(&mut self.heads);
        let objects_at = offset(payload.len());
        payload.append(&mut self.objects);
        for (head, object) in self.restarts.drain(..) {
            payload.put_u32(head);
            payload.put_u32(objects_at + object);
        }
        payload.put_u32(offset(self.entries));
        self.entries = 0;

        let start = out.len();
        out.resize(start + HEADER_BYTES + get_maximum_output_size(payload.len()), 0);
        let room = &mut out[start + HEADER_BYTES..];
        let packed = compress_into_with_table(&payload, room, &mut self.table);
        let (kind, stored) = match packed {
            Ok(packed) if packed <= payload.len() - payload.len() / 8 => (LZ4, packed),
            Ok(_) | Err(_) => {
                room[..payload.len()].copy_from_slice(&payload);
                (STORED, payload.len())
            }
        };
        out.truncate(start + HEADER_BYTES + stored);
        let block = &mut out[start..];
        block[4] = kind;
        block[5..9].copy_from_slice(&offset(stored).to_be_bytes());
        block[9..13].copy_from_slice(&offset(payload.len()).to_be_bytes());
        let crc = checksum(origin, at, block);
        block[..4].copy_from_slice(&crc.to_be_bytes());
        let sizes = (block.len(), payload.len());
        payload.clear();
        self.heads = payload;
        sizes
    }
}

/// Objects are below 1 GiB each (asserted by the writer), and a block is closed by the first that fills it.
fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("a block is far below 4 GiB")
}

fn checksum(origin: Origin, at: u64, block: &[u8]) -> u32 {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&origin.folder.0.to_be_bytes());
    place[8..16].copy_from_slice(&origin.table.0.to_be_bytes());
    place[16..].copy_from_slice(&at.to_be_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place);
    crc.update(&block[4..]);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// The payload of the block `stored`, which is to be at `at` of its file. It shares the memory of
/// `stored` when it is not compressed; otherwise `room` makes some, of the length asked for at least.
pub(super) fn unpack(
    origin: Origin,
    at: u64,
    stored: &Bytes,
    room: impl FnOnce(usize) -> BytesMut,
) -> Result<Bytes, Flaw> {
    let header = (u32_at(stored, 0), u32_at(stored, 5), u32_at(stored, 9));
    let ((Some(crc), Some(stored_len), Some(len)), Some(&kind)) = (header, stored.get(4)) else {
        return Err("it is shorter than its header");
    };
    if checksum(origin, at, stored) != crc {
        return Err("its checksum does not match");
    }
    unpack_parts(stored, kind, (stored_len, len), room)
}

/// [`unpack`] of a block whose checksum may be any.
#[cfg(any(test, fuzzing))]
pub(super) fn unpack_unchecked(stored: &Bytes) -> Result<Bytes, Flaw> {
    match (stored.get(4), u32_at(stored, 5), u32_at(stored, 9)) {
        (Some(&kind), Some(stored_len), Some(len)) => {
            unpack_parts(stored, kind, (stored_len, len), BytesMut::zeroed)
        }
        (_, _, _) => Err("it is shorter than its header"),
    }
}

fn unpack_parts(
    stored: &Bytes,
    kind: u8,
    (stored_len, len): (u32, u32),
    room: impl FnOnce(usize) -> BytesMut,
) -> Result<Bytes, Flaw> {
    let payload = &stored[HEADER_BYTES..];
    if payload.len() as u64 != u64::from(stored_len) {
        return Err("its length is not that of the index");
    }
    match kind {
        STORED if len == stored_len => Ok(stored.slice(HEADER_BYTES..)),
        LZ4 => {
            let len = len as usize;
            if len > payload.len().saturating_mul(LZ4_RATIO_MAX) {
                return Err("it unpacks to more than it can");
            }
            let mut out = room(len);
            out.truncate(len);
            match decompress_into(payload, &mut out) {
                Ok(unpacked) if unpacked == len => Ok(out.freeze()),
                Ok(_) | Err(_) => Err("it cannot be unpacked"),
            }
        }
        _ => Err("it is packed in an unknown way"),
    }
}

/// An unpacked block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    bytes: Bytes,
    entries: usize,
    /// Where the objects start.
    objects_at: usize,
    /// Where they end, and the restarts start.
    restarts_at: usize,
}

/// The parts of an entry, as places in its block.
#[derive(Clone, Debug)]
pub(super) struct Place {
    token: Token,
    /// The part of the name that it shares with a restart's.
    shared: Range<usize>,
    rest: Range<usize>,
    object: Range<usize>,
}

impl Block {
    /// Looks at the payload's frame.
    pub(super) fn new(bytes: Bytes) -> Result<Self, Flaw> {
        const FLAW: Flaw = "its restarts are not valid";
        let count_at = bytes.len().checked_sub(4).ok_or(FLAW)?;
        let entries = u32_at(&bytes, count_at).ok_or(FLAW)? as usize;
        let restarts = entries.div_ceil(RESTART_EVERY);
        let restarts_at =
            restarts.checked_mul(8).and_then(|n| count_at.checked_sub(n)).ok_or(FLAW)?;
        let mut block = Self { bytes, entries, objects_at: 0, restarts_at };
        block.objects_at = block.restart(0)?.1;
        let valid = entries > 0 && block.objects_at <= restarts_at;
        if valid { Ok(block) } else { Err(FLAW) }
    }

    /// Where the restart's head and object are said to be.
    fn restart(&self, restart: usize) -> Result<(usize, usize), Flaw> {
        let at = self.restarts_at + 8 * restart;
        match (u32_at(&self.bytes, at), u32_at(&self.bytes, at + 4)) {
            (Some(head), Some(object)) => Ok((head as usize, object as usize)),
            (_, _) => Err("its restarts are not valid"),
        }
    }

    /// A walk from a restart on.
    fn walk(&self, restart: usize) -> Result<Walk, Flaw> {
        let (head_at, object_at) = self.restart(restart)?;
        Ok(Walk { entry: restart * RESTART_EVERY, head_at, object_at, base: 0..0 })
    }

    /// A walk from the first entry on.
    pub(super) fn walk_all(&self) -> Result<Walk, Flaw> {
        self.walk(0)
    }

    /// A walk from an entry on that is not above this place, and at most 15 entries before it.
    pub(super) fn walk_towards(&self, token: Token, raw: &[u8]) -> Result<Walk, Flaw> {
        let (mut low, mut high) = (0, self.entries.div_ceil(RESTART_EVERY));
        while low < high {
            let middle = low + (high - low) / 2;
            let place = self.walk(middle)?.next(self)?.ok_or("its restarts are not valid")?;
            if self.order(&place, token, raw).is_le() { low = middle + 1 } else { high = middle }
        }
        self.walk(low.saturating_sub(1))
    }

    /// How the entry compares with a key's token and raw form.
    pub(super) fn order(&self, place: &Place, token: Token, raw: &[u8]) -> Ordering {
        place.token.cmp(&token).then_with(|| {
            let shared = &self.bytes[place.shared.clone()];
            let (front, back) = raw.split_at(shared.len().min(raw.len()));
            shared.cmp(front).then_with(|| self.bytes[place.rest.clone()].cmp(back))
        })
    }

    /// The payload.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The object under the key with this token and raw form, encoded.
    pub(super) fn get(&self, token: Token, raw: &[u8]) -> Result<Option<&[u8]>, Flaw> {
        let mut walk = self.walk_towards(token, raw)?;
        while let Some(place) = walk.next(self)? {
            match self.order(&place, token, raw) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(&self.bytes[place.object])),
                Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The entry's object, encoded; it shares the block's memory.
    pub(super) fn object(&self, place: &Place) -> Bytes {
        self.bytes.slice(place.object.clone())
    }

    /// The entry's key, copied.
    pub(super) fn key(&self, place: &Place) -> Result<Key, Flaw> {
        let mut raw = Vec::with_capacity(place.shared.len() + place.rest.len());
        raw.extend_from_slice(&self.bytes[place.shared.clone()]);
        raw.extend_from_slice(&self.bytes[place.rest.clone()]);
        Key::from_raw(place.token, raw.into()).map_err(|_| "one of its keys is not valid")
    }
}

/// Goes over a block's entries, in order.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    entry: usize,
    head_at: usize,
    object_at: usize,
    /// The name at the last restart.
    base: Range<usize>,
}

impl Walk {
    /// The next entry of `block`, which is the one that the walk was made of; `None` at its end. The
    /// places are within the block.
    pub(super) fn next(&mut self, block: &Block) -> Result<Option<Place>, Flaw> {
        const FLAW: Flaw = "one of its entries is not valid";
        if self.entry == block.entries {
            let whole = self.head_at == block.objects_at && self.object_at == block.restarts_at;
            return if whole { Ok(None) } else { Err("its entries do not fill it") };
        }
        let heads = block.bytes.get(self.head_at..block.objects_at).ok_or(FLAW)?;
        let mut from = Decoder::new(heads);
        let (token, shared, object_bytes, rest) = decode_head(&mut from).map_err(|_| FLAW)?;
        let rest_end = block.objects_at - from.remaining();
        let rest = rest_end - rest..rest_end;
        if self.entry.is_multiple_of(RESTART_EVERY) {
            let restart = block.restart(self.entry / RESTART_EVERY)?;
            if restart != (self.head_at, self.object_at) || shared != 0 {
                return Err(FLAW);
            }
            self.base = rest.clone();
        }
        let object_end = self.object_at.checked_add(object_bytes).ok_or(FLAW)?;
        let in_order = block.objects_at <= self.object_at && object_end <= block.restarts_at;
        if shared > self.base.len() || !in_order {
            return Err(FLAW);
        }
        let shared = self.base.start..self.base.start + shared;
        let place = Place { token, shared, rest, object: self.object_at..object_end };
        (self.entry, self.head_at, self.object_at) = (self.entry + 1, rest_end, object_end);
        Ok(Some(place))
    }
}

/// Takes a head: token, shared, length of the object, length of the rest of the name.
fn decode_head(from: &mut Decoder<'_>) -> Result<(Token, usize, usize, usize), DecodeError> {
    let length = |value: u64| usize::try_from(value).map_err(|_| DecodeError::Invalid("length"));
    let token = Token(from.u64("token")?);
    let shared = length(from.varint("shared")?)?;
    let rest = length(from.varint("rest")?)?;
    let object = length(from.varint("object")?)?;
    from.take(rest, "name")?;
    Ok((token, shared, object, rest))
}
