//! The identity in a client certificate. That the certificate is good has been verified in the handshake.

use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::auth::{self, Peer};
use crate::object::revocation;

/// Why a client certificate identifies nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It cannot be read.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// An SVID has exactly one URI (X509-SVID section 2).
    #[error("the client certificate has {0} URIs, not 1")]
    Uris(usize),
    /// Not the identity of a workload.
    #[error("\"{0}\" is not spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    NotAWorkload(String),
    /// A good identity, of somebody else.
    #[error("the client certificate is of the trust domain \"{0}\"")]
    Foreign(String),
}

/// Who shows this certificate.
///
/// # Errors
/// Why it identifies nobody of this trust domain.
pub(crate) fn of(leaf: &[u8], trust_domain: &str) -> Result<Peer, PeerError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Unreadable)?;
    let names = leaf.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let uris = names.iter().flat_map(|names| &names.value.general_names);
    let uris: Vec<&str> =
        uris.filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    let [uri] = uris.as_slice() else { return Err(PeerError::Uris(uris.len())) };
    let identity = auth::parse(uri).ok_or_else(|| PeerError::NotAWorkload((*uri).to_owned()))?;
    if *identity.trust_domain != *trust_domain {
        return Err(PeerError::Foreign(identity.trust_domain.to_string()));
    }
    let end_s = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end_s));
    let serial = revocation::serial(&leaf.raw_serial_as_string());
    Ok(Peer { identity: Some(identity), expires, serial: serial.map(Into::into), ..Peer::default() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["host".to_owned()]).unwrap();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn one_uri_of_a_workload_of_this_domain_is_an_identity() {
        let cart = "spiffe://a/ns/shop/sa/cart";
        let peer = of(&certificate(&[cart]), "a").unwrap();
        assert_eq!(peer.identity.map(|identity| identity.to_string()).as_deref(), Some(cart));
        assert!(peer.expires.is_some_and(|end| end > SystemTime::now()));
        for (uris, error) in [
            (&[][..], PeerError::Uris(0)),
            (&[cart, cart], PeerError::Uris(2)),
            (&["https://a/"], PeerError::NotAWorkload("https://a/".into())),
            (&["spiffe://b/ns/shop/sa/cart"], PeerError::Foreign("b".into())),
        ] {
            assert_eq!(of(&certificate(uris), "a"), Err(error));
        }
        assert_eq!(of(b"no certificate", "a"), Err(PeerError::Unreadable));
    }
}
