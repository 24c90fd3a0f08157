//! A store whose entries keep their place, so that others refer to them by a small index.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use crate::base::growth::push;

/// Entries at stable indices; the place of a removed one is used again.
#[derive(Debug)]
pub struct Slab<T, K = T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
    of: PhantomData<fn() -> K>,
}

/// Where an entry of a [`Slab`] of `T` lives. Whoever keeps one drops it when the entry goes.
pub struct Slot<T> {
    index: u32,
    of: PhantomData<fn() -> T>,
}

impl<T, K> Slab<T, K> {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            of: PhantomData,
        }
    }

    /// Adds an entry.
    pub fn insert(&mut self, entry: T) -> Slot<K> {
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = Some(entry);
                index
            }
            None => {
                push(&mut self.entries, Some(entry));
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 entries")
            }
        };
        Slot {
            index,
            of: PhantomData,
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, slot: Slot<K>) -> Option<T> {
        let entry = self.entries.get_mut(slot.index as usize)?.take()?;
        self.free.push(slot.index);
        Some(entry)
    }

    /// The entry, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: Slot<K>) -> Option<&T> {
        self.entries.get(slot.index as usize)?.as_ref()
    }

    /// The entry, if it is still there.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, slot: Slot<K>) -> Option<&mut T> {
        self.entries.get_mut(slot.index as usize)?.as_mut()
    }

    /// Every entry and its place, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Slot<K>, &T)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let slot = Slot {
                index,
                of: PhantomData,
            };
            Some((slot, entry.as_ref()?))
        })
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T, K> Default for Slab<T, K> {
    fn default() -> Self {
        Self::new()
    }
}

// Not derived: a slot is a number whatever `T` is.
impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

impl<T> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for Slot<T> {}

impl<T> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// In the order of their places.
impl<T> Ord for Slot<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.index.cmp(&other.index)
    }
}

impl<T> Hash for Slot<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_stable_and_used_again() {
        let mut slab = Slab::<_>::new();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!((slab.get(a), slab.get(b)), (None, Some(&"b")));
        assert_eq!(slab.remove(a), None, "only once");
        assert_eq!(slab.len(), 1);
        let c = slab.insert("c");
        assert_eq!(c, a);
        assert_eq!(slab.get_mut(c), Some(&mut "c"));
        assert_eq!(slab.len(), 2);
    }
}
