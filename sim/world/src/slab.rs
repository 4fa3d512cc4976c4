//! A table that hands out ids which are never reused: what stands behind every handle.
//!
//! Iteration follows the slots' order, which depends on the program alone.

use std::marker::PhantomData;

/// The id of an entry: its slot and how often the slot was used before.
pub(crate) struct Id<T> {
    slot: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot && self.generation == other.generation
    }
}

impl<T> Eq for Id<T> {}

impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// Entries by id.
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 entries at once")
        });
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(value);
        Id { slot, generation: entry.0, of: PhantomData }
    }

    pub(crate) fn get(&self, id: Id<T>) -> Option<&T> {
        let (generation, value) = &self.slots[id.slot as usize];
        if *generation == id.generation { value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        let (generation, value) = &mut self.slots[id.slot as usize];
        if *generation == id.generation { value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let (generation, value) = &mut self.slots[id.slot as usize];
        if *generation != id.generation {
            return None;
        }
        let value = value.take()?;
        *generation += 1;
        self.free.push(id.slot);
        Some(value)
    }

    /// The ids of the entries that `keep` picks, in the order of their slots.
    pub(crate) fn ids_where(&self, keep: impl Fn(&T) -> bool) -> Vec<Id<T>> {
        let entries = self.slots.iter().enumerate();
        entries
            .filter(|(_, (_, value))| value.as_ref().is_some_and(&keep))
            .map(|(slot, (generation, _))| Id {
                slot: u32::try_from(slot).expect("fewer than 2^32 entries at once"),
                generation: *generation,
                of: PhantomData,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_id_stays_dead_when_its_slot_is_used_again() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.ids_where(|_| true), vec![second]);
    }
}
