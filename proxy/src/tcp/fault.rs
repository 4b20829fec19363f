//! Faults of opaque connections, as a whole and at each attempt to connect.

use std::net::SocketAddr;
use std::time::Duration;

use super::Target;
use crate::exchange::inject::place;
use crate::fault::filter::MAX_DELAY;
use crate::fault::leased::{Abort, Action, Subject};
use crate::fault::{Injected, Place, Plan, Stage};
use crate::identity::Refusal;
use crate::observe::{Flags, Reason};
use crate::transport::Transport;
use crate::upstream::connect::ConnectError;
use crate::upstream::{ClusterState, EndpointState, injected};
use crate::worker::Worker;

/// What was done to a connection on purpose, and its flags.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) injected: Injected,
    pub(super) flags: Flags,
    /// Why TLS with the endpoint of the last attempt failed.
    pub(super) refusal: Option<Refusal>,
}

/// Lets the connection meet its faults; how its bytes go is left in the notes.
///
/// # Errors
/// That a fault ended it.
pub(super) async fn meet(
    transport: &mut Transport,
    (target, cluster): (&Target, &str),
    worker: &Worker,
    notes: &mut Notes,
) -> Result<(), Reason> {
    let subject = subject(target, cluster, None);
    let stage = (place(target.direction), Stage::Whole);
    let Some(mut plan) = choose(stage, &subject, target, worker, notes) else { return Ok(()) };
    notes.injected.request = plan.request.take();
    notes.injected.response = plan.response.take();
    if let Some(pause) = &plan.wait {
        pause.over().await;
    }
    let Some(fault) = plan.end.filter(|fault| fault.lease.is_live()) else { return Ok(()) };
    notes.flags = notes.flags.with(Flags::FI);
    if let Action::Abort(abort) = &fault.action {
        if *abort != Abort::Close {
            transport.reset_on_close();
        }
        return Err(Reason::FaultInjected);
    }
    // Nothing is read, and nothing answered; when the lease is over, the connection goes on.
    fault.lease.wait(MAX_DELAY).await;
    Ok(())
}

/// What an attempt meets instead of its endpoint.
pub(super) enum Met {
    /// It could not connect.
    Failed(ConnectError),
    /// It was connected and is no more.
    Ended,
}

/// Lets an attempt meet its faults.
///
/// # Errors
/// What it met.
pub(super) async fn meet_attempt(
    (target, cluster): (&Target, &ClusterState),
    endpoint: &EndpointState,
    worker: &Worker,
    notes: &mut Notes,
) -> Result<(), Met> {
    let (config, address) = (cluster.config(), endpoint.address());
    let mut subject = subject(target, &config.name, Some(address));
    subject.tls = config.tls.is_some();
    let stage = (Place::Upstream, Stage::Attempt);
    let Some(mut plan) = choose(stage, &subject, target, worker, notes) else { return Ok(()) };
    let (request, response) = (plan.request.take(), plan.response.take());
    notes.injected.request = request.or(notes.injected.request.take());
    notes.injected.response = response.or(notes.injected.response.take());
    if let Some(pause) = &plan.wait {
        pause.over().await;
    }
    let Some(fault) = plan.end.filter(|fault| fault.lease.is_live()) else { return Ok(()) };
    notes.flags = notes.flags.with(Flags::FI);
    if let Some(met) = injected::meet(&fault, cluster, endpoint).await {
        return met.map_err(Met::Failed);
    }
    if fault.action == Action::Blackhole {
        let limit: Duration = config.connect_timeout;
        fault.lease.wait(limit).await;
        return Err(Met::Failed(ConnectError::TimedOut { address, limit }));
    }
    Err(Met::Ended)
}

fn subject<'a>(target: &'a Target, cluster: &'a str, endpoint: Option<SocketAddr>) -> Subject<'a> {
    let facts = &target.standing.facts;
    Subject {
        listener: &facts.listener,
        destination: facts.destination,
        peer: facts.identity(),
        head: None,
        route: "",
        cluster,
        endpoint,
        tls: facts.secure,
    }
}

fn choose(
    stage: (Place, Stage),
    subject: &Subject<'_>,
    target: &Target,
    worker: &Worker,
    notes: &mut Notes,
) -> Option<Box<Plan>> {
    let faults = worker.faults().filter(|_| !target.standing.facts.spared)?;
    let held_back = |fault: &_| worker.count_held_back(fault);
    let mut plan = faults.choose(stage, subject, target.standing.number(&faults), held_back)?;
    notes.flags = notes.flags.with(plan.flags());
    plan.note(&mut notes.injected, |fault| worker.count_fault(&fault.name, fault.action.effect()));
    Some(plan)
}
