//! Certificate requests (PKCS#10): the key, the proof of its possession, and at most one wish.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// Largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The keys that are certified: ECDSA P-256 and P-384, Ed25519.
const KEYS: [&rcgen::SignatureAlgorithm; 3] =
    [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Over [`MAX_REQUEST_BYTES`].
    #[error("csr_der: {0} bytes; at most {MAX_REQUEST_BYTES}")]
    TooLarge(usize),
    /// Not PKCS#10.
    #[error("csr_der: not a PKCS#10 request in DER")]
    Unreadable,
    /// Its signature is not that of its key.
    #[error("csr_der: not signed with the key in it")]
    NotItsKey,
    /// Of another algorithm.
    #[error("csr_der: the key is not ECDSA P-256, ECDSA P-384 or Ed25519")]
    Key,
    /// More than one URI.
    #[error("csr_der: {0} URIs; at most one, the SPIFFE ID wished for")]
    Wishes(usize),
}

/// A request that is signed with its key.
#[derive(Debug)]
pub struct Request {
    /// The key.
    pub key: SubjectPublicKeyInfo,
    /// The SPIFFE ID that is wished for. Nothing else in the request counts.
    pub wish: Option<String>,
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| RequestError::Unreadable)?;
        if !rest.is_empty() {
            return Err(RequestError::Unreadable);
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| RequestError::Key)?;
        if !KEYS.contains(&rcgen::PublicKeyData::algorithm(&key)) {
            return Err(RequestError::Key);
        }
        request.verify_signature().map_err(|_| RequestError::NotItsKey)?;
        let mut wishes = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                wishes.extend(names.general_names.iter().filter_map(|name| {
                    if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
                }));
            }
        }
        if wishes.len() > 1 {
            return Err(RequestError::Wishes(wishes.len()));
        }
        Ok(Self { key, wish: wishes.pop() })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, SignatureAlgorithm};

    use super::*;

    fn request(algorithm: &'static SignatureAlgorithm, uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_key_its_proof_and_one_wish_are_read() {
        for algorithm in KEYS {
            let read = Request::read(&request(algorithm, &["spiffe://a/ns/b/sa/c"])).unwrap();
            assert_eq!(read.wish.as_deref(), Some("spiffe://a/ns/b/sa/c"), "{algorithm:?}");
        }
        let good = request(&rcgen::PKCS_ECDSA_P256_SHA256, &[]);
        assert_eq!(Request::read(&good).unwrap().wish, None);
        let two = request(&rcgen::PKCS_ECDSA_P256_SHA256, &["spiffe://a", "spiffe://b"]);
        assert_eq!(Request::read(&two).unwrap_err(), RequestError::Wishes(2));
        let mut forged = good.clone();
        // Within the signature, which ends the request.
        let last = forged.len() - 2;
        forged[last] ^= 1;
        assert_eq!(Request::read(&forged).unwrap_err(), RequestError::NotItsKey);
        let longer = [&good[..], &[0]].concat();
        assert_eq!(Request::read(&longer).unwrap_err(), RequestError::Unreadable);
        assert_eq!(Request::read(&good[..20]).unwrap_err(), RequestError::Unreadable);
        let large = vec![0; MAX_REQUEST_BYTES + 1];
        assert_eq!(Request::read(&large).unwrap_err(), RequestError::TooLarge(large.len()));
    }
}
