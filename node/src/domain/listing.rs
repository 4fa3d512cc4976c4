//! Listing the keys with a prefix: what is asked of each replica, and how their pages become one.
//!
//! The prefix holds a whole `{tag}`, so all keys with it have one token: they live on the same home replicas, in the
//! order of their names. A replica answers with a page: its first entries from some key on, and how far that goes.
//!
//! ```text
//! replica 1   a  b  d | e …        covers up to d      a page ends where it is full,
//! replica 2   a  c  | f …          covers up to c      or where nothing is left
//! together    a  b  c |            up to c: whether there is a d, replica 2 has not said
//! ```
//!
//! So the merge covers what every page covers, and leaves the rest to the next page; no key of any replica is skipped
//! (property test). Each key is merged as in a read, and whoever lacks something of it is repaired.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::codec::{DecodeError, Decoder, Encode};
use super::key::Key;
use super::object::Object;
use super::policy::Policy;
use super::quorum::{ReadAnswer, ReadTally};
use super::ring::NodeIndex;

/// Which keys are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Bucket and prefix, which holds a whole tag.
    pub prefix: Key,
    /// Only keys behind this one, in the direction of the listing; `None`: from the start.
    pub after: Option<Key>,
    /// From the last key to the first.
    pub reverse: bool,
    /// Entries of a page at the most.
    pub entries: u32,
    /// Bytes of a page, at about the most.
    pub bytes: u32,
}

/// What a replica holds of the keys that are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order of the listing.
    pub entries: Vec<(Key, Arc<Object>)>,
    /// There is, or may be, more behind the last entry.
    pub more: bool,
}

impl Listing {
    /// The bounds of the keys that are asked for, the lower first. All keys between them have the prefix.
    pub fn bounds(&self) -> (Bound<Key>, Bound<Key>) {
        let low = Bound::Included(self.prefix.clone());
        let high = Bound::Excluded(self.prefix.behind_extensions());
        match &self.after {
            None => (low, high),
            Some(after) if self.holds(after) => match self.reverse {
                true => (low, Bound::Excluded(after.clone())),
                false => (Bound::Excluded(after.clone()), high),
            },
            // Before all of them, or behind: then nothing is left.
            Some(after) if (*after < self.prefix) != self.reverse => (low, high),
            Some(_) => {
                let prefix = self.prefix.clone();
                (Bound::Included(prefix.clone()), Bound::Excluded(prefix))
            }
        }
    }

    /// Whether `key` has the prefix.
    pub fn holds(&self, key: &Key) -> bool {
        key.token() == self.prefix.token() && key.raw().starts_with(self.prefix.raw())
    }

    /// The next page of the same listing, behind `last`.
    #[must_use]
    pub fn behind(&self, last: Key) -> Self {
        Self { after: Some(last), ..self.clone() }
    }

    /// Whether `key` comes no later than `other`.
    fn is_up_to(&self, key: &Key, other: &Key) -> bool {
        if self.reverse { key >= other } else { key <= other }
    }
}

/// Set in a listing's byte of flags when it goes from the last key to the first.
const REVERSE: u8 = 1;
/// Set in it when a key follows.
const BEHIND: u8 = 2;

impl Listing {
    /// Appends the listing's one encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        self.prefix.encode(out);
        let flag = |holds: bool, bit: u8| if holds { bit } else { 0 };
        out.put_u8(flag(self.reverse, REVERSE) | flag(self.after.is_some(), BEHIND));
        if let Some(after) = &self.after {
            after.encode(out);
        }
        out.put_varint(self.entries.into());
        out.put_varint(self.bytes.into());
    }

    /// Takes a listing off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not the one encoding of a listing.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let prefix = Key::decode(from)?;
        let flags = from.u8("flags of a listing")?;
        if flags & !(REVERSE | BEHIND) != 0 || !prefix.is_tagged() {
            return Err(DecodeError::Invalid("listing"));
        }
        let after = if flags & BEHIND != 0 { Some(Key::decode(from)?) } else { None };
        let number = |from: &mut Decoder<'_>| {
            let number = u32::try_from(from.varint("size of a page")?);
            number.map_err(|_| DecodeError::Invalid("size of a page"))
        };
        let (entries, bytes) = (number(from)?, number(from)?);
        Ok(Self { prefix, after, reverse: flags & REVERSE != 0, entries, bytes })
    }
}

impl Page {
    /// Appends the page's one encoding.
    pub fn encode(&self, out: &mut impl Encode) {
        out.put_u8(self.more.into());
        out.put_varint(self.entries.len() as u64);
        for (key, object) in &self.entries {
            key.encode(out);
            object.encode(out);
        }
    }

    /// Takes a page off the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not the one encoding of a page.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let more = match from.u8("more")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("more")),
        };
        let count = from.count(6, "entries")?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push((Key::decode(from)?, Arc::new(Object::decode(from)?)));
        }
        Ok(Self { entries, more })
    }
}

/// The pages of several replicas as one.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// What each key holds, and who lacks something of it, in the order of the listing.
    pub entries: Vec<(Key, ReadAnswer)>,
    /// The last key that all pages cover; `None`: they cover all.
    pub through: Option<Key>,
}

/// Merges the pages of `listing` under its bucket's policy.
pub fn merge(listing: &Listing, policy: Policy, pages: &[(NodeIndex, Page)]) -> Merged {
    let ends = pages.iter().filter(|(_, page)| page.more);
    let ends = ends.filter_map(|(_, page)| page.entries.last().map(|(key, _)| key));
    let through = if listing.reverse { ends.max() } else { ends.min() };
    let mut keys: BTreeMap<&Key, Vec<Option<&Arc<Object>>>> = BTreeMap::new();
    for (at, (_, page)) in pages.iter().enumerate() {
        for (key, object) in &page.entries {
            if listing.holds(key) && through.is_none_or(|end| listing.is_up_to(key, end)) {
                keys.entry(key).or_insert_with(|| vec![None; pages.len()])[at] = Some(object);
            }
        }
    }
    let entries = keys.into_iter().map(|(key, objects)| {
        let mut tally = ReadTally::new(pages.len().max(1) as u8, pages.len() as u8);
        for ((node, _), object) in pages.iter().zip(objects) {
            tally.reply(*node, object.cloned());
        }
        (key.clone(), tally.answer(policy))
    });
    let mut entries: Vec<(Key, ReadAnswer)> = entries.collect();
    if listing.reverse {
        entries.reverse();
    }
    Merged { entries, through: through.cloned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::causality::{Actor, Dot, NodeId};
    use super::super::object::{Content, Sibling};
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("b", name).unwrap()
    }

    fn object(node: u64, counter: u64) -> Arc<Object> {
        let mut object = Object::new();
        for counter in 1..=counter {
            let dot = Dot { actor: Actor { node: NodeId(node), epoch: 1 }, counter };
            let content = Content::Value(format!("{node}.{counter}").into());
            let seen = object.context().clone();
            let new = Sibling { dot, content, written_at_ms: 0, expires_at_ms: None };
            object.write(&seen, new);
        }
        Arc::new(object)
    }

    type Replica = BTreeMap<Key, Arc<Object>>;

    fn listing(reverse: bool, entries: u32) -> Listing {
        Listing { prefix: key("{t}a"), after: None, reverse, entries, bytes: 1 << 20 }
    }

    fn page(replica: &Replica, listing: &Listing) -> Page {
        let (low, high) = listing.bounds();
        let within = replica.range((low, high)).map(|(key, object)| (key.clone(), object.clone()));
        let mut entries: Vec<_> = within.collect();
        if listing.reverse {
            entries.reverse();
        }
        let more = entries.len() > listing.entries as usize;
        entries.truncate(listing.entries as usize);
        Page { entries, more }
    }

    fn replicas() -> impl Strategy<Value = Vec<Replica>> {
        let name =
            prop_oneof!["\\{t\\}a[a-c]{0,3}", "\\{t\\}b?", Just("{t}a\u{10ffff}x".to_owned())];
        let entry = (name, 0..3_u64, 1..4_u64);
        let replica = prop::collection::vec(entry, 0..20).prop_map(|entries| {
            let entry = |(name, node, count): (String, u64, u64)| (key(&name), object(node, count));
            entries.into_iter().map(entry).collect::<Replica>()
        });
        prop::collection::vec(replica, 1..4)
    }

    proptest! {
        #[test]
        fn page_after_page_every_key_is_listed_once_merged_and_in_order(
            replicas in replicas(), reverse: bool, entries in 1..5_u32,
        ) {
            let mut listing = listing(reverse, entries);
            let mut listed: Vec<(Key, Object)> = Vec::new();
            loop {
                let asked = replicas.iter().enumerate();
                let pages: Vec<_> =
                    asked.map(|(at, replica)| (NodeIndex(at as u16), page(replica, &listing))).collect();
                let merged = merge(&listing, Policy::Siblings, &pages);
                for (key, answer) in merged.entries {
                    let object = answer.object.unwrap();
                    for (at, replica) in replicas.iter().enumerate() {
                        let lacks = replica.get(&key) != Some(&object);
                        prop_assert_eq!(answer.stale.contains(&NodeIndex(at as u16)), lacks);
                    }
                    listed.push((key, (*object).clone()));
                }
                match merged.through {
                    Some(last) => listing = listing.behind(last),
                    None => break,
                }
            }
            let all: BTreeSet<&Key> = replicas.iter().flat_map(Replica::keys).collect();
            let mut wanted: Vec<(Key, Object)> = Vec::new();
            for key in all.into_iter().filter(|key| listing.holds(key)) {
                let mut merged = Object::new();
                for object in replicas.iter().filter_map(|replica| replica.get(key)) {
                    merged.merge(object);
                }
                wanted.push((key.clone(), merged));
            }
            if reverse {
                wanted.reverse();
            }
            prop_assert_eq!(listed, wanted);
        }
    }

    #[test]
    fn a_start_outside_of_the_prefix_leaves_all_or_nothing() {
        for (reverse, after, all) in [
            (false, "{t}A", true),
            (false, "{t}b", false),
            (true, "{t}A", false),
            (true, "{t}b", true),
        ] {
            let listing = Listing { after: Some(key(after)), ..listing(reverse, 9) };
            let replica =
                Replica::from([(key("{t}a"), object(1, 1)), (key("{t}az"), object(1, 1))]);
            let found = page(&replica, &listing).entries.len();
            assert_eq!(found, if all { 2 } else { 0 }, "{after} {reverse}");
        }
    }
}
