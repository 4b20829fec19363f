//! Opening a connection to an endpoint.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::identity::live::Current;
use crate::identity::vouched::Side;
use crate::identity::{PeerIdentity, Refusal, Vouched};
use crate::model::Cluster;
use crate::model::cluster::ProtocolChoice;
use crate::model::tls::UpstreamTls;
use crate::observe::Reason;
use crate::transport::{BufferPool, Cutoff, Registry, Transport};

/// How long an address is waited for before the next one of the same endpoint is tried besides; Envoy's.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long an endpoint that was shown an expired certificate may take to refuse it.
const VERDICT: Duration = Duration::from_millis(500);

/// Which application protocols an endpoint is offered, where TLS agrees on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// All that the cluster names.
    All,
    /// HTTP/1.1 alone, for what only that can carry.
    Http1,
    /// What the cluster itself names, and nothing because its requests may agree on a version: for bytes that are
    /// passed on as they are.
    Opaque,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint refused, or there is no way to it.
    #[error("connecting to {address}: {message}")]
    Failed {
        /// The endpoint.
        address: SocketAddr,
        /// What the system said.
        message: String,
    },
    /// No answer within `connect_timeout`.
    #[error("connecting to {address}: no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// The endpoint.
        address: SocketAddr,
        /// The cluster's `connect_timeout`.
        limit: Duration,
    },
    /// The endpoint is not who it should be, or does not want us.
    #[error("TLS handshake with {address}: {refusal}")]
    Tls {
        /// The endpoint.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The HTTP/2 preface could not be exchanged.
    #[error("HTTP/2 handshake with {address}: {message}")]
    Handshake {
        /// The endpoint.
        address: SocketAddr,
        /// What `h2` said.
        message: String,
    },
}

impl ConnectError {
    pub(super) fn failed(address: SocketAddr, error: &io::Error) -> Self {
        Self::Failed { address, message: error.to_string() }
    }

    /// With whom TLS failed and why, if it did.
    #[must_use]
    pub const fn refusal(&self) -> Option<(SocketAddr, Refusal)> {
        match self {
            Self::Tls { address, refusal } => Some((*address, *refusal)),
            Self::Failed { .. } | Self::TimedOut { .. } | Self::Handshake { .. } => None,
        }
    }

    /// What a request that needed the connection is answered.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TimedOut { .. } => Reason::UpstreamConnectTimeout,
            Self::Tls { .. } => Reason::UpstreamTlsRefused,
            Self::Failed { .. } | Self::Handshake { .. } => Reason::UpstreamConnectFailure,
        }
    }
}

/// Opens a connection, encrypted where the cluster says so, and then among those that end when their peer is no longer
/// to be trusted. Cancel-safe: dropping the future closes the socket.
///
/// # Errors
/// When the endpoint cannot be reached in time, or is not who it should be.
pub async fn connect(
    cluster: &Cluster,
    (address, more): (SocketAddr, &[SocketAddr]),
    (buffers, secured): (&Rc<BufferPool>, &Registry<Cutoff>),
    offer: Offer,
) -> Result<Transport, ConnectError> {
    let limit = cluster.connect_timeout;
    let connected = timeout(limit, async {
        let mut transport = dial(address, more).await?;
        if let Some(tls) = &cluster.tls {
            let refused = |refusal| ConnectError::Tls { address, refusal };
            let mut current = tls.current().map_err(refused)?;
            let narrowed = match offer {
                Offer::Http1 if cluster.protocol == ProtocolChoice::Agreed => {
                    Some(vec![b"http/1.1".to_vec()])
                }
                Offer::Opaque if tls.offers_unasked => Some(Vec::new()),
                Offer::All | Offer::Http1 | Offer::Opaque => None,
            };
            if let Some(protocols) = narrowed {
                Arc::make_mut(&mut current.config).alpn_protocols = protocols;
            }
            let peer = Box::pin(encrypt(&mut transport, (tls, current), &cluster.name, buffers))
                .await
                .map_err(refused)?;
            let cutoff = transport.cutoff();
            // It is a new one.
            let _ = cutoff.vouched.set(peer);
            secured.add(cutoff);
        }
        Ok(transport)
    });
    connected.await.unwrap_or(Err(ConnectError::TimedOut { address, limit }))
}

/// Shows the endpoint an expired certificate of ours, on a connection that is for nothing else. Cancel-safe.
///
/// # Errors
/// When the endpoint cannot be reached in time, or does what it should.
pub async fn show_expired(
    cluster: &Cluster,
    (address, more): (SocketAddr, &[SocketAddr]),
    buffers: &Rc<BufferPool>,
) -> Result<(), ConnectError> {
    let Some(tls) = &cluster.tls else { return Ok(()) };
    let limit = cluster.connect_timeout;
    let refused = |refusal| ConnectError::Tls { address, refusal };
    let shown = timeout(limit, async {
        let mut transport = dial(address, more).await?;
        let current = tls.expired().map_err(refused)?;
        encrypt(&mut transport, (tls, current), &cluster.name, buffers).await.map_err(refused)?;
        // A client of TLS 1.3 is done before its server has looked at its certificate (RFC 8446 section 4.4.4).
        let mut byte = [0];
        let verdict = timeout(VERDICT, poll_fn(|cx| transport.poll_read_into(cx, &mut byte))).await;
        match verdict {
            Ok(Err(error)) => Err(refused(Refusal::from_io(&error))),
            Ok(Ok(0)) => Err(refused(Refusal::Unfinished)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    });
    shown.await.unwrap_or(Err(ConnectError::TimedOut { address, limit }))
}

async fn dial(address: SocketAddr, more: &[SocketAddr]) -> Result<Transport, ConnectError> {
    let failed = |error: io::Error| ConnectError::failed(address, &error);
    let stream = match more {
        [] => TcpStream::connect(address).await,
        more => Box::pin(race(address, more)).await,
    };
    Transport::new(stream.map_err(failed)?).map_err(failed)
}

/// A connection on its way.
type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// The first connection that comes about: the next address is tried when an attempt fails, or has not come out after
/// the head start (RFC 8305 section 5).
async fn race(first: SocketAddr, more: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut left = std::iter::once(first).chain(more.iter().copied());
    let mut under_way: Vec<Dial> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::NotConnected);
    let mut turn = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let (mut place, mut failed) = (0, under_way.is_empty());
            while let Some(attempt) = under_way.get_mut(place) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        last = error;
                        failed = true;
                        drop(under_way.swap_remove(place));
                    }
                    Poll::Pending => place += 1,
                }
            }
            if !failed && turn.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match left.next() {
                Some(address) => {
                    under_way.push(Box::pin(TcpStream::connect(address)));
                    turn.as_mut().reset(Instant::now() + HEAD_START);
                }
                None if under_way.is_empty() => {
                    return Poll::Ready(Err(std::mem::replace(
                        &mut last,
                        io::ErrorKind::NotConnected.into(),
                    )));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

async fn encrypt(
    transport: &mut Transport,
    (tls, Current { config, own, trust, revocations }): (&UpstreamTls, Current<ClientConfig>),
    cluster: &Arc<str>,
    buffers: &Rc<BufferPool>,
) -> Result<Vouched, Refusal> {
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        // An address is never sent as a name; the certificate is held against what is expected of the cluster.
        None => ServerName::IpAddress(transport.peer().ip().into()),
    };
    let connected = transport.connect_tls(config, name, Rc::clone(buffers)).await;
    connected.map_err(|error| Refusal::from_io(&error))?;
    let chain = transport.tls().and_then(|session| session.peer_certificates());
    let (Some(chain @ [leaf, ..]), Some(trust)) = (chain, trust) else {
        return Err(Refusal::NoCertificate);
    };
    let (peer, now) = (Rc::new(PeerIdentity::from_leaf(leaf)?), UnixTime::now());
    // A resumed session stands for a certificate that was verified earlier.
    peer.recheck(&revocations.now(), now)?;
    let context = (Side::Client, Arc::clone(cluster));
    let vouched = Vouched::new((peer, chain), trust, own.as_deref(), context, now);
    // What is trusted may have changed while hands were shaken.
    tls.still_trusts(&vouched)?;
    Ok(vouched)
}
