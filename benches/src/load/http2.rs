//! Plain HTTP/2: all streams of a connection on one task, so that what is there is read at once and answered at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{sleep, timeout};

use super::engine::{PAUSE, Plan};
use super::http1::{authority, path};
use super::meter::{Failure, Meter, Moved, Turn};
use super::outcome::ErrorKind;
use super::stream::{CONNECT, Stream};
use super::{Pace, Protocol};
use crate::wire::http2::{Client, End, Malformed, Request};

/// Bytes of one read.
const READ_BYTES: usize = 128 * 1024;

/// Requests over one connection after the other until the run is over.
pub(super) async fn connection(plan: Arc<Plan>, meter: Arc<Meter>) {
    let mut opened = Connection::open(&plan).await;
    meter.start_together().await;
    // Turns whose requests the server did not look at; they come first on the next connection.
    let mut again = Vec::new();
    loop {
        let failure = match opened {
            Ok(mut connection) => match connection.serve(&plan, &meter, &mut again).await {
                Ok(()) if meter.is_over() => return,
                Ok(()) => None,
                Err(failure) => {
                    for turn in connection.client.abandon() {
                        meter.failed(turn, Failure::new(failure.kind, &failure.why));
                    }
                    Some(failure)
                }
            },
            Err(failure) => {
                // Without a connection a turn is lost.
                let turn = match again.pop() {
                    Some(turn) => Some(turn),
                    None => meter.turn().await,
                };
                let Some(turn) = turn else { return };
                meter.failed(turn, failure);
                sleep(PAUSE).await;
                None
            }
        };
        if let Some(failure) = failure {
            meter.trouble(failure);
            sleep(PAUSE).await;
        }
        if meter.is_over() && again.is_empty() {
            return;
        }
        opened = Connection::open(&plan).await;
    }
}

struct Connection {
    stream: Stream,
    client: Client<Turn>,
    /// What was read and is no whole frame yet stands before `end`.
    buffer: Box<[u8]>,
    end: usize,
    /// Bytes of `client.out` that are written.
    written: usize,
    streams: usize,
}

impl Connection {
    async fn open(plan: &Plan) -> Result<Self, Failure> {
        let spec = &plan.spec;
        let place = (spec.tls.is_some(), &*authority(spec), &*path(spec));
        let request = Request::new(place, &spec.headers, spec.request_bytes).map_err(malformed)?;
        let mut connection = Self {
            stream: plan.dialer.dial().await?,
            client: Client::new(request),
            buffer: vec![0; READ_BYTES].into(),
            end: 0,
            written: 0,
            streams: 0,
        };
        // Requests before the server's settings could be more than it allows, or use a table that it does not have.
        let settings = async {
            loop {
                connection.step().await?;
                connection
                    .client
                    .receive(connection.buffer.get(..connection.end).unwrap_or_default(), |_, _| ())
                    .map_err(malformed)
                    .map(|used| connection.keep(used))?;
                if let Some(allowed) = connection.client.allowed() {
                    return Ok(usize::try_from(allowed).unwrap_or(usize::MAX));
                }
            }
        };
        let allowed = timeout(CONNECT, settings).await;
        let allowed =
            allowed.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Handshake, "no settings in time")));
        let allowed =
            allowed.map_err(|failure: Failure| Failure { kind: ErrorKind::Handshake, ..failure })?;
        let wanted = match spec.protocol {
            Protocol::Http2 { streams } => streams,
            Protocol::Http1
            | Protocol::GrpcUnary { .. }
            | Protocol::GrpcStream { .. }
            | Protocol::Tcp
            | Protocol::WebSocket
            | Protocol::NewConnection => 1,
        };
        connection.streams = usize::try_from(wanted).unwrap_or(usize::MAX).min(allowed).max(1);
        Ok(connection)
    }

    /// Sends and receives until the server wants the connection to end, or the run is over.
    async fn serve(&mut self, plan: &Plan, meter: &Meter, again: &mut Vec<Turn>) -> Result<(), Failure> {
        let closed_loop = plan.spec.pace == Pace::Closed;
        let mut over = false;
        loop {
            while self.has_room()
                && let Some(turn) = again.pop()
            {
                self.client.begin(turn);
            }
            while closed_loop && !over && self.has_room() {
                match meter.turn().await {
                    Some(turn) => self.client.begin(turn),
                    None => over = true,
                }
            }
            if (over || self.client.is_closing()) && self.client.under_way() == 0 {
                return Ok(());
            }
            // Both ways can be given up at any time: neither a turn nor a byte is lost.
            tokio::select! {
                biased;
                turn = meter.turn(), if !closed_loop && !over && self.has_room() => match turn {
                    Some(turn) => self.client.begin(turn),
                    None => over = true,
                },
                stepped = self.step() => {
                    stepped?;
                    self.take(plan, meter, again)?;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.client.under_way() < self.streams && !self.client.is_closing()
    }

    /// Counts what has ended in what was read.
    fn take(&mut self, plan: &Plan, meter: &Meter, again: &mut Vec<Turn>) -> Result<(), Failure> {
        let bytes = self.buffer.get(..self.end).unwrap_or_default();
        let (wanted, bytes_out) = (plan.spec.response_bytes as u64, plan.spec.request_bytes as u64);
        let used = self.client.receive(bytes, |turn, end| match end {
            End::Answer { status: 200, bytes } if bytes == wanted => {
                meter.answered(turn, Moved { bytes_in: bytes, bytes_out });
            }
            End::Answer { status: 200, bytes } => {
                meter.failed(
                    turn,
                    Failure::new(ErrorKind::Length, format!("{bytes} bytes instead of {wanted}")),
                );
            }
            End::Answer { status, .. } => {
                meter.failed(turn, Failure::new(ErrorKind::Status, format!("status {status}")));
            }
            End::Reset(code) => {
                meter.failed(
                    turn,
                    Failure::new(ErrorKind::Status, format!("the stream was reset with code {code}")),
                );
            }
            End::Refused => again.push(turn),
        });
        self.keep(used.map_err(malformed)?);
        Ok(())
    }

    fn keep(&mut self, used: usize) {
        self.buffer.copy_within(used..self.end, 0);
        self.end -= used;
    }

    /// Writes what there is and reads something, whichever goes. A server that waits to be read from is so never waited for.
    async fn step(&mut self) -> Result<(), Failure> {
        std::future::poll_fn(|cx| {
            while let Some(rest @ [_, ..]) = self.client.out.get(self.written..) {
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Failure::broken("nothing could be written")));
                    }
                    Poll::Ready(Ok(some)) => self.written += some,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::broken(error))),
                    Poll::Pending => break,
                }
                if self.written == self.client.out.len() {
                    self.client.out.clear();
                    self.written = 0;
                    // There may be more where the bodies came from.
                    self.client.send_bodies();
                }
            }
            // TLS may hold on to what was written.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
                return Poll::Ready(Err(Failure::broken(error)));
            }
            let mut room = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
            match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(Failure::broken(error))),
                Poll::Ready(Ok(())) if room.filled().is_empty() => {
                    Poll::Ready(Err(Failure::broken("the connection was closed")))
                }
                Poll::Ready(Ok(())) => {
                    self.end += room.filled().len();
                    Poll::Ready(Ok(()))
                }
            }
        })
        .await
    }
}

fn malformed(error: Malformed) -> Failure {
    Failure::new(ErrorKind::Malformed, error)
}
