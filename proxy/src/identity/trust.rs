//! The roots that are trusted, and for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::spiffe::{self, SpiffeError};

/// Roots of one trust domain.
pub const MAX_ROOTS: usize = 64;

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Roots that vouch for the workloads of their own trust domain and for nobody else.
    Spiffe(BTreeMap<String, Roots>),
    /// Roots that vouch for any name, as in the public web.
    Plain(Roots),
}

/// Roots, and what tells them from others.
#[derive(Clone, Debug)]
pub struct Roots {
    anchors: Arc<[TrustAnchor<'static>]>,
}

/// Why roots cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// There is none.
    #[error("there is no certificate in it")]
    Empty,
    /// Too many.
    #[error("more than {MAX_ROOTS} certificates")]
    TooMany,
    /// One cannot be read.
    #[error("certificate {0} cannot be read")]
    Bad(usize),
    /// A trust domain has no legal name.
    #[error("trust domain \"{0}\": {1}")]
    TrustDomain(String, SpiffeError),
}

impl Roots {
    /// From certificates.
    ///
    /// # Errors
    /// When there is none, there are too many, or one cannot be read.
    pub fn new<'a>(
        certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
    ) -> Result<Self, TrustError> {
        let mut anchors = Vec::new();
        for (number, certificate) in certificates.into_iter().enumerate() {
            if number >= MAX_ROOTS {
                return Err(TrustError::TooMany);
            }
            let anchor =
                webpki::anchor_from_trusted_cert(certificate).map_err(|_| TrustError::Bad(number + 1))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() { Err(TrustError::Empty) } else { Ok(Self { anchors: anchors.into() }) }
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl Trust {
    /// Roots for each trust domain.
    ///
    /// # Errors
    /// When there is none, or a name is not legal.
    pub fn spiffe(domains: impl IntoIterator<Item = (String, Roots)>) -> Result<Self, TrustError> {
        let domains: BTreeMap<String, Roots> = domains.into_iter().collect();
        for name in domains.keys() {
            spiffe::check_trust_domain(name).map_err(|error| TrustError::TrustDomain(name.clone(), error))?;
        }
        if domains.is_empty() { Err(TrustError::Empty) } else { Ok(Self::Spiffe(domains)) }
    }

    /// Whether whoever could be vouched for by the others can be by these: they are all among them.
    #[must_use]
    pub fn covers(&self, others: &Self) -> bool {
        let among = |roots: &Roots, others: &Roots| {
            Arc::ptr_eq(&roots.anchors, &others.anchors)
                || others.anchors.iter().all(|anchor| roots.anchors.contains(anchor))
        };
        match (self, others) {
            (Self::Plain(roots), Self::Plain(others)) => among(roots, others),
            (Self::Spiffe(domains), Self::Spiffe(others)) => others
                .iter()
                .all(|(name, others)| domains.get(name).is_some_and(|roots| among(roots, others))),
            (Self::Plain(_), Self::Spiffe(_)) | (Self::Spiffe(_), Self::Plain(_)) => false,
        }
    }

    /// Every root's key, in a fixed order: what sessions that may be resumed are bound to.
    pub(super) fn keys(&self) -> Vec<&[u8]> {
        let roots: Vec<&Roots> = match self {
            Self::Spiffe(domains) => domains.values().collect(),
            Self::Plain(roots) => vec![roots],
        };
        let anchors = roots.into_iter().flat_map(|roots| roots.anchors());
        anchors.map(|anchor| anchor.subject_public_key_info.as_ref()).collect()
    }
}
