//! Envoy's HTTP fault filter: delay, abort, and a limit on the rate of the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::StatusCode;

use super::chance::Chance;
use super::injected::Slot;
use crate::http::headers::Headers;
use crate::http::message::RequestHead;
use crate::model::matcher::HeaderMatcher;

/// Longest delay that a request may ask for; more is surely a slip of the pen.
pub const MAX_DELAY: Duration = Duration::from_secs(3600);

/// What the headers begin with that steer a filter; `prepare` lets them in where a filter may read them.
pub const CONTROL_PREFIX: &[u8] = b"x-envoy-fault-";
const DELAY: &[u8] = b"x-envoy-fault-delay-request";
const DELAY_SHARE: &[u8] = b"x-envoy-fault-delay-request-percentage";
const ABORT: &[u8] = b"x-envoy-fault-abort-request";
const ABORT_GRPC: &[u8] = b"x-envoy-fault-abort-grpc-request";
const ABORT_SHARE: &[u8] = b"x-envoy-fault-abort-request-percentage";
const RATE: &[u8] = b"x-envoy-fault-throughput-response";
const RATE_SHARE: &[u8] = b"x-envoy-fault-throughput-response-percentage";

/// A fault filter under its name.
#[derive(Debug)]
pub struct HttpFaults {
    /// What routes call it by.
    pub name: Arc<str>,
    /// What holds where a route does not say otherwise.
    pub filter: Filter,
    /// How many authorization filters stand before it.
    pub after_policies: usize,
    /// Requests that have a fault of it now, in all workers.
    active: Arc<AtomicU32>,
}

/// What a filter does to a request.
#[derive(Debug, Default)]
pub struct Filter {
    /// How long requests wait, and how many of them.
    pub delay: Option<(Asked<Duration>, Chance)>,
    /// What requests are answered with, and how many of them.
    pub abort: Option<(Asked<Answer>, Chance)>,
    /// Bytes per second of a response, and of how many of them.
    pub rate: Option<(Asked<u64>, Chance)>,
    /// Only requests that all of these match.
    pub headers: Vec<HeaderMatcher>,
    /// Requests at a time that have a fault.
    pub max_active: Option<u32>,
}

/// Who says how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// The configuration.
    Fixed(T),
    /// The request, in a header.
    Header,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This status.
    Http(StatusCode),
    /// This gRPC status.
    Grpc(u32),
}

impl HttpFaults {
    /// A filter that nobody has met yet.
    #[must_use]
    pub fn new(name: Arc<str>, filter: Filter, after_policies: usize) -> Self {
        Self { name, filter, after_policies, active: Arc::default() }
    }

    /// A place among the requests with a fault; `None` when there are as many as there may be.
    #[must_use]
    pub fn take_slot(&self, limit: Option<u32>) -> Option<Slot> {
        Slot::take(&self.active, limit.unwrap_or(u32::MAX))
    }

    /// How many requests have a fault of it now.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

impl Filter {
    /// Whether it has anything to do with the request.
    #[must_use]
    pub fn concerns(&self, head: &RequestHead) -> bool {
        self.headers.iter().all(|matcher| matcher.matches(head))
    }

    /// How long the request waits.
    #[must_use]
    pub fn delay(&self, head: &RequestHead, draw: u64) -> Option<Duration> {
        let (asked, share) = self.delay?;
        let share = match asked {
            Asked::Fixed(_) => share,
            Asked::Header => lowered(share, &head.headers, DELAY_SHARE),
        };
        let delay = match asked {
            Asked::Fixed(delay) => delay,
            Asked::Header => Duration::from_millis(number(&head.headers, DELAY)?).min(MAX_DELAY),
        };
        (share.covers(draw) && !delay.is_zero()).then_some(delay)
    }

    /// What the request is answered with.
    #[must_use]
    pub fn abort(&self, head: &RequestHead, draw: u64) -> Option<Answer> {
        let (asked, share) = self.abort?;
        let (answer, share) = match asked {
            Asked::Fixed(answer) => (answer, share),
            Asked::Header => (answer(&head.headers)?, lowered(share, &head.headers, ABORT_SHARE)),
        };
        share.covers(draw).then_some(answer)
    }

    /// How many bytes of the response may go out per second.
    #[must_use]
    pub fn rate(&self, head: &RequestHead, draw: u64) -> Option<u64> {
        let (asked, share) = self.rate?;
        let (rate, share) = match asked {
            Asked::Fixed(rate) => (rate, share),
            Asked::Header => {
                let kib = number(&head.headers, RATE).filter(|kib| *kib > 0)?;
                (kib.saturating_mul(1024), lowered(share, &head.headers, RATE_SHARE))
            }
        };
        share.covers(draw).then_some(rate)
    }
}

/// What the request says that it wants to be answered with; a plain status before a gRPC status.
fn answer(headers: &Headers) -> Option<Answer> {
    let plain = number(headers, ABORT).and_then(|status| u16::try_from(status).ok());
    let plain = plain.filter(|status| (200..600).contains(status));
    match plain.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) => Some(Answer::Http(status)),
        None => number(headers, ABORT_GRPC).and_then(|status| u32::try_from(status).ok()).map(Answer::Grpc),
    }
}

/// The share that the request asks for, never more than the configuration allows.
fn lowered(share: Chance, headers: &Headers, name: &[u8]) -> Chance {
    number(headers, name).map_or(share, |asked| share.at_most(asked))
}

fn number(headers: &Headers, name: &[u8]) -> Option<u64> {
    std::str::from_utf8(headers.first(name)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&[u8], &[u8])]) -> RequestHead {
        let mut head = RequestHead::default();
        fields.iter().for_each(|(name, value)| head.headers.append(name, value));
        head
    }

    #[test]
    fn a_request_says_what_it_wants_where_it_may() {
        let share = Chance::ALWAYS.at_most(50);
        let filter = Filter {
            delay: Some((Asked::Header, share)),
            abort: Some((Asked::Header, share)),
            rate: Some((Asked::Header, share)),
            ..Filter::default()
        };
        let none = head(&[]);
        assert_eq!(
            (filter.delay(&none, 0), filter.abort(&none, 0), filter.rate(&none, 0)),
            (None, None, None)
        );
        let asks = head(&[(DELAY, b"5"), (ABORT, b"418"), (RATE, b"2")]);
        assert_eq!(filter.delay(&asks, 49), Some(Duration::from_millis(5)));
        assert_eq!(filter.delay(&asks, 50), None);
        assert_eq!(filter.abort(&asks, 0), Some(Answer::Http(StatusCode::IM_A_TEAPOT)));
        assert_eq!(filter.rate(&asks, 0), Some(2048));
        let grpc = head(&[(ABORT, b"42"), (ABORT_GRPC, b"14"), (ABORT_SHARE, b"1")]);
        assert_eq!(filter.abort(&grpc, 0), Some(Answer::Grpc(14)));
        assert_eq!(filter.abort(&grpc, 1), None);
        let greedy = head(&[(DELAY, b"5"), (DELAY_SHARE, b"100")]);
        assert_eq!(filter.delay(&greedy, 50), None, "the configuration's share is the most");
        for bad in [&b"x"[..], b"-1", b"0", b"99999999999999999999", b""] {
            assert_eq!(filter.delay(&head(&[(DELAY, bad)]), 0), None, "{bad:?}");
            assert_eq!(filter.abort(&head(&[(ABORT, bad)]), 0), None, "{bad:?}");
        }
    }

    #[test]
    fn no_more_than_the_limit_have_a_fault() {
        let faults = HttpFaults::new("f".into(), Filter::default(), 0);
        let first = faults.take_slot(Some(1));
        assert!(first.is_some() && faults.take_slot(Some(1)).is_none());
        assert!(faults.take_slot(None).is_some());
        assert_eq!(faults.active(), 1);
        drop(first);
        assert_eq!(faults.active(), 0);
    }
}
