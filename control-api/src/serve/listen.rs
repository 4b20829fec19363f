//! Connections: accepted, over TLS 1.3 or on loopback in plaintext, with what the other end has proved.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::peer;
use super::stream::MAX_PROXIES;
use super::uses::{UsedPlace, Uses};
use crate::accept::{self, Handshakes, Place};
use crate::auth::Peer;

/// Connections at a time: one of each proxy, and as many that ask for certificates.
const MAX_CONNECTIONS: usize = 2 * MAX_PROXIES;
/// Those of one source: the proxies of a node, or of a network, may come through one address.
const MAX_CONNECTIONS_OF_ONE: usize = MAX_CONNECTIONS / 4;
/// Those of one source on which nobody has proved who he is: some 60 MB in all.
const MAX_UNPROVEN_OF_ONE: usize = 1024;
const PLACES: accept::Bounds = accept::Bounds {
    most: MAX_CONNECTIONS,
    of_one: MAX_CONNECTIONS_OF_ONE,
    unproven_of_one: MAX_UNPROVEN_OF_ONE,
};
/// Connections that wait to be served.
const MAX_READY: usize = 256;
/// Connections that wait in the kernel: after a restart all proxies come at once. The system's own limit holds, too.
const BACKLOG: u32 = 16 * 1024;

/// How connections are spoken to.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Without TLS, on a loopback address only.
    Plaintext,
    /// TLS as it is configured at the time.
    Tls(watch::Receiver<Arc<Tls>>),
}

/// A TLS configuration, and whose client certificates count.
#[derive(Debug)]
pub struct Tls {
    /// What rustls needs.
    pub config: Arc<ServerConfig>,
    /// The trust domain that clients must belong to.
    pub trust_domain: Arc<str>,
}

/// Binds the address, inside of an event loop; in plaintext to loopback only.
///
/// # Errors
/// When it cannot be had, or would put plaintext on a network.
pub fn bind(address: SocketAddr, transport: &Transport) -> io::Result<TcpListener> {
    if matches!(transport, Transport::Plaintext) && !address.ip().is_loopback() {
        let reason =
            format!("{address}: plaintext is for loopback addresses; leave it off, or listen on one");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    listen(address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // The connections of before a restart are no reason to wait.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until the stream that comes of it is dropped.
#[must_use]
pub fn accept(listener: TcpListener, transport: Transport) -> ReceiverStream<io::Result<Connection>> {
    let (send, connections) = mpsc::channel(MAX_READY);
    let handshakes = Arc::new(Handshakes::default());
    tokio::spawn(async move {
        let serve = |stream, address, place| {
            ready((stream, address, place), transport.clone(), Arc::clone(&handshakes), send.clone())
        };
        accept::each(listener, ("the control server", PLACES), send.closed(), serve).await;
    });
    ReceiverStream::new(connections)
}

async fn ready(
    (stream, address, mut place): (TcpStream, SocketAddr, Place),
    transport: Transport,
    handshakes: Arc<Handshakes>,
    send: mpsc::Sender<io::Result<Connection>>,
) {
    // Without it an answer of two packets waits for the other end's acknowledgement of the first.
    let _ = stream.set_nodelay(true);
    let spoken = spoken((stream, address), transport, &handshakes);
    match place.keep(spoken).await {
        Some(Ok((io, peer))) => {
            let peer = Peer { address: Some(address.ip()), ..peer };
            let _ = send.send(Ok(Connection { io, peer, place: UsedPlace::new(place) })).await;
        }
        Some(Err(error)) => {
            metrics::counter!("outrider_control_handshake_failures_total").increment(1);
            handshakes.refused(address, &error);
        }
        None => {}
    }
}

async fn spoken(
    (stream, address): (TcpStream, SocketAddr),
    transport: Transport,
    handshakes: &Handshakes,
) -> io::Result<(Io, Peer)> {
    match transport {
        Transport::Plaintext => Ok((Io::Plain(stream), Peer { plaintext: true, ..Peer::default() })),
        Transport::Tls(tls) => {
            let tls = Arc::clone(&tls.borrow());
            let stream = handshakes.accept(stream, address.ip(), &tls.config).await?;
            let peer = proved(&stream, &tls)?;
            Ok((Io::Tls(Box::new(stream)), peer))
        }
    }
}

/// Who the other end has proved to be.
fn proved(stream: &TlsStream<TcpStream>, tls: &Tls) -> io::Result<Peer> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match certificate {
        None => Ok(Peer::default()),
        Some(leaf) => peer::of(leaf, &tls.trust_domain).map_err(io::Error::other),
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
    place: UsedPlace,
}

/// What those know who serve a stream of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// The other end.
    pub peer: Peer,
    pub(crate) uses: Uses,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Client;

    fn connect_info(&self) -> Client {
        Client { peer: self.peer.clone(), uses: self.place.uses() }
    }
}

impl Connection {
    /// What there is to read from or write to, unless the connection is to be closed.
    fn io(&mut self, cx: &mut Context<'_>) -> io::Result<&mut Io> {
        match self.place.poll_lost(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nobody uses it, or others need it"))
            }
            Poll::Pending => Ok(&mut self.io),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.io(cx)? {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.io(cx)? {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io(cx)? {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io(cx)? {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
