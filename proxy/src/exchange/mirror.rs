//! Copies of requests for clusters whose answers nobody sees (`request_mirror_policies`).
//!
//! A mirror may never slow the request that it copies: the body goes to it over a bounded queue, and a mirror
//! that cannot keep up is cut off.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Origin;
use crate::http::body::{BodySink as _, BodySource, Chunk, Discard, Pump, SourceError};
use crate::http::headers::Headers;
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::ForwardAction;
use crate::model::limits::Priority;
use crate::model::route_table::without_port;
use crate::upstream::ClusterState;
use crate::upstream::members::Choice;
use crate::upstream::pool;
use crate::worker::Worker;

/// Pieces of body that may wait for a mirror.
const QUEUED_PIECES: usize = 64;
/// Bytes of bodies that may wait for all mirrors of one worker.
const QUEUED_BYTES: usize = 4 << 20;
/// Mirrored requests under way in one worker; further ones are not mirrored.
const MAX_MIRRORS: u32 = 256;
/// How long a mirrored exchange may take.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// The mirrors of one request.
#[derive(Debug, Default)]
pub struct Mirrors(Vec<Queue>);

impl Mirrors {
    /// Gives a piece of the body to all mirrors; one that is not keeping up loses its request.
    pub fn send(&mut self, piece: &[u8]) {
        if !self.0.is_empty() {
            let piece = Bytes::copy_from_slice(piece);
            self.0.retain(|queue| queue.send(piece.clone()));
        }
    }

    /// Says that the body is complete. An empty piece stands for it: without one the copy was cut off.
    pub fn end(&mut self) {
        for queue in self.0.drain(..) {
            queue.send(Bytes::new());
        }
    }
}

/// The way to one mirror.
#[derive(Debug)]
struct Queue {
    pieces: mpsc::Sender<Piece>,
    /// What waits for all mirrors of the worker.
    waiting: Rc<Cell<usize>>,
}

impl Queue {
    /// Whether there was room.
    fn send(&self, bytes: Bytes) -> bool {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > QUEUED_BYTES {
            return false;
        }
        self.waiting.set(waiting);
        let held = Held { waiting: Rc::clone(&self.waiting), count: bytes.len() };
        self.pieces.try_send(Piece { bytes, _held: held }).is_ok()
    }
}

/// Bytes that wait; counted until it is dropped.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _held: Held,
}

#[derive(Debug)]
struct Held {
    waiting: Rc<Cell<usize>>,
    count: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.set(self.waiting.get().saturating_sub(self.count));
    }
}

/// Starts the mirrors that the route wants for this request.
pub fn start(action: &ForwardAction, request: &RequestHead, origin: &Origin) -> Mirrors {
    let mut mirrors = Mirrors::default();
    for mirror in &action.mirrors {
        let wanted = mirror.share.is_none_or(|share| share.covers(origin.worker.draw()));
        let Some(cluster) = origin.worker.clusters.find(&mirror.cluster).filter(|_| wanted) else {
            continue;
        };
        if origin.worker.mirrors.get() >= MAX_MIRRORS || !request.upgrade.is_empty() {
            continue;
        }
        let (pieces, body) = mpsc::channel(QUEUED_PIECES);
        let copy = shadow(request);
        let (destination, standing) = (origin.destination, Rc::clone(&origin.standing));
        let worker = Rc::clone(&origin.worker);
        let waiting = Rc::clone(&worker.mirrored_bytes);
        worker.mirrors.set(worker.mirrors.get() + 1);
        tokio::task::spawn_local(async move {
            let _under_way = UnderWay(Rc::clone(&worker));
            let Some(endpoint) = cluster.pick(&Choice::any(destination), &mut worker.random.borrow_mut())
            else {
                return;
            };
            if worker.may_reach(&standing, &cluster, &endpoint).is_err() {
                return;
            }
            let sent = timeout(MIRROR_TIMEOUT, send(&cluster, &endpoint, copy, MirrorBody::new(body))).await;
            if sent.is_err() {
                tracing::debug!(cluster = %cluster.config().name, "mirrored request timed out");
            }
        });
        mirrors.0.push(Queue { pieces, waiting });
    }
    mirrors
}

/// A place among the mirrored requests.
struct UnderWay(Rc<Worker>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// A copy of the head, with `-shadow` behind the host as in Envoy.
fn shadow(request: &RequestHead) -> RequestHead {
    let host = without_port(&request.authority);
    let port = request.authority.get(host.len()..).unwrap_or_default();
    RequestHead {
        method: request.method.clone(),
        secure: request.secure,
        authority: format!("{host}-shadow{port}"),
        path: request.path.clone(),
        version: request.version,
        headers: request.headers.clone(),
        body: request.body,
        expects_continue: false,
        upgrade: String::new(),
        te_trailers: request.te_trailers,
    }
}

/// Sends one copy and reads its answer to the end, so that the connection can be used again.
async fn send(
    cluster: &Rc<ClusterState>,
    endpoint: &Rc<crate::upstream::EndpointState>,
    request: RequestHead,
    mut body: MirrorBody,
) -> Option<()> {
    let protocol = super::routed::protocol(cluster, &request);
    let mut link = pool::acquire(cluster, endpoint, protocol, Priority::Default).await.ok()?;
    link.send_head(&request).ok()?;
    let (mut response, mut up, mut down) = (ResponseHead::default(), Pump::default(), Pump::default());
    let mut sink = Discard;
    std::future::poll_fn(|cx| {
        if !up.is_done() && up.poll(cx, &mut body, &mut link)?.is_pending() {
            let _ = link.poll_flush(cx)?;
        }
        while let Poll::Ready(polled) = link.poll_response(cx, &request.method, &mut response) {
            if polled.is_err() || !response.is_interim() {
                return Poll::Ready(polled.map_err(|_| SinkLost));
            }
        }
        Poll::Pending
    })
    .await
    .ok()?;
    std::future::poll_fn(|cx| down.poll(cx, &mut link, &mut sink)).await.ok()?;
    if up.is_done() {
        link.finish(cluster, endpoint, Instant::now());
    }
    Some(())
}

/// The mirror came to nothing.
struct SinkLost;

impl<E: std::error::Error> From<E> for SinkLost {
    fn from(_: E) -> Self {
        Self
    }
}

/// The body as the queue brings it.
#[derive(Debug)]
struct MirrorBody {
    queue: mpsc::Receiver<Piece>,
    piece: Option<Piece>,
    ended: bool,
}

impl MirrorBody {
    const fn new(queue: mpsc::Receiver<Piece>) -> Self {
        Self { queue, piece: None, ended: false }
    }
}

impl BodySource for MirrorBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        if !self.chunk().is_empty() {
            return Poll::Ready(Ok(Chunk::Data));
        }
        self.piece = None;
        if self.ended {
            return Poll::Ready(Ok(Chunk::End));
        }
        self.queue.poll_recv(cx).map(|piece| match piece {
            Some(piece) if piece.bytes.is_empty() => {
                self.ended = true;
                Ok(Chunk::End)
            }
            Some(piece) => {
                self.piece = Some(piece);
                Ok(Chunk::Data)
            }
            None => Err(SourceError::Truncated),
        })
    }

    fn chunk(&self) -> &[u8] {
        self.piece.as_ref().map_or(&[], |piece| &piece.bytes)
    }

    fn consume(&mut self, count: usize) {
        if let Some(piece) = &mut self.piece {
            bytes::Buf::advance(&mut piece.bytes, count);
        }
    }

    fn take_bytes(&mut self) -> Bytes {
        self.piece.take().map_or_else(Bytes::new, |piece| piece.bytes)
    }

    fn ends_with_chunk(&self) -> bool {
        false
    }

    fn trailers(&self) -> Option<&Headers> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_waits_for_mirrors_is_bounded_in_bytes() {
        let waiting: Rc<Cell<usize>> = Rc::default();
        let start = || {
            let (pieces, body) = mpsc::channel(QUEUED_PIECES);
            (Mirrors(vec![Queue { pieces, waiting: Rc::clone(&waiting) }]), MirrorBody::new(body))
        };
        let ((mut stuck, stuck_body), (mut quick, mut body)) = (start(), start());
        let piece = vec![0; QUEUED_BYTES / 8];
        for _ in 0..7 {
            stuck.send(&piece);
        }
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            quick.send(&piece);
            assert_eq!(body.poll_chunk(&mut cx).map(Result::unwrap), Poll::Ready(Chunk::Data));
            body.consume(piece.len());
            assert!(body.poll_chunk(&mut cx).is_pending(), "it keeps up");
        }
        stuck.send(&piece);
        assert_eq!(waiting.get(), QUEUED_BYTES);
        stuck.send(&piece);
        assert!(stuck.0.is_empty(), "it is cut off");
        drop(stuck_body);
        assert_eq!(waiting.get(), 0);
        quick.end();
        assert_eq!(body.poll_chunk(&mut cx).map(Result::unwrap), Poll::Ready(Chunk::End));
    }
}
