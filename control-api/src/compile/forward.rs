//! Looking up sorted keys in a map, one after the other: one comparison each, where a map looked into anew takes many.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

/// A map, and how far it is looked through.
pub(super) struct Forward<'a, K, V> {
    rest: Peekable<btree_map::Iter<'a, K, V>>,
}

impl<'a, K: Ord, V> Forward<'a, K, V> {
    pub(super) fn new(map: &'a BTreeMap<K, V>) -> Self {
        Self { rest: map.iter().peekable() }
    }

    /// The value of a key, which must be greater than those that were asked for before.
    pub(super) fn find(&mut self, key: &K) -> Option<&'a V> {
        while let Some((next, value)) = self.rest.peek() {
            match (*next).cmp(key) {
                Ordering::Less => drop(self.rest.next()),
                Ordering::Equal => return Some(value),
                Ordering::Greater => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_keys_are_found() {
        let map: BTreeMap<_, _> = [(1, 'a'), (3, 'c'), (5, 'e')].into();
        let mut forward = Forward::new(&map);
        let found: Vec<_> = [0, 1, 2, 3, 4, 5, 6].iter().filter_map(|key| forward.find(key)).collect();
        assert_eq!(found, [&'a', &'c', &'e']);
    }
}
