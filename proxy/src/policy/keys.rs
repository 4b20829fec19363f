//! What a rule asks of one property of a subject, as far as it can be looked up.

use super::ip::BitText;
use super::rule::{Rule, Subject};
use crate::model::matcher::{Case, StringMatcher};

/// Values that one policy may ask for of one property; with more, the property does not tell policies apart.
const MAX_KEYS: usize = 4096;

/// A property by which policies are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Peer,
    Path,
    Port,
    ServerName,
    Destination,
    DirectRemote,
    Remote,
    Header(Box<[u8]>),
}

/// A value that a policy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// The property is this.
    Exact(Box<[u8]>),
    /// It begins with this.
    Prefix(Box<[u8]>),
}

impl Dimension {
    /// Those that do not depend on names.
    pub(super) const FIXED: [Self; 7] = [
        Self::Peer,
        Self::Path,
        Self::Port,
        Self::ServerName,
        Self::Destination,
        Self::DirectRemote,
        Self::Remote,
    ];

    /// The values of which the property must have one for the rule to hold; `None` when any will do.
    pub(super) fn keys(&self, rule: &Rule) -> Option<Vec<Key>> {
        match (self, rule) {
            (_, Rule::All(rules)) => {
                rules.iter().filter_map(|rule| self.keys(rule)).min_by_key(|keys| cost(keys))
            }
            (_, Rule::One(rules)) => {
                let mut all = Vec::new();
                for rule in rules {
                    all.extend(self.keys(rule)?);
                    if all.len() > MAX_KEYS {
                        return None;
                    }
                }
                all.sort_unstable();
                all.dedup();
                Some(all)
            }
            (Self::Peer, Rule::Authenticated(None)) => Some(vec![Key::Prefix(Box::default())]),
            (Self::Peer, Rule::Authenticated(Some(matcher)))
            | (Self::Path, Rule::Path(matcher))
            | (Self::ServerName, Rule::ServerName(matcher)) => of_text(matcher).map(|key| vec![key]),
            (Self::Header(name), Rule::Header(matcher)) => {
                let asked = matcher.asks_for().filter(|(asked, _)| *asked == &**name);
                asked.and_then(|(_, matcher)| of_text(matcher)).map(|key| vec![key])
            }
            (Self::Port, Rule::Port(ports)) => Some(blocks(ports.start, ports.end)),
            (Self::Destination, Rule::Destination(range))
            | (Self::DirectRemote, Rule::DirectRemote(range))
            | (Self::Remote, Rule::Remote(range)) => Some(vec![Key::Prefix(range.text().as_bytes().into())]),
            _ => None,
        }
    }

    /// Hands over the values that the property has.
    pub(super) fn visit(&self, subject: &Subject<'_>, mut found: impl FnMut(&[u8])) {
        match self {
            Self::Peer => {
                if let Some(peer) = subject.peer {
                    found(peer.as_bytes());
                }
            }
            Self::Path => {
                if let Some(head) = subject.head {
                    found(head.path_only().as_bytes());
                }
            }
            Self::Port => found(BitText::of_port(subject.local.port(), 16).as_bytes()),
            Self::ServerName => found(subject.server_name.unwrap_or_default().as_bytes()),
            Self::Destination => found(BitText::of_address(subject.local.ip()).as_bytes()),
            Self::DirectRemote => found(BitText::of_address(subject.direct_remote).as_bytes()),
            Self::Remote => found(BitText::of_address(subject.remote).as_bytes()),
            Self::Header(name) => {
                if let Some(head) = subject.head {
                    crate::model::matcher::visit_values(head, name, found);
                }
            }
        }
    }
}

/// Adds the names of headers that a rule asks for, each as often as it does.
pub(super) fn header_names(rule: &Rule, names: &mut Vec<Box<[u8]>>) {
    match rule {
        Rule::All(rules) | Rule::One(rules) => rules.iter().for_each(|rule| header_names(rule, names)),
        Rule::Header(matcher) => names.extend(matcher.asks_for().map(|(name, _)| Box::from(name))),
        Rule::Any
        | Rule::Not(_)
        | Rule::Path(_)
        | Rule::Destination(_)
        | Rule::Port(_)
        | Rule::ServerName(_)
        | Rule::Authenticated(_)
        | Rule::DirectRemote(_)
        | Rule::Remote(_) => {}
    }
}

fn of_text(matcher: &StringMatcher) -> Option<Key> {
    match matcher {
        StringMatcher::Exact(text, Case::Sensitive) => Some(Key::Exact(text.clone())),
        StringMatcher::Prefix(text, Case::Sensitive) => Some(Key::Prefix(text.clone())),
        StringMatcher::Exact(_, Case::Ignored)
        | StringMatcher::Prefix(_, Case::Ignored)
        | StringMatcher::Suffix(..)
        | StringMatcher::Contains(..)
        | StringMatcher::Regex(_) => None,
    }
}

/// The fewest blocks that make up a range of ports: each holds the ports that begin with the same bits.
fn blocks(mut start: u32, end: u32) -> Vec<Key> {
    let end = end.min(1 << 16);
    let mut keys = Vec::new();
    while start < end {
        let mut free = start.trailing_zeros().min(16);
        while start + (1 << free) > end {
            free -= 1;
        }
        let port = u16::try_from(start).unwrap_or(u16::MAX);
        keys.push(Key::Prefix(BitText::of_port(port, 16 - free as usize).as_bytes().into()));
        start += 1 << free;
    }
    keys
}

/// How badly keys tell policies apart.
fn cost(keys: &[Key]) -> usize {
    let of_one = |key: &Key| match key {
        Key::Exact(_) => 1,
        Key::Prefix(text) if text.is_empty() => 1024,
        Key::Prefix(_) => 4,
    };
    keys.iter().map(of_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_range() {
        for (start, end) in [(0, 65_536), (80, 81), (1, 65_535), (1024, 2048), (443, 8081), (7, 7)] {
            let keys = blocks(start, end);
            assert!(keys.len() <= 30, "{} blocks", keys.len());
            for port in 0..=u16::MAX {
                let text = BitText::of_port(port, 16);
                let holding = keys.iter().filter(|key| match key {
                    Key::Prefix(prefix) => text.as_bytes().starts_with(prefix),
                    Key::Exact(_) => false,
                });
                let expected = usize::from((start..end).contains(&u32::from(port)));
                assert_eq!(holding.count(), expected, "{port} in {start}..{end}");
            }
        }
    }
}
