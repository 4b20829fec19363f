//! Whether traffic may go where it is about to, and the events about what may not.

use std::cell::Cell;
use std::net::SocketAddr;

use tokio::time::{Duration, Instant};

use super::Worker;
use crate::observe::Reason;
use crate::policy::Standing;
use crate::policy::egress::Mode;
use crate::upstream::{ClusterState, EndpointState};

/// Security events that a worker logs in one [`WINDOW`]; the next one says how many were left out.
const MAX_EVENTS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

impl Worker {
    /// Whether traffic of this connection may go to an endpoint of the cluster, at all of its addresses. Tells of what
    /// is refused or recorded.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_reach(
        &self,
        standing: &Standing,
        cluster: &ClusterState,
        endpoint: &EndpointState,
    ) -> Result<(), Reason> {
        endpoint.addresses().try_for_each(|address| self.may_reach_address(standing, cluster, address))
    }

    fn may_reach_address(
        &self,
        standing: &Standing,
        cluster: &ClusterState,
        address: SocketAddr,
    ) -> Result<(), Reason> {
        let to = cluster.destination(address);
        if !to.is_known && !standing.facts.redirected {
            return Err(Reason::NoOriginalDestination);
        }
        let mode = standing.passage(&self.surroundings, to, |passage| {
            if let Some(rule) = passage.rule {
                self.egress.count(&self.metrics, rule, passage.mode.outcome());
                if passage.mode != Mode::Pass {
                    self.tell(standing, &cluster.config().name, address, (passage.mode, rule));
                }
            }
            passage.mode
        });
        if mode == Some(Mode::Refuse) { Err(Reason::EgressRefused) } else { Ok(()) }
    }

    fn tell(&self, standing: &Standing, cluster: &str, address: SocketAddr, (mode, rule): (Mode, &str)) {
        let Some(left_out) = self.events.admit(Instant::now()) else { return };
        let facts = &standing.facts;
        tracing::warn!(
            target: "outrider_proxy::security",
            event = "egress",
            outcome = mode.outcome(),
            rule,
            workload = %self.surroundings.workload,
            destination = %address,
            asked_for = %facts.destination,
            source = %facts.remote,
            listener = %facts.listener,
            cluster,
            left_out,
            "traffic to a guarded destination"
        );
    }
}

/// Lets a number of events through in each window.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    began: Cell<Option<Instant>>,
    admitted: Cell<u32>,
    left_out: Cell<u64>,
}

impl Throttle {
    /// How many were left out since the last one, if this one is let through.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        if self.began.get().is_none_or(|began| now.duration_since(began) >= WINDOW) {
            self.began.set(Some(now));
            self.admitted.set(0);
        }
        if self.admitted.get() >= MAX_EVENTS {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.admitted.set(self.admitted.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_events_is_counted_and_not_written() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let admitted = (0..100).filter_map(|_| throttle.admit(start)).collect::<Vec<_>>();
        assert_eq!(admitted, vec![0; MAX_EVENTS as usize]);
        assert_eq!(throttle.admit(start + WINDOW), Some(80));
        assert_eq!(throttle.admit(start + WINDOW), Some(0));
    }
}
