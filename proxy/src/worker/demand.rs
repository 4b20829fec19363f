//! Destinations on demand: a connection to one that is not known yet waits until the control server has said what is there.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Duration, Instant, timeout_at};

use super::Worker;
use crate::model::destination::Told;
use crate::model::{Listener, Snapshot};
use crate::observe::Reason;
use crate::policy::Standing;

/// How long a connection waits to be told.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// What is known of a destination, once it is known; `None` when that takes too long. Cancel-safe.
    pub async fn destination(&self, address: SocketAddr) -> Option<Told> {
        // IPv4 may be written as IPv6 here.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let deadline = Instant::now() + ASK_TIMEOUT;
        let mut asked = false;
        loop {
            // Before the look, so that no publication is missed.
            let news = self.news.notified();
            if let Some(told) = self.snapshot.borrow().destinations.get(&address) {
                return Some(told.clone());
            }
            if !std::mem::replace(&mut asked, true) {
                self.asks.try_send(address).ok()?;
            }
            timeout_at(deadline, news).await.ok()?;
        }
    }

    /// Holds a connection to what its destination or its listener says now. Whether it was ended.
    pub fn hold(&self, standing: &Standing, listener: &Listener) -> bool {
        let snapshot = self.snapshot();
        let told = told(&snapshot, standing).and_then(|told| told.destination.as_deref());
        standing.follow(told, listener, &self.surroundings)
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
            let Some(told_now) = told(&now, standing) else {
                // It came while nobody seemed to use the destination any more.
                let _ = self.asks.try_send(key(standing));
                continue;
            };
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
