//! Nothing is published that a peer would refuse: what a source gave is checked as a whole first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::{Bundles, Svid};

/// Most certificates of a chain.
pub const MAX_CHAIN: usize = 8;
/// Most roots of a trust domain.
pub const MAX_ROOTS: usize = 32;
/// Most trust domains.
pub const MAX_TRUST_DOMAINS: usize = 64;
/// Largest certificate, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Longest SPIFFE ID and trust domain, in bytes (SPIFFE-ID, section 2.3 and 2.1).
const MAX_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// What a source gave.
#[derive(Debug)]
pub struct Material {
    /// The SVID, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// Roots by trust domain.
    pub bundles: Bundles,
}

/// Why material is not a usable SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A bound of the chain.
    #[error("the chain has {0} certificates, not 1 to {MAX_CHAIN}")]
    ChainLength(usize),
    /// A bound of the bundles.
    #[error("there are roots of {0} trust domains, not of 1 to {MAX_TRUST_DOMAINS}")]
    TrustDomains(usize),
    /// A bound of one bundle.
    #[error("trust domain \"{0}\" has {1} roots, not 1 to {MAX_ROOTS}")]
    Roots(String, usize),
    /// A bound of a certificate.
    #[error("a certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")]
    CertificateSize,
    /// Not what X.509 is.
    #[error("{0} cannot be read: {1}")]
    Unreadable(&'static str, String),
    /// Not exactly one URI SAN.
    #[error("the certificate has {0} URI SANs; an SVID has exactly one")]
    UriSans(usize),
    /// The URI is not a SPIFFE ID.
    #[error("\"{0}\" is not a SPIFFE ID: {1}")]
    SpiffeId(String, &'static str),
    /// A key for signing certificates.
    #[error("the certificate may sign certificates; an SVID must not")]
    SignsCertificates,
    /// Its time is not now.
    #[error("the certificate has expired, or the clock is wrong")]
    Expired,
    /// Its time is not now.
    #[error("the certificate is not valid yet, or the clock is wrong")]
    NotYetValid,
    /// Another key.
    #[error("the key does not belong to the certificate")]
    Key,
    /// No roots.
    #[error("there are no roots of its trust domain \"{0}\"")]
    NoRoots(String),
    /// Other roots.
    #[error("the roots of its trust domain do not vouch for it: {0}")]
    Chain(String),
    /// A response that disagrees with its certificate.
    #[error("not_after is not the end of the certificate")]
    OtherEnd,
    /// Not what was asked for.
    #[error("it is {found}, not {wished}")]
    OtherIdentity {
        /// What was asked for.
        wished: String,
        /// What came.
        found: String,
    },
}

impl Invalid {
    /// Which rule a SPIFFE ID breaks.
    #[must_use]
    pub fn spiffe_id(id: &str, reason: &'static str) -> Self {
        Self::SpiffeId(shorten(id), reason)
    }
}

impl Material {
    /// Checks everything that a peer would.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self, now: SystemTime) -> Result<Svid, Invalid> {
        self.check_bounds()?;
        let leaf = self.chain.first().ok_or(Invalid::ChainLength(0))?;
        let seen = read_leaf(leaf)?;
        if now < seen.not_before {
            return Err(Invalid::NotYetValid);
        }
        if now >= seen.not_after {
            return Err(Invalid::Expired);
        }
        let domain =
            trust_domain(&seen.spiffe_id).map_err(|reason| Invalid::spiffe_id(&seen.spiffe_id, reason))?;
        let roots = self.bundles.get(domain).ok_or_else(|| Invalid::NoRoots(domain.to_owned()))?;
        let provider = aws_lc_rs::default_provider();
        check_chain(&self.chain, roots, now, &provider)?;
        let certified = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider);
        let certified_key = Arc::new(certified.map_err(|_| Invalid::Key)?);
        let Self { chain, key, bundles } = self;
        let Seen { spiffe_id, not_before, not_after } = seen;
        let obtained = now;
        Ok(Svid { spiffe_id, chain, key, certified_key, bundles, not_before, not_after, obtained })
    }

    fn check_bounds(&self) -> Result<(), Invalid> {
        if !(1..=MAX_CHAIN).contains(&self.chain.len()) {
            return Err(Invalid::ChainLength(self.chain.len()));
        }
        if !(1..=MAX_TRUST_DOMAINS).contains(&self.bundles.len()) {
            return Err(Invalid::TrustDomains(self.bundles.len()));
        }
        for (domain, roots) in &self.bundles {
            if !(1..=MAX_ROOTS).contains(&roots.len()) {
                return Err(Invalid::Roots(shorten(domain), roots.len()));
            }
            for root in roots {
                let (_, _) = X509Certificate::from_der(root).map_err(|error| unreadable("a root", &error))?;
            }
        }
        let all = self.chain.iter().chain(self.bundles.values().flatten());
        let mut too_large = all.filter(|certificate| certificate.len() > MAX_CERTIFICATE_BYTES);
        too_large.next().map_or(Ok(()), |_| Err(Invalid::CertificateSize))
    }
}

/// The trust domain of the SVID that a chain begins with.
///
/// # Errors
/// Why it is not an SVID.
pub fn trust_domain_of(chain: &[CertificateDer<'_>]) -> Result<String, Invalid> {
    let seen = read_leaf(chain.first().ok_or(Invalid::ChainLength(0))?)?;
    let domain = trust_domain(&seen.spiffe_id);
    domain.map(str::to_owned).map_err(|reason| Invalid::spiffe_id(&seen.spiffe_id, reason))
}

/// What is read of an SVID's certificate.
struct Seen {
    spiffe_id: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

fn read_leaf(der: &CertificateDer<'_>) -> Result<Seen, Invalid> {
    let (rest, leaf) =
        X509Certificate::from_der(der).map_err(|error| unreadable("the certificate", &error))?;
    if !rest.is_empty() {
        return Err(Invalid::Unreadable("the certificate", "bytes follow it".to_owned()));
    }
    let names = leaf.subject_alternative_name().map_err(|error| unreadable("the certificate", &error))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [spiffe_id] = uris.as_slice() else { return Err(Invalid::UriSans(uris.len())) };
    let usage = leaf.key_usage().map_err(|error| unreadable("the certificate", &error))?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if leaf.is_ca() || signs {
        return Err(Invalid::SignsCertificates);
    }
    let time =
        |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok(Seen {
        spiffe_id: (*spiffe_id).to_owned(),
        not_before: time(leaf.validity().not_before.timestamp()),
        not_after: time(leaf.validity().not_after.timestamp()),
    })
}

/// As a client and as a server, because an SVID is shown by both.
fn check_chain(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    now: SystemTime,
    provider: &CryptoProvider,
) -> Result<(), Invalid> {
    let refused = |error: webpki::Error| Invalid::Chain(error.to_string());
    let (leaf, intermediates) = chain.split_first().ok_or(Invalid::ChainLength(0))?;
    let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
    let anchors: Result<Vec<_>, _> = roots.iter().map(webpki::anchor_from_trusted_cert).collect();
    let anchors = anchors.map_err(refused)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        let algorithms = provider.signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)
            .map_err(refused)?;
    }
    Ok(())
}

/// The trust domain of a SPIFFE ID (SPIFFE-ID, section 2).
///
/// # Errors
/// Which rule it breaks.
pub fn trust_domain(spiffe_id: &str) -> Result<&str, &'static str> {
    if spiffe_id.len() > MAX_ID_BYTES {
        return Err("longer than 2048 bytes");
    }
    let rest = spiffe_id.strip_prefix("spiffe://").ok_or("the scheme is not spiffe")?;
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    check_trust_domain(domain)?;
    for segment in path.iter().flat_map(|path| path.split('/')) {
        let known = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'.' | b'_');
        if matches!(segment, "" | "." | "..") || !segment.bytes().all(known) {
            return Err(
                "a segment of its path is empty, a dot segment, or has other letters than a-z A-Z 0-9 - . _",
            );
        }
    }
    Ok(domain)
}

/// Whether a name can be that of a trust domain.
///
/// # Errors
/// Which rule it breaks.
pub fn check_trust_domain(name: &str) -> Result<(), &'static str> {
    let known = |letter: u8| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, b'-' | b'.' | b'_')
    };
    if name.is_empty() || name.len() > MAX_TRUST_DOMAIN_BYTES || !name.bytes().all(known) {
        return Err(
            "its trust domain is empty, longer than 255 bytes, or has other letters than a-z 0-9 - . _",
        );
    }
    Ok(())
}

fn unreadable(what: &'static str, error: &dyn std::fmt::Display) -> Invalid {
    Invalid::Unreadable(what, error.to_string())
}

/// A name from outside, of bounded length.
fn shorten(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(128).collect()
}
