//! Opaque connections: chosen by listener and chain, passed on as they are.

mod fault;
mod relay;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::identity::Refusal;
use crate::model::TcpChain;
use crate::observe::format::Record;
use crate::observe::metrics::{Counter, Labels};
use crate::observe::series::{CONNECT_FAILURES, EJECTIONS, TCP_CLOSED, TCP_OPENED, TCP_RECEIVED, TCP_SENT};
use crate::observe::{Flags, Reason};
use crate::policy::Standing;
use crate::transport::Transport;
use crate::upstream::clusters::Place;
use crate::upstream::endpoint::ActiveGuard;
use crate::upstream::members::Choice;
use crate::upstream::outlier::Outcome;
use crate::upstream::pool::{self, AcquireError};
use crate::upstream::{ClusterState, EndpointState};
use crate::worker::Worker;
use fault::{Met, Notes};
use relay::Relay;

/// What is known of an opaque connection.
#[derive(Debug)]
pub struct Target {
    /// What is known of the connection, and whether it may stay.
    pub standing: Rc<Standing>,
    /// Which way the listener's traffic goes.
    pub direction: &'static str,
}

/// Counts one opaque connection.
struct Series {
    closed: Counter,
    sent: Counter,
    received: Counter,
}

impl Series {
    fn open(worker: &Worker, chain: &TcpChain, cluster: &str, direction: &str) -> Self {
        let labels = Labels::none()
            .with("direction", direction)
            .with("listener", &chain.stat_prefix)
            .with("destination_service", cluster);
        worker.metrics.counter(TCP_OPENED, &labels).add(1);
        Self {
            closed: worker.metrics.counter(TCP_CLOSED, &labels),
            sent: worker.metrics.counter(TCP_SENT, &labels),
            received: worker.metrics.counter(TCP_RECEIVED, &labels),
        }
    }
}

/// An upstream that was reached.
struct Upstream {
    transport: Transport,
    address: SocketAddr,
    _place: Place,
    _active: ActiveGuard,
}

/// Passes a connection on, to its end.
pub async fn serve(mut transport: Transport, chain: Arc<TcpChain>, target: Target, worker: Rc<Worker>) {
    let (chain, worker) = (&*chain, &worker);
    let (name, _) = chain.cluster.pick(worker.draw());
    let series = Series::open(worker, chain, name, target.direction);
    let (started, started_at) = (Instant::now(), SystemTime::now());
    let (local, remote) = (transport.local(), transport.peer());
    let (mut attempts, mut bytes, mut address) = (0, (0, 0), None);
    let mut notes = Notes::default();
    let connected = match Box::pin(fault::meet(&mut transport, (&target, name), worker, &mut notes)).await {
        Ok(()) => match worker.clusters.find(name) {
            Some(cluster) => connect(&cluster, chain, &target, worker, (&mut attempts, &mut notes)).await,
            None => Err(Reason::ClusterNotFound),
        },
        Err(reason) => Err(reason),
    };
    let reason = match connected {
        Ok(upstream) => {
            address = Some(upstream.address);
            let mut relay =
                Relay::new(transport, upstream.transport, chain.idle_timeout, Rc::clone(&worker.buffers));
            relay.shape(notes.injected.request.take(), notes.injected.response.take());
            let ended = poll_fn(|cx| relay.poll(cx)).await;
            bytes = relay.bytes();
            ended.err()
        }
        Err(reason) => {
            // How a fault ends a connection is its own affair.
            if reason != Reason::FaultInjected {
                transport.reset_on_close();
            }
            Some(reason)
        }
    };
    let reason = target.standing.ended().or(reason);
    series.closed.add(1);
    series.received.add(bytes.0);
    series.sent.add(bytes.1);
    let record = Record {
        start: started_at,
        duration: started.elapsed(),
        flags: notes.flags.with(reason.map_or(Flags::NONE, Reason::flag)),
        faults: &notes.injected.names,
        reason: reason.map(Reason::code),
        transport_failure: notes.refusal.map(Refusal::code),
        peer: target.standing.facts.identity(),
        received_bytes: bytes.0,
        sent_bytes: bytes.1,
        upstream: address,
        cluster: name,
        attempts,
        server_name: target.standing.facts.server_name.as_deref(),
        local: Some(local),
        remote: Some(remote),
        ..Record::default()
    };
    for log in &chain.access_logs {
        worker.logger.write(log, &record);
    }
}

async fn connect(
    cluster: &Rc<ClusterState>,
    chain: &TcpChain,
    target: &Target,
    worker: &Worker,
    (attempts, notes): (&mut u32, &mut Notes),
) -> Result<Upstream, Reason> {
    let mut tried = Vec::new();
    loop {
        *attempts += 1;
        let choice = Choice { tried: &tried, ..Choice::any(target.standing.facts.destination) };
        let picked: Option<Rc<EndpointState>> = cluster.pick(&choice, &mut worker.random.borrow_mut());
        let endpoint = picked.ok_or(Reason::NoHealthyUpstream)?;
        let seen = target.standing.changes();
        worker.may_reach(&target.standing, cluster, &endpoint)?;
        let (active, begun) = (endpoint.begin(), cluster.stamp());
        let met = Box::pin(fault::meet_attempt((target, cluster), &endpoint, worker, notes)).await;
        let opened = match met {
            Ok(()) => pool::open_opaque(cluster, &endpoint).await,
            Err(Met::Failed(error)) => Err(AcquireError::Connect(error)),
            Err(Met::Ended) => {
                observe(cluster, &endpoint, (Outcome::Connected, begun), worker);
                return Err(Reason::FaultInjected);
            }
        };
        match opened {
            Ok((mut transport, place)) => {
                if cluster.config().cuts_unwell {
                    endpoint.ends_with_health(transport.cutoff());
                }
                notes.refusal = None;
                let peer = transport.peer();
                target.standing.has_reached(cluster.destination(peer));
                // From here on it is held to every change; this one came while it was connecting.
                worker.may_still_reach(&target.standing, cluster, (peer, seen))?;
                observe(cluster, &endpoint, (Outcome::Connected, begun), worker);
                return Ok(Upstream {
                    transport,
                    address: endpoint.address(),
                    _place: place,
                    _active: active,
                });
            }
            Err(AcquireError::Overflow(_)) => return Err(Reason::OverflowConnections),
            Err(AcquireError::Connect(error)) => {
                tried.push(endpoint.address());
                let timed_out = error.reason() == Reason::UpstreamConnectTimeout;
                let outcome = if timed_out { Outcome::TimedOut } else { Outcome::ConnectFailed };
                observe(cluster, &endpoint, (outcome, begun), worker);
                notes.refusal = error.refusal().map(|(_, refusal)| refusal);
                if let Some((address, refusal)) = error.refusal() {
                    worker.refused_handshake(("upstream", &cluster.config().name), address, refusal);
                }
                let labels = Labels::none().with("destination_service", &cluster.config().name);
                worker.metrics.counter(CONNECT_FAILURES, &labels).add(1);
                tracing::debug!(cluster = %cluster.config().name, %error, "opaque connection not passed on");
                if *attempts >= chain.max_connect_attempts {
                    return Err(error.reason());
                }
            }
        }
    }
}

/// Takes note of what an attempt says about its endpoint.
fn observe(
    cluster: &ClusterState,
    endpoint: &EndpointState,
    outcome: (Outcome, Option<Instant>),
    worker: &Worker,
) {
    if let Some(cause) = cluster.attempted(endpoint, outcome, &mut worker.random.borrow_mut()) {
        let name = &cluster.config().name;
        let labels = Labels::none().with("destination_service", name).with("cause", cause.code());
        worker.metrics.counter(EJECTIONS, &labels).add(1);
    }
}
