//! Faults of single attempts: after their endpoint is chosen and before it is asked.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::{note, subject};
use crate::exchange::report::Report;
use crate::exchange::timers::Timers;
use crate::exchange::{Origin, Routed};
use crate::fault::{Pause, Place, Plan, Shaper, Stage};
use crate::http::message::RequestHead;
use crate::model::limits::Priority;
use crate::observe::{Flags, Reason};
use crate::upstream::injected::{self, InjectedExchange};
use crate::upstream::pool::{self, AcquireError, UpstreamProtocol};
use crate::upstream::{ClusterState, EndpointState, UpstreamLink};

/// What happens to one attempt at this endpoint; `None` where nothing does.
pub(in crate::exchange) fn choose(
    origin: &Origin,
    request: &RequestHead,
    (routed, cluster): (&Routed<'_>, &ClusterState),
    endpoint: SocketAddr,
    report: &mut Report,
) -> Option<Box<Plan>> {
    let faults = origin.worker.faults().filter(|_| !origin.standing.facts.spared)?;
    let mut subject = subject(request, origin, Some(routed));
    subject.cluster = &cluster.config().name;
    subject.endpoint = Some(endpoint);
    subject.tls = cluster.config().tls.is_some();
    let connection = origin.standing.number(&faults);
    let held_back = |fault: &_| origin.worker.count_held_back(fault);
    let mut plan = faults.choose((Place::Upstream, Stage::Attempt), &subject, connection, held_back)?;
    note(&mut plan, origin, report);
    if plan.end.is_some() {
        report.flags = report.flags.with(Flags::FI);
    }
    Some(plan)
}

/// A connection for the attempt, or what it meets instead. Cancel-safe.
pub(in crate::exchange) async fn acquire(
    plan: Option<&Plan>,
    (cluster, priority): (&Rc<ClusterState>, Priority),
    endpoint: &Rc<EndpointState>,
    protocol: UpstreamProtocol,
) -> Result<UpstreamLink, AcquireError> {
    if let Some(plan) = plan {
        if let Some(pause) = &plan.wait {
            pause.over().await;
        }
        if let Some(fault) = plan.end.as_ref().filter(|fault| fault.lease.is_live()) {
            match injected::meet(fault, cluster, endpoint).await {
                Some(met) => met?,
                None => return Ok(UpstreamLink::Injected(InjectedExchange::new(fault.clone()))),
            }
        }
    }
    pool::acquire(cluster, endpoint, protocol, priority).await
}

/// Holds the head of a response back, deadlines kept in sight.
///
/// # Errors
/// Which deadline has passed.
pub(in crate::exchange) async fn hold(
    pause: &Pause,
    request: &RequestHead,
    timers: &mut Timers<'_>,
) -> Result<(), Reason> {
    let mut over = std::pin::pin!(pause.over());
    poll_fn(|cx| match over.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => timers.poll(cx, request).map(Err),
    })
    .await
}

/// How the bodies of an attempt go, where faults have to do with it.
#[derive(Debug, Default)]
pub struct Shapers {
    /// How the request's body goes: as the attempt's fault says, or else as one of the whole request does.
    pub request: Option<Box<Shaper>>,
    /// How the response's body goes, if the attempt's fault says so.
    pub response: Option<Box<Shaper>>,
    /// Whether what is said about the request's body is for this attempt only.
    only_here: bool,
}

impl Shapers {
    /// What the attempt's faults say, or else those of the whole request.
    pub(in crate::exchange) fn take(plan: Option<&mut Plan>, report: &mut Report) -> Self {
        let (own, response) =
            plan.map(|plan| (plan.request.take(), plan.response.take())).unwrap_or_default();
        let only_here = own.is_some();
        let whole = || report.injected.as_mut().and_then(|injected| injected.request.take());
        Self { request: own.or_else(whole), response, only_here }
    }

    /// Leaves what is for the whole request to the next attempt.
    pub(in crate::exchange) fn give_back(&mut self, report: &mut Report) {
        if let Some(shaper) = self.request.take().filter(|_| !self.only_here) {
            report.injected().request = Some(shaper);
        }
    }
}
