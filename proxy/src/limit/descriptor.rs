//! What a request is counted as: pairs of key and value that are made of it.

use std::io::Write as _;
use std::net::IpAddr;

use crate::http::message::RequestHead;
use crate::model::matcher::HeaderMatcher;

/// Most parts of a descriptor.
pub const MAX_PARTS: usize = 8;
/// Longest text of an address with its mask.
const ADDRESS_BYTES: usize = 48;

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// The client's address, as far as it can be trusted.
    pub remote: IpAddr,
    /// Who the client is, as its certificate has proven.
    pub peer: Option<&'a str>,
    /// Where the request goes, if anywhere.
    pub cluster: Option<&'a str>,
}

/// How one part of a descriptor comes about.
#[derive(Debug)]
pub struct Part {
    /// Its key.
    pub key: Box<str>,
    /// Its value.
    pub source: Source,
}

/// Where a value comes from. Without it there is no descriptor, but where that is said otherwise.
#[derive(Debug)]
pub enum Source {
    /// It is always this one.
    Fixed(Box<str>),
    /// The first value of a header.
    Header {
        /// Its name.
        name: Box<str>,
        /// The part is left out where the header is missing.
        may_miss: bool,
    },
    /// The value in the query.
    Query {
        /// Its name.
        name: Box<str>,
        /// The part is left out where it is missing.
        may_miss: bool,
    },
    /// The client's address.
    Remote,
    /// The network of the client's address, by the bits of IPv4 and of IPv6.
    Network(u8, u8),
    /// This one if all headers match, or if not all of them do.
    Matched(Box<str>, Vec<HeaderMatcher>, bool),
    /// The client's proven identity.
    Peer,
    /// The cluster that the request goes to.
    Cluster,
}

/// A value, without an allocation.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// As it stands somewhere.
    Bytes(&'a [u8]),
    /// Written for this request.
    Written([u8; ADDRESS_BYTES], usize),
}

impl Value<'_> {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Written(bytes, length) => bytes.get(..*length).unwrap_or_default(),
        }
    }
}

/// One descriptor of a request.
#[derive(Debug)]
pub struct Descriptor<'a> {
    parts: [Option<(&'a str, Value<'a>)>; MAX_PARTS],
    count: usize,
}

impl<'a> Descriptor<'a> {
    /// What the parts come to for a request, if to anything.
    #[must_use]
    pub fn of(parts: &'a [Part], subject: &Subject<'a>) -> Option<Self> {
        let mut descriptor = Self { parts: [const { None }; MAX_PARTS], count: 0 };
        for part in parts {
            let Some(value) = part.source.value(subject) else {
                if part.source.may_miss() {
                    continue;
                }
                return None;
            };
            *descriptor.parts.get_mut(descriptor.count)? = Some((&part.key, value));
            descriptor.count += 1;
        }
        (descriptor.count > 0).then_some(descriptor)
    }

    /// How many parts it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none, which it never has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its parts.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.parts.iter().flatten().map(|(key, value)| (*key, value.bytes()))
    }
}

impl Source {
    const fn may_miss(&self) -> bool {
        matches!(self, Self::Header { may_miss: true, .. } | Self::Query { may_miss: true, .. })
    }

    fn value<'a>(&'a self, subject: &Subject<'a>) -> Option<Value<'a>> {
        let head = subject.head;
        let bytes = match self {
            Self::Fixed(value) => value.as_bytes(),
            Self::Header { name, .. } => match &**name {
                ":path" => head.path.as_bytes(),
                ":method" => head.method.as_str().as_bytes(),
                ":authority" | "host" => head.authority.as_bytes(),
                name => head.headers.first(name.as_bytes())?,
            },
            Self::Query { name, .. } => {
                let mut pairs =
                    head.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.find(|(key, _)| *key == &**name)?.1.as_bytes()
            }
            Self::Remote => return Some(written(format_args!("{}", subject.remote))),
            Self::Network(v4, v6) => return Some(network(subject.remote, *v4, *v6)),
            Self::Matched(value, matchers, expected) => {
                let all = matchers.iter().all(|matcher| matcher.matches(head));
                return (all == *expected).then_some(Value::Bytes(value.as_bytes()));
            }
            Self::Peer => subject.peer?.as_bytes(),
            Self::Cluster => subject.cluster?.as_bytes(),
        };
        Some(Value::Bytes(bytes))
    }
}

fn network(address: IpAddr, v4_bits: u8, v6_bits: u8) -> Value<'static> {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4_bits.min(32))).unwrap_or(0);
            written(format_args!("{}/{v4_bits}", std::net::Ipv4Addr::from(u32::from(v4) & mask)))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6_bits.min(128))).unwrap_or(0);
            written(format_args!("{}/{v6_bits}", std::net::Ipv6Addr::from(u128::from(v6) & mask)))
        }
    }
}

fn written(text: std::fmt::Arguments<'_>) -> Value<'static> {
    let mut room = [0_u8; ADDRESS_BYTES];
    let mut rest = &mut room[..];
    // The longest address with its mask fits.
    let _ = rest.write_fmt(text);
    let length = ADDRESS_BYTES - rest.len();
    Value::Written(room, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: &[Part], head: &RequestHead, remote: &str) -> Option<String> {
        let peer = Some("spiffe://a/b");
        let subject = Subject { head, remote: remote.parse().unwrap(), peer, cluster: Some("be") };
        let descriptor = Descriptor::of(parts, &subject)?;
        let parts: Vec<String> = descriptor
            .parts()
            .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value)))
            .collect();
        Some(parts.join(","))
    }

    fn part(source: Source) -> Part {
        Part { key: "k".into(), source }
    }

    #[test]
    fn values_come_from_where_they_are_said_to() {
        let mut head =
            RequestHead { path: "/a?x=1&y".into(), authority: "h".into(), ..RequestHead::default() };
        head.headers.set(b"who", b"me");
        let header = |name: &str, may_miss| Source::Header { name: name.into(), may_miss };
        let query = |name: &str, may_miss| Source::Query { name: name.into(), may_miss };
        for (sources, expected) in [
            (vec![Source::Fixed("v".into())], Some("k=v")),
            (vec![header("who", false), header(":method", false)], Some("k=me,k=GET")),
            (vec![header("who", false), header("not", false)], None),
            (vec![header("who", false), header("not", true)], Some("k=me")),
            (vec![header("not", true)], None),
            (vec![query("x", false), query("y", false)], Some("k=1,k=")),
            (vec![query("z", false)], None),
            (vec![Source::Remote], Some("k=10.1.2.3")),
            (vec![Source::Network(16, 64)], Some("k=10.1.0.0/16")),
            (vec![Source::Network(0, 0)], Some("k=0.0.0.0/0")),
            (vec![Source::Peer, Source::Cluster], Some("k=spiffe://a/b,k=be")),
        ] {
            let parts: Vec<Part> = sources.into_iter().map(part).collect();
            assert_eq!(shown(&parts, &head, "10.1.2.3").as_deref(), expected, "{parts:?}");
        }
        let network = [part(Source::Network(32, 48))];
        assert_eq!(shown(&network, &head, "2001:db8:1:2::3").as_deref(), Some("k=2001:db8:1::/48"));
    }
}
