//! The trace that an exchange belongs to: taken up or begun where its listener has tracing, carried on to the upstream,
//! and told of the attempts that were made.

mod span;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::report::Report;
use super::{Origin, prepare};
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::tracing::Tracing;
use crate::observe::trace::context::{self, TRACEPARENT};
use crate::observe::trace::{Carried, Parent, SpanId, TraceId};
use crate::worker::Worker;

/// Most attempts of one request that have spans of their own.
const MAX_ATTEMPT_SPANS: usize = 32;
/// Longest value that is taken from a request, in bytes; paths have a bound of their own.
const MAX_VALUE_BYTES: usize = 256;
/// Why an attempt has no answer that another one was faster than; it has not failed.
pub(super) const OVERTAKEN: &str = "overtaken";
/// With it a client asks to be traced (Envoy's `client_sampling`).
const CLIENT_TRACE_ID: &[u8] = b"x-client-trace-id";

/// The trace of one exchange.
#[derive(Debug)]
pub struct Trace {
    /// What is carried on.
    carried: Carried,
    /// What came in.
    parent: Option<Parent>,
    started: SystemTime,
    /// What will be told; `None` when nothing will.
    told: Option<Box<Told>>,
}

/// What a span says that is not known any more at the end, or not known to others.
#[derive(Debug, Default)]
struct Told {
    /// As the client sent it, without its query.
    path: String,
    authority: String,
    state: String,
    /// Whether attempts have spans of their own.
    of_attempts: bool,
    attempts: Vec<Attempt>,
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    span: SpanId,
    /// Which of all attempts it is, from 1.
    number: u32,
    upstream: SocketAddr,
    started: Instant,
    ended: Option<Instant>,
    /// The status of its response; 0 when there was none.
    status: u16,
    /// The code of why there was none.
    failure: Option<&'static str>,
    faults: Vec<Arc<str>>,
}

impl Report {
    /// Begins the notes of a request, which carries our part of its trace from here on if its listener has tracing.
    pub(super) fn of(request: &mut RequestHead, origin: &Origin) -> Self {
        let mut report = Self::begin(origin, prepare::client_address(request, origin));
        report.trace = Trace::of(request, origin);
        report
    }

    /// An attempt at an endpoint begins.
    pub(super) fn attempt(&mut self, request: &mut RequestHead, endpoint: SocketAddr, worker: &Worker) {
        if let Some(trace) = &mut self.trace {
            trace.attempt((self.attempts, endpoint), request, &mut worker.random.borrow_mut());
        }
    }

    /// The attempt of this number has the head of a response, or has failed for the reason of this code.
    pub(super) fn attempted(&mut self, number: u32, ended: Result<&ResponseHead, &'static str>) {
        if let Some(trace) = &mut self.trace {
            trace.attempted(number, ended.map(|response| response.status.as_u16()));
        }
    }

    /// The response of the attempt of this number is not passed on.
    pub(super) fn passed_over(&mut self, number: u32) {
        if let Some(trace) = &mut self.trace {
            trace.passed_over(number);
        }
    }
}

impl Trace {
    /// The trace of a request, where its listener has tracing.
    fn of(request: &mut RequestHead, origin: &Origin) -> Option<Box<Self>> {
        let tracing = origin.chain.tracing.as_ref()?;
        Some(Self::begin(tracing, request, &mut origin.worker.random.borrow_mut()))
    }

    /// Takes up the trace that a request carries, or begins one; from here on the request carries our part of it.
    fn begin(tracing: &Tracing, request: &mut RequestHead, random: &mut fastrand::Rng) -> Box<Self> {
        let parent = Parent::of(&request.headers);
        let trace = parent.map_or_else(|| TraceId::random(random), |parent| parent.trace);
        let wanted = parent.and_then(|parent| parent.sampled).unwrap_or_else(|| {
            let asked = request.headers.contains(CLIENT_TRACE_ID) && tracing.client.holds(trace);
            asked || tracing.random.holds(trace)
        });
        let sampled = wanted && tracing.overall.holds(trace);
        let carried = Carried { trace, span: SpanId::random(random), sampled };
        let told = sampled.then(|| {
            Box::new(Told {
                path: cut(request.path_only(), tracing.max_path_bytes).to_owned(),
                authority: cut(&request.authority, MAX_VALUE_BYTES).to_owned(),
                state: parent.and_then(|_| context::state(&request.headers)).unwrap_or_default(),
                of_attempts: tracing.upstream_spans,
                attempts: Vec::new(),
            })
        });
        carried.put_on(&mut request.headers, parent.is_some());
        Box::new(Self { carried, parent, started: SystemTime::now(), told })
    }

    /// The trace's number.
    #[must_use]
    pub const fn id(&self) -> TraceId {
        self.carried.trace
    }

    /// An attempt begins; if it has a span of its own, the request carries that from here on.
    fn attempt(
        &mut self,
        (number, upstream): (u32, SocketAddr),
        request: &mut RequestHead,
        random: &mut fastrand::Rng,
    ) {
        let Some(told) = self.told.as_deref_mut().filter(|told| told.of_attempts) else { return };
        let mut carried = self.carried;
        if told.attempts.len() < MAX_ATTEMPT_SPANS {
            carried.span = SpanId::random(random);
            told.attempts.push(Attempt {
                span: carried.span,
                number,
                upstream,
                started: Instant::now(),
                ended: None,
                status: 0,
                failure: None,
                faults: Vec::new(),
            });
        }
        // A route may keep traces from whom it leads to.
        if request.headers.contains(TRACEPARENT) {
            request.headers.set(TRACEPARENT, &carried.to_traceparent());
        }
    }

    /// The attempt of this number has a response, which is not over yet, or has failed for the reason of this code.
    fn attempted(&mut self, number: u32, outcome: Result<u16, &'static str>) {
        let Some(attempt) = self.numbered(number) else { return };
        attempt.status = outcome.unwrap_or(0);
        attempt.failure = outcome.err();
        attempt.ended = outcome.is_err().then(Instant::now);
    }

    /// The response of the attempt of this number is not passed on.
    fn passed_over(&mut self, number: u32) {
        if let Some(attempt) = self.numbered(number) {
            attempt.ended = Some(Instant::now());
        }
    }

    /// These faults were put upon the attempt of this number.
    pub(super) fn injected<'a>(&mut self, number: u32, faults: impl Iterator<Item = &'a Arc<str>>) {
        if let Some(attempt) = self.numbered(number) {
            for name in faults {
                if !attempt.faults.contains(name) {
                    attempt.faults.push(Arc::clone(name));
                }
            }
        }
    }

    fn numbered(&mut self, number: u32) -> Option<&mut Attempt> {
        self.told.as_deref_mut()?.attempts.iter_mut().find(|attempt| attempt.number == number)
    }
}

/// As much of a text as there is room for.
fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}
