//! Outlier detection: an endpoint that fails requests gets none for a while.
//!
//! What is in a row is counted for all workers together, at once: a request that went well costs a look at a number
//! that hardly ever changes. Rates are kept by each worker for itself and added up every tick. Whoever finds an
//! endpoint at fault ejects it under the lock of the cluster's endpoints, so that the share that may be ejected is
//! never passed; that happens once per ejection, not per request.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::host::{Host, Hosts};
use crate::model::outlier::{OutlierDetection, Streak};

/// What an attempt says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the status of a gRPC answer is that of its code.
    Status(u16),
    /// An opaque connection was made.
    Connected,
    /// No connection was made.
    ConnectFailed,
    /// It did not answer in time.
    TimedOut,
    /// It ended the connection or the stream instead of an answer.
    Reset,
}

/// Why an endpoint is ejected; the words are those of Envoy's `OutlierEjectionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 5xx in a row.
    ServerErrors,
    /// 502, 503 and 504 in a row.
    GatewayErrors,
    /// Failures to reach it in a row.
    LocalFailures,
    /// Its answers fare worse than those of the others.
    SuccessRate,
    /// Reaching it fares worse than reaching the others.
    LocalSuccessRate,
    /// Too large a share of failures.
    FailurePercentage,
    /// Too large a share of failures to reach it.
    LocalFailurePercentage,
}

impl Outcome {
    /// Whether the endpoint did what it should.
    #[must_use]
    pub const fn is_well(self) -> bool {
        match self {
            Self::Status(status) => status < 500,
            Self::Connected => true,
            Self::ConnectFailed | Self::TimedOut | Self::Reset => false,
        }
    }
}

impl Cause {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive_5xx",
            Self::GatewayErrors => "consecutive_gateway_failure",
            Self::LocalFailures => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "success_rate_local_origin",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "failure_percentage_local_origin",
        }
    }

    const fn enforced(self, config: &OutlierDetection) -> u32 {
        match self {
            Self::ServerErrors => config.server_errors.enforced,
            Self::GatewayErrors => config.gateway_errors.enforced,
            Self::LocalFailures => config.local_failures.enforced,
            Self::SuccessRate => config.success_rate.enforced,
            Self::LocalSuccessRate => config.success_rate.enforced_local,
            Self::FailurePercentage => config.failure_percentage.enforced,
            Self::LocalFailurePercentage => config.failure_percentage.enforced_local,
        }
    }
}

/// What an outcome counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// A status, of an answer or as good as.
    answer: Option<u16>,
    /// Whether it was reached, where that is counted apart.
    reached: Option<bool>,
}

impl Charge {
    /// As Envoy counts it: failures to reach an endpoint are 503 and 504 unless they are counted apart.
    #[must_use]
    pub const fn new(split: bool, outcome: Outcome) -> Self {
        let (answer, reached) = match (outcome, split) {
            (Outcome::Status(status), false) => (Some(status), None),
            (Outcome::Status(status), true) => (Some(status), Some(true)),
            (Outcome::Connected, false) => (Some(200), None),
            (Outcome::Connected, true) => (None, Some(true)),
            (Outcome::TimedOut, false) => (Some(504), None),
            (Outcome::ConnectFailed | Outcome::Reset, false) => (Some(503), None),
            (Outcome::TimedOut | Outcome::ConnectFailed | Outcome::Reset, true) => (None, Some(false)),
        };
        Self { answer, reached }
    }
}

/// How an endpoint has behaved, as all workers know it.
#[derive(Debug, Default)]
pub struct Conduct {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    answers: Tally,
    reached: Tally,
    ejection: Mutex<Ejection>,
}

/// How many there were in an interval, and how many of them were good.
#[derive(Debug, Default)]
struct Tally {
    total: AtomicU32,
    good: AtomicU32,
}

#[derive(Debug, Default)]
struct Ejection {
    /// How often it was ejected lately; each interval without an ejection takes one off.
    times: u32,
    since: Option<Instant>,
    jitter: Duration,
}

/// What one worker has still to add to the rates.
#[derive(Debug, Default)]
pub struct OwnTally {
    answers: (Cell<u32>, Cell<u32>),
    reached: (Cell<u32>, Cell<u32>),
}

impl OwnTally {
    /// Counts one.
    pub fn count(&self, charge: Charge) {
        let add = |(total, good): &(Cell<u32>, Cell<u32>), well: bool| {
            total.set(total.get().saturating_add(1));
            good.set(good.get().saturating_add(u32::from(well)));
        };
        if let Some(status) = charge.answer {
            add(&self.answers, status < 500);
        }
        if let Some(well) = charge.reached {
            add(&self.reached, well);
        }
    }

    /// Adds what was counted to what all workers know.
    pub fn flush(&self, conduct: &Conduct) {
        for ((total, good), tally) in [(&self.answers, &conduct.answers), (&self.reached, &conduct.reached)] {
            if total.get() > 0 {
                tally.total.fetch_add(total.take(), Ordering::Relaxed);
                tally.good.fetch_add(good.take(), Ordering::Relaxed);
            }
        }
    }
}

impl Conduct {
    /// Takes note of an outcome; says what it was the last straw for.
    #[must_use]
    pub fn charge(&self, config: &OutlierDetection, charge: Charge) -> [Option<Cause>; 2] {
        let mut causes = [None; 2];
        match charge.answer {
            Some(500..) => {
                let gateway = matches!(charge.answer, Some(502..=504));
                causes = [
                    streak(&self.gateway_errors, config.gateway_errors, gateway, Cause::GatewayErrors),
                    streak(&self.server_errors, config.server_errors, true, Cause::ServerErrors),
                ];
            }
            Some(_) => {
                end_streak(&self.server_errors);
                end_streak(&self.gateway_errors);
            }
            None => {}
        }
        match charge.reached {
            Some(true) => end_streak(&self.local_failures),
            Some(false) => {
                let cause = Cause::LocalFailures;
                causes = [streak(&self.local_failures, config.local_failures, true, cause), None];
            }
            None => {}
        }
        causes
    }

    /// Begins with a clean record.
    fn forgive(&self) {
        for count in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
            end_streak(count);
        }
    }
}

/// One more of a streak, or its end; the cause when that makes too many. It begins anew then.
fn streak(count: &AtomicU32, streak: Streak, goes_on: bool, cause: Cause) -> Option<Cause> {
    if !goes_on {
        end_streak(count);
        return None;
    }
    let counted = count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    // A count outlives its configuration, so it may be beyond a limit that was lowered. Of those who count at the same
    // time only the last one can begin anew.
    let met = counted >= streak.limit
        && count.compare_exchange(counted, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    met.then_some(cause)
}

/// Without a write where there is nothing to end, so that workers do not take the line from each other.
fn end_streak(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// What a look at all endpoints changed for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub address: SocketAddr,
    /// Why it was ejected; `None` when it came back.
    pub ejected: Option<Cause>,
}

impl Hosts {
    /// Ejects an endpoint, if chance wants it enforced and not too many are ejected; whether it did.
    pub fn eject(
        &self,
        host: &Host,
        (config, cause): (&OutlierDetection, Cause),
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> bool {
        let draws = (random.u32(0..100), random.f64());
        self.locked(|all| self.eject_of(all, host, (config, cause), (now, draws)))
    }

    fn eject_of(
        &self,
        all: &[(SocketAddr, Arc<Host>)],
        host: &Host,
        (config, cause): (&OutlierDetection, Cause),
        (now, (draw, jitter)): (Instant, (u32, f64)),
    ) -> bool {
        if draw >= cause.enforced(config) || host.is_ejected() {
            return false;
        }
        let ejected = all.iter().filter(|(_, host)| host.is_ejected()).count();
        let allowed = (ejected + 1) * 100 <= all.len() * config.max_percent as usize
            || (config.always_one && ejected == 0);
        if !allowed {
            return false;
        }
        {
            let mut ejection = host.conduct.ejection.lock().unwrap_or_else(PoisonError::into_inner);
            if config.base_time.saturating_mul(ejection.times) < config.max_time {
                ejection.times += 1;
            }
            ejection.since = Some(now);
            ejection.jitter = config.jitter.mul_f64(jitter);
        }
        self.set_ejected(host, true)
    }

    /// Takes an endpoint back before its time.
    pub fn pardon(&self, host: &Host) -> bool {
        host.conduct.forgive();
        self.set_ejected(host, false)
    }

    /// Takes all back: nobody looks after them any more.
    pub fn pardon_all(&self) {
        self.locked(|all| all.iter().for_each(|(_, host)| _ = self.pardon(host)));
    }

    /// The look of every interval: who has served its time comes back, whose rate is too low goes.
    pub fn review(
        &self,
        config: &OutlierDetection,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        self.locked(|all| {
            for (address, host) in all {
                if self.release(host, config, now) {
                    verdicts.push(Verdict { address: *address, ejected: None });
                }
            }
            for local in [false, true] {
                for (address, host, cause) in at_fault(all, config, local) {
                    let draws = (random.u32(0..100), random.f64());
                    if self.eject_of(all, host, (config, cause), (now, draws)) {
                        verdicts.push(Verdict { address, ejected: Some(cause) });
                    }
                }
            }
        });
        verdicts
    }

    fn release(&self, host: &Host, config: &OutlierDetection, now: Instant) -> bool {
        let mut ejection = host.conduct.ejection.lock().unwrap_or_else(PoisonError::into_inner);
        if !host.is_ejected() {
            ejection.times = ejection.times.saturating_sub(1);
            return false;
        }
        let lasts = config.base_time.saturating_mul(ejection.times).min(config.max_time) + ejection.jitter;
        let served = ejection.since.is_none_or(|since| now.saturating_duration_since(since) >= lasts);
        drop(ejection);
        served && self.pardon(host)
    }
}

/// Those whose rates of the interval that ends now are too low.
fn at_fault<'a>(
    all: &'a [(SocketAddr, Arc<Host>)],
    config: &OutlierDetection,
    local: bool,
) -> Vec<(SocketAddr, &'a Host, Cause)> {
    let counted: Vec<(SocketAddr, &Host, u32, f64)> = all
        .iter()
        .filter_map(|(address, host)| {
            let tally = if local { &host.conduct.reached } else { &host.conduct.answers };
            let total = tally.total.swap(0, Ordering::Relaxed);
            let good = tally.good.swap(0, Ordering::Relaxed);
            (total > 0).then(|| (*address, &**host, total, 100.0 * f64::from(good) / f64::from(total)))
        })
        .collect();
    let with_volume = |volume: u32, minimum: u32| {
        let enough = counted.iter().filter(move |(_, _, total, _)| *total >= volume);
        let enough: Vec<_> = enough.copied().collect();
        if enough.len() >= minimum as usize { enough } else { Vec::new() }
    };
    let mut found = Vec::new();
    let rates = with_volume(config.success_rate.volume, config.success_rate.minimum_hosts);
    let least = lower_bound(rates.iter().map(|(_, _, _, rate)| *rate), config.success_rate.deviations);
    let cause = if local { Cause::LocalSuccessRate } else { Cause::SuccessRate };
    let below = rates.iter().filter(|(_, _, _, rate)| *rate < least);
    found.extend(below.map(|(address, host, ..)| (*address, *host, cause)));
    let bound = &config.failure_percentage;
    let rates = with_volume(bound.volume, bound.minimum_hosts);
    let cause = if local { Cause::LocalFailurePercentage } else { Cause::FailurePercentage };
    let too_many = rates.iter().filter(|(_, _, _, rate)| 100.0 - rate >= f64::from(bound.threshold));
    found.extend(too_many.map(|(address, host, ..)| (*address, *host, cause)));
    found
}

/// So many standard deviations below the mean.
fn lower_bound(rates: impl ExactSizeIterator<Item = f64> + Clone, deviations: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "endpoints are not that many")]
    let count = rates.len().max(1) as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - deviations * variance.sqrt()
}

#[cfg(test)]
mod tests;
