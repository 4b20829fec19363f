//! Nothing is published that a peer would refuse: what a source gave is shown to the same verifier that peers have.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{Bundles, Svid};
use crate::identity::config::{self, Credential, CredentialError};
use crate::identity::trust::{Roots, TrustError};
use crate::identity::verify::Verifier;
use crate::identity::{PeerIdentity, Refusal, Revocations, Trust};

/// Most certificates of a chain.
pub const MAX_CHAIN: usize = 8;
/// Most roots of a trust domain.
pub const MAX_ROOTS: usize = 32;
/// Most trust domains.
pub const MAX_TRUST_DOMAINS: usize = 64;
/// Largest certificate, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

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
    /// Certificates one after the other, of which the last is cut off.
    #[error("a list of certificates ends within one")]
    CutOff,
    /// Roots that cannot be used.
    #[error("the roots: {0}")]
    Trust(#[from] TrustError),
    /// A certificate or a key that cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Peers would not take it, under the roots that came with it.
    #[error("peers would refuse it: {0}")]
    Refused(#[from] Refusal),
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

impl Material {
    /// Checks everything that a peer would.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self, now: SystemTime) -> Result<Svid, Invalid> {
        self.check_bounds()?;
        let roots: Result<Vec<_>, TrustError> =
            self.bundles.iter().map(|(domain, roots)| Ok((domain.clone(), Roots::new(roots)?))).collect();
        let trust = Trust::spiffe(roots?)?;
        let (leaf, intermediates) = self.chain.split_first().ok_or(Invalid::ChainLength(0))?;
        let spiffe_id = PeerIdentity::from_leaf(leaf)?.workload()?.clone();
        let (not_before, not_after) = life(leaf)?;
        // Peers take it until the end of that second; we stop at its begin.
        if now >= not_after {
            return Err(Refusal::Expired.into());
        }
        let credential = Credential::from_der(self.chain.clone(), self.key.clone_key())?;
        let verifier = Verifier {
            trust: Arc::new(trust.clone()),
            expected: None,
            // Whether we are cut off is for our peers to know.
            revocations: Revocations::default(),
            anonymous_clients: false,
            provider: Arc::clone(config::provider()),
        };
        let at = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        // An SVID is shown by clients and by servers.
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            verifier.verify(leaf, intermediates, at, usage)?;
        }
        let Self { chain, key, bundles } = self;
        let obtained = now;
        Ok(Svid { spiffe_id, chain, key, credential, bundles, trust, not_before, not_after, obtained })
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
                // Longer names are no names of trust domains.
                return Err(Invalid::Roots(domain.chars().take(255).collect(), roots.len()));
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
    let leaf = PeerIdentity::from_leaf(chain.first().ok_or(Invalid::ChainLength(0))?)?;
    Ok(leaf.workload()?.trust_domain().to_owned())
}

/// When a certificate's life begins and ends.
fn life(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Refusal> {
    let (_, leaf) = X509Certificate::from_der(der).map_err(|_| Refusal::BadCertificate)?;
    // A certificate from before 1970 has expired in any case.
    let time =
        |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = leaf.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}
