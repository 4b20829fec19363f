//! TLS 1.3 towards the target: every connection does a whole handshake, with a client certificate where the server asks for one.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::outcome::LoadError;
use super::{ClientTls, Protocol};

/// What a session is made with: the connector, and the name for SNI.
pub(super) type Session = (TlsConnector, ServerName<'static>);

/// Reads the files.
pub(super) fn session(tls: &ClientTls, protocol: Protocol) -> Result<Session, LoadError> {
    let name = ServerName::try_from(tls.server_name.clone()).map_err(|error| LoadError::Spec {
        field: "server_name",
        what: format!("{}: {error}", tls.server_name),
    })?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&tls.ca_file)? {
        roots.add(root).map_err(|error| wrong(&tls.ca_file, error))?;
    }
    let provider = Arc::new(provider(tls.post_quantum));
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let chain = chain.map_err(|error| wrong(&tls.ca_file, error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&tls.ca_file, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainOnly(chain)));
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
            builder.with_client_auth_cert(certificates(chain)?, own).map_err(|error| wrong(chain, error))?
        }
    };
    // Each new connection is to cost what a first one costs.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match protocol {
        Protocol::Http1 | Protocol::WebSocket | Protocol::NewConnection => vec![b"http/1.1".to_vec()],
        Protocol::Http2 { .. } | Protocol::GrpcUnary { .. } | Protocol::GrpcStream { .. } => {
            vec![b"h2".to_vec()]
        }
        Protocol::Tcp => Vec::new(),
    };
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// One cipher suite and one order of key exchanges, so that every server does the same work.
fn provider(post_quantum: bool) -> CryptoProvider {
    let hybrid = post_quantum.then_some(kx_group::X25519MLKEM768);
    CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: hybrid.into_iter().chain([kx_group::X25519, kx_group::SECP256R1]).collect(),
        ..default_provider()
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| wrong(file, error))?;
    if certificates.is_empty() {
        return Err(wrong(file, "there is no certificate in it"));
    }
    Ok(certificates)
}

fn wrong(file: &Path, what: impl ToString) -> LoadError {
    LoadError::Tls { file: file.display().to_string(), what: what.to_string() }
}

/// The chain is verified. The name is not: certificates of a mesh name an identity and no host.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is looked at last, so that whoever comes to it has a good chain.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
