//! Finds the first route that matches without trying them all.
//!
//! Routes are tried in order and the first match wins. The index keeps that meaning and skips the routes whose
//! path cannot match: exact paths are found by hash, prefixes by a binary search and a walk from the longest
//! prefix of the path to its shorter ones, and only what is neither (regular expressions, paths without regard
//! to case) is tried one after the other.

use rustc_hash::FxHashMap;

/// What an entry says about the path.
#[derive(Clone, Copy, Debug)]
pub enum PathKey<'a> {
    /// The path is this.
    Exact(&'a str),
    /// The path begins with this.
    Prefix(&'a str),
    /// Anything may match.
    Any,
}

/// The positions of routes, by their paths.
#[derive(Debug, Default)]
pub struct RouteIndex {
    exact: FxHashMap<Box<str>, Vec<u32>>,
    /// Sorted by prefix.
    prefixes: Vec<PrefixNode>,
    other: Vec<u32>,
}

#[derive(Debug)]
struct PrefixNode {
    prefix: Box<str>,
    /// The longest other prefix that this one begins with.
    parent: Option<u32>,
    routes: Vec<u32>,
}

impl RouteIndex {
    /// Builds the index over keys in the order of the routes.
    pub fn new<'a>(keys: impl Iterator<Item = PathKey<'a>>) -> Self {
        let mut index = Self::default();
        let mut prefixes: FxHashMap<&str, Vec<u32>> = FxHashMap::default();
        for (position, key) in (0_u32..).zip(keys) {
            match key {
                PathKey::Exact(path) => index.exact.entry(path.into()).or_default().push(position),
                PathKey::Prefix(prefix) => prefixes.entry(prefix).or_default().push(position),
                PathKey::Any => index.other.push(position),
            }
        }
        let mut sorted: Vec<_> = prefixes.into_iter().collect();
        sorted.sort_unstable_by_key(|(prefix, _)| *prefix);
        for (prefix, routes) in sorted {
            let parent = index.longest_prefix_of(prefix, index.prefixes.len());
            index.prefixes.push(PrefixNode { prefix: prefix.into(), parent, routes });
        }
        index
    }

    /// The first position, in order, that `accept` takes, among those whose path can match.
    ///
    /// `accept` must check the rest of the route's conditions, the path included.
    pub fn first(&self, path: &str, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let exact = self.exact.get(path).map_or(&[][..], Vec::as_slice);
        let mut best = first_below(exact, u32::MAX, &mut accept);
        let mut node = self.longest_prefix_of(path, self.prefixes.len());
        while let Some(found) = node.and_then(|index| self.prefixes.get(index as usize)) {
            best = first_below(&found.routes, best, &mut accept);
            node = found.parent;
        }
        best = first_below(&self.other, best, &mut accept);
        (best != u32::MAX).then_some(best)
    }

    /// The longest of the first `count` prefixes that `path` begins with.
    fn longest_prefix_of(&self, path: &str, count: usize) -> Option<u32> {
        let nodes = self.prefixes.get(..count)?;
        let after = nodes.partition_point(|node| *node.prefix <= *path);
        let mut candidate = u32::try_from(after.checked_sub(1)?).ok();
        // All prefixes of `path` stand before it in the order, the longest last; between them may be others,
        // which share a beginning with it, so that their parents lead to it.
        while let Some(index) = candidate {
            let node = nodes.get(index as usize)?;
            if path.starts_with(&*node.prefix) {
                return Some(index);
            }
            candidate = node.parent;
        }
        None
    }
}

/// The first of the ascending positions below `best` that is accepted, or `best`.
fn first_below(positions: &[u32], best: u32, accept: &mut impl FnMut(u32) -> bool) -> u32 {
    positions
        .iter()
        .copied()
        .take_while(|position| *position < best)
        .find(|position| accept(*position))
        .unwrap_or(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Key {
        Exact(String),
        Prefix(String),
        Any,
    }

    fn matches(key: &Key, path: &str) -> bool {
        match key {
            Key::Exact(exact) => exact == path,
            Key::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Key::Any => true,
        }
    }

    fn index(keys: &[Key]) -> RouteIndex {
        RouteIndex::new(keys.iter().map(|key| match key {
            Key::Exact(path) => PathKey::Exact(path),
            Key::Prefix(prefix) => PathKey::Prefix(prefix),
            Key::Any => PathKey::Any,
        }))
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            "/[ab/]{0,5}".prop_map(Key::Exact),
            "/[ab/]{0,5}".prop_map(Key::Prefix),
            Just(Key::Prefix(String::new())),
            Just(Key::Any),
        ]
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            keys in proptest::collection::vec((key(), any::<bool>()), 0..40),
            path in "/[ab/]{0,7}",
        ) {
            let only_keys: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
            let accept = |position: u32| {
                let (key, taken) = &keys[position as usize];
                *taken && matches(key, &path)
            };
            let scanned = (0..u32::try_from(keys.len()).unwrap()).find(|position| accept(*position));
            prop_assert_eq!(index(&only_keys).first(&path, accept), scanned);
        }
    }

    #[test]
    fn few_of_many_routes_are_looked_at() {
        let keys: Vec<Key> = (0..10_000).map(|n| Key::Prefix(format!("/service/{n}/"))).collect();
        let index = index(&keys);
        let mut looked = 0;
        let found = index.first("/service/9999/x", |_| {
            looked += 1;
            true
        });
        assert_eq!((found, looked), (Some(9999), 1));
    }
}
