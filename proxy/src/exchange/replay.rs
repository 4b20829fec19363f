//! The beginning of a request body, kept for as long as an attempt may have to be made again.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::mirror::Mirrors;
use crate::http::body::{BodySource, Chunk, SourceError};
use crate::http::headers::Headers;
use crate::transport::BufferPool;

/// Body bytes that are kept; a longer body is sent once.
pub const MAX_REPLAY_BYTES: usize = 64 * 1024;

/// What was taken from a request's body so far.
#[derive(Debug)]
pub struct Replay {
    kept: Vec<u8>,
    /// Whether bytes are still being kept.
    keeping: bool,
    consumed: u64,
    /// How much of `kept` the present attempt has seen.
    position: usize,
    /// Whether the body was read to its end.
    ended: bool,
    /// Who else gets a copy of the body.
    pub mirrors: Mirrors,
    pool: Rc<BufferPool>,
}

impl Replay {
    /// Keeps bytes only if it is told that they may be needed.
    #[must_use]
    pub const fn new(keeping: bool, mirrors: Mirrors, pool: Rc<BufferPool>) -> Self {
        Self { kept: Vec::new(), keeping, consumed: 0, position: 0, ended: false, mirrors, pool }
    }

    /// Whether another attempt can send the body from its beginning.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.consumed == self.kept.len() as u64
    }

    /// Whether the client has sent all of the body.
    #[must_use]
    pub const fn has_seen_the_end(&self) -> bool {
        self.ended
    }

    /// Begins another attempt.
    pub const fn rewind(&mut self) {
        self.position = 0;
    }

    /// Gives up what was kept: no attempt follows.
    pub fn stop_keeping(&mut self) {
        self.keeping = false;
        if self.position >= self.kept.len() {
            self.forget();
        }
    }

    /// The body as one attempt sees it.
    pub const fn source<'a, S: BodySource>(&'a mut self, inner: &'a mut S) -> ReplaySource<'a, S> {
        ReplaySource { replay: self, inner }
    }

    fn is_replaying(&self) -> bool {
        self.position < self.kept.len()
    }

    fn take_note(&mut self, bytes: &[u8]) {
        self.consumed = self.consumed.saturating_add(bytes.len() as u64);
        self.mirrors.send(bytes);
        if self.keeping && self.kept.len() + bytes.len() <= MAX_REPLAY_BYTES {
            if self.kept.capacity() == 0 {
                self.kept = self.pool.lend_output();
            }
            self.kept.extend_from_slice(bytes);
            self.position = self.kept.len();
        } else if self.keeping {
            self.keeping = false;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.pool.give_back_output(std::mem::take(&mut self.kept));
        self.position = 0;
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.forget();
    }
}

/// First what was kept, then the rest.
#[derive(Debug)]
pub struct ReplaySource<'a, S> {
    replay: &'a mut Replay,
    inner: &'a mut S,
}

impl<S: BodySource> BodySource for ReplaySource<'_, S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        if self.replay.is_replaying() {
            return Poll::Ready(Ok(Chunk::Data));
        }
        let polled = self.inner.poll_chunk(cx);
        if matches!(polled, Poll::Ready(Ok(Chunk::End))) {
            self.replay.ended = true;
            self.replay.mirrors.end();
        }
        polled
    }

    fn chunk(&self) -> &[u8] {
        if self.replay.is_replaying() {
            self.replay.kept.get(self.replay.position..).unwrap_or_default()
        } else {
            self.inner.chunk()
        }
    }

    fn consume(&mut self, count: usize) {
        if self.replay.is_replaying() {
            self.replay.position = (self.replay.position + count).min(self.replay.kept.len());
        } else {
            self.replay.take_note(self.inner.chunk().get(..count).unwrap_or_default());
            self.inner.consume(count);
        }
    }

    fn take_bytes(&mut self) -> Bytes {
        if self.replay.is_replaying() {
            let bytes = Bytes::copy_from_slice(self.chunk());
            self.consume(bytes.len());
            return bytes;
        }
        let bytes = self.inner.take_bytes();
        self.replay.take_note(&bytes);
        bytes
    }

    fn ends_with_chunk(&self) -> bool {
        !self.replay.is_replaying() && self.inner.ends_with_chunk()
    }

    fn trailers(&self) -> Option<&Headers> {
        self.inner.trailers()
    }
}
