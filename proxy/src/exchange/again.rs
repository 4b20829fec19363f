//! Whether and when another attempt follows: the policy's wishes, held against what the cluster's budget allows.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::attempt::Attempts;
use super::replay::Replay;
use super::report::Report;
use super::timers::Timers;
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::retry::{RetryOn, RetryPolicy};
use crate::observe::Flags;
use crate::observe::metrics::Labels;
use crate::observe::series::{RETRIES, RETRIES_REFUSED};
use crate::retry::{self, Failure};

/// Attempts that the proxy makes on its own account, for stale connections and refused streams.
const MAX_SAFE_RESENDS: u32 = 3;

impl Attempts<'_> {
    /// Whether another attempt follows a failed one.
    pub(super) fn again_after(
        &mut self,
        failure: Failure,
        request: &RequestHead,
        report: &mut Report,
        timers: &Timers<'_>,
    ) -> bool {
        if !self.replay.as_ref().is_some_and(Replay::is_possible) || !request.upgrade.is_empty() {
            return false;
        }
        if retry::is_safe_to_resend(failure, &request.method) && self.resends < MAX_SAFE_RESENDS {
            self.resends += 1;
            return true;
        }
        let hedges = self.action.hedge && failure == Failure::PerTryTimeout;
        let wanted = self.policy(request).is_some_and(|policy| {
            policy.on != RetryOn::default() && (hedges || retry::wants_after_failure(policy, failure))
        });
        wanted && self.may_retry(report, timers)
    }

    /// Whether another attempt is made instead of passing this response on.
    pub(super) fn again_instead(
        &mut self,
        response: &ResponseHead,
        replay: &Replay,
        request: &RequestHead,
        report: &mut Report,
        timers: &Timers<'_>,
    ) -> bool {
        self.is_unwanted(response, request) && replay.is_possible() && self.may_retry(report, timers)
    }

    /// Whether the policy would have another attempt instead of this response.
    pub(super) fn is_unwanted(&self, response: &ResponseHead, request: &RequestHead) -> bool {
        self.policy(request)
            .is_some_and(|policy| retry::wants_after_response(policy, response.status, &response.headers))
    }

    /// The policy, if it holds for this request.
    fn policy(&self, request: &RequestHead) -> Option<&RetryPolicy> {
        let policy = self.action.retry.as_ref()?;
        let matchers = &policy.request_headers;
        let holds = matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(request));
        holds.then_some(policy)
    }

    /// Takes one of the policy's retries, if one is left and the cluster's limit on them allows it.
    fn may_retry(&mut self, report: &mut Report, timers: &Timers<'_>) -> bool {
        let allowed = self.action.retry.as_ref().map_or(0, |policy| policy.retries);
        if self.retries >= allowed {
            report.flags = report.flags.with(Flags::URX);
            return false;
        }
        if self.cluster.is_hopeless(|| timers.left()) {
            return false;
        }
        self.retrying = None;
        self.retrying = self.cluster.retry_permit(self.action.priority, Instant::now());
        let family = if self.retrying.is_some() { RETRIES } else { RETRIES_REFUSED };
        let labels = Labels::none().with("destination_service", &self.cluster.config().name);
        self.origin.worker.metrics.counter(family, &labels).add(1);
        if self.retrying.is_none() {
            report.flags = report.flags.with(Flags::UO);
            return false;
        }
        self.retries += 1;
        true
    }

    /// How long to wait before the next attempt: as long as the response says, or else longer with every one.
    pub(super) fn pause(&self, response: Option<&ResponseHead>) -> Duration {
        let Some(policy) = &self.action.retry else { return Duration::ZERO };
        let random = self.origin.worker.draw();
        let asked = response.and_then(|response| {
            let reset = policy.reset.as_ref()?;
            retry::reset_after(reset, &response.headers, SystemTime::now(), random)
        });
        asked.unwrap_or_else(|| retry::back_off(policy, self.retries, random))
    }

    /// Tells the client how many attempts it took, where the virtual host wants that.
    pub(super) fn tell_attempts(&self, response: &mut ResponseHead, report: &Report) {
        if self.routed.host.attempt_count_in_response {
            let mut count = itoa::Buffer::new();
            response.headers.set(b"x-envoy-attempt-count", count.format(report.attempts).as_bytes());
        }
    }
}
