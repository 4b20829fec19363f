//! What a proxy that has just started waits for before it says that it is ready: what it was told to get from others, and
//! without which it refuses what it should serve. A rollout goes on from a workload to the next when this says so, and
//! must not while new workloads can reach nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::change::Kind;

/// A control server that is reached and says nothing about listeners or clusters for this long has none, which the
/// delta protocol lets it leave unsaid. Envoy's default of `ConfigSource.initial_fetch_timeout`.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// After this long it is said what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// Something that is waited for once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum First {
    /// The workload's own identity.
    Identity,
    /// The control server's first word on clusters.
    Clusters,
    /// The control server's first word on listeners.
    Listeners,
}

impl First {
    const fn what(self) -> &'static str {
        match self {
            Self::Identity => "its own identity",
            Self::Clusters => "clusters from the control server",
            Self::Listeners => "listeners from the control server",
        }
    }
}

/// What has not come yet.
#[derive(Debug)]
pub struct Starting {
    /// Since when each could have been there.
    awaited: BTreeMap<First, Option<Instant>>,
    began: Instant,
    is_told: bool,
}

impl Starting {
    /// Waits for nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { awaited: BTreeMap::new(), began: now, is_told: false }
    }

    /// Not ready without this.
    pub fn await_first(&mut self, first: First) {
        self.awaited.insert(first, None);
    }

    /// It is there.
    pub fn came(&mut self, first: First) {
        self.awaited.remove(&first);
    }

    /// The control server has said what there is of this kind.
    pub fn told(&mut self, kind: Kind) {
        match kind {
            Kind::Listener => self.came(First::Listeners),
            Kind::Cluster => self.came(First::Clusters),
            Kind::Endpoints
            | Kind::Routes
            | Kind::Secret
            | Kind::Revocations
            | Kind::Faults
            | Kind::Destination => {}
        }
    }

    /// The control server was asked.
    pub fn asked(&mut self, now: Instant) {
        for first in [First::Clusters, First::Listeners] {
            if let Some(since) = self.awaited.get_mut(&first) {
                since.get_or_insert(now);
            }
        }
    }

    /// Stops waiting for what a control server that was reached does not say. Logs once what holds the proxy up.
    pub fn look(&mut self, now: Instant) {
        self.awaited.retain(|_, since| since.is_none_or(|since| now.duration_since(since) < SILENT_FOR));
        if !self.is_told && !self.awaited.is_empty() && now.duration_since(self.began) >= TOLD_AFTER {
            self.is_told = true;
            let missing: Vec<_> = self.awaited.keys().map(|first| first.what()).collect();
            tracing::warn!("not ready yet: waiting for {}", missing.join(" and "));
        }
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.awaited.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starting(awaited: &[First]) -> (Starting, Instant) {
        let now = Instant::now();
        let mut starting = Starting::new(now);
        awaited.iter().for_each(|first| starting.await_first(*first));
        (starting, now)
    }

    #[test]
    fn the_first_word_on_each_ends_it() {
        let (mut starting, _) = starting(&[First::Identity, First::Clusters, First::Listeners]);
        for kind in [Kind::Cluster, Kind::Faults, Kind::Listener] {
            assert!(!starting.is_over());
            starting.told(kind);
        }
        assert!(!starting.is_over());
        starting.came(First::Identity);
        assert!(starting.is_over());
    }

    #[test]
    fn only_a_control_server_that_was_reached_may_stay_silent() {
        let (mut starting, now) = starting(&[First::Listeners]);
        starting.look(now + SILENT_FOR * 100);
        assert!(!starting.is_over(), "nobody was asked yet");
        let asked = now + SILENT_FOR * 100;
        starting.asked(asked);
        starting.asked(asked + SILENT_FOR / 2);
        starting.look(asked + SILENT_FOR / 2);
        assert!(!starting.is_over());
        starting.look(asked + SILENT_FOR);
        assert!(starting.is_over(), "a stream that breaks and comes again does not begin it anew");
    }

    #[test]
    fn an_identity_is_waited_for_until_it_is_there() {
        let (mut starting, now) = starting(&[First::Identity]);
        starting.asked(now);
        starting.look(now + SILENT_FOR * 100);
        assert!(!starting.is_over());
    }
}
