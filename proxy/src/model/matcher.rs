//! Matchers of strings, headers and query parameters.

mod host;

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::envoy::r#type::matcher::v3 as pbm;
use regex::bytes::{Regex, RegexBuilder};

use crate::http::h1::field::is_token;
use crate::http::headers::Headers;
use crate::http::message::RequestHead;
use crate::policy::Reading;

/// Largest compiled regular expression, in bytes.
pub const MAX_REGEX_BYTES: usize = 1 << 20;

/// A compiled `StringMatcher`.
#[derive(Clone, Debug)]
pub enum StringMatcher {
    /// The whole string.
    Exact(Box<[u8]>, Case),
    /// Its beginning.
    Prefix(Box<[u8]>, Case),
    /// Its end.
    Suffix(Box<[u8]>, Case),
    /// Anywhere in it.
    Contains(Box<[u8]>, Case),
    /// The whole string, in linear time.
    Regex(Arc<Regex>),
}

/// Whether letters of different case are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// They are not.
    Sensitive,
    /// ASCII letters are.
    Ignored,
}

impl Case {
    /// Compares two strings of the same meaning.
    #[must_use]
    pub fn equal(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Sensitive => a == b,
            Self::Ignored => a.eq_ignore_ascii_case(b),
        }
    }

    /// Whether `text` begins with `prefix`.
    #[must_use]
    pub fn starts_with(self, text: &[u8], prefix: &[u8]) -> bool {
        text.get(..prefix.len()).is_some_and(|front| self.equal(front, prefix))
    }
}

impl StringMatcher {
    pub(crate) fn from_proto(value: &pbm::StringMatcher, path: &mut Path) -> Option<Self> {
        use pbm::string_matcher::MatchPattern;
        let case = if value.ignore_case { Case::Ignored } else { Case::Sensitive };
        let bytes = |text: &String| text.as_bytes().into();
        match &value.match_pattern {
            Some(MatchPattern::Exact(text)) => Some(Self::Exact(bytes(text), case)),
            Some(MatchPattern::Prefix(text) | MatchPattern::Suffix(text) | MatchPattern::Contains(text))
                if text.is_empty() =>
            {
                path.refuse("must not be empty")
            }
            Some(MatchPattern::Prefix(text)) => Some(Self::Prefix(bytes(text), case)),
            Some(MatchPattern::Suffix(text)) => Some(Self::Suffix(bytes(text), case)),
            Some(MatchPattern::Contains(text)) => Some(Self::Contains(bytes(text), case)),
            Some(MatchPattern::SafeRegex(_)) if value.ignore_case => {
                path.refuse("ignore_case has no effect on safe_regex; begin the expression with (?i)")
            }
            Some(MatchPattern::SafeRegex(regex)) => {
                path.field("safe_regex", |path| full_regex(regex, path)).map(Self::Regex)
            }
            None => path.refuse("no pattern is set"),
        }
    }

    /// Whether the string matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(expected, case) => case.equal(text, expected),
            Self::Prefix(prefix, case) => case.starts_with(text, prefix),
            Self::Suffix(suffix, case) => {
                let start = text.len().checked_sub(suffix.len());
                start.and_then(|start| text.get(start..)).is_some_and(|end| case.equal(end, suffix))
            }
            Self::Contains(part, Case::Sensitive) => memchr::memmem::find(text, part).is_some(),
            Self::Contains(part, case) => text.windows(part.len()).any(|window| case.equal(window, part)),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// A regular expression that must match the whole string.
pub(super) fn full_regex(value: &pbm::RegexMatcher, path: &mut Path) -> Option<Arc<Regex>> {
    regex(&format!("^(?:{})$", value.regex), &value.regex, path)
}

/// A regular expression that may match anywhere.
pub(super) fn part_regex(value: &pbm::RegexMatcher, path: &mut Path) -> Option<Arc<Regex>> {
    regex(&value.regex, &value.regex, path)
}

fn regex(pattern: &str, source: &str, path: &mut Path) -> Option<Arc<Regex>> {
    if source.is_empty() {
        return path.field("regex", |path| path.refuse("missing"));
    }
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build();
    // By itself first: `a)|(b` would only become an expression, and lose its anchors, by being put in brackets.
    match build(source).and_then(|alone| if pattern == source { Ok(alone) } else { build(pattern) }) {
        Ok(regex) => Some(Arc::new(regex)),
        Err(error) => path.field("regex", |path| {
            path.refuse(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
        }),
    }
}

/// Fields that belong to a connection: requests do not hold them when routes are looked at, so that a rule about one
/// would never be met (or always).
const NOT_MATCHED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Pseudo-fields that can be matched.
const PSEUDO: &[&str] = &[":authority", ":method", ":path", ":scheme"];

/// A compiled `HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: Box<[u8]>,
    rule: HeaderRule,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum HeaderRule {
    Present(bool),
    Range(i64, i64),
    String(StringMatcher),
}

impl HeaderMatcher {
    pub(crate) fn from_proto(value: &pb::HeaderMatcher, path: &mut Path) -> Option<Self> {
        use pb::header_matcher::HeaderMatchSpecifier as Rule;
        let name = super::parse::required(&value.name, "name", path)?.to_ascii_lowercase();
        path.field("name", |path| {
            if NOT_MATCHED.contains(&name.as_str()) {
                path.fault(format!("\"{name}\" belongs to the connection and cannot be matched"));
            } else if name.starts_with(':') {
                if !PSEUDO.contains(&name.as_str()) {
                    path.fault(format!("\"{name}\" is not one of {}", PSEUDO.join(", ")));
                }
            } else if !is_token(name.as_bytes()) {
                path.fault(format!("\"{name}\" is not a header name"));
            }
        });
        let rule = match &value.header_match_specifier {
            None => HeaderRule::Present(true),
            Some(Rule::PresentMatch(present)) => HeaderRule::Present(*present),
            Some(Rule::RangeMatch(range)) => HeaderRule::Range(range.start, range.end),
            Some(Rule::StringMatch(matcher)) => HeaderRule::String(path.field("string_match", |path| {
                let matcher = StringMatcher::from_proto(matcher, path)?;
                if is_host(name.as_bytes()) { host::matcher(matcher, path) } else { Some(matcher) }
            })?),
        };
        Some(Self {
            name: name.into_bytes().into(),
            rule,
            invert: value.invert_match,
            missing_is_empty: value.treat_missing_header_as_empty,
        })
    }

    /// Whether the request's fields match, those included that a head keeps apart.
    #[must_use]
    pub fn matches(&self, head: &RequestHead) -> bool {
        match kept_apart(head, &self.name) {
            Some(Kept::Host(host)) => self.decide_host(host),
            Some(Kept::Value(value)) => self.decide(value.into_iter()),
            None => self.decide(head.headers.all(&self.name)),
        }
    }

    /// The same where it is a question of security: the rule is held against each value by itself, its inversion
    /// included, and `reading` says whether one of them has to meet it or all.
    #[must_use]
    pub fn matches_as(&self, head: &RequestHead, reading: Reading) -> bool {
        match kept_apart(head, &self.name) {
            Some(Kept::Host(host)) => self.decide_host(host),
            Some(Kept::Value(value)) => self.decide_as(value.into_iter(), reading),
            None => self.decide_as(head.headers.all(&self.name), reading),
        }
    }

    /// The name, and what one of the values must be for the rule to hold, if that is all that it asks for.
    #[must_use]
    pub fn asks_for(&self) -> Option<(&[u8], &StringMatcher)> {
        match &self.rule {
            HeaderRule::String(matcher) if !self.invert && !self.missing_is_empty => {
                Some((&self.name, matcher))
            }
            HeaderRule::String(_) | HeaderRule::Present(_) | HeaderRule::Range(..) => None,
        }
    }

    /// Whether the fields of a response match.
    #[must_use]
    pub fn matches_fields(&self, headers: &Headers) -> bool {
        self.decide(headers.all(&self.name))
    }

    /// Whether it looks at what only a request has.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        self.name.starts_with(b":")
    }

    /// Each value of a field that is there several times is looked at by itself: joined, an attacker's second value
    /// could hide the first one from a rule.
    fn decide<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        let found = match self.decide_first(values.next()) {
            Decided::Never => return false,
            Decided::Found(found) => {
                found || (!self.is_about_presence() && values.any(|value| self.value_matches(value)))
            }
        };
        found != self.invert
    }

    /// However a client writes the host, what is said of it holds or does not.
    fn decide_host(&self, host: &[u8]) -> bool {
        match &self.rule {
            HeaderRule::Present(wanted) => *wanted != self.invert,
            HeaderRule::Range(..) | HeaderRule::String(_) => {
                let mut found = false;
                host::visit_forms(host, |form| found |= self.value_matches(form));
                found != self.invert
            }
        }
    }

    const fn is_about_presence(&self) -> bool {
        matches!(self.rule, HeaderRule::Present(_))
    }

    fn decide_as<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>, reading: Reading) -> bool {
        let meets = |found: bool| found != self.invert;
        let first = match self.decide_first(values.next()) {
            Decided::Never => return false,
            Decided::Found(found) => meets(found),
        };
        if self.is_about_presence() {
            return first;
        }
        match reading {
            Reading::Any => first || values.any(|value| meets(self.value_matches(value))),
            Reading::All => first && values.all(|value| meets(self.value_matches(value))),
        }
    }

    /// What the first value says, or that there is none.
    fn decide_first(&self, first: Option<&[u8]>) -> Decided {
        Decided::Found(match (&self.rule, first) {
            (HeaderRule::Present(wanted), value) => (value.is_some() || self.missing_is_empty) == *wanted,
            (_, None) if self.missing_is_empty => self.value_matches(b""),
            // A missing header matches no value, not even one that must be different.
            (_, None) => return Decided::Never,
            (_, Some(first)) => self.value_matches(first),
        })
    }

    fn value_matches(&self, value: &[u8]) -> bool {
        match &self.rule {
            HeaderRule::Present(_) => true,
            HeaderRule::String(matcher) => matcher.matches(value),
            HeaderRule::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        }
    }
}

/// What one value says about a rule.
enum Decided {
    /// It holds or not, before inversion.
    Found(bool),
    /// It does not hold, inverted or not.
    Never,
}

/// A field that a head keeps apart.
enum Kept<'a> {
    /// The host, which is the same in whatever way it is written.
    Host(&'a [u8]),
    /// Its one value, if it is there.
    Value(Option<&'a [u8]>),
}

fn is_host(name: &[u8]) -> bool {
    matches!(name, b":authority" | b"host")
}

/// What a head keeps apart; `None` for all other fields.
fn kept_apart<'a>(head: &'a RequestHead, name: &[u8]) -> Option<Kept<'a>> {
    let value = match name {
        b":method" => head.method.as_str(),
        b":path" => head.path.as_str(),
        _ if is_host(name) => return Some(Kept::Host(head.authority.as_bytes())),
        b":scheme" if head.secure => "https",
        b":scheme" => "http",
        b"upgrade" => head.upgrade.as_str(),
        _ => return None,
    };
    // Without an upgrade there is no such field; the others are always there.
    let present = name != b"upgrade" || !value.is_empty();
    Some(Kept::Value(present.then_some(value.as_bytes())))
}

/// Hands over all values of a field or pseudo-field that rules are held against; of a host, its forms.
pub fn visit_values(head: &RequestHead, name: &[u8], found: impl FnMut(&[u8])) {
    match kept_apart(head, name) {
        Some(Kept::Host(host)) => host::visit_forms(host, found),
        Some(Kept::Value(value)) => value.into_iter().for_each(found),
        None => head.headers.all(name).for_each(found),
    }
}

/// A compiled `QueryParameterMatcher`.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    name: Box<str>,
    rule: QueryRule,
}

#[derive(Clone, Debug)]
enum QueryRule {
    Present(bool),
    String(StringMatcher),
}

impl QueryMatcher {
    pub(super) fn from_proto(value: &pb::QueryParameterMatcher, path: &mut Path) -> Option<Self> {
        use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Rule;
        let name = super::parse::required(&value.name, "name", path)?;
        let rule = match &value.query_parameter_match_specifier {
            None => QueryRule::Present(true),
            Some(Rule::PresentMatch(present)) => QueryRule::Present(*present),
            Some(Rule::StringMatch(matcher)) => QueryRule::String(
                path.field("string_match", |path| StringMatcher::from_proto(matcher, path))?,
            ),
        };
        Some(Self { name: name.as_ref().into(), rule })
    }

    /// Whether the query string matches. The first parameter of the name counts, not decoded, as in Envoy.
    #[must_use]
    pub fn matches(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&');
        let value = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| *name == &*self.name)
            .map(|(_, value)| value);
        match (&self.rule, value) {
            (QueryRule::Present(wanted), value) => value.is_some() == *wanted,
            (QueryRule::String(_), None) => false,
            (QueryRule::String(matcher), Some(value)) => matcher.matches(value.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests;
