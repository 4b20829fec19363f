//! Finds the first policy that matches without trying them all.
//!
//! A tree: each node tells its policies apart by one property of the subject (who, where to, which path, a header),
//! by exact values through a hash table, by beginnings of values through the longest one and what is shorter. Policies
//! that do not ask for the property are in a branch of their own. What is left at the leaves is tried one by one, and
//! that is little, unless policies differ only in what cannot be looked up: regular expressions, suffixes, negations.

use rustc_hash::FxHashMap;

use super::keys::{Dimension, Key, header_names};
use super::rule::{Rule, Subject};

/// So few policies are tried one by one.
const LEAF: usize = 4;
/// Headers by which policies are told apart; those that most of them ask for.
const MAX_HEADERS: usize = 8;
/// Places that policies may take in the tree beyond one each: those that ask for one of several values take one for
/// each. When they are used up, further ones count as not asking for the property.
const MAX_COPIES: usize = 1 << 20;
/// With more lengths of prefixes than that, the longest is found by a binary search instead of trying each length.
const MAX_LENGTHS: usize = 8;

/// The positions of policies.
#[derive(Debug)]
pub(super) struct Index(Node);

#[derive(Debug)]
enum Node {
    /// Ascending positions.
    Leaf(Box<[u32]>),
    Split(Box<Split>),
}

#[derive(Debug)]
struct Split {
    dimension: Dimension,
    exact: FxHashMap<Box<[u8]>, Node>,
    prefixes: Prefixes,
    /// Policies that do not ask for the property.
    other: Node,
}

#[derive(Debug, Default)]
struct Prefixes {
    /// Sorted by prefix.
    nodes: Vec<PrefixNode>,
    by_text: FxHashMap<Box<[u8]>, u32>,
    /// All lengths that there are, the longest first.
    lengths: Vec<usize>,
}

#[derive(Debug)]
struct PrefixNode {
    prefix: Box<[u8]>,
    /// The longest other prefix that this one begins with.
    parent: Option<u32>,
    node: Node,
}

impl Index {
    /// Builds the index over rules in the order in which they are to be tried.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a Rule> + Clone) -> Self {
        let count = u32::try_from(rules.clone().count()).unwrap_or(u32::MAX);
        let dimensions = Dimension::FIXED.into_iter().chain(headers(rules.clone()));
        let tables = dimensions.map(|dimension| {
            let keys: Vec<_> = rules.clone().map(|rule| dimension.keys(rule)).collect();
            Table { dimension, keys }
        });
        let tables: Vec<Table> = tables.filter(|table| table.keys.iter().any(Option::is_some)).collect();
        let left: Vec<&Table> = tables.iter().collect();
        Self(Builder { copies: MAX_COPIES }.node((0..count).collect(), &left))
    }

    /// The first position that `accept` takes. `accept` must check the whole rule.
    pub(super) fn first(&self, subject: &Subject<'_>, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        self.0.search(subject, &mut best, &mut accept);
        (best != u32::MAX).then_some(best)
    }
}

impl Node {
    fn search(&self, subject: &Subject<'_>, best: &mut u32, accept: &mut impl FnMut(u32) -> bool) {
        match self {
            Self::Leaf(positions) => {
                let mut earlier = positions.iter().copied().take_while(|position| *position < *best);
                if let Some(found) = earlier.find(|position| accept(*position)) {
                    *best = found;
                }
            }
            Self::Split(split) => {
                split.dimension.visit(subject, |value| {
                    if let Some(node) = split.exact.get(value) {
                        node.search(subject, best, accept);
                    }
                    let mut next = split.prefixes.longest(value);
                    while let Some(found) = next.and_then(|place| split.prefixes.nodes.get(place as usize)) {
                        found.node.search(subject, best, accept);
                        next = found.parent;
                    }
                });
                split.other.search(subject, best, accept);
            }
        }
    }
}

impl Prefixes {
    /// From prefixes with their nodes, sorted.
    fn new(sorted: Vec<(Box<[u8]>, Node)>) -> Self {
        let mut prefixes = Self::default();
        for (prefix, node) in sorted {
            let parent = search_longest(&prefixes.nodes, &prefix);
            let place = u32::try_from(prefixes.nodes.len()).unwrap_or(u32::MAX);
            prefixes.by_text.insert(prefix.clone(), place);
            prefixes.lengths.push(prefix.len());
            prefixes.nodes.push(PrefixNode { prefix, parent, node });
        }
        prefixes.lengths.sort_unstable_by(|left, right| right.cmp(left));
        prefixes.lengths.dedup();
        prefixes
    }

    /// The longest prefix that the value begins with.
    fn longest(&self, value: &[u8]) -> Option<u32> {
        if self.lengths.len() > MAX_LENGTHS {
            return search_longest(&self.nodes, value);
        }
        let beginnings = self.lengths.iter().filter_map(|length| value.get(..*length));
        beginnings.filter_map(|beginning| self.by_text.get(beginning)).next().copied()
    }
}

fn search_longest(nodes: &[PrefixNode], value: &[u8]) -> Option<u32> {
    let after = nodes.partition_point(|node| *node.prefix <= *value);
    let mut candidate = u32::try_from(after.checked_sub(1)?).ok();
    // All prefixes of the value stand before it in the order, the longest last; between them may be others, which
    // share a beginning with it, so that their parents lead to it.
    while let Some(place) = candidate {
        let node = nodes.get(place as usize)?;
        if value.starts_with(&node.prefix) {
            return Some(place);
        }
        candidate = node.parent;
    }
    None
}

/// The headers that most rules ask for.
fn headers<'a>(rules: impl Iterator<Item = &'a Rule>) -> impl Iterator<Item = Dimension> {
    let mut names = Vec::new();
    rules.for_each(|rule| header_names(rule, &mut names));
    let mut counts: FxHashMap<Box<[u8]>, usize> = FxHashMap::default();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    counts.into_iter().take(MAX_HEADERS).map(|(name, _)| Dimension::Header(name))
}

/// What all rules ask for of one property, by position.
struct Table {
    dimension: Dimension,
    keys: Vec<Option<Vec<Key>>>,
}

impl Table {
    fn keys(&self, position: u32) -> Option<&[Key]> {
        self.keys.get(position as usize)?.as_deref()
    }

    /// How many of these policies may have to be tried at worst after a split by this property.
    fn rest(&self, positions: &[u32]) -> usize {
        let (mut anything, mut largest) = (0, 0);
        let mut sizes: FxHashMap<&Key, usize> = FxHashMap::default();
        for position in positions {
            match self.keys(*position) {
                None => anything += 1,
                Some(keys) => {
                    for key in keys {
                        let size = sizes.entry(key).or_default();
                        *size += 1;
                        largest = largest.max(*size);
                    }
                }
            }
        }
        anything + largest
    }
}

struct Builder {
    /// Places that may still be taken.
    copies: usize,
}

impl Builder {
    fn node(&mut self, positions: Vec<u32>, left: &[&Table]) -> Node {
        if positions.len() <= LEAF {
            return Node::Leaf(positions.into());
        }
        let rests = left.iter().enumerate().map(|(place, table)| (table.rest(&positions), place));
        // A split that leaves nearly all of them together is worth nothing.
        let Some((_, place)) = rests.min().filter(|(rest, _)| rest + positions.len() / 16 < positions.len())
        else {
            return Node::Leaf(positions.into());
        };
        let mut left = left.to_vec();
        Node::Split(Box::new(self.split(&positions, left.swap_remove(place), &left)))
    }

    fn split(&mut self, positions: &[u32], by: &Table, left: &[&Table]) -> Split {
        let mut exact: FxHashMap<&[u8], Vec<u32>> = FxHashMap::default();
        let mut prefixes: FxHashMap<&[u8], Vec<u32>> = FxHashMap::default();
        let mut other = Vec::new();
        for position in positions {
            let keys = by.keys(*position).filter(|keys| keys.len() <= self.copies.saturating_add(1));
            let Some(keys) = keys else {
                other.push(*position);
                continue;
            };
            self.copies = self.copies.saturating_sub(keys.len().saturating_sub(1));
            for key in keys {
                let (map, text) = match key {
                    Key::Exact(text) => (&mut exact, text),
                    Key::Prefix(text) => (&mut prefixes, text),
                };
                map.entry(text).or_default().push(*position);
            }
        }
        let mut sorted: Vec<_> = prefixes.into_iter().collect();
        sorted.sort_unstable_by_key(|(prefix, _)| *prefix);
        let mut nodes = |(text, positions): (&[u8], Vec<u32>)| (text.into(), self.node(positions, left));
        Split {
            dimension: by.dimension.clone(),
            exact: exact.into_iter().map(&mut nodes).collect(),
            prefixes: Prefixes::new(sorted.into_iter().map(&mut nodes).collect()),
            other: self.node(other, left),
        }
    }
}
