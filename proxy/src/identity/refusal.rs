//! Why a peer is refused: one stable code for each reason, the same in log, metric and access log.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use super::spiffe::SpiffeError;

/// Why a certificate or a handshake is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate was shown where one is required.
    #[error("no certificate was shown")]
    NoCertificate,
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not begun.
    #[error("the certificate is not yet valid")]
    NotYetValid,
    /// No trusted root stands behind it.
    #[error("no trusted root has signed the chain")]
    UnknownIssuer,
    /// More certificates than may be in a chain.
    #[error("the chain is too deep")]
    ChainTooDeep,
    /// A certification authority shows its own certificate.
    #[error("a CA certificate is shown as a leaf")]
    CaAsLeaf,
    /// Key usage or extended key usage say that it is for something else.
    #[error("the certificate is for another use")]
    WrongUsage,
    /// An issuer may not vouch for this name.
    #[error("an issuer's name constraints forbid the name")]
    NameConstraints,
    /// It is revoked.
    #[error("the identity is revoked")]
    Revoked,
    /// It has no URI name.
    #[error("the certificate has no SPIFFE ID")]
    NoSpiffeId,
    /// It has several URI names.
    #[error("the certificate has several URI names")]
    SeveralUris,
    /// Its URI name is no SPIFFE ID of a workload.
    #[error("the URI name is no SPIFFE ID: {0}")]
    BadSpiffeId(SpiffeError),
    /// Its SPIFFE ID names a trust domain, not a workload.
    #[error("the SPIFFE ID has no path")]
    NoPath,
    /// Nobody here trusts its trust domain.
    #[error("the trust domain is not trusted")]
    ForeignTrustDomain,
    /// It is somebody, but not one of those who are expected.
    #[error("the identity is not one of those expected")]
    NotExpected,
    /// It is not valid for the server's name.
    #[error("the certificate is for another server name")]
    WrongName,
    /// It cannot be read, or a signature is wrong.
    #[error("the certificate is malformed or its signature is wrong")]
    BadCertificate,
    /// The two sides have no version, cipher, group or application protocol in common.
    #[error("no TLS version, cipher or protocol in common")]
    Incompatible,
    /// The peer sent an alert: it refuses us.
    #[error("the peer refused the handshake")]
    RefusedByPeer,
    /// What came is not TLS, or breaks it.
    #[error("the TLS protocol was broken")]
    Protocol,
    /// Our own certificate or the trusted roots have not come yet, or have expired.
    #[error("our own certificate or the trusted roots are not there")]
    NotReady,
    /// The handshake did not come to its end.
    #[error("the connection ended in the handshake, or it took too long")]
    Unfinished,
}

impl Refusal {
    /// Every reason, for documents and tests.
    pub const ALL: &[Self] = &[
        Self::NoCertificate,
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownIssuer,
        Self::ChainTooDeep,
        Self::CaAsLeaf,
        Self::WrongUsage,
        Self::NameConstraints,
        Self::Revoked,
        Self::NoSpiffeId,
        Self::SeveralUris,
        Self::BadSpiffeId(SpiffeError::Scheme),
        Self::NoPath,
        Self::ForeignTrustDomain,
        Self::NotExpected,
        Self::WrongName,
        Self::BadCertificate,
        Self::Incompatible,
        Self::RefusedByPeer,
        Self::Protocol,
        Self::NotReady,
        Self::Unfinished,
    ];

    /// The stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoCertificate => "tls_no_certificate",
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::UnknownIssuer => "tls_unknown_issuer",
            Self::ChainTooDeep => "tls_chain_too_deep",
            Self::CaAsLeaf => "tls_ca_as_leaf",
            Self::WrongUsage => "tls_wrong_usage",
            Self::NameConstraints => "tls_name_constraints",
            Self::Revoked => "tls_revoked",
            Self::NoSpiffeId => "tls_no_spiffe_id",
            Self::SeveralUris => "tls_several_uris",
            Self::BadSpiffeId(_) => "tls_bad_spiffe_id",
            Self::NoPath => "tls_no_path",
            Self::ForeignTrustDomain => "tls_foreign_trust_domain",
            Self::NotExpected => "tls_not_expected",
            Self::WrongName => "tls_wrong_name",
            Self::BadCertificate => "tls_bad_certificate",
            Self::Incompatible => "tls_incompatible",
            Self::RefusedByPeer => "tls_refused_by_peer",
            Self::Protocol => "tls_protocol",
            Self::NotReady => "tls_not_ready",
            Self::Unfinished => "tls_unfinished",
        }
    }

    /// What ended a handshake.
    #[must_use]
    pub fn from_io(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::from_rustls(error),
            None => Self::Unfinished,
        }
    }

    /// What rustls ended a handshake for.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest of a foreign enum means one thing here")]
    pub fn from_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(error) => Self::from_certificate(error),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Self::Incompatible,
            rustls::Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Protocol,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest of a foreign enum means one thing here")]
    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(OtherError(inner)) => {
                inner.downcast_ref::<Self>().copied().unwrap_or(Self::BadCertificate)
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongUsage
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            _ => Self::BadCertificate,
        }
    }
}

impl From<Refusal> for rustls::Error {
    /// With the alert that says most to the peer.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls has alerts of their own for a few only")]
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(match refusal {
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::Revoked => CertificateError::Revoked,
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::WrongUsage => CertificateError::InvalidPurpose,
            Refusal::WrongName => CertificateError::NotValidForName,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

impl From<webpki::Error> for Refusal {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest of a foreign enum means one thing here")]
    fn from(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::CertNotValidForName(_) => Self::WrongName,
            E::CertRevoked => Self::Revoked,
            E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::EndEntityUsedAsCa => Self::UnknownIssuer,
            E::CaUsedAsEndEntity => Self::CaAsLeaf,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::WrongUsage,
            E::NameConstraintViolation | E::MalformedNameConstraint => Self::NameConstraints,
            E::PathLenConstraintViolated
            | E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::ChainTooDeep,
            _ => Self::BadCertificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_way_through_rustls() {
        for refusal in &Refusal::ALL[..17] {
            let expected = if *refusal == Refusal::NoCertificate { Refusal::NoCertificate } else { *refusal };
            assert_eq!(Refusal::from_rustls(&rustls::Error::from(*refusal)), expected);
        }
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate);
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, alert);
        assert_eq!(Refusal::from_io(&io), Refusal::RefusedByPeer);
        assert_eq!(Refusal::from_io(&std::io::ErrorKind::UnexpectedEof.into()), Refusal::Unfinished);
    }

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Refusal::ALL.len());
    }
}
