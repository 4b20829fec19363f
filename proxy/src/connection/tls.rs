//! The handshake with a client, between the choice of its filter chain and the first byte of its protocol.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use tokio::time::{Instant, timeout};

use super::fault::Expired;
use crate::identity::live::Current;
use crate::identity::{PeerIdentity, Refusal, Revocations};
use crate::model::Listener;
use crate::model::tls::DownstreamTls;
use crate::observe::Flags;
use crate::observe::format::Record;
use crate::observe::metrics::Labels;
use crate::observe::series::TLS_HANDSHAKES;
use crate::transport::Transport;
use crate::transport::tls::TlsSession;
use crate::worker::Worker;

/// For a client to finish its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a handshake came to.
#[derive(Debug, Default)]
pub struct Secured {
    /// Who the client is, if it showed a certificate.
    pub peer: Option<Rc<PeerIdentity>>,
    /// Who we are to it.
    pub own: Option<Arc<PeerIdentity>>,
    /// The application protocol agreed on.
    pub protocol: Option<Vec<u8>>,
    /// When nothing new may be begun on it, because a certificate that it rests on ends.
    pub trusted_until: Option<Instant>,
}

impl Secured {
    /// Whether the client chose HTTP/2 or HTTP/1.1; `None` when it chose nothing.
    #[must_use]
    pub fn is_h2(&self) -> Option<bool> {
        self.protocol.as_deref().map(|protocol| protocol.ends_with(b"h2"))
    }
}

/// Shakes hands; a client that is refused has been told so, counted and logged.
pub async fn accept(
    transport: &mut Transport,
    (tls, expired): (&DownstreamTls, Option<Expired>),
    listener: &Listener,
    worker: &Worker,
) -> Option<Secured> {
    let current = if expired.is_some() { tls.expired() } else { tls.current() };
    let outcome = match current {
        Ok(current) => shake_hands(transport, current, worker).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(secured) => {
            let resumed = transport.tls().is_some_and(TlsSession::is_resumed);
            let told = if resumed { "resumed" } else { "ok" };
            let labels = Labels::none().with("side", "downstream").with("outcome", told);
            worker.metrics.counter(TLS_HANDSHAKES, &labels).add(1);
            Some(secured)
        }
        Err(refusal) => {
            worker.refused_handshake(("downstream", &listener.name), transport.peer(), refusal);
            log(transport, (refusal, expired.as_ref()), listener, worker);
            None
        }
    }
}

async fn shake_hands(
    transport: &mut Transport,
    Current { config, own, revocations }: Current<ServerConfig>,
    worker: &Worker,
) -> Result<Secured, Refusal> {
    match timeout(HANDSHAKE_TIMEOUT, transport.accept_tls(config, Rc::clone(&worker.buffers))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Refusal::from_io(&error)),
        Err(_) => return Err(Refusal::Unfinished),
    }
    let session = transport.tls().ok_or(Refusal::Protocol)?;
    let peer = match session.peer_certificates().and_then(<[_]>::first) {
        Some(leaf) => Some(still_trusted(PeerIdentity::from_leaf(leaf)?, &revocations)?),
        None => None,
    };
    let certificates = [peer.as_deref(), own.as_deref()].into_iter().flatten();
    let rest = certificates.map(|one| one.rest(UnixTime::now())).min();
    let trusted_until = rest.map(|rest| Instant::now() + rest);
    Ok(Secured { peer, own, protocol: session.alpn().map(<[u8]>::to_vec), trusted_until })
}

/// A resumed session stands for a certificate that was verified earlier.
fn still_trusted(peer: PeerIdentity, revocations: &Revocations) -> Result<Rc<PeerIdentity>, Refusal> {
    peer.recheck(&revocations.now(), UnixTime::now())?;
    Ok(Rc::new(peer))
}

fn log(
    transport: &Transport,
    (refusal, expired): (Refusal, Option<&Expired>),
    listener: &Listener,
    worker: &Worker,
) {
    let record = Record {
        start: SystemTime::now(),
        flags: expired.map_or(Flags::NONE, |_| Flags::FI),
        faults: expired.map_or(&[], |expired| &expired.names),
        reason: Some(refusal.code()),
        local: Some(transport.local()),
        remote: Some(transport.peer()),
        ..Record::default()
    };
    for log in &listener.access_logs {
        worker.logger.write(log, &record);
    }
}
