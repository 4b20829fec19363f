//! The control server's own side of TLS: 1.3 only, under a certificate of its own authority that is made anew at half
//! its life; clients may show a certificate, and if they do it must be a good one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use super::listen::Tls;
use crate::ca::{Authority, CaError};
use crate::proxy_info::Identity;

/// How soon another attempt is made after one that failed.
const AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked at the clock: it may be set, or the machine may sleep.
const LOOK: Duration = Duration::from_secs(30);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// What rustls does not take.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// Roots that do not verify anybody.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// By what names proxies call the control server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its SPIFFE ID, for those who verify it as they verify each other.
    pub identity: Identity,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// Keeps the configuration fresh.
#[derive(Debug)]
pub struct Keeper {
    authority: Arc<Authority>,
    names: Names,
    renew: SystemTime,
    published: watch::Sender<Arc<Tls>>,
}

impl Keeper {
    /// With the first configuration made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(authority: Arc<Authority>, names: Names, now: SystemTime) -> Result<Self, TlsError> {
        let (tls, renew) = make(&authority, &names, now)?;
        Ok(Self { authority, names, renew, published: watch::channel(Arc::new(tls)).0 })
    }

    /// The configuration as it is at each time.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Tls>> {
        self.published.subscribe()
    }

    /// Makes it anew when it is time, and when the authority has changed; never ends.
    pub async fn run(mut self) {
        let mut changes = self.authority.changes();
        loop {
            let left = self.renew.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK)) => {
                    if self.renew > SystemTime::now() {
                        continue;
                    }
                }
                // The sender is in `authority`.
                _ = changes.changed() => {}
            }
            let now = SystemTime::now();
            match make(&self.authority, &self.names, now) {
                Ok((tls, renew)) => {
                    self.renew = renew;
                    self.published.send_replace(Arc::new(tls));
                }
                Err(error) => {
                    tracing::error!(%error, "the control server's certificate cannot be renewed");
                    self.renew = now + AGAIN;
                }
            }
        }
    }
}

fn make(authority: &Authority, names: &Names, now: SystemTime) -> Result<(Tls, SystemTime), TlsError> {
    let (issued, key) = authority.server(&names.identity, (&names.dns, &names.addresses), now)?;
    let mut roots = RootCertStore::empty();
    for root in issued.roots {
        roots.add(root)?;
    }
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(issued.chain, PrivatePkcs8KeyDer::from(key).into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would be that of a certificate that was verified long ago.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let life = issued.not_after.duration_since(now).unwrap_or_default();
    let trust_domain = Arc::clone(authority.trust_domain());
    Ok((Tls { config: Arc::new(config), trust_domain }, now + life / 2))
}
