//! What is known of a peer once its certificate was verified.

use std::fmt::Write as _;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::refusal::Refusal;
use super::revoked::Revoked;
use super::spiffe::SpiffeId;

/// Names of one kind that are kept; a certificate with more of them is refused.
const MAX_NAMES: usize = 256;
/// A verified peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID: the only URI name of its certificate, if that is one.
    pub spiffe: Option<SpiffeId>,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// The subject, as in RFC 4514.
    pub subject: String,
    /// The serial number, in lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// The end of the certificate's time, in seconds since 1970.
    pub not_after: u64,
    /// SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: String,
}

impl PeerIdentity {
    /// Reads a leaf. It says nothing about whether the leaf is to be trusted.
    ///
    /// # Errors
    /// When it cannot be read, or is marked for something else than to prove who somebody is (X509-SVID section 4).
    pub fn from_leaf(leaf: &CertificateDer<'_>) -> Result<Self, Refusal> {
        let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| Refusal::BadCertificate)?;
        if !rest.is_empty() {
            return Err(Refusal::BadCertificate);
        }
        check_use(&certificate)?;
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|_| Refusal::BadCertificate)?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::URI(uri) = name {
                uris.push((*uri).to_owned());
            } else if let GeneralName::DNSName(name) = name {
                dns.push((*name).to_owned());
            }
        }
        if uris.len() > MAX_NAMES || dns.len() > MAX_NAMES {
            return Err(Refusal::BadCertificate);
        }
        let spiffe = match uris.as_slice() {
            [uri] => SpiffeId::parse(uri).ok().filter(|id| !id.path().is_empty()),
            _ => None,
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        Ok(Self {
            spiffe,
            uris,
            dns,
            subject: certificate.subject().to_string(),
            serial: hex(certificate.raw_serial()).trim_start_matches('0').to_owned(),
            not_after: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
            fingerprint: hex(digest.as_ref()),
        })
    }

    /// The SPIFFE ID that a workload's certificate must have: exactly one URI name, which is one, with a path.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn workload(&self) -> Result<&SpiffeId, Refusal> {
        match (self.uris.as_slice(), &self.spiffe) {
            ([], _) => Err(Refusal::NoSpiffeId),
            ([_], Some(id)) => Ok(id),
            ([uri], None) => Err(SpiffeId::parse(uri).map_or_else(Refusal::BadSpiffeId, |_| Refusal::NoPath)),
            _ => Err(Refusal::SeveralUris),
        }
    }

    /// What may have changed since the certificate was verified, for sessions that are resumed.
    ///
    /// # Errors
    /// Why the peer is no longer to be trusted.
    pub fn recheck(&self, revoked: &Revoked, now: UnixTime) -> Result<(), Refusal> {
        if now.as_secs() > self.not_after {
            return Err(Refusal::Expired);
        }
        if revoked.covers(self) { Err(Refusal::Revoked) } else { Ok(()) }
    }
}

/// Key usage, where it is said, must allow signatures and must not be that of an authority; neither may the
/// extended one say that it is for other things only, which webpki looks at.
fn check_use(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    if certificate.is_ca() {
        return Err(Refusal::CaAsLeaf);
    }
    match certificate.key_usage().map_err(|_| Refusal::BadCertificate)? {
        Some(usage)
            if !usage.value.digital_signature() || usage.value.key_cert_sign() || usage.value.crl_sign() =>
        {
            Err(Refusal::WrongUsage)
        }
        _ => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
