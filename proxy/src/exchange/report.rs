//! What an exchange will have to say about itself, gathered on its way and recorded once at its end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::limit::Place;
use super::trace::Trace;
use super::{Origin, inject};
use crate::fault::Injected;
use crate::http::message::{RequestHead, ResponseHead};
use crate::identity::Refusal;
use crate::limit::rate::Quota;
use crate::model::Route;
use crate::observe::format::Record;
use crate::observe::series::Outcome;
use crate::observe::{Flags, Reason};
use crate::policy::Authorized;
use crate::upstream::ClusterState;

/// How long a client may take to read an answer of ours where `stream_idle_timeout` is off.
const LONGEST_PATIENCE: Duration = Duration::from_secs(300);

/// The notes of one exchange.
#[derive(Debug)]
pub struct Report {
    /// When the head was there.
    pub started: Instant,
    /// When it had come past the faults before its route.
    pub routed: Instant,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    /// How long the client may take to read an answer of ours.
    pub patience: Duration,
    /// Whether an answer of ours says its reason in a header.
    pub names_reason: bool,
    /// When the response head was there.
    pub response_after: Option<Duration>,
    /// The route.
    pub route: Option<Arc<Route>>,
    /// The cluster's name.
    pub cluster: Option<Arc<str>>,
    /// The cluster, once it is found.
    pub goes_to: Option<Rc<ClusterState>>,
    /// The last endpoint that was tried.
    pub upstream: Option<SocketAddr>,
    /// Attempts made.
    pub attempts: u32,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// What was unusual.
    pub flags: Flags,
    /// Why TLS with the endpoint of the last attempt failed.
    pub refusal: Option<Refusal>,
    /// Why we answered or ended it.
    pub reason: Option<Reason>,
    /// What policies have said.
    pub authorized: Authorized,
    /// What was done to it on purpose; `None` as long as nothing was.
    pub injected: Option<Box<Injected>>,
    /// The trace that it belongs to, where the listener has tracing.
    pub trace: Option<Box<Trace>>,
    /// The place among the requests at a time, where there is a limit on them.
    pub(super) place: Option<Place>,
    /// What the client is told of limits on rates.
    pub(super) quota: Option<Box<Quota>>,
    /// Body bytes from the client.
    pub received_bytes: u64,
    /// Body bytes to the client.
    pub sent_bytes: u64,
}

/// The time of day that long ago; the clock may have been set meanwhile.
fn began(ago: Duration) -> SystemTime {
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Report {
    /// Begins the notes.
    #[must_use]
    pub fn begin(origin: &Origin, client: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            routed: now,
            local: Some(origin.local),
            remote: Some(client),
            patience: origin.chain.stream_idle_timeout.unwrap_or(LONGEST_PATIENCE),
            names_reason: origin.worker.names_reason,
            response_after: None,
            route: None,
            cluster: None,
            goes_to: None,
            upstream: None,
            attempts: 0,
            status: 0,
            flags: Flags::NONE,
            refusal: None,
            reason: None,
            authorized: Authorized::default(),
            injected: None,
            trace: None,
            place: None,
            quota: None,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// What was done to it on purpose.
    pub fn injected(&mut self) -> &mut Injected {
        self.injected.get_or_insert_default()
    }

    /// The client's address, as far as it can be trusted.
    #[must_use]
    pub const fn client(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Takes note of why we answered or ended the exchange.
    pub fn ended(&mut self, reason: Reason) {
        self.flags = self.flags.with(reason.flag());
        self.reason = Some(reason);
    }

    /// A view for format strings.
    #[must_use]
    pub fn record<'a>(
        &'a self,
        request: Option<&'a RequestHead>,
        response: Option<&'a ResponseHead>,
        (origin, duration): (&'a Origin, Duration),
    ) -> Record<'a> {
        Record {
            start: began(duration),
            duration,
            response_after: self.response_after,
            request,
            response,
            status: self.status,
            flags: self.flags,
            reason: self.reason.map(Reason::code),
            transport_failure: self.refusal.map(Refusal::code),
            peer: origin.standing.facts.identity(),
            authorized: Some(&self.authorized),
            faults: inject::names(self),
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            upstream: self.upstream,
            cluster: self.cluster.as_deref().unwrap_or_default(),
            route: self.route.as_ref().map(|route| &*route.name).unwrap_or_default(),
            attempts: self.attempts,
            server_name: origin.standing.facts.server_name.as_deref(),
            trace: self.trace.as_ref().map(|trace| trace.id()),
            local: self.local,
            remote: self.remote,
        }
    }

    /// What is known so far, for the values of headers.
    #[must_use]
    pub fn plain_record(&self) -> Record<'_> {
        let duration = self.started.elapsed();
        Record {
            start: began(duration),
            duration,
            flags: self.flags,
            upstream: self.upstream,
            cluster: self.cluster.as_deref().unwrap_or_default(),
            route: self.route.as_ref().map(|route| &*route.name).unwrap_or_default(),
            attempts: self.attempts,
            trace: self.trace.as_ref().map(|trace| trace.id()),
            local: self.local,
            remote: self.remote,
            ..Record::default()
        }
    }

    /// Records metrics, access log and spans.
    pub fn finish(&mut self, request: &RequestHead, response: &ResponseHead, origin: &Origin, end: Instant) {
        if let Some(reason) = origin.standing.ended() {
            self.ended(reason);
        }
        if let Some(place) = self.place.take() {
            place.give_back(self.reason.is_none());
        }
        let worker = &origin.worker;
        let duration = end.saturating_duration_since(self.started);
        let outcome = Outcome {
            status: self.status,
            flags: self.flags,
            duration,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
        };
        let series = self.goes_to.as_ref().map_or(&worker.no_cluster, |cluster| &cluster.series);
        series.record(&worker.metrics, &origin.chain.stat_prefix, origin.direction, &outcome);
        if let Some(reason) = self.reason {
            worker.reasons.count(&worker.metrics, reason);
        }
        for log in &origin.chain.access_logs {
            worker.logger.write(log, &self.record(Some(request), Some(response), (origin, duration)));
        }
        if let (Some(tracing), Some(mut trace)) = (&origin.chain.tracing, self.trace.take()) {
            trace.finish(self, request, (origin, tracing), duration);
        }
    }
}
