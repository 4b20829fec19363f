//! Moves bytes between two sockets in both directions, each of which ends by itself (half-close).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use crate::exchange::timers::LazyTimer;
use crate::fault::Shaper;
use crate::fault::shape::Grant;
use crate::observe::Reason;
use crate::transport::{Buffer, BufferPool, Transport};

/// Two connected sockets.
#[derive(Debug)]
pub(super) struct Relay {
    down: Transport,
    up: Transport,
    upward: Direction,
    downward: Direction,
    pool: Rc<BufferPool>,
    idle_timeout: Option<Duration>,
    last_activity: Instant,
    timer: LazyTimer,
}

#[derive(Debug, Default)]
struct Direction {
    buffer: Buffer,
    state: State,
    bytes: u64,
    /// How the bytes go, where a fault has to do with it.
    shaper: Option<Box<Shaper>>,
    /// A fault has ended it.
    cut: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Moving,
    Ending,
    Done,
}

impl Relay {
    /// A relay that has moved nothing yet.
    #[must_use]
    pub(super) fn new(
        down: Transport,
        up: Transport,
        idle_timeout: Option<Duration>,
        pool: Rc<BufferPool>,
    ) -> Self {
        Self {
            down,
            up,
            upward: Direction::default(),
            downward: Direction::default(),
            pool,
            idle_timeout,
            last_activity: Instant::now(),
            timer: LazyTimer::default(),
        }
    }

    /// Sets how the bytes from the client and those to it go.
    pub(super) fn shape(&mut self, upward: Option<Box<Shaper>>, downward: Option<Box<Shaper>>) {
        self.upward.shaper = upward;
        self.downward.shaper = downward;
    }

    /// Bytes from the client and to it.
    #[must_use]
    pub(super) const fn bytes(&self) -> (u64, u64) {
        (self.upward.bytes, self.downward.bytes)
    }

    /// Ready when both directions have ended.
    ///
    /// # Errors
    /// Which side failed, or that nothing moved for too long. Both sides are then reset.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let before = self.bytes();
        let upward = self.upward.poll(cx, &mut self.down, &mut self.up, &self.pool);
        let downward = self.downward.poll(cx, &mut self.up, &mut self.down, &self.pool);
        match (upward, downward) {
            (Poll::Ready(Err(_)), _) => return Poll::Ready(Err(self.reset(Reason::DownstreamGone))),
            (_, Poll::Ready(Err(_))) => return Poll::Ready(Err(self.reset(Reason::UpstreamBodyFailed))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            _ => {}
        }
        if [&self.upward, &self.downward].iter().any(|way| way.cut && way.state == State::Done) {
            return Poll::Ready(Err(Reason::FaultInjected));
        }
        if self.bytes() != before {
            self.last_activity = Instant::now();
        }
        match self.idle_timeout {
            Some(limit) => {
                let idle = self.timer.poll_until(cx, self.last_activity + limit);
                idle.map(|()| Err(self.reset(Reason::StreamIdle)))
            }
            None => Poll::Pending,
        }
    }

    /// Passes an abnormal end on as one.
    fn reset(&self, reason: Reason) -> Reason {
        self.down.reset_on_close();
        self.up.reset_on_close();
        reason
    }
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        pool: &BufferPool,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.state {
                State::Moving if self.buffer.is_empty() => {
                    let space = self.buffer.space(pool);
                    match from.poll_read_into(cx, space) {
                        Poll::Ready(Ok(0)) => self.state = State::Ending,
                        Poll::Ready(Ok(count)) => self.buffer.filled(count),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {
                            self.buffer.release(pool);
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            return Poll::Pending;
                        }
                    }
                }
                State::Moving => {
                    let was_full = self.buffer.is_full();
                    let mut unread = self.buffer.unread();
                    if let Some(shaper) = &mut self.shaper {
                        match shaper.poll_grant(cx, unread.len()) {
                            Poll::Ready(Grant::Bytes(_)) => unread = shaper.altered(unread),
                            Poll::Ready(Grant::Cut) => {
                                self.cut = true;
                                self.state = State::Ending;
                                continue;
                            }
                            Poll::Pending => {
                                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                                return Poll::Pending;
                            }
                        }
                    }
                    let count = ready!(Pin::new(&mut *to).poll_write(cx, unread))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    self.bytes = self.bytes.saturating_add(count as u64);
                    self.buffer.consume(count);
                    if let Some(shaper) = &mut self.shaper {
                        shaper.went(count);
                    }
                    if was_full {
                        self.buffer.enlarge_if_empty(pool);
                    }
                }
                State::Ending => {
                    self.buffer.release(pool);
                    // A peer that is already gone cannot be told that nothing follows.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
