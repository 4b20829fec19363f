//! What a handshake needs, built once when a certificate, a trust bundle or the configuration changes.
//!
//! TLS 1.3 only, except towards servers outside the mesh that were allowed 1.2; key exchange that also withstands
//! quantum computers is offered first; no early data, which could be replayed.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, Ticketer, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::peer::PeerIdentity;
use super::trust::Trust;
use super::verify::Verifier;

/// Certificates in one chain of our own.
const MAX_OWN_CHAIN: usize = 8;
/// Sessions that a client keeps for one destination's configuration.
const CLIENT_SESSIONS: usize = 256;
/// Tickets that a server gives for one handshake: a peer opens few connections, and each costs bytes.
const TICKETS: usize = 1;

/// In the order in which they are offered; the first withstands quantum computers (draft-ietf-tls-ecdhe-mlkem).
const GROUPS: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider { kx_groups: GROUPS.to_vec(), ..aws_lc_rs::default_provider() })
});

/// The cryptography of the whole proxy.
#[must_use]
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// Our own certificate with its key.
#[derive(Clone, Debug)]
pub struct Credential {
    key: Arc<CertifiedKey>,
    /// What the certificate says of us.
    pub leaf: Arc<PeerIdentity>,
}

/// Why a certificate or a key of our own cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// No certificate in the PEM text.
    #[error("there is no certificate in the chain")]
    NoCertificate,
    /// Too many of them.
    #[error("the chain has more than {MAX_OWN_CHAIN} certificates")]
    TooMany,
    /// The PEM text of the chain is broken.
    #[error("the chain cannot be read: {0}")]
    BadChain(String),
    /// The key is missing or of a kind that is not known.
    #[error("the private key cannot be read: {0}")]
    BadKey(String),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the first certificate of the chain")]
    Mismatch,
}

impl Credential {
    /// From PEM text: the chain leaf first, the key as PKCS#8, SEC 1 or PKCS#1.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let chain = certificates(chain).map_err(CredentialError::BadChain)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| CredentialError::BadKey(error.to_string()))?;
        Self::from_der(chain, key)
    }

    /// From DER: the chain leaf first.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialError> {
        let leaf = chain.first().ok_or(CredentialError::NoCertificate)?;
        if chain.len() > MAX_OWN_CHAIN {
            return Err(CredentialError::TooMany);
        }
        let leaf =
            PeerIdentity::from_leaf(leaf).map_err(|error| CredentialError::BadChain(error.to_string()))?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| CredentialError::BadKey(error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| CredentialError::Mismatch)?;
        Ok(Self { key: Arc::new(key), leaf: Arc::new(leaf) })
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.leaf.not_after < UnixTime::now().as_secs()
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.key)))
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// What is wrong with it.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Keys of session tickets. They live as long as the trust and the certificate that they stand for: when one of them
/// changes, sessions begun under the old one are not resumed. Who resumed one would go on with a certificate of ours
/// that ends before the one that there is now.
#[derive(Clone, Debug)]
pub struct Tickets {
    keys: Arc<dyn ProducesTickets>,
    bound_to: Vec<u8>,
}

impl Tickets {
    /// The keys to go on with under this trust and with this certificate of our own: the old ones, if both are the same.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn under(
        trust: Option<&Trust>,
        own: &PeerIdentity,
        old: Option<&Self>,
    ) -> Result<Self, rustls::Error> {
        let roots = trust.iter().flat_map(|trust| trust.keys()).flatten();
        let bound_to: Vec<u8> = roots.chain(own.fingerprint.as_bytes()).copied().collect();
        match old.filter(|old| old.bound_to == bound_to) {
            Some(old) => Ok(old.clone()),
            None => Ok(Self { keys: Ticketer::new()?, bound_to }),
        }
    }
}

/// Builds a server's configuration. Without keys for tickets no session is resumed.
///
/// # Errors
/// When rustls refuses it.
pub fn server(
    credential: &Credential,
    verifier: Option<Verifier>,
    alpn: &[Vec<u8>],
    tickets: Option<&Tickets>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(credential.resolver());
    config.alpn_protocols = alpn.to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if let Some(tickets) = tickets {
        config.ticketer = Arc::clone(&tickets.keys);
    }
    config.send_tls13_tickets = tickets.map_or(0, |_| TICKETS);
    Ok(Arc::new(config))
}

/// Builds a client's configuration.
///
/// # Errors
/// When rustls refuses it.
pub fn client(
    credential: Option<&Credential>,
    verifier: Verifier,
    alpn: &[Vec<u8>],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credential {
        Some(credential) => builder.with_client_cert_resolver(credential.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(Arc::new(config))
}
