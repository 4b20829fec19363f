//! Hosts as rules see them: `Shop.Example.com.:80` is the host `shop.example.com`, whatever way a client writes it.
//!
//! A rule holds for a host when it holds for one of two forms of it, with its port and without; both are in lower case
//! and without the dot of the root (RFC 3986 section 6.2.2.1, RFC 1034 section 3.1).

use std::sync::Arc;

use outrider_proto::Path;
use regex::bytes::RegexBuilder;

use super::{Case, MAX_REGEX_BYTES, StringMatcher};

/// Longest authority that is brought into its form without memory of its own: a name (RFC 1035 section 2.3.4), its dot,
/// and a port.
const USUAL_BYTES: usize = 262;

/// Hands over the forms of an authority: with its port, and if it has one, without.
pub(super) fn visit_forms(authority: &[u8], mut found: impl FnMut(&[u8])) {
    let (mut usual, mut unusual) = ([0_u8; USUAL_BYTES], Vec::new());
    let text = if let Some(text) = usual.get_mut(..authority.len()) {
        text
    } else {
        unusual.resize(authority.len(), 0);
        &mut unusual[..]
    };
    text.copy_from_slice(authority);
    text.make_ascii_lowercase();
    let port = port_start(text);
    let host_len = match text.get(..port) {
        Some([.., _, b'.']) => port - 1,
        _ => port,
    };
    text.copy_within(port.., host_len);
    let whole = text.len() - (port - host_len);
    found(text.get(..whole).unwrap_or_default());
    if port < text.len() {
        found(text.get(..host_len).unwrap_or_default());
    }
}

/// Where `:port` begins; the end of the text when there is none.
fn port_start(text: &[u8]) -> usize {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let colon = text.len().checked_sub(digits + 1).filter(|colon| text.get(*colon) == Some(&b':'));
    // `::1` has no port; an IPv6 address stands in brackets where it has one.
    let plain = |colon: &usize| {
        let before = text.get(..*colon).unwrap_or_default();
        before.last() == Some(&b']') || !before.contains(&b':')
    };
    colon.filter(|_| digits > 0).filter(plain).unwrap_or(text.len())
}

/// The matcher for these forms.
pub(super) fn matcher(matcher: StringMatcher, path: &mut Path) -> Option<StringMatcher> {
    let lower = |text: &[u8]| text.to_ascii_lowercase().into_boxed_slice();
    let whole = |text: &[u8]| {
        let mut forms = Vec::new();
        visit_forms(text, |form| forms.push(Box::from(form)));
        forms.into_iter().next().unwrap_or_default()
    };
    Some(match matcher {
        StringMatcher::Exact(text, _) => StringMatcher::Exact(whole(&text), Case::Sensitive),
        StringMatcher::Suffix(text, _) => StringMatcher::Suffix(whole(&text), Case::Sensitive),
        StringMatcher::Prefix(text, _) => StringMatcher::Prefix(lower(&text), Case::Sensitive),
        StringMatcher::Contains(text, _) => StringMatcher::Contains(lower(&text), Case::Sensitive),
        StringMatcher::Regex(regex) => {
            let built =
                RegexBuilder::new(regex.as_str()).size_limit(MAX_REGEX_BYTES).case_insensitive(true).build();
            match built {
                Ok(regex) => StringMatcher::Regex(Arc::new(regex)),
                Err(error) => return path.field("safe_regex", |path| path.refuse(error.to_string())),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(authority: &str) -> Vec<String> {
        let mut forms = Vec::new();
        visit_forms(authority.as_bytes(), |form| forms.push(String::from_utf8(form.to_vec()).unwrap()));
        forms
    }

    #[test]
    fn every_way_to_write_a_host_has_the_same_form() {
        for (authority, expected) in [
            ("a.b", &["a.b"][..]),
            ("A.b.", &["a.b"]),
            ("a.B:80", &["a.b:80", "a.b"]),
            ("a.b.:80", &["a.b:80", "a.b"]),
            ("a.b..", &["a.b."]),
            ("[::1]:80", &["[::1]:80", "[::1]"]),
            ("[::F]", &["[::f]"]),
            ("::1", &["::1"]),
            ("a:", &["a:"]),
            ("80", &["80"]),
            (":80", &[":80", ""]),
            (".", &["."]),
            ("", &[""]),
        ] {
            assert_eq!(forms(authority), expected, "{authority}");
        }
        let long = format!("{}.:80", "A".repeat(USUAL_BYTES));
        let short = "a".repeat(USUAL_BYTES);
        assert_eq!(forms(&long), [format!("{short}:80"), short]);
    }
}
