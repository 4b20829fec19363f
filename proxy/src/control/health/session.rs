//! What findings in a row mean for one endpoint, and when it is asked next. As in Envoy.

use std::time::Duration;

use crate::model::health_check::{HealthCheck, Pace};
use crate::upstream::probe::Finding;

/// The checks of one endpoint so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    well: bool,
    /// The first finding decides at once.
    first: bool,
    /// Findings in a row that speak against what it is taken for.
    against: u32,
}

/// What a finding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// What it is taken for now.
    pub(super) well: bool,
    /// Whether that is news.
    pub(super) changed: bool,
    /// How long until it is asked again, without jitter.
    pub(super) wait: Duration,
}

impl Session {
    /// Of an endpoint that was never asked.
    pub(super) const fn new() -> Self {
        Self { well: false, first: true, against: 0 }
    }

    /// Of one that was asked before under other settings.
    pub(super) const fn known(well: bool) -> Self {
        Self { well, first: false, against: 0 }
    }

    /// Takes note of a finding.
    pub(super) fn after(&mut self, finding: Finding, check: &HealthCheck, had_traffic: bool) -> Next {
        let passed = finding == Finding::Passed;
        let first = std::mem::replace(&mut self.first, false);
        let changed = if passed == self.well {
            self.against = 0;
            // That it is unwell is news when nothing was known.
            first
        } else {
            self.against += 1;
            let at_once = match finding {
                Finding::Passed => first,
                // It speaks for itself.
                Finding::Failed => true,
                Finding::Doubtful | Finding::Unreachable | Finding::TimedOut => false,
            };
            let enough = if passed { check.healthy_threshold } else { check.unhealthy_threshold };
            at_once || self.against >= enough
        };
        if changed {
            self.well = passed;
            self.against = 0;
        }
        let wait = wait(&check.pace, passed, self.against > 0, had_traffic);
        Next { well: self.well, changed, wait }
    }
}

fn wait(pace: &Pace, passed: bool, pending: bool, had_traffic: bool) -> Duration {
    match (had_traffic, passed, pending) {
        (false, true, false) => pace.no_traffic_well,
        (false, ..) => pace.no_traffic,
        (true, true, false) => pace.well,
        (true, true, true) => pace.recovering,
        (true, false, true) => pace.failing,
        (true, false, false) => pace.unwell,
    }
}

/// With what is added by chance; `random` is evenly distributed from 0 to 1.
pub(super) fn with_jitter(wait: Duration, pace: &Pace, random: f64) -> Duration {
    let percent = wait.mul_f64(f64::from(pace.jitter_percent) / 100.0);
    wait + (pace.jitter + percent).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use Finding::{Doubtful, Failed, Passed, TimedOut, Unreachable};

    use super::*;
    use crate::model::Cluster;

    fn check() -> HealthCheck {
        let yaml = "{name: c, type: STATIC, health_checks: [{timeout: 1s, interval: 1s, unhealthy_interval: 2s, \
                    unhealthy_edge_interval: 3s, healthy_edge_interval: 4s, no_traffic_interval: 5s, \
                    no_traffic_healthy_interval: 6s, interval_jitter: 1s, interval_jitter_percent: 50, \
                    unhealthy_threshold: 3, healthy_threshold: 2, tcp_health_check: {}}]}";
        let cluster = Cluster::from_proto(&outrider_proto::json::from_yaml(yaml).unwrap());
        cluster.unwrap().health_check.unwrap()
    }

    #[test]
    fn findings_in_a_row_change_what_it_is_taken_for() {
        let check = check();
        for (findings, expected) in [
            // The first finding decides.
            (&[Passed][..], &[(true, true, 1)][..]),
            (&[TimedOut], &[(false, true, 2)]),
            // Two successes make it well again, and a failure between them starts anew.
            (&[Unreachable, Passed, Passed], &[(false, true, 2), (false, false, 4), (true, true, 1)]),
            (
                &[Failed, Passed, Failed, Passed, Passed],
                &[(false, true, 2), (false, false, 4), (false, false, 2), (false, false, 4), (true, true, 1)],
            ),
            // Three failures to answer make it unwell, one that it admits does so at once.
            (
                &[Passed, TimedOut, Unreachable, Doubtful],
                &[(true, true, 1), (true, false, 3), (true, false, 3), (false, true, 2)],
            ),
            (
                &[Passed, TimedOut, TimedOut, Passed, TimedOut],
                &[(true, true, 1), (true, false, 3), (true, false, 3), (true, false, 1), (true, false, 3)],
            ),
            (&[Passed, Failed], &[(true, true, 1), (false, true, 2)]),
        ] {
            let mut session = Session::new();
            let found: Vec<_> = findings
                .iter()
                .map(|finding| session.after(*finding, &check, true))
                .map(|next| (next.well, next.changed, next.wait.as_secs()))
                .collect();
            assert_eq!(found, expected, "{findings:?}");
        }
    }

    #[test]
    fn what_nobody_uses_is_asked_seldom() {
        let check = check();
        let mut session = Session::new();
        assert_eq!(session.after(Passed, &check, false).wait.as_secs(), 6);
        assert_eq!(session.after(TimedOut, &check, false).wait.as_secs(), 5);
    }

    #[test]
    fn new_settings_do_not_forget_what_was_found() {
        let check = check();
        let mut session = Session::known(true);
        assert!(session.after(TimedOut, &check, true).well);
        let mut session = Session::known(false);
        assert!(!session.after(Passed, &check, true).well);
    }

    #[test]
    fn chance_spreads_the_checks() {
        let pace = check().pace;
        let wait = Duration::from_secs(4);
        assert_eq!(with_jitter(wait, &pace, 0.0), wait);
        assert_eq!(with_jitter(wait, &pace, 1.0), Duration::from_secs(7));
    }
}
