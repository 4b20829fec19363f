//! The handshake with a client, between the choice of its filter chain and the first byte of its protocol.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use tokio::time::timeout;

use super::fault::Expired;
use crate::identity::live::Current;
use crate::identity::vouched::Side;
use crate::identity::{PeerIdentity, Refusal, Vouched};
use crate::model::Listener;
use crate::model::tls::DownstreamTls;
use crate::observe::Flags;
use crate::observe::format::Record;
use crate::observe::metrics::Labels;
use crate::observe::series::TLS_HANDSHAKES;
use crate::transport::Transport;
use crate::transport::tls::TlsSession;
use crate::worker::Worker;

/// For a client to finish its handshake; and for its first message by itself, where the choice of the chain waits for it.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a handshake came to.
#[derive(Debug, Default)]
pub struct Secured {
    /// Who the client is, if it showed a certificate.
    pub peer: Option<Rc<PeerIdentity>>,
    /// Who we are to it.
    pub own: Option<Arc<PeerIdentity>>,
    /// The application protocol agreed on.
    pub protocol: Option<Vec<u8>>,
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
        Ok(current) => shake_hands(transport, (tls, current), listener, worker).await,
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
    (tls, Current { config, own, trust, revocations }): (&DownstreamTls, Current<ServerConfig>),
    listener: &Listener,
    worker: &Worker,
) -> Result<Secured, Refusal> {
    match timeout(HANDSHAKE_TIMEOUT, transport.accept_tls(config, Rc::clone(&worker.buffers))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Refusal::from_io(&error)),
        Err(_) => return Err(Refusal::Unfinished),
    }
    let session = transport.tls().ok_or(Refusal::Protocol)?;
    let protocol = session.alpn().map(<[u8]>::to_vec);
    let (Some(chain @ [leaf, ..]), Some(trust)) = (session.peer_certificates(), trust) else {
        return Ok(Secured { peer: None, own, protocol });
    };
    let (peer, now) = (Rc::new(PeerIdentity::from_leaf(leaf)?), UnixTime::now());
    // A resumed session stands for a certificate that was verified earlier.
    peer.recheck(&revocations.now(), now)?;
    let context = (Side::Server, Arc::clone(&listener.name));
    let vouched = Vouched::new((Rc::clone(&peer), chain), trust, own.as_deref(), context, now);
    // What is trusted may have changed while hands were shaken.
    tls.still_trusts(&vouched)?;
    // It is a new one.
    let _ = transport.cutoff().vouched.set(vouched);
    Ok(Secured { peer: Some(peer), own, protocol })
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
