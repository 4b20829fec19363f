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
use crate::accept::{self, Handshakes, Place};
use crate::auth::Peer;

/// Connections at a time: one of each proxy, and as many that ask for certificates.
const MAX_CONNECTIONS: usize = 2 * MAX_PROXIES;
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
        accept::each(listener, ("the control server", MAX_CONNECTIONS), send.closed(), serve).await;
    });
    ReceiverStream::new(connections)
}

async fn ready(
    (stream, address, place): (TcpStream, SocketAddr, Place),
    transport: Transport,
    handshakes: Arc<Handshakes>,
    send: mpsc::Sender<io::Result<Connection>>,
) {
    // Without it an answer of two packets waits for the other end's acknowledgement of the first.
    let _ = stream.set_nodelay(true);
    let connection = match transport {
        Transport::Plaintext => Ok((Io::Plain(stream), Peer { plaintext: true, ..Peer::default() })),
        Transport::Tls(tls) => {
            let tls = Arc::clone(&tls.borrow());
            let stream = handshakes.accept(stream, address.ip(), &tls.config).await;
            stream.and_then(|stream| {
                let peer = proved(&stream, &tls)?;
                Ok((Io::Tls(Box::new(stream)), peer))
            })
        }
    };
    match connection {
        Ok((io, peer)) => {
            let peer = Peer { address: Some(address.ip()), ..peer };
            let _ = send.send(Ok(Connection { io, peer, _place: place })).await;
        }
        Err(error) => {
            metrics::counter!("outrider_control_handshake_failures_total").increment(1);
            handshakes.refused(address, &error);
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
    _place: Place,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
