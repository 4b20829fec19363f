//! What ends an exchange from within: its deadlines, on one timer, and policies that no longer allow it.
//!
//! Most deadlines are set and never met, so the timer is armed lazily: it is left alone while it would fire
//! before the next deadline anyway, and looks again when it does. A connection thereby pays for a timer once in
//! many requests.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::authorize::Oversight;
use crate::http::message::{BodyLength, RequestHead};
use crate::model::retry::RetryPolicy;
use crate::model::{ForwardAction, HttpChain};
use crate::observe::Reason;
use crate::policy::egress::Destination;

/// A timer that is armed only when it must be.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The task that it wakes.
    armed: Option<Waker>,
}

impl LazyTimer {
    /// Ready when the deadline has passed.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        // Looking at what is armed for this task is cheaper than arming it once more.
        if self.armed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.armed = Some(cx.waker().clone());
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The deadlines of one exchange.
#[derive(Debug)]
pub struct Timers<'a> {
    timer: &'a mut LazyTimer,
    oversight: Option<Oversight<'a>>,
    tunnel: bool,
    idle_timeout: Option<Duration>,
    last_activity: Instant,
    /// The whole request must be in by then.
    request: Option<Instant>,
    route_timeout: Option<Duration>,
    /// Counted from when the request was in.
    route: Option<Instant>,
    /// A connection must be there by then, for a request that is not in yet.
    connect: Option<Instant>,
    per_try: Option<Instant>,
    per_try_idle: Option<Duration>,
    stream: Option<Instant>,
    /// What the client has said by `grpc-timeout`, where the route honours it.
    asked: Option<Instant>,
}

impl<'a> Timers<'a> {
    /// The deadlines that route and chain set for this request.
    pub fn new(
        timer: &'a mut LazyTimer,
        action: &ForwardAction,
        chain: &HttpChain,
        request: &RequestHead,
        (started, oversight): (Instant, Option<Oversight<'a>>),
    ) -> Self {
        let tunnel = !request.upgrade.is_empty();
        let bodiless = request.body == BodyLength::Empty;
        let longest = action.max_stream_duration.unwrap_or(chain.max_stream_duration);
        let honoured = action.grpc_stream.is_some() || (action.grpc_route.is_some() && request.is_grpc());
        let asked = request.headers.first(b"grpc-timeout").filter(|_| honoured).and_then(grpc_timeout);
        let grpc = action.grpc_stream.and_then(|bound| {
            let stream = asked?.saturating_sub(bound.offset);
            Some(bound.max.map_or(stream, |max| stream.min(max)))
        });
        let timeout = match action.grpc_route.filter(|_| request.is_grpc()) {
            None => action.timeout,
            Some(bound) => {
                // An offset that would leave nothing is not taken off.
                let left = asked.map(|asked| asked.checked_sub(bound.offset).unwrap_or(asked));
                [left.filter(|left| !left.is_zero()), bound.max].into_iter().flatten().min()
            }
        };
        // A tunnel has no end that could be late.
        let route_timeout = timeout.filter(|_| !tunnel);
        Self {
            timer,
            oversight,
            tunnel,
            idle_timeout: action.idle_timeout.unwrap_or(chain.stream_idle_timeout),
            last_activity: started,
            request: chain.request_timeout.filter(|_| !bodiless).map(|limit| started + limit),
            route_timeout,
            route: route_timeout.filter(|_| bodiless).map(|limit| started + limit),
            connect: None,
            per_try: None,
            per_try_idle: None,
            asked: asked.map(|asked| started + asked),
            stream: grpc.or(longest).map(|limit| started + limit),
        }
    }

    /// Takes note that bytes moved, now.
    pub fn active(&mut self) -> Instant {
        self.last_activity = Instant::now();
        self.last_activity
    }

    /// Takes note that the request is in; the route's timeout counts from here.
    pub fn request_complete(&mut self) {
        self.request = None;
        if self.route.is_none() {
            self.route = self.route_timeout.map(|limit| Instant::now() + limit);
        }
    }

    /// Takes note of where the attempt leads, for a tunnel that is held to it.
    pub fn reaches(&mut self, to: impl FnOnce() -> Destination) {
        if let Some(oversight) = self.oversight.as_mut().filter(|_| self.tunnel) {
            oversight.reaches(to());
        }
    }

    /// Takes note that a connection is waited for. The body is not read meanwhile, so the client is not what the time goes
    /// to, and the route's timeout bounds it too.
    pub fn connecting(&mut self) {
        if self.route.is_none() {
            self.connect = self.route_timeout.map(|limit| Instant::now() + limit);
        }
    }

    /// Takes note that the connection is there.
    pub const fn connected(&mut self) {
        self.connect = None;
    }

    /// Takes note that an attempt begins, and tells the next hop how much time is left to it.
    pub fn attempt(&mut self, retry: Option<&RetryPolicy>, request: &mut RequestHead) {
        self.per_try = None;
        if let Some(policy) = retry {
            self.per_try = policy.per_try_timeout.map(|limit| Instant::now() + limit);
            self.per_try_idle = policy.per_try_idle_timeout;
            if self.per_try_idle.is_some() {
                self.active();
            }
        }
        if let Some(asked) = self.asked {
            let end = [Some(asked), self.route, self.stream].into_iter().flatten().min().unwrap_or(asked);
            let mut text = TimeoutText::default();
            let left = text.write(end.saturating_duration_since(Instant::now()));
            request.headers.set(b"grpc-timeout", left);
        }
    }

    /// Takes note that an attempt has ended: its own deadlines mean nothing any more.
    pub const fn attempt_over(&mut self) {
        self.per_try = None;
        self.per_try_idle = None;
    }

    /// Takes note that a response has begun.
    pub const fn response_begun(&mut self) {
        self.per_try = None;
    }

    /// Ready with the first deadline that has passed, or when the policies no longer allow the request.
    pub fn poll(&mut self, cx: &mut Context<'_>, request: &RequestHead) -> Poll<Reason> {
        if self.oversight.as_mut().is_some_and(|oversight| oversight.poll(cx, request).is_ready()) {
            return Poll::Ready(Reason::PolicyChanged);
        }
        let idle = self.idle_timeout.map(|limit| self.last_activity + limit);
        let all = [
            (idle, Reason::StreamIdle),
            (self.request, Reason::RequestTimeout),
            (self.route.or(self.connect), Reason::RouteTimeout),
            (self.per_try, Reason::PerTryTimeout),
            (self.per_try_idle.map(|limit| self.last_activity + limit), Reason::PerTryIdle),
            (self.stream, Reason::MaxStreamDuration),
        ];
        let set = all.into_iter().filter_map(|(at, reason)| at.map(|at| (at, reason)));
        let Some((at, reason)) = set.min_by_key(|(at, _)| *at) else {
            return Poll::Pending;
        };
        self.timer.poll_until(cx, at).map(|()| reason)
    }

    /// How much time is left to the exchange, if it has an end.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        let ends = [self.asked, self.route, self.stream].into_iter().flatten().min();
        let left = ends.map(|end| end.saturating_duration_since(now));
        // The route's timeout begins when the request is in.
        let whole = self.route_timeout.filter(|_| self.route.is_none());
        [left, whole].into_iter().flatten().min()
    }
}

/// Room for a `grpc-timeout` value.
#[derive(Debug, Default)]
struct TimeoutText([u8; 9]);

impl TimeoutText {
    /// Eight digits at most, in the finest unit that they suffice for; never 0, which would be no timeout to some.
    fn write(&mut self, left: Duration) -> &[u8] {
        const MAX: u128 = 99_999_999;
        let (number, unit) = match (left.as_micros(), left.as_millis(), left.as_secs()) {
            (micros @ 0..=MAX, _, _) => (micros.max(1), b'u'),
            (_, millis @ 0..=MAX, _) => (millis, b'm'),
            (_, _, seconds) => (u128::from(seconds).min(MAX), b'S'),
        };
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        for (place, letter) in self.0.iter_mut().zip(digits.iter().chain(&[unit])) {
            *place = *letter;
        }
        self.0.get(..=digits.len()).unwrap_or_default()
    }
}

/// A `grpc-timeout` value: up to eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lazy_timer_fires_when_its_last_deadline_has_passed() {
        let mut timer = LazyTimer::default();
        let begin = Instant::now();
        for step in 1..5_u64 {
            let deadline = begin + Duration::from_secs(step * 10);
            let pending = poll_fn(|cx| Poll::Ready(timer.poll_until(cx, deadline).is_pending())).await;
            assert!(pending);
        }
        poll_fn(|cx| timer.poll_until(cx, begin + Duration::from_secs(40))).await;
        assert_eq!(begin.elapsed().as_secs(), 40);
        let earlier = Instant::now() + Duration::from_secs(1);
        let _ = poll_fn(|cx| Poll::Ready(timer.poll_until(cx, earlier + Duration::from_secs(9)))).await;
        poll_fn(|cx| timer.poll_until(cx, earlier)).await;
        assert_eq!(begin.elapsed().as_secs(), 41);
    }

    #[test]
    fn grpc_timeouts_are_written() {
        for (left, text) in [
            (Duration::ZERO, "1u"),
            (Duration::from_micros(1500), "1500u"),
            (Duration::from_micros(99_999_999), "99999999u"),
            (Duration::from_millis(100_000), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
        ] {
            let mut room = TimeoutText::default();
            assert_eq!(room.write(left), text.as_bytes());
        }
    }

    #[test]
    fn grpc_timeouts_are_read() {
        assert_eq!(grpc_timeout(b"10S"), Some(Duration::from_secs(10)));
        assert_eq!(grpc_timeout(b"5m"), Some(Duration::from_millis(5)));
        for bad in [&b""[..], b"S", b"10", b"1.5S", b"123456789S", b"-1S", b"10s"] {
            assert_eq!(grpc_timeout(bad), None);
        }
    }
}
