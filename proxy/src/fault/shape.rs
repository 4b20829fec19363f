//! How bytes go where a fault has to do with it: slower, a few at a time, not to their end, or not as they were.
//!
//! A [`Shaper`] says how many bytes may go now; it stands before a body as a [`ShapedSource`] and before the bytes of
//! an opaque connection in their relay.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::body::{BodySink, BodySource, Chunk, Pump, PumpError, SourceError};
use crate::http::headers::Headers;

/// How long what a limited rate lets through at once takes at that rate; as in Envoy.
const SLICE: Duration = Duration::from_millis(50);
const SLICES_PER_SECOND: u64 = 20;

/// How fast bytes go.
#[derive(Debug)]
pub enum Pace {
    /// So many bytes per second.
    Rate(u64),
}

/// Shapes one direction of one exchange or connection.
#[derive(Debug)]
pub struct Shaper {
    pace: Option<Pace>,
    /// Bytes that may go and have not gone yet.
    window: usize,
    /// When more may go.
    next: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Shaper {
    /// One that has let nothing through yet.
    #[must_use]
    pub fn new(pace: Option<Pace>) -> Self {
        Self { pace, window: 0, next: Instant::now(), sleep: None }
    }

    /// How many of the bytes that are there may go; at least one.
    pub fn poll_grant(&mut self, cx: &mut Context<'_>, available: usize) -> Poll<usize> {
        if self.window == 0 {
            ready!(self.poll_next(cx));
            self.window = self.grant(available);
        }
        Poll::Ready(self.window.min(available))
    }

    /// Takes note that bytes have gone.
    pub const fn went(&mut self, count: usize) {
        self.window = self.window.saturating_sub(count);
    }

    fn grant(&mut self, available: usize) -> usize {
        match self.pace {
            None => available,
            Some(Pace::Rate(per_second)) => {
                let slice = per_second / SLICES_PER_SECOND;
                let granted = available.min(usize::try_from(slice.max(1)).unwrap_or(usize::MAX));
                let nanos = (granted as u128) * 1_000_000_000 / u128::from(per_second.max(1));
                // A timer that fired late is made up for, an idle time is not.
                let earliest = Instant::now().checked_sub(SLICE).unwrap_or(self.next);
                let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.next = self.next.max(earliest) + cost;
                granted
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.next <= Instant::now() {
            return Poll::Ready(());
        }
        let next = self.next;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if sleep.deadline() != next {
            sleep.as_mut().reset(next);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Moves a body through a shaper, where there is one.
///
/// # Errors
/// As [`Pump::poll`].
pub fn poll_pump<S: BodySource, K: BodySink>(
    shaper: &mut Option<Box<Shaper>>,
    pump: &mut Pump,
    cx: &mut Context<'_>,
    source: &mut S,
    sink: &mut K,
) -> Poll<Result<(), PumpError>> {
    match shaper {
        None => pump.poll(cx, source, sink),
        Some(shaper) => pump.poll(cx, &mut ShapedSource { shaper, inner: source }, sink),
    }
}

/// A body that goes as a shaper lets it.
#[derive(Debug)]
pub struct ShapedSource<'a, S> {
    shaper: &'a mut Shaper,
    inner: &'a mut S,
}

impl<S: BodySource> BodySource for ShapedSource<'_, S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        let chunk = ready!(self.inner.poll_chunk(cx))?;
        if chunk == Chunk::Data {
            let available = self.inner.chunk().len();
            ready!(self.shaper.poll_grant(cx, available));
        }
        Poll::Ready(Ok(chunk))
    }

    fn chunk(&self) -> &[u8] {
        let chunk = self.inner.chunk();
        chunk.get(..self.shaper.window).unwrap_or(chunk)
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.shaper.went(count);
    }

    fn take_bytes(&mut self) -> Bytes {
        let whole = self.shaper.window >= self.inner.chunk().len();
        let bytes = if whole { self.inner.take_bytes() } else { Bytes::copy_from_slice(self.chunk()) };
        if !whole {
            self.inner.consume(bytes.len());
        }
        self.shaper.went(bytes.len());
        bytes
    }

    fn ends_with_chunk(&self) -> bool {
        self.shaper.window >= self.inner.chunk().len() && self.inner.ends_with_chunk()
    }

    fn trailers(&self) -> Option<&Headers> {
        self.inner.trailers()
    }
}

#[cfg(test)]
mod tests;
