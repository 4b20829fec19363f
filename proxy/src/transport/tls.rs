//! TLS over a socket, between it and everything above.
//!
//! rustls does the cryptography and the handshake and never touches the socket. Its records are read into and
//! written from buffers that the worker lends, so an idle connection holds none, and a large body takes as few
//! system calls as it does in plaintext.

mod records;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, HandshakeKind};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::{Buffer, BufferPool};
use records::{Intent, RECORD_BYTES, Reading, Sides, Step, general};

/// Records that are made after an error: the alert, and what was before it.
const MAX_LAST_RECORDS: u32 = 8;

/// One encrypted connection, in whichever role.
#[derive(Debug)]
pub struct TlsSession {
    role: Role,
    pool: Rc<BufferPool>,
    /// Read from the socket, not yet decrypted.
    incoming: Buffer,
    /// Decrypted, not yet read.
    plain: Buffer,
    /// Encrypted, not yet written to the socket.
    outgoing: Buffer,
    /// The peer said that nothing follows.
    peer_closed: bool,
    close_sent: bool,
}

enum Role {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        })
    }
}

impl TlsSession {
    /// A server's session. `first` is what was already read from the socket.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn server(
        config: Arc<rustls::ServerConfig>,
        first: &[u8],
        pool: Rc<BufferPool>,
    ) -> Result<Self, rustls::Error> {
        let mut session = Self::new(Role::Server(UnbufferedServerConnection::new(config)?), pool);
        session.incoming.push(first, &session.pool);
        Ok(session)
    }

    /// A client's session with a server that is to have this name.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn client(
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        pool: Rc<BufferPool>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::new(Role::Client(UnbufferedClientConnection::new(config, name)?), pool))
    }

    fn new(role: Role, pool: Rc<BufferPool>) -> Self {
        Self {
            role,
            pool,
            incoming: Buffer::default(),
            plain: Buffer::default(),
            outgoing: Buffer::default(),
            peer_closed: false,
            close_sent: false,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.role {
            Role::Client(connection) => connection,
            Role::Server(connection) => connection,
        }
    }

    /// The peer's chain, leaf first; after the handshake.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// Whether an earlier session was resumed, so that no certificate was verified now.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Shakes hands. On an error the peer has been sent the alert, as far as the socket took it.
    ///
    /// # Errors
    /// `InvalidData` around a [`rustls::Error`] for what TLS refuses, or the socket's error.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        loop {
            match self.step(&mut Reading::nowhere(), Intent::Nothing) {
                Ok(Step::Again | Step::Wrote(_)) => {}
                Ok(Step::Idle) => {
                    ready!(self.poll_flush(cx, socket))?;
                    if !self.state().is_handshaking() {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.poll_fill(cx, socket))?;
                }
                Ok(Step::PeerClosed) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Poll::Ready(Err(self.fail(cx, socket, error))),
            }
        }
    }

    /// Reads plaintext into `space`, whether or not the peer reads what we write; `Ok(0)` is the peer's end, said by TLS and not by the socket alone.
    ///
    /// # Errors
    /// When the socket fails, or ends without `close_notify`, or a record is not what it should be.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        space: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut reading = Reading { space, filled: 0 };
        reading.take(&mut self.plain);
        loop {
            // Another whole record is decrypted only where it fits.
            let wants_more =
                reading.filled == 0 || (reading.left() >= RECORD_BYTES && !self.incoming.is_empty());
            if reading.filled > 0 && (self.peer_closed || !wants_more) {
                self.plain.release(&self.pool);
                return Poll::Ready(Ok(reading.filled));
            }
            if self.peer_closed {
                return Poll::Ready(Ok(0));
            }
            match self.step(&mut reading, Intent::Nothing) {
                Ok(Step::Again | Step::Wrote(_)) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Idle) => {
                    if let Poll::Ready(Err(error)) = self.poll_flush(cx, socket) {
                        return Poll::Ready(Err(error));
                    }
                    if reading.filled > 0 {
                        return Poll::Ready(Ok(reading.filled));
                    }
                    ready!(self.poll_fill(cx, socket))?;
                }
                Err(error) => return Poll::Ready(Err(self.fail(cx, socket, error))),
            }
        }
    }

    /// Encrypts from `bufs` and writes as much of it as the socket takes; the rest goes with the next write or flush.
    ///
    /// # Errors
    /// When the socket fails or our side is closed.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_flush(cx, socket))?;
        let count = self.send(Intent::Write(bufs))?;
        if let Poll::Ready(Err(error)) = self.poll_flush(cx, socket) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    /// Bytes that are encrypted and not yet written out.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Writes out what is encrypted.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut *socket).poll_write(cx, self.outgoing.unread()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(count);
        }
        self.outgoing.release(&self.pool);
        Poll::Ready(Ok(()))
    }

    /// Says that nothing follows; the peer may still speak.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        if !self.close_sent && !self.state().is_handshaking() {
            self.send(Intent::Close)?;
            self.close_sent = true;
        }
        ready!(self.poll_flush(cx, socket))?;
        Pin::new(socket).poll_shutdown(cx)
    }

    fn send(&mut self, intent: Intent<'_>) -> io::Result<usize> {
        if self.close_sent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            match self.step(&mut Reading::nowhere(), intent) {
                Ok(Step::Wrote(count)) => return Ok(count),
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Idle) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(invalid(error)),
            }
        }
    }

    /// Reads from the socket; an end without `close_notify` is an error, because something may be cut off.
    fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        let mut space = ReadBuf::new(self.incoming.space(&self.pool));
        if space.capacity() == 0 {
            return Poll::Ready(Err(invalid(general("a message is too large"))));
        }
        let outcome = Pin::new(socket).poll_read(cx, &mut space);
        let count = space.filled().len();
        match outcome {
            Poll::Pending => {
                self.incoming.release(&self.pool);
                self.plain.release(&self.pool);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if count == 0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(())) => {
                self.incoming.filled(count);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Sends the alert as far as the socket takes it.
    fn fail(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream, error: rustls::Error) -> io::Error {
        // Only what already waits is taken: what came in is not looked at again.
        for _ in 0..MAX_LAST_RECORDS {
            if !self.state().wants_write() || self.step(&mut Reading::nowhere(), Intent::Nothing).is_err() {
                break;
            }
        }
        // Whoever broke the protocol is not waited for.
        let _ = self.poll_flush(cx, socket);
        self.peer_closed = true;
        self.close_sent = true;
        invalid(error)
    }

    fn step(&mut self, reading: &mut Reading<'_>, intent: Intent<'_>) -> Result<Step, rustls::Error> {
        let mut sides = Sides { plain: &mut self.plain, outgoing: &mut self.outgoing, pool: &self.pool };
        let incoming = self.incoming.unread_mut();
        let (discard, step) = match &mut self.role {
            Role::Client(connection) => {
                sides.handle(connection.process_tls_records(incoming), reading, intent)
            }
            Role::Server(connection) => {
                sides.handle(connection.process_tls_records(incoming), reading, intent)
            }
        };
        self.incoming.consume(discard);
        step
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
