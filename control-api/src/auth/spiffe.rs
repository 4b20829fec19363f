//! SPIFFE IDs of workloads: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, and nothing else; only of whom it is
//! told to others that they are cut off, any form is understood.

use std::fmt;

use crate::proxy_info::Identity;

/// Longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
const MAX_ID_BYTES: usize = 2048;
/// Longest name of a trust domain, in bytes (SPIFFE-ID section 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Reads one; `None` for anything else, a SPIFFE ID of another form included.
#[must_use]
pub fn parse(text: &str) -> Option<Identity> {
    let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= MAX_ID_BYTES)?;
    let (trust_domain, path) = rest.split_once("/ns/")?;
    let (namespace, service_account) = path.split_once("/sa/")?;
    let good = check_trust_domain(trust_domain) && check_segment(namespace) && check_segment(service_account);
    good.then(|| Identity {
        trust_domain: trust_domain.into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
    })
}

/// The trust domain of a SPIFFE ID of any form with a path; `None` where it breaks a rule (SPIFFE-ID section 2).
#[must_use]
pub fn trust_domain_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= MAX_ID_BYTES)?;
    let (trust_domain, path) = rest.split_once('/')?;
    let good = check_trust_domain(trust_domain) && path.split('/').all(check_segment);
    good.then_some(trust_domain)
}

/// Whether this can be the name of a trust domain (SPIFFE-ID section 2.1).
#[must_use]
pub fn check_trust_domain(name: &str) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN_BYTES && name.bytes().all(legal)
}

/// Whether this can be one segment of a path (SPIFFE-ID section 2.2).
#[must_use]
pub fn check_segment(segment: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(legal)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_form_is_read_and_it_has_one_spelling() {
        let text = "spiffe://example.org/ns/shop/sa/cart";
        assert_eq!(parse(text).unwrap().to_string(), text);
        let long = format!("spiffe://a/ns/b/sa/{}", "c".repeat(MAX_ID_BYTES));
        for bad in [
            "",
            "spiffe://example.org",
            "spiffe:///ns/a/sa/b",
            "spiffe://example.org/ns/shop/sa/",
            "spiffe://example.org/ns//sa/cart",
            "spiffe://example.org/ns/../sa/cart",
            "spiffe://example.org/ns/a/b/sa/cart",
            "spiffe://example.org/ns/shop/sa/cart/",
            "spiffe://example.org/ns/shop/sa/ca%72t",
            "spiffe://Example.org/ns/shop/sa/cart",
            "spiffe://user@example.org/ns/shop/sa/cart",
            "spiffe://example.org:1/ns/shop/sa/cart",
            "spiffe://example.org/x/ns/shop/sa/cart",
            "https://example.org/ns/shop/sa/cart",
            &long,
        ] {
            assert_eq!(parse(bad), None, "{bad}");
            let of_any_form = bad.contains("/a/b/") || bad.contains("/x/");
            assert_eq!(trust_domain_of(bad).is_some(), of_any_form, "{bad}");
        }
        assert_eq!(trust_domain_of("spiffe://example.org/vm/7"), Some("example.org"));
    }
}
