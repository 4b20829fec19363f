//! The attempts of one request: choose an endpoint, borrow a connection, send, wait for the head of a response,
//! and decide whether to try again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::failed::Failed;
use super::hedge::Rival;
use super::inject::{self, attempt::Shapers};
use super::mirror::Mirrors;
use super::replay::Replay;
use super::report::Report;
use super::sticky::Sticky;
use super::timers::Timers;
use super::{Origin, Routed};
use crate::fault::Plan;
use crate::fault::shape::poll_pump;
use crate::http::body::{BodySink as _, Discard, Pump, PumpError};
use crate::http::downstream::Downstream;
use crate::http::message::{BodyLength, RequestHead, ResponseHead, Version};
use crate::identity::Refusal;
use crate::model::ForwardAction;
use crate::model::cluster::ProtocolChoice;
use crate::model::labels::SubsetKey;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::CONNECT_FAILURES;
use crate::retry::{self, Failure};
use crate::upstream::endpoint::ActiveGuard;
use crate::upstream::members::Choice;
use crate::upstream::pool::{self, AcquireError, UpstreamProtocol};
use crate::upstream::usage::{Permit, Resource};
use crate::upstream::{ClusterState, EndpointState, UpstreamLink};

/// An upstream that has begun to answer.
#[derive(Debug)]
pub struct Established {
    /// The connection or stream.
    pub link: UpstreamLink,
    /// Whose it is.
    pub endpoint: Rc<EndpointState>,
    /// The request's body on its way.
    pub pump: Pump,
    /// What the body is read through.
    pub replay: Replay,
    /// How the bodies of request and response go, where a fault has to do with it.
    pub shapers: Shapers,
    _active: ActiveGuard,
}

/// What all attempts together came to.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment on the stack; a box would be an allocation per request"
)]
pub enum Ending {
    /// A response that is to be passed on.
    Response(Established),
    /// The proxy must answer itself, for this reason.
    Answer(Reason, String),
    /// Nobody is there to be answered.
    Gone(Reason),
}

/// The attempts of one request.
pub struct Attempts<'a> {
    pub(super) cluster: &'a Rc<ClusterState>,
    pub(super) routed: &'a Routed<'a>,
    pub(super) action: &'a ForwardAction,
    pub(super) origin: &'a Origin,
    pub(super) replay: Option<Replay>,
    /// Endpoints whose attempts failed.
    pub(super) tried: Vec<SocketAddr>,
    /// What holds the request to an endpoint.
    pub(super) sticky: Sticky,
    pub(super) subset: Option<&'a SubsetKey>,
    pub(super) retries: u32,
    pub(super) resends: u32,
    pub(super) retrying: Option<Permit>,
    /// Why TLS with the endpoint of this attempt failed.
    pub(super) refusal: Cell<Option<Refusal>>,
    /// The attempt ended before it met its endpoint.
    unmet: Cell<bool>,
    /// Attempts that were late and are still waited for.
    pub(super) rivals: RefCell<Vec<Rival>>,
}

impl<'a> Attempts<'a> {
    /// No attempt made yet.
    pub(super) fn new(
        cluster: &'a Rc<ClusterState>,
        routed: &'a Routed<'a>,
        action: &'a ForwardAction,
        (mirrors, sticky, subset): (Mirrors, Sticky, Option<&'a SubsetKey>),
        origin: &'a Origin,
    ) -> Self {
        let replay = Some(Replay::new(true, mirrors, Rc::clone(&origin.worker.buffers)));
        Self {
            cluster,
            routed,
            action,
            origin,
            replay,
            tried: Vec::new(),
            sticky,
            subset,
            retries: 0,
            resends: 0,
            retrying: None,
            refusal: Cell::new(None),
            unmet: Cell::new(false),
            rivals: RefCell::default(),
        }
    }

    /// Makes attempts until there is a response to pass on or a reason to give up.
    pub async fn run<D: Downstream>(
        &mut self,
        down: &mut D,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        timers: &mut Timers<'_>,
        report: &mut Report,
    ) -> Ending {
        loop {
            report.attempts += 1;
            if self.routed.host.attempt_count {
                let mut count = itoa::Buffer::new();
                request.headers.set(b"x-envoy-attempt-count", count.format(report.attempts).as_bytes());
            }
            let outcome = match self.once(down, request, response, timers, report).await {
                Ok(mut established) => {
                    if !self.again_instead(response, &established.replay, request, report, timers) {
                        if self.is_unwanted(response, request)
                            && let Some(Ok(winner)) = self.last_hope(down, request, (timers, false)).await
                        {
                            return self.take_over(winner, response, request, report);
                        }
                        self.tell_attempts(response, report);
                        return Ending::Response(established);
                    }
                    self.tried.extend(report.upstream);
                    let pause = self.pause(Some(response));
                    established.shapers.give_back(report);
                    self.replay = Some(self.discard(established).await);
                    self.wait(down, request, (pause, timers)).await
                }
                Err(failed @ Failed::Answer(..)) if failed.is_not_made() => {
                    return self.give_up(failed, down, (request, response), timers, report).await;
                }
                Err(Failed::Attempt(failure, reason, detail)) => {
                    if !self.again_after(failure, request, report, timers) {
                        let failed = Failed::Answer(reason, detail);
                        return self.give_up(failed, down, (request, response), timers, report).await;
                    }
                    let mut pause = Duration::ZERO;
                    // A connection that was closed for idleness says nothing about its endpoint.
                    if failure != Failure::StaleConnection {
                        self.tried.extend(report.upstream);
                        pause = self.pause(None);
                    }
                    self.wait(down, request, (pause, timers)).await
                }
                Err(failed) => Err(failed),
            };
            if let Err(failed) = outcome {
                return self.end(failed, response, request, report);
            }
        }
    }

    /// No other attempt is made. One that was late may still have an answer, and any is better than none.
    async fn give_up<D: Downstream>(
        &mut self,
        failed: Failed,
        down: &mut D,
        (request, response): (&RequestHead, &mut ResponseHead),
        timers: &mut Timers<'_>,
        report: &mut Report,
    ) -> Ending {
        let failed = match self.last_hope(down, request, (timers, true)).await {
            Some(Ok(winner)) => Failed::Overtaken(winner),
            Some(Err(Reason::DownstreamGone)) => Failed::Gone(Reason::DownstreamGone),
            Some(Err(reason)) => Failed::Answer(reason, String::new()),
            None => failed,
        };
        self.end(failed, response, request, report)
    }

    fn end(
        &mut self,
        failed: Failed,
        response: &mut ResponseHead,
        request: &RequestHead,
        report: &mut Report,
    ) -> Ending {
        match failed {
            Failed::Attempt(_, reason, detail) | Failed::Answer(reason, detail) => {
                Ending::Answer(reason, detail)
            }
            Failed::Gone(reason) => Ending::Gone(reason),
            Failed::Overtaken(winner) => self.take_over(winner, response, request, report),
        }
    }

    /// Reads what is already there of an answer that is not passed on, so that its connection can be used again.
    async fn discard(&self, mut unwanted: Established) -> Replay {
        let (mut pump, mut sink) = (Pump::default(), Discard);
        let read = poll_fn(|cx| Poll::Ready(pump.poll(cx, &mut unwanted.link, &mut sink).is_ready())).await;
        let Established { link, endpoint, pump: sent, replay, .. } = unwanted;
        if read && pump.is_done() && sent.is_done() {
            link.finish(self.cluster, &endpoint, Instant::now());
        }
        replay
    }

    /// One attempt, to the head of a response.
    async fn once<D: Downstream>(
        &mut self,
        down: &mut D,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        timers: &mut Timers<'_>,
        report: &mut Report,
    ) -> Result<Established, Failed> {
        if report.attempts == 1 && self.cluster.is_hopeless(|| timers.left()) {
            return Err(Failed::Answer(Reason::DeadlineTooShort, String::new()));
        }
        timers.attempt(self.action.retry.as_ref(), request);
        let picked = {
            let mut random = self.origin.worker.random.borrow_mut();
            let choice = Choice {
                original: self.origin.destination,
                tried: &self.tried,
                again: self.action.retry.as_ref().and_then(|policy| policy.previous_hosts).unwrap_or(0),
                hash: self.sticky.hash,
                subset: self.subset.map(|key| &**key),
            };
            self.cluster.pick(&choice, &mut random)
        };
        let Some(endpoint) = picked else {
            return Err(Failed::Answer(Reason::NoHealthyUpstream, String::new()));
        };
        report.upstream = Some(endpoint.address());
        let (worker, standing) = (&self.origin.worker, &self.origin.standing);
        if let Err(reason) = worker.may_reach(standing, self.cluster, &endpoint) {
            return Err(Failed::Answer(reason, String::new()));
        }
        timers.reaches(|| self.cluster.destination(endpoint.address()));
        let begun = self.cluster.stamp();
        let ended = self.at(&endpoint, down, request, response, (timers, report)).await;
        report.refusal = self.refusal.take();
        if !self.unmet.take() {
            self.observe(&endpoint, begun, request, ended.as_ref().map(|_| &*response));
        }
        ended
    }

    /// The attempt at an endpoint.
    async fn at<D: Downstream>(
        &mut self,
        endpoint: &Rc<EndpointState>,
        down: &mut D,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        (timers, report): (&mut Timers<'_>, &mut Report),
    ) -> Result<Established, Failed> {
        let active = endpoint.begin();
        let at = endpoint.address();
        let mut plan = inject::attempt::choose(self.origin, request, (self.routed, self.cluster), at, report);
        let mut link = self.connect(endpoint, down, request, (timers, plan.as_deref())).await?;
        if let Err(error) = link.send_head(request) {
            return Err(Failed::of(error));
        }
        let mut replay = self.replay.take().unwrap_or_else(|| {
            Replay::new(false, Mirrors::default(), Rc::clone(&self.origin.worker.buffers))
        });
        replay.rewind();
        // A stream of HTTP/2 may be refused, or left behind by a GOAWAY, whatever its method.
        let may_be_refused = matches!(link, UpstreamLink::H2(_));
        let needs_replay =
            may_be_refused || self.action.retry.is_some() || retry::is_idempotent(&request.method);
        if !needs_replay {
            replay.stop_keeping();
        }
        let shapers = Shapers::take(plan.as_deref_mut(), report);
        let mut established = Established {
            link,
            endpoint: Rc::clone(endpoint),
            pump: Pump::default(),
            replay,
            shapers,
            _active: active,
        };
        let failed = poll_fn(|cx| match self.poll_rivals(cx, request) {
            Poll::Ready(winner) => Poll::Ready(Err(Failed::Overtaken(winner))),
            Poll::Pending => poll_head(cx, down, request, response, (&mut established, timers)),
        })
        .await;
        report.received_bytes = established.pump.bytes();
        match failed {
            Ok(()) => {
                if let Some(pause) = plan.as_ref().and_then(|plan| plan.hold.as_ref()) {
                    let held = Box::pin(inject::attempt::hold(pause, request, timers)).await;
                    if let Err(reason) = held {
                        established.shapers.give_back(report);
                        self.replay = Some(established.replay);
                        return Err(Failed::late(reason));
                    }
                }
                Ok(established)
            }
            Err(failed) => {
                established.shapers.give_back(report);
                self.set_aside(established, &failed, plan.is_none());
                Err(failed)
            }
        }
    }

    /// A connection to the endpoint, while client and deadlines are kept in sight.
    async fn connect<D: Downstream>(
        &self,
        endpoint: &Rc<EndpointState>,
        down: &mut D,
        request: &RequestHead,
        (timers, plan): (&mut Timers<'_>, Option<&Plan>),
    ) -> Result<UpstreamLink, Failed> {
        let protocol = protocol(self.cluster, request);
        if plan.is_none()
            && let Some(link) = pool::acquire_idle(endpoint, protocol)
        {
            return Ok(link);
        }
        let ours = (self.cluster, self.action.priority);
        // Boxed: most requests find a connection, and should not hold the room for making one.
        let acquiring = inject::attempt::acquire(plan, ours, endpoint, protocol);
        let mut acquiring = Box::pin(async move {
            let link = acquiring.await?;
            if !request.upgrade.is_empty() {
                link.ready_for_tunnel().await;
            }
            Ok(link)
        });
        let bodiless = request.body == BodyLength::Empty;
        timers.connecting();
        let acquired = poll_fn(|cx| {
            if let Poll::Ready(acquired) = acquiring.as_mut().poll(cx) {
                return Poll::Ready(acquired.map_err(|error| self.not_acquired(&error)));
            }
            if let Poll::Ready(winner) = self.poll_rivals(cx, request) {
                return Poll::Ready(Err(Failed::Overtaken(winner)));
            }
            if bodiless && down.poll_closed(cx).is_ready() {
                return Poll::Ready(Err(Failed::Gone(Reason::DownstreamGone)));
            }
            timers.poll(cx, request).map(|reason| {
                // Who waits for others to free a connection has not met the endpoint.
                self.unmet.set(plan.is_none() && !endpoint.is_opening());
                Err(Failed::late(reason))
            })
        })
        .await;
        timers.connected();
        acquired
    }

    fn not_acquired(&self, error: &AcquireError) -> Failed {
        let mut detail = String::new();
        let reason = match error {
            AcquireError::Overflow(resource) => {
                let reason = match resource {
                    Resource::Connections => Reason::OverflowConnections,
                    Resource::Pending => Reason::OverflowPending,
                    Resource::Requests => Reason::OverflowRequests,
                    Resource::Retries => Reason::OverflowRetries,
                };
                return Failed::Answer(reason, String::new());
            }
            AcquireError::Connect(error) => {
                if let Some((address, refusal)) = error.refusal() {
                    let name = &self.cluster.config().name;
                    self.origin.worker.refused_handshake(("upstream", name), address, refusal);
                    self.refusal.set(Some(refusal));
                    detail = refusal.to_string();
                }
                error.reason()
            }
        };
        let labels = Labels::none().with("destination_service", &self.cluster.config().name);
        self.origin.worker.metrics.counter(CONNECT_FAILURES, &labels).add(1);
        Failed::Attempt(Failure::Connect, reason, detail)
    }
}

/// What is spoken with the cluster for this request.
#[must_use]
pub fn protocol(cluster: &ClusterState, request: &RequestHead) -> UpstreamProtocol {
    match cluster.config().protocol {
        ProtocolChoice::Http1 => UpstreamProtocol::Http1,
        ProtocolChoice::Http2 => UpstreamProtocol::Http2,
        ProtocolChoice::Downstream if request.version == Version::Http2 => UpstreamProtocol::Http2,
        ProtocolChoice::Downstream => UpstreamProtocol::Http1,
        // An upgrade is one of HTTP/1.1's; not every server of HTTP/2 knows its like (RFC 8441).
        ProtocolChoice::Agreed if !request.upgrade.is_empty() => UpstreamProtocol::Http1,
        ProtocolChoice::Agreed => UpstreamProtocol::Agreed,
    }
}

/// Moves the request's body while waiting for the response's head.
fn poll_head<D: Downstream>(
    cx: &mut Context<'_>,
    down: &mut D,
    request: &RequestHead,
    response: &mut ResponseHead,
    (established, timers): (&mut Established, &mut Timers<'_>),
) -> Poll<Result<(), Failed>> {
    let Established { link, pump, replay, shapers, .. } = established;
    // A tunnel's bytes may not be sent before the upstream has agreed to it.
    let waits_for_tunnel = !request.upgrade.is_empty();
    if waits_for_tunnel {
        let _ = link.poll_flush(cx);
        timers.request_complete();
    } else if !pump.is_done() {
        let before = pump.bytes();
        match poll_pump(&mut shapers.request, pump, cx, &mut replay.source(down), link) {
            Poll::Ready(Ok(())) => timers.request_complete(),
            Poll::Ready(Err(PumpError::Source(error))) => return Poll::Ready(Err(Failed::body(&error))),
            // The upstream may have answered before it stopped reading: the answer is looked for below.
            Poll::Ready(Err(PumpError::Sink(_))) | Poll::Pending => {}
        }
        if pump.bytes() != before {
            timers.active();
        }
    }
    while let Poll::Ready(polled) = link.poll_response(cx, &request.method, response) {
        if polled.is_err() || !response.is_interim() {
            return Poll::Ready(polled.map_err(Failed::of));
        }
        timers.active();
        down.send_interim(response);
        // A client that is gone is noticed below.
        let _ = down.poll_flush(cx);
    }
    if (pump.is_done() || waits_for_tunnel) && down.poll_closed(cx).is_ready() {
        return Poll::Ready(Err(Failed::Gone(Reason::DownstreamGone)));
    }
    let starved = pump.is_starved();
    timers.poll(cx, request).map(|reason| {
        let by_client = starved && reason == Reason::StreamIdle;
        Err(Failed::late(if by_client { Reason::RequestIdle } else { reason }))
    })
}
