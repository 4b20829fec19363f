//! Whether traffic may go where it is about to, and the events about what may not.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::Worker;
use crate::observe::Reason;
use crate::policy::Standing;
use crate::policy::egress::Mode;
use crate::upstream::{ClusterState, EndpointState};

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

    /// Whether a connection may go on to where it has led, if what holds for it has changed since `seen`, when it was let
    /// through.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_still_reach(
        &self,
        standing: &Standing,
        cluster: &ClusterState,
        (address, seen): (SocketAddr, u32),
    ) -> Result<(), Reason> {
        if standing.changes() == seen { Ok(()) } else { self.may_reach_address(standing, cluster, address) }
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
        let Some(left_out) = self.events.admit(["egress", mode.outcome(), rule], Instant::now()) else {
            return;
        };
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
