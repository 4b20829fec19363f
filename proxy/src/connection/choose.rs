//! Which filter chain handles a connection.

use std::sync::Arc;

use super::refuse;
use crate::model::{FilterChain, Listener};
use crate::observe::Reason;
use crate::policy::Authorized;
use crate::policy::standing::Facts;
use crate::transport::Transport;
use crate::worker::Worker;

/// The chain that handles the connection: where destinations are told on demand, that of its destination goes before
/// those of its listener. Refuses a connection that none handles. Cancel-safe.
pub(super) async fn chain(
    transport: &mut Transport,
    facts: &mut Facts,
    listener: &Listener,
    worker: &Worker,
) -> Option<Arc<FilterChain>> {
    let mut told = None;
    if listener.on_demand && facts.redirected {
        let Some((known, in_use)) = worker.destination(facts.destination).await else {
            transport.reset_on_close();
            let why = (&*facts, Reason::DestinationNotTold, &Authorized::default());
            refuse(transport, listener, worker, why);
            return None;
        };
        facts.in_use = Some(in_use);
        told = known;
    }
    let chain = facts.chain(told.as_deref(), listener).cloned();
    if chain.is_none() {
        refuse(transport, listener, worker, (&*facts, Reason::NoFilterChain, &Authorized::default()));
    }
    chain
}
