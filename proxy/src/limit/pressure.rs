//! How short the process is of memory, connections or files, as all workers see it: the stages of what is done about
//! it. The control thread looks at the resources and sets them; a request costs one look at a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A stage that is in force for all.
const ALL: u32 = 1_000_000;

/// What is done, in Envoy's words and the order of their price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connections end after the request that they are at.
    StopKeepAlive,
    /// Requests are answered with 503.
    RefuseRequests,
    /// New connections wait in the kernel's queue.
    StopAccepting,
    /// New connections are closed at once.
    RejectConnections,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::StopKeepAlive, Self::RefuseRequests, Self::StopAccepting, Self::RejectConnections];

    /// The name in the configuration, behind `envoy.overload_actions.`, and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StopKeepAlive => "disable_http_keepalive",
            Self::RefuseRequests => "stop_accepting_requests",
            Self::StopAccepting => "stop_accepting_connections",
            Self::RejectConnections => "reject_incoming_connections",
        }
    }
}

/// The stages that are in force.
#[derive(Debug, Default)]
pub struct Pressure {
    stop_keep_alive: AtomicU32,
    refuse_requests: AtomicU32,
    stop_accepting: AtomicU32,
    reject_connections: AtomicU32,
    connections: AtomicUsize,
    /// Further ones are closed at once; without a limit 0.
    max_connections: AtomicUsize,
}

/// One of the connections from clients.
#[derive(Debug)]
pub struct Connected(Arc<Pressure>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pressure {
    /// Counts a connection from a client until the guard is dropped.
    #[must_use]
    pub fn connect(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Sets how many connections from clients there may be.
    pub fn limit_connections(&self, most: usize) {
        self.max_connections.store(most, Ordering::Relaxed);
    }

    /// Whether one more connection is to be closed at once.
    #[must_use]
    pub fn rejects(&self, draw: impl FnOnce() -> u64) -> bool {
        let most = self.max_connections.load(Ordering::Relaxed);
        (most > 0 && self.connections() >= most) || self.holds(Stage::RejectConnections, draw)
    }

    /// Connections from clients.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Puts a stage into force for this share of cases, from 0 to 1; whether that is a change of whether it is.
    pub fn set(&self, stage: Stage, share: f64) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
        let share = (share.clamp(0.0, 1.0) * f64::from(ALL)) as u32;
        (self.cell(stage).swap(share, Ordering::Relaxed) == 0) != (share == 0)
    }

    /// Whether a stage is in force for all cases.
    #[must_use]
    pub fn is_full(&self, stage: Stage) -> bool {
        self.cell(stage).load(Ordering::Relaxed) == ALL
    }

    /// Whether a stage is in force for this case; only asks for a draw when it may be.
    #[must_use]
    pub fn holds(&self, stage: Stage, draw: impl FnOnce() -> u64) -> bool {
        match self.cell(stage).load(Ordering::Relaxed) {
            0 => false,
            share => draw() % u64::from(ALL) < u64::from(share),
        }
    }

    const fn cell(&self, stage: Stage) -> &AtomicU32 {
        match stage {
            Stage::StopKeepAlive => &self.stop_keep_alive,
            Stage::RefuseRequests => &self.refuse_requests,
            Stage::StopAccepting => &self.stop_accepting,
            Stage::RejectConnections => &self.reject_connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_holds_for_its_share() {
        let pressure = Pressure::default();
        let held = |stage| (0..1000_u64).filter(|draw| pressure.holds(stage, || draw * 1000)).count();
        assert_eq!(held(Stage::RefuseRequests), 0);
        assert!(pressure.set(Stage::RefuseRequests, 0.25));
        assert!(!pressure.set(Stage::RefuseRequests, 0.3));
        assert_eq!(held(Stage::RefuseRequests), 300);
        assert_eq!(held(Stage::StopKeepAlive), 0);
        assert!(!pressure.is_full(Stage::RefuseRequests));
        assert!(!pressure.set(Stage::RefuseRequests, 7.0));
        assert!(pressure.is_full(Stage::RefuseRequests));
        assert!(pressure.set(Stage::RefuseRequests, 0.0));
    }

    #[test]
    fn connections_are_counted() {
        let pressure = Arc::new(Pressure::default());
        let (one, two) = (pressure.connect(), pressure.connect());
        assert_eq!(pressure.connections(), 2);
        drop((one, two));
        assert_eq!(pressure.connections(), 0);
    }
}
