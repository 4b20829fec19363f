//! How bytes go where a fault has to do with it: slower, a few at a time, not to their end, or not as they were.
//!
//! A [`Shaper`] says how many bytes may go now; it stands before a body as a [`ShapedSource`] and before the bytes of
//! an opaque connection in their relay.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};

use super::distribution::{Distribution, mix};
use super::lease::LOOK_EVERY;
use super::leased::Leased;
use crate::http::body::{BodySink, BodySource, Chunk, Pump, PumpError, SourceError};
use crate::http::headers::Headers;

/// How long what a limited rate lets through at once takes at that rate; as in Envoy.
const SLICE: Duration = Duration::from_millis(50);
const SLICES_PER_SECOND: u64 = 20;

/// How fast bytes go.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many bytes per second.
    Rate(u64),
    /// So many bytes at a time, so far apart.
    Drip(u32, Duration),
    /// Each piece as it comes, after a delay of its own; with the seed of the delays.
    Chunks(Distribution, u64),
}

/// Whose lease it depends on; nobody's for what the configuration holds.
type Owner = Option<Arc<Leased>>;

fn is_live(owner: &Owner) -> bool {
    owner.as_ref().is_none_or(|fault| fault.lease.is_live())
}

/// Shapes one direction of one exchange or connection.
#[derive(Debug)]
pub struct Shaper {
    pace: Option<(Pace, Owner)>,
    /// Bytes that may go before it ends.
    cut: Option<(u64, Owner)>,
    /// One of so many bytes is another, on average; how many to the next, and the state of the draws.
    corrupt: Option<(Corruption, Owner)>,
    /// The bytes of the window as they go, where they are not as they came.
    altered: BytesMut,
    /// Bytes that may go and have not gone yet.
    window: usize,
    /// When more may go.
    next: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    pieces: u64,
}

#[derive(Debug)]
struct Corruption {
    one_in: u32,
    left: u64,
    seed: u64,
    drawn: u64,
}

impl Corruption {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn)
    }

    /// Changes single bytes, evenly spread with the mean distance that was asked for.
    fn alter(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.left > 0 {
                self.left -= 1;
                continue;
            }
            let draw = self.draw();
            *byte ^= u8::try_from(1 + draw % 255).unwrap_or(1);
            self.left = self.draw() % (2 * u64::from(self.one_in) - 1).max(1);
        }
    }
}

/// How many bytes may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// At least one.
    Bytes(usize),
    /// None any more.
    Cut,
}

impl Shaper {
    /// One that has let nothing through yet.
    #[must_use]
    pub fn new(pace: Option<Pace>) -> Self {
        Self {
            pace: pace.map(|pace| (pace, None)),
            cut: None,
            corrupt: None,
            altered: BytesMut::new(),
            window: 0,
            next: None,
            sleep: None,
            pieces: 0,
        }
    }

    /// Sets how fast bytes go, if nobody has.
    pub fn set_pace(&mut self, pace: Pace, owner: Owner) {
        self.pace.get_or_insert((pace, owner));
    }

    /// Sets after how many bytes it ends, if nobody has.
    pub fn set_cut(&mut self, bytes: u64, owner: Owner) {
        self.cut.get_or_insert((bytes, owner));
    }

    /// Sets that one of so many bytes is another, if nobody has.
    pub fn set_corruption(&mut self, one_in: u32, seed: u64, owner: Owner) {
        let mut corruption = Corruption { one_in: one_in.max(1), left: 0, seed, drawn: 0 };
        corruption.left = corruption.draw() % (2 * u64::from(corruption.one_in) - 1).max(1);
        self.corrupt.get_or_insert((corruption, owner));
    }

    /// How many of the bytes that are there may go.
    pub fn poll_grant(&mut self, cx: &mut Context<'_>, available: usize) -> Poll<Grant> {
        if self.cut.as_ref().is_some_and(|(left, owner)| *left == 0 && is_live(owner)) {
            return Poll::Ready(Grant::Cut);
        }
        if self.window == 0 {
            ready!(self.poll_next(cx));
            self.window = self.grant(available);
            if let Some((left, _)) = self.cut.as_ref().filter(|(_, owner)| is_live(owner)) {
                self.window = self.window.min(usize::try_from(*left).unwrap_or(usize::MAX));
            }
        }
        Poll::Ready(Grant::Bytes(self.window.min(available)))
    }

    /// Takes note that bytes have gone.
    pub fn went(&mut self, count: usize) {
        self.window = self.window.saturating_sub(count);
        if let Some((left, _)) = &mut self.cut {
            *left = left.saturating_sub(count as u64);
        }
        if !self.altered.is_empty() {
            self.altered.advance(count.min(self.altered.len()));
        }
        if self.window == 0 {
            self.altered.clear();
        }
    }

    /// The bytes that may go as they go, out of those that are there.
    pub fn altered<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.alter(bytes);
        self.shown(bytes)
    }

    fn alter(&mut self, bytes: &[u8]) {
        let Some((corruption, _)) = self.corrupt.as_mut().filter(|(_, owner)| is_live(owner)) else { return };
        if self.altered.is_empty() {
            self.altered.extend_from_slice(bytes.get(..self.window).unwrap_or(bytes));
            corruption.alter(&mut self.altered);
        }
    }

    fn shown<'a>(&'a self, bytes: &'a [u8]) -> &'a [u8] {
        if self.altered.is_empty() { bytes.get(..self.window).unwrap_or(bytes) } else { &self.altered }
    }

    fn grant(&mut self, available: usize) -> usize {
        let now = Instant::now();
        let at_most = |bytes: u64| available.min(usize::try_from(bytes.max(1)).unwrap_or(usize::MAX));
        match self.pace.as_ref().filter(|(_, owner)| is_live(owner)) {
            None => available,
            Some((Pace::Rate(per_second), _)) => {
                let granted = at_most(per_second / SLICES_PER_SECOND);
                let nanos = (granted as u128) * 1_000_000_000 / u128::from((*per_second).max(1));
                let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                // A timer that fired late is made up for, an idle time is not.
                let earliest = now.checked_sub(SLICE).unwrap_or(now);
                self.next = Some(self.next.map_or(now, |next| next.max(earliest)) + cost);
                granted
            }
            Some((Pace::Drip(bytes, interval), _)) => {
                self.next = Some(now + *interval);
                at_most(u64::from(*bytes))
            }
            Some((Pace::Chunks(..), _)) => {
                self.next = None;
                available
            }
        }
    }

    /// Ready when more may go; at once when the lease of what holds it up is over.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((Pace::Chunks(distribution, seed), _)) = &self.pace
            && self.next.is_none()
        {
            self.pieces += 1;
            self.next = Some(Instant::now() + distribution.sample(mix(*seed, self.pieces)));
        }
        loop {
            let (Some(next), Some((_, owner))) = (self.next, &self.pace) else { return Poll::Ready(()) };
            let now = Instant::now();
            if next <= now || !is_live(owner) {
                return Poll::Ready(());
            }
            let look = if owner.is_some() { next.min(now + LOOK_EVERY) } else { next };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(look)));
            if sleep.is_elapsed() || sleep.deadline() > look {
                sleep.as_mut().reset(look);
            }
            ready!(sleep.as_mut().poll(cx));
        }
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
        Some(shaper) => {
            let polled = pump.poll(cx, &mut ShapedSource { shaper, inner: source }, sink);
            if matches!(polled, Poll::Ready(Err(PumpError::Source(SourceError::Injected)))) {
                // What came before the end is to be seen.
                let _ = ready!(sink.poll_flush(cx));
            }
            polled
        }
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
            if ready!(self.shaper.poll_grant(cx, available)) == Grant::Cut {
                return Poll::Ready(Err(SourceError::Injected));
            }
            self.shaper.alter(self.inner.chunk());
        }
        Poll::Ready(Ok(chunk))
    }

    fn chunk(&self) -> &[u8] {
        self.shaper.shown(self.inner.chunk())
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.shaper.went(count);
    }

    fn take_bytes(&mut self) -> Bytes {
        let whole = self.shaper.altered.is_empty() && self.shaper.window >= self.inner.chunk().len();
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
