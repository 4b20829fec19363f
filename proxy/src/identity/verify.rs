//! Decides about a peer's chain, on behalf of rustls: in the handshake, before anything of the peer's is read.

use std::fmt;
use std::sync::Arc;

use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::peer::PeerIdentity;
use super::refusal::Refusal;
use super::revoked::Revocations;
use super::trust::{Roots, Trust};

/// Certificates in a chain, the leaf included. A mesh has two or three.
const MAX_CHAIN: usize = 8;

/// Who, among those who are trusted, is expected.
pub type Expected = Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>;

/// Verifies peers, as a client or as a server.
pub struct Verifier {
    /// Whom to believe.
    pub trust: Arc<Trust>,
    /// Who is expected; `None` is anybody who is trusted.
    pub expected: Option<Expected>,
    /// Who is cut off.
    pub revocations: Revocations,
    /// Whether a client may stay without a certificate.
    pub anonymous_clients: bool,
    /// What signatures are checked with.
    pub provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Verifies a chain.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<PeerIdentity, Refusal> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(Refusal::ChainTooDeep);
        }
        let peer = PeerIdentity::from_leaf(leaf)?;
        let roots = self.roots_for(&peer)?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(Refusal::from)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        end_entity
            .verify_for_usage(algorithms, roots.anchors(), intermediates, now, usage, None, None)
            .map_err(Refusal::from)?;
        if self.revocations.now().covers(&peer) {
            return Err(Refusal::Revoked);
        }
        match &self.expected {
            Some(expected) if !expected(&peer) => Err(Refusal::NotExpected),
            _ => Ok(peer),
        }
    }

    /// The roots that may vouch for this peer: in the mesh those of its own trust domain only.
    fn roots_for(&self, peer: &PeerIdentity) -> Result<&Roots, Refusal> {
        match &*self.trust {
            Trust::Plain(roots) => Ok(roots),
            Trust::Spiffe(domains) => {
                domains.get(peer.workload()?.trust_domain()).ok_or(Refusal::ForeignTrustDomain)
            }
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of roots would tell an outsider whom we trust, and make the handshake longer.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous_clients
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        if matches!(*self.trust, Trust::Plain(_)) && self.expected.is_none() {
            // Outside the mesh a name is all that is known of a server.
            let leaf = EndEntityCert::try_from(end_entity).map_err(Refusal::from)?;
            leaf.verify_is_valid_for_subject_name(server_name).map_err(Refusal::from)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}

#[cfg(test)]
mod tests;
