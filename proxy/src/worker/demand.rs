//! Destinations on demand: a connection to one that is not known yet waits until the control server has said what is there.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep_until};

use super::Worker;
use crate::model::destination::{Destination, InUse, Told};
use crate::model::{Listener, Snapshot};
use crate::observe::Reason;
use crate::policy::Standing;

/// How long a connection waits to be told.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// What there is at a destination, which may be nothing, once it is known, and that it is in use from now on; `None`
    /// when that takes too long. Cancel-safe.
    pub async fn destination(&self, address: SocketAddr) -> Option<(Option<Arc<Destination>>, InUse)> {
        // IPv4 may be written as IPv6 here.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let deadline = Instant::now() + ASK_TIMEOUT;
        let mut wait = None;
        loop {
            // Before the look, so that no publication is missed.
            let news = self.news.notified();
            // What is let go of may still be in this configuration; it comes again with another.
            if let Some(told) = self.snapshot.borrow().destinations.get(&address)
                && let Some(in_use) = InUse::new(&told.usage)
            {
                return Some((told.destination.clone(), in_use));
            }
            let wait = wait.get_or_insert_with(|| self.asks.wait_for(address));
            tokio::select! {
                () = news => {}
                () = wait.ask() => return None,
                () = sleep_until(deadline) => return None,
            }
        }
    }

    /// Holds a connection to what its destination or its listener says now. Whether it was ended.
    pub fn hold(&self, standing: &Standing, listener: &Listener) -> bool {
        let snapshot = self.snapshot();
        let told = told(&snapshot, standing);
        // What the listener says of other destinations says nothing about one of which it is not known what is there.
        if standing.facts.in_use.is_some() && told.is_none() {
            return false;
        }
        standing.follow(told.and_then(|told| told.destination.as_deref()), listener, &self.surroundings)
    }

    /// Holds connections to what was said anew of their destinations.
    pub(super) fn follow_destinations(&self, before: &Snapshot) {
        let now = self.snapshot();
        if before.destinations.is_empty() && now.destinations.is_empty() {
            return;
        }
        let mut ended = 0;
        for standing in self.standings.alive().iter().filter(|standing| standing.facts.in_use.is_some()) {
            let of = |told: &Told| told.destination.as_ref().map(Arc::as_ptr);
            // What is in use is not let go of, so it is always there.
            let Some(told_now) = told(&now, standing) else { continue };
            if told(before, standing).is_some_and(|before| of(before) == of(told_now)) {
                continue;
            }
            if let Some(listener) = now.listeners.get(&standing.facts.listener) {
                let told = told_now.destination.as_deref();
                ended += usize::from(standing.follow(told, listener, &self.surroundings));
            }
        }
        self.count_cut(Reason::PolicyChanged, ended);
    }
}

fn key(standing: &Standing) -> SocketAddr {
    let destination = standing.facts.destination;
    SocketAddr::new(destination.ip().to_canonical(), destination.port())
}

fn told<'a>(snapshot: &'a Snapshot, standing: &Standing) -> Option<&'a Told> {
    standing.facts.in_use.as_ref().and_then(|_| snapshot.destinations.get(&key(standing)))
}
