//! The webhooks' TLS: the control server's own certificate, and, where the operator says whose, certificates of those who ask.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::ca::state;
use crate::serve::listen::Tls;

/// How often it is looked whether the file is another one.
const LOOK: Duration = Duration::from_secs(5);
/// Most certificates in the file.
const MAX_ROOTS: usize = 32;

/// Why the certificates of clients cannot be verified.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct ClientCaError {
    file: PathBuf,
    reason: String,
}

/// Who verifies them.
type Verifier = Arc<dyn ClientCertVerifier>;

/// What handshakes go by, as it is at each time.
#[derive(Clone, Debug)]
pub struct Certificates {
    own: watch::Receiver<Arc<Tls>>,
    clients: Option<watch::Receiver<Verifier>>,
}

/// Follows a file of authorities whose certificates clients have to show.
#[derive(Debug)]
struct Follower {
    file: PathBuf,
    content: Vec<u8>,
    published: watch::Sender<Verifier>,
}

impl Certificates {
    /// Who asks need show none.
    #[must_use]
    pub const fn new(own: watch::Receiver<Arc<Tls>>) -> Self {
        Self { own, clients: None }
    }

    /// Who asks has to show one of the authorities in this file (PEM), which is read again when it changes: until it can be read, the
    /// last good one holds. Inside of an event loop.
    ///
    /// # Errors
    /// When there is no authority in it.
    pub fn with_clients(own: watch::Receiver<Arc<Tls>>, file: &Path) -> Result<Self, ClientCaError> {
        Self::following(own, file, LOOK)
    }

    fn following(
        own: watch::Receiver<Arc<Tls>>,
        file: &Path,
        every: Duration,
    ) -> Result<Self, ClientCaError> {
        let (content, verifier) = read(file)?;
        let (published, clients) = watch::channel(verifier);
        let follower = Follower { file: file.to_owned(), content, published };
        tokio::spawn(follower.run(every));
        Ok(Self { own, clients: Some(clients) })
    }

    /// Whether who has shaken hands has shown who he is.
    pub(super) const fn are_asked_for(&self) -> bool {
        self.clients.is_some()
    }

    /// For a connection that begins now.
    ///
    /// # Errors
    /// When rustls does not take what it was made of.
    pub(super) fn config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let own = Arc::clone(&self.own.borrow().config);
        let mut config = match &self.clients {
            None => ServerConfig::clone(&own),
            Some(clients) => ServerConfig::builder_with_provider(Arc::clone(own.crypto_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(Arc::clone(&clients.borrow()))
                .with_cert_resolver(Arc::clone(&own.cert_resolver)),
        };
        // A resumed session would be that of a certificate that was verified long ago.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Follower {
    /// Until nobody asks any more.
    async fn run(mut self, every: Duration) {
        let mut failed = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.published.closed() => return,
            }
            match read(&self.file) {
                Ok((content, _)) if content == self.content => failed.clear(),
                Ok((content, verifier)) => {
                    self.content = content;
                    self.published.send_replace(verifier);
                    failed.clear();
                    tracing::info!(file = %self.file.display(), "other authorities for clients of the webhooks");
                }
                Err(error) => {
                    // Once, not each time.
                    let reason = error.to_string();
                    if reason != failed {
                        tracing::error!(%error, "--webhook-client-ca: what was read before holds");
                        failed = reason;
                    }
                }
            }
        }
    }
}

fn read(file: &Path) -> Result<(Vec<u8>, Verifier), ClientCaError> {
    let about = |reason: String| ClientCaError { file: file.to_owned(), reason };
    let content = state::read(file).map_err(|error| about(error.to_string()))?;
    let content = content.ok_or_else(|| about("there is no such file".to_owned()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|error| about(error.to_string()))?;
    if found.is_empty() || found.len() > MAX_ROOTS {
        return Err(about(format!("must hold 1 to {MAX_ROOTS} certificates in PEM")));
    }
    let mut roots = RootCertStore::empty();
    for one in found {
        roots.add(one).map_err(|error| about(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok((content, verifier.map_err(|error| about(error.to_string()))?))
}

#[cfg(test)]
mod tests;
