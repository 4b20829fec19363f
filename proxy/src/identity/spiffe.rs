//! SPIFFE IDs, read by the letter of the specification: what is accepted here is an identity in policies, so there is
//! one spelling for each.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID section 2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID: `spiffe://trust-domain/path`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; its end when there is none.
    path_at: usize,
}

/// Which rule of the specification a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Over [`MAX_ID_BYTES`].
    #[error("longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Another scheme, or it is not in lower case.
    #[error("the scheme is not \"spiffe\"")]
    Scheme,
    /// Nothing between `//` and `/`.
    #[error("the trust domain is missing")]
    NoTrustDomain,
    /// Over [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")]
    TrustDomainTooLong,
    /// `user@`, a port, upper case, percent-encoding or anything else outside `a-z 0-9 . - _`.
    #[error("the trust domain has a character other than a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter,
    /// A query, a fragment, percent-encoding or anything else outside `a-z A-Z 0-9 . - _`.
    #[error("the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'")]
    PathCharacter,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `/` at the end.
    #[error("the path ends with '/'")]
    TrailingSlash,
    /// `.` or `..`.
    #[error("the path has a segment \".\" or \"..\"")]
    DotSegment,
}

impl SpiffeId {
    /// Reads a SPIFFE ID.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let domain_len = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at_checked(domain_len).unwrap_or((rest, ""));
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain_len })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole ID, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The name of its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.part(SCHEME.len()..self.path_at)
    }

    /// The path, with its `/`; empty for the ID of a trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.part(self.path_at..self.text.len())
    }

    /// The namespace of `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// The service account of `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.workload().map(|(_, account)| account)
    }

    fn workload(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }

    fn part(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks the name of a trust domain (SPIFFE-ID section 2.1).
///
/// # Errors
/// The rule that it breaks.
pub fn check_trust_domain(name: &str) -> Result<(), SpiffeError> {
    if name.is_empty() {
        return Err(SpiffeError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeError::TrustDomainTooLong);
    }
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if name.bytes().all(legal) { Ok(()) } else { Err(SpiffeError::TrustDomainCharacter) }
}

fn check_path(path: &str) -> Result<(), SpiffeError> {
    let Some(segments) = path.strip_prefix('/') else { return Ok(()) };
    if path.ends_with('/') {
        return Err(SpiffeError::TrailingSlash);
    }
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeError::EmptySegment),
            "." | ".." => return Err(SpiffeError::DotSegment),
            _ => {}
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !segment.bytes().all(legal) {
            return Err(SpiffeError::PathCharacter);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_its_parts() {
        let id = SpiffeId::parse("spiffe://prod.example.org/ns/shop/sa/cart").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("prod.example.org", "/ns/shop/sa/cart"));
        assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("cart")));
        let other = SpiffeId::parse("spiffe://a/ns/b/sa/c/d").unwrap();
        assert_eq!((other.namespace(), other.path()), (None, "/ns/b/sa/c/d"));
        let domain = SpiffeId::parse("spiffe://a_b-c.d1").unwrap();
        assert_eq!((domain.trust_domain(), domain.path()), ("a_b-c.d1", ""));
    }

    #[test]
    fn every_rule_is_kept() {
        use SpiffeError::*;
        let long = format!("spiffe://a/{}", "b".repeat(MAX_ID_BYTES));
        let wide = format!("spiffe://{}/b", "a".repeat(MAX_TRUST_DOMAIN_BYTES + 1));
        for (text, error) in [
            ("", Scheme),
            ("https://a/b", Scheme),
            ("SPIFFE://a/b", Scheme),
            ("spiffe:/a/b", Scheme),
            ("spiffe://", NoTrustDomain),
            ("spiffe:///b", NoTrustDomain),
            ("spiffe://user@a/b", TrustDomainCharacter),
            ("spiffe://a:80/b", TrustDomainCharacter),
            ("spiffe://A/b", TrustDomainCharacter),
            ("spiffe://a%62/b", TrustDomainCharacter),
            ("spiffe://a?b", TrustDomainCharacter),
            ("spiffe://\u{fc}/b", TrustDomainCharacter),
            ("spiffe://a/b?c", PathCharacter),
            ("spiffe://a/b#c", PathCharacter),
            ("spiffe://a/%62", PathCharacter),
            ("spiffe://a/b c", PathCharacter),
            ("spiffe://a/\u{fc}", PathCharacter),
            ("spiffe://a/b/../c", DotSegment),
            ("spiffe://a/./c", DotSegment),
            ("spiffe://a/b//c", EmptySegment),
            ("spiffe://a/b/", TrailingSlash),
            ("spiffe://a/", TrailingSlash),
            (&long, TooLong),
            (&wide, TrustDomainTooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_what_passes_is_as_it_came(text in "(spiffe://)?[a-zA-Z0-9./%?#:@_-]{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("{SCHEME}{}{}", id.trust_domain(), id.path()), text.clone());
                prop_assert!(!text.contains("..") || !text.split('/').any(|segment| segment == ".."));
                prop_assert!(!text.contains(['%', '?', '#', '@']) && !text.ends_with('/'));
            }
        }
    }
}
