//! The answering side of an exchange: each answer follows from the question and what this replica holds
//! now. It remembers nothing between two questions, so an asker that goes away costs nothing.

use std::sync::Arc;

use super::message::{HASHES_MAX, KEYS_MAX, KeysAnswer, OBJECTS_BYTES, Root, Verdict};
use super::tree::{LEVEL_STEP, Tree};
use crate::domain::key::Key;
use crate::domain::object::Object;

/// What a replica holds under a key.
#[derive(Clone, Debug)]
pub struct Held {
    /// The key.
    pub key: Key,
    /// What is under it.
    pub object: Arc<Object>,
    /// It was written a moment ago, and may be under way.
    pub recent: bool,
    /// This copy is in doubt: nothing is told of it, see [`vouching`](super::vouching).
    pub doubtful: bool,
}

/// Compares the asker's root with `tree`. `room`: how many hashes the answer has room for, in which those of this verdict are counted.
pub fn root(tree: Option<&Tree>, asked: Root, room: &mut usize) -> Verdict {
    let Some(tree) = tree else { return Verdict::NotReady };
    if tree.root() == asked.root {
        return Verdict::Equal;
    }
    let to = first_step(tree.depth(), asked.bits);
    let hashes = if *room >= 1 << to { tree.children(0, 0, to) } else { None };
    let hashes = hashes.unwrap_or_default();
    *room -= hashes.len();
    Verdict::Differs { bits: tree.depth(), hashes }
}

/// The level to which an exchange goes down first, between trees so deep.
fn first_step(mine: u8, theirs: u8) -> u8 {
    LEVEL_STEP.min(mine).min(theirs)
}

/// The hashes of level `to` under `parents` of `level`; `None`: the tree is not there or not so deep.
pub fn nodes(tree: Option<&Tree>, level: u8, to: u8, parents: &[u32]) -> Option<Vec<u64>> {
    let mut hashes = Vec::new();
    for parent in parents {
        hashes.extend(tree?.children(level, *parent, to)?);
        if hashes.len() > HASHES_MAX {
            return None;
        }
    }
    Some(hashes)
}

/// Compares the asker's key list with what is `held` in the same region, in order, which ends with `cut` if there
/// is more of it. With `thorough`, recent writes are differences too.
pub fn keys(entries: &[(Key, u64)], held: &[Held], cut: Option<Key>, thorough: bool) -> KeysAnswer {
    let mut answer = KeysAnswer { stopped_at: cut, ..KeysAnswer::default() };
    let (mut listed, mut bytes) = (entries.iter().enumerate().peekable(), 0);
    for Held { key, object, recent, doubtful } in held {
        while let Some((place, _)) = listed.next_if(|(_, (listed, _))| listed < key) {
            answer.want.push(place as u32);
        }
        let skip = *recent && !thorough;
        match listed.next_if(|(_, (listed, _))| listed == key) {
            Some((_, (_, digest))) if *digest == object.digest() => {}
            Some(_) | None if skip => answer.left_out += 1,
            Some((place, _)) if *doubtful => answer.want.push(place as u32),
            None if *doubtful => answer.left_out += 1,
            Some((place, _)) => answer.differ.push((place as u32, object.context().clone())),
            None => {
                bytes += key.size_bytes() + object.size_bytes();
                answer.fresh.push((key.clone(), object.clone()));
            }
        }
        if bytes >= OBJECTS_BYTES || answer.fresh.len() >= KEYS_MAX {
            answer.stopped_at = Some(key.clone());
            return answer;
        }
    }
    // What comes behind the cut was not looked at.
    let rest =
        listed.take_while(|(_, (key, _))| answer.stopped_at.as_ref().is_none_or(|cut| key <= cut));
    answer.want.extend(rest.map(|(place, _)| place as u32));
    answer
}
