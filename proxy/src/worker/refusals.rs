//! Handshakes that were refused, on either side: counted by reason, and told of.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::Worker;
use crate::identity::Refusal;
use crate::observe::metrics::Labels;
use crate::observe::series::TLS_HANDSHAKES;

impl Worker {
    /// Takes note of a handshake that was refused. `side` is `downstream`, at a listener, or `upstream`, at a cluster,
    /// of this name. A connection that ended before it said anything is no news: probes of ports do that.
    pub fn refused_handshake(&self, (side, name): (&str, &str), peer: SocketAddr, refusal: Refusal) {
        let labels = Labels::none().with("side", side).with("outcome", refusal.code());
        self.metrics.counter(TLS_HANDSHAKES, &labels).add(1);
        if refusal == Refusal::Unfinished {
            tracing::debug!(side, name, %peer, %refusal, "handshake refused");
            return;
        }
        let Some(left_out) = self.events.admit(["handshake", side, refusal.code()], Instant::now()) else {
            return;
        };
        tracing::warn!(
            target: "outrider_proxy::security",
            event = "handshake",
            outcome = "refused",
            reason = refusal.code(),
            workload = %self.surroundings.workload,
            side,
            name,
            %peer,
            left_out,
            "{refusal}"
        );
    }
}
