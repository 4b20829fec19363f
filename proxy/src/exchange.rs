//! One HTTP exchange, top to bottom: what happens to a request between its head and the end of its response.
//!
//! normalise -> route -> authorize and faults, as the filters stand -> rate limits -> attempts -> answer -> record
//!
//! The exchange runs on the task of the HTTP/1 connection or HTTP/2 stream that it belongs to; both bodies move
//! on that task, without a channel.

mod again;
pub mod attempt;
mod authorize;
mod client_cert;
mod failed;
mod hedge;
pub mod inject;
mod limit;
pub mod mirror;
mod observe;
pub mod prepare;
pub mod relay;
pub mod replay;
pub mod reply;
pub mod report;
mod routed;
pub mod sticky;
pub mod timers;
mod websocket;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::exchange::attempt::{Attempts, Ending};
use crate::exchange::relay::Relayed;
use crate::exchange::report::Report;
use crate::exchange::routed::Routed;
use crate::exchange::sticky::Sticky;
use crate::exchange::timers::{LazyTimer, Timers};
use crate::http::downstream::Downstream;
use crate::http::heads::Heads;
use crate::http::message::{RequestHead, ResponseHead};
use crate::http::path::{self, Normalized};
use crate::identity::PeerIdentity;
use crate::limit::pressure::Stage;
use crate::model::{ForwardAction, HttpChain, RouteAction, Snapshot};
use crate::observe::Reason;
use crate::policy::Standing;
use crate::upstream::ClusterState;
use crate::worker::Worker;

/// What an exchange knows of the connection that it came on.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The chain's HTTP settings.
    pub chain: Arc<HttpChain>,
    /// Which way the listener's traffic goes.
    pub direction: &'static str,
    /// Our address.
    pub local: SocketAddr,
    /// The client's address.
    pub remote: SocketAddr,
    /// Where the connection was going before it was redirected to us.
    pub destination: SocketAddr,
    /// Who we are to it.
    pub own: Option<Arc<PeerIdentity>>,
    /// What else is known of the connection, and whether it may stay.
    pub standing: Rc<Standing>,
}

impl Origin {
    /// Who the client is, as its certificate has proven.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.standing.facts.peer.as_deref()
    }

    /// What holds for the next request, if it is not what held for the last one.
    #[must_use]
    pub fn renewed(&self) -> Option<Self> {
        let chain = self.standing.http().filter(|chain| !Arc::ptr_eq(chain, &self.chain))?;
        Some(Self { chain, ..self.clone() })
    }
}

/// How an exchange left its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response was sent whole, at this time.
    Complete(Instant),
    /// It was not; nothing more can be said on this connection or stream.
    Broken,
}

/// Answers one request; the response's head is empty before.
pub async fn serve<D: Downstream>(
    down: &mut D,
    Heads { request, response }: &mut Heads,
    timer: &mut LazyTimer,
    origin: &Origin,
) -> Outcome {
    // The connection alone says so: what a client claims in `:scheme` would get it past redirects to HTTPS.
    request.secure = origin.standing.facts.secure;
    let snapshot = origin.worker.snapshot();
    let mut report = Report::begin(origin, prepare::client_address(request, origin));
    let outcome = answer(down, request, response, timer, origin, (&snapshot, &mut report)).await;
    let end = match outcome {
        Outcome::Complete(at) => at,
        Outcome::Broken => Instant::now(),
    };
    report.finish(request, response, origin, end);
    outcome
}

async fn answer<D: Downstream>(
    down: &mut D,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    timer: &mut LazyTimer,
    origin: &Origin,
    (snapshot, report): (&Snapshot, &mut Report),
) -> Outcome {
    let chain = &origin.chain;
    if origin.worker.pressure.holds(Stage::RefuseRequests, || origin.worker.draw()) {
        return reply::local(down, request, response, (Reason::Overloaded, None), report).await;
    }
    match path::normalize(&mut request.path, chain.path) {
        Ok(Normalized::Forward) => {}
        Ok(Normalized::Redirect) => {
            reply::to_path(request, response, report);
            return reply::send(down, request, response, None, report).await;
        }
        Err(error) => {
            return reply::refuse(down, request, response, (Reason::BadPath, &error, None), report).await;
        }
    }
    if let Err(refusal) = prepare::request(request, origin) {
        return reply::local(down, request, response, (refusal, None), report).await;
    }
    let Some(table) = snapshot.routes(chain) else {
        return reply::local(down, request, response, (Reason::RoutesMissing, None), report).await;
    };
    let selected = table.select(request, origin.worker.draw());
    let routed = selected.map(|(host, route)| Routed { table, host, route, draw: origin.worker.draw() });
    report.route = routed.as_ref().map(|routed| Arc::clone(routed.route));
    let leased = snapshot.faults.as_deref();
    let stopped = if chain.faults.is_empty()
        && !leased.is_some_and(|set| inject::concerns(set, request, origin, routed.as_ref()))
    {
        authorize::stop(request, origin, routed.as_ref(), report)
    } else {
        Box::pin(inject::pass(down, request, (&mut *timer, origin), (routed.as_ref(), leased), report)).await
    };
    if let Some(stop) = stopped {
        return Box::pin(inject::stop(down, request, response, (stop, None), report)).await;
    }
    if (!origin.chain.limits.is_empty() || origin.chain.concurrency.is_some())
        && let Some(over) = limit::over(request, origin, routed.as_ref(), report)
    {
        return limit::refuse(down, request, response, (over, routed.as_ref()), report).await;
    }
    let Some(routed) = routed else {
        return reply::local(down, request, response, (Reason::RouteNotFound, None), report).await;
    };
    let route = routed.route;
    match &route.action {
        RouteAction::Redirect(action) => {
            reply::redirect(action, route, request, response, report);
            reply::send(down, request, response, Some(&routed), report).await
        }
        RouteAction::Direct(action) => {
            reply::direct(action, response, report);
            reply::send_body(down, request, response, (Some(&routed), action.body.clone()), report).await
        }
        RouteAction::Forward(action) => {
            forward(down, request, response, timer, origin, (&routed, action, report)).await
        }
    }
}

async fn forward<D: Downstream>(
    down: &mut D,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    timer: &mut LazyTimer,
    origin: &Origin,
    (routed, action, report): (&Routed<'_>, &ForwardAction, &mut Report),
) -> Outcome {
    if !request.upgrade.is_empty() && !origin.chain.allows_upgrade(&request.upgrade, &action.upgrades) {
        return reply::local(down, request, response, (Reason::UpgradeNotAllowed, Some(routed)), report)
            .await;
    }
    let (name, weighted) = action.cluster.pick(routed.draw);
    report.cluster = Some(Arc::clone(name));
    let Some(cluster) = origin.worker.clusters.find(name) else {
        let unknown = (Reason::ClusterNotFound, action.not_found_status, Some(routed));
        return reply::with_status(down, request, response, unknown, report).await;
    };
    report.goes_to = Some(Rc::clone(&cluster));
    let Some(_place) = cluster.request_permit(action.priority) else {
        return reply::local(down, request, response, (Reason::OverflowRequests, Some(routed)), report).await;
    };
    let oversight = authorize::Oversight::new(request, origin, routed, report);
    prepare::upstream_request(request, routed, weighted, action, report);
    let our_key = websocket::ask(request, || origin.worker.draw());
    let mirrors = mirror::start(action, request, origin);
    let mut timers = Timers::new(timer, action, &origin.chain, request, (report.routed, oversight));
    let sticky = Sticky::new(action, &cluster, request, report, || origin.worker.draw());
    let subset = weighted.and_then(|entry| entry.subset.as_ref()).or(action.subset.as_ref());
    let mut attempts = Attempts::new(&cluster, routed, action, (mirrors, sticky, subset), origin);
    let mut ending = attempts.run(down, request, response, &mut timers, report).await;
    websocket::prove(&mut ending, request, response, our_key);
    match ending {
        Ending::Response(mut exchange) => {
            if !inject::hold(down, request, report).await {
                report.ended(Reason::DownstreamGone);
                down.abort();
                return Outcome::Broken;
            }
            attempts.sticky.answer(response);
            prepare::response(response, routed, weighted, request, origin, report);
            let relayed =
                relay::response(down, &mut exchange, (request, response), &mut timers, report).await;
            finish(exchange, relayed, &cluster)
        }
        Ending::Answer(reason, detail) => {
            reply::refuse(down, request, response, (reason, &detail, Some(routed)), report).await
        }
        Ending::Gone(reason) => {
            report.ended(reason);
            down.abort();
            Outcome::Broken
        }
    }
}

fn finish(exchange: attempt::Established, relayed: Relayed, cluster: &ClusterState) -> Outcome {
    match relayed {
        Relayed::Whole => {
            let now = Instant::now();
            exchange.link.finish(cluster, &exchange.endpoint, now);
            Outcome::Complete(now)
        }
        // Dropping the upstream closes its connection or resets its stream.
        Relayed::Cut => Outcome::Broken,
    }
}
